//! Volumes in memory.

use super::{Call, World};
use crate::{DriverError, ErrorKind, LocalVolume, Result, VolumeDriver};
use async_trait::async_trait;
use std::path::PathBuf;
use yun_types::{Bytes, DesiredVolume, VolumeId};

/// The volumes of a host.
#[derive(Debug, Clone)]
pub struct FakeVolumes {
    world: World,
}

impl FakeVolumes {
    /// The driver of a host.
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

#[async_trait]
impl VolumeDriver for FakeVolumes {
    async fn ensure(&self, volume: &DesiredVolume) -> Result<LocalVolume> {
        self.world.enter(Call::VolumeEnsure, None).await?;
        self.world.change(|state| match state.volumes.get(&volume.id) {
            Some(before) if *before > volume.size => {
                let message = format!("cannot make volume {} smaller: data could be cut off", volume.name);
                Err(DriverError::new(ErrorKind::BadRequest, "VolumeShrink", message))
            }
            _ => {
                state.volumes.insert(volume.id, volume.size);
                Ok(())
            }
        })?;
        self.world.leave(Call::VolumeEnsure, None).await?;
        let path = PathBuf::from("/fake/volumes").join(volume.id.to_string());
        Ok(LocalVolume { id: volume.id, path, used: Bytes(0), enforced: true, message: None })
    }

    async fn remove(&self, volume: VolumeId) -> Result<()> {
        self.world.enter(Call::VolumeRemove, None).await?;
        self.world.change(|state| state.volumes.remove(&volume));
        self.world.leave(Call::VolumeRemove, None).await
    }
}
