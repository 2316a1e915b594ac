//! Mounts that show files with other owners than they have on disk (mount_setattr(2), `MOUNT_ATTR_IDMAP`): so a container of its own user
//! namespace finds the image's files owned by its own users, and nothing on disk is changed or copied for that.

#![expect(unsafe_code, reason = "these calls have no safe form yet")]

use nix::{
    libc,
    mount::{MsFlags, mount},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// A copy of a mount that nobody sees yet.
#[derive(Debug)]
pub(super) struct Mapped(OwnedFd);

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn answer(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

impl Mapped {
    /// A copy of the mount below `source`, seen through a user namespace. Fails where the file system cannot do that.
    pub(super) fn of(source: &Path, namespace: &File, read_only: bool) -> io::Result<Self> {
        let path = text(source)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: the path lives as long as the call, which only reads it.
        let raw = answer(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
        let raw = i32::try_from(raw).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        let tree = unsafe { OwnedFd::from_raw_fd(raw) };
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
        };
        // SAFETY: both pointers are to values that outlive the call, with their true size.
        answer(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        })?;
        Ok(Self(tree))
    }

    /// Makes it visible at an existing directory.
    pub(super) fn place(self, at: &Path) -> io::Result<()> {
        let path = text(at)?;
        // SAFETY: the paths live as long as the call, which only reads them.
        answer(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        })
        .map(drop)
    }
}

/// Mounts an overlay whose upper layer is seen through a user namespace. What overlayfs itself writes there belongs to whoever mounted it, so
/// that has to be somebody who exists in that namespace: `owner`.
pub(super) fn mount_overlay(target: &Path, options: &OsStr, owner: u32) -> io::Result<()> {
    as_owner(owner, || Ok(mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))?))
}

/// Makes this thread, which must be one of its own and end with its work, work on files as this user of the host, with these groups. Somebody
/// `powerful` keeps all rights over files; others have no more than their own: the kernel takes them away with the user (credentials(7)).
pub(super) fn become_user(user: u32, group: u32, groups: &[u32], powerful: bool) -> io::Result<()> {
    if powerful {
        // SAFETY: plain numbers. Credentials belong to the thread.
        let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0) };
        answer(kept.into())?;
    }
    // The function of the C library would change every thread of the process.
    // SAFETY: the list outlives the call, with its true length.
    answer(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    setfsgid(Gid::from_raw(group));
    setfsuid(Uid::from_raw(user));
    // The calls say nothing when they fail; asking for what nobody has changes nothing and tells what is.
    let (is, belongs) = (setfsuid(Uid::from_raw(u32::MAX)), setfsgid(Gid::from_raw(u32::MAX)));
    if is.as_raw() == user && belongs.as_raw() == group {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("cannot work on files as user {user}")))
}

/// Works on files as this user of the host, with all rights: what is made belongs to it from the first moment. Somebody who does not exist
/// in a user namespace can make nothing in its files.
pub(super) fn as_owner<T: Send>(owner: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let work = || {
        // SAFETY: plain numbers. Credentials belong to the thread; this one keeps its rights although it is not root for files.
        let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0) };
        answer(kept.into())?;
        setfsgid(Gid::from_raw(owner));
        setfsuid(Uid::from_raw(owner));
        work()
    };
    // On a thread of its own, which takes its credentials with it when it ends.
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that works on files panicked")))
}
