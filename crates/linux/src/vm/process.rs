//! Processes that are not ours to wait for: named so that a reused pid is never taken for them, and watched through a pidfd.

use nix::{libc, sys::signal::Signal};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use tokio::io::unix::AsyncFd;

/// A process, once and for all: pids come round again, a pid with its start time does not within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// The pid.
    pub(super) pid: i32,
    /// When it began, in clock ticks since the boot of the host.
    pub(super) started: u64,
}

impl Process {
    /// The process that has this pid now, if it is alive.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|started| Self { pid, started })
    }

    /// True while it lives; a zombie is dead.
    pub(super) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// True if one of its arguments is `word`.
    pub(super) fn has_argument(&self, word: &str) -> bool {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    }

    /// Takes hold of it. `None` if it is dead.
    pub(super) fn hold(&self) -> io::Result<Option<Held>> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, libc::PIDFD_NONBLOCK) };
        let raw = match i32::try_from(raw) {
            Ok(raw) if raw >= 0 => raw,
            _ => {
                let error = io::Error::last_os_error();
                return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
            }
        };
        // SAFETY: the call above returned this descriptor to us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // The pid may have been given to another process before the descriptor was made; after it, never.
        if !self.is_alive() {
            return Ok(None);
        }
        // SAFETY: the descriptor is owned by the registration and never given away, so it is open and the same for all of its life.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Some(Held { fd }))
    }
}

/// A process that we have hold of: signals reach it and nobody else.
#[derive(Debug)]
pub(super) struct Held {
    fd: AsyncFd<OwnedFd>,
}

impl Held {
    /// Resolves once it is dead.
    pub(super) async fn ended(&self) -> io::Result<()> {
        // A pidfd becomes readable when the process dies, and stays so.
        self.fd.readable().await.map(drop)
    }

    /// A descriptor of ours for the file that it has under this number.
    pub(super) fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd takes three integers and touches no memory of ours; the pidfd is open as long as `self` lives.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.fd.get_ref().as_raw_fd(), number, 0) };
        match i32::try_from(raw) {
            // SAFETY: the call above returned this descriptor to us; nobody else owns it.
            Ok(raw) if raw >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a signal. Ok if it is dead already.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let fd = self.fd.get_ref().as_raw_fd();
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open as long as `self` lives, and a null siginfo asks the kernel to fill in its own.
        let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, none, 0) };
        if answer == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
    }
}

/// The start time in a line of `/proc/PID/stat`; `None` for the dead. The name in it may hold anything, also spaces and parentheses.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // The state is field 3, the start time field 22 (proc_pid_stat(5)).
    fields.nth(18)?.parse().ok()
}

/// Names the boot of the host: what was true of a process before another boot is no longer.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The release of the kernel.
pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_read_behind_any_name() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(parse_stat(&format!("7 (a) b) S {rest}")), Some(4711));
        assert_eq!(parse_stat(&format!("7 (qemu) Z {rest}")), None);
        assert_eq!(parse_stat("7 (qemu"), None);
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
    }

    #[tokio::test]
    async fn a_held_process_tells_when_it_ends() {
        let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let held = process.hold().unwrap().unwrap();
        held.signal(Signal::SIGKILL).unwrap();
        held.ended().await.unwrap();
        assert!(!process.is_alive());
        child.wait().await.unwrap();
        assert!(process.hold().unwrap().is_none());
        held.signal(Signal::SIGKILL).unwrap();
    }
}
