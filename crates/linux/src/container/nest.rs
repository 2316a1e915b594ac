//! The user namespace of a container, and the network namespace that belongs to it: root inside is nobody outside.
//!
//! Each container gets a *range* of 65,536 user and group ids of the host, that no other container of this cloud has. Which one is written
//! down beside its data, so that it stays the same for its whole life. Both namespaces are kept by files, like those of the network.

use super::{files::Files, idmap::Mapped, process::boot_id};
use crate::{host::Host, network::Namespace};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use yun_types::{InstanceId, Security};

/// Ids in one range.
pub(super) const SIZE: u32 = 1 << 16;
/// The ranges that are ours, each named by its first id divided by [`SIZE`]: above those that systemd and `adduser` give out.
const FIRST: u32 = 0x7000;
const COUNT: u32 = 0x8e00;
/// How long the helper that makes namespaces may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container's own namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nest {
    /// The first id of its range.
    pub(super) base: u32,
    /// The file that keeps its user namespace.
    pub(super) user: PathBuf,
}

impl Nest {
    /// The namespaces that are there for this container.
    pub(super) fn of(files: &Files) -> Option<Self> {
        let user = user_file(files);
        Namespace::is_kept(&user).then_some(())?;
        Some(Self { base: read(&files.durable)?, user })
    }

    /// True if files there can be shown with the container's own owners. Some file systems cannot do that; there its users are nobody.
    pub(super) fn can_map(&self, source: &Path) -> bool {
        fs::File::open(&self.user).and_then(|namespace| Mapped::of(source, &namespace, false)).is_ok()
    }
}

/// True if these wishes ask for a user namespace.
pub(super) fn wanted(security: &Security) -> bool {
    security.userns && !security.privileged
}

fn user_file(files: &Files) -> PathBuf {
    files.run.join("user")
}

fn read(durable: &Path) -> Option<u32> {
    fs::read_to_string(durable.join("range")).ok()?.trim().parse().ok()
}

/// Who has which range. Learnt from the disk at the first question.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<Option<HashMap<u32, InstanceId>>>);

impl Ranges {
    /// The first id of an instance's range; gives it one if it has none.
    pub(super) fn of(&self, host: &Host, files: &Files) -> io::Result<u32> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = book.get_or_insert_with(|| {
            let folder = fs::read_dir(host.state().join("instances")).into_iter().flatten().flatten();
            folder.filter_map(|entry| Some((read(&entry.path())?, entry.file_name().to_str()?.parse().ok()?))).collect()
        });
        if let Some(base) = read(&files.durable).filter(|base| taken.get(base).is_none_or(|owner| *owner == files.id)) {
            taken.insert(base, files.id);
            return Ok(base);
        }
        // Beginning at a place that depends on the id, so that several clouds on one host seldom meet.
        let (seed, _) = files.id.0.as_u64_pair();
        let start = u32::try_from(seed % u64::from(COUNT)).unwrap_or_default();
        let free = (0..COUNT)
            .map(|step| (FIRST + (start + step) % COUNT) * SIZE)
            .find(|base| !taken.contains_key(base))
            .ok_or_else(|| {
                io::Error::other("every range of user ids is taken: remove containers that are not needed")
            })?;
        fs::write(files.durable.join("range"), format!("{free}\n"))?;
        taken.insert(free, files.id);
        Ok(free)
    }

    /// Gives back what a removed instance had.
    pub(super) fn forget(&self, id: InstanceId) {
        if let Some(taken) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            taken.retain(|_, owner| *owner != id);
        }
    }
}

/// Makes both namespaces, unless they are there. Nothing may run in them.
pub(super) fn make(shim: &Path, base: u32, user: &Path, net: &Path) -> io::Result<()> {
    if Namespace::is_kept(user) && Namespace::is_kept(net) {
        return Ok(());
    }
    release(user)?;
    release(net)?;
    let mut helper = Command::new(shim);
    helper.arg("nest").env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = helper.spawn()?;
    let answer = keep(&mut child, base, user, net);
    // It ends with its standard input, and at once if something went wrong.
    drop(child.stdin.take());
    if answer.is_err() {
        let _ = child.kill();
    }
    child.wait()?;
    answer
}

fn keep(child: &mut std::process::Child, base: u32, user: &Path, net: &Path) -> io::Result<()> {
    let Some(out) = child.stdout.take() else { return Err(io::Error::other("the helper has no output")) };
    let mut poll = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&out), nix::poll::PollFlags::POLLIN)];
    let limit = nix::poll::PollTimeout::try_from(PATIENCE).unwrap_or(nix::poll::PollTimeout::MAX);
    if nix::poll::poll(&mut poll, limit)? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the helper that makes namespaces does not answer"));
    }
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err(io::Error::other(format!("this kernel makes no user namespaces: {}", line.trim())));
    }
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let map = format!("0 {base} {SIZE}\n");
    fs::write(process.join("uid_map"), &map)?;
    fs::write(process.join("gid_map"), &map)?;
    for (file, kind) in [(user, "user"), (net, "net")] {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(file)?;
        mount(Some(&process.join("ns").join(kind)), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

/// Lets a namespace go: it ends with its last process. Ok when nothing is there.
pub(super) fn release(file: &Path) -> io::Result<()> {
    if Namespace::is_kept(file) {
        umount2(file, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Lets a container's user namespace go.
pub(super) fn release_user(files: &Files) -> io::Result<()> {
    release(&user_file(files))
}

/// Makes the namespaces of a container that does not run, or takes them away if it should have none of its own.
pub(super) fn enclose(shim: &Path, ranges: &Ranges, host: &Host, files: &Files, nested: bool) -> io::Result<()> {
    let (user, net) = (user_file(files), Namespace::file(host, files.id));
    if !nested {
        if Namespace::is_kept(&user) {
            // The network's namespace belonged to it.
            release(&user)?;
            release(&net)?;
        }
        return Ok(());
    }
    super::files::make_private(&files.durable)?;
    super::files::make_private(&files.run)?;
    let base = ranges.of(host, files)?;
    // Root inside has to find the way to its own file tree, and nobody else.
    std::os::unix::fs::chown(&files.run, Some(0), Some(base))?;
    open_to(&files.run, 0o710)?;
    if let Some(parent) = files.run.parent() {
        open_to(parent, 0o711)?;
    }
    make(shim, base, &user, &net)
}

fn open_to(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Why processes without rights cannot reach what is below a directory: one above it is closed.
pub(super) fn unreachable(path: &Path) -> Option<String> {
    let closed = path.ancestors().find(|above| fs::metadata(above).is_ok_and(|found| found.mode() & 0o001 == 0))?;
    let shown = closed.display();
    Some(format!(
        "directory {shown} is closed to others, and root inside a container is one of them: run chmod o+x {shown}"
    ))
}

/// A range for a trial, of the last ones, and other ones in each boot.
pub(super) fn trial_base() -> u32 {
    let seed = boot_id().unwrap_or_default().bytes().map(u32::from).sum::<u32>() ^ std::process::id();
    (FIRST + COUNT + seed % 0x100) * SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(host: &Host, id: u128) -> Files {
        let files = Files::new(host, InstanceId(uuid::Uuid::from_u128(id)));
        fs::create_dir_all(&files.durable).unwrap();
        files
    }

    #[test]
    fn no_two_have_the_same_range_and_each_keeps_its_own() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::open(root.path()).unwrap();
        let ranges = Ranges::default();
        // The same place to begin at.
        let (one, two) = (files(&host, 1), files(&host, 2));
        let (first, second) = (ranges.of(&host, &one).unwrap(), ranges.of(&host, &two).unwrap());
        assert!(first != second && first % SIZE == 0 && first >= 0x7000_0000);
        let again = Ranges::default();
        assert_eq!(again.of(&host, &two).unwrap(), second);
        assert_eq!(again.of(&host, &one).unwrap(), first);
        again.forget(one.id);
        fs::remove_dir_all(&one.durable).unwrap();
        assert_eq!(again.of(&host, &files(&host, 3)).unwrap(), first);
    }

    #[test]
    fn a_copied_range_is_not_shared() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::open(root.path()).unwrap();
        let (one, two) = (files(&host, 1), files(&host, 2));
        let ranges = Ranges::default();
        let first = ranges.of(&host, &one).unwrap();
        fs::copy(one.durable.join("range"), two.durable.join("range")).unwrap();
        assert_ne!(ranges.of(&host, &two).unwrap(), first);
    }

    #[test]
    fn a_closed_directory_is_named() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a");
        fs::create_dir(&inner).unwrap();
        open_to(root.path(), 0o700).unwrap();
        let said = unreachable(&inner).unwrap();
        assert!(said.contains(&root.path().display().to_string()) && said.contains("chmod o+x"), "{said}");
    }
}
