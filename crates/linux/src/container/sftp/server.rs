//! Requests, one after the other: each is carried out in the container's tree and answered.

use super::packet::{self, Attributes, Code, Malformed, Reader, Seen, open};
use crate::container::{
    copy::{Tree, below, own_path, reopen},
    made_up::is_made_up,
    users::Identity,
};
use bytes::{Bytes, BytesMut};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, readlinkat, renameat2},
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstat, mkdirat, utimensat},
        time::TimeSpec,
    },
    unistd::{FchownatFlags, Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{File, ReadDir},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Component, Path, PathBuf},
};
use tokio::sync::mpsc;
use yun_engine::session::Output;

/// The most that one answer carries.
const MOST: u32 = 255 << 10;
/// The most files and directories that a session has open.
const HANDLES: usize = 128;
/// How many names one answer carries.
const NAMES: usize = 100;
/// What OpenSSH's `sftp-server` takes away from the rights of new files.
const UMASK: u32 = 0o022;

const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// Answers until the person is gone.
pub(super) fn serve(
    tree: &Tree,
    identity: &Identity,
    mut from_person: mpsc::Receiver<Bytes>,
    to_person: &mpsc::Sender<Output>,
) -> io::Result<()> {
    let mut server = Server { tree, home: PathBuf::from(&identity.home), handles: HashMap::new(), next: 0 };
    let mut bytes = BytesMut::new();
    while let Some(more) = from_person.blocking_recv() {
        bytes.extend_from_slice(&more);
        loop {
            let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "the client sent what is no SFTP");
            let Some(packet) = packet::next(&mut bytes).map_err(bad)? else { break };
            let answer = server.answer(packet).map_err(bad)?;
            if to_person.blocking_send(Output::Stdout(answer)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a request came to, if it did not succeed.
#[derive(Debug)]
enum Fault {
    Malformed,
    Eof,
    Unsupported,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Errno> for Fault {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

type Answer = Result<Bytes, Fault>;

#[derive(Debug)]
enum Handle {
    File(File),
    Directory(OwnedFd, ReadDir),
}

struct Server<'a> {
    tree: &'a Tree,
    home: PathBuf,
    handles: HashMap<u32, Handle>,
    next: u32,
}

impl Server<'_> {
    /// The answer to one packet. Only a packet without an id cannot be answered.
    fn answer(&mut self, packet: Bytes) -> Result<Bytes, Malformed> {
        let mut reader = Reader(packet);
        let kind = reader.byte()?;
        let id = reader.number()?;
        if kind == packet::INIT {
            return Ok(packet::version(EXTENSIONS));
        }
        Ok(self.carry_out(kind, id, &mut reader).unwrap_or_else(|fault| match fault {
            Fault::Eof => packet::status(id, Code::Eof, "end of file"),
            Fault::Malformed => packet::status(id, Code::BadMessage, "the request is damaged"),
            Fault::Unsupported => packet::status(id, Code::Unsupported, "this is not offered"),
            Fault::Io(e) => {
                let code = match e.kind() {
                    io::ErrorKind::NotFound => Code::NoSuchFile,
                    io::ErrorKind::PermissionDenied => Code::PermissionDenied,
                    _ => Code::Failure,
                };
                packet::status(id, code, &e.to_string())
            }
        }))
    }

    fn carry_out(&mut self, kind: u8, id: u32, reader: &mut Reader) -> Answer {
        let done = |id| Ok(packet::status(id, Code::Ok, ""));
        match kind {
            packet::OPEN => {
                let (path, flags, attributes) = (self.path(reader)?, reader.number()?, reader.attributes()?);
                let file = self.open(&path, flags, attributes.mode)?;
                self.keep(id, Handle::File(file))
            }
            packet::OPENDIR => {
                let path = self.path(reader)?;
                let directory = self.tree.open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                // Read with the rights of this thread, as everything is.
                let entries = std::fs::read_dir(own_path(&directory))?;
                self.keep(id, Handle::Directory(directory, entries))
            }
            packet::CLOSE => {
                let handle = number(reader)?;
                self.handles.remove(&handle).ok_or(Errno::EBADF)?;
                done(id)
            }
            packet::READ => {
                let (handle, offset, length) = (number(reader)?, reader.long()?, reader.number()?);
                let mut buffer = vec![0; usize::try_from(length.min(MOST)).unwrap_or_default()];
                let read = self.file(handle)?.read_at(&mut buffer, offset)?;
                if read == 0 && length > 0 {
                    return Err(Fault::Eof);
                }
                Ok(packet::data(id, &buffer[..read]))
            }
            packet::WRITE => {
                let (handle, offset, data) = (number(reader)?, reader.long()?, reader.bytes()?);
                self.file(handle)?.write_all_at(&data, offset)?;
                done(id)
            }
            packet::STAT | packet::LSTAT => {
                let last = if kind == packet::LSTAT { OFlag::O_NOFOLLOW } else { OFlag::empty() };
                let found = self.tree.open(&self.path(reader)?, OFlag::O_PATH | last)?;
                Ok(packet::attributes(id, &self.seen(&found)?))
            }
            packet::FSTAT => {
                let handle = number(reader)?;
                let seen = match self.handles.get(&handle).ok_or(Errno::EBADF)? {
                    Handle::File(file) => self.seen(file)?,
                    Handle::Directory(directory, _) => self.seen(directory)?,
                };
                Ok(packet::attributes(id, &seen))
            }
            packet::SETSTAT => {
                let (path, attributes) = (self.path(reader)?, reader.attributes()?);
                self.change(&self.tree.open(&path, OFlag::O_PATH)?, attributes)?;
                done(id)
            }
            packet::FSETSTAT => {
                let (handle, attributes) = (number(reader)?, reader.attributes()?);
                let found: OwnedFd = match self.handles.get(&handle).ok_or(Errno::EBADF)? {
                    Handle::File(file) => file.as_fd().try_clone_to_owned()?,
                    Handle::Directory(directory, _) => directory.try_clone()?,
                };
                self.change(&found, attributes)?;
                done(id)
            }
            packet::READDIR => self.entries(id, number(reader)?),
            packet::REMOVE | packet::RMDIR => {
                let (parent, name) = self.place(&self.path(reader)?)?;
                let how = if kind == packet::RMDIR { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
                unlinkat(&parent, name.as_os_str(), how)?;
                done(id)
            }
            packet::MKDIR => {
                let (path, attributes) = (self.path(reader)?, reader.attributes()?);
                let (parent, name) = self.place(&path)?;
                let mode = attributes.mode.unwrap_or(0o777) & 0o7777 & !UMASK;
                mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(mode))?;
                done(id)
            }
            packet::REALPATH => Ok(packet::name(id, plain(&self.path(reader)?).as_os_str().as_bytes())),
            packet::RENAME => {
                let (from, to) = (self.path(reader)?, self.path(reader)?);
                self.rename(&from, &to, RenameFlags::RENAME_NOREPLACE)?;
                done(id)
            }
            packet::READLINK => {
                let link = self.tree.open(&self.path(reader)?, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
                if SFlag::from_bits_truncate(fstat(&link)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFLNK {
                    return Err(Errno::EINVAL.into());
                }
                Ok(packet::name(id, readlinkat(&link, "")?.as_bytes()))
            }
            packet::SYMLINK => {
                // OpenSSH gives the target first, whatever the draft says, and everybody follows it.
                let (target, path) = (reader.bytes()?, self.path(reader)?);
                let (parent, name) = self.place(&path)?;
                symlinkat(OsStr::from_bytes(&target), &parent, name.as_os_str())?;
                done(id)
            }
            packet::EXTENDED => self.extended(id, reader),
            _ => Err(Fault::Unsupported),
        }
    }

    fn extended(&mut self, id: u32, reader: &mut Reader) -> Answer {
        let name = reader.bytes()?;
        match &name[..] {
            b"posix-rename@openssh.com" => {
                let (from, to) = (self.path(reader)?, self.path(reader)?);
                self.rename(&from, &to, RenameFlags::empty())?;
            }
            b"hardlink@openssh.com" => {
                let (from, to) = (self.place(&self.path(reader)?)?, self.place(&self.path(reader)?)?);
                linkat(&from.0, from.1.as_os_str(), &to.0, to.1.as_os_str(), AtFlags::empty())?;
            }
            b"fsync@openssh.com" => self.file(number(reader)?)?.sync_all()?,
            b"lsetstat@openssh.com" => {
                let (path, attributes) = (self.path(reader)?, reader.attributes()?);
                let found = self.tree.open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
                let link = SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK;
                // A link has no rights and no size of its own.
                let kept = Attributes { size: None, mode: None, ..attributes };
                self.change(&found, if link { kept } else { attributes })?;
            }
            b"limits@openssh.com" => {
                let (packet, handles) = (packet::LONGEST as u64, HANDLES as u64);
                return Ok(packet::limits(id, packet, MOST.into(), handles));
            }
            b"expand-path@openssh.com" => {
                let path = reader.bytes()?;
                let path = match &path[..] {
                    b"~" => self.home.clone(),
                    [b'~', b'/', rest @ ..] => self.home.join(OsStr::from_bytes(rest)),
                    path => self.home.join(OsStr::from_bytes(path)),
                };
                return Ok(packet::name(id, plain(&path).as_os_str().as_bytes()));
            }
            _ => return Err(Fault::Unsupported),
        }
        Ok(packet::status(id, Code::Ok, ""))
    }

    /// A path of a request; what does not begin at the root begins at home.
    fn path(&self, reader: &mut Reader) -> Result<PathBuf, Fault> {
        let bytes = reader.bytes()?;
        if bytes.contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        Ok(self.home.join(OsStr::from_bytes(&bytes)))
    }

    /// The directory of a path, and the name in it, which need not be there.
    fn place(&self, path: &Path) -> Result<(OwnedFd, OsString), Fault> {
        let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
        let parent = self.tree.open(path.parent().unwrap_or(Path::new("/")), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        // A directory that is made below /sys/fs/cgroup is more than a directory.
        has_owner(&parent)?;
        Ok((parent, name))
    }

    fn keep(&mut self, id: u32, handle: Handle) -> Answer {
        if self.handles.len() >= HANDLES {
            return Err(Errno::EMFILE.into());
        }
        self.next = self.next.wrapping_add(1);
        self.handles.insert(self.next, handle);
        Ok(packet::handle(id, self.next))
    }

    fn file(&self, handle: u32) -> Result<&File, Fault> {
        match self.handles.get(&handle) {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(Errno::EBADF.into()),
        }
    }

    fn open(&self, path: &Path, flags: u32, mode: Option<u32>) -> Result<File, Fault> {
        let asked = |flag: u32| flags & flag != 0;
        let mut how = match (asked(open::READ), asked(open::WRITE) || asked(open::APPEND)) {
            (true, true) => OFlag::O_RDWR,
            (false, true) => OFlag::O_WRONLY,
            _ => OFlag::O_RDONLY,
        };
        if asked(open::APPEND) {
            how |= OFlag::O_APPEND;
        }
        // Once more, if somebody else makes it in between.
        for _ in 0..2 {
            match self.tree.open(path, OFlag::O_PATH) {
                Ok(_) if asked(open::CREATE) && asked(open::EXCLUSIVE) => return Err(Errno::EEXIST.into()),
                Ok(found) => {
                    has_storage(&found)?;
                    let truncate = if asked(open::TRUNCATE) { OFlag::O_TRUNC } else { OFlag::empty() };
                    return Ok(File::from(reopen(&found, how | truncate)?));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && asked(open::CREATE) => {}
                Err(e) => return Err(e.into()),
            }
            let (parent, name) = self.place(path)?;
            let mode = mode.unwrap_or(0o666) & 0o7777 & !UMASK;
            let new = OpenHow::new()
                .flags(how | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .mode(Mode::from_bits_truncate(mode))
                .resolve(ResolveFlag::RESOLVE_BENEATH);
            match openat2(&parent, Path::new(&name), new) {
                Ok(file) => {
                    has_storage(&file)?;
                    return Ok(File::from(file));
                }
                Err(Errno::EEXIST) if !asked(open::EXCLUSIVE) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }

    fn rename(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Fault> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        Ok(renameat2(&from.0, from.1.as_os_str(), &to.0, to.1.as_os_str(), flags)?)
    }

    fn seen(&self, found: impl AsFd) -> Result<Seen, Fault> {
        let stat = fstat(found)?;
        Ok(Seen::of(&stat, (self.tree.inside(stat.st_uid), self.tree.inside(stat.st_gid))))
    }

    /// Gives a file what a request says of it.
    fn change(&self, found: &OwnedFd, attributes: Attributes) -> Result<(), Fault> {
        let path = own_path(found);
        has_owner(found)?;
        if let Some(size) = attributes.size {
            has_storage(found)?;
            File::from(reopen(found, OFlag::O_WRONLY)?).set_len(size)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            let owner = Some(Uid::from_raw(self.tree.outside(uid.into())));
            let group = Some(Gid::from_raw(self.tree.outside(gid.into())));
            fchownat(found, "", owner, group, FchownatFlags::AT_EMPTY_PATH)?;
        }
        if let Some(mode) = attributes.mode {
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if let Some((accessed, changed)) = attributes.times {
            let time = |seconds: u32| TimeSpec::new(seconds.into(), 0);
            let follow = UtimensatFlags::FollowSymlink;
            utimensat(nix::fcntl::AT_FDCWD, path.as_str(), &time(accessed), &time(changed), follow)?;
        }
        Ok(())
    }

    fn entries(&mut self, id: u32, handle: u32) -> Answer {
        let Some(Handle::Directory(directory, entries)) = self.handles.get_mut(&handle) else {
            return Err(Errno::EBADF.into());
        };
        let mut names = Vec::new();
        for entry in entries.by_ref().take(NAMES) {
            let name = entry?.file_name();
            // What went away meanwhile is left out.
            let Ok(found) = below(directory, Path::new(&name)) else { continue };
            let stat = fstat(&found)?;
            let seen = Seen::of(&stat, (self.tree.inside(stat.st_uid), self.tree.inside(stat.st_gid)));
            names.push((name.as_bytes().to_vec(), long(&name, &seen, stat.st_nlink), seen));
        }
        if names.is_empty() { Err(Fault::Eof) } else { Ok(packet::names(id, &names)) }
    }
}

/// The handle that a request names.
fn number(reader: &mut Reader) -> Result<u32, Fault> {
    let bytes = reader.bytes()?;
    let bytes: [u8; 4] = bytes[..].try_into().map_err(|_| Errno::EBADF)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Refuses everything whose content is not stored somewhere: devices, pipes, sockets, and files that the kernel makes up.
fn has_storage(found: &OwnedFd) -> Result<(), Fault> {
    let refused = |why: &str| Err(Fault::Io(io::Error::new(io::ErrorKind::PermissionDenied, why)));
    match SFlag::from_bits_truncate(fstat(found)?.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(Errno::EISDIR.into()),
        _ => return refused("not an ordinary file: read or write it with a command inside (ssh INSTANCE cat …)"),
    }
    has_owner(found)
        .or_else(|_| refused("a file of the kernel: read or write it with a command inside (ssh INSTANCE cat …)"))
}

/// Refuses changes of what the kernel makes up.
fn has_owner(found: &OwnedFd) -> Result<(), Fault> {
    if is_made_up(found)? { Err(Errno::EACCES.into()) } else { Ok(()) }
}

/// A path without `.` and `..`, by its words alone, from the root.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// A line as `ls -l` has it. Clients show it and read nothing in it.
fn long(name: &OsStr, seen: &Seen, links: u64) -> Vec<u8> {
    let kind = match SFlag::from_bits_truncate(seen.mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => 'd',
        SFlag::S_IFLNK => 'l',
        SFlag::S_IFCHR => 'c',
        SFlag::S_IFBLK => 'b',
        SFlag::S_IFIFO => 'p',
        SFlag::S_IFSOCK => 's',
        _ => '-',
    };
    let rights: String = "rwxrwxrwx"
        .chars()
        .enumerate()
        .map(|(place, letter)| if seen.mode & (0o400 >> place) != 0 { letter } else { '-' })
        .collect();
    let time = chrono::DateTime::from_timestamp(seen.times.1.into(), 0).unwrap_or_default();
    let (uid, gid, size) = (seen.owner.0, seen.owner.1, seen.size);
    let mut line =
        format!("{kind}{rights} {links:4} {uid:<8} {gid:<8} {size:>8} {} ", time.format("%b %e %Y")).into_bytes();
    line.extend_from_slice(name.as_bytes());
    line
}

#[cfg(test)]
mod tests;
