//! Control groups, versions 1 and 2, behind one small trait: what a container uses, whether the kernel ended something in it for lack of
//! memory, and its freezing, ending and removal. crun makes the groups and writes the first limits.
//!
//! Words: a *hierarchy* is one mounted tree of groups; version 1 has one for each controller, version 2 one for all. A *group path* is the
//! same in each hierarchy.

mod layout;
mod v1;
mod v2;

pub use layout::Layout;
pub use v1::V1;
pub use v2::V2;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};
use yun_types::{Bytes, Cpu, IoLimits};

/// What a group uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since the group was made.
    pub cpu: std::time::Duration,
    /// Memory that cannot be taken back: without the file cache that nothing touched lately.
    pub memory: Bytes,
    /// Processes and threads.
    pub pids: u64,
}

/// What a group may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time per time.
    pub cpu: Cpu,
    /// Memory; swap does not add to it.
    pub memory: Bytes,
    /// Processes and threads.
    pub pids: u32,
    /// Reading and writing, and on which disk. `None` leaves them as they are.
    pub io: Option<(Disk, IoLimits)>,
}

/// A disk as the kernel numbers it: a whole one, since parts of disks have no limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// The driver's number.
    pub major: u64,
    /// The disk's number.
    pub minor: u64,
}

impl Disk {
    /// The disk that holds a path. `None` if no single disk does, as for memory and network file systems.
    pub fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let device = fs::metadata(path).ok()?.dev();
        let own = Path::new("/sys/dev/block").join(format!(
            "{}:{}",
            nix::sys::stat::major(device),
            nix::sys::stat::minor(device)
        ));
        // A part of a disk lies in the directory of its disk.
        let whole = if own.join("partition").exists() { fs::canonicalize(own).ok()?.parent()?.to_owned() } else { own };
        let text = fs::read_to_string(whole.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Limits {
    /// The length of the period in which CPU time is counted, in microseconds.
    pub const CPU_PERIOD: u64 = 100_000;

    /// CPU time in one period, in microseconds.
    pub fn cpu_quota(&self) -> u64 {
        u64::from(self.cpu.0) * Self::CPU_PERIOD / 1000
    }

    /// The weight against other groups when the CPU is short, in the unit of version 1 (1024 is one core).
    pub fn cpu_shares(&self) -> u64 {
        (u64::from(self.cpu.0) * 1024 / 1000).clamp(2, 262_144)
    }
}

/// One group, in all hierarchies that it lives in.
pub trait Cgroup: Send + Sync + fmt::Debug {
    /// True if it is there.
    fn exists(&self) -> bool;
    /// The file with a line `oom_kill N`.
    fn oom_file(&self) -> PathBuf;
    /// What it uses.
    fn usage(&self) -> io::Result<Usage>;
    /// Changes its limits while it runs.
    fn limit(&self, limits: &Limits) -> io::Result<()>;
    /// The pids in it and below it.
    fn processes(&self) -> io::Result<Vec<i32>>;
    /// Sends SIGKILL to all that is in it now, frozen or not. What forks at that moment may escape: ask [`Self::processes`] and repeat.
    fn kill(&self) -> io::Result<()>;
    /// Freezes it, or lets it go on. Takes effect a little later: [`Self::is_frozen`].
    fn freeze(&self, frozen: bool) -> io::Result<()>;
    /// True once everything in it stands still.
    fn is_frozen(&self) -> io::Result<bool>;
    /// Removes it and the groups below it. Fails while a process is in it; ok when nothing is there.
    fn remove(&self) -> io::Result<()>;
}

impl dyn Cgroup {
    /// How often the kernel ended a process in it for lack of memory.
    pub fn oom_kills(&self) -> io::Result<u64> {
        keyed(&self.oom_file(), "oom_kill")
    }
}

/// The number behind a key in a file of `key number` lines; 0 if the key is missing.
fn keyed(path: &Path, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key));
    Ok(value.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0))
}

/// A file with one number.
fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} holds {text:?}, not a number", path.display()))
    })
}

/// A directory and all directories below it, the deepest first.
fn subtree(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while next < found.len() {
        for entry in fs::read_dir(&found[next])?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    found.reverse();
    Ok(found)
}

/// The pids in a group of one hierarchy and below it; none if it is not there.
fn pids_in(root: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    let directories = match subtree(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(pids),
        other => other?,
    };
    for directory in directories {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            // It went away between the two looks.
            Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV)) => {}
            Err(e) => return Err(e),
        }
    }
    // A process of a pid namespace that is not visible here has no number.
    pids.retain(|pid| *pid > 0);
    Ok(pids)
}

/// Sends SIGKILL to each. A pid read from a group is the group's at that moment; that it ends and comes round again before the next
/// instruction would take the whole range of pids in between.
fn kill_each(pids: &[i32]) -> io::Result<()> {
    for pid in pids {
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Removes a group of one hierarchy and those below it.
fn remove_groups(root: &Path) -> io::Result<()> {
    let directories = match subtree(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for directory in directories {
        match fs::remove_dir(&directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
