//! Images: what instances start from. The catalogue entry has a name; the content has a digest and is kept once, whatever its names.

use crate::{Bytes, Digest, InstanceKind, Metadata, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The forms that `import` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// A QEMU copy-on-write disk.
    Qcow2,
    /// A plain disk.
    Raw,
    /// A tar of a root file system, plain or compressed (gzip, zstd).
    Rootfs,
    /// A tar of an OCI image layout.
    OciLayout,
    /// What `docker save` writes.
    DockerArchive,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Rootfs => "rootfs",
            Self::OciLayout => "oci-layout",
            Self::DockerArchive => "docker-archive",
        })
    }
}

/// The forms that `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// Containers: a tar of an OCI image layout, which `docker load` reads, too.
    OciArchive,
    /// Containers: the same archive, under the name that Docker's users know.
    DockerArchive,
    /// VMs: a QEMU copy-on-write disk.
    Qcow2,
    /// VMs: a plain disk.
    Raw,
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}

/// Processor architectures, as OCI names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Arch {
    /// The architecture this program was built for.
    pub const fn host() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else if cfg!(target_arch = "riscv64") {
            Self::Riscv64
        } else {
            Self::Amd64
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
        })
    }
}

/// What a container image says about its process (the OCI image config, the part that is used).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ContainerConfig {
    /// The program and its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The arguments after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `NAME=value` lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `user[:group]`, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The signal that asks it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Free words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How a VM image boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "boot", rename_all = "lowercase")]
pub enum VmBoot {
    /// Its disk has a boot loader.
    Disk,
    /// QEMU loads the kernel itself: faster, and the disk may be empty.
    Kernel {
        /// The kernel's command line.
        cmdline: String,
    },
}

/// What the node found when it took an image in. Everything follows from the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFacts {
    /// Names the content: the hash of the image's manifest, which names its blobs by their hashes.
    pub digest: Digest,
    /// For VMs or for containers.
    pub kind: InstanceKind,
    /// The processor it was made for.
    pub arch: Arch,
    /// What it takes on disk, shared layers included.
    pub size: Bytes,
    /// The least disk an instance needs (the virtual size of a VM's disk).
    pub min_disk: Bytes,
    /// Containers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ContainerConfig>,
    /// VMs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<VmBoot>,
    /// What it says of itself: `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Where an image came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// A recipe, a file name or a URL, for people.
    pub source: String,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageStatus {
    /// What the content says.
    pub facts: ImageFacts,
    /// When it was last checked against its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
}

/// A catalogue entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Identity and history.
    pub metadata: Metadata,
    /// Where it came from.
    pub spec: ImageSpec,
    /// What it is.
    pub status: ImageStatus,
}

/// A way to make an image from Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRecipe {
    /// What to make.
    pub base: RecipeBase,
    /// More Debian packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The Debian release; that of the node if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Containers: the entrypoint to record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Containers: the command to record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// The things that recipes make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecipeBase {
    /// A VM that is busybox, dropbear and a kernel: boots in seconds even when emulated.
    SmallVm,
    /// A Debian VM with systemd and OpenSSH.
    DebianVm,
    /// A container of busybox alone.
    Busybox,
    /// A container with Debian's essential packages.
    Debian,
}

impl fmt::Display for RecipeBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SmallVm => "small-vm",
            Self::DebianVm => "debian-vm",
            Self::Busybox => "busybox",
            Self::Debian => "debian",
        })
    }
}
