//! The core that every resource works on: tables, caches, clock, journals, nodes. It owns them and decides nothing.

use crate::{
    auth::{Doors, Strangers, keys::Keys},
    http::idempotency::Turns,
    instance::Promises,
    journal::Journal,
    node::Nodes,
    operation::Works,
    rows::{
        ExplanationRow, GroupRow, IdempotencyRow, ImageRow, InstanceRow, NetworkRow, NodeRow, OperationRow, ProjectRow,
        SnapshotRow, SshKeyRow, TokenRow, VolumeRow,
    },
    ssh_key::Gateway,
    usage::Usage,
};
use std::{path::PathBuf, sync::Arc};
use tokio::sync::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use yun_engine::{clock::Clock, reconcile::Signal, tasks::Tasks};
use yun_store::{Cache, Store, StoreError, Stored, Table};
use yun_types::{AuditRecord, CloudId, Event};

/// What differs between installations.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Which installation this is.
    pub cloud: CloudId,
    /// Where certificates and journals are kept.
    pub directory: PathBuf,
    /// The address to listen on; port 0 lets the kernel choose.
    pub listen: std::net::SocketAddr,
    /// Names and addresses that the server's certificate is for, beside `localhost` and the loopback addresses.
    pub names: Vec<String>,
    /// The range that projects' networks are cut from.
    pub network_pool: ipnet::Ipv4Net,
    /// The prefix length of each network.
    pub network_prefix: u8,
}

/// A table and the cache that follows it.
#[derive(Debug, Clone)]
pub struct Resource<T: Stored> {
    /// For writing.
    pub table: Table<T>,
    /// For reading.
    pub cache: Cache<T>,
}

impl<T: Stored> Resource<T> {
    async fn open(store: &Arc<dyn Store>) -> Result<Self, StoreError> {
        Ok(Self { table: Table::new(Arc::clone(store)), cache: Cache::start(Arc::clone(store), &[]).await? })
    }
}

/// The control plane's core. Cheap to share; handlers and reconcilers hold an `Arc` of it.
pub struct Control {
    /// What differs between installations.
    pub config: ControlConfig,
    /// The state.
    pub store: Arc<dyn Store>,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// Background work of this part of the program; `/v1/tasks` lists that of all parts.
    pub tasks: Tasks,
    /// Groups.
    pub groups: Resource<GroupRow>,
    /// Images.
    pub images: Resource<ImageRow>,
    /// Instances.
    pub instances: Resource<InstanceRow>,
    /// Networks.
    pub networks: Resource<NetworkRow>,
    /// Nodes, as they are stored; [`Control::live`] knows what is measured.
    pub nodes: Resource<NodeRow>,
    /// Operations.
    pub operations: Resource<OperationRow>,
    /// Projects.
    pub projects: Resource<ProjectRow>,
    /// Snapshots of instances.
    pub snapshots: Resource<SnapshotRow>,
    /// SSH keys.
    pub ssh_keys: Resource<SshKeyRow>,
    /// Who the SSH gateway is, once there was one.
    pub gateway: Gateway,
    /// Tokens.
    pub tokens: Resource<TokenRow>,
    /// Volumes.
    pub volumes: Resource<VolumeRow>,
    /// Why placed instances are where they are. Read rarely: not cached.
    pub explanations: Table<ExplanationRow>,
    /// Answers to requests with an idempotency key. Read rarely: not cached.
    pub idempotency: Table<IdempotencyRow>,
    /// What happened.
    pub events: Journal<Event>,
    /// Who changed what.
    pub audit: Journal<AuditRecord>,
    /// What was measured.
    pub usage: Usage,
    /// Nodes that are connected now.
    pub live: Nodes,
    /// Wakes the group reconciler.
    pub wake_groups: Signal,
    /// Wakes the instance reconciler; it takes no other input.
    pub wake_instances: Signal,
    /// Wakes what takes and removes snapshots.
    pub wake_snapshots: Signal,
    /// Wakes what ends operations.
    pub wake_operations: Signal,
    /// Decisions that the caches do not show yet.
    pub promises: Promises,
    /// Work that operations stand for, as long as this process does it.
    pub works: Works,
    /// Whose secret a request carries.
    pub keys: Keys,
    /// The server's own doors.
    pub doors: Doors,
    /// How many strangers were refused of late.
    pub strangers: Strangers,
    /// Requests with the same idempotency key, one after the other.
    pub turns: Turns,
    /// Held while a range is chosen and given to a project's network, so that no two get the same.
    pub choosing_range: Mutex<()>,
    /// Held while an SSH key is added, so that a project has no key twice.
    pub adding_key: Mutex<()>,
    /// Held shared while an instance takes networks and volumes, and alone while one of those is made or taken away.
    pub holdings: RwLock<()>,
    /// Cancelled when streams and sessions should end.
    pub closing: CancellationToken,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cloud", &self.config.cloud).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens the core over a store. Starts caches, and nothing else: [`crate::start`] starts reconcilers and the server.
    pub async fn open(
        config: ControlConfig,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) -> Result<Self, crate::StartError> {
        let events = Journal::open(config.directory.join("events.jsonl"), Arc::clone(&clock))?;
        let audit = Journal::open(config.directory.join("audit.jsonl"), Arc::clone(&clock))?;
        let usage = Usage::open(&config.directory)?;
        let tokens: Resource<TokenRow> = Resource::open(&store).await?;
        Ok(Self {
            keys: Keys::new(tokens.cache.clone()),
            doors: Doors::default(),
            strangers: Strangers::default(),
            turns: Turns::default(),
            choosing_range: Mutex::default(),
            adding_key: Mutex::default(),
            holdings: RwLock::default(),
            closing: CancellationToken::new(),
            groups: Resource::open(&store).await?,
            images: Resource::open(&store).await?,
            instances: Resource::open(&store).await?,
            networks: Resource::open(&store).await?,
            nodes: Resource::open(&store).await?,
            operations: Resource::open(&store).await?,
            projects: Resource::open(&store).await?,
            snapshots: Resource::open(&store).await?,
            ssh_keys: Resource::open(&store).await?,
            gateway: Gateway::load(&store).await?,
            tokens,
            volumes: Resource::open(&store).await?,
            explanations: Table::new(Arc::clone(&store)),
            idempotency: Table::new(Arc::clone(&store)),
            events,
            audit,
            usage,
            live: Nodes::default(),
            wake_groups: Signal::default(),
            wake_instances: Signal::default(),
            wake_snapshots: Signal::default(),
            wake_operations: Signal::default(),
            promises: Promises::default(),
            works: Works::default(),
            config,
            store,
            clock,
            tasks: tasks.scope("control"),
        })
    }
}
