//! Volumes on a node, and what is plugged into an instance beside its own disk and its first interface.

use crate::{Attachment, Result};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use yun_types::{Bytes, DesiredMount, DesiredVolume, Name, VolumeId, VolumeKind, VolumeLimits};

/// A volume that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalVolume {
    /// Which.
    pub id: VolumeId,
    /// The directory, or the file that is the disk.
    pub path: PathBuf,
    /// How much of the host's disk it takes.
    pub used: Bytes,
    /// Whether the host keeps it to its size.
    pub enforced: bool,
    /// What should be known of it, for people.
    pub message: Option<String>,
}

/// Keeps volumes on a node.
#[async_trait]
pub trait VolumeDriver: Send + Sync + 'static {
    /// Makes the volume, or makes it as large as it should be. Never touches what is in it. Idempotent.
    async fn ensure(&self, volume: &DesiredVolume) -> Result<LocalVolume>;
    /// Removes the volume with everything in it. Ok when nothing is there.
    async fn remove(&self, volume: VolumeId) -> Result<()>;
}

/// A volume as it is plugged into an instance. Serialisable: drivers write down what they plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FittedVolume {
    /// Which.
    pub id: VolumeId,
    /// Its name: VMs find the disk by it.
    pub name: Name,
    /// Directory or disk.
    pub kind: VolumeKind,
    /// Where it is on this node.
    pub path: PathBuf,
    /// How large it is.
    pub size: Bytes,
    /// How fast it may be.
    pub limits: VolumeLimits,
    /// Containers: the path inside.
    pub target: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether an empty one stays empty.
    pub no_copy: bool,
}

impl FittedVolume {
    /// From what is wanted and what is here.
    pub fn new(mount: &DesiredMount, local: &LocalVolume) -> Self {
        let volume = &mount.volume;
        Self {
            id: volume.id,
            name: volume.name.clone(),
            kind: volume.kind,
            path: local.path.clone(),
            size: volume.size,
            limits: volume.limits,
            target: mount.target.clone(),
            read_only: mount.read_only,
            no_copy: mount.no_copy,
        }
    }
}

/// Everything that is plugged into an instance beside its own disk and its first interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fittings {
    /// Its volumes.
    pub volumes: Vec<FittedVolume>,
    /// Its interfaces after the first. Those of containers are in their namespace already.
    pub interfaces: Vec<Attachment>,
}
