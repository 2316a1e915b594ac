//! Drivers in memory that misbehave on demand.
//!
//! A [`World`] is the host: processes, networks, contents. Drivers made from it come and go as yun's own processes do, and the world goes on
//! without them; [`World::reboot`] ends everything that a real reboot ends. The fakes hold the contracts of the real drivers (the same
//! conformance suite runs on both) and are stricter where that finds mistakes: after a reboot nothing starts that was not prepared again.
//!
//! Words: a [`Call`] is a method of a driver; a [`Fault`] is what should go wrong with it; *ending* an instance is what it does by itself.

mod exec;
mod images;
mod instances;
mod meter;
mod network;
mod sftp;
mod snapshots;
mod volumes;

pub use images::FakeImages;
pub use instances::FakeInstances;
pub use meter::FakeMeter;
pub use network::FakeNetwork;
pub use volumes::FakeVolumes;

use crate::{Attachment, DriverError, ErrorKind, Result};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use yun_engine::{
    clock::Clock,
    session::{LogLine, LogStream},
    tasks::Tasks,
};
use yun_types::{
    DesiredInstance, DesiredNetwork, Digest, Exit, Generation, ImageFacts, InstanceId, InstanceKind, NetworkId,
    Timestamp, VolumeId,
};

/// The methods of all drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named after its method")]
pub enum Call {
    Probe,
    Prepare,
    Start,
    Ready,
    Recover,
    Wait,
    Stop,
    Pause,
    Resume,
    Remove,
    Exec,
    Attach,
    Console,
    Logs,
    ImageProbe,
    ImageImport,
    ImageBuild,
    ImageOpen,
    ImageVerify,
    ImageList,
    ImageRemove,
    Hibernate,
    Renew,
    Resize,
    SnapshotTake,
    SnapshotRestore,
    SnapshotSeed,
    SnapshotRemove,
    SnapshotList,
    NetworkProbe,
    NetworkEnsure,
    NetworkRemove,
    NetworkAttach,
    NetworkRecover,
    NetworkDetach,
    NetworkDial,
    Fit,
    VolumeEnsure,
    VolumeRemove,
    Measure,
}

/// When in a call a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has been done yet.
    Before,
    /// All has been done, but the caller does not know.
    After,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It fails.
    Fail {
        /// What the caller decides by.
        kind: ErrorKind,
        /// One word for programs.
        reason: &'static str,
    },
    /// It does not return until [`World::clear`].
    Block,
    /// It takes this long on the world's clock.
    Slow(Duration),
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub moment: Moment,
    /// What.
    pub trouble: Trouble,
    /// For this instance only; for all if absent.
    pub instance: Option<InstanceId>,
    /// How often before all is well again; for ever if absent.
    pub times: Option<u32>,
}

impl Fault {
    /// The call fails each time.
    pub fn fails(kind: ErrorKind, reason: &'static str) -> Self {
        Self { moment: Moment::Before, trouble: Trouble::Fail { kind, reason }, instance: None, times: None }
    }
    /// The call hangs before it has done anything.
    pub fn hangs_before() -> Self {
        Self { moment: Moment::Before, trouble: Trouble::Block, instance: None, times: None }
    }
    /// The call hangs after it has done everything.
    pub fn hangs_after() -> Self {
        Self { moment: Moment::After, ..Self::hangs_before() }
    }
    /// The call takes this long.
    pub fn slow(span: Duration) -> Self {
        Self { trouble: Trouble::Slow(span), ..Self::hangs_before() }
    }
    /// Only so many times.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }
    /// Only for this instance.
    pub fn only(self, instance: InstanceId) -> Self {
        Self { instance: Some(instance), ..self }
    }
}

/// How the process in an instance behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// It ends by itself so long after its start, with this code.
    pub exits: Option<(Duration, i32)>,
    /// It does not listen to the polite request to stop.
    pub deaf: bool,
    /// It writes the lines `one` and `two` when it starts.
    pub talks: bool,
    /// VMs: the guest answers so long after the start; at once if absent.
    pub boots_after: Option<Duration>,
}

/// The host. Clones are the same host.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    state: Mutex<State>,
    /// Changes with each change of the state.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    boot: u64,
    next_run: u64,
    default_behaviour: Behaviour,
    behaviours: BTreeMap<InstanceId, Behaviour>,
    bodies: BTreeMap<InstanceId, Body>,
    networks: BTreeMap<NetworkId, DesiredNetwork>,
    attachments: BTreeMap<(InstanceId, NetworkId), Attachment>,
    volumes: BTreeMap<VolumeId, yun_types::Bytes>,
    fittings: BTreeMap<InstanceId, crate::Fittings>,
    images: BTreeMap<Digest, ImageFacts>,
    damaged: Vec<Digest>,
    served: BTreeMap<String, Bytes>,
    faults: Vec<(Call, Fault)>,
    calls: BTreeMap<Call, u32>,
    starts: BTreeMap<InstanceId, u32>,
    prepared_live: BTreeMap<InstanceId, u32>,
    seeds: snapshots::Seeds,
}

/// An instance, as the host has it.
struct Body {
    kind: InstanceKind,
    desired: DesiredInstance,
    /// Prepared for this generation since the last boot.
    prepared: Option<Generation>,
    run: Option<Run>,
    /// Present once it has run: how it ended last, if anybody knows.
    ended: Option<Option<Exit>>,
    log: Vec<LogLine>,
    holdings: snapshots::Holdings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    number: u64,
    since: Timestamp,
    paused: bool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let running: Vec<_> = state.bodies.iter().filter(|(_, body)| body.run.is_some()).map(|(id, _)| id).collect();
        f.debug_struct("World").field("boot", &state.boot).field("running", &running).finish_non_exhaustive()
    }
}

impl World {
    /// An empty host.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let tasks = Tasks::new(clock.clone());
        Self { inner: Arc::new(Inner { clock, tasks, state: Mutex::default(), changed: watch::channel(0).0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.inner.changed.send_modify(|n| *n = n.wrapping_add(1));
        result
    }

    /// Resolves once `condition` holds.
    async fn until(&self, mut condition: impl FnMut(&State) -> bool) {
        let mut changes = self.inner.changed.subscribe();
        while !condition(&self.lock()) {
            // The sender lives in `self`, so the wait cannot end with an error.
            let _ = changes.changed().await;
        }
    }

    /// Drivers of this host, as a fresh process makes them.
    pub fn drivers(&self) -> (FakeInstances, FakeInstances, FakeImages, FakeNetwork) {
        let instances = |kind| FakeInstances::new(self.clone(), kind);
        (
            instances(InstanceKind::Vm),
            instances(InstanceKind::Container),
            FakeImages::new(self.clone()),
            FakeNetwork::new(self.clone()),
        )
    }

    /// The volume driver of this host.
    pub fn volumes(&self) -> FakeVolumes {
        FakeVolumes::new(self.clone())
    }

    /// What reads the use of this host.
    pub fn meter(&self) -> FakeMeter {
        FakeMeter::new(self.clone())
    }

    /// What was plugged into an instance last.
    pub fn fittings(&self, id: InstanceId) -> Option<crate::Fittings> {
        self.lock().fittings.get(&id).cloned()
    }

    // ---- what tests ask for -------------------------------------------------------------------------------------------------------

    /// From now on this goes wrong.
    pub fn inject(&self, call: Call, fault: Fault) {
        self.change(|state| state.faults.push((call, fault)));
    }
    /// Nothing goes wrong with this call any more, and what it blocked goes on.
    pub fn clear(&self, call: Call) {
        self.change(|state| state.faults.retain(|(at, _)| *at != call));
    }
    /// How instances behave that have no behaviour of their own.
    pub fn behave_all(&self, behaviour: Behaviour) {
        self.change(|state| state.default_behaviour = behaviour);
    }
    /// How this instance behaves from its next start on.
    pub fn behave(&self, id: InstanceId, behaviour: Behaviour) {
        self.change(|state| state.behaviours.insert(id, behaviour));
    }
    /// The instance's process ends by itself. `false` if it does not run.
    pub fn end(&self, id: InstanceId, code: i32) -> bool {
        let signal = (code > 128).then(|| code - 128);
        self.end_with(id, Exit { code, signal, out_of_memory: false, at: self.inner.clock.now() })
    }
    /// The kernel ends the instance's process, because it went over its memory limit.
    pub fn end_out_of_memory(&self, id: InstanceId) -> bool {
        self.end_with(id, Exit { code: 137, signal: Some(9), out_of_memory: true, at: self.inner.clock.now() })
    }
    fn end_with(&self, id: InstanceId, exit: Exit) -> bool {
        self.change(|state| state.bodies.get_mut(&id).is_some_and(|body| body.end(Some(exit))))
    }
    /// The host goes down and comes up again: no process, no network, no attachment is left; disks and contents stay.
    pub fn reboot(&self) {
        self.change(|state| {
            state.boot += 1;
            state.networks.clear();
            state.attachments.clear();
            for body in state.bodies.values_mut() {
                body.end(None);
                body.prepared = None;
            }
        });
    }
    /// The instance's disk holds this now. Nothing happens if it is not here.
    pub fn write_data(&self, id: InstanceId, data: &str) {
        self.change(|state| {
            if let Some(body) = state.bodies.get_mut(&id) {
                body.holdings.data = data.to_owned();
            }
        });
    }
    /// The instance writes a line.
    pub fn write_log(&self, id: InstanceId, text: &str) {
        let at = Some(self.inner.clock.now());
        self.change(|state| {
            let Some(body) = state.bodies.get_mut(&id) else { return };
            let stream = if body.kind == InstanceKind::Vm { LogStream::Console } else { LogStream::Stdout };
            body.log.push(LogLine { at, stream, text: Bytes::copy_from_slice(text.as_bytes()) });
        });
    }
    /// From now on this address answers with these bytes to imports.
    pub fn serve(&self, url: &str, bytes: impl Into<Bytes>) {
        self.change(|state| state.served.insert(url.to_owned(), bytes.into()));
    }
    /// Puts a content in place without an import.
    pub fn add_image(&self, kind: InstanceKind, bytes: &[u8]) -> Digest {
        let facts = images::facts_of(bytes, kind, None);
        let digest = facts.digest.clone();
        self.change(|state| state.images.insert(digest.clone(), facts));
        digest
    }
    /// The content's bytes no longer match its digest.
    pub fn damage_image(&self, digest: &Digest) {
        self.change(|state| state.damaged.push(digest.clone()));
    }

    // ---- what tests look at -------------------------------------------------------------------------------------------------------

    /// Which boot of the host this is.
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.lock().boot)
    }
    /// How often a call was made.
    pub fn calls(&self, call: Call) -> u32 {
        self.lock().calls.get(&call).copied().unwrap_or_default()
    }
    /// How often the instance's process really began.
    pub fn starts(&self, id: InstanceId) -> u32 {
        self.lock().starts.get(&id).copied().unwrap_or_default()
    }
    /// How often it was prepared while its process was there: who remembers what it started does not do that.
    pub fn prepared_live(&self, id: InstanceId) -> u32 {
        self.lock().prepared_live.get(&id).copied().unwrap_or_default()
    }
    /// True while its process is there, paused or not.
    pub fn is_running(&self, id: InstanceId) -> bool {
        self.lock().bodies.get(&id).is_some_and(|body| body.run.is_some())
    }
    /// True while its process is frozen.
    pub fn is_paused(&self, id: InstanceId) -> bool {
        self.lock().bodies.get(&id).and_then(|body| body.run).is_some_and(|run| run.paused)
    }
    /// What is on its disk.
    pub fn data(&self, id: InstanceId) -> Option<String> {
        self.lock().bodies.get(&id).map(|body| body.holdings.data.clone())
    }
    /// How often a start of it went on with its memory.
    pub fn resumed(&self, id: InstanceId) -> u32 {
        self.lock().bodies.get(&id).map_or(0, |body| body.holdings.resumed)
    }
    /// What it was last prepared for.
    pub fn prepared(&self, id: InstanceId) -> Option<DesiredInstance> {
        self.lock().bodies.get(&id).map(|body| body.desired.clone())
    }
    /// The instance's attachment.
    pub fn attachment(&self, id: InstanceId) -> Option<Attachment> {
        let state = self.lock();
        let mut of = state.attachments.values().filter(|attachment| attachment.instance == id);
        of.next().cloned().map(|first| {
            of.fold(first, |first, next| if next.nic.index < first.nic.index { next.clone() } else { first })
        })
    }
    /// What the network was last brought to.
    pub fn network(&self, id: NetworkId) -> Option<DesiredNetwork> {
        self.lock().networks.get(&id).cloned()
    }
    /// The contents that are here.
    pub fn images(&self) -> Vec<Digest> {
        self.lock().images.keys().cloned().collect()
    }
    /// What is left of an instance, for people. Empty after its removal.
    pub fn leftovers(&self, id: InstanceId) -> Vec<String> {
        let state = self.lock();
        let body = state.bodies.get(&id).map(|body| format!("body of {id}, running: {}", body.run.is_some()));
        let attached = state.attachments.values().filter(|attachment| attachment.instance == id);
        let attachments = attached.map(|attachment| format!("attachment of {id} to {}", attachment.network));
        body.into_iter().chain(attachments).collect()
    }
    /// Every instance of which something is left.
    pub fn bodies(&self) -> Vec<InstanceId> {
        self.lock().bodies.keys().copied().collect()
    }
    /// Changes with each change of the host.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    // ---- what the drivers are made of ---------------------------------------------------------------------------------------------

    /// Counts the call, and lets it go wrong if a test asked for that.
    async fn enter(&self, call: Call, instance: Option<InstanceId>) -> Result<()> {
        *self.lock().calls.entry(call).or_default() += 1;
        self.suffer(call, instance, Moment::Before).await
    }

    /// The call has done its work: lets it go wrong if a test asked for that.
    async fn leave(&self, call: Call, instance: Option<InstanceId>) -> Result<()> {
        self.suffer(call, instance, Moment::After).await
    }

    async fn suffer(&self, call: Call, instance: Option<InstanceId>, moment: Moment) -> Result<()> {
        // Real drivers wait at both ends of a call: a caller that goes away is dropped here.
        tokio::task::yield_now().await;
        let trouble = self.lock().take_fault(call, instance, moment);
        match trouble {
            None => Ok(()),
            Some(Trouble::Fail { kind, reason }) => Err(DriverError::new(
                kind,
                reason,
                format!("cannot do {call:?}: the test asked for {reason}; clear the fault"),
            )),
            Some(Trouble::Slow(span)) => {
                self.inner.clock.sleep(span).await;
                Ok(())
            }
            Some(Trouble::Block) => {
                self.until(|state| {
                    !state.faults.iter().any(|(at, fault)| *at == call && fault.trouble == Trouble::Block)
                })
                .await;
                Ok(())
            }
        }
    }
}

impl State {
    fn take_fault(&mut self, call: Call, instance: Option<InstanceId>, moment: Moment) -> Option<Trouble> {
        let strikes = |(at, fault): &(Call, Fault)| {
            *at == call
                && fault.moment == moment
                && (fault.instance.is_none() || fault.instance == instance)
                && fault.times != Some(0)
        };
        let index = self.faults.iter().position(strikes)?;
        let fault = &mut self.faults[index].1;
        if let Some(times) = &mut fault.times {
            *times -= 1;
        }
        Some(fault.trouble.clone())
    }

    fn behaviour(&self, id: InstanceId) -> Behaviour {
        self.behaviours.get(&id).copied().unwrap_or(self.default_behaviour)
    }
}

impl Body {
    fn end(&mut self, exit: Option<Exit>) -> bool {
        let ran = self.run.take().is_some();
        if ran {
            self.ended = Some(exit);
        }
        ran
    }
}
