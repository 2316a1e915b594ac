//! The memory of a VM on disk: written by a QEMU that stands still, and read by the next one, which goes on where the other stopped.
//!
//! ```text
//!  running ─▶ standing still ─▶ memory.draft ─▶ (synced) memory, then resume.json ─▶ QEMU ends
//!  resume.json ─▶ QEMU waits (-incoming defer) ─▶ memory is read ─▶ resume.json removed ─▶ the guest goes on
//! ```
//! The record goes *before* the guest goes on: a memory is never used twice with a disk that has changed since. If the host goes down between
//! the two, the next start is a boot, as after a power failure.

use super::{
    files::{DirectBoot, Files, Plan, read_json, write_json},
    machine::Machine,
    plug::{self, Layout},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::work::Followed;
use yun_types::Cpu;

/// How long a transfer may stand still before it counts as hung.
const STALL: Duration = Duration::from_secs(20);
/// How often a transfer is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What a start needs to go on with a memory: the machine must be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resume {
    pub(super) cpu: Cpu,
    pub(super) memory_mib: u64,
    pub(super) kernel: Option<DirectBoot>,
    pub(super) layout: Layout,
}

impl Resume {
    /// Of the machine that a plan describes, with what is plugged into it.
    pub(super) fn of(plan: &Plan, layout: Layout) -> Self {
        Self { cpu: plan.cpu, memory_mib: plan.memory_mib, kernel: plan.kernel.clone(), layout }
    }
}

/// The memory that the next start goes on with, if there is one.
pub(super) fn wanted(files: &Files) -> Option<Resume> {
    read_json(&files.resume()).ok()
}

/// The plan with the machine that the memory needs, if there is one.
pub(super) fn fit(files: &Files, plan: Plan) -> Plan {
    match wanted(files) {
        Some(Resume { cpu, memory_mib, kernel, .. }) => Plan { cpu, memory_mib, kernel, ..plan },
        None => plan,
    }
}

/// The memory is that of a guest that went on: it is worth nothing any more.
pub(super) fn spend(files: &Files) -> Result<()> {
    // The record first: without it the memory is nothing.
    gone(&files.resume())?;
    gone(&files.memory())
}

/// Drops the memory, if there is one, and the wish to tell its guest who it is.
pub(super) fn forget(files: &Files) -> Result<()> {
    spend(files)?;
    gone(&files.identity())
}

fn gone(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DriverError::io(format!("remove {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// Keeps a memory for the next start. Shares the file's content with where it is.
pub(super) fn keep(files: &Files, memory: &Path, resume: &Resume) -> Result<()> {
    let wrong = |e| DriverError::io(format!("keep the memory {} for the next start", memory.display()), e);
    gone(&files.resume())?;
    gone(&files.memory())?;
    std::fs::hard_link(memory, files.memory()).map_err(wrong)?;
    write_json(&files.resume(), resume)
}

/// Writes what has reached the file system's memory to the disk.
pub(super) async fn sync(path: PathBuf) -> Result<()> {
    let named = path.clone();
    let synced = tokio::task::spawn_blocking(move || std::fs::File::open(&path).and_then(|file| file.sync_all())).await;
    let synced = synced.unwrap_or_else(|_| Err(io::Error::other("the writer was ended")));
    synced.map_err(|e| DriverError::io(format!("write {} to the disk", named.display()), e))
}

/// Writes the memory of a guest that stands still to a new file.
pub(super) async fn save(machine: &Machine, to: &Path, work: &Followed) -> Result<()> {
    gone(to)?;
    let verb = "keep the memory of";
    let ask = async |command: &str, arguments: Value| {
        machine.command(command, arguments).await.map_err(|e| machine.failed(verb, e))
    };
    // Whatever an earlier try left under way.
    let _ = machine.command("migrate_cancel", Value::Null).await;
    ask("migrate-set-parameters", json!({"max-bandwidth": 0})).await?;
    ask("migrate", json!({"uri": format!("file:{}", to.display())})).await.map_err(too_old)?;
    transferred(machine, verb, work).await?;
    sync(to.to_owned()).await
}

/// An old QEMU knows no files.
fn too_old(error: DriverError) -> DriverError {
    if !error.message.contains("unknown migration protocol") {
        return error;
    }
    let message = format!("{}: keeping a memory needs QEMU 8.2 or newer; install it from backports", error.message);
    DriverError::unavailable("QemuTooOld", message)
}

/// Resolves when the memory has been written or read.
pub(super) async fn transferred(machine: &Machine, verb: &str, work: &Followed) -> Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let info = machine.command("query-migrate", Value::Null).await.map_err(|e| machine.failed(verb, e))?;
        let number = |name: &str| info["ram"][name].as_u64().unwrap_or_default();
        match info["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(()),
            status @ ("failed" | "cancelled") => {
                let why = info["error-desc"].as_str().unwrap_or(status);
                return Err(failure(machine, verb, why));
            }
            _ => {}
        }
        if work.is_cancelled() {
            let _ = machine.command("migrate_cancel", Value::Null).await;
            let message = format!("cannot {verb} VM {}: it was taken back", machine.name());
            return Err(DriverError::new(ErrorKind::Cancelled, "Cancelled", message));
        }
        let (sent, total) = (number("transferred"), number("total"));
        if sent != last {
            (last, moved) = (sent, Instant::now());
        }
        if moved.elapsed() > STALL {
            let _ = machine.command("migrate_cancel", Value::Null).await;
            let message = format!(
                "cannot {verb} VM {}: QEMU has moved nothing for {STALL:?}; is the disk of the host too slow or full?",
                machine.name()
            );
            return Err(DriverError::new(ErrorKind::Timeout, "QemuHangs", message));
        }
        let done = total.saturating_sub(number("remaining")) * 100 / total.max(1);
        work.report(u8::try_from(done.min(99)).ok(), format!("{verb} VM {}", machine.name()));
        sleep(LOOK).await;
    }
}

fn failure(machine: &Machine, verb: &str, why: &str) -> DriverError {
    let name = machine.name();
    if why.contains("No space left") {
        let message = format!("cannot {verb} VM {name}: the disk of the host is full; free some space and try again");
        return DriverError::new(ErrorKind::NoSpace, "DiskFull", message);
    }
    DriverError::new(ErrorKind::Internal, "MemoryFailed", format!("cannot {verb} VM {name}: {why}"))
}

/// Gives a QEMU that waits for it its memory, and lets the guest go on. Nothing happens if there is no memory to go on with.
pub(super) async fn go_on(machine: &Machine) -> Result<()> {
    let files = &machine.files;
    if !files.resume().exists() {
        return Ok(());
    }
    let verb = "wake";
    let unreadable = |error: DriverError| {
        let name = machine.name();
        let said = machine.files.said();
        let said = said.trim().lines().last().map_or_else(String::new, |line| format!(" ({line})"));
        let message = format!(
            "{}{said}; start it without its memory: yun stop {name} drops that, and yun start {name} boots it",
            error.message
        );
        DriverError::new(ErrorKind::Damaged, "MemoryDamaged", message)
    };
    let uri = format!("file:{}", files.memory().display());
    let asked = machine.command("migrate-incoming", json!({"uri": uri})).await;
    asked.map_err(|e| unreadable(too_old(machine.failed(verb, e))))?;
    transferred(machine, verb, &Followed::default()).await.map_err(|e| match e.kind {
        ErrorKind::Timeout => e,
        _ => unreadable(e),
    })?;
    spend(files)?;
    machine.command("cont", Value::Null).await.map_err(|e| machine.failed(verb, e))?;
    // What was plugged in since the memory was written. The guest goes on in any case: its memory is there only once.
    if let Err(error) = plug::fit(machine, &files.fittings()).await {
        tracing::warn!(vm = %machine.name(), %error, "a VM woke without a part of what is plugged into it; a restart plugs it in");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{cidata::tests::instance, tests::plan_for};

    #[test]
    fn a_plan_is_that_of_the_memory_while_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path().into(), run: dir.path().into(), next: false };
        let plan = plan_for(&instance(&[], None));
        assert_eq!(fit(&files, plan.clone()), plan);
        let before = Plan { memory_mib: 64, cpu: Cpu(2000), ..plan.clone() };
        let resume = Resume::of(&before, Layout { ports: 5, ..Layout::default() });
        std::fs::write(dir.path().join("kept"), "memory").unwrap();
        keep(&files, &dir.path().join("kept"), &resume).unwrap();
        keep(&files, &dir.path().join("kept"), &resume).unwrap();
        assert_eq!(fit(&files, plan.clone()), before);
        assert_eq!(wanted(&files), Some(resume));
        assert_eq!(std::fs::read_to_string(files.memory()).unwrap(), "memory");
        forget(&files).unwrap();
        forget(&files).unwrap();
        assert_eq!(fit(&files, plan.clone()), plan);
        assert!(dir.path().join("kept").exists(), "the snapshot's own memory stays");
    }
}
