//! Starting, finding and ending yun's own server process, and handing the terminal over to another program.

use crate::command::Program;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use yun_drivers::{DriverError, Result};

/// A process that cannot be taken for another one: pids are used again, start times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it began, in clock ticks after the host did (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl ProcessId {
    /// This process.
    pub fn current() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses; what counts comes after the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// True while this very process lives.
    pub fn lives(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Asks it to end, and ends it after `grace`. True if there was something to end.
    pub async fn end(&self, grace: Duration) -> Result<bool> {
        if !self.lives() {
            return Ok(false);
        }
        self.signal(Signal::SIGTERM)?;
        if !self.gone_within(grace).await {
            self.signal(Signal::SIGKILL)?;
            self.gone_within(Duration::from_secs(5)).await;
        }
        Ok(true)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(DriverError::io(format!("send {signal} to process {}", self.pid), e.into())),
        }
    }

    async fn gone_within(&self, limit: Duration) -> bool {
        let until = tokio::time::Instant::now() + limit;
        while self.lives() {
            if tokio::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

/// Starts a program that outlives us, in a session of its own, writing to `log`.
pub fn spawn<S: AsRef<OsStr>>(program: &Path, arguments: &[S], log: &Path) -> Result<ProcessId> {
    let open = || {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|e| DriverError::io(format!("open the log {}", log.display()), e))
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(open()?).stderr(open()?).current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let child = command.spawn().map_err(|e| DriverError::io(format!("start {}", program.display()), e))?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    ProcessId::of(pid).ok_or_else(|| {
        DriverError::unavailable("ServerEnded", format!("the server ended at once: {} says why", log.display()))
    })
}

/// Replaces this process. Returns only if that failed.
pub fn become_program<S: AsRef<OsStr>>(name: &str, package: &str, arguments: &[S]) -> DriverError {
    let error = Command::new(name).args(arguments).exec();
    Program { name, package, limit: Duration::ZERO }.spawn_error(error)
}

/// The name of yun's unit.
pub const UNIT: &str = "yun.service";

/// True where systemd is the init system.
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Installs the unit and starts it.
pub async fn systemd_start(program: &Path, arguments: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\nDescription=yun cloud server\nAfter=network-online.target\nWants=network-online.target\n\n[Service]\nExecStart={} {arguments}\n\
         Restart=on-failure\nRestartSec=1\n# What runs must not depend on us running: only the server itself is ended.\nKillMode=process\nDelegate=yes\n\
         LimitNOFILE=1048576\nTasksMax=infinity\n\n[Install]\nWantedBy=multi-user.target\n",
        program.display()
    );
    let path = Path::new("/etc/systemd/system").join(UNIT);
    fs::write(&path, unit).map_err(|e| DriverError::io(format!("write {}", path.display()), e))?;
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", "--now", UNIT]).await
}

/// Stops the unit, if it is there. True if it ran.
pub async fn systemd_stop() -> Result<bool> {
    if !systemd_runs() || !Path::new("/etc/systemd/system").join(UNIT).exists() {
        return Ok(false);
    }
    // Fails, by its exit code, where the unit does not run.
    let ran = systemctl(&["is-active", "--quiet", UNIT]).await.is_ok();
    systemctl(&["disable", "--now", UNIT]).await?;
    Ok(ran)
}

async fn systemctl(arguments: &[&str]) -> Result<()> {
    Program { name: "systemctl", package: "systemd", limit: Duration::from_secs(60) }
        .run(arguments, None)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = ProcessId::current().unwrap();
        assert!(me.lives());
        assert!(!ProcessId { started: me.started + 1, ..me }.lives());
        assert_eq!(ProcessId::of(-1), None);
    }

    #[tokio::test]
    async fn a_spawned_program_lives_on_and_can_be_ended() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let process = spawn(Path::new("/bin/sleep"), &["1000"], &log).unwrap();
        assert!(process.lives());
        assert!(process.end(Duration::from_secs(5)).await.unwrap());
        assert!(!process.lives());
        assert!(!process.end(Duration::ZERO).await.unwrap());
    }
}
