//! The parts, wired together: the only place that knows all of them.

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use yun_agent::{Agent, AgentConfig, AgentHandle, Drivers, Inventory};
use yun_control::{
    core::{Control, ControlConfig},
    node::LocalLink,
};
use yun_drivers::NoSnapshots;
use yun_engine::{
    clock::{Clock, SystemClock},
    tasks::Tasks,
};
use yun_linux::{
    container::ContainerDriver,
    daemon::ProcessId,
    host::{
        Host,
        inventory::{UsageMeter, inventory},
    },
    image::LinuxImages,
    meter::LinuxMeter,
    network::LinuxNetwork,
    vm::{AccelChoice, VmDriver, VmDriverOptions},
    volume::LinuxVolumes,
};
use yun_store::{Options, SqliteStore, Store, StoreError};
use yun_types::{InstanceKind, NodeFacts, NodeUsage};

use super::{
    config::{self, Config},
    doors,
};
use crate::cli::context::{Context, Contexts, admin_file};

/// How long parts may take to let go of what they hold.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the machine may take to find out what it can do before the cloud is called up without it.
const FIRST_NODE: Duration = Duration::from_secs(15);

/// A cloud that runs in this process.
#[derive(Debug)]
pub(crate) struct Cloud {
    /// Where the API listens.
    pub(crate) address: SocketAddr,
    /// Where SSH clients are answered, if they are.
    pub(crate) ssh: Option<SocketAddr>,
    running: yun_control::Running,
    agent: AgentHandle,
    tasks: Tasks,
}

impl Cloud {
    /// Resolves once this machine lends what it has.
    pub(crate) async fn joined(&self) {
        self.agent.registered().await;
    }

    /// Stops serving. Instances go on.
    pub(crate) async fn stop(self) {
        self.running.shutdown().await;
        self.agent.stop(PATIENCE).await;
        let late = self.tasks.shutdown(PATIENCE).await;
        if !late.is_empty() {
            tracing::warn!(tasks = late.join(", "), "these did not stop in time");
        }
    }
}

/// Starts state, control plane, drivers and agent.
pub(crate) async fn start(config: &Config, host: &Host, root: &Path) -> Result<Cloud> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let tasks = Tasks::new(Arc::clone(&clock));
    let state = host.state().join("state");
    // The state holds private keys.
    std::fs::create_dir_all(&state)
        .and_then(|()| std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)))
        .with_context(|| format!("cannot make {} for root alone", state.display()))?;
    let store: Arc<dyn Store> = Arc::new(open_state(&state).await?);
    let control = ControlConfig {
        cloud: host.cloud(),
        directory: host.state().to_owned(),
        listen: config.api.listen,
        names: config.api.names.clone(),
        network_pool: config.network.pool,
        network_prefix: config.network.prefix,
    };
    let control = Arc::new(Control::open(control, store, Arc::clone(&clock), tasks.clone()).await?);
    // Before a node is told of VMs: they are made with the gateway's key.
    let gateway = doors::ssh::identity(config, &control).await?;
    let running = yun_control::start(Arc::clone(&control)).await?;
    if !yun_linux::host::listener::answer_at_once(running.address).unwrap_or(false) {
        tracing::warn!(address = %running.address, "cannot make connections answer at once: some answers will come 40 ms late");
    }
    let local = leave_context(&control, root, running.address).await?;

    crate::backup::start(&tasks, Arc::clone(&clock), host, root);
    let link = Arc::new(LocalLink(Arc::clone(&control)));
    let machine = Arc::new(Machine {
        host: host.clone(),
        cpu_overcommit: config.node.cpu_overcommit,
        meter: UsageMeter::default(),
    });
    let agent = Agent::start(
        AgentConfig::new(host.state()),
        link,
        drivers(config, host)?,
        machine,
        Arc::clone(&clock),
        &tasks,
    )?;
    let ssh = doors::start(config, host, &control, &local, &clock, &tasks, gateway).await;
    // Who is told that the cloud is up may launch at once. A node that takes longer is told of by `yun node ls` when it comes.
    if tokio::time::timeout(FIRST_NODE, agent.registered()).await.is_err() {
        tracing::warn!("this machine is still finding out what it can do; the cloud is up without it");
    }
    Ok(Cloud { address: running.address, ssh, running, agent, tasks })
}

/// Opens the state. A server that was killed a moment ago may still be on its way out.
async fn open_state(directory: &Path) -> Result<SqliteStore> {
    let until = Instant::now() + PATIENCE;
    loop {
        match SqliteStore::open(directory, Options::default()) {
            Err(StoreError::Locked { pid, .. }) if pid.is_none_or(is_gone) && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return Ok(result?),
        }
    }
}

fn is_gone(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(ProcessId::of).is_none()
}

fn drivers(config: &Config, host: &Host) -> Result<Drivers> {
    let accel = match config.vm.accel {
        config::AccelChoice::Auto => AccelChoice::Auto,
        config::AccelChoice::Kvm => AccelChoice::Kvm,
        config::AccelChoice::Tcg => AccelChoice::Tcg,
    };
    let vm = Arc::new(VmDriver::new(host.clone(), VmDriverOptions { accel, ..Default::default() }));
    Ok(Drivers {
        vm_snapshots: vm.clone(),
        container_snapshots: Arc::new(NoSnapshots(InstanceKind::Container)),
        machines: vm.clone(),
        vm,
        container: Arc::new(ContainerDriver::new(host.clone(), Default::default())?),
        image: Arc::new(LinuxImages::new(host, Default::default())),
        network: Arc::new(LinuxNetwork::new(host.clone(), Default::default())?),
        volume: Arc::new(LinuxVolumes::new(host.clone())),
        meter: Arc::new(LinuxMeter::new(host.clone())?),
    })
}

/// Knows this machine.
#[derive(Debug)]
struct Machine {
    host: Host,
    cpu_overcommit: u32,
    meter: UsageMeter,
}

#[async_trait]
impl Inventory for Machine {
    async fn facts(&self) -> NodeFacts {
        inventory(&self.host, self.cpu_overcommit, Vec::new(), Vec::new()).await.unwrap_or_else(|error| {
            tracing::error!(%error, "this machine cannot be looked at: it lends nothing");
            unknown()
        })
    }

    async fn usage(&self) -> NodeUsage {
        self.meter.measure(&self.host).unwrap_or_default()
    }
}

/// A machine that lends nothing, because it could not be looked at.
fn unknown() -> NodeFacts {
    NodeFacts {
        hostname: "unknown".into(),
        os: "unknown".into(),
        kernel: "unknown".into(),
        arch: yun_types::Arch::host(),
        cpu_model: "unknown".into(),
        capacity: nothing(),
        total: nothing(),
        cgroup: yun_types::CgroupVersion::V2,
        boot_id: String::new(),
        taken_ranges: Vec::new(),
        drivers: Vec::new(),
    }
}

fn nothing() -> yun_types::Size {
    yun_types::Size { cpu: yun_types::Cpu(0), memory: yun_types::Bytes(0), disk: yun_types::Bytes(0) }
}

/// Leaves the administrator's context in a file that only root reads: where `up` and the command line of this machine look.
async fn leave_context(control: &Arc<Control>, root: &Path, address: SocketAddr) -> Result<Context> {
    let path = admin_file(root);
    let mut contexts = Contexts::load(&path).unwrap_or_default();
    let kept = contexts.contexts.get("local").and_then(|c| c.token.clone());
    let token = match (yun_control::first_admin_token(control).await?, kept) {
        (Some(first), _) => first,
        (None, Some(kept)) => kept,
        // The state is there and the file is not: root of this machine may always have a new one.
        (None, None) => yun_control::reissue_admin_token(control).await?,
    };
    let ca = std::fs::read_to_string(yun_control::tls::authority_path(&control.config.directory))
        .context("cannot read the certificate authority")?;
    let context = Context { host: format!("https://{address}"), ca: Some(ca), token: Some(token), project: None };
    contexts.current = Some("local".into());
    contexts.contexts.insert("local".into(), context.clone());
    contexts.save(&path)?;
    Ok(context)
}

/// What this machine's drivers can do.
pub(crate) async fn probe(config: &Config, host: &Host) -> Result<Vec<yun_types::DriverFacts>> {
    let drivers = drivers(config, host)?;
    let (vm, container) = tokio::join!(drivers.vm.probe(), drivers.container.probe());
    Ok([vm, container].into_iter().flatten().collect())
}

/// Stops every instance of this root and removes what it has at run time. The server must not run.
pub(crate) async fn halt(config: &Config, host: &Host) -> Result<usize> {
    let ended = yun_agent::halt(&AgentConfig::new(host.state()), &drivers(config, host)?).await?;
    LinuxNetwork::new(host.clone(), Default::default())?.remove_all().await?;
    let left = yun_linux::host::sweep::sweep(host);
    anyhow::ensure!(left.is_empty(), "not everything could be removed; try yun down again: {}", left.join("; "));
    Ok(ended)
}
