//! A cloud for tests: the real core over a real store in a directory of its own, a clock that stands still, and nodes of a few lines.

use crate::{
    auth::{Caller, caller::tests::caller},
    core::{Control, ControlConfig},
    error::Refusal,
    group, image, instance, node,
    node::LocalLink,
    operation, project,
    rows::ImageRow,
    snapshot,
};
use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use uuid::Uuid;
use yun_api::{
    cloud::{InstanceCreate, ProjectCreate},
    node::{ControlLink, ImageInput, ImportRequest, LinkError, NodeLink, Stream},
};
use yun_engine::{
    clock::{Clock, TestClock},
    session::{ExecRequest, LogLine, LogRequest, LogStream, Session, session},
    tasks::Tasks,
    work::Followed,
};
use yun_store::{Options, SqliteStore, Store};
use yun_types::{
    Arch, Bytes, CgroupVersion, CloudId, DesiredInstance, DesiredVolume, Digest, DriverFacts, Generation, Image,
    ImageFacts, ImageRecipe, ImageSpec, ImageStatus, Instance, InstanceId, InstanceKind, InstanceReport, InstanceSpec,
    InstanceState, Labels, Metadata, Name, NameOrId, NodeFacts, NodeId, NodeOrder, ObservedInstance, ObservedState,
    ObservedVolume, Operation, OperationId, Power, ProjectSpec, Role, Size, SnapshotFacts, SnapshotId, SnapshotOrder,
    VolumeReport,
};

/// The longest a test waits for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn named(text: &str) -> NameOrId {
    text.parse().unwrap()
}

pub(crate) fn admin() -> Caller {
    caller(Some(Role::Admin), &[])
}

/// Resolves once `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A cloud with the project `default`, and no node yet.
pub(crate) struct Cloud {
    pub(crate) c: Arc<Control>,
    pub(crate) clock: TestClock,
    store: Arc<dyn Store>,
    directory: Arc<tempfile::TempDir>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.c.tasks.abort();
    }
}

impl Cloud {
    pub(crate) async fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&directory.path().join("state"), Options::default()).unwrap());
        Self::open(directory, store, TestClock::default()).await
    }

    async fn open(directory: Arc<tempfile::TempDir>, store: Arc<dyn Store>, clock: TestClock) -> Self {
        let config = ControlConfig {
            cloud: CloudId(Uuid::nil()),
            directory: directory.path().to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            names: vec![],
            network_pool: "10.77.0.0/16".parse().unwrap(),
            network_prefix: 24,
        };
        let arc_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let tasks = Tasks::new(Arc::clone(&arc_clock));
        let c = Arc::new(Control::open(config, Arc::clone(&store), arc_clock, tasks).await.unwrap());
        project::ops::ensure_default(&c).await.unwrap();
        operation::start(&c);
        node::start(&c);
        image::start(&c);
        instance::start(&c);
        group::start(&c);
        snapshot::start(&c);
        Self { c, clock, store, directory }
    }

    /// The process dies where it stands, and another one opens the same state.
    pub(crate) async fn reopen(self) -> Self {
        self.c.tasks.abort();
        let (directory, store, clock) = (Arc::clone(&self.directory), Arc::clone(&self.store), self.clock.clone());
        drop(self);
        Self::open(directory, store, clock).await
    }

    /// A node with so much room that does what it is told.
    pub(crate) async fn node(&self, host: &str, capacity: &str) -> FakeNode {
        self.node_with(facts(host, capacity)).await
    }

    pub(crate) async fn node_with(&self, facts: NodeFacts) -> FakeNode {
        FakeNode::join(&self.c, facts).await
    }

    pub(crate) async fn project(&self, text: &str, spec: ProjectSpec) -> Name {
        project::ops::create(&self.c, &admin(), ProjectCreate { name: name(text), labels: Labels::new(), spec })
            .await
            .unwrap();
        name(text)
    }

    /// Enters an image in the catalogue of a project.
    pub(crate) async fn image(&self, project: &str, text: &str, facts: ImageFacts) -> Image {
        let metadata = Metadata {
            id: Uuid::new_v4(),
            name: name(text),
            project: Some(name(project)),
            labels: Labels::new(),
            created: self.clock.now(),
            generation: Generation(1),
            revision: String::new(),
            deleting: None,
        };
        let image = Image {
            metadata,
            spec: ImageSpec { source: "test".into() },
            status: ImageStatus { facts, verified: None },
        };
        let rev = self.c.images.table.create(&[project, text], &ImageRow(image.clone())).await.unwrap();
        self.c.images.cache.wait_for(rev).await.unwrap();
        image
    }

    /// A cloud with node `a` and the container image `busybox`.
    pub(crate) async fn usual() -> (Self, FakeNode) {
        let cloud = Self::new().await;
        cloud.image("default", "busybox", container_image(1)).await;
        let node = cloud.node("a", "cpu:4,memory:4Gi,disk:40Gi").await;
        (cloud, node)
    }

    pub(crate) async fn create_in(
        &self,
        project: &str,
        text: &str,
        change: impl FnOnce(&mut InstanceSpec),
    ) -> Result<Operation, Refusal> {
        self.create_as(&admin(), project, text, change).await
    }

    pub(crate) async fn create_as(
        &self,
        caller: &Caller,
        project: &str,
        text: &str,
        change: impl FnOnce(&mut InstanceSpec),
    ) -> Result<Operation, Refusal> {
        let mut spec = spec();
        change(&mut spec);
        instance::ops::create(
            &self.c,
            caller,
            &name(project),
            InstanceCreate { name: name(text), labels: Labels::new(), spec },
        )
        .await
    }

    pub(crate) async fn create(
        &self,
        text: &str,
        change: impl FnOnce(&mut InstanceSpec),
    ) -> Result<Operation, Refusal> {
        self.create_in("default", text, change).await
    }

    /// Creates an instance and waits until its launch has ended well.
    pub(crate) async fn launch(&self, text: &str, change: impl FnOnce(&mut InstanceSpec)) -> Instance {
        let operation = self.create(text, change).await.unwrap();
        let end = self.end(&operation).await;
        assert_eq!(end.status.error, None);
        self.instance(text).unwrap()
    }

    /// Waits for the end of an operation.
    pub(crate) async fn end(&self, operation: &Operation) -> Operation {
        let id = OperationId(operation.metadata.id);
        let caller = admin();
        let wait = operation::ops::wait(&self.c, &caller, id, None, Duration::from_secs(3600));
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("did not end: {operation:?}")).unwrap()
    }

    pub(crate) fn instance(&self, text: &str) -> Option<Instance> {
        self.instance_in("default", text)
    }

    pub(crate) fn instance_in(&self, project: &str, text: &str) -> Option<Instance> {
        self.c.instances.cache.get(&[project, text]).map(|row| row.value.0.clone())
    }

    pub(crate) fn state(&self, text: &str) -> Option<InstanceState> {
        self.instance(text).map(|instance| instance.status.state)
    }

    pub(crate) async fn reaches(&self, text: &str, state: InstanceState) {
        eventually(&format!("{text} is {state}"), || self.state(text) == Some(state)).await;
    }

    /// Waits until the last events about the object are these. They are told a moment after the state has them.
    pub(crate) async fn tells(&self, about: &str, last: &[&str]) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.events(about).iter().map(String::as_str).collect::<Vec<_>>().ends_with(last) {
            assert!(tokio::time::Instant::now() < deadline, "{about} tells {:?} and not {last:?}", self.events(about));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The reasons of all events about the object, oldest first.
    pub(crate) fn events(&self, about: &str) -> Vec<String> {
        let all = self.c.events.tail(10_000);
        all.iter().filter(|event| event.object.name == about).map(|event| event.reason.clone()).collect()
    }
}

/// A small container of `busybox`.
pub(crate) fn spec() -> InstanceSpec {
    InstanceSpec {
        kind: None,
        image: "busybox".into(),
        size: size("cpu:500m,memory:64Mi,disk:100Mi"),
        power: Power::Running,
        restart: Default::default(),
        restart_count: 0,
        publish: vec![],
        networks: vec![],
        volumes: vec![],
        node: None,
        stop_timeout: None,
        template: None,
        container: Default::default(),
        vm: Default::default(),
    }
}

pub(crate) fn size(text: &str) -> Size {
    text.parse().unwrap()
}

pub(crate) fn container_image(byte: u8) -> ImageFacts {
    ImageFacts {
        digest: Digest::from_sha256([byte; 32]),
        kind: InstanceKind::Container,
        arch: Arch::Amd64,
        size: Bytes::mib(4),
        min_disk: Bytes(0),
        config: None,
        boot: None,
        description: None,
    }
}

pub(crate) fn vm_image(byte: u8) -> ImageFacts {
    ImageFacts { kind: InstanceKind::Vm, min_disk: Bytes::gib(1), ..container_image(byte) }
}

pub(crate) fn facts(host: &str, capacity: &str) -> NodeFacts {
    let driver =
        |name: &str| DriverFacts { driver: name.into(), ready: true, engine: None, accel: None, message: None };
    NodeFacts {
        hostname: host.into(),
        os: "test".into(),
        kernel: "6".into(),
        arch: Arch::Amd64,
        cpu_model: "test".into(),
        capacity: size(capacity),
        total: size(capacity),
        cgroup: CgroupVersion::V2,
        boot_id: "1".into(),
        taken_ranges: vec![],
        drivers: ["vm", "container", "image"].map(driver).into(),
    }
}

/// A node that notes its orders and, as long as it obeys, says at once that they are carried out.
pub(crate) struct FakeNode {
    pub(crate) id: NodeId,
    pub(crate) link: LocalLink,
    pub(crate) inner: Arc<Inner>,
    orders: JoinHandle<()>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.orders.abort();
    }
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) told: Mutex<Vec<NodeOrder>>,
    desired: Mutex<BTreeMap<InstanceId, DesiredInstance>>,
    disobeys: AtomicBool,
    /// What the next imports and builds lead to; without a word they succeed.
    pub(crate) import: Mutex<Option<Result<ImageFacts, LinkError>>>,
    /// Imports wait until they are cancelled, or until this is set back.
    pub(crate) hold_imports: AtomicBool,
    /// What taking a snapshot leads to; without a word it succeeds.
    pub(crate) snapshot: Mutex<Option<LinkError>>,
    /// Snapshots wait until they are cancelled, or until this is set back.
    pub(crate) hold_snapshots: AtomicBool,
    /// The snapshots that the node has.
    pub(crate) snapshots: Mutex<BTreeMap<SnapshotId, SnapshotOrder>>,
    /// How many bytes uploads brought.
    pub(crate) uploaded: Mutex<usize>,
}

impl FakeNode {
    async fn join(c: &Arc<Control>, facts: NodeFacts) -> Self {
        Self::join_as(c, facts, Arc::default()).await
    }

    /// The same node after its agent was started again.
    pub(crate) async fn join_as(c: &Arc<Control>, facts: NodeFacts, inner: Arc<Inner>) -> Self {
        let link = LocalLink(Arc::clone(c));
        let id = link.register(facts, Arc::clone(&inner) as Arc<dyn NodeLink>).await.unwrap().node;
        let mut stream = link.orders(id).await.unwrap();
        let (agent, reports) = (Arc::clone(&inner), link.clone());
        let orders = tokio::spawn(async move {
            while let Some(order) = stream.next().await {
                agent.told.lock().unwrap().push(order.clone());
                let (instances, volumes) = match order {
                    NodeOrder::Snapshot { instances, volumes, .. } => (instances, volumes),
                    NodeOrder::Instance(instance) => (vec![*instance], vec![]),
                    NodeOrder::Volume(volume) => (vec![], vec![volume]),
                    _ => continue,
                };
                if !agent.disobeys.load(Ordering::SeqCst) {
                    let _ = reports.report_volumes(id, volumes.iter().map(kept).collect()).await;
                }
                for desired in instances {
                    agent.desired.lock().unwrap().insert(desired.id, desired.clone());
                    if !agent.disobeys.load(Ordering::SeqCst) {
                        let _ = reports.report(id, vec![carried_out(&desired)]).await;
                    }
                }
            }
        });
        Self { id, link, inner, orders }
    }

    /// Orders are noted and not carried out.
    pub(crate) fn disobey(&self) {
        self.inner.disobeys.store(true, Ordering::SeqCst);
    }

    pub(crate) fn desired(&self, text: &str) -> Option<DesiredInstance> {
        self.inner.desired.lock().unwrap().values().find(|desired| desired.name.as_str() == text).cloned()
    }

    pub(crate) fn told(&self) -> Vec<NodeOrder> {
        self.inner.told.lock().unwrap().clone()
    }

    /// Waits until the node was told of the instance.
    pub(crate) async fn hears_of(&self, text: &str) -> DesiredInstance {
        eventually(&format!("the node hears of {text}"), || self.desired(text).is_some()).await;
        self.desired(text).unwrap()
    }

    /// Reports a state of the instance, as it was last ordered.
    pub(crate) async fn says(&self, text: &str, state: ObservedState) {
        let desired = self.hears_of(text).await;
        let report = InstanceReport { observed: ObservedInstance::State(state), ..carried_out(&desired) };
        self.link.report(self.id, vec![report]).await.unwrap();
    }

    pub(crate) async fn says_gone(&self, text: &str) {
        let desired = self.hears_of(text).await;
        let report = InstanceReport { observed: ObservedInstance::Gone, ..carried_out(&desired) };
        self.link.report(self.id, vec![report]).await.unwrap();
    }
}

pub(crate) fn in_state(state: InstanceState) -> ObservedState {
    ObservedState { state, ..ObservedState::default() }
}

/// What a node reports when it has carried an order out.
pub(crate) fn carried_out(desired: &DesiredInstance) -> InstanceReport {
    let state = match desired.spec.power {
        Power::Running => InstanceState::Running,
        Power::Paused => InstanceState::Paused,
        Power::Stopped => InstanceState::Stopped,
        Power::Hibernated => InstanceState::Hibernated,
    };
    let restores = desired.origin.restores();
    let observed = if desired.deleting {
        ObservedInstance::Gone
    } else {
        ObservedInstance::State(ObservedState {
            restart_count: desired.spec.restart_count,
            restores,
            ..in_state(state)
        })
    };
    InstanceReport { id: desired.id, fence: desired.fence, generation: desired.generation, observed }
}

/// What a node reports of a volume when it has carried an order out.
pub(crate) fn kept(volume: &DesiredVolume) -> VolumeReport {
    let observed = match volume.deleting {
        true => ObservedVolume::Gone,
        false => ObservedVolume::Ready { used: Bytes(0), enforced: true, message: None },
    };
    VolumeReport { id: volume.id, generation: volume.generation, observed }
}

impl Inner {
    async fn take_in(&self, work: Followed, what: &str) -> Result<ImageFacts, LinkError> {
        work.report(Some(50), what);
        while self.hold_imports.load(Ordering::SeqCst) {
            tokio::select! {
                () = work.cancelled() => return Err(LinkError::Cancelled),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        self.import.lock().unwrap().take().unwrap_or_else(|| Ok(container_image(9)))
    }
}

#[async_trait]
impl NodeLink for Inner {
    async fn exec(&self, _: InstanceId, request: ExecRequest) -> Result<Session, LinkError> {
        match request.command[0].as_str() {
            "nope" => Err(LinkError::refused("ProgramNotFound", "the image has no nope")),
            _ => Ok(session().0),
        }
    }
    async fn console(&self, _: InstanceId) -> Result<Session, LinkError> {
        Ok(session().0)
    }
    async fn logs(&self, _: InstanceId, _: LogRequest) -> Result<BoxStream<'static, io::Result<LogLine>>, LinkError> {
        let line = LogLine { at: None, stream: LogStream::Stdout, text: "hello".into() };
        Ok(futures::stream::iter([Ok(line)]).boxed())
    }
    async fn dial(&self, _: InstanceId, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        match port {
            80 => Ok(Box::new(tokio::io::duplex(64).0)),
            _ => Err(LinkError::Unreachable("connection refused".into())),
        }
    }
    async fn import_image(
        &self,
        input: ImageInput,
        request: ImportRequest,
        work: Followed,
    ) -> Result<ImageFacts, LinkError> {
        if let ImageInput::Upload(mut bytes) = input {
            while let Some(chunk) = bytes.next().await {
                let chunk =
                    chunk.map_err(|e| LinkError::refused("UploadBroken", format!("the upload broke off: {e}")))?;
                *self.uploaded.lock().unwrap() += chunk.len();
            }
        }
        let facts = self.take_in(work, "reading").await?;
        Ok(ImageFacts { config: request.config, ..facts })
    }
    async fn build_image(&self, recipe: ImageRecipe, work: Followed) -> Result<ImageFacts, LinkError> {
        self.take_in(work, &format!("installing {}", recipe.base)).await
    }
    async fn export_image(
        &self,
        digest: Digest,
        _format: Option<yun_types::ExportFormat>,
        name: String,
    ) -> Result<BoxStream<'static, io::Result<bytes::Bytes>>, LinkError> {
        let bytes = bytes::Bytes::from(format!("{name} {digest}"));
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }
    async fn take_snapshot(
        &self,
        _: InstanceId,
        order: SnapshotOrder,
        work: Followed,
    ) -> Result<SnapshotFacts, LinkError> {
        work.report(Some(50), "keeping the memory");
        while self.hold_snapshots.load(Ordering::SeqCst) {
            tokio::select! {
                () = work.cancelled() => return Err(LinkError::Cancelled),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        if let Some(error) = self.snapshot.lock().unwrap().take() {
            return Err(error);
        }
        let facts = SnapshotFacts {
            taken: chrono::DateTime::UNIX_EPOCH,
            size: Bytes::mib(7),
            memory: order.memory,
            consistent: true,
        };
        self.snapshots.lock().unwrap().insert(order.id, order);
        Ok(facts)
    }
    async fn remove_snapshot(&self, _: InstanceId, snapshot: SnapshotId) -> Result<(), LinkError> {
        self.snapshots.lock().unwrap().remove(&snapshot);
        Ok(())
    }
    async fn verify_image(&self, digest: Digest) -> Result<(), LinkError> {
        match digest == container_image(66).digest {
            true => Err(LinkError::refused("ImageDamaged", "its content is not what its digest says; import it again")),
            false => Ok(()),
        }
    }
}
