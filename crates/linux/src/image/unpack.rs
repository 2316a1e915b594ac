//! Unpacking layers that strangers made, without leaving the layer's directory.
//!
//! Every path is resolved by the kernel inside the layer (`openat2` with `RESOLVE_IN_ROOT`), so a symbolic link in the archive leads at most
//! to another place of the same layer; the last component is always made anew and never followed. Whiteouts become what overlayfs knows: a
//! character device 0:0 and `trusted.overlay.opaque`. Other devices are refused, but for those directly under `dev/`, which every runtime
//! replaces with its own: they are left out.

use super::{
    fault,
    job::{Job, Meter},
    names::{EntryName, Whiteout},
    tarball::{Entry, Tarball},
};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::{
        stat::{
            FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, makedev, mkdirat, mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, syncfs, unlinkat},
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};
use tar::EntryType;
use xattr::FileExt;
use yun_drivers::{DriverError, Result};

/// How often the free disk is looked at, in bytes written.
const ROOM_EVERY: u64 = 64 << 20;
/// Up to so many files are written to the disk one by one; more, with the whole file system.
const FEW: usize = 64;
/// The attribute by which overlayfs hides a directory's lower contents.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Unpacks one layer.
pub(super) struct Unpacker<'a> {
    job: &'a Job,
    path: &'a Path,
    root: OwnedFd,
    entries: u64,
    written: u64,
    next_room: u64,
    /// The directory of the last entry: the next one is often there too.
    last_parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times at the end, after what is in them.
    times: BTreeMap<PathBuf, i64>,
    files: Vec<File>,
    chunk: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `path`, an empty directory that nobody else knows of. `before` counts the entries and bytes of the image's lower layers.
    pub(super) fn new(job: &'a Job, path: &'a Path, before: Unpacked) -> Result<Self> {
        let root = File::open(path).map_err(|e| DriverError::io(format!("open {}", path.display()), e))?.into();
        job.room(path, 0, "unpack the image")?;
        Ok(Self {
            job,
            path,
            root,
            entries: before.entries,
            written: before.bytes,
            next_room: before.bytes + ROOM_EVERY,
            last_parent: None,
            times: BTreeMap::new(),
            files: vec![],
            chunk: vec![0; 1 << 17],
        })
    }

    /// Unpacks every entry, and waits until it is all on the disk.
    pub(super) fn run<R: Read>(mut self, tarball: &mut Tarball<R>, meter: &mut Meter) -> Result<Unpacked> {
        fchmod(&self.root, Mode::from_bits_truncate(0o755))
            .map_err(|e| self.failed("set the mode of", b"the root", e))?;
        while let Some(entry) = tarball.next(self.job)? {
            self.count(&entry.name)?;
            self.entry(&entry, tarball, meter)?;
        }
        self.finish()
    }

    fn count(&mut self, name: &[u8]) -> Result<()> {
        self.entries += 1;
        let most = self.job.limits.max_entries;
        if self.entries > most {
            let message = format!(
                "the image has more than {most} entries (the last one read is {}); this node takes no larger ones",
                fault::shown(name)
            );
            return Err(DriverError::bad_request("TooManyEntries", message));
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &Entry, tarball: &mut Tarball<R>, meter: &mut Meter) -> Result<()> {
        let name = EntryName::parse(&entry.name)?;
        if name.is_root() {
            // Archives made from a temporary directory carry its 0700; a root that only root may enter breaks every other user.
            return if entry.kind.is_dir() {
                Ok(())
            } else {
                Err(fault::unsafe_entry(&entry.name, "is the root but not a directory"))
            };
        }
        if let Some(whiteout) = Whiteout::of(&name)? {
            return self.whiteout(&name, &whiteout);
        }
        match entry.kind {
            EntryType::Directory => self.directory(&name, entry),
            // Old archives mark directories by a slash at the end of a plain entry's name.
            EntryType::Regular | EntryType::Continuous if entry.name.ends_with(b"/") => self.directory(&name, entry),
            EntryType::Regular | EntryType::Continuous => self.file(&name, entry, tarball, meter),
            EntryType::Symlink => self.symlink(&name, entry),
            EntryType::Link => self.hard_link(&name, entry),
            EntryType::Fifo => self.fifo(&name, entry),
            EntryType::Char | EntryType::Block if name.path().starts_with("dev") => Ok(()),
            EntryType::Char | EntryType::Block => Err(fault::unsafe_entry(
                &entry.name,
                "is a device node; devices are given to instances, not brought by images: make the archive without it",
            )),
            other => Err(fault::unsafe_entry(
                &entry.name,
                &format!("is of the unknown type {:?}", char::from(other.as_byte())),
            )),
        }
    }

    fn directory(&mut self, name: &EntryName, entry: &Entry) -> Result<()> {
        let parent = self.parent(name, &entry.name)?;
        let failed = |e| self.failed("make the directory", &entry.name, e);
        let mut opaque = false;
        match mkdirat(&parent, name.last(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) => {
                let there = stat(&parent, name.last()).map_err(failed)?;
                if kind_of(&there) != SFlag::S_IFDIR {
                    // A whiteout and a directory of one name: the lower directory is replaced, not added to.
                    opaque = is_whiteout(&there);
                    unlinkat(&parent, name.last(), UnlinkatFlags::NoRemoveDir).map_err(failed)?;
                    mkdirat(&parent, name.last(), Mode::S_IRWXU).map_err(failed)?;
                }
            }
            made => made.map_err(failed)?,
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened: File = openat(&parent, name.last(), flags, Mode::empty()).map_err(failed)?.into();
        self.dress(&opened, entry)?;
        if opaque {
            self.set_opaque(&opened, &entry.name)?;
        }
        self.times.insert(name.path().to_owned(), entry.mtime);
        self.last_parent = Some((name.parent().to_owned(), parent));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        name: &EntryName,
        entry: &Entry,
        tarball: &mut Tarball<R>,
        meter: &mut Meter,
    ) -> Result<()> {
        let parent = self.parent(name, &entry.name)?;
        self.vacate(&parent, name.last(), &entry.name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&parent, name.last(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file: File = opened.map_err(|e| self.failed("make the file", &entry.name, e))?.into();
        self.copy(&mut file, &entry.name, tarball, meter)?;
        self.dress(&file, entry)?;
        let time = TimeSpec::new(entry.mtime, 0);
        futimens(&file, &time, &time).map_err(|e| self.failed("set the time of", &entry.name, e))?;
        if self.files.len() <= FEW {
            self.files.push(file);
        }
        self.last_parent = Some((name.parent().to_owned(), parent));
        Ok(())
    }

    fn copy<R: Read>(
        &mut self,
        file: &mut File,
        name: &[u8],
        tarball: &mut Tarball<R>,
        meter: &mut Meter,
    ) -> Result<()> {
        let mut body = tarball.body();
        loop {
            let read = body.read(&mut self.chunk).map_err(|e| fault::reading("the archive", e))?;
            if read == 0 {
                return Ok(());
            }
            self.written += read as u64;
            let most = self.job.limits.max_unpacked;
            if self.written > most.0 {
                return Err(fault::too_large(format!(
                    "the image unpacks to more than {} (at entry {}); this node takes no larger ones",
                    most.human(),
                    fault::shown(name)
                )));
            }
            if self.written >= self.next_room {
                self.next_room = self.written + ROOM_EVERY;
                self.job.room(self.path, 0, "unpack the image")?;
            }
            file.write_all(&self.chunk[..read])
                .map_err(|e| DriverError::io(format!("unpack entry {}", fault::shown(name)), e))?;
            meter.add(read)?;
        }
    }

    fn symlink(&mut self, name: &EntryName, entry: &Entry) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
            return Err(fault::unsafe_entry(&entry.name, "is a symbolic link with a bad target"));
        }
        let parent = self.parent(name, &entry.name)?;
        self.vacate(&parent, name.last(), &entry.name)?;
        let failed = |e| self.failed("make the symbolic link", &entry.name, e);
        symlinkat(OsStr::from_bytes(&entry.link), &parent, name.last()).map_err(failed)?;
        self.dress_unopened(&parent, name.last(), entry).map_err(failed)?;
        self.last_parent = Some((name.parent().to_owned(), parent));
        Ok(())
    }

    fn fifo(&mut self, name: &EntryName, entry: &Entry) -> Result<()> {
        let parent = self.parent(name, &entry.name)?;
        self.vacate(&parent, name.last(), &entry.name)?;
        let failed = |e| self.failed("make the pipe", &entry.name, e);
        mkfifoat(&parent, name.last(), Mode::S_IRUSR).map_err(failed)?;
        self.dress_unopened(&parent, name.last(), entry).map_err(failed)?;
        let mode = Mode::from_bits_truncate(entry.mode);
        nix::sys::stat::fchmodat(&parent, name.last(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .map_err(failed)
    }

    fn hard_link(&mut self, name: &EntryName, entry: &Entry) -> Result<()> {
        let target = EntryName::parse_link(&entry.link)?;
        if target == *name {
            return Ok(());
        }
        let parent = self.parent(name, &entry.name)?;
        let missing = || {
            let why =
                format!("is a hard link to {}, which is not a file of the same archive", fault::shown(&entry.link));
            fault::unsafe_entry(&entry.name, &why)
        };
        let from = self.open_dir(target.parent()).map_err(|_| missing())?;
        let there = stat(&from, target.last()).map_err(|_| missing())?;
        if target.is_root() || kind_of(&there) == SFlag::S_IFDIR || is_whiteout(&there) {
            return Err(missing());
        }
        self.vacate(&parent, name.last(), &entry.name)?;
        linkat(&from, target.last(), &parent, name.last(), AtFlags::empty())
            .map_err(|e| self.failed("make the hard link", &entry.name, e))
    }

    fn whiteout(&mut self, name: &EntryName, whiteout: &Whiteout<'_>) -> Result<()> {
        let raw = name.path().as_os_str().as_bytes();
        let parent = self.parent(name, raw)?;
        let hidden = match whiteout {
            Whiteout::Bookkeeping => return Ok(()),
            Whiteout::Opaque => OsStr::new("."),
            Whiteout::Hide(hidden) => {
                let made = mknodat(&parent, *hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0));
                match made {
                    Err(Errno::EEXIST) => {}
                    made => return made.map_err(|e| self.failed("hide", raw, e)),
                }
                // It is here anew, so only what lower layers have below it is hidden.
                let there = stat(&parent, hidden).map_err(|e| self.failed("hide", raw, e))?;
                if kind_of(&there) != SFlag::S_IFDIR {
                    return Ok(());
                }
                hidden
            }
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened: File =
            openat(&parent, hidden, flags, Mode::empty()).map_err(|e| self.failed("hide", raw, e))?.into();
        self.set_opaque(&opened, raw)
    }

    fn set_opaque(&self, dir: &File, name: &[u8]) -> Result<()> {
        dir.set_xattr(OPAQUE, b"y")
            .map_err(|e| DriverError::io(format!("mark the directory of {} as opaque", fault::shown(name)), e))
    }

    /// Owner, mode and attributes, in the order in which none undoes another: a change of owner drops setuid and capabilities.
    fn dress(&self, file: &File, entry: &Entry) -> Result<()> {
        let failed = |e| self.failed("set the owner and mode of", &entry.name, e);
        fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).map_err(failed)?;
        fchmod(file, Mode::from_bits_truncate(entry.mode)).map_err(failed)?;
        for (name, value) in entry.attributes.iter().filter(|(name, _)| is_kept(name)) {
            match file.set_xattr(OsStr::from_bytes(name), value) {
                Err(e) if e.kind() == std::io::ErrorKind::Unsupported && name.starts_with(b"user.") => {}
                Err(e) => {
                    return Err(DriverError::io(
                        format!("set the attribute {} of entry {}", fault::shown(name), fault::shown(&entry.name)),
                        e,
                    ));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn dress_unopened(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> nix::Result<()> {
        fchownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let time = TimeSpec::new(entry.mtime, 0);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }

    /// Makes room for a new entry: what an earlier entry put there goes, unless it is a directory with contents.
    fn vacate(&self, parent: &OwnedFd, name: &OsStr, raw: &[u8]) -> Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(e) => return Err(self.failed("replace", raw, e)),
        }
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                Err(fault::unsafe_entry(raw, "replaces a directory that has contents"))
            }
            Err(e) => Err(self.failed("replace", raw, e)),
        }
    }

    /// The directory that an entry is in, made if the archive does not name it.
    fn parent(&mut self, name: &EntryName, raw: &[u8]) -> Result<OwnedFd> {
        let wanted = name.parent();
        if let Some((path, fd)) = self.last_parent.take()
            && path == wanted
        {
            return Ok(fd);
        }
        match self.open_dir(wanted) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            opened => return opened.map_err(|e| self.failed("open the directory of", raw, e)),
        }
        let mut path = PathBuf::new();
        for part in wanted.components() {
            let above = self.open_dir(&path).map_err(|e| self.failed("open the directory of", raw, e))?;
            path.push(part);
            match mkdirat(&above, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) => self.count(raw)?,
                Err(Errno::EEXIST) => self.replace_whiteout(&above, part.as_os_str(), raw)?,
                Err(e) => return Err(self.failed("make the directory of", raw, e)),
            }
            // A link that leads nowhere in the image is no directory.
            match self.open_dir(&path) {
                Err(Errno::ENOENT) => {
                    let why = format!(
                        "goes through {}, which leads to no directory of the image",
                        fault::shown(path.as_os_str().as_bytes())
                    );
                    return Err(fault::unsafe_entry(raw, &why));
                }
                opened => drop(opened.map_err(|e| self.failed("open the directory of", raw, e))?),
            }
        }
        self.open_dir(wanted).map_err(|e| self.failed("open the directory of", raw, e))
    }

    /// What an earlier entry hid is a directory again, with nothing of the lower layers in it.
    fn replace_whiteout(&self, above: &OwnedFd, name: &OsStr, raw: &[u8]) -> Result<()> {
        let failed = |e| self.failed("make the directory of", raw, e);
        if !is_whiteout(&stat(above, name).map_err(failed)?) {
            return Ok(());
        }
        unlinkat(above, name, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
        mkdirat(above, name, Mode::from_bits_truncate(0o755)).map_err(failed)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.set_opaque(&openat(above, name, flags, Mode::empty()).map_err(failed)?.into(), raw)
    }

    /// Opens a directory of the layer; links are followed inside the layer only.
    fn open_dir(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        openat2(&self.root, path, how)
    }

    fn finish(self) -> Result<Unpacked> {
        for (path, mtime) in self.times.iter().rev() {
            let time = TimeSpec::new(*mtime, 0);
            // The directory may have been replaced by a later entry; its times are the least of it.
            if let Ok(parent) = self.open_dir(path.parent().unwrap_or(Path::new("")))
                && let Some(name) = path.file_name()
            {
                let _ = utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink);
            }
        }
        let failed = |e: std::io::Error| DriverError::io("write the layer to the disk", e);
        if self.files.len() > FEW {
            syncfs(&self.root).map_err(|e| failed(e.into()))?;
        } else {
            self.files.iter().try_for_each(File::sync_all).map_err(failed)?;
            for path in self.times.keys() {
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_IN_ROOT);
                if let Ok(dir) = openat2(&self.root, path.as_path(), how) {
                    File::from(dir).sync_all().map_err(failed)?;
                }
            }
            File::from(self.root).sync_all().map_err(failed)?;
        }
        Ok(Unpacked { entries: self.entries, bytes: self.written })
    }

    fn failed(&self, operation: &str, name: &[u8], error: Errno) -> DriverError {
        match error {
            Errno::ENAMETOOLONG => fault::unsafe_entry(name, "has a name that is too long"),
            Errno::ELOOP => fault::unsafe_entry(name, "goes through a loop of symbolic links"),
            Errno::ENOTDIR => fault::unsafe_entry(name, "goes through a file as if it were a directory"),
            error => DriverError::io(format!("{operation} entry {}", fault::shown(name)), error.into()),
        }
    }
}

/// How much was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unpacked {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Attributes that belong to the content. `trusted.overlay.*` from an archive could redirect to files of other layers.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

fn stat(parent: &OwnedFd, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}
