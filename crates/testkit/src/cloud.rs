//! A whole cloud in one process: the real control plane over a real store, the real agent, and drivers that only pretend.
//!
//! Time is virtual. It flows by itself, much faster than outside, so that nothing waits for long; [`FakeCloud::advance`] jumps.
//! The host behind the drivers ([`World`]) outlives the server: it can be restarted over it, or the host can be rebooted.

use async_trait::async_trait;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinHandle;
use yun_agent::{Agent, AgentConfig, AgentHandle, Drivers, Inventory};
use yun_control::{
    Running,
    core::{Control, ControlConfig},
    node::LocalLink,
};
use yun_drivers::fake::World;
use yun_engine::{
    clock::{Clock, TestClock},
    tasks::Tasks,
};
use yun_store::{Options, SqliteStore, Store, StoreError};
use yun_types::{Arch, Bytes, CgroupVersion, CloudId, Cpu, NodeFacts, NodeUsage, Size};

/// How much virtual time passes in each beat, and how long a beat takes outside.
const BEAT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(5));
/// How long parts may take to stop, in virtual time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cloud on fakes.
pub struct FakeCloud {
    /// The virtual time.
    pub clock: TestClock,
    /// The host behind the drivers.
    pub world: World,
    /// The administrator's token.
    pub token: String,
    directory: tempfile::TempDir,
    cloud: CloudId,
    server: Option<Server>,
    flow: JoinHandle<()>,
}

impl std::fmt::Debug for FakeCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeCloud").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// The part that a restart replaces.
struct Server {
    running: Running,
    agent: AgentHandle,
    tasks: Tasks,
    control: Arc<Control>,
}

/// Why a cloud on fakes did not start.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

impl FakeCloud {
    /// Starts one, with a node of 4 cores, 8 GiB of memory and 100 GiB of disk.
    pub async fn start() -> Result<Self, StartError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Certificates are checked by clocks outside as well.
        let clock = TestClock::starting_at(chrono::Utc::now());
        let world = World::new(Arc::new(clock.clone()));
        let flow = tokio::spawn(flow(clock.clone()));
        let directory = tempfile::tempdir()?;
        let cloud = CloudId(uuid::Uuid::new_v4());
        let mut this = Self { clock, world, token: String::new(), directory, cloud, server: None, flow };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        this.server = Some(this.serve(listen).await?);
        let control = Arc::clone(&this.server()?.control);
        this.token = yun_control::first_admin_token(&control)
            .await
            .map_err(|e| format!("{e:?}"))?
            .ok_or("the cloud is not new")?;
        Ok(this)
    }

    fn server(&self) -> Result<&Server, StartError> {
        self.server.as_ref().ok_or_else(|| "the server does not run".into())
    }

    async fn serve(&self, listen: SocketAddr) -> Result<Server, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let tasks = Tasks::new(Arc::clone(&clock));
        let state = self.directory.path().join("state");
        std::fs::create_dir_all(&state)?;
        let store: Arc<dyn Store> = Arc::new(open(&state).await?);
        let config = ControlConfig {
            cloud: self.cloud,
            directory: self.directory.path().to_owned(),
            listen,
            names: Vec::new(),
            network_pool: "10.64.0.0/10".parse()?,
            network_prefix: 24,
        };
        let control = Arc::new(Control::open(config, store, Arc::clone(&clock), tasks.clone()).await?);
        let running = yun_control::start(Arc::clone(&control)).await?;
        let (vm, container, image, network) = self.world.drivers();
        let drivers = Drivers {
            vm_snapshots: Arc::new(vm.clone()),
            container_snapshots: Arc::new(container.clone()),
            machines: Arc::new(vm.clone()),
            vm: Arc::new(vm),
            container: Arc::new(container),
            image: Arc::new(image),
            network: Arc::new(network),
            volume: Arc::new(self.world.volumes()),
            meter: Arc::new(self.world.meter()),
        };
        let machine = Arc::new(Machine(self.world.clone()));
        let config = AgentConfig { seed: 7, ..AgentConfig::new(self.directory.path()) };
        let agent = Agent::start(config, Arc::new(LocalLink(Arc::clone(&control))), drivers, machine, clock, &tasks)?;
        agent.registered().await;
        Ok(Server { running, agent, tasks, control })
    }

    /// Where the API listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|s| s.running.address)
    }

    /// The file of the certificate authority.
    pub fn authority(&self) -> std::path::PathBuf {
        yun_control::tls::authority_path(self.directory.path())
    }

    /// Everything that is durable.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The control plane's core.
    pub fn control(&self) -> Option<&Arc<Control>> {
        self.server.as_ref().map(|s| &s.control)
    }

    /// Lets this much time pass at once.
    pub async fn advance(&self, span: Duration) {
        self.clock.advance(span).await;
    }

    /// Stops the server in good order and starts it again, on the same port. The host goes on meanwhile.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        let address = self.stop().await?;
        self.server = Some(self.serve(address).await?);
        Ok(())
    }

    /// The host goes down and comes up again, and the server with it.
    pub async fn reboot(&mut self) -> Result<(), StartError> {
        let address = self.stop().await?;
        self.world.reboot();
        self.server = Some(self.serve(address).await?);
        Ok(())
    }

    async fn stop(&mut self) -> Result<SocketAddr, StartError> {
        let Server { running, agent, tasks, control } = self.server.take().ok_or("the server does not run")?;
        let address = running.address;
        agent.stop(PATIENCE).await;
        running.shutdown().await;
        tasks.shutdown(PATIENCE).await;
        drop((agent, control));
        Ok(address)
    }
}

impl Drop for FakeCloud {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.tasks.abort();
        }
        self.flow.abort();
    }
}

/// Opens the state. Connections to the server before that are just closing hold it for a moment longer.
async fn open(directory: &Path) -> Result<SqliteStore, StoreError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match SqliteStore::open(directory, Options::default()) {
            Err(StoreError::Locked { .. }) if tokio::time::Instant::now() < until => tokio::task::yield_now().await,
            result => return result,
        }
    }
}

/// Lets virtual time pass.
async fn flow(clock: TestClock) {
    loop {
        tokio::time::sleep(BEAT.1).await;
        clock.advance(BEAT.0).await;
    }
}

/// The machine that the fakes pretend to be.
struct Machine(World);

#[async_trait]
impl Inventory for Machine {
    async fn facts(&self) -> NodeFacts {
        let size = Size { cpu: Cpu::cores(4), memory: Bytes::gib(8), disk: Bytes::gib(100) };
        NodeFacts {
            hostname: "fake".into(),
            os: "Fake".into(),
            kernel: "6.1".into(),
            arch: Arch::host(),
            cpu_model: "Fake".into(),
            capacity: size,
            total: size,
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
