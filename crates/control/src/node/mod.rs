//! Nodes: the machines of the pool.
//!
//! The state keeps what a node is and whether it is counted on; what changes all the time (the last sign of life, what is used) is kept in
//! memory only, in [`Nodes`].

mod link;
pub mod ops;
mod orders;
pub mod pool;
mod reconcile;
mod report;
#[cfg(test)]
mod tests;

pub use link::LocalLink;
pub(crate) use reconcile::start;

use crate::{core::Control, instance, rows::NodeRow};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use yun_api::node::NodeLink;
use yun_types::{Generation, InstanceId, Node, NodeId, NodeUsage, Timestamp};

/// The nodes that are connected now.
#[derive(Default)]
pub struct Nodes {
    live: Mutex<BTreeMap<NodeId, Live>>,
    /// Requests to stop sooner or later than the instance's own time, each for one generation. They are lost with the process: then the
    /// instance's own time counts.
    hurries: Mutex<HashMap<InstanceId, (Generation, u32)>>,
}

struct Live {
    link: Arc<dyn NodeLink>,
    /// By the clock that never jumps.
    heard: Duration,
    seen: Timestamp,
    usage: NodeUsage,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("live", &self.lock().keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to call a node; `None` if it has not registered with this process.
    pub fn link(&self, node: NodeId) -> Option<Arc<dyn NodeLink>> {
        self.lock().get(&node).map(|live| Arc::clone(&live.link))
    }

    /// Forgets how to call every node: an agent in this process holds us, and we hold it.
    pub(crate) fn hang_up(&self) {
        self.lock().clear();
    }

    fn register(&self, node: NodeId, link: Arc<dyn NodeLink>, heard: Duration, seen: Timestamp) {
        let mut live = self.lock();
        let usage = live.get(&node).map(|before| before.usage).unwrap_or_default();
        live.insert(node, Live { link, heard, seen, usage });
    }

    /// Notes a sign of life. `false` if the node has not registered with this process.
    fn heard(&self, node: NodeId, usage: Option<NodeUsage>, heard: Duration, seen: Timestamp) -> bool {
        let mut live = self.lock();
        let Some(entry) = live.get_mut(&node) else { return false };
        (entry.heard, entry.seen) = (heard, seen);
        entry.usage = usage.unwrap_or(entry.usage);
        true
    }

    fn last_heard(&self, node: NodeId) -> Option<Duration> {
        self.lock().get(&node).map(|live| live.heard)
    }

    /// This generation of the instance is to be stopped within so many seconds.
    pub(crate) fn hurry(&self, instance: InstanceId, generation: Generation, seconds: u32) {
        self.hurries.lock().unwrap_or_else(PoisonError::into_inner).insert(instance, (generation, seconds));
    }

    fn hurried(&self, instance: InstanceId, generation: Generation) -> Option<u32> {
        let mut hurries = self.hurries.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, seconds) = *hurries.get(&instance)?;
        if asked < generation {
            hurries.remove(&instance);
        }
        (asked == generation).then_some(seconds)
    }

    fn forget_instance(&self, instance: InstanceId) {
        self.hurries.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
    }
}

/// The node with what is reserved and used on it now.
pub fn view(c: &Control, row: &NodeRow) -> Node {
    let mut node = row.0.clone();
    let id = NodeId(node.metadata.id);
    node.status.reserved = instance::reserved_on(c, id);
    if let Some(live) = c.live.lock().get(&id) {
        node.status.used = live.usage;
        node.status.seen = live.seen;
    }
    node
}
