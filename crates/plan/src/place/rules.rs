//! The rules that take nodes out.

use super::{Ask, NodeView};
use crate::amount::{self, Dimension};
use yun_types::{DriverFacts, InstanceKind, NodeState, Size};

/// Why a node cannot take an instance. In the order in which they are asked: later ones are nearer to fitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The instance asks for another node by name.
    NotAskedFor,
    /// It is silent.
    Lost,
    /// It takes no new instances.
    Cordoned,
    /// Its driver for this kind of instance does not work.
    NoDriver,
    /// Its processor is another than the image's.
    Arch,
    /// It lacks CPU, memory or disk.
    Room(Dimension),
}

impl Rule {
    /// As explanations have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAskedFor => "not asked for",
            Self::Lost => "lost",
            Self::Cordoned => "cordoned",
            Self::NoDriver => "no driver",
            Self::Arch => "arch",
            Self::Room(dimension) => dimension.name(),
        }
    }
}

/// A broken rule with what it lacks (zero, unless room is missing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: Rule,
    pub(super) missing: Size,
}

/// The first rule that takes the node out, if any.
pub(super) fn first_broken(node: &NodeView, ask: &Ask) -> Option<Broken> {
    let rule = if ask.node.as_ref().is_some_and(|asked| *asked != node.name) {
        Rule::NotAskedFor
    } else if node.state == NodeState::Lost {
        Rule::Lost
    } else if node.cordoned {
        Rule::Cordoned
    } else if !driver(node, ask.kind).is_some_and(|driver| driver.ready) {
        Rule::NoDriver
    } else if node.arch != ask.arch {
        Rule::Arch
    } else {
        let missing = amount::missing(ask.size, node.free());
        return amount::first_missing(missing).map(|dimension| Broken { rule: Rule::Room(dimension), missing });
    };
    Some(Broken { rule, missing: amount::NOTHING })
}

/// The driver of a node for one kind of instance.
pub(super) fn driver(node: &NodeView, kind: InstanceKind) -> Option<&DriverFacts> {
    let name = match kind {
        InstanceKind::Vm => "vm",
        InstanceKind::Container => "container",
    };
    node.drivers.iter().find(|driver| driver.driver == name)
}
