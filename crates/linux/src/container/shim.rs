//! The shim, seen from the driver: put on disk once, started beside each container, proved to be alive by the lock that it holds.

use super::{
    files::{Attempt, Files, Prepared, Running},
    process::Process,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Stdin;

/// The program, compiled from `shim/` when this crate is built.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));

/// Puts the program into the first of these directories from which programs may be started, under a name that says its content. Shims of an
/// older yun go on: the kernel keeps what they run.
pub(super) fn install(directories: &[&Path]) -> io::Result<PathBuf> {
    let allowed = |directory: &&&Path| {
        nix::sys::statvfs::statvfs(**directory)
            .is_ok_and(|stat| !stat.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
    };
    let directory = directories.iter().find(allowed).ok_or_else(|| {
        let names: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} are mounted noexec: mount one of them with exec", names.join(" and ")),
        )
    })?;
    let path = directory.join(format!("shim-{}", hex::encode(&Sha256::digest(PROGRAM)[..6])));
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == PROGRAM.len() as u64) {
        return Ok(path);
    }
    let draft = tempfile::Builder::new()
        .prefix(".shim")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempfile_in(directory)?;
    fs::write(draft.path(), PROGRAM)?;
    draft.persist(&path).map_err(|e| e.error)?;
    Ok(path)
}

/// The lock of one container, held by its shim for as long as that lives, and by the driver while it brings a shim up. It belongs to the
/// open file, so it passes to the shim with the descriptor, without a moment in which nobody holds it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes it; `None` if somebody has it.
    pub(super) fn take(files: &Files) -> io::Result<Option<Self>> {
        let path = files.run.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
            // A removal that came first took the file away with everything else: what was locked is no longer the lock.
            Ok(_) => Ok(fs::metadata(path)
                .is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()))
                .then_some(Self { file })),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// True if somebody has it. Does not take it, not even for a moment.
    pub(super) fn is_held(files: &Files) -> io::Result<bool> {
        let file = match File::options().read(true).write(true).open(files.run.join("lock")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let mut question = whole_file();
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut question))?;
        Ok(i32::from(question.l_type) != libc::F_UNLCK)
    }
}

fn whole_file() -> libc::flock {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the constants are small; the C library declares them wider than the field"
    )]
    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// What every shim is told.
#[derive(Debug, Clone)]
pub(super) struct Launch<'a> {
    /// The program on disk.
    pub(super) program: &'a Path,
    /// The container.
    pub(super) files: &'a Files,
    /// The file that counts kills for lack of memory.
    pub(super) oom_file: PathBuf,
    /// The size of one log file.
    pub(super) log_bytes: u64,
    /// How many log files there are.
    pub(super) log_files: u32,
    /// Whether somebody waits to be attached.
    pub(super) expected: bool,
    /// How long crun may take.
    pub(super) patience: Duration,
}

impl Launch<'_> {
    /// Starts the container. An error is crun's own word, in the form of an error of ours.
    pub(super) async fn run(&self, lock: Lock, attempt: &Attempt, prepared: &Prepared, crun: &Path) -> Result<()> {
        let files = self.files;
        let expected = if self.expected { "expected" } else { "-" };
        let rest: [OsString; 4] =
            [crun.into(), files.crun_root.clone().into(), files.id.to_string().into(), expected.into()];
        let answer = self.start("run", lock, attempt, Some(prepared), &rest).await?;
        answer.map_err(|message| start_error(files, &message))
    }

    /// Gives a running container a new shim.
    pub(super) async fn adopt(&self, lock: Lock, attempt: &Attempt, running: &Running) -> Result<()> {
        let since = running.since.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
        let rest: [OsString; 4] = [
            running.main.pid.to_string().into(),
            running.main.started.to_string().into(),
            since.into(),
            running.keeper.to_string().into(),
        ];
        let answer = self.start("adopt", lock, attempt, self.files.prepared().as_ref(), &rest).await?;
        answer.map_err(|message| {
            DriverError::new(
                ErrorKind::Internal,
                "ShimFailed",
                format!("cannot take up container {} again: {message}", self.files.id),
            )
        })
    }

    /// Starts a shim and reads its report: `Ok(Err(message))` if it says that it failed.
    async fn start(
        &self,
        mode: &str,
        lock: Lock,
        attempt: &Attempt,
        prepared: Option<&Prepared>,
        rest: &[OsString],
    ) -> Result<Result<(), String>> {
        let io = |e: io::Error| DriverError::io(format!("start the shim of container {}", self.files.id), e);
        let mut command = Command::new(self.program);
        command.arg(mode).arg(&attempt.token).arg(&self.files.run).arg(&self.files.durable).arg(&self.oom_file);
        command.arg(self.log_bytes.to_string()).arg(self.log_files.to_string());
        command.arg(if prepared.is_some_and(|prepared| prepared.tty) { "tty" } else { "pipes" });
        command.arg(prepared.map_or(Stdin::Closed, |prepared| prepared.stdin).to_string()).args(rest);
        // Its standard input is the lock: from here on the shim holds it, too.
        command.env_clear().current_dir("/").stdin(lock.file).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = loop {
            match command.spawn() {
                // Another thread forked while the program was being written to disk, and has not yet reached its own exec.
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => tokio::time::sleep(Duration::from_millis(2)).await,
                other => break other.map_err(io)?,
            }
        };
        // This command holds the lock's descriptor as well.
        drop(command);
        let mut said = String::new();
        let Some(mut report) = child.stdout.take() else { return Ok(Err("it has no report".into())) };
        match tokio::time::timeout(self.patience, report.read_to_string(&mut said)).await {
            Ok(read) => read.map_err(io)?,
            Err(_) => {
                let shim = child.id().and_then(|pid| i32::try_from(pid).ok());
                // While the shim lives its children cannot be mistaken for others.
                shim.map(end_children).transpose().map_err(io)?;
                child.start_kill().map_err(io)?;
                // The lock is free once it is dead.
                let _ = tokio::time::timeout(self.patience, child.wait()).await;
                let (id, limit) = (self.files.id, self.patience);
                let message = format!(
                    "container {id} did not start: its runtime hangs, and was ended after {limit:?}; look at the host's load and disk, and at yun doctor"
                );
                return Err(DriverError::new(ErrorKind::Timeout, "StartTimeout", message));
            }
        };
        // The child is left alone on purpose: it outlives this process, and the runtime reaps it if it ends earlier.
        Ok(match said.lines().next() {
            Some("started") => Ok(()),
            Some(line) => Err(line.strip_prefix("failed ").unwrap_or(line).to_owned()),
            None => Err("the shim was killed".to_owned()),
        })
    }
}

/// Kills what a process started, and what those started.
fn end_children(pid: i32) -> io::Result<()> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
        let held = Process::now(child).map(Process::hold).transpose()?.flatten();
        end_children(child)?;
        held.map_or(Ok(()), |held| held.signal(libc::SIGKILL))?;
    }
    Ok(())
}

/// What crun wrote into its log, one sentence a line.
pub(super) fn crun_said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let message = |line: &str| {
        let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
        parsed.and_then(|value| Some(value.get("msg")?.as_str()?.to_owned())).unwrap_or_else(|| line.to_owned())
    };
    let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(message).collect();
    lines.join("; ")
}

/// Turns crun's words into a reason.
fn start_error(files: &Files, shim_said: &str) -> DriverError {
    let crun = crun_said(&files.run.join("crun.log"));
    let words = if crun.is_empty() { shim_said } else { crun.as_str() };
    let (kind, reason, way_out) = classify(words);
    DriverError::new(kind, reason, format!("cannot start container {}: {words}{way_out}", files.id))
}

/// The kind, the reason and the way out that belong to a message of crun's.
fn classify(words: &str) -> (ErrorKind, &'static str, &'static str) {
    let has = |part: &str| words.contains(part);
    if has("cannot start ") && has("os error 2") {
        (ErrorKind::Unavailable, "RuntimeMissing", ": run apt-get install crun")
    } else if has("hybrid mode") {
        (ErrorKind::Unavailable, "CgroupsMixed", ": see yun doctor")
    } else if has("executable file") && has("not found") {
        (
            ErrorKind::BadRequest,
            "EntrypointNotFound",
            ": set container.entrypoint or container.command to a program that the image has",
        )
    } else if has("open executable") || (has("exec") && has("ermission denied")) {
        (ErrorKind::BadRequest, "PermissionDenied", ": choose a program that this user may execute, or another user")
    } else if has("Exec format error") {
        (ErrorKind::BadRequest, "ExecFormat", ": it is no program for this node's processor")
    } else if has("No space left on device") || has("Disk quota exceeded") {
        (ErrorKind::NoSpace, "DiskFull", ": free some space on this node")
    } else if has("chdir") || has("cwd") {
        (ErrorKind::BadRequest, "BadWorkdir", ": choose a working directory that this user may enter")
    } else if has("cannot allocate memory")
        || has("Cannot allocate memory")
        || has("memory.limit_in_bytes")
        || has("memory.max")
    {
        (ErrorKind::BadRequest, "MemoryTooSmall", ": give it more memory")
    } else if has("mount") {
        (ErrorKind::BadRequest, "BadMount", ": check container.mounts")
    } else {
        (ErrorKind::Internal, "StartFailed", "")
    }
}

/// The writer and the reader of logs are two programs: the tests keep their formats one.
#[cfg(test)]
#[path = "../../shim/lines.rs"]
#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "it is a part of the other program")]
mod lines;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_crun_have_reasons() {
        for (words, reason) in [
            ("executable file `/nope` not found in $PATH: No such file or directory", "EntrypointNotFound"),
            ("open executable: Operation not permitted", "PermissionDenied"),
            ("exec container process `/x`: Exec format error", "ExecFormat"),
            ("cannot start crun: No such file or directory (os error 2)", "RuntimeMissing"),
            ("cgroups in hybrid mode not supported, drop all controllers from cgroupv2", "CgroupsMixed"),
            ("write to `/sys/x`: No space left on device", "DiskFull"),
            ("mount `/a` to `b`: No such file or directory", "BadMount"),
            ("something new", "StartFailed"),
        ] {
            assert_eq!(classify(words).1, reason, "{words}");
        }
    }

    #[test]
    fn crun_logs_are_read_as_sentences() {
        let log = tempfile::NamedTempFile::new().unwrap();
        fs::write(log.path(), "{\"msg\":\"first\",\"level\":\"error\"}\nplain\n\n").unwrap();
        assert_eq!(crun_said(log.path()), "first; plain");
        assert_eq!(crun_said(Path::new("/does/not/exist")), "");
    }

    /// A directory from which nothing can be started, as `/run` is on some hosts.
    struct Noexec(tempfile::TempDir);

    impl Noexec {
        fn new() -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let mounted = nix::mount::mount(
                Some("tmpfs"),
                directory.path(),
                Some("tmpfs"),
                nix::mount::MsFlags::MS_NOEXEC,
                None::<&str>,
            );
            mounted.is_ok().then_some(Self(directory))
        }
    }

    impl Drop for Noexec {
        fn drop(&mut self) {
            nix::mount::umount(self.0.path()).unwrap();
        }
    }

    #[test]
    fn the_program_is_installed_once_and_where_it_can_be_started() {
        let directory = tempfile::tempdir().unwrap();
        let first = install(&[directory.path()]).unwrap();
        let written = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(install(&[directory.path()]).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written);
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o755);
        let Some(noexec) = Noexec::new() else {
            eprintln!("SKIPPED: mounting a noexec directory needs root");
            return;
        };
        assert_eq!(install(&[noexec.0.path(), directory.path()]).unwrap(), first);
        assert!(install(&[noexec.0.path()]).unwrap_err().to_string().contains("noexec"));
    }

    mod format {
        use super::super::{super::logs::parse_record, lines};
        use proptest::prelude::*;

        #[test]
        fn times_are_those_of_the_calendar() {
            for (seconds, text) in [
                (0, "1970-01-01T00:00:00.000000007Z"),
                (951_782_400, "2000-02-29T00:00:00.000000007Z"),
                (1_772_323_199, "2026-02-28T23:59:59.000000007Z"),
                (4_102_444_800, "2100-01-01T00:00:00.000000007Z"),
            ] {
                assert_eq!(lines::stamp(seconds, 7), text);
            }
        }

        proptest! {
            #[test]
            fn times_agree_with_a_calendar_library(seconds in 0u64..32_000_000_000, nanos in 0u32..1_000_000_000) {
                let time = chrono::DateTime::from_timestamp(i64::try_from(seconds).unwrap(), nanos).unwrap();
                prop_assert_eq!(lines::stamp(seconds, nanos), time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true));
            }

            /// However the bytes arrive, the records put together again are the bytes.
            #[test]
            fn nothing_is_lost_or_added(chunks in prop::collection::vec((prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), any::<bool>()), 0..20), long in 0usize..40_000) {
                let mut stream = lines::Stream::new(b'o');
                let stamp = lines::stamp(1, 2);
                let (mut out, mut sent) = (Vec::new(), vec![b'x'; long]);
                stream.push(&sent.clone(), &stamp, &mut out);
                for (chunk, pause) in &chunks {
                    sent.extend_from_slice(chunk);
                    stream.push(chunk, &stamp, &mut out);
                    if *pause {
                        stream.flush(b'P', &stamp, &mut out);
                    }
                }
                stream.flush(b'F', &stamp, &mut out);
                let mut got = Vec::new();
                for line in out.split_inclusive(|byte| *byte == b'\n') {
                    let record = parse_record(&line[..line.len() - 1]).expect("a record");
                    prop_assert!(record.text.len() <= lines::LONGEST);
                    got.extend_from_slice(record.text);
                    if record.ends_line {
                        got.push(b'\n');
                    }
                }
                // The last line gets an end, which the process did not write.
                if got.len() > sent.len() {
                    prop_assert_eq!(got.pop(), Some(b'\n'));
                }
                prop_assert_eq!(got, sent);
            }
        }
    }
}
