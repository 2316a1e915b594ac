//! Processes of containers, which are not ours to wait for: proved by pid and start time, held by a pidfd.

#![expect(unsafe_code, reason = "pidfd calls are not in the libraries that we use")]

use nix::libc;
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use tokio::io::unix::AsyncFd;

/// A process within one boot of the host: pids come round again, a pid with its start time does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    /// Its pid on the host.
    pub(super) pid: i32,
    /// When it began, in clock ticks since the boot.
    pub(super) started: u64,
}

impl Process {
    /// The living process that has this pid now.
    pub(super) fn now(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: living_since(&stat)? })
    }

    /// True while it lives. A zombie does not.
    pub(super) fn is_alive(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    /// Takes hold of it; `None` if it is dead.
    pub(super) fn hold(self) -> io::Result<Option<Held>> {
        if self.pid <= 0 {
            return Ok(None);
        }
        // SAFETY: pidfd_open(2) takes two numbers.
        let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, libc::PIDFD_NONBLOCK) };
        let Some(raw) = i32::try_from(answer).ok().filter(|fd| *fd >= 0) else {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        };
        // SAFETY: the kernel has just given this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // Asked after taking hold: from here on the pid cannot be given to another process unseen.
        Ok(if self.is_alive() { Some(Held { fd }) } else { None })
    }

    /// Resolves when it is dead.
    pub(super) async fn ended(self) -> io::Result<()> {
        match self.hold()? {
            None => Ok(()),
            Some(held) => {
                // SAFETY: the registration owns the descriptor, which stays open and the same until it is dropped.
                let watched = unsafe { AsyncFd::register(held.fd) }?;
                watched.readable().await.map(drop)
            }
        }
    }
}

/// A hold on a process: signals through it reach that process or nobody.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
}

impl Held {
    /// Sends a signal. Ok if the process is dead.
    pub(super) fn signal(&self, number: i32) -> io::Result<()> {
        // SAFETY: the descriptor lives as long as `self`; without a siginfo the kernel fills in its own.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if answer == 0 || error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
    }
}

/// The start time in `/proc/PID/stat` (field 22), unless the process is dead. The name in field 2 may contain anything.
fn living_since(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    (!matches!(fields.next()?, "Z" | "X")).then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// True if a process that is the first of its pid namespace would never see this signal: the kernel drops what such a process neither
/// handles nor blocks (pid_namespaces(7)). False when in doubt, and for a process that ignores the signal: it chose to go on for a while.
pub(super) fn drops_signal(pid: i32, number: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let Some(bit) = u32::try_from(number).ok().and_then(|n| n.checked_sub(1)).and_then(|n| 1u64.checked_shl(n)) else {
        return false;
    };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("status")).is_ok_and(|status| {
            let mask = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX)
            };
            (mask("SigCgt:") | mask("SigBlk:") | mask("SigIgn:")) & bit == 0
        })
    })
}

/// Names the boot of the host.
pub(super) fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// The number of a signal, from its name with or without `SIG`, from a number, or from `RTMIN+n`.
pub(super) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = short.strip_prefix("RTMIN") {
        let offset: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read_behind_any_name_and_never_from_the_dead() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(living_since(&format!("7 (x) Z (y) S {rest}")), Some(4711));
        assert_eq!(living_since(&format!("7 (x) Z {rest}")), None);
        assert_eq!(living_since("7 (x"), None);
        let me = Process::now(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive() && !Process { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn signals_go_by_any_of_their_names() {
        for (name, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "SIGRTMIN+99", "SIGRTMIN-1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
