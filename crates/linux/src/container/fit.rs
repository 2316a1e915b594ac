//! What is plugged into a container: its volumes, before its start and while it runs. (Its interfaces are in its namespace already.)
//!
//! Live, a volume is a detached copy of its mount that is moved into the container's mount namespace by a thread that enters it
//! (open_tree(2), move_mount(2)). What is to be mounted is written down first, and what was unmounted is forgotten last, so that after a
//! crash the same call finishes either. Whether a volume is mounted is read off the container's tree: the directory at its path is the volume.

#![allow(unsafe_code, reason = "open_tree, mount_setattr and move_mount have no safe wrapper")]

use super::{
    driver::Inner,
    files::{Files, make_private},
    idmap,
    life::{Truth, look},
    nest::{self, Nest},
    rootfs::Root,
};
use crate::volume::fill;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    libc,
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::stat::{Mode, fstat, mkdirat, stat},
};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};
use yun_drivers::{DriverError, FittedVolume, Fittings, Result};
use yun_types::{Mount, VolumeMount};

/// Brings what is plugged into a container to `wanted`.
pub(super) async fn fit(inner: &Inner, files: &Files, wanted: Fittings) -> Result<()> {
    let truth = look(files, inner).map_err(|e| DriverError::io(format!("look at container {}", files.id), e))?;
    let running = if let Truth::Running { running, .. } = truth { Some(running.main.pid) } else { None };
    let files = files.clone();
    inner
        .blocking("plug volumes into a container", move || {
            make_private(&files.durable)?;
            let before = files.fittings();
            let Some(pid) = running else { return files.write_fittings(&wanted) };
            if before == wanted {
                return live(&files, pid, &[], &wanted.volumes);
            }
            let gone: Vec<FittedVolume> =
                before.volumes.into_iter().filter(|old| !wanted.volumes.contains(old)).collect();
            // What is remembered covers what may be mounted, at every moment.
            let all = Fittings { volumes: [&wanted.volumes[..], &gone[..]].concat(), ..wanted.clone() };
            files.write_fittings(&all)?;
            for volume in &wanted.volumes {
                fill_from(&files, volume)?;
            }
            live(&files, pid, &gone, &wanted.volumes)?;
            files.write_fittings(&wanted)
        })
        .await
}

/// The mounts that a start makes for volumes, named and anonymous ones; what is empty gets what the image has there.
pub(super) fn mounts(files: &Files, spec: &[VolumeMount], root: &Root, nest: Option<&Nest>) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for volume in files.fittings().volumes {
        let Some(target) = volume.target.clone() else { continue };
        fill_with(&volume.path, volume.no_copy, root, &target, nest)?;
        mounts.push(bind(&volume.path, target, volume.read_only));
    }
    for mount in spec.iter().filter(|mount| mount.volume.is_none()) {
        let Some(target) = &mount.target else { continue };
        let path = anonymous(files, target);
        std::fs::create_dir_all(&path)?;
        fill_with(&path, mount.no_copy, root, target, nest)?;
        mounts.push(bind(&path, target.clone(), mount.read_only));
    }
    Ok(mounts)
}

fn bind(path: &Path, target: String, read_only: bool) -> Mount {
    Mount::Bind { source: path.to_string_lossy().into_owned(), target, read_only }
}

/// Where an anonymous volume is: with the container, and gone with it.
fn anonymous(files: &Files, target: &str) -> PathBuf {
    let name: String = target.trim_matches('/').chars().map(|c| if c == '/' { '+' } else { c }).collect();
    files.durable.join("volumes").join(name).join("data")
}

fn fill_from(files: &Files, volume: &FittedVolume) -> io::Result<()> {
    match &volume.target {
        Some(target) => {
            fill_with(&volume.path, volume.no_copy, &Root::open(&files.rootfs())?, target, Nest::of(files).as_ref())
        }
        None => Ok(()),
    }
}

fn fill_with(path: &Path, leave_empty: bool, root: &Root, target: &str, nest: Option<&Nest>) -> io::Result<()> {
    if leave_empty {
        return Ok(());
    }
    match root.directory(Path::new(target)) {
        // On the disk a volume has the owners that its users see inside.
        Some(directory) => {
            let range = nest.filter(|nest| nest.can_map(path)).map_or(0..0, |nest| nest.base..nest.base + nest::SIZE);
            fill::fill(path, &directory, range)
        }
        None => Ok(()),
    }
}

/// Mounts and unmounts in the tree of a running process, on a thread of its own: who enters a mount namespace must not share its
/// directory with others.
fn live(files: &Files, pid: i32, gone: &[FittedVolume], wanted: &[FittedVolume]) -> io::Result<()> {
    if gone.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let nest = Nest::of(files);
    let owner = nest.as_ref().map_or(0, |nest| nest.base);
    let work = || {
        // Everything of the host is opened before.
        let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
        let trees: Vec<(&FittedVolume, OwnedFd)> =
            wanted.iter().map(|volume| Ok((volume, tree(volume, nest.as_ref())?))).collect::<io::Result<_>>()?;
        let identities: Vec<(u64, u64)> = gone.iter().map(|volume| identity(&volume.path)).collect();
        unshare(CloneFlags::CLONE_FS)?;
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        for (volume, identity) in gone.iter().zip(identities) {
            if !wanted.iter().any(|other| other.target == volume.target && other.id == volume.id) {
                take_off(volume, identity, owner)?;
            }
        }
        for (volume, tree) in trees {
            put_on(volume, &tree, owner)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that mounts ended early")))
}

fn identity(path: &Path) -> (u64, u64) {
    stat(path).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino))
}

/// A detached copy of the volume's mount.
fn tree(volume: &FittedVolume, nest: Option<&Nest>) -> io::Result<OwnedFd> {
    let path = CString::new(volume.path.as_os_str().as_bytes())?;
    let flags = libc::c_uint::try_from(libc::O_CLOEXEC).unwrap_or_default() | libc::OPEN_TREE_CLONE;
    // SAFETY: the path is a string that outlives the call; the answer is checked.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given us this descriptor.
    let tree = unsafe { OwnedFd::from_raw_fd(fd) };
    let namespace = match nest.filter(|nest| nest.can_map(&volume.path)) {
        Some(nest) => Some(File::open(&nest.user)?),
        None => None,
    };
    if volume.read_only || namespace.is_some() {
        let read_only = if volume.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        let mapped = if namespace.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
        let fd = namespace.as_ref().map_or(Ok(0), |file| u64::try_from(file.as_raw_fd())).map_err(io::Error::other)?;
        let attributes = libc::mount_attr { attr_set: read_only | mapped, attr_clr: 0, propagation: 0, userns_fd: fd };
        // SAFETY: the descriptor is open, the path is empty, and the structure has the size that is given.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(tree)
}

/// Opens the directory at the volume's path, in the container's tree, and makes what is missing.
fn place(target: &str, owner: u32) -> io::Result<OwnedFd> {
    let how = |flags| {
        OpenHow::new()
            .flags(flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    let root = File::open("/")?;
    let mut path = PathBuf::from("/");
    for part in Path::new(target).components() {
        let Component::Normal(part) = part else { continue };
        let parent = openat2(&root, &path, how(OFlag::O_RDONLY))?;
        path.push(part);
        let make = || match mkdirat(&parent, Path::new(part), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(e) => Err(e.into()),
        };
        // Who does not exist in the container's user namespace can make nothing in its tree.
        idmap::as_owner(owner, make)?;
    }
    Ok(openat2(&root, &path, how(OFlag::O_PATH))?)
}

fn put_on(volume: &FittedVolume, tree: &OwnedFd, owner: u32) -> io::Result<()> {
    let Some(target) = &volume.target else { return Ok(()) };
    let place = place(target, owner)?;
    let (here, there) = (fstat(&place)?, fstat(tree)?);
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) {
        return Ok(());
    }
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both descriptors are open and both paths are empty strings.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), place.as_raw_fd(), c"".as_ptr(), flags)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn take_off(volume: &FittedVolume, identity: (u64, u64), owner: u32) -> io::Result<()> {
    let Some(target) = &volume.target else { return Ok(()) };
    // A path that is gone, or that is something else by now, is none of ours.
    let Ok(place) = place(target, owner) else { return Ok(()) };
    let here = fstat(&place)?;
    if (here.st_dev, here.st_ino) != identity {
        return Ok(());
    }
    drop(place);
    match umount2(Path::new(target), MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
