//! The life of a container: what is true of it, starting, waiting, ending, freezing, removing.
//!
//! What is true is read from disk and from the kernel each time, never from memory: so a driver that has just been started knows as much as
//! one that has been running for a year.

use super::{
    driver::Inner,
    files::{Attempt, Files, Prepared, Running, make_private, remove_tree},
    nest::{self, Nest},
    overlay,
    process::{Process, boot_id, drops_signal},
    shim::{Launch, Lock},
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{fs, io, sync::Arc, time::Duration};
use yun_drivers::{DriverError, ErrorKind, Observed, Result};
use yun_types::{Exit, InstanceId, Timestamp};

/// How long a state that passes by itself may last: crun at work, or a shim writing down the end.
const PASSING: Duration = Duration::from_secs(60);
/// How long killed processes may take to be gone.
const DYING: Duration = Duration::from_secs(30);
/// How long a program may take until it handles signals.
const BEGINNING: Duration = Duration::from_secs(3);
/// The pause between two looks where nothing can be waited for.
const STEP: Duration = Duration::from_millis(2);

/// What is true of a container.
#[derive(Debug, Clone)]
pub(super) enum Truth {
    /// Never started, or its last start failed.
    Absent,
    /// A shim is at work: it starts the container, or writes down its end.
    Passing,
    /// It runs. `shim` says whether somebody takes care of it.
    Running { attempt: Attempt, running: Running, shim: bool },
    /// It ended.
    Ended(Option<Exit>),
}

/// Looks. Changes nothing.
pub(super) fn look(files: &Files, inner: &Inner) -> io::Result<Truth> {
    let Some(attempt) = files.attempt() else { return Ok(Truth::Absent) };
    if let Some(exit) = files.exit(&attempt) {
        return Ok(Truth::Ended(exit));
    }
    if attempt.boot != boot_id()? {
        return Ok(Truth::Ended(None));
    }
    // In this order: a shim writes before it lets go of the lock, so what is missing while the lock is free stays missing.
    let shim = Lock::is_held(files)?;
    let running = files.running(&attempt);
    match running.or_else(|| if shim { None } else { unreported(files, inner) }) {
        Some(running) if running.main.is_alive() => Ok(Truth::Running { attempt, running, shim }),
        _ if shim => Ok(Truth::Passing),
        Some(_) => Ok(Truth::Ended(files.exit(&attempt).flatten())),
        None => Ok(Truth::Absent),
    }
}

/// A container whose shim was killed between crun's answer and its own report: its pid is proved by its cgroup.
fn unreported(files: &Files, inner: &Inner) -> Option<Running> {
    let pid = files.pid()?;
    let main = Process::now(pid)?;
    inner.layout()?.group(&files.cgroup).processes().ok()?.contains(&pid).then_some(())?;
    let written = fs::metadata(files.run.join("pid")).ok()?.modified().ok()?;
    Some(Running { main, shim: Process { pid: 0, started: 0 }, since: Timestamp::from(written), keeper: 0 })
}

impl Inner {
    /// Looks, off the asynchronous threads.
    async fn look(self: &Arc<Self>, files: &Files) -> Result<Truth> {
        let (inner, files) = (self.clone(), files.clone());
        self.blocking("look at a container", move || look(&files, &inner)).await
    }

    /// Looks until the answer is one that lasts.
    async fn settled(self: &Arc<Self>, files: &Files) -> Result<Truth> {
        let waiting = async {
            loop {
                match self.look(files).await? {
                    Truth::Passing => tokio::time::sleep(STEP).await,
                    truth => return Ok(truth),
                }
            }
        };
        let message = || {
            format!(
                "container {} has been starting or ending for {PASSING:?}: its shim hangs; look at the host's disk",
                files.id
            )
        };
        tokio::time::timeout(PASSING, waiting)
            .await
            .map_err(|_| DriverError::new(ErrorKind::Timeout, "ShimHangs", message()))?
    }

    /// Looks, and gives a running container a shim if its own was killed.
    async fn cared_for(self: &Arc<Self>, files: &Files) -> Result<Truth> {
        let truth = self.settled(files).await?;
        if let Truth::Running { attempt, running, shim: false } = &truth {
            let (inner, files) = (self.clone(), files.clone());
            let (attempt, running) = (attempt.clone(), running.clone());
            // On its own task: a caller that goes away must not leave the container alone.
            self.finish(async move { inner.adopt(&files, &attempt, &running).await }).await?;
        }
        Ok(truth)
    }

    async fn adopt(&self, files: &Files, attempt: &Attempt, running: &Running) -> Result<()> {
        self.ready().await?;
        let taken = Lock::take(files).map_err(|e| DriverError::io(format!("lock container {}", files.id), e))?;
        // Somebody else was faster.
        let Some(lock) = taken else { return Ok(()) };
        tracing::warn!(instance = %files.id, "the shim of a running container was killed: starting another one");
        match self.launch(files).adopt(lock, attempt, running).await {
            // It ended at this very moment: the next look says so.
            Err(_) if !running.main.is_alive() => Ok(()),
            other => other,
        }
    }

    fn launch<'a>(&'a self, files: &'a Files) -> Launch<'a> {
        let oom_file = self.layout().map(|layout| layout.group(&files.cgroup).oom_file()).unwrap_or_default();
        let log = self.options.log;
        Launch {
            program: &self.shim,
            files,
            oom_file,
            log_bytes: log.bytes.0,
            log_files: log.files,
            expected: self.expected.is(files.id),
            patience: self.options.patience,
        }
    }

    /// See [`yun_drivers::InstanceDriver::recover`].
    pub(super) async fn observe(self: &Arc<Self>, files: &Files) -> Result<Observed> {
        Ok(match self.cared_for(files).await? {
            Truth::Absent | Truth::Passing => Observed::Absent,
            Truth::Ended(exit) => Observed::Ended { exit },
            Truth::Running { running, .. } => {
                let frozen =
                    self.layout().is_some_and(|layout| layout.group(&files.cgroup).is_frozen().unwrap_or(false));
                if frozen {
                    Observed::Paused { since: running.since }
                } else {
                    Observed::Running { since: running.since }
                }
            }
        })
    }

    /// Looks until the answer is one that lasts, and gives a container that lost its shim another one.
    pub(super) async fn settle(self: &Arc<Self>, files: &Files) -> Result<Truth> {
        self.cared_for(files).await
    }

    /// True if it runs now.
    pub(super) async fn runs(self: &Arc<Self>, files: &Files) -> Result<bool> {
        Ok(matches!(self.settled(files).await?, Truth::Running { .. }))
    }

    /// Its main process, if it runs.
    pub(super) async fn main_process(self: &Arc<Self>, files: &Files) -> Result<Process> {
        match self.settled(files).await? {
            Truth::Running { running, .. } => Ok(running.main),
            _ => Err(DriverError::new(
                ErrorKind::Conflict,
                "NotRunning",
                format!("container {} does not run: start it first", files.id),
            )),
        }
    }

    /// Takes the lock of a container that does not run, once nobody else has it.
    pub(super) async fn claim(self: &Arc<Self>, files: &Files) -> Result<Lock> {
        let deadline = tokio::time::Instant::now() + PASSING;
        loop {
            let paths = files.clone();
            let take = move || {
                make_private(&paths.run)?;
                Lock::take(&paths)
            };
            if let Some(lock) = self.blocking("lock a container", take).await? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(held(files));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Starts it, unless it runs.
    pub(super) async fn start(self: &Arc<Self>, files: &Files) -> Result<()> {
        self.ready().await?;
        let deadline = tokio::time::Instant::now() + PASSING;
        let (lock, attempt, prepared) = loop {
            let (inner, paths) = (self.clone(), files.clone());
            // In one step, because each change of thread costs a loaded host a millisecond.
            match self.blocking("lay out a container", move || Step::take(&inner, &paths)).await? {
                Step::Started => return Ok(()),
                Step::Ready { lock, attempt, prepared } => break (lock, attempt, prepared),
                Step::Missing => {
                    let message = format!("container {} was not prepared on this node: prepare it first", files.id);
                    return Err(DriverError::new(ErrorKind::NotFound, "NotPrepared", message));
                }
                Step::Held if tokio::time::Instant::now() > deadline => return Err(held(files)),
                Step::Held => tokio::time::sleep(STEP).await,
                Step::Alone => drop(self.cared_for(files).await?),
                Step::Littered => self.clear(files).await?,
            }
        };
        let started = self.launch(files).run(lock, &attempt, &prepared, &self.options.runtime).await;
        if started.is_err() {
            // What is left of the attempt is in the way of the next one; if this fails, that one tries again.
            let _ = self.clear(files).await;
            let _ = fs::remove_file(files.durable.join("attempt"));
        } else {
            self.expected.started(files.id);
        }
        started
    }

    /// Ends what is left of an earlier attempt, and removes what the kernel and crun hold about it.
    async fn clear(self: &Arc<Self>, files: &Files) -> Result<()> {
        let Some(layout) = self.layout() else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + DYING;
        loop {
            let (group, state) = (layout.group(&files.cgroup), files.crun_state());
            let step = self.blocking("end the rest of a container", move || {
                if !group.processes()?.is_empty() {
                    group.kill()?;
                }
                group.remove()?;
                remove_tree(&state)
            });
            match step.await {
                Ok(()) => return Ok(()),
                Err(e) if tokio::time::Instant::now() > deadline => return Err(e),
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }

    /// After its end: gives back the kernel's part of it. Best effort; the next start and the removal do the same.
    async fn tidy(self: &Arc<Self>, files: &Files) -> Result<()> {
        let _turn = self.turn(files.id).await;
        if !matches!(self.look(files).await?, Truth::Ended(_)) {
            return Ok(());
        }
        self.clear(files).await?;
        let files = files.clone();
        self.blocking("unmount a container", move || overlay::unmount(&files)).await
    }

    /// See [`yun_drivers::InstanceDriver::wait`].
    pub(super) async fn wait(self: &Arc<Self>, files: &Files) -> Result<Option<Exit>> {
        loop {
            match self.cared_for(files).await? {
                Truth::Absent | Truth::Passing => return Ok(None),
                Truth::Ended(exit) => {
                    let (inner, files) = (self.clone(), files.clone());
                    self.finish(async move { inner.tidy(&files).await }).await.unwrap_or_else(|e| {
                        tracing::warn!(error = %e, "cannot give back what an ended container held: the next start tries again");
                    });
                    return Ok(exit);
                }
                Truth::Running { running, .. } => {
                    let shim = files
                        .attempt()
                        .and_then(|attempt| files.running(&attempt))
                        .map_or(running.shim, |now| now.shim);
                    // The death of the shim alone calls for another one, which the next look brings.
                    let ended = tokio::select! {
                        ended = running.main.ended() => ended,
                        ended = shim.ended() => ended,
                    };
                    ended.map_err(|e| DriverError::io(format!("wait for container {}", files.id), e))?;
                }
            }
        }
    }

    /// See [`yun_drivers::InstanceDriver::stop`].
    pub(super) async fn stop(self: &Arc<Self>, files: &Files, grace: Duration) -> Result<Option<Exit>> {
        if let Truth::Running { running, .. } = self.cared_for(files).await? {
            // A grace of centuries is for ever.
            let asked = tokio::time::timeout(grace, self.ask(files, &running)).await;
            if !asked.unwrap_or(Ok(false))? {
                // Under the turn and to its end, so that it can never hit a later start.
                let (turn, inner, files, main) = (self.turn(files.id).await, self.clone(), files.clone(), running.main);
                let kill = async move {
                    let _turn = turn;
                    match inner.look(&files).await? {
                        Truth::Running { running, .. } if running.main == main => inner.kill(&files, Some(main)).await,
                        _ => Ok(()),
                    }
                };
                self.finish(kill).await?;
            }
        }
        self.wait(files).await
    }

    /// Asks it to end, and waits until it has. False if there is no use in waiting.
    ///
    /// The kernel drops a signal that the main process does not handle, and a program that has just begun handles none yet: so a request
    /// that was dropped is repeated once it can be heard. A program that has been running for a while without handling it never will.
    async fn ask(self: &Arc<Self>, files: &Files, running: &Running) -> Result<bool> {
        let signal = files.prepared().map_or(nix::libc::SIGTERM, |prepared: Prepared| prepared.stop_signal);
        let main = running.main;
        loop {
            let group = self.group(files)?;
            let send = move || {
                let Some(held) = main.hold()? else { return Ok(false) };
                let dropped_before = drops_signal(main.pid, signal);
                held.signal(signal)?;
                if group.is_frozen().unwrap_or(false) {
                    group.freeze(false)?;
                }
                Ok(dropped_before && drops_signal(main.pid, signal))
            };
            let dropped = self.blocking("ask a container to end", send).await?;
            let wait = async {
                main.ended().await.map_err(|e| DriverError::io(format!("wait for container {}", files.id), e))
            };
            if !dropped {
                return wait.await.map(|()| true);
            }
            if chrono::Utc::now().signed_duration_since(running.since).to_std().is_ok_and(|age| age > BEGINNING) {
                return Ok(false);
            }
            if let Ok(ended) = tokio::time::timeout(STEP * 10, wait).await {
                return ended.map(|()| true);
            }
        }
    }

    /// Ends everything in its cgroup at once, and waits until it is dead. With its main process, the rest dies by the kernel's hand.
    async fn kill(self: &Arc<Self>, files: &Files, main: Option<Process>) -> Result<()> {
        let Some(layout) = self.layout() else { return Ok(()) };
        let kill = async {
            loop {
                let group = layout.group(&files.cgroup);
                let left = self.blocking("kill a container", move || {
                    let processes = group.processes()?;
                    // The dead that nobody has reaped yet are still listed.
                    let alive = processes.iter().any(|pid| Process::now(*pid).is_some());
                    if alive {
                        group.kill()?;
                    }
                    Ok(alive)
                });
                if !left.await? {
                    return Ok(());
                }
                match main {
                    Some(main) if main.is_alive() => {
                        main.ended().await.map_err(|e| DriverError::io("wait for a container", e))?
                    }
                    _ => tokio::time::sleep(STEP).await,
                }
            }
        };
        let message = || {
            format!(
                "processes of container {} do not die: they hang in the kernel, often on a disk that does not answer",
                files.id
            )
        };
        tokio::time::timeout(DYING, kill)
            .await
            .map_err(|_| DriverError::new(ErrorKind::Timeout, "ProcessesHang", message()))?
    }

    /// See [`yun_drivers::InstanceDriver::pause`] and `resume`.
    pub(super) async fn freeze(self: &Arc<Self>, files: &Files, frozen: bool) -> Result<()> {
        self.main_process(files).await?;
        let Some(layout) = self.layout() else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + PASSING;
        loop {
            let group = layout.group(&files.cgroup);
            let step = self.blocking("freeze a container", move || {
                group.freeze(frozen)?;
                Ok(group.is_frozen()? == frozen)
            });
            if step.await? {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                let message =
                    format!("container {} does not stand still: a process of it hangs in the kernel", files.id);
                return Err(DriverError::new(ErrorKind::Timeout, "FreezeHangs", message));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// See [`yun_drivers::InstanceDriver::remove`].
    pub(super) async fn remove(self: &Arc<Self>, id: InstanceId) -> Result<()> {
        let files = Files::new(&self.host, id);
        self.detect().await?;
        self.expected.gone(id);
        // Who is known can be waited for; who is not is looked at again and again.
        let running = files.attempt().and_then(|attempt| files.running(&attempt));
        self.kill(&files, running.map(|running| running.main)).await?;
        let lock = self.end_shim(&files).await?;
        self.clear(&files).await?;
        let work = move || {
            overlay::unmount(&files)?;
            nest::release_user(&files)?;
            remove_tree(&files.durable)?;
            remove_tree(&files.run)?;
            drop(lock);
            Ok(())
        };
        self.blocking("remove a container's files", work).await
    }

    /// Waits until no shim is left, and keeps others out. A shim that does not end by itself is killed: it must not write into directories
    /// that go away.
    async fn end_shim(self: &Arc<Self>, files: &Files) -> Result<Option<Lock>> {
        let deadline = tokio::time::Instant::now() + DYING;
        while files.run.exists() {
            let paths = files.clone();
            if let Some(lock) = self.blocking("lock a container", move || Lock::take(&paths)).await? {
                return Ok(Some(lock));
            }
            if tokio::time::Instant::now() > deadline {
                let running = files.attempt().and_then(|attempt| files.running(&attempt));
                let held = running.and_then(|running| running.shim.hold().ok().flatten());
                let Some(held) = held else {
                    let message = format!("the shim of container {} does not end", files.id);
                    return Err(DriverError::new(ErrorKind::Timeout, "ShimHangs", message));
                };
                held.signal(nix::libc::SIGKILL).map_err(|e| DriverError::io("kill a shim", e))?;
            }
            // It may be in the middle of a start.
            self.kill(files, None).await?;
            let shim = files.attempt().and_then(|attempt| files.running(&attempt)).map(|running| running.shim);
            match shim.filter(|shim| shim.is_alive()) {
                Some(shim) => drop(tokio::time::timeout(STEP, shim.ended()).await),
                None => tokio::time::sleep(STEP).await,
            }
        }
        Ok(None)
    }
}

fn held(files: &Files) -> DriverError {
    let message = format!(
        "container {} has been held by its shim or by another process of yun for {PASSING:?}: look at the host's disk",
        files.id
    );
    DriverError::new(ErrorKind::Timeout, "ShimHangs", message)
}

/// Where a start stands.
enum Step {
    /// It runs.
    Started,
    /// It runs, and its shim was killed.
    Alone,
    /// Somebody else is at work.
    Held,
    /// There is nothing to start.
    Missing,
    /// An earlier attempt has left something.
    Littered,
    /// All is there.
    Ready { lock: Lock, attempt: Attempt, prepared: Prepared },
}

impl Step {
    /// Goes as far as it can without waiting.
    fn take(inner: &Inner, files: &Files) -> io::Result<Self> {
        match look(files, inner)? {
            Truth::Running { shim: true, .. } => return Ok(Self::Started),
            Truth::Running { shim: false, .. } => return Ok(Self::Alone),
            Truth::Passing => return Ok(Self::Held),
            Truth::Absent | Truth::Ended(_) => {}
        }
        if files.prepared().is_none() {
            return Ok(Self::Missing);
        }
        make_private(&files.run)?;
        let Some(lock) = Lock::take(files)? else { return Ok(Self::Held) };
        let Some(prepared) = files.prepared() else {
            // Removed meanwhile by another process: nothing of ours may stay.
            remove_tree(&files.run)?;
            return Ok(Self::Missing);
        };
        if files.crun_state().exists() || inner.layout().is_some_and(|layout| layout.group(&files.cgroup).exists()) {
            return Ok(Self::Littered);
        }
        let attempt = lay_out(files, &prepared)?;
        Ok(Self::Ready { lock, attempt, prepared })
    }
}

/// Writes down the attempt, then makes what it needs.
fn lay_out(files: &Files, prepared: &Prepared) -> io::Result<Attempt> {
    let attempt = Attempt { token: uuid::Uuid::new_v4().simple().to_string(), boot: boot_id()? };
    files.write_attempt(&attempt)?;
    make_private(&files.crun_root)?;
    for path in [files.durable.join("exit"), files.run.join("exit")] {
        remove_tree(&path)?;
    }
    for name in ["running", "pid", "crun.log", "out", "err", "in", "attach"] {
        remove_tree(&files.run.join(name))?;
    }
    let piped = !prepared.tty && !prepared.stdin.is_closed();
    for name in [Some("out"), Some("err"), piped.then_some("in")].into_iter().flatten() {
        let path = files.run.join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // A program may open its own standard output once more, as /dev/stdout.
        std::os::unix::fs::chown(&path, Some(prepared.owner), None)?;
    }
    overlay::ensure_mounted(files, &prepared.layers, Nest::of(files).filter(|_| prepared.base.is_some()).as_ref())?;
    Ok(attempt)
}
