//! A node on fakes: a virtual clock, a host in memory, a control plane in memory, and an agent that can be crashed and started again.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of it")]

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use yun_agent::{Agent, AgentConfig, AgentHandle, Drivers, Inventory};
use yun_api::node::{ControlLink, LinkError, NodeEvent, NodeLink, Registered};
use yun_drivers::fake::World;
use yun_engine::{
    clock::{Clock, TestClock},
    tasks::Tasks,
};
use yun_types::*;

pub const SECOND: Duration = Duration::from_secs(1);

// ---- the control plane --------------------------------------------------------------------------------------------------------------------

#[derive(Default)]
pub struct Desk {
    pub instances: BTreeMap<InstanceId, DesiredInstance>,
    pub networks: BTreeMap<NetworkId, DesiredNetwork>,
    pub images: Vec<Digest>,
    /// The newest report of each instance.
    pub reports: BTreeMap<InstanceId, InstanceReport>,
    /// Every report, in order.
    pub history: Vec<InstanceReport>,
    pub facts: Vec<NodeFacts>,
    pub heartbeats: u32,
    pub usage: NodeUsage,
    /// What was measured last.
    pub measured: Measured,
    pub events: Vec<NodeEvent>,
    pub down: bool,
    pub refuse: Vec<InstanceId>,
    pub forgot_node: bool,
    streams: Vec<(mpsc::UnboundedSender<NodeOrder>, CancellationToken)>,
    callback: Option<Arc<dyn NodeLink>>,
}

#[derive(Clone, Default)]
pub struct Control(Arc<Mutex<Desk>>);

impl Control {
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap()
    }
    fn send(&self, order: NodeOrder) {
        self.desk().streams.retain(|(stream, _)| stream.send(order.clone()).is_ok());
    }
    /// An order on the stream that the desk does not remember.
    pub fn send_raw(&self, order: NodeOrder) {
        self.send(order);
    }
    pub fn want(&self, instance: DesiredInstance) {
        self.desk().instances.insert(instance.id, instance.clone());
        self.send(NodeOrder::Instance(Box::new(instance)));
    }
    /// Changes the spec as a user does: the generation grows.
    pub fn edit(&self, id: InstanceId, change: impl FnOnce(&mut InstanceSpec)) {
        let mut instance = self.desk().instances[&id].clone();
        change(&mut instance.spec);
        instance.generation = instance.generation.next();
        self.want(instance);
    }
    pub fn power(&self, id: InstanceId, power: Power) {
        self.edit(id, |spec| spec.power = power);
    }
    pub fn delete(&self, id: InstanceId) {
        let mut instance = self.desk().instances[&id].clone();
        instance.deleting = true;
        self.want(instance);
    }
    pub fn network(&self, network: DesiredNetwork) {
        self.desk().networks.insert(network.id, network.clone());
        self.send(NodeOrder::Network(network));
    }
    pub fn network_gone(&self, id: NetworkId) {
        self.desk().networks.remove(&id);
        self.send(NodeOrder::NetworkGone { id });
    }
    pub fn image_gone(&self, digest: &Digest) {
        self.desk().images.retain(|known| known != digest);
        self.send(NodeOrder::ImageGone { digest: digest.clone() });
    }
    /// Breaks the streams of orders.
    pub fn cut(&self) {
        for (_, cut) in self.desk().streams.drain(..) {
            cut.cancel();
        }
    }
    pub fn set_down(&self, down: bool) {
        self.desk().down = down;
        if down {
            self.cut();
        }
    }
    pub fn report(&self, id: InstanceId) -> Option<InstanceReport> {
        self.desk().reports.get(&id).cloned()
    }
    pub fn status(&self, id: InstanceId) -> Option<ObservedState> {
        match self.report(id)?.observed {
            ObservedInstance::State(state) => Some(state),
            ObservedInstance::Gone => None,
        }
    }
    pub fn state(&self, id: InstanceId) -> Option<InstanceState> {
        self.status(id).map(|status| status.state)
    }
    pub fn gone(&self, id: InstanceId) -> bool {
        self.report(id).is_some_and(|report| report.observed == ObservedInstance::Gone)
    }
    pub fn callback(&self) -> Arc<dyn NodeLink> {
        self.desk().callback.clone().unwrap()
    }
    pub fn reasons(&self) -> Vec<String> {
        self.desk().events.iter().map(|event| event.reason.clone()).collect()
    }
    fn reach(&self) -> Result<MutexGuard<'_, Desk>, LinkError> {
        let desk = self.desk();
        if desk.down { Err(LinkError::Unreachable("the test took the control plane down".into())) } else { Ok(desk) }
    }
}

const NODE: NodeId = NodeId(Uuid::from_u128(0xa));

#[async_trait]
impl ControlLink for Control {
    async fn register(&self, facts: NodeFacts, callback: Arc<dyn NodeLink>) -> Result<Registered, LinkError> {
        let mut desk = self.reach()?;
        desk.facts.push(facts);
        desk.callback = Some(callback);
        desk.forgot_node = false;
        Ok(Registered { node: NODE })
    }
    async fn heartbeat(&self, node: NodeId, usage: NodeUsage) -> Result<(), LinkError> {
        assert_eq!(node, NODE);
        let mut desk = self.reach()?;
        if desk.forgot_node {
            return Err(LinkError::NotFound("no such node".into()));
        }
        desk.heartbeats += 1;
        desk.usage = usage;
        Ok(())
    }
    async fn report_volumes(&self, _: NodeId, _: Vec<yun_types::VolumeReport>) -> Result<(), LinkError> {
        self.reach().map(drop)
    }
    async fn measured(&self, node: NodeId, measured: Measured) -> Result<(), LinkError> {
        assert_eq!(node, NODE);
        self.reach()?.measured = measured;
        Ok(())
    }
    async fn orders(&self, node: NodeId) -> Result<BoxStream<'static, NodeOrder>, LinkError> {
        assert_eq!(node, NODE);
        let mut desk = self.reach()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let snapshot = NodeOrder::Snapshot {
            instances: desk.instances.values().cloned().collect(),
            networks: desk.networks.values().cloned().collect(),
            images: desk.images.clone(),
            volumes: vec![],
        };
        sender.send(snapshot).unwrap();
        let cut = CancellationToken::new();
        desk.streams.push((sender, cut.clone()));
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|order| (order, receiver))
        });
        Ok(stream.take_until(cut.cancelled_owned()).boxed())
    }
    async fn report(&self, node: NodeId, reports: Vec<InstanceReport>) -> Result<(), LinkError> {
        assert_eq!(node, NODE);
        tokio::task::yield_now().await;
        let mut desk = self.reach()?;
        if let Some(report) = reports.iter().find(|report| desk.refuse.contains(&report.id)) {
            return Err(LinkError::refused("Refused", format!("the test refuses {}", report.id)));
        }
        for report in reports {
            desk.history.push(report.clone());
            if report.observed == ObservedInstance::Gone
                && desk.instances.get(&report.id).is_some_and(|instance| instance.deleting)
            {
                desk.instances.remove(&report.id);
            }
            desk.reports.insert(report.id, report);
        }
        Ok(())
    }
    async fn event(&self, _: NodeId, event: NodeEvent) -> Result<(), LinkError> {
        self.reach()?.events.push(event);
        Ok(())
    }
}

// ---- the machine --------------------------------------------------------------------------------------------------------------------------

struct Machine(World);

#[async_trait]
impl Inventory for Machine {
    async fn facts(&self) -> NodeFacts {
        NodeFacts {
            hostname: "test".into(),
            os: "test".into(),
            kernel: "6".into(),
            arch: Arch::host(),
            cpu_model: "test".into(),
            capacity: Size::default(),
            total: Size::default(),
            cgroup: CgroupVersion::V2,
            boot_id: self.0.boot_id(),
            taken_ranges: Vec::new(),
            drivers: Vec::new(),
        }
    }
    async fn usage(&self) -> NodeUsage {
        NodeUsage { cpu: Cpu(250), ..NodeUsage::default() }
    }
}

// ---- the bench ----------------------------------------------------------------------------------------------------------------------------

pub struct Bench {
    pub clock: TestClock,
    pub world: World,
    pub control: Control,
    pub state: tempfile::TempDir,
    pub network: DesiredNetwork,
    pub container_image: Digest,
    pub vm_image: Digest,
    pub agent: Option<AgentHandle>,
    pub tasks: Tasks,
    /// How long unneeded networks stay.
    pub linger: Duration,
    next: u8,
}

impl Bench {
    /// A node with an agent that is registered.
    pub async fn new() -> Self {
        let mut bench = Self::without_agent();
        bench.start().await;
        bench
    }

    pub fn without_agent() -> Self {
        let clock = TestClock::default();
        let world = World::new(Arc::new(clock.clone()));
        let control = Control::default();
        let container_image = world.add_image(InstanceKind::Container, b"container");
        let vm_image = world.add_image(InstanceKind::Vm, b"vm");
        let spec = NetworkSpec::new("10.77.0.0/16".parse().unwrap());
        let network = DesiredNetwork {
            id: NetworkId(Uuid::from_u128(0xe)),
            project: "default".parse().unwrap(),
            spec,
            records: Vec::new(),
        };
        control.desk().networks.insert(network.id, network.clone());
        control.desk().images = vec![container_image.clone(), vm_image.clone()];
        let tasks = Tasks::new(Arc::new(clock.clone()));
        let state = tempfile::tempdir().unwrap();
        Self {
            clock,
            world,
            control,
            state,
            network,
            container_image,
            vm_image,
            agent: None,
            tasks,
            linger: Duration::ZERO,
            next: 1,
        }
    }

    /// Starts an agent over what is there, without waiting for anything.
    pub fn launch_agent(&mut self) {
        self.launch_agent_by(Arc::new(self.clock.clone()));
    }

    /// Starts an agent that lives by this clock.
    pub fn launch_agent_by(&mut self, clock: Arc<dyn Clock>) {
        let drivers = self.drivers();
        self.tasks = Tasks::new(clock.clone());
        let config = self.config();
        let (link, machine) = (Arc::new(self.control.clone()), Arc::new(Machine(self.world.clone())));
        let agent = Agent::start(config, link, drivers, machine, clock, &self.tasks).unwrap();
        self.agent = Some(agent);
    }

    /// Drivers as a fresh process makes them.
    pub fn drivers(&self) -> Drivers {
        let (vm, container, image, network) = self.world.drivers();
        Drivers {
            vm_snapshots: Arc::new(vm.clone()),
            container_snapshots: Arc::new(container.clone()),
            machines: Arc::new(vm.clone()),
            vm: Arc::new(vm),
            container: Arc::new(container),
            image: Arc::new(image),
            network: Arc::new(network),
            volume: Arc::new(self.world.volumes()),
            meter: Arc::new(self.world.meter()),
        }
    }

    pub fn config(&self) -> AgentConfig {
        AgentConfig { seed: 7, parallel_starts: 8, network_linger: self.linger, ..AgentConfig::new(self.state.path()) }
    }

    pub async fn start(&mut self) {
        self.launch_agent();
        self.settle().await;
    }

    /// The agent dies where it stands. The host goes on.
    pub async fn crash(&mut self) {
        self.tasks.abort();
        self.tasks.ended().await;
        self.control.cut();
        self.agent = None;
    }

    /// Lets everything run that can run without time passing, and a little more: passing states are sent late.
    pub async fn settle(&self) {
        self.clock.advance(Duration::from_millis(100)).await;
    }

    /// Lets time pass until the condition holds; says what was waited for if it never does.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if condition(self) {
                return;
            }
            self.clock.advance(Duration::from_millis(50)).await;
        }
        panic!(
            "waited in vain for: {what}; reports: {:#?}; tasks: {:#?}",
            self.control.desk().reports,
            self.tasks.list()
        );
    }

    pub async fn until_state(&self, id: InstanceId, state: InstanceState) {
        self.until(&format!("{id} {state}"), |bench| bench.control.state(id) == Some(state)).await;
    }

    pub fn instance(&mut self, kind: InstanceKind) -> DesiredInstance {
        let number = self.next;
        self.next += 1;
        let id = InstanceId(Uuid::from_u128(0x1_0000 + u128::from(number)));
        let (image, digest) = match kind {
            InstanceKind::Vm => ("vm", &self.vm_image),
            InstanceKind::Container => ("container", &self.container_image),
        };
        let pin = ImagePin { id: ImageId(Uuid::from_u128(1)), name: image.into(), digest: digest.clone() };
        let nic = Nic {
            network: self.network.id,
            address: Ipv4Addr::new(10, 77, 0, number + 1),
            mac: format!("02:00:00:00:00:{number:02x}"),
            publish: Vec::new(),
            index: 0,
            egress: None,
            ingress: None,
        };
        DesiredInstance {
            more_nics: vec![],
            volumes: vec![],
            id,
            name: format!("i{number}").parse().unwrap(),
            project: "default".parse().unwrap(),
            kind,
            generation: Generation(1),
            fence: 1,
            spec: spec(kind, image),
            image: pin,
            nic,
            origin: Default::default(),
            deleting: false,
            restarts: 0,
            restart_count: 0,
            restores: 0,
        }
    }

    /// Launches a container and waits until it runs.
    pub async fn running(&mut self) -> InstanceId {
        let instance = self.instance(InstanceKind::Container);
        self.run(instance).await
    }

    pub async fn run(&self, instance: DesiredInstance) -> InstanceId {
        let id = instance.id;
        self.control.want(instance);
        self.until_state(id, InstanceState::Running).await;
        id
    }

    /// The ids that have an entry in the ledger.
    pub fn ledger(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.state.path().join("ledger"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut ids: Vec<String> = names
            .filter(|name| name.ends_with(".json"))
            .map(|name| name.split('.').next().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }

    /// The file of an entry in the ledger.
    pub fn ledger_file(&self, id: InstanceId) -> std::path::PathBuf {
        let mut files = std::fs::read_dir(self.state.path().join("ledger")).unwrap().map(|file| file.unwrap().path());
        files.find(|path| path.to_string_lossy().contains(&id.to_string())).unwrap()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

pub fn spec(kind: InstanceKind, image: &str) -> InstanceSpec {
    InstanceSpec {
        networks: vec![],
        volumes: vec![],
        kind: Some(kind),
        image: image.into(),
        size: Size::default(),
        power: Power::Running,
        restart: RestartPolicy::Always,
        restart_count: 0,
        publish: Vec::new(),
        node: None,
        stop_timeout: None,
        template: None,
        container: ContainerOptions::default(),
        vm: VmOptions::default(),
    }
}
