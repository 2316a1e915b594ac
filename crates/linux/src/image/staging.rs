//! Private directories for work that is not done yet. Nothing in one is visible as an image; a crash leaves one behind, and `sweep` removes
//! it once the process that held it is gone.

use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};
use yun_drivers::{DriverError, Result};

/// The file in each staging directory that its process keeps locked while it lives.
const LOCK: &str = ".lock";

/// A staging directory, removed with all that is in it when the last owner lets go of it.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Staging {
    /// Makes a new one under `parent`.
    pub(super) fn create(parent: &Path) -> Result<Self> {
        let path = parent.join(hex::encode(rand::random::<[u8; 12]>()));
        let made = || -> io::Result<Flock<File>> {
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            let file = File::create(path.join(LOCK))?;
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e.into())
        };
        match made() {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(e) => {
                let _ = fs::remove_dir_all(&path);
                Err(DriverError::io(format!("make the staging directory {}", path.display()), e))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Programs that were just ended may still be writing their last.
        let removed = (0..20).map(|_| fs::remove_dir_all(&self.path)).find(|removed| {
            let done = removed.is_ok();
            if !done {
                std::thread::sleep(Duration::from_millis(10));
            }
            done
        });
        if removed.is_none() {
            tracing::warn!(path = %self.path.display(), "cannot remove a staging directory now; the next start removes it");
        }
    }
}

/// Removes the staging directories whose process is gone.
pub(super) fn sweep(parent: &Path) -> Result<()> {
    let listed = fs::read_dir(parent).map_err(|e| DriverError::io(format!("list {}", parent.display()), e))?;
    for entry in listed.flatten() {
        let path = entry.path();
        if is_held(&path) {
            continue;
        }
        tracing::info!(path = %path.display(), "removing what an interrupted image operation left behind");
        let removed = if entry.file_type().is_ok_and(|t| t.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        if let Err(e) = removed {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove it");
        }
    }
    Ok(())
}

/// True while a living process works in it.
fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path.join(LOCK)) else { return false };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_) => false,
        Err((_, e)) => e == nix::errno::Errno::EWOULDBLOCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let living = Staging::create(parent.path()).unwrap();
        let dead = parent.path().join("dead");
        fs::create_dir_all(dead.join("layer/etc")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        fs::write(parent.path().join("stray"), "x").unwrap();
        sweep(parent.path()).unwrap();
        assert!(living.path().exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        drop(living);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
