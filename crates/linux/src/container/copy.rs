//! Files into a container and out of it, as a tar stream.
//!
//! Every path is resolved inside the container's own tree, as a process inside would resolve it: links are followed within the tree and never out
//! of it, whatever the container changes meanwhile. Nothing but directories, ordinary files and symbolic links is copied.

use super::{
    driver::Inner,
    files::Files,
    idmap,
    made_up::is_made_up,
    nest::{self, Nest},
    overlay,
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, mkdirat},
    unistd::{FchownatFlags, Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;
use yun_drivers::{DriverError, ErrorKind, Result};

/// The most that one piece of the stream carries.
const PIECE: usize = 64 << 10;
/// How deep a tree may be.
const DEEPEST: usize = 128;

/// The top of a container's tree, and how its users are numbered outside.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) top: OwnedFd,
    pub(super) base: u32,
}

impl Tree {
    /// Resolves a path as a process inside would.
    pub(super) fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        // A FIFO would block a plain open for ever; what is only named cannot block, and may not be asked not to.
        let patience = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NONBLOCK };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | patience)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.top, path, how)?)
    }
    /// The number of a user inside.
    pub(super) fn inside(&self, id: u32) -> u32 {
        id.checked_sub(self.base).filter(|id| self.base == 0 || *id < nest::SIZE).unwrap_or(65_534)
    }
    /// The number of a user outside.
    pub(super) fn outside(&self, id: u64) -> u32 {
        let id = u32::try_from(id).unwrap_or(65_534);
        if self.base == 0 { id } else { self.base + id.min(nest::SIZE - 1) }
    }
}

/// Opens a container's tree: what its processes see if it runs, and its own layers if not.
pub(super) async fn tree(inner: &Arc<Inner>, files: &Files) -> Result<Tree> {
    let base = files.prepared().and_then(|prepared| prepared.base).unwrap_or(0);
    let failed = |e: io::Error| DriverError::io(format!("open the file tree of container {}", files.id), e);
    if inner.runs(files).await? {
        let main = inner.main_process(files).await?;
        let top = File::open(format!("/proc/{}/root", main.pid)).map_err(failed)?;
        // Asked after opening: a pid that went to another process meanwhile is noticed.
        if !main.is_alive() {
            return Err(failed(io::Error::new(io::ErrorKind::Interrupted, "it has just ended; try again")));
        }
        return Ok(Tree { top: top.into(), base });
    }
    let Some(prepared) = files.prepared() else {
        let message = format!("container {} has no files yet: start it once", files.id);
        return Err(DriverError::new(ErrorKind::NotFound, "NotPrepared", message));
    };
    let _turn = inner.turn(files.id).await;
    let files = files.clone();
    let open = move || {
        let nest = Nest::of(&files).filter(|_| prepared.base.is_some());
        let base = nest.as_ref().map_or(0, |nest| nest.base);
        overlay::ensure_mounted(&files, &prepared.layers, nest.as_ref())?;
        Ok(Tree { top: File::open(files.rootfs())?.into(), base })
    };
    inner.blocking("open the file tree of a container", open).await
}

fn not_there(path: &str, e: io::Error) -> DriverError {
    let message = match e.kind() {
        io::ErrorKind::NotFound => format!("{path} is not in the container"),
        io::ErrorKind::NotADirectory => format!("a part of {path} is no directory"),
        _ => return DriverError::io(format!("open {path} in the container"), e),
    };
    DriverError::new(ErrorKind::NotFound, "FileNotFound", message).with(e)
}

/// See [`yun_drivers::InstanceDriver::read_files`].
pub(super) async fn read(
    inner: &Arc<Inner>,
    files: &Files,
    path: &str,
) -> Result<BoxStream<'static, io::Result<Bytes>>> {
    let tree = tree(inner, files).await?;
    let name = Path::new(path).file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let found = tree.open(Path::new(path), OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(|e| not_there(path, e))?;
    if is_made_up(&found).map_err(|e| not_there(path, e))? {
        let message = format!(
            "{path} is made up by the kernel, and no file that can be copied: read it with a command inside (yun exec INSTANCE -- cat {path})"
        );
        return Err(DriverError::bad_request("NoFile", message));
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(Pieces { sender: sender.clone(), held: Vec::with_capacity(PIECE) });
        let packed = pack(&tree, &mut archive, &found, &name, 0).and_then(|()| archive.into_inner()?.flush());
        if let Err(e) = packed {
            // Who reads learns that what came is not whole; who has gone needs nothing.
            let _ = sender.blocking_send(Err(e));
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
}

/// A writer into a channel.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    held: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.held));
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

fn pack(tree: &Tree, archive: &mut tar::Builder<Pieces>, found: &OwnedFd, name: &Path, depth: usize) -> io::Result<()> {
    let stat = fstat(found)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(tree.inside(stat.st_uid).into());
    header.set_gid(tree.inside(stat.st_gid).into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header.set_size(0);
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR if depth < DEEPEST => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, name, io::empty())?;
            let entries = std::fs::read_dir(own_path(found))?;
            let mut names: Vec<OsString> = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            for inner in names.iter().map(Path::new) {
                match below(found, inner) {
                    Ok(child) => pack(tree, archive, &child, &name.join(inner), depth + 1)?,
                    // It went away meanwhile, or is a mount of something that cannot be copied.
                    Err(e)
                        if matches!(
                            e.raw_os_error(),
                            Some(nix::libc::ENOENT | nix::libc::EXDEV | nix::libc::EACCES)
                        ) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        }
        SFlag::S_IFDIR => Err(io::Error::other(format!("{} is more than {DEEPEST} directories deep", name.display()))),
        SFlag::S_IFREG => {
            let mut file = File::from(reopen(found, OFlag::O_RDONLY)?);
            let size = file.metadata()?.len();
            header.set_size(size);
            header.set_entry_type(tar::EntryType::Regular);
            // A file that shrinks meanwhile is filled with zeros, as tar does: its size was said already.
            archive.append_data(&mut header, name, (&mut file).take(size).chain(io::repeat(0)).take(size))
        }
        SFlag::S_IFLNK => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, name, readlinkat(found, "")?)
        }
        // Sockets, pipes and devices mean nothing elsewhere.
        _ => Ok(()),
    }
}

/// A child of a directory, whatever it is, never followed.
pub(super) fn below(directory: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    Ok(openat2(directory, name, how)?)
}

/// The path by which this process finds its own descriptor.
pub(super) fn own_path(found: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", found.as_raw_fd())
}

/// Opens for reading what a path-only descriptor names.
pub(super) fn reopen(found: &OwnedFd, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(own_path(found).as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?)
}

/// See [`yun_drivers::InstanceDriver::write_files`].
pub(super) async fn write(
    inner: &Arc<Inner>,
    files: &Files,
    path: &str,
    stream: BoxStream<'static, io::Result<Bytes>>,
) -> Result<()> {
    let tree = tree(inner, files).await?;
    let place = Place::find(&tree, path).map_err(|e| not_there(path, e))?;
    let reader = tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(stream));
    let unpack = tokio::task::spawn_blocking(move || idmap::as_owner(tree.base, || place.unpack(&tree, reader)));
    let unpacked = unpack.await.unwrap_or_else(|e| Err(io::Error::other(e)));
    unpacked.map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            DriverError::bad_request("BadArchive", format!("cannot copy to {path}: {e}"))
        }
        _ => DriverError::io(format!("copy to {path} in the container"), e),
    })
}

/// Where an archive goes: into a directory that is there, or under a new name beside others.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    rename: Option<PathBuf>,
}

impl Place {
    fn find(tree: &Tree, path: &str) -> io::Result<Self> {
        let path = Path::new(path);
        match tree.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(_) => Ok(Self { directory: path.to_owned(), rename: None }),
            Err(e) => {
                let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/")).ok_or(e)?;
                let parent = path.parent().unwrap_or(Path::new("/"));
                tree.open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                Ok(Self { directory: parent.to_owned(), rename: Some(name.into()) })
            }
        }
    }

    fn unpack(&self, tree: &Tree, reader: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(reader);
        let mut modes: Vec<(PathBuf, u32)> = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = self.target(&entry.path()?)?;
            let Some(name) = path.file_name().map(OsStr::to_owned) else { continue };
            let parent = tree.open(path.parent().unwrap_or(Path::new("/")), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            // A directory that is made below /sys/fs/cgroup is more than a directory, and the kernel would be asked with our rights.
            if is_made_up(&parent)? {
                let message = format!(
                    "{} is below what the kernel makes up: write there with a command inside (yun exec)",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            let header = entry.header();
            let (mode, kind) = (header.mode()? & 0o7777, header.entry_type());
            let (uid, gid) = (tree.outside(header.uid()?), tree.outside(header.gid()?));
            let own =
                |flags| fchownat(&parent, name.as_os_str(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags);
            match kind {
                tar::EntryType::Directory => {
                    match mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o700)) {
                        // One that is there keeps its owner and its mode.
                        Err(nix::errno::Errno::EEXIST) => continue,
                        other => other?,
                    }
                    own(FchownatFlags::AT_SYMLINK_NOFOLLOW)?;
                    modes.push((path, mode));
                }
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                    let draft = create(&parent, &name)?;
                    let mut file = File::from(draft);
                    io::copy(&mut entry, &mut file)?;
                    nix::unistd::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                    nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))?;
                }
                tar::EntryType::Symlink => {
                    let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
                    remove_file(&parent, &name)?;
                    symlinkat(target.as_ref(), &parent, name.as_os_str())?;
                    own(FchownatFlags::AT_SYMLINK_NOFOLLOW)?;
                }
                tar::EntryType::XGlobalHeader => {}
                kind => {
                    let message = format!(
                        "{} is of the kind {kind:?}, and only files, directories and symbolic links are copied",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
            }
        }
        // Last, since one that may not be written is filled before.
        for (path, mode) in modes.into_iter().rev() {
            let parent = tree.open(path.parent().unwrap_or(Path::new("/")), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            if let Some(name) = path.file_name() {
                fchmodat(&parent, name, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)
                    .or_else(|e| if e == nix::errno::Errno::ENOENT { Ok(()) } else { Err(e) })?;
            }
        }
        Ok(())
    }

    /// Where an entry goes.
    fn target(&self, name: &Path) -> io::Result<PathBuf> {
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the archive names {}, which is not below its top", name.display()),
            )
        };
        let mut parts = Vec::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => return Err(bad()),
            }
        }
        let mut path = self.directory.clone();
        let mut parts = parts.into_iter();
        if let Some(first) = parts.next() {
            path.push(self.rename.as_deref().map_or(first, Path::as_os_str));
        } else if let Some(rename) = &self.rename {
            path.push(rename);
        }
        path.extend(parts);
        Ok(path)
    }
}

/// A new file in the place of whatever file had the name.
fn create(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    remove_file(parent, name)?;
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    Ok(openat2(parent, Path::new(name), how)?)
}

fn remove_file(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn tree() -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/file"), "inside").unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        symlink("../../../../../secret", root.join("etc/out")).unwrap();
        symlink(directory.path(), root.join("host")).unwrap();
        let top = File::open(&root).unwrap().into();
        (directory, Tree { top, base: 0 })
    }

    fn packed(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            // Written past the checks of the library, as an attacker would.
            let bytes = header.as_old_mut();
            bytes.name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Symlink {
                bytes.linkname[..text.len()].copy_from_slice(text.as_bytes());
                header.set_size(0);
                header.set_cksum();
                archive.append(&header, io::empty()).unwrap();
            } else {
                header.set_size(text.len() as u64);
                header.set_cksum();
                archive.append(&header, text.as_bytes()).unwrap();
            }
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn links_never_lead_out_of_the_tree() {
        let (directory, tree) = tree();
        for path in ["/etc/out", "/host/secret", "/../secret", "/etc/../../../secret"] {
            let opened = tree.open(Path::new(path), OFlag::O_RDONLY);
            assert!(opened.is_err(), "{path} leads out");
        }
        let place = Place::find(&tree, "/etc").unwrap();
        let file = tar::EntryType::Regular;
        // Through a link that is there, and through one that comes with the archive.
        assert!(place.unpack(&tree, &packed(&[("out", file, "x")])[..]).is_ok(), "a link is replaced, not followed");
        let link = packed(&[("l", tar::EntryType::Symlink, "/../.."), ("l/secret", file, "x")]);
        drop(place.unpack(&tree, &link[..]));
        for name in ["../secret", "/../secret", "a/../../../secret"] {
            let refused = place.unpack(&tree, &packed(&[(name, file, "x")])[..]);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
        }
        assert_eq!(fs::read_to_string(directory.path().join("secret")).unwrap(), "outside");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (_directory, tree) = tree();
        let place = Place::find(&tree, "/etc").unwrap();
        for kind in [tar::EntryType::Block, tar::EntryType::Char, tar::EntryType::Fifo, tar::EntryType::Link] {
            assert!(place.unpack(&tree, &packed(&[("x", kind, "")])[..]).is_err(), "{kind:?}");
        }
        assert!(place.unpack(&tree, &b"no archive"[..]).is_err());
    }

    #[test]
    fn a_new_name_is_given_and_a_directory_is_filled() {
        let (directory, tree) = tree();
        let one = packed(&[("a", tar::EntryType::Regular, "text")]);
        Place::find(&tree, "/etc/b").unwrap().unpack(&tree, &one[..]).unwrap();
        Place::find(&tree, "/etc/deep").unwrap().unpack(&tree, &one[..]).unwrap();
        let read = |path: &str| fs::read_to_string(directory.path().join("root").join(path)).unwrap();
        assert_eq!((read("etc/b"), read("etc/deep/a")), ("text".into(), "text".into()));
        assert!(Place::find(&tree, "/none/b").is_err() && Place::find(&tree, "/etc/none/").is_err());
    }
}
