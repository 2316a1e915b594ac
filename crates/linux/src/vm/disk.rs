//! The VM's own disk: a qcow2 layer over the image's, made once and never replaced. It grows, it never shrinks.

use super::{engine::qemu_img, files::Files};
use std::{
    collections::HashSet,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{Bytes, Name};

/// Images whose structure was checked while this process lives, by what would change with their content.
#[derive(Debug, Default)]
pub(super) struct CheckedImages {
    seen: Mutex<HashSet<(PathBuf, u64, i64)>>,
}

impl CheckedImages {
    /// Checks that an image is whole. Without this a truncated one would show only as read errors inside the guest.
    pub(super) async fn check(&self, image: &Path, what: &str) -> Result<()> {
        let facts = std::fs::metadata(image).map_err(|e| unreadable(what, image, e))?;
        let key = (image.to_owned(), facts.len(), facts.mtime());
        if self.lock().contains(&key) {
            return Ok(());
        }
        virtual_size(image, what)?;
        let path = image.display().to_string();
        match qemu_img(&["check", "-q", "-U", "-f", "qcow2", &path]).await {
            Ok(_) => {}
            // Leaked clusters cost room and harm nobody.
            Err(e) if e.reason == "ProgramFailed" && e.message.contains("(exit status: 3)") => {}
            Err(e) if e.reason == "ProgramFailed" => return Err(damaged(what, image, &e.message)),
            Err(e) => return Err(e),
        }
        self.lock().insert(key);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(PathBuf, u64, i64)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(what: &str, path: &Path, why: &str) -> DriverError {
    let message = format!("{what} is damaged: {} {why}; import it again", path.display());
    DriverError::new(ErrorKind::Damaged, "ImageDamaged", message)
}

fn unreadable(what: &str, path: &Path, error: io::Error) -> DriverError {
    if error.kind() == io::ErrorKind::NotFound {
        return damaged(what, path, "is missing").with(error);
    }
    DriverError::io(format!("read {what} at {}", path.display()), error)
}

/// What a guest sees as the size of a qcow2 disk, from the file's first bytes (docs/interop/qcow2 in QEMU's sources).
pub(super) fn virtual_size(path: &Path, what: &str) -> Result<Bytes> {
    let mut header = [0; 32];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged(what, path, "is cut short")),
        Err(e) => return Err(unreadable(what, path, e)),
    }
    if !header.starts_with(b"QFI\xfb") {
        return Err(damaged(what, path, "is no qcow2 disk"));
    }
    let size: [u8; 8] = header[24..32].try_into().unwrap_or_default();
    Ok(Bytes(u64::from_be_bytes(size)))
}

/// The size that a disk gets: what was asked for, at least what the image needs, in whole MiB as QEMU wants whole sectors.
fn size_for(asked: Bytes, image: Option<Bytes>) -> u64 {
    let least = image.unwrap_or_default();
    Bytes(asked.0.max(least.0)).ceil_mib() << 20
}

/// Makes the disk if it is not there. Returns the size that it should have.
pub(super) async fn ensure(files: &Files, name: &Name, base: Option<&Path>, asked: Bytes) -> Result<Bytes> {
    let image = base.map(|base| virtual_size(base, &format!("the image of VM {name}"))).transpose()?;
    let size = size_for(asked, image);
    let disk = files.disk();
    if disk.exists() {
        return Ok(Bytes(size));
    }
    let draft = files.dir.join("disk.draft");
    let (target, wanted) = (draft.display().to_string(), size.to_string());
    let under = base.map(|base| base.display().to_string());
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if let Some(under) = &under {
        args.extend(["-b", under, "-F", "qcow2"]);
    }
    args.extend([target.as_str(), &wanted]);
    qemu_img(&args).await.map_err(|e| failed(name, "make", e))?;
    // From here on the disk may hold the user's data: it appears whole or not at all.
    std::fs::rename(&draft, &disk).map_err(|e| DriverError::io(format!("make the disk of VM {name}"), e))?;
    Ok(Bytes(size))
}

/// Makes the disk of a VM that does not run larger.
pub(super) async fn grow(files: &Files, name: &Name, to: Bytes) -> Result<()> {
    let disk = files.disk().display().to_string();
    qemu_img(&["resize", "-q", "-f", "qcow2", &disk, &to.0.to_string()])
        .await
        .map(drop)
        .map_err(|e| failed(name, "grow", e))
}

pub(super) fn failed(name: impl std::fmt::Display, verb: &str, error: DriverError) -> DriverError {
    if error.reason != "ProgramFailed" {
        return error;
    }
    let full = error.message.contains("No space left");
    let (kind, reason) = if full { (ErrorKind::NoSpace, "DiskFull") } else { (ErrorKind::Internal, "DiskFailed") };
    DriverError::new(kind, reason, format!("cannot {verb} the disk of VM {name}: {}", error.message))
}

/// Whether a file can be read past the page cache. Memory file systems and some network ones cannot.
pub(super) fn takes_direct(path: &Path) -> bool {
    std::fs::File::options().read(true).custom_flags(nix::libc::O_DIRECT).open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::tests::is_installed;

    async fn image(dir: &Path, size: &str) -> PathBuf {
        let path = dir.join("base.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", &path.display().to_string(), size]).await.unwrap();
        path
    }

    #[tokio::test]
    async fn a_disk_is_as_large_as_its_image_at_least_and_is_made_once() {
        if !is_installed("qemu-img") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let base = image(dir.path(), "64M").await;
        let files = Files { dir: dir.path().into(), run: dir.path().into(), next: false };
        let name: Name = "web".parse().unwrap();
        assert_eq!(ensure(&files, &name, Some(&base), Bytes(1_500_001)).await.unwrap(), Bytes::mib(64));
        assert_eq!(virtual_size(&files.disk(), "it").unwrap(), Bytes::mib(64));
        std::fs::remove_file(&base).unwrap();
        let base = image(dir.path(), "1M").await;
        assert_eq!(ensure(&files, &name, Some(&base), Bytes::mib(128)).await.unwrap(), Bytes::mib(128));
        assert_eq!(virtual_size(&files.disk(), "it").unwrap(), Bytes::mib(64), "the disk was replaced");
        grow(&files, &name, Bytes::mib(128)).await.unwrap();
        assert_eq!(virtual_size(&files.disk(), "it").unwrap(), Bytes::mib(128));
    }

    #[tokio::test]
    async fn a_damaged_image_is_named() {
        if !is_installed("qemu-img") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let checked = CheckedImages::default();
        let base = image(dir.path(), "8M").await;
        checked.check(&base, "image small").await.unwrap();
        let broken = dir.path().join("broken.qcow2");
        for (content, why) in [
            (b"QFI".to_vec(), "cut short"),
            (vec![7; 4096], "no qcow2"),
            (std::fs::read(&base).unwrap()[..512].to_vec(), "damaged"),
        ] {
            std::fs::write(&broken, content).unwrap();
            let error = checked.check(&broken, "image small").await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
            assert!(error.message.contains("image small is damaged") && error.message.contains(why), "{error}");
        }
        let error = checked.check(&dir.path().join("nothing"), "image small").await.unwrap_err();
        assert!(error.message.contains("is missing"), "{error}");
    }

    #[tokio::test]
    async fn an_image_that_lost_its_end_is_damaged() {
        if !is_installed("qemu-img") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw");
        std::fs::write(&raw, vec![1; 4 << 20]).unwrap();
        let base = dir.path().join("base.qcow2");
        let (from, to) = (raw.display().to_string(), base.display().to_string());
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &from, &to]).await.unwrap();
        let whole = std::fs::read(&base).unwrap();
        std::fs::write(&base, &whole[..whole.len() - (1 << 20)]).unwrap();
        let error = CheckedImages::default().check(&base, "image small").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
    }
}
