//! What an agent is given: its settings, its drivers, and the one who knows the machine.

use async_trait::async_trait;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};
use yun_drivers::{ImageDriver, InstanceDriver, MachineDriver, Meter, NetworkDriver, SnapshotDriver, VolumeDriver};
use yun_types::{InstanceKind, NodeFacts, NodeUsage};

/// An agent's settings.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The ledger is kept in `ledger/` under this directory.
    pub state: PathBuf,
    /// The time between two heartbeats.
    pub heartbeat: Duration,
    /// The time between two measurements of what is used.
    pub measure: Duration,
    /// How many instances may be prepared and started at the same time: more only make each other slower.
    pub parallel_starts: usize,
    /// How long registration waits for drivers that are still finding out what they can do. Slower ones are told of later.
    pub probe_limit: Duration,
    /// How long a network stays after the last instance that needed it: the next one finds it ready.
    pub network_linger: Duration,
    /// Seeds the jitter of retries: different on each node.
    pub seed: u64,
}

impl AgentConfig {
    /// The usual settings, with the ledger under `state`.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            state: state.into(),
            heartbeat: Duration::from_secs(2),
            measure: Duration::from_secs(5),
            parallel_starts: (2 * cores).max(4),
            probe_limit: Duration::from_secs(10),
            network_linger: Duration::from_secs(30),
            seed: u64::from(std::process::id()),
        }
    }
}

/// The drivers of a node.
#[derive(Clone)]
pub struct Drivers {
    /// VMs.
    pub vm: Arc<dyn InstanceDriver>,
    /// Containers.
    pub container: Arc<dyn InstanceDriver>,
    /// Contents.
    pub image: Arc<dyn ImageDriver>,
    /// Networks.
    pub network: Arc<dyn NetworkDriver>,
    /// Volumes.
    pub volume: Arc<dyn VolumeDriver>,
    /// What VMs were at one moment.
    pub vm_snapshots: Arc<dyn SnapshotDriver>,
    /// What containers were at one moment.
    pub container_snapshots: Arc<dyn SnapshotDriver>,
    /// What only VMs can do.
    pub machines: Arc<dyn MachineDriver>,
    /// What is used.
    pub meter: Arc<dyn Meter>,
}

impl Drivers {
    /// The driver of a kind of instance.
    pub fn of(&self, kind: InstanceKind) -> &Arc<dyn InstanceDriver> {
        match kind {
            InstanceKind::Vm => &self.vm,
            InstanceKind::Container => &self.container,
        }
    }

    /// The snapshots of a kind of instance.
    pub fn snapshots_of(&self, kind: InstanceKind) -> &Arc<dyn SnapshotDriver> {
        match kind {
            InstanceKind::Vm => &self.vm_snapshots,
            InstanceKind::Container => &self.container_snapshots,
        }
    }
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drivers")
    }
}

/// Knows the machine.
#[async_trait]
pub trait Inventory: Send + Sync + 'static {
    /// What the machine is and has. `drivers` and `taken_ranges` may be empty: the agent asks its drivers and fills them in.
    async fn facts(&self) -> NodeFacts;
    /// What is used now.
    async fn usage(&self) -> NodeUsage;
}
