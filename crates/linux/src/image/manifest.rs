//! The manifest of an image: what it consists of. Its canonical bytes name the image: their SHA-256 is the image's digest.
//!
//! Everything here follows from the content alone (no names, no times), so that the same content has the same digest on every node.

use super::fault;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use yun_drivers::Result;
use yun_types::{Arch, Bytes, ContainerConfig, Digest, ImageFacts, InstanceKind, VmBoot};

/// The version of the form below; a reader refuses what it does not know.
const SCHEMA: u32 = 1;

/// A file of the image, kept under its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    /// The hash of the layer's tar before compression, as OCI has it.
    pub(super) diff_id: Digest,
    /// The hash of its file list (see `tree`), so that it can be checked without the tar.
    pub(super) tree: Digest,
    /// The sum of its files' sizes.
    pub(super) size: u64,
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    schema: u32,
    pub(super) kind: InstanceKind,
    pub(super) arch: Arch,
    /// Lowest first.
    pub(super) layers: Vec<Layer>,
    pub(super) disk: Option<Blob>,
    pub(super) kernel: Option<Blob>,
    pub(super) initrd: Option<Blob>,
    pub(super) min_disk: Bytes,
    pub(super) config: Option<ContainerConfig>,
    pub(super) boot: Option<VmBoot>,
    pub(super) description: Option<String>,
}

impl Manifest {
    /// A container image.
    pub(super) fn container(layers: Vec<Layer>, config: ContainerConfig, description: Option<String>) -> Self {
        let (kind, arch) = (InstanceKind::Container, Arch::host());
        let (disk, kernel, initrd, boot) = (None, None, None, None);
        Self {
            schema: SCHEMA,
            kind,
            arch,
            layers,
            disk,
            kernel,
            initrd,
            min_disk: Bytes(0),
            config: Some(config),
            boot,
            description,
        }
    }

    /// A VM image without its parts.
    pub(super) fn vm(boot: VmBoot, min_disk: Bytes, description: Option<String>) -> Self {
        let (kind, arch) = (InstanceKind::Vm, Arch::host());
        let (disk, kernel, initrd) = (None, None, None);
        Self {
            schema: SCHEMA,
            kind,
            arch,
            layers: vec![],
            disk,
            kernel,
            initrd,
            min_disk,
            config: None,
            boot: Some(boot),
            description,
        }
    }

    /// The bytes whose hash is the image's digest.
    pub(super) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys and finite numbers only, so it is always JSON")
    }

    /// Reads a manifest and checks it against the digest that names it.
    pub(super) fn parse(bytes: &[u8], digest: &Digest) -> Result<Self> {
        let actual = digest_of(bytes);
        if actual != *digest {
            return Err(fault::damaged(format!(
                "the manifest of image {} is damaged: its content has {actual}; remove the image and import it again",
                digest.short()
            )));
        }
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|e| fault::damaged(format!("the manifest of image {} cannot be read: {e}", digest.short())))?;
        if manifest.schema != SCHEMA {
            let newer = format!(
                "the manifest of image {} has form {}, this program knows {SCHEMA}; upgrade yun",
                digest.short(),
                manifest.schema
            );
            return Err(fault::damaged(newer));
        }
        Ok(manifest)
    }

    /// The files of the image.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.disk, &self.kernel, &self.initrd].into_iter().flatten()
    }

    /// What the cloud is told.
    pub(super) fn facts(&self, digest: Digest) -> ImageFacts {
        let size = self.layers.iter().map(|l| l.size).chain(self.blobs().map(|b| b.size)).map(Bytes).sum();
        ImageFacts {
            digest,
            kind: self.kind,
            arch: self.arch,
            size,
            min_disk: self.min_disk,
            config: self.config.clone(),
            boot: self.boot.clone(),
            description: self.description.clone(),
        }
    }
}

/// The SHA-256 of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_has_the_same_digest_for_ever() {
        let layer = Layer { diff_id: digest_of(b"tar"), tree: digest_of(b"tree"), size: 7 };
        let manifest = Manifest::container(vec![layer], ContainerConfig::default(), None);
        let bytes = manifest.canonical();
        // Changing this text renames every image of every node: add a new schema instead.
        expect_test::expect!["sha256:1bbfa7a4d8e21de398e24b5b90e52bdb99ab6aef71eacbef08df0c826a1bcd2d"]
            .assert_eq(&digest_of(&bytes).to_string());
        assert_eq!(Manifest::parse(&bytes, &digest_of(&bytes)).unwrap(), manifest);
    }

    #[test]
    fn a_changed_manifest_is_damaged() {
        let bytes = Manifest::vm(VmBoot::Disk, Bytes::gib(1), None).canonical();
        let digest = digest_of(&bytes);
        let mut flipped = bytes.clone();
        flipped[10] ^= 1;
        assert_eq!(Manifest::parse(&flipped, &digest).unwrap_err().reason, "ImageDamaged");
    }
}
