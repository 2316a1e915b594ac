//! The container's file tree: the image's layers, read-only and shared, under a layer of its own.

use super::{
    files::Files,
    idmap::{self, Mapped},
    nest::Nest,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs},
};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
};

/// mount(2) reads one page of options.
const LONGEST_OPTIONS: usize = 4000;

/// Mounts the tree. Ok if it is mounted.
pub(super) fn ensure_mounted(files: &Files, layers: &[PathBuf], nest: Option<&Nest>) -> io::Result<()> {
    let target = files.rootfs();
    fs::create_dir_all(&target)?;
    if is_mounted(&target)? {
        return Ok(());
    }
    let (upper, work) = (files.durable.join("upper"), files.durable.join("work"));
    let Some(top) = layers.last() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the image has no layers"));
    };
    fs::create_dir_all(&work)?;
    make_upper(&upper, top)?;
    if let Some(nest) = nest {
        return mount_mapped(&files.run, &target, layers, &files.durable, nest);
    }
    let mut data = options(layers, &upper, &work);
    if data.len() > LONGEST_OPTIONS {
        data = options(&short_names(&files.run.join("l"), layers)?, &upper, &work);
    }
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(data.as_os_str()))?;
    Ok(())
}

/// The layers as a user namespace sees them, for as long as it takes to mount them as one tree: overlayfs keeps its own hold on them.
struct Views {
    directory: PathBuf,
}

impl Views {
    fn mount(&self, target: &Path, layers: &[PathBuf], durable: &Path, nest: &Nest) -> io::Result<()> {
        self.clear()?;
        let namespace = fs::File::open(&nest.user)?;
        let place = |name: &str, source: &Path, read_only| {
            let at = self.directory.join(name);
            fs::create_dir_all(&at)?;
            Mapped::of(source, &namespace, read_only)?.place(&at)?;
            io::Result::Ok(at)
        };
        let lower = layers.iter().enumerate().map(|(index, layer)| place(&index.to_string(), layer, true));
        let lower: Vec<PathBuf> = lower.collect::<io::Result<_>>()?;
        let own = place("own", durable, false)?;
        let data = options(&lower, &own.join("upper"), &own.join("work"));
        idmap::mount_overlay(target, &data, nest.base)
    }

    /// Takes the views away. Never by deleting what is in them.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let at = entry.path();
            while let Ok(()) = umount2(&at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {}
            fs::remove_dir(&at)?;
        }
        match fs::remove_dir(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        // What stays is taken away before the next mount and before anything is removed.
        let _ = self.clear();
    }
}

/// Mounts a tree through a user namespace, with `upper` and `work` in `own`; views are made for a moment below `near`.
pub(super) fn mount_mapped(near: &Path, target: &Path, layers: &[PathBuf], own: &Path, nest: &Nest) -> io::Result<()> {
    Views { directory: near.join("m") }.mount(target, layers, own, nest)
}

/// Unmounts the tree. Ok if it is not mounted. A tree that something still uses goes away when that ends.
pub(super) fn unmount(files: &Files) -> io::Result<()> {
    // Left by somebody who was killed while he mounted.
    Views { directory: files.run.join("m") }.clear()?;
    let target = files.rootfs();
    while is_mounted(&target)? {
        match umount2(&target, MntFlags::UMOUNT_NOFOLLOW) {
            Err(nix::errno::Errno::EBUSY) => umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?,
            other => other?,
        }
    }
    Ok(())
}

fn is_mounted(target: &Path) -> io::Result<bool> {
    match statfs(target) {
        Ok(stat) => Ok(stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC && !same_mount(target)?),
        Err(nix::errno::Errno::ENOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// True if the directory is not a mount point: it is on the same file system as its parent. The host's own root may be an overlay.
fn same_mount(target: &Path) -> io::Result<bool> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    Ok(fs::metadata(target)?.dev() == fs::metadata(parent)?.dev())
}

/// The layer of the container's own. The tree's top directory takes its owner and mode from here, so they must be the image's.
fn make_upper(upper: &Path, top: &Path) -> io::Result<()> {
    if upper.exists() {
        return Ok(());
    }
    let draft = upper.with_extension("new");
    fs::create_dir_all(&draft)?;
    let like = fs::metadata(top)?;
    chown(&draft, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    fs::rename(&draft, upper)
}

/// Links with short names to each layer, for images with so many that their paths do not fit.
fn short_names(directory: &Path, layers: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)?;
    let link = |(index, layer): (usize, &PathBuf)| {
        let path = directory.join(index.to_string());
        match symlink(layer, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).and_then(|()| symlink(layer, &path))?
            }
            other => other?,
        }
        Ok(path)
    };
    layers.iter().enumerate().map(link).collect()
}

/// The options of the mount; overlayfs wants the highest layer first.
fn options(layers: &[PathBuf], upper: &Path, work: &Path) -> OsString {
    let mut data = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().rev().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        escape(layer, &mut data);
    }
    for (name, path) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
        data.extend_from_slice(name);
        escape(path, &mut data);
    }
    OsString::from_vec(data)
}

/// Paths may hold the separators of the option text.
fn escape(path: &Path, data: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            data.push(b'\\');
        }
        data.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_layer_comes_first_and_separators_are_escaped() {
        let layers = [PathBuf::from("/l/base"), PathBuf::from("/l/a:b,c")];
        let text = options(&layers, Path::new("/u"), Path::new("/w"));
        assert_eq!(text, "lowerdir=/l/a\\:b\\,c:/l/base,upperdir=/u,workdir=/w");
    }

    #[test]
    fn a_hundred_layers_fit_by_their_short_names() {
        let directory = tempfile::tempdir().unwrap();
        let layers: Vec<_> = (0..100).map(|n| directory.path().join(format!("{n:0>100}"))).collect();
        let short = short_names(&directory.path().join("l"), &layers).unwrap();
        assert_eq!(fs::read_link(&short[7]).unwrap(), layers[7]);
        assert!(options(&short, Path::new("/u"), Path::new("/w")).len() < LONGEST_OPTIONS);
        short_names(&directory.path().join("l"), &layers).unwrap();
    }
}
