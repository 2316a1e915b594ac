//! A guest that runs moves from its QEMU to a fresh one on the same host, and notices nothing but a pause of some milliseconds.
//!
//! ```text
//!  the QEMU that runs it                         the next one, under i/SHORT/next/
//!  runs ──────────── its memory ───────────────▶ waits
//!  stands still ──── the rest ─────────────────▶ goes on
//!  ends                                          is the machine: its record first, then its sockets, take the place of the old ones
//! ```
//! Both have the same disk, which only the one that runs may write, and the same taps: the next one is given the descriptors of the first. If
//! A QEMU that takes a tap up sets the length of the header before each packet anew, under the one that uses it: it is set back at once. If
//! yun dies in the middle, the two finish what they began by themselves, or one of them ends; [`settle`] finds out which has the guest.

use super::{
    VmDriver,
    files::{Files, Plan, Run, read_json, write_json},
    launch::{self, Circumstances},
    machine::Machine,
    memory::{self, Resume},
    plug,
    process::{Held, Process, boot_id},
    share,
};
use crate::host::Host;
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::work::Followed;

/// How long all of it may take: a guest that writes faster than it can be copied is slowed down, and in the end given up.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the next QEMU may take to go on with a guest that it was given.
const GO_ON: Duration = Duration::from_secs(20);
/// How long the guest may stand still, in milliseconds, as far as that can be chosen.
const DOWNTIME: u64 = 50;
const LOOK: Duration = Duration::from_millis(5);
/// Descriptors that are handed down lie beyond those that they become.
const BEYOND: i32 = launch::FIRST_TAP + 100;

/// Who hands over, written down before the next one is born.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    source: Process,
    /// Whether the guest was not frozen.
    ran: bool,
    /// The taps, and the length of the header before each packet.
    #[serde(default)]
    headers: Vec<(String, i32)>,
}

fn record_of(next: &Files) -> PathBuf {
    next.run.join("from.json")
}

/// True if there is something to settle.
pub(super) fn is_under_way(files: &Files) -> bool {
    files.of_next().run.exists()
}

/// Moves the guest; how long it stood still.
pub(super) async fn hand_over(
    host: &Host,
    machine: &Machine,
    program: &str,
    accel: yun_types::Accel,
    qemu: super::Version,
) -> Result<Duration> {
    settle(machine).await?;
    let name = machine.name();
    let Some(run) = machine.current() else {
        let message = format!("cannot renew VM {name}: it does not run; start it with yun start {name}");
        return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
    };
    let verb = "renew";
    let status = machine.status().await.map_err(|e| machine.failed(verb, e))?;
    if !matches!(status.as_str(), "running" | "paused") {
        let message = format!("cannot renew VM {name}: QEMU says that it is {status}; try again later");
        return Err(DriverError::new(ErrorKind::Conflict, "Busy", message));
    }
    let next = Machine::with(machine.id, machine.files.of_next());
    let wrong = |e: io::Error| DriverError::io(format!("renew VM {name}"), e);
    for old in next.files.records() {
        gone(&old).map_err(wrong)?;
    }
    let plan = machine.files.plan()?;
    let layout = plug::layout(machine, &plan).await?;
    next.files.make()?;
    write_json(&next.files.resume(), &Resume::of(&plan, layout))?;
    let on = Circumstances::of(accel, qemu, &machine.files);
    let moved = async {
        let taps = taps(machine, &plan, &run)
            .map_err(|e| DriverError::io(format!("hand the network of VM {name} over"), e))?;
        let headers = taps.iter().map(|tap| (tap.name.clone(), tap.header)).collect();
        write_json(&record_of(&next.files), &Record { source: run.process, ran: status == "running", headers })?;
        let child = begin(host, machine, &next, program, &plan, (&run, &taps), on).await?;
        let downtime = transfer(machine, &next).await?;
        Ok((child, downtime))
    };
    match moved.await {
        Ok((child, downtime)) => adopt(machine, &next, Some(child)).await.map(|()| downtime),
        Err(error) => {
            // Where the guest is now is for the look to find out.
            settle(machine).await?;
            Err(error)
        }
    }
}

/// Starts the next QEMU, which waits.
async fn begin(
    host: &Host,
    machine: &Machine,
    next: &Machine,
    program: &str,
    plan: &Plan,
    (run, taps): (&Run, &[Tap]),
    on: Circumstances,
) -> Result<Child> {
    let descriptors: Vec<RawFd> = taps.iter().map(|tap| tap.fd.as_raw_fd()).collect();
    let (child, process) = launch::spawn(program, plan, &next.files, on, &descriptors)?;
    let run = Run { process, boot_id: boot_id(), since: run.since, accel: on.accel, exit: None };
    next.files.write_run(&run)?;
    if let Err(error) = share::join(&host.cgroup(), &machine.id.to_string(), plan.cpu, process.pid) {
        tracing::warn!(vm = %plan.name, %error, "cannot give a VM its share of the processor; it runs without a limit");
    }
    let answered = next.status();
    tokio::pin!(answered);
    let answered = loop {
        tokio::select! {
            answered = &mut answered => break answered,
            () = sleep(Duration::from_millis(1)) => taps.iter().for_each(Tap::set_back),
        }
    };
    taps.iter().for_each(Tap::set_back);
    answered.map_err(|e| next.failed("renew", e))?;
    Ok(child)
}

nix::ioctl_read_bad!(header_length, 0x8004_54d7, i32);
nix::ioctl_write_ptr_bad!(set_header_length, 0x4004_54d8, i32);

/// A tap that a QEMU has.
#[derive(Debug)]
struct Tap {
    name: String,
    fd: OwnedFd,
    /// The length of the header before each packet, that its user reckons with.
    header: i32,
}

impl Tap {
    fn of(held: &Held, pid: i32, name: &str) -> io::Result<Self> {
        let fd = beyond(held.descriptor(number_of(pid, name)?)?)?;
        let mut header = 0;
        // SAFETY: TUNGETVNETHDRSZ writes one int, and the descriptor is open.
        unsafe { header_length(fd.as_raw_fd(), &raw mut header) }?;
        Ok(Self { name: name.to_owned(), fd, header })
    }

    fn set_back(&self) {
        // SAFETY: TUNSETVNETHDRSZ reads one int, and the descriptor is open.
        if let Err(error) = unsafe { set_header_length(self.fd.as_raw_fd(), &raw const self.header) } {
            tracing::warn!(tap = %self.name, %error, "cannot set the header of a tap back");
        }
    }
}

/// The taps of a machine, the first one's first.
fn taps(machine: &Machine, plan: &Plan, run: &Run) -> io::Result<Vec<Tap>> {
    let held = run.process.hold()?.ok_or_else(|| io::Error::other("its QEMU has just ended"))?;
    let fittings = machine.files.fittings();
    let more = plug::in_order(&fittings).into_iter().map(plug::tap);
    let all = plan.network.iter().map(|network| network.tap.as_str()).chain(more);
    all.map(|name| Tap::of(&held, run.process.pid, name)).collect()
}

/// Sets the headers of its taps back to what the first QEMU reckons with.
fn set_headers_back(record: &Record) -> io::Result<()> {
    let Some(held) = record.source.hold()? else { return Ok(()) };
    for (name, header) in &record.headers {
        Tap { header: *header, ..Tap::of(&held, record.source.pid, name)? }.set_back();
    }
    Ok(())
}

/// The number of the descriptor under which a process has a tap.
fn number_of(pid: i32, tap: &str) -> io::Result<i32> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let is_it = text.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == tap));
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| is_it) {
            return Ok(number);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("its QEMU has no descriptor of {tap}")))
}

fn beyond(tap: OwnedFd) -> io::Result<OwnedFd> {
    let raw = fcntl(&tap, FcntlArg::F_DUPFD_CLOEXEC(BEYOND))?;
    // SAFETY: the call above returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Copies the guest; how long it stood still.
async fn transfer(machine: &Machine, next: &Machine) -> Result<Duration> {
    let verb = "renew";
    let uri = format!("unix:{}", next.files.run.join("move").display());
    let ask = async |of: &Machine, command: &str, arguments: Value| {
        of.command(command, arguments).await.map_err(|e| of.failed(verb, e))
    };
    ask(next, "migrate-incoming", json!({"uri": uri})).await?;
    let converge = json!({"capabilities": [{"capability": "auto-converge", "state": true}]});
    ask(machine, "migrate-set-capabilities", converge).await?;
    ask(machine, "migrate-set-parameters", json!({"max-bandwidth": 0, "downtime-limit": DOWNTIME})).await?;
    ask(machine, "migrate", json!({"uri": uri})).await?;
    let work = Followed::default();
    tokio::select! {
        done = memory::transferred(machine, verb, &work) => done?,
        () = sleep(LIMIT) => {
            let message = format!("cannot renew VM {}: it writes faster than it can be copied; try again when it is quieter", machine.name());
            return Err(DriverError::new(ErrorKind::Timeout, "TooBusy", message));
        }
    }
    let deadline = Instant::now() + GO_ON;
    while next.status().await.map_err(|e| next.failed(verb, e))? == "inmigrate" {
        if Instant::now() > deadline {
            let message = format!("cannot renew VM {}: the next QEMU does not go on with it", machine.name());
            return Err(DriverError::new(ErrorKind::Timeout, "QemuHangs", message));
        }
        sleep(LOOK).await;
    }
    let info = ask(machine, "query-migrate", Value::Null).await?;
    Ok(Duration::from_millis(info["downtime"].as_u64().unwrap_or_default()))
}

/// Finishes or undoes what was cut short.
pub(super) async fn settle(machine: &Machine) -> Result<()> {
    if !is_under_way(&machine.files) {
        return Ok(());
    }
    let next = Machine::with(machine.id, machine.files.of_next());
    let Some(run) = next.current() else { return undo(machine, &next).await };
    let taken = machine.files.last_run().is_some_and(|recorded| recorded.process == run.process);
    if taken || has_guest(machine, &next).await {
        return adopt(machine, &next, None).await;
    }
    // Still copying, or never begun: whatever it was, it ends here, one way or the other.
    let _ = machine.command("migrate_cancel", Value::Null).await;
    let deadline = Instant::now() + GO_ON;
    while copying(machine).await && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    if has_guest(machine, &next).await { adopt(machine, &next, None).await } else { undo(machine, &next).await }
}

async fn copying(machine: &Machine) -> bool {
    let info = machine.command("query-migrate", Value::Null).await.unwrap_or_default();
    matches!(info["status"].as_str(), Some("active" | "setup" | "cancelling" | "device" | "pre-switchover"))
}

/// True if the next QEMU has the guest: the first one has given all of it, and this one has taken it.
async fn has_guest(machine: &Machine, next: &Machine) -> bool {
    let given = machine.current().is_none() || machine.status().await.is_ok_and(|status| status == "postmigrate");
    if !given {
        return false;
    }
    let deadline = Instant::now() + GO_ON;
    while Instant::now() < deadline && next.current().is_some() {
        match next.status().await.as_deref() {
            Ok("running" | "paused") => return true,
            Ok("inmigrate") => sleep(LOOK).await,
            _ => return false,
        }
    }
    false
}

/// The next QEMU is the machine now.
async fn adopt(machine: &Machine, next: &Machine, child: Option<Child>) -> Result<()> {
    let wrong = |e: io::Error| DriverError::io(format!("take over VM {}", machine.name()), e);
    let record: Option<Record> = read_json(&record_of(&next.files)).ok();
    if let Some(run) = next.current() {
        machine.files.write_run(&run)?;
        machine.follow(&run, child);
        if let Some(Record { source, .. }) = record.filter(|record| record.source != run.process) {
            // It has nothing left to write, and killed it leaves its sockets where they are.
            end(&source).await.map_err(wrong)?;
        }
    }
    for (from, to) in next.files.records().into_iter().zip(machine.files.records()) {
        // The memory is spent, and the run was written before.
        if from == next.files.resume() || from.ends_with("run.next.json") {
            gone(&from).map_err(wrong)?;
        } else {
            moved(&from, &to).map_err(wrong)?;
        }
    }
    for name in ["qmp", "serial", "agent", "pid", "hello"] {
        moved(&next.files.run.join(name), &machine.files.run.join(name)).map_err(wrong)?;
    }
    std::fs::remove_dir_all(&next.files.run).map_err(wrong)
}

/// The first QEMU keeps the guest.
async fn undo(machine: &Machine, next: &Machine) -> Result<()> {
    let wrong = |e: io::Error| DriverError::io(format!("go on with VM {} where it was", machine.name()), e);
    if let Some(run) = next.current() {
        end(&run.process).await.map_err(wrong)?;
    }
    let record: Option<Record> = read_json(&record_of(&next.files)).ok();
    if let Some(Err(error)) = record.as_ref().map(set_headers_back) {
        tracing::warn!(vm = %machine.name(), %error, "cannot set the taps of a VM back; restart it if it is not reached");
    }
    if record.is_some_and(|record| record.ran) && machine.current().is_some() {
        let status = machine.status().await.map_err(|e| machine.failed("go on with", e))?;
        if matches!(status.as_str(), "paused" | "postmigrate" | "finish-migrate") {
            machine.command("cont", Value::Null).await.map_err(|e| machine.failed("go on with", e))?;
        }
    }
    for record in next.files.records() {
        gone(&record).map_err(wrong)?;
    }
    std::fs::remove_dir_all(&next.files.run).map_err(wrong)
}

/// Ends a QEMU that has no guest.
async fn end(process: &Process) -> io::Result<()> {
    let Some(held) = process.hold()? else { return Ok(()) };
    held.signal(nix::sys::signal::Signal::SIGKILL)?;
    held.ended().await
}

fn gone(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Moves what is still there.
fn moved(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl VmDriver {
    /// Settles what was cut short, if anything was.
    pub(super) async fn settled(&self, machine: &Machine) -> Result<()> {
        if !is_under_way(&machine.files) {
            return Ok(());
        }
        let _turn = machine.change.lock().await;
        settle(machine).await
    }
}
