//! The pool as decisions see it: what the caches show, with what was decided a moment ago and is on its way to the store.
//!
//! Two requests at the same time must not both get the last room, the same address or the same port. So a decision is made under a lock, on a
//! snapshot that includes earlier decisions, and it leaves a *promise* there until the caches show it or its transaction has failed. The
//! lock is never held across a wait, so that the store can still commit many requests at once.

use crate::{
    core::Control,
    rows::{InstanceRow, NetworkRow},
    volume,
};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use uuid::Uuid;
use yun_plan::{
    Refused, amount,
    interface::{self, Ground},
    place::NodeView,
};
use yun_store::{Key, Row, StoreError};
use yun_types::{Instance, InstanceId, Name, NetworkId, Node, NodeId, Reserved, Size};

/// How long an address rests before it is given to somebody else, if there are others: as long as neighbours remember the old owner's
/// hardware address.
const REST: Duration = Duration::from_secs(60);
/// How long a promise stays in force when nobody knows what came of its transaction.
const UNCERTAIN: Duration = Duration::from_secs(10);

/// Decisions that the caches do not show yet.
#[derive(Debug, Default)]
pub struct Promises {
    state: Mutex<State>,
    places: Mutex<HashMap<Uuid, Key>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Each until somebody says what came of it, or until this moment.
    made: BTreeMap<u64, (Instance, Option<Duration>)>,
    /// Addresses that were freed, and until when they rest.
    resting: BTreeMap<(NetworkId, Ipv4Addr), Duration>,
}

impl Promises {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a freed address rest.
    pub(crate) fn rest(&self, network: NetworkId, address: Ipv4Addr, now: Duration) {
        let mut state = self.lock();
        state.resting.retain(|_, until| *until > now);
        state.resting.insert((network, address), now + REST);
    }

    /// Finds an instance by its id. Remembers where it was found; what is remembered is never trusted.
    pub(super) fn find(
        &self,
        id: Uuid,
        at: impl FnOnce(&str) -> Option<Arc<Row<InstanceRow>>>,
        all: impl FnOnce() -> Vec<Arc<Row<InstanceRow>>>,
    ) -> Option<Arc<Row<InstanceRow>>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = places.get(&id).and_then(|key| at(key)).filter(|row| row.value.0.metadata.id == id) {
            return Some(row);
        }
        let rows = all();
        *places = rows.iter().map(|row| (row.value.0.metadata.id, row.key.clone())).collect();
        rows.into_iter().find(|row| row.value.0.metadata.id == id)
    }
}

/// A snapshot for one decision. Others wait while it lives: decide, promise, drop.
pub(crate) struct Pool<'a> {
    c: &'a Control,
    state: MutexGuard<'a, State>,
    rows: Vec<Arc<Row<InstanceRow>>>,
}

impl fmt::Debug for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("instances", &self.rows.len())
            .field("promises", &self.state.made.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Pool<'a> {
    /// Takes the snapshot.
    pub(crate) fn lock(c: &'a Control) -> Self {
        // Promises first: one that is kept meanwhile is in the cache by then.
        let mut state = c.promises.lock();
        let now = c.clock.monotonic();
        state.made.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        let rows = c.instances.cache.all(&[]);
        Self { c, state, rows }
    }

    /// All instances, as they are or are about to be.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Instance> {
        let promised: BTreeMap<Uuid, &Instance> =
            self.state.made.values().map(|(instance, _)| (instance.metadata.id, instance)).collect();
        let replaced: BTreeSet<Uuid> = promised.keys().copied().collect();
        let shown =
            self.rows.iter().map(|row| &row.value.0).filter(move |instance| !replaced.contains(&instance.metadata.id));
        shown.chain(promised.into_values())
    }

    /// All instances but one: what it must get on with.
    pub(crate) fn others(&self, id: Uuid) -> impl Iterator<Item = &Instance> {
        self.instances().filter(move |other| other.metadata.id != id)
    }

    /// The nodes with what is promised on them.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        let mut held: BTreeMap<NodeId, Reserved> = BTreeMap::new();
        for instance in self.instances() {
            if let Some(node) = instance.status.node {
                let on_node = held.entry(node).or_default();
                *on_node = amount::add(*on_node, instance.spec.size);
            }
        }
        for row in self.c.volumes.cache.all(&[]) {
            if let Some(node) = row.value.0.status.node {
                let on_node = held.entry(node).or_default();
                *on_node = amount::add_disk(*on_node, row.value.0.spec.size);
            }
        }
        let rows = self.c.nodes.cache.all(&[]);
        rows.iter().map(|row| node_view(&row.value.0, &held)).collect()
    }

    /// What a project holds.
    pub(crate) fn held_by(&self, project: &Name) -> Reserved {
        let sizes: Vec<Size> =
            self.instances().filter(|i| i.metadata.project.as_ref() == Some(project)).map(|i| i.spec.size).collect();
        amount::add_disk(amount::total(sizes), volume::held_by_project(self.c, project))
    }

    /// A network as the choice of an address in it for an instance sees it.
    fn ground(&self, network: &NetworkRow, wanted_by: Uuid) -> Ground {
        let (id, cidr): (NetworkId, Ipv4Net) = (NetworkId(network.0.metadata.id), network.0.spec.cidr);
        let now = self.c.clock.monotonic();
        // Ranges do not overlap, so an address in this one is one of this network.
        let taken = self
            .others(wanted_by)
            .flat_map(|other| interface::addresses(&other.status).map(|address| (address, other.metadata.name.clone())))
            .filter(|(address, _)| cidr.contains(address))
            .collect();
        let resting = self
            .state
            .resting
            .iter()
            .filter(|((of, _), until)| *of == id && **until > now)
            .map(|((_, address), _)| *address)
            .collect();
        Ground { name: network.0.metadata.name.clone(), id, cidr, taken, resting }
    }

    /// Gives an instance its interfaces in these networks, which are those of its spec; those that it has stay.
    pub(crate) fn connect(&self, instance: &mut Instance, networks: &[Arc<Row<NetworkRow>>]) -> Result<(), Refused> {
        let grounds: Vec<Ground> = networks.iter().map(|row| self.ground(&row.value, instance.metadata.id)).collect();
        let default = grounds.iter().find(|ground| ground.name.as_str() == interface::DEFAULT).map(|ground| ground.id);
        let now = interface::of(&instance.status, default);
        let id = InstanceId(instance.metadata.id);
        let interfaces = interface::assign(id, &interface::memberships(&instance.spec), &now, &grounds)?;
        interface::put(&mut instance.status, interfaces);
        Ok(())
    }

    /// Keeps what was decided for an instance from everybody else, until the promise is dropped.
    pub(crate) fn promise(mut self, instance: Instance) -> Promise<'a> {
        let number = self.state.next;
        self.state.next += 1;
        self.state.made.insert(number, (instance, None));
        Promise { c: self.c, number }
    }
}

fn node_view(node: &Node, held: &BTreeMap<NodeId, Reserved>) -> NodeView {
    let id = NodeId(node.metadata.id);
    NodeView {
        id,
        name: node.metadata.name.clone(),
        arch: node.status.facts.arch,
        state: node.status.state,
        cordoned: node.spec.cordoned,
        capacity: node.status.facts.capacity,
        reserved: held.get(&id).copied().unwrap_or_default(),
        drivers: node.status.facts.drivers.clone(),
    }
}

/// A decision on its way to the store.
///
/// If it is dropped without a word, because the request was given up while its transaction was on its way, nobody knows what will come of
/// it: then it stays in force for a while, by which the caches show it if it happened.
pub(crate) struct Promise<'a> {
    c: &'a Control,
    number: u64,
}

impl fmt::Debug for Promise<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Promise<'_> {
    /// The transaction was answered: after success the caches show it, and after a failure there is nothing to show.
    pub(crate) fn answered<T>(self, answer: &Result<T, StoreError>) {
        if !matches!(answer, Err(StoreError::Unknown { .. })) {
            self.c.promises.lock().made.remove(&self.number);
        }
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let until = self.c.clock.monotonic() + UNCERTAIN;
        if let Some((_, end)) = self.c.promises.lock().made.get_mut(&self.number) {
            *end = Some(until);
        }
    }
}
