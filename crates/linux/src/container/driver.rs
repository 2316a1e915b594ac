//! [`ContainerDriver`]: the contract of instance drivers, for containers. What each call does is in the modules beside this one.

use super::{
    cgroup::{Cgroup, Layout, Usage},
    files::Files,
    nest::{self, Ranges},
    prepare::{self, Request},
    probe, process, shim,
};
use crate::host::Host;
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::{Mutex as Turns, OnceCell, OwnedMutexGuard};
use yun_drivers::{
    Attachment, DriverError, ErrorKind, FileAccess, Fittings, InstanceDriver, InstanceHandle, LocalImage, Observed,
    Result,
};
use yun_engine::session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session};
use yun_types::{Bytes, DesiredInstance, DriverFacts, Exit, Generation, InstanceId, InstanceKind};

/// How much of what a container writes is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// The size of one file.
    pub bytes: Bytes,
    /// The number of files.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { bytes: Bytes::mib(10), files: 3 }
    }
}

/// How the driver works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDriverOptions {
    /// The OCI runtime: a path, or a name to be found in `PATH` and the system directories. runc takes the same arguments.
    pub runtime: PathBuf,
    /// How much output is kept.
    pub log: LogLimits,
    /// How long the runtime may take for one thing: it is milliseconds unless the host is in trouble.
    pub patience: Duration,
}

impl Default for ContainerDriverOptions {
    fn default() -> Self {
        Self { runtime: "crun".into(), log: LogLimits::default(), patience: Duration::from_secs(60) }
    }
}

/// Runs containers on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) host: Host,
    pub(super) options: ContainerDriverOptions,
    /// The shim's program on disk.
    pub(super) shim: PathBuf,
    /// The host's cgroups, once they were looked at.
    layout: RwLock<Option<Arc<Layout>>>,
    /// Set once they are fit for crun.
    fit: OnceCell<()>,
    /// Who has which range of user ids.
    pub(super) ranges: Ranges,
    /// Why containers here have no user namespaces of their own; `Some(None)` if they have, once that was tried.
    pub(super) no_nests: std::sync::OnceLock<Option<String>>,
    /// The runtime that a trial has shown to work.
    proved: OnceCell<String>,
    /// Whose turn it is with an instance: of calls that change it, one after the other.
    turns: Mutex<HashMap<InstanceId, Arc<Turns<()>>>>,
    /// Who waits for a start.
    pub(super) expected: super::attach::Expected,
    /// Held shared by whoever needs this cloud's cgroup to stay.
    starts: tokio::sync::RwLock<()>,
}

impl ContainerDriver {
    /// Puts the shim's program on disk. Starts nothing.
    pub fn new(host: Host, mut options: ContainerDriverOptions) -> Result<Self> {
        let shim = shim::install(&[host.run(), host.state()])
            .map_err(|e| DriverError::io(format!("install the shim in {}", host.run().display()), e))?;
        options.runtime = locate(options.runtime);
        let inner = Inner {
            host,
            options,
            shim,
            layout: RwLock::default(),
            fit: OnceCell::new(),
            ranges: Ranges::default(),
            no_nests: std::sync::OnceLock::new(),
            proved: OnceCell::new(),
            turns: Mutex::default(),
            expected: super::attach::Expected::default(),
            starts: tokio::sync::RwLock::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What a container uses now.
    pub async fn usage(&self, id: InstanceId) -> Result<Usage> {
        let files = self.files(id);
        self.inner.main_process(&files).await?;
        let group = self.inner.group(&files)?;
        self.inner.blocking("measure a container", move || group.usage()).await
    }

    async fn freeze(&self, id: InstanceId, frozen: bool) -> Result<()> {
        let this = self.clone();
        let turn = self.inner.turn(id).await;
        let work = async move {
            let _turn = turn;
            this.inner.detect().await?;
            this.inner.freeze(&this.files(id), frozen).await
        };
        self.inner.finish(work).await
    }

    fn files(&self, id: InstanceId) -> Files {
        Files::new(&self.inner.host, id)
    }

    fn handle(id: InstanceId, generation: Generation) -> InstanceHandle {
        let boot = process::boot_id().unwrap_or_default();
        // Everything else is found by the id. The boot is for people who read the ledger.
        InstanceHandle { id, kind: InstanceKind::Container, generation, driver: serde_json::json!({ "boot": boot }) }
    }
}

/// The shim has no `PATH`.
fn locate(runtime: PathBuf) -> PathBuf {
    if runtime.is_absolute() {
        return runtime;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(&runtime))
        .find(|path| path.is_file())
        .unwrap_or(runtime)
}

impl Inner {
    /// The host's cgroups, once they were looked at.
    pub(super) fn layout(&self) -> Option<Arc<Layout>> {
        self.layout.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_layout(&self, layout: Layout) {
        *self.layout.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(layout));
    }

    /// A container's cgroup.
    pub(super) fn group(&self, files: &Files) -> Result<Box<dyn Cgroup>> {
        let layout = self.layout().ok_or_else(|| {
            DriverError::unavailable("NotProbed", "the host's cgroups are not known yet: probe first")
        })?;
        Ok(layout.group(&files.cgroup))
    }

    /// Looks at the host's cgroups.
    pub(super) async fn detect(&self) -> Result<()> {
        if self.layout().is_none() {
            let found = self.blocking("read the host's cgroups", Layout::detect).await?;
            self.set_layout(found);
        }
        Ok(())
    }

    /// Makes the host's cgroups fit for crun.
    pub(super) async fn ready(&self) -> Result<()> {
        let make_fit = || async {
            let found = tokio::task::spawn_blocking(|| {
                let layout = Layout::detect().map_err(|e| DriverError::io("read the host's cgroups", e))?;
                probe::unmix(layout)
            });
            self.set_layout(joined(found.await)?);
            Ok(())
        };
        self.fit.get_or_try_init(make_fit).await.copied()
    }

    /// Runs blocking work off the asynchronous threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        joined(tokio::task::spawn_blocking(work).await.map(|answer| answer.map_err(|e| DriverError::io(operation, e))))
    }

    /// Runs something to its end even if the caller goes away.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        joined(tokio::spawn(work).await)
    }

    /// Waits for the turn with an instance.
    pub(super) async fn turn(&self, id: InstanceId) -> OwnedMutexGuard<()> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone();
        turns.lock_owned().await
    }

    /// Forgets an instance that is gone, unless somebody waits for it.
    fn forget(&self, id: InstanceId, turn: OwnedMutexGuard<()>) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if turns.get(&id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&id);
        }
    }

    /// Removes this cloud's own cgroup when nothing is in it and nobody is about to put something there. On a busy host the next removal
    /// does it.
    async fn remove_empty_parent(&self) {
        let alone = tokio::time::timeout(Duration::from_secs(1), self.starts.write()).await;
        let (Ok(_alone), Some(layout)) = (alone, self.layout()) else { return };
        let paths = layout.everywhere(&self.host.cgroup());
        let empty = |path: &PathBuf| {
            let entries = std::fs::read_dir(path).ok();
            !entries.is_some_and(|mut all| {
                all.any(|entry| entry.is_ok_and(|e| e.file_type().is_ok_and(|kind| kind.is_dir())))
            })
        };
        let remove = move || {
            // Asked first, because an attempt to remove a group that is in use makes the kernel wait for every group that is dying.
            if paths.iter().all(empty) {
                // Refused, if somebody was faster.
                paths.iter().for_each(|path| drop(std::fs::remove_dir(path)));
            }
            Ok(())
        };
        // Nothing depends on it.
        let _ = self.blocking("remove the cloud's cgroup", remove).await;
    }
}

/// The answer of a task. A task that panicked is an error of its operation, not the end of this process.
fn joined<T>(answer: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    answer.unwrap_or_else(|e| {
        Err(DriverError::new(ErrorKind::Internal, "TaskFailed", format!("a task of the container driver failed: {e}")))
    })
}

#[async_trait]
impl FileAccess for ContainerDriver {
    async fn sftp(&self, handle: &InstanceHandle, user: Option<String>) -> Result<Session> {
        self.inner.detect().await?;
        super::sftp::open(&self.inner, &self.files(handle.id), user).await
    }
}

#[async_trait]
impl InstanceDriver for ContainerDriver {
    async fn probe(&self) -> Result<DriverFacts> {
        let mut facts =
            DriverFacts { driver: "container".into(), ready: false, engine: None, accel: None, message: None };
        let trial = async {
            self.inner.ready().await?;
            let inner = self.inner.clone();
            let prove = || async { joined(tokio::task::spawn_blocking(move || probe::prove(&inner)).await) };
            self.inner.proved.get_or_try_init(prove).await.cloned()
        };
        let tried = trial.await;
        self.inner.remove_empty_parent().await;
        match tried {
            Ok(engine) => {
                (facts.ready, facts.engine) = (true, Some(engine));
                // It works, and something about it should be known.
                let why = self.inner.no_nests.get().and_then(Clone::clone);
                facts.message = why.map(|why| format!("containers have no user namespaces of their own here: {why}"));
            }
            Err(e) => facts.message = Some(e.message),
        }
        Ok(facts)
    }

    async fn enclose(&self, instance: &DesiredInstance) -> Result<()> {
        let (this, instance) = (self.clone(), instance.clone());
        let turn = self.inner.turn(instance.id).await;
        let work = async move {
            let _turn = turn;
            this.inner.detect().await?;
            let files = this.files(instance.id);
            if this.inner.runs(&files).await? {
                return Ok(());
            }
            let nested = nest::wanted(&instance.spec.container.security)
                && this.inner.no_nests.get().is_some_and(Option::is_none);
            let inner = this.inner.clone();
            let make = move || nest::enclose(&inner.shim, &inner.ranges, &inner.host, &files, nested);
            this.inner.blocking("make the namespaces of a container", make).await
        };
        self.inner.finish(work).await
    }

    async fn prepare(
        &self,
        instance: &DesiredInstance,
        image: &LocalImage,
        network: Option<&Attachment>,
    ) -> Result<InstanceHandle> {
        let (id, generation) = (instance.id, instance.generation);
        let (this, instance, image, network) = (self.clone(), instance.clone(), image.clone(), network.cloned());
        let turn = self.inner.turn(id).await;
        let work = async move {
            let _turn = turn;
            this.inner.detect().await?;
            let files = this.files(id);
            let runs = this.inner.runs(&files).await?;
            let group = runs.then(|| this.inner.group(&files)).transpose()?;
            let lock = if runs { None } else { Some(this.inner.claim(&files).await?) };
            let counts_swap = this.inner.layout().is_some_and(|layout| layout.counts_swap());
            let work = move || {
                let _lock = lock;
                Request {
                    files: &files,
                    instance: &instance,
                    image: &image,
                    network: network.as_ref(),
                    runs,
                    counts_swap,
                }
                .carry_out()?;
                match group {
                    Some(group) => group
                        .limit(&prepare::limits(&instance, &files)?)
                        .map_err(|e| DriverError::io(format!("change the limits of instance {}", instance.name), e)),
                    None => Ok(()),
                }
            };
            joined(tokio::task::spawn_blocking(work).await)
        };
        self.inner.finish(work).await?;
        Ok(Self::handle(id, generation))
    }

    async fn adjust(&self, instance: &DesiredInstance) -> Result<bool> {
        let (this, instance) = (self.clone(), instance.clone());
        let turn = self.inner.turn(instance.id).await;
        let work = async move {
            let _turn = turn;
            let files = this.files(instance.id);
            this.inner.main_process(&files).await?;
            let (group, limits) = (this.inner.group(&files)?, prepare::limits(&instance, &files)?);
            let (used, wanted) = (group.usage().map(|usage| usage.memory).unwrap_or_default(), limits.memory);
            if used > wanted {
                let (name, used, wanted) = (&instance.name, used.human(), wanted.human());
                let message = format!(
                    "instance {name} uses {used} of memory now, more than {wanted}: restart it, or give it more"
                );
                return Err(DriverError::new(ErrorKind::Conflict, "MemoryInUse", message));
            }
            let change = move || group.limit(&limits);
            this.inner.blocking("change the limits of a container", change).await?;
            Ok(true)
        };
        self.inner.finish(work).await
    }

    async fn fit(&self, id: InstanceId, fittings: &Fittings) -> Result<()> {
        let (this, fittings) = (self.clone(), fittings.clone());
        let turn = self.inner.turn(id).await;
        let work = async move {
            let _turn = turn;
            this.inner.detect().await?;
            super::fit::fit(&this.inner, &this.files(id), fittings).await
        };
        self.inner.finish(work).await
    }

    async fn start(&self, handle: &InstanceHandle) -> Result<InstanceHandle> {
        let (this, id) = (self.clone(), handle.id);
        let turn = self.inner.turn(id).await;
        let work = async move {
            let _turn = turn;
            let _stays = this.inner.starts.read().await;
            this.inner.start(&this.files(id)).await
        };
        self.inner.finish(work).await?;
        Ok(Self::handle(id, handle.generation))
    }

    async fn recover(&self, handle: &InstanceHandle) -> Result<Observed> {
        self.inner.detect().await?;
        self.inner.observe(&self.files(handle.id)).await
    }

    async fn wait(&self, handle: &InstanceHandle) -> Result<Option<Exit>> {
        self.inner.detect().await?;
        self.inner.wait(&self.files(handle.id)).await
    }

    async fn stop(&self, handle: &InstanceHandle, grace: Duration) -> Result<Option<Exit>> {
        self.inner.detect().await?;
        self.inner.stop(&self.files(handle.id), grace).await
    }

    async fn pause(&self, handle: &InstanceHandle) -> Result<()> {
        self.freeze(handle.id, true).await
    }

    async fn resume(&self, handle: &InstanceHandle) -> Result<()> {
        self.freeze(handle.id, false).await
    }

    async fn remove(&self, id: InstanceId) -> Result<()> {
        let this = self.clone();
        let turn = self.inner.turn(id).await;
        let work = async move {
            this.inner.remove(id).await?;
            this.inner.ranges.forget(id);
            this.inner.forget(id, turn);
            this.inner.remove_empty_parent().await;
            Ok(())
        };
        self.inner.finish(work).await
    }

    async fn exec(&self, handle: &InstanceHandle, request: ExecRequest) -> Result<Session> {
        self.inner.detect().await?;
        super::exec::exec(&self.inner, &self.files(handle.id), request).await
    }

    async fn attach(&self, id: InstanceId, request: AttachRequest) -> Result<Session> {
        self.inner.detect().await?;
        super::attach::attach(&self.inner, &self.files(id), request).await
    }

    async fn read_files(&self, id: InstanceId, path: &str) -> Result<BoxStream<'static, io::Result<bytes::Bytes>>> {
        self.inner.detect().await?;
        super::copy::read(&self.inner, &self.files(id), path).await
    }

    async fn write_files(
        &self,
        id: InstanceId,
        path: &str,
        archive: BoxStream<'static, io::Result<bytes::Bytes>>,
    ) -> Result<()> {
        self.inner.detect().await?;
        super::copy::write(&self.inner, &self.files(id), path, archive).await
    }

    async fn console(&self, handle: &InstanceHandle) -> Result<Session> {
        let message = format!("container {} has no serial console: use yun exec, or yun logs", handle.id);
        Err(DriverError::unavailable("NoConsole", message))
    }

    async fn logs(&self, id: InstanceId, request: LogRequest) -> Result<BoxStream<'static, io::Result<LogLine>>> {
        self.inner.detect().await?;
        super::logs::open(self.inner.clone(), self.files(id), request).await
    }
}
