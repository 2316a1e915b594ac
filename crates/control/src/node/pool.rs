//! The pool as people see it: all nodes together, and the share of each project. Reads; decides nothing.

use crate::core::Control;
use std::collections::BTreeMap;
use yun_plan::{amount, place::turns::dominant};
use yun_types::{Name, NodeState, NodeUsage, Pool, PoolShare, Reserved, Size};

/// What is promised and what waits, for one project.
#[derive(Debug, Clone, Copy, Default)]
struct Holding {
    reserved: Reserved,
    waiting: u32,
}

/// What each project holds. Those that hold nothing and wait for nothing are there, too.
fn holdings(c: &Control) -> BTreeMap<Name, (u32, Holding)> {
    let mut all: BTreeMap<Name, (u32, Holding)> = c
        .projects
        .cache
        .all(&[])
        .iter()
        .map(|row| (row.value.0.metadata.name.clone(), (row.value.0.spec.weight(), Holding::default())))
        .collect();
    for row in c.instances.cache.all(&[]) {
        let instance = &row.value.0;
        let holding = instance.metadata.project.as_ref().and_then(|project| all.get_mut(project));
        let Some((_, holding)) = holding else { continue };
        if instance.status.node.is_some() {
            holding.reserved = amount::add(holding.reserved, instance.spec.size);
        } else if instance.metadata.deleting.is_none() {
            holding.waiting += 1;
        }
    }
    for row in c.volumes.cache.all(&[]) {
        let volume = &row.value.0;
        let holding = volume.metadata.project.as_ref().and_then(|project| all.get_mut(project));
        if let Some((_, holding)) = holding.filter(|_| volume.status.node.is_some()) {
            holding.reserved = amount::add_disk(holding.reserved, volume.spec.size);
        }
    }
    all
}

/// The weight of each project, and what its placed instances and volumes hold: what decides whose turn it is.
pub(crate) fn claims(c: &Control) -> BTreeMap<Name, (u32, Reserved)> {
    holdings(c).into_iter().map(|(project, (weight, holding))| (project, (weight, holding.reserved))).collect()
}

/// The pool now.
pub fn view(c: &Control) -> Pool {
    let nodes: Vec<_> = c.nodes.cache.all(&[]).iter().map(|row| super::view(c, &row.value)).collect();
    let (ready, lost): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.status.state == NodeState::Ready);
    let mut capacity = amount::NOTHING;
    let (mut reserved, mut used) = (Reserved::default(), NodeUsage::default());
    for node in &ready {
        let (lends, held, uses) = (node.status.facts.capacity, node.status.reserved, node.status.used);
        capacity = Size {
            cpu: capacity.cpu + lends.cpu,
            memory: capacity.memory + lends.memory,
            disk: capacity.disk + lends.disk,
        };
        reserved = Reserved {
            cpu: reserved.cpu + held.cpu,
            memory: reserved.memory + held.memory,
            disk: reserved.disk + held.disk,
            instances: reserved.instances + held.instances,
        };
        used = NodeUsage {
            cpu: used.cpu + uses.cpu,
            memory: used.memory + uses.memory,
            disk: used.disk + uses.disk,
            disk_free: used.disk_free + uses.disk_free,
        };
    }
    let mut projects: Vec<(u64, PoolShare)> = holdings(c)
        .into_iter()
        .map(|(project, (weight, holding))| {
            let (millionths, dimension) = dominant(capacity, holding.reserved);
            #[expect(clippy::cast_precision_loss, reason = "millionths are exact in a double")]
            let share = millionths as f64 / 1e6;
            let Holding { reserved, waiting } = holding;
            (millionths, PoolShare { project, weight, reserved, waiting, dominant: dimension.name().into(), share })
        })
        .collect();
    projects.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.project.cmp(&other.project)));
    let projects: Vec<PoolShare> = projects.into_iter().map(|(_, share)| share).collect();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let waiting = projects.iter().map(|project| project.waiting).sum();
    Pool { nodes: count(ready.len()), lost: count(lost.len()), capacity, reserved, used, waiting, projects }
}
