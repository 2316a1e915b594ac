//! The data of an instance as one stream: what a backup stores and a restore puts back. A tar with everything that the instance wrote: the
//! VM's own disk, or the container's own layer, with owners, attributes and deleted names. Nobody may write meanwhile: the caller holds the
//! instance still, or it does not run.

use crate::host::Host;
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
};
use yun_types::{InstanceId, InstanceKind};

/// Makes the same data the same bytes, so that nothing is stored twice.
const PACK: [&str; 8] = [
    "--create",
    "--format=pax",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--sort=name",
    "--numeric-owner",
    "--sparse",
    "--xattrs",
    "--xattrs-include=*",
];
const UNPACK: [&str; 6] =
    ["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs", "--xattrs-include=*"];

/// What an instance of a kind keeps in its directory.
fn part(kind: InstanceKind) -> &'static str {
    match kind {
        InstanceKind::Vm => "disk.qcow2",
        InstanceKind::Container => "upper",
    }
}

/// The bytes of an instance's data, as they are read.
#[derive(Debug)]
pub struct Packed {
    /// Nothing if the instance never wrote.
    running: Option<(Child, ChildStdout, ChildStderr)>,
}

/// Begins to read an instance's data. One that never started has none.
pub fn pack(host: &Host, id: InstanceId, kind: InstanceKind) -> io::Result<Packed> {
    let directory = host.instance_dir(id);
    if !directory.join(part(kind)).exists() {
        return Ok(Packed { running: None });
    }
    let mut child = Command::new("tar")
        .args(PACK)
        .arg("--directory")
        .arg(&directory)
        .arg(part(kind))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    match (child.stdout.take(), child.stderr.take()) {
        (Some(out), Some(err)) => Ok(Packed { running: Some((child, out, err)) }),
        _ => Err(io::Error::other("tar has no output")),
    }
}

impl Read for Packed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((child, out, err)) = &mut self.running else { return Ok(0) };
        let read = out.read(into)?;
        if read == 0 && !into.is_empty() {
            let ended = ended(child, err);
            self.running = None;
            ended?;
        }
        Ok(read)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        if let Some((child, ..)) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Data on its way into an instance's directory, beside what is there until it is whole.
#[derive(Debug)]
pub struct Unpacking {
    child: Child,
    input: Option<ChildStdin>,
    draft: PathBuf,
    directory: PathBuf,
    kind: InstanceKind,
}

/// Begins to put data back for an instance that does not run.
pub fn unpack(host: &Host, id: InstanceId, kind: InstanceKind) -> io::Result<Unpacking> {
    unpack_into(&host.instance_dir(id), kind)
}

/// The same into any directory, to prove a backup.
pub fn unpack_into(directory: &Path, kind: InstanceKind) -> io::Result<Unpacking> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = directory.join(".restore");
    match fs::remove_dir_all(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&draft)?;
    let mut child = Command::new("tar")
        .args(UNPACK)
        .arg("--directory")
        .arg(&draft)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take();
    Ok(Unpacking { child, input, draft, directory: directory.to_owned(), kind })
}

impl Write for Unpacking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Unpacking {
    /// Everything was written: puts it in its place. The disk of a VM gets `base` under it. `Ok` with the place, nothing if there was no data.
    pub fn finish(mut self, base: Option<&Path>) -> io::Result<Option<PathBuf>> {
        drop(self.input.take());
        let mut err = self.child.stderr.take().ok_or_else(|| io::Error::other("tar has no output"))?;
        ended(&mut self.child, &mut err)?;
        let (arrived, place) = (self.draft.join(part(self.kind)), self.directory.join(part(self.kind)));
        if !arrived.exists() {
            fs::remove_dir_all(&self.draft)?;
            return Ok(None);
        }
        if let (InstanceKind::Vm, Some(base)) = (self.kind, base) {
            rebase(&arrived, base)?;
        }
        if place.is_dir() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&arrived, &place)?;
        fs::File::open(&self.directory)?.sync_all()?;
        fs::remove_dir_all(&self.draft)?;
        Ok(Some(place))
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.draft);
    }
}

/// The image may lie elsewhere now than when the backup was made; its content is the same.
fn rebase(disk: &Path, base: &Path) -> io::Result<()> {
    let output = Command::new("qemu-img")
        .args(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(base)
        .arg(disk)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("qemu-img cannot put the disk on its image: {why}")))
}

/// Whether a VM's disk is whole, as QEMU's own check has it.
pub fn check_disk(disk: &Path) -> io::Result<()> {
    let output =
        Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(disk).stdin(Stdio::null()).output()?;
    match output.status.code() {
        // Leaked clusters cost room and harm nobody.
        Some(0 | 3) => Ok(()),
        _ => Err(io::Error::other(format!("qemu-img check: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

fn ended(child: &mut Child, err: &mut ChildStderr) -> io::Result<()> {
    let mut said = String::new();
    err.take(8192).read_to_string(&mut said)?;
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let said: Vec<&str> = said.trim().lines().take(3).collect();
    Err(io::Error::other(format!("tar ended with {status}: {}", said.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    #[test]
    fn what_a_container_wrote_and_deleted_comes_back() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED the data of a container: it needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let host = Host::open(dir.path()).unwrap();
        let id = |n: u128| InstanceId(uuid::Uuid::from_u128(n));
        let upper = host.instance_dir(id(1)).join("upper");
        fs::create_dir_all(upper.join("data")).unwrap();
        fs::write(upper.join("data/file"), "kept").unwrap();
        std::os::unix::fs::chown(upper.join("data/file"), Some(1234), Some(77)).unwrap();
        // A deleted name in an overlay is a device 0/0; an opaque directory has an attribute.
        nix::sys::stat::mknod(&upper.join("gone"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0)
            .unwrap();
        xattr::set(upper.join("data"), "trusted.overlay.opaque", b"y").unwrap();
        let read = || {
            let mut bytes = Vec::new();
            pack(&host, id(1), InstanceKind::Container).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let bytes = read();
        assert_eq!(bytes, read(), "the same data gives other bytes");
        let mut unpacking = unpack(&host, id(2), InstanceKind::Container).unwrap();
        unpacking.write_all(&bytes).unwrap();
        let place = unpacking.finish(None).unwrap().unwrap();
        let meta = fs::metadata(place.join("data/file")).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), fs::read_to_string(place.join("data/file")).unwrap()),
            (1234, 77, "kept".to_owned())
        );
        let gone = fs::symlink_metadata(place.join("gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(xattr::get(place.join("data"), "trusted.overlay.opaque").unwrap().unwrap(), b"y");
        // One that never wrote has nothing, and a stream that is cut short is an error that leaves nothing.
        let mut nothing = Vec::new();
        pack(&host, id(3), InstanceKind::Vm).unwrap().read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
        let mut cut = unpack(&host, id(4), InstanceKind::Container).unwrap();
        cut.write_all(&bytes[..700]).unwrap();
        assert!(cut.finish(None).is_err());
        assert_eq!(fs::read_dir(host.instance_dir(id(4))).unwrap().count(), 0);
    }
}
