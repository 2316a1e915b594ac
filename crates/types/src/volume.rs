//! Volumes: named space for data that outlives the instances that use it.
//!
//! Words: a *directory* volume is a directory that several containers may share; a *block* volume is a disk that one VM has at a time. An
//! *anonymous* volume has no name and lives exactly as long as its instance.

use crate::{Bytes, Generation, Invalid, Metadata, Name, NodeId, string_serde};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The two kinds of volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// A directory, for containers; several may have it at once.
    #[default]
    Directory,
    /// A disk, for VMs; one has it at a time.
    Block,
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Directory => "directory",
            Self::Block => "block",
        })
    }
}

/// The most that may be read and written in a second. What is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeLimits {
    /// Reads and writes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bps: Option<Bytes>,
}

impl VolumeLimits {
    /// True if nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wanted of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Directory or block; fixed at creation.
    #[serde(default)]
    pub kind: VolumeKind,
    /// How much it may hold; 1Gi if absent. Space is taken as it is written (thin), and counts in full against the quota.
    #[serde(default = "VolumeSpec::usual_size")]
    pub size: Bytes,
    /// How fast a block volume may be.
    #[serde(default, skip_serializing_if = "VolumeLimits::is_none")]
    pub limits: VolumeLimits,
    /// The node that keeps it; the one with the most room if absent. Fixed at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
}

impl VolumeSpec {
    /// What a volume may hold if nobody says.
    pub fn usual_size() -> Bytes {
        Bytes::gib(1)
    }
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self { kind: VolumeKind::default(), size: Self::usual_size(), limits: VolumeLimits::default(), node: None }
    }
}

/// Where a volume is in its life: `creating → ready → deleting → (gone)`, or `failed` with a reason, which is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// Its node has not made it yet.
    #[default]
    Creating,
    /// It can be used.
    Ready,
    /// It could not be made or changed; `message` says why. It is tried again.
    Failed,
    /// Its data is being removed.
    Deleting,
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        })
    }
}

/// An instance that has a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeUser {
    /// Its name.
    pub instance: Name,
    /// Its id.
    pub id: Uuid,
    /// Containers: where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it may only read.
    #[serde(default)]
    pub read_only: bool,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct VolumeStatus {
    /// The generation of `spec` that the node has caught up with.
    #[serde(default)]
    pub observed_generation: Generation,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Why, as one word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, or what should be known of it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node that keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// That node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Name>,
    /// How much of the host's disk it took when its node last looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bytes>,
    /// Whether the host keeps it to its size. A directory on a file system without project quotas is not kept to it.
    #[serde(default)]
    pub enforced: bool,
    /// Who has it. Filled in when it is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<VolumeUser>,
}

/// A volume of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    #[serde(default)]
    pub spec: VolumeSpec,
    /// Observed.
    #[serde(default)]
    pub status: VolumeStatus,
}

/// A volume that an instance has.
///
/// As text: `NAME:TARGET[:ro]` for containers, `NAME[:ro]` for VMs, and `TARGET` alone for an anonymous one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume's name in the project; absent for an anonymous one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Name>,
    /// Containers: the path inside. VMs find the disk as `/dev/disk/by-id/virtio-NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// An empty volume is usually filled with what the image has at the path; this leaves it empty.
    #[serde(default)]
    pub no_copy: bool,
}

impl FromStr for VolumeMount {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| {
            Invalid(format!(
                "volume {text:?} {why}: write NAME:TARGET or NAME:TARGET:ro for a container, as in data:/var/lib/data, or NAME for a VM"
            ))
        };
        let mut mount = Self::default();
        let mut parts = text.split(':').peekable();
        match parts.next() {
            None | Some("") => return Err(bad("names no volume")),
            Some(path) if path.starts_with('/') => mount.target = Some(path.to_owned()),
            Some(name) => {
                mount.volume = Some(name.parse().map_err(|e: Invalid| bad(&format!("has a bad name ({e})")))?)
            }
        }
        if let Some(path) = parts.next_if(|part| part.starts_with('/')) {
            if mount.target.is_some() {
                return Err(bad("has two paths (a directory of the host is given with --mount)"));
            }
            mount.target = Some(path.to_owned());
        }
        for option in parts.flat_map(|part| part.split(',')) {
            match option {
                "ro" => mount.read_only = true,
                "rw" => mount.read_only = false,
                "nocopy" => mount.no_copy = true,
                other => return Err(bad(&format!("has the unknown option {other:?} (ro, rw and nocopy are known)"))),
            }
        }
        Ok(mount)
    }
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.volume.as_ref().map(Name::as_str), self.target.as_deref(), self.read_only.then_some("ro")];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        f.pad(&parts.join(":"))
    }
}

/// A rate on a network, in bits a second. Reads `10M`, `1.5G`, `64K`; `10Mbit` is the same as `10M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BitRate(u64);

impl BitRate {
    /// The least that can be shaped.
    pub const MIN: u64 = 8_000;

    /// Bits in a second.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for BitRate {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| {
            Invalid(format!("rate {text:?} {why}: write bits in a second with K, M or G, as in 10M or 1.5G"))
        };
        let lower = text.trim().to_ascii_lowercase();
        let number =
            lower.trim_end_matches("bit/s").trim_end_matches("bits").trim_end_matches("bit").trim_end_matches("bps");
        let bits = number.parse::<Bytes>().map_err(|_| bad("is not a rate"))?.0;
        match bits {
            ..Self::MIN => Err(bad("is too slow to be useful (8K is the least)")),
            1_000_000_000_001.. => Err(bad("is more than any network has (1000G is the most)")),
            bits => Ok(Self(bits)),
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            [("G", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)].into_iter().find(|(_, n)| self.0.is_multiple_of(*n));
        match unit {
            Some((unit, n)) => f.pad(&format!("{}{unit}", self.0 / n)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

string_serde!(BitRate, "BitRate", "Bits in a second, as in 10M or 1.5G.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_people_write_them() {
        for (text, volume, target, read_only) in [
            ("data:/var/lib/data", Some("data"), Some("/var/lib/data"), false),
            ("data:/var/lib/data:ro", Some("data"), Some("/var/lib/data"), true),
            ("data", Some("data"), None, false),
            ("data:ro", Some("data"), None, true),
            ("/cache", None, Some("/cache"), false),
        ] {
            let mount: VolumeMount = text.parse().unwrap();
            assert_eq!(
                (mount.volume.as_ref().map(Name::as_str), mount.target.as_deref(), mount.read_only),
                (volume, target, read_only),
                "{text}"
            );
            assert_eq!(mount.to_string(), text);
        }
        assert!("d:/x:ro,nocopy".parse::<VolumeMount>().unwrap().no_copy);
    }

    #[test]
    fn bad_mounts_say_what_is_right() {
        for (text, why) in [
            ("", "names no volume"),
            (":/x", "names no volume"),
            ("Data:/x", "use lower case"),
            ("/a:/b", "--mount"),
            ("data:/x:rx", "unknown option \"rx\""),
            ("data:x", "unknown option"),
        ] {
            let error = text.parse::<VolumeMount>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("data:/var/lib/data"), "{text}: {error}");
        }
    }

    #[test]
    fn rates_are_read_and_printed() {
        for (text, bits, shown) in [
            ("10M", 10_000_000, "10M"),
            ("10Mbit", 10_000_000, "10M"),
            ("1.5G", 1_500_000_000, "1500M"),
            ("64k", 64_000, "64K"),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.bits(), rate.to_string().as_str()), (bits, shown));
        }
        for bad in ["", "fast", "-1M", "7K", "2000G", "10X"] {
            assert!(bad.parse::<BitRate>().unwrap_err().to_string().contains("as in 10M"), "{bad}");
        }
    }

    #[test]
    fn a_volume_needs_no_more_than_a_name() {
        let spec: VolumeSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(spec, VolumeSpec::default());
        assert!(serde_json::from_str::<VolumeSpec>(r#"{"sise":"1G"}"#).is_err());
    }
}
