//! What keeps this host from being a good node, and how to mend it. Looks and tries, but changes nothing: trials happen in namespaces that
//! are thrown away.
//!
//! A *finding* is one thing that was looked at. Its mending is an exact command, or one sentence where no command exists.

#![allow(unsafe_code, reason = "nobody wraps adjtimex")]

mod kernel;
mod neighbours;
mod programs;

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;
use std::{fmt, path::Path};
use yun_types::{Accel, Bytes, DriverFacts};

use super::{Host, inventory::Disk};

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but could be better, or something rare will not work.
    Warning,
    /// Something that yun needs does not work.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two; the same in every run.
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found, for people.
    pub found: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), mend: None }
    }
    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), mend: Some(mend.into()) }
    }
    fn problem(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Problem, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Examines this host. `host` is absent before the first start; `drivers` is what the drivers' own probes said, if they were asked.
pub async fn doctor(host: Option<&Host>, drivers: &[DriverFacts]) -> Vec<Finding> {
    let state = host.map_or_else(|| Path::new("/var/lib").to_owned(), |h| h.state().to_owned());
    let (programs, filter) = tokio::join!(programs::check(), kernel::packet_filter());
    let rest = tokio::task::spawn_blocking(move || {
        let mut findings = vec![root()];
        findings.extend(kernel::check());
        findings.extend([disk(&state), clock(), open_files()]);
        findings.extend(neighbours::check());
        findings
    });
    let mut findings = rest.await.unwrap_or_default();
    findings.push(filter);
    findings.extend(programs);
    findings.extend(drivers.iter().map(driver));
    findings
}

fn root() -> Finding {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Finding::ok("root", "running as root");
    }
    Finding::problem("root", format!("running as user {user}; networks, mounts and cgroups need root"), "sudo yun up")
}

fn disk(state: &Path) -> Finding {
    // Before the first start the directory is not there, but its file system is.
    let existing = state.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let disk = match Disk::read(existing) {
        Ok(disk) => disk,
        Err(e) => {
            return Finding::problem(
                "disk",
                format!("cannot read {}: {e}", existing.display()),
                format!("ls -ld {}", existing.display()),
            );
        }
    };
    let found = format!("{} of {} free under {}", disk.free.human(), disk.total.human(), existing.display());
    let mend = "yun image ls, then yun image rm what is not needed; or start yun with --root on a larger disk";
    if disk.free < Bytes::mib(512) {
        Finding::problem("disk", found, mend)
    } else if disk.free < Bytes::gib(5).max(Bytes(disk.total.0 / 20)) {
        Finding::warning("disk", found, mend)
    } else {
        Finding::ok("disk", found)
    }
}

fn clock() -> Finding {
    // SAFETY: `timex` is plain old memory for which all zeros are valid, and zero modes mean that nothing is changed.
    let mut state: nix::libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `timex`, which outlives the call.
    match unsafe { nix::libc::adjtimex(&raw mut state) } {
        nix::libc::TIME_ERROR => {
            let found = "the clock is not synchronised; tokens, certificates and logs of several nodes will disagree";
            Finding::warning("clock", found, "apt-get install chrony, or timedatectl set-ntp true")
        }
        -1 => Finding::warning("clock", "it cannot be told whether the clock is synchronised", "timedatectl status"),
        _ => Finding::ok("clock", "synchronised"),
    }
}

fn open_files() -> Finding {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::warning("open files", "the limit cannot be read", "ulimit -Hn");
    };
    // Each instance takes about ten.
    if hard >= 8192 {
        return Finding::ok("open files", format!("up to {hard}"));
    }
    Finding::warning(
        "open files",
        format!("at most {hard}; enough for some {} instances", hard / 16),
        "ulimit -Hn 65536 before the start, or LimitNOFILE=65536 in the unit",
    )
}

fn driver(facts: &DriverFacts) -> Finding {
    let (check, way_out) = match facts.driver.as_str() {
        "vm" => ("virtual machines", "see the finding on qemu"),
        "container" => ("containers", "see the findings on crun and cgroups"),
        "network" => ("networks", "see the findings on nft and the kernel"),
        "image" => ("images", "see the finding on the disk"),
        _ => ("driver", "yun doctor"),
    };
    let how = facts.accel.map(|a| if a == Accel::Kvm { " with KVM" } else { " emulated (TCG)" }).unwrap_or_default();
    let engine = format!("{}{how}", facts.engine.as_deref().unwrap_or("ready"));
    let found = facts.message.as_ref().map_or_else(|| engine.clone(), |m| format!("{engine}: {m}"));
    if !facts.ready {
        Finding::problem(check, facts.message.clone().unwrap_or(found), way_out)
    } else if facts.accel == Some(Accel::Tcg) {
        Finding::warning(
            check,
            found,
            "ls -l /dev/kvm; in a VM, switch nested virtualisation on; set accel = \"tcg\" to accept it",
        )
    } else if facts.message.is_some() {
        Finding::warning(check, found, way_out)
    } else {
        Finding::ok(check, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_finding_that_is_not_ok_says_how_to_mend_it() {
        let facts = |driver: &str, ready, accel, message: Option<&str>| DriverFacts {
            driver: driver.to_owned(),
            ready,
            engine: Some("X 1".to_owned()),
            accel,
            message: message.map(str::to_owned),
        };
        let drivers = [
            facts("vm", true, Some(Accel::Tcg), Some("slow")),
            facts("container", false, None, Some("crun is missing")),
            facts("network", true, None, None),
        ];
        let findings = doctor(None, &drivers).await;
        for finding in &findings {
            assert_eq!(finding.level == Level::Ok, finding.mend.is_none(), "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
        let level = |check| findings.iter().find(|f| f.check == check).map(|f| f.level);
        assert_eq!(level("virtual machines"), Some(Level::Warning));
        assert_eq!(level("containers"), Some(Level::Problem));
        assert_eq!(level("networks"), Some(Level::Ok));
        for check in [
            "root",
            "kernel",
            "cgroups",
            "disk",
            "clock",
            "qemu",
            "nft",
            "packet filter",
            "forwarding",
            "port 53",
            "port 67",
        ] {
            assert!(level(check).is_some(), "{check} is missing in {findings:?}");
        }
    }
}
