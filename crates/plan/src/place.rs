//! Placement of instances on nodes.
//!
//! Owns the choice of a node and its explanation. Never reserves anything outside its own answer: the caller gives the snapshot, writes the
//! decision down, and tries again if the state has moved on meanwhile.
//!
//! Words: a *rule* takes nodes out; each node is counted under the first rule that takes it out, so that the counts add up. A node *fits* if
//! no rule takes it out. The node *nearest* to fitting is the one that passes most rules and lacks least.
//!
//! The choice is the *best fit*: the node that will be fullest, so that large rooms stay for large instances. Equal scores are decided by a
//! rank that is fixed by the node's id: the same snapshot always gives the same answer.

mod explain;
mod rules;
mod score;
#[cfg(test)]
mod tests;
mod too_large;
pub mod turns;

pub use rules::Rule;
pub use too_large::{Never, never};

use crate::amount;
use std::collections::BTreeMap;
use yun_types::{Arch, DriverFacts, Explanation, InstanceId, InstanceKind, Name, NodeId, NodeState, Reserved, Size};

/// A node as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its processor.
    pub arch: Arch,
    /// Whether it answers.
    pub state: NodeState,
    /// Whether it takes no new instances.
    pub cordoned: bool,
    /// What it lends to the pool.
    pub capacity: Size,
    /// What is promised on it.
    pub reserved: Reserved,
    /// What its drivers can do.
    pub drivers: Vec<DriverFacts>,
}

impl NodeView {
    /// What is not promised.
    pub fn free(&self) -> Size {
        amount::free(self.capacity, self.reserved)
    }
}

/// An instance that needs a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its id.
    pub instance: InstanceId,
    /// Its name, for messages.
    pub name: Name,
    /// VM or container.
    pub kind: InstanceKind,
    /// The processor that its image is for.
    pub arch: Arch,
    /// What it asks of the pool.
    pub size: Size,
    /// The node it must run on, if any.
    pub node: Option<Name>,
    /// How many of its group each node has: it goes where there are fewest, so that one node takes few of them with it.
    pub kin: BTreeMap<NodeId, u32>,
}

/// Where an instance goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Here.
    On {
        /// The node.
        node: NodeId,
        /// Its name.
        name: Name,
    },
    /// Nowhere yet; `reason` is one word for programs: `NoRoom`, `NoNode`, `NoDriver` …
    Waits {
        /// Why.
        reason: &'static str,
    },
}

/// An answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// For whom.
    pub instance: InstanceId,
    /// Where.
    pub placement: Placement,
    /// Why.
    pub explanation: Explanation,
}

/// Decides for each ask in turn; those before reserve their room for those after.
pub fn place(nodes: &[NodeView], asks: &[Ask]) -> Vec<Decision> {
    let mut nodes = nodes.to_vec();
    asks.iter()
        .map(|ask| {
            let decision = place_one(&nodes, ask);
            if let Placement::On { node, .. } = &decision.placement
                && let Some(taken) = nodes.iter_mut().find(|n| n.id == *node)
            {
                taken.reserved = amount::add(taken.reserved, ask.size);
            }
            decision
        })
        .collect()
}

fn place_one(nodes: &[NodeView], ask: &Ask) -> Decision {
    let mut out = Vec::new();
    let mut fit = Vec::new();
    for node in nodes {
        match rules::first_broken(node, ask) {
            Some(broken) => out.push((node, broken)),
            None => fit.push((node, score::score(node, ask))),
        }
    }
    fit.sort_by_key(|(node, scored)| (std::cmp::Reverse(scored.score), score::rank(node.id)));
    let (placement, explanation) = match fit.first() {
        Some((winner, _)) => {
            let placement = Placement::On { node: winner.id, name: winner.name.clone() };
            (placement, explain::placed(nodes.len(), &out, &fit))
        }
        None => (Placement::Waits { reason: explain::reason(&out) }, explain::waiting(ask, &out)),
    };
    Decision { instance: ask.instance, placement, explanation }
}
