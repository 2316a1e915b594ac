//! Starting programs: bounded in time, never through a shell, and with an answer when the program is missing.

use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};
use yun_drivers::{DriverError, ErrorKind, Result};

/// What a program printed.
#[derive(Debug, Clone, Default)]
pub struct Printed {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A program to run to its end.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its name, found in `PATH` and in the system directories.
    pub name: &'a str,
    /// The Debian package that brings it.
    pub package: &'a str,
    /// How long it may take.
    pub limit: Duration,
}

impl Program<'_> {
    /// Runs it with these arguments, and `input` on its standard input. A failure carries the last lines that it printed.
    pub async fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S], input: Option<&[u8]>) -> Result<Printed> {
        let mut command = Command::new(self.name);
        command.args(args).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(|e| self.spawn_error(e))?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (stdin, input) {
                // A program that stops reading early says why on its standard error.
                let _ = pipe.write_all(bytes).await;
            }
        };
        let (_, output) = tokio::time::timeout(self.limit, async { tokio::join!(feed, child.wait_with_output()) })
            .await
            .map_err(|_| {
                let name = self.name;
                DriverError::new(
                    ErrorKind::Timeout,
                    "ProgramHangs",
                    format!("{name} did not end within {:?}; it was killed", self.limit),
                )
            })?;
        let output = output.map_err(|e| DriverError::io(format!("wait for {}", self.name), e))?;
        let printed = Printed {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        if output.status.success() {
            return Ok(printed);
        }
        let said = tail(if printed.err.trim().is_empty() { &printed.out } else { &printed.err }, 6);
        Err(DriverError::new(
            ErrorKind::Internal,
            "ProgramFailed",
            format!("{} failed ({}): {said}", self.name, output.status),
        ))
    }

    /// The error for a program that could not be started.
    pub fn spawn_error(&self, e: std::io::Error) -> DriverError {
        let Self { name, package, .. } = self;
        if e.kind() == std::io::ErrorKind::NotFound {
            return DriverError::unavailable(
                "ProgramMissing",
                format!("{name} is not installed: run apt-get install {package}"),
            )
            .with(e);
        }
        DriverError::io(format!("start {name}"), e)
    }
}

/// The last `lines` lines of a text, on one line.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("; ")
}
