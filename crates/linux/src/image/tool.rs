//! Programs of the host that take long: followed line by line, ended with all their children when nobody waits for them any more.

use super::{fault, job::Job};
use crate::command::{Program, tail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use yun_drivers::{DriverError, ErrorKind, Result};

/// A program to run.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    package: &'static str,
    limit: Duration,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: Vec<(&'static str, OsString)>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

/// The most that is kept of what a program prints.
const KEPT: usize = 4 << 20;

/// Ends the program and its children when the future is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Tool {
    pub(super) fn new(name: &'static str, package: &'static str, limit: Duration) -> Self {
        Self { name, package, limit, args: vec![], dir: None, env: vec![] }
    }
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }
    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }
    pub(super) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
    pub(super) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    /// Runs it; a failure carries the last lines that it printed.
    pub(super) async fn run(self, job: &Job) -> Result<String> {
        self.follow(job, |_| {}).await
    }

    /// The same, giving each line of standard error and output to `line`.
    pub(super) async fn follow(self, job: &Job, line: impl FnMut(&str) + Send) -> Result<String> {
        let name = self.name;
        let ended = self.end(job, line).await?;
        if ended.code == 0 {
            return Ok(ended.out);
        }
        let said = tail(if ended.err.trim().is_empty() { &ended.out } else { &ended.err }, 6);
        Err(classify(format!("{name} failed with status {}: {said}", ended.code), &said))
    }

    /// Runs it to its end, whatever its status.
    pub(super) async fn end(mut self, job: &Job, mut line: impl FnMut(&str) + Send) -> Result<Ended> {
        job.check()?;
        let program = Program { name: self.name, package: self.package, limit: self.limit };
        let mut command = Command::new(self.name);
        command
            .args(&self.args)
            .envs(self.env.drain(..))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
        command.stdout(Stdio::piped());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn().map_err(|e| program.spawn_error(e))?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (mut out_text, mut err_text) = (String::new(), String::new());
        let ending = async {
            let lines = std::sync::Mutex::new(&mut line);
            let seen = |text: &str| (lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(text);
            let (status, ..) =
                tokio::join!(child.wait(), read_lines(out, &mut out_text, seen), read_lines(err, &mut err_text, seen));
            status
        };
        let status = tokio::select! {
            status = tokio::time::timeout(self.limit, ending) => status,
            () = job.work.cancelled() => return Err(fault::cancelled()),
        };
        let status = status.map_err(|_| {
            let name = self.name;
            DriverError::new(
                ErrorKind::Timeout,
                "ProgramHangs",
                format!("{name} did not end within {:?}; it was ended", self.limit),
            )
        })?;
        let status = status.map_err(|e| DriverError::io(format!("wait for {}", self.name), e))?;
        group.0 = None;
        Ok(Ended { code: status.code().unwrap_or(-1), out: out_text, err: err_text })
    }
}

/// Some failures of programs have a better name than "it failed".
fn classify(message: String, said: &str) -> DriverError {
    if said.contains("No space left on device") || said.contains("not enough free space") {
        return DriverError::new(
            ErrorKind::NoSpace,
            "DiskFull",
            format!("{message}; free some space, for example with yun image rm, and try again"),
        );
    }
    if said.contains("Unable to locate package") || said.contains("No packages found") {
        let way_out =
            "check the package's name, and the release if one was given; apt-get update refreshes the node's lists";
        return DriverError::bad_request("PackageNotFound", format!("{message}; {way_out}"));
    }
    if ["Failed to fetch", "Could not resolve", "Could not connect", "Connection failed"]
        .iter()
        .any(|s| said.contains(s))
    {
        let way_out = "check this node's way to its Debian mirror, or run apt-get update";
        return DriverError::unavailable("MirrorUnreachable", format!("{message}; {way_out}"));
    }
    DriverError::new(ErrorKind::Internal, "ProgramFailed", message)
}

/// Collects what a program prints, and gives each line (a carriage return ends one too: progress bars) away.
async fn read_lines(pipe: Option<impl AsyncRead + Unpin>, text: &mut String, seen: impl Fn(&str)) {
    let Some(mut pipe) = pipe else { return };
    let (mut chunk, mut line) = (vec![0; 1 << 14], Vec::new());
    while let Ok(read) = pipe.read(&mut chunk).await {
        if read == 0 {
            break;
        }
        if text.len() < KEPT {
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        for byte in &chunk[..read] {
            match byte {
                b'\n' | b'\r' => seen(&String::from_utf8_lossy(&std::mem::take(&mut line))),
                byte if line.len() < 4096 => line.push(*byte),
                _ => {}
            }
        }
    }
}
