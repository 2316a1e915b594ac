//! One VM as this process sees it: the locks that keep its operations apart, its console, and what follows its current run. Everything
//! that matters is on disk or in QEMU; a machine that is forgotten is made again from there.

use super::{
    console::Console,
    engine::start_failure,
    files::{Files, Plan, Run},
    guest, launch,
    launch::Circumstances,
    log, memory,
    process::{Held, Process, boot_id},
    qmp::{Qmp, QmpError},
    share, watch,
    watch::Watch,
};
use crate::host::Host;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    process::Child,
    time::{Instant, timeout, timeout_at},
};
use yun_drivers::{DriverError, ErrorKind, Observed, Result};
use yun_types::{Accel, Bytes, Exit, InstanceId};

/// How long QEMU may take from its birth to a running processor. Milliseconds, unless the host is starved.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long QEMU may take to answer when it is not being started.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long QEMU may take to end by itself after it was told to, writing its caches out.
const QUIT_LIMIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// How often the power button is pressed: a guest that is just booting does not hear it.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
/// How often a start looks for QEMU's socket.
const LOOK: Duration = Duration::from_millis(2);

/// One VM.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: InstanceId,
    pub(super) files: Files,
    pub(super) console: Console,
    /// Held by what prepares, starts and removes: one at a time.
    pub(super) change: Arc<tokio::sync::Mutex<()>>,
    /// QEMU serves one client at a time.
    monitor: tokio::sync::Mutex<()>,
    watch: Mutex<Option<Watch>>,
}

impl Machine {
    pub(super) fn new(host: &Host, id: InstanceId) -> Self {
        Self::with(id, Files::of(host, id))
    }

    /// The machine that has these files.
    pub(super) fn with(id: InstanceId, files: Files) -> Self {
        Self {
            id,
            files,
            console: Console::default(),
            change: Arc::default(),
            monitor: tokio::sync::Mutex::new(()),
            watch: Mutex::new(None),
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        self.files.plan().map_or_else(|_| self.id.to_string(), |plan| plan.name.to_string())
    }

    /// The run that goes on, if one does: by our own record, or, if we died before we could write it, by QEMU's.
    pub(super) fn current(&self) -> Option<Run> {
        self.files.last_run().filter(Run::is_alive).or_else(|| self.unrecorded())
    }

    fn unrecorded(&self) -> Option<Run> {
        let file = self.files.pid();
        let process = Process::of(std::fs::read_to_string(&file).ok()?.trim().parse().ok()?)?;
        // A pid proves nothing, but no other program has this id among its arguments.
        if !process.has_argument(&self.id.to_string()) {
            return None;
        }
        let since = std::fs::metadata(&file).ok()?.modified().ok()?.into();
        let accel = if process.has_argument("kvm") { Accel::Kvm } else { Accel::Tcg };
        Some(Run { process, boot_id: boot_id(), since, accel, exit: None })
    }

    /// How the last run ended; none if it never ran, or went down with the host.
    pub(super) fn last_exit(&self) -> Option<Exit> {
        let run = self.files.last_run()?;
        if run.exit.is_none() && run.boot_id != boot_id() {
            return None;
        }
        Some(watch::how_it_ended(&self.files, &run, None))
    }

    /// Follows a run, and returns what turns true at its end.
    pub(super) fn follow(&self, run: &Run, child: Option<Child>) -> tokio::sync::watch::Receiver<bool> {
        let mut slot = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = slot.as_ref().filter(|watch| watch.process() == run.process) {
            return watch.over();
        }
        let watch = Watch::begin(self.files.clone(), run.process, child);
        let over = watch.over();
        *slot = Some(watch);
        over
    }

    /// Resolves when it does not run.
    pub(super) async fn ended(&self) {
        while let Some(run) = self.current() {
            // An error means that the task is gone: then the next look decides.
            if self.follow(&run, None).wait_for(|over| *over).await.is_ok() && run.is_alive() {
                tokio::time::sleep(LOOK).await;
            }
        }
        // The task that saw the end writes it down; without it, a reader could miss the signal.
        let over = self.watch.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Watch::over);
        if let Some(mut over) = over {
            let _ = over.wait_for(|over| *over).await;
        }
    }

    /// A connection to its QEMU for the length of `operation`.
    async fn ask<T>(
        &self,
        limit: Duration,
        operation: impl AsyncFnOnce(&Qmp) -> Result<T, QmpError>,
    ) -> Result<T, QmpError> {
        let _turn = self.monitor.lock().await;
        let qmp = self.connect(limit).await?;
        operation(&qmp).await
    }

    /// QEMU makes its socket early, listens on it a moment later, and greets when the machine is built: while it lives, no answer means
    /// "not yet".
    async fn connect(&self, limit: Duration) -> Result<Qmp, QmpError> {
        let deadline = Instant::now() + limit;
        loop {
            match Qmp::connect(&self.files.qmp(), limit).await {
                Err(QmpError::Connect(_)) if Instant::now() < deadline && self.current().is_some() => {
                    tokio::time::sleep(LOOK).await;
                }
                other => return other,
            }
        }
    }

    /// Runs one command.
    pub(super) async fn command(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.ask(ANSWER_LIMIT, async |qmp| qmp.execute(command, arguments).await).await
    }

    /// The run state, in QEMU's words.
    pub(super) async fn status(&self) -> Result<String, QmpError> {
        self.ask(ANSWER_LIMIT, async |qmp| qmp.status().await).await
    }

    /// A command that somebody asked for by name.
    pub(super) async fn required(&self, verb: &str, command: &str) -> Result<()> {
        if self.current().is_none() {
            let name = self.name();
            let message = format!("cannot {verb} VM {name}: it does not run; start it with yun start {name}");
            return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
        }
        self.command(command, Value::Null).await.map(drop).map_err(|e| self.failed(verb, e))
    }

    pub(super) fn failed(&self, verb: &str, error: QmpError) -> DriverError {
        let kind = if matches!(error, QmpError::Timeout { .. }) { ErrorKind::Timeout } else { ErrorKind::Internal };
        let message = format!("cannot {verb} VM {}: {error}; see {}", self.name(), self.files.words().display());
        DriverError::new(kind, "QemuFailed", message).with(error)
    }

    /// What is true now.
    pub(super) async fn observe(&self) -> Observed {
        let Some(run) = self.current() else {
            return if self.files.last_run().is_some() {
                Observed::Ended { exit: self.last_exit() }
            } else {
                Observed::Absent
            };
        };
        let status = self.ask(ANSWER_LIMIT, async |qmp| qmp.status().await).await;
        if !run.is_alive() {
            return Observed::Ended { exit: self.last_exit() };
        }
        self.follow(&run, None);
        match status.as_deref() {
            // Saved by a process that went away before it let the guest go on.
            Ok("paused" | "suspended" | "postmigrate" | "finish-migrate") => Observed::Paused { since: run.since },
            // A QEMU that is too busy to answer is one that runs.
            _ => Observed::Running { since: run.since },
        }
    }

    /// Starts QEMU and returns when its processor executes.
    pub(super) async fn start(&self, host: &Host, program: &str, plan: &Plan, on: Circumstances) -> Result<Run> {
        let (child, process) = launch::spawn(program, plan, &self.files, on, &[])?;
        let run = Run { process, boot_id: boot_id(), since: chrono::Utc::now(), accel: on.accel, exit: None };
        let written = self.files.write_run(&run);
        if let Err(error) = share::join(&host.cgroup(), &self.id.to_string(), plan.cpu, process.pid) {
            tracing::warn!(vm = %plan.name, %error, "cannot give a VM its share of the processor; it runs without a limit");
        }
        let over = self.follow(&run, Some(child));
        if let Err(error) = written {
            self.kill(&run).await?;
            return Err(error);
        }
        let begun = match self.executes(over).await {
            Ok(()) => memory::go_on(self).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => Ok(run),
            Err(error) => {
                self.kill(&run).await?;
                Err(error)
            }
        }
    }

    /// Resolves when the processor of a run executes; also when it has done so and has ended since.
    pub(super) async fn executes(&self, mut over: tokio::sync::watch::Receiver<bool>) -> Result<()> {
        let status = tokio::select! {
            // Dead before the answer: what it printed says why.
            _ = over.wait_for(|over| *over) => Err(QmpError::Closed),
            status = self.ask(START_LIMIT, async |qmp| qmp.status().await) => status,
        };
        let error = match status {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let dying = matches!(error, QmpError::Closed | QmpError::Connect(_));
        if dying && timeout(ANSWER_LIMIT, over.wait_for(|over| *over)).await.is_ok() {
            // A guest that is done so soon is no failure of the start.
            let ran = self.last_exit().is_some_and(|exit| exit.success());
            return if ran { Ok(()) } else { Err(start_failure(&self.name(), &self.files.said())) };
        }
        Err(match error {
            QmpError::Timeout { .. } => {
                let name = self.name();
                let message =
                    format!("VM {name} did not begin to run within {START_LIMIT:?}: the host is overloaded; try again");
                DriverError::new(ErrorKind::Timeout, "StartTimeout", message)
            }
            error => self.failed("start", error),
        })
    }

    /// Presses the power button, and again, until the guest is down or `grace` is over.
    pub(super) async fn ask_to_end(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let press = async {
            // A frozen guest hears nothing.
            let _ = self.command("cont", Value::Null).await;
            loop {
                // A button that nobody listens to is no error: the deadline is the answer to that.
                let _ = self.command("system_powerdown", Value::Null).await;
                guest::shut_down(&self.files.agent()).await;
                tokio::time::sleep(PRESS_AGAIN).await;
            }
        };
        tokio::select! {
            () = press => {}
            _ = timeout_at(deadline, self.ended()) => {}
        }
    }

    /// Pulls the plug, but lets QEMU write out what the guest has written.
    pub(super) async fn end(&self) -> Result<()> {
        let Some(run) = self.current() else { return Ok(()) };
        // If it cannot hear us, it is killed below.
        let _ = timeout(QUIT_LIMIT, self.command("quit", Value::Null)).await;
        if timeout(QUIT_LIMIT, self.ended()).await.is_err() {
            self.kill(&run).await?;
        }
        Ok(())
    }

    /// Ends QEMU at once.
    pub(super) async fn kill(&self, run: &Run) -> Result<()> {
        let name = self.name();
        let wrong = |e: io::Error| DriverError::io(format!("end the QEMU of VM {name}"), e);
        let Some(held) = run.process.hold().map_err(wrong)? else { return Ok(()) };
        held.signal(Signal::SIGKILL).map_err(wrong)?;
        timeout(KILL_LIMIT, dead(&held)).await.map_err(|_| {
            let message = format!(
                "the QEMU of VM {name}, process {}, does not die: a disk it waits for does not answer",
                run.process.pid
            );
            DriverError::new(ErrorKind::Timeout, "CannotKill", message)
        })?;
        self.ended().await;
        Ok(())
    }

    /// Makes the disk larger, under a running guest too.
    pub(super) async fn grow(&self, plan: &Plan, to: Bytes) -> Result<()> {
        if self.current().is_none() {
            return super::disk::grow(&self.files, &plan.name, to).await;
        }
        self.command("block_resize", json!({"node-name": "disk", "size": to.0}))
            .await
            .map(drop)
            .map_err(|e| self.failed("grow the disk of", e))
    }

    /// Why the guest does not answer, with its last words.
    pub(super) fn boot_failure(&self, waited: Duration) -> DriverError {
        let name = self.name();
        let tail = log::last_lines(&self.files.console_log(), 8);
        let tail = if tail.is_empty() {
            "its console is empty: is its disk bootable?".to_owned()
        } else {
            format!("its console ends with: {tail}")
        };
        let message = format!(
            "VM {name} does not answer on its network after {} s; {tail} (see yun console {name})",
            // A hair under the limit that somebody wrote is that limit.
            waited.as_millis().div_ceil(1000)
        );
        DriverError::new(ErrorKind::Timeout, "BootTimeout", message)
    }
}

async fn dead(held: &Held) {
    // An error of the watch means that nobody can tell: the caller's limit decides.
    if held.ended().await.is_err() {
        std::future::pending::<()>().await;
    }
}
