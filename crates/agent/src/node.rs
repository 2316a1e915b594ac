//! The node as one thing: what all its tasks share, and the registry of owners that orders are handed to.

use crate::{
    config::{AgentConfig, Drivers, Inventory},
    events::Events,
    images::{self, Images},
    ledger::{Entry, Ledger},
    networks::Networks,
    outbox::Outbox,
    owner::{Shown, supervise},
    volumes::Volumes,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::{Semaphore, watch};
use yun_api::node::ControlLink;
use yun_engine::{clock::Clock, reconcile::Signal, tasks::Tasks};
use yun_types::{Accel, DesiredInstance, Digest, DriverFacts, InstanceId, InstanceKind, NodeId, NodeOrder};

/// What the tasks of a node share.
pub(crate) struct Node {
    pub(crate) config: AgentConfig,
    pub(crate) link: Arc<dyn ControlLink>,
    pub(crate) drivers: Drivers,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) ledger: Ledger,
    pub(crate) networks: Networks,
    pub(crate) images: Images,
    pub(crate) volumes: Volumes,
    pub(crate) outbox: Outbox,
    pub(crate) events: Events,
    /// Permits to prepare and start.
    pub(crate) starts: Semaphore,
    /// This boot of the host. Set before the first owner begins.
    pub(crate) boot_id: OnceLock<String>,
    /// What the drivers said they can do.
    pub(crate) abilities: watch::Sender<BTreeMap<&'static str, DriverFacts>>,
    /// This node's id in the cloud, once it is registered.
    pub(crate) id: watch::Sender<Option<NodeId>>,
    /// The link should be made anew.
    pub(crate) reconnect: Signal,
    registry: Mutex<BTreeMap<InstanceId, Slot>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &*self.id.borrow())
            .field("instances", &self.lock().len())
            .finish_non_exhaustive()
    }
}

/// What an owner is told: always the newest, whatever came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// It should be like this.
    Keep(Arc<DesiredInstance>),
    /// The control plane does not name it: it should go.
    Orphan,
}

impl Order {
    /// True if nothing of it should be left.
    pub(crate) fn goes(&self) -> bool {
        match self {
            Self::Keep(desired) => desired.deleting,
            Self::Orphan => true,
        }
    }
}

/// One instance in the registry.
struct Slot {
    order: watch::Sender<Order>,
    shown: watch::Receiver<Shown>,
    /// The newest placement that was heard of.
    fence: u64,
    kind: InstanceKind,
    image: Digest,
}

/// The parts that a node is made of, beside what it makes itself.
pub(crate) struct Parts {
    pub(crate) config: AgentConfig,
    pub(crate) link: Arc<dyn ControlLink>,
    pub(crate) drivers: Drivers,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) ledger: Ledger,
    pub(crate) events: Events,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, link, drivers, inventory, clock, tasks, ledger, events } = parts;
        let reconnect = Signal::default();
        Self {
            starts: Semaphore::new(config.parallel_starts.max(1)),
            outbox: Outbox::new(clock.clone(), reconnect.clone()),
            networks: Networks::default(),
            images: Images::default(),
            volumes: Volumes::default(),
            boot_id: OnceLock::new(),
            abilities: watch::channel(BTreeMap::new()).0,
            id: watch::channel(None).0,
            registry: Mutex::default(),
            config,
            link,
            drivers,
            inventory,
            clock,
            tasks,
            ledger,
            events,
            reconnect,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Slot>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This boot of the host.
    pub(crate) fn boot(&self) -> &str {
        self.boot_id.get().map_or("", String::as_str)
    }

    /// How VMs run here.
    pub(crate) fn accel(&self) -> Option<Accel> {
        self.abilities.borrow().get("vm").and_then(|facts| facts.accel)
    }

    /// Resolves once the driver of this kind has found out what it can do: nothing but looks and removals may come before that.
    pub(crate) async fn probed(&self, kind: InstanceKind) {
        let driver = match kind {
            InstanceKind::Vm => "vm",
            InstanceKind::Container => "container",
        };
        // The sender lives in `self`, so the wait cannot end with an error.
        let _ = self.abilities.subscribe().wait_for(|known| known.contains_key(driver)).await;
    }

    /// Carries out one order. Quick: the work is done by owners and keepers.
    pub(crate) fn apply(self: &Arc<Self>, order: NodeOrder) {
        match order {
            NodeOrder::Snapshot { instances, networks, images, volumes } => {
                let wanted: BTreeSet<_> = networks.iter().map(|network| network.id).collect();
                for network in networks {
                    self.networks.want(self, network);
                }
                for volume in volumes {
                    self.volumes.want(self, volume);
                }
                let named: BTreeSet<_> = instances.iter().map(|instance| instance.id).collect();
                for instance in instances {
                    self.take(instance);
                }
                self.orphan_all_but(&named);
                self.networks.keep_only(|id| wanted.contains(&id));
                images::sweep(self, images.into_iter().collect());
                self.outbox.repeat();
            }
            NodeOrder::Instance(instance) => self.take(*instance),
            NodeOrder::Network(network) => self.networks.want(self, network),
            NodeOrder::Volume(volume) => self.volumes.want(self, volume),
            NodeOrder::NetworkGone { id } => self.networks.unwant(id),
            NodeOrder::ImageGone { digest } => images::gone(self, digest),
        }
    }

    /// Hands an instance's order to its owner, and makes the owner if there is none.
    fn take(self: &Arc<Self>, desired: DesiredInstance) {
        let mut registry = self.lock();
        match registry.get_mut(&desired.id) {
            Some(slot) if desired.fence < slot.fence => {
                let (instance, old, new) = (desired.id, desired.fence, slot.fence);
                tracing::warn!(%instance, old, new, "an order of an older placement was refused");
            }
            Some(slot) => {
                slot.fence = desired.fence;
                let order = Order::Keep(Arc::new(desired));
                slot.order.send_if_modified(|now| {
                    let changed = *now != order;
                    *now = order;
                    changed
                });
            }
            None => self.own(&mut registry, Entry::new(desired)),
        }
    }

    /// Takes up what the ledger remembers. Before the first order.
    pub(crate) fn remember(self: &Arc<Self>, entries: Vec<Entry>) {
        let mut registry = self.lock();
        for entry in entries {
            self.own(&mut registry, entry);
        }
    }

    fn own(self: &Arc<Self>, registry: &mut BTreeMap<InstanceId, Slot>, entry: Entry) {
        let desired = Arc::new(entry.desired.clone());
        let (order, mailbox) = watch::channel(Order::Keep(desired.clone()));
        let (show, shown) = watch::channel(Shown::default());
        let node = self.clone();
        let slot = Slot { order, shown, fence: desired.fence, kind: desired.kind, image: desired.image.digest.clone() };
        registry.insert(desired.id, slot);
        self.tasks.spawn(format!("instance/{}/{}", desired.project, desired.name), move |task| {
            supervise(node, entry, mailbox, show, task)
        });
    }

    fn orphan_all_but(&self, named: &BTreeSet<InstanceId>) {
        for (id, slot) in self.lock().iter().filter(|(id, _)| !named.contains(id)) {
            tracing::info!(instance = %id, "the control plane does not name this instance any more: it will be removed");
            slot.order.send_if_modified(|now| {
                let changed = !now.goes();
                if changed {
                    *now = Order::Orphan;
                }
                changed
            });
        }
    }

    /// Takes an instance off the registry when nothing is left of it. `false` if an order came in the meantime that wants it again.
    pub(crate) fn leave(&self, id: InstanceId, mailbox: &watch::Receiver<Order>) -> bool {
        let mut registry = self.lock();
        let leaves = mailbox.borrow().goes();
        if leaves {
            registry.remove(&id);
        }
        leaves
    }

    /// True if an instance here was made from this content.
    pub(crate) fn uses(&self, digest: &Digest) -> bool {
        self.lock().values().any(|slot| slot.image == *digest)
    }

    /// What an owner shows of its instance.
    pub(crate) fn shown(&self, id: InstanceId) -> Option<(InstanceKind, Shown)> {
        self.lock().get(&id).map(|slot| (slot.kind, slot.shown.borrow().clone()))
    }

    /// The instances of which a process is there.
    pub(crate) fn live(&self) -> Vec<(InstanceId, InstanceKind)> {
        self.lock().iter().filter(|(_, slot)| slot.shown.borrow().live).map(|(id, slot)| (*id, slot.kind)).collect()
    }

    /// What all owners show.
    pub(crate) fn all_shown(&self) -> BTreeMap<InstanceId, Shown> {
        self.lock().iter().map(|(id, slot)| (*id, slot.shown.borrow().clone())).collect()
    }
}
