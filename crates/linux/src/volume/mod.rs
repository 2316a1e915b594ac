//! Volumes on this host: a directory each, with the data in it and nothing else that counts.
//!
//! ```text
//! volumes/ID/  data/      a directory volume
//!              disk.raw   a block volume: a file with holes, so space is taken as it is written
//!              filling    an image's content is being copied into `data`; after a crash it is copied again
//! ```
//! Never looks into the data, and removes a volume only when it is told to by its id.

pub(crate) mod fill;

use crate::host::Host;
use async_trait::async_trait;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, LocalVolume, Result, VolumeDriver};
use yun_types::{Bytes, DesiredVolume, VolumeId, VolumeKind};

/// How many entries of a directory are counted at most: whoever wants to know exactly asks `du`.
const COUNTED: usize = 20_000;

/// Keeps volumes on this host.
#[derive(Debug)]
pub struct LinuxVolumes {
    host: Host,
    /// One change at a time: they take milliseconds.
    turn: tokio::sync::Mutex<()>,
}

impl LinuxVolumes {
    /// Keeps volumes under the host's state. Touches nothing yet.
    pub fn new(host: Host) -> Self {
        Self { host, turn: tokio::sync::Mutex::new(()) }
    }

    fn place(&self, id: VolumeId) -> PathBuf {
        self.host.volumes().join(id.to_string())
    }
}

#[async_trait]
impl VolumeDriver for LinuxVolumes {
    async fn ensure(&self, volume: &DesiredVolume) -> Result<LocalVolume> {
        let _turn = self.turn.lock().await;
        let (place, volume) = (self.place(volume.id), volume.clone());
        let failed = format!("make volume {}", volume.name);
        blocking(failed, move || ensure(&place, &volume)).await
    }

    async fn remove(&self, volume: VolumeId) -> Result<()> {
        let _turn = self.turn.lock().await;
        let place = self.place(volume);
        blocking(format!("remove volume {volume}"), move || match fs::remove_dir_all(&place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    operation: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    done.map_err(|e| DriverError::io(operation, e))
}

fn ensure(place: &Path, volume: &DesiredVolume) -> io::Result<LocalVolume> {
    // Only root looks in here: what is inside belongs to users of whom this host knows nothing.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let (path, used, message) = match volume.kind {
        VolumeKind::Directory => {
            let path = place.join("data");
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path)?;
            let used = count(&path);
            let message = "its directory is not kept to its size: the file system has no quota for it".to_owned();
            (path, used, Some(message))
        }
        VolumeKind::Block => {
            let path = place.join("disk.raw");
            let file = fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            // A disk has whole sectors; it only ever grows.
            let size = volume.size.0.div_ceil(4096) * 4096;
            if file.metadata()?.len() < size {
                file.set_len(size)?;
                file.sync_all()?;
            }
            (path, Bytes(file.metadata()?.blocks() * 512), None)
        }
    };
    Ok(LocalVolume { id: volume.id, path, used, enforced: volume.kind == VolumeKind::Block, message })
}

/// What the files below take on the disk.
fn count(directory: &Path) -> Bytes {
    let (mut total, mut left, mut open) = (0, COUNTED, vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.blocks() * 512;
            if metadata.is_dir() && left > 0 {
                open.push(entry.path());
            }
        }
    }
    Bytes(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::{Generation, VolumeLimits};

    fn volume(kind: VolumeKind, size: Bytes) -> DesiredVolume {
        DesiredVolume {
            id: VolumeId(uuid::Uuid::from_u128(5)),
            name: "data".parse().unwrap(),
            project: "default".parse().unwrap(),
            generation: Generation(1),
            kind,
            size,
            limits: VolumeLimits::default(),
            deleting: false,
        }
    }

    #[tokio::test]
    async fn a_disk_is_thin_only_grows_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let driver = LinuxVolumes::new(Host::open(root.path()).unwrap());
        let small = driver.ensure(&volume(VolumeKind::Block, Bytes::gib(1))).await.unwrap();
        assert_eq!(fs::metadata(&small.path).unwrap().len(), 1 << 30);
        assert!(small.used < Bytes::mib(1) && small.enforced, "{small:?}");
        fs::write(small.path.with_file_name("note"), "x").unwrap();
        driver.ensure(&volume(VolumeKind::Block, Bytes::gib(2))).await.unwrap();
        driver.ensure(&volume(VolumeKind::Block, Bytes::gib(1))).await.unwrap();
        assert_eq!(fs::metadata(&small.path).unwrap().len(), 2 << 30, "a late order does not cut it");
        for _ in 0..2 {
            driver.remove(small.id).await.unwrap();
        }
        assert!(!small.path.exists());
    }

    #[tokio::test]
    async fn a_directory_keeps_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let driver = LinuxVolumes::new(Host::open(root.path()).unwrap());
        let data = driver.ensure(&volume(VolumeKind::Directory, Bytes::gib(1))).await.unwrap();
        fs::write(data.path.join("file"), [7; 5000]).unwrap();
        let again = driver.ensure(&volume(VolumeKind::Directory, Bytes::gib(1))).await.unwrap();
        assert!(again.used.0 >= 5000 && !again.enforced && again.message.is_some());
        assert_eq!(fs::read(data.path.join("file")).unwrap().len(), 5000);
    }
}
