//! Instances: VMs and containers, from the request until nothing is left of them.
//!
//! A request writes what is wanted ([`ops`]), and if there is room the place too, in one transaction. What has no place yet is placed by
//! [`reconcile`] when room comes. Its node does the rest and reports ([`crate::node`]).
//!
//! Words: an instance is *placed* once it has a node, an address and a fence; it *leaves* from the request to delete it until its node says
//! that nothing is left.

pub(crate) mod door;
mod happened;
pub mod ops;
mod pool;
mod reconcile;
#[cfg(test)]
mod tests;

use crate::{
    core::Control,
    error::{Refusal, nearest},
    rows::{ExplanationRow, InstanceRow},
    volume,
};
use std::sync::Arc;
use uuid::Uuid;
use yun_store::{KeyRange, Row, StoreError, Table, Txn};
use yun_types::{Instance, InstanceState, Name, NameOrId, ObjectKind, Reserved, Size};

pub(crate) use happened::tell;
pub use pool::Promises;
pub(crate) use pool::{Pool, Promise};

/// Starts what keeps instances as they are wanted, and what tells of them.
pub(crate) fn start(c: &Arc<Control>) {
    happened::start(c);
    reconcile::start(c);
}

/// The name of the network that each project has.
pub(crate) const NETWORK: &str = yun_plan::interface::DEFAULT;

/// What the project's instances were promised, placed or not.
pub fn reserved_by_project(c: &Control, project: &Name) -> Reserved {
    let rows = c.instances.cache.all(&[project.as_str()]);
    let held = yun_plan::amount::total(rows.iter().map(|row| row.value.0.spec.size));
    yun_plan::amount::add_disk(held, volume::held_by_project(c, project))
}

/// What is promised on a node.
pub(crate) fn reserved_on(c: &Control, node: yun_types::NodeId) -> Reserved {
    let rows = c.instances.cache.all(&[]);
    let sizes: Vec<Size> =
        rows.iter().filter(|row| row.value.0.status.node == Some(node)).map(|row| row.value.0.spec.size).collect();
    yun_plan::amount::add_disk(yun_plan::amount::total(sizes), volume::held_on(c, node))
}

/// The instance of the project with this name or id.
pub(crate) fn locate(c: &Control, project: &Name, instance: &NameOrId) -> Result<Arc<Row<InstanceRow>>, Refusal> {
    let found = match instance {
        NameOrId::Name(name) => c.instances.cache.get(&[project.as_str(), name.as_str()]),
        NameOrId::Id(id) => by_id(c, *id).filter(|row| row.value.0.metadata.project.as_ref() == Some(project)),
    };
    found.ok_or_else(|| {
        let rows = c.instances.cache.all(&[project.as_str()]);
        let near = nearest(&instance.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Instance, instance, near)
    })
}

/// The instance with this id, wherever it is.
pub(crate) fn by_id(c: &Control, id: Uuid) -> Option<Arc<Row<InstanceRow>>> {
    c.promises.find(id, |key| c.instances.cache.get_key(key), || c.instances.cache.all(&[]))
}

/// The segments of an instance's key.
pub(crate) fn segments(instance: &Instance) -> [&str; 2] {
    [instance.metadata.project.as_ref().map_or("", |project| project.as_str()), instance.metadata.name.as_str()]
}

/// Adds a change of a stored instance: to `after`, or away with everything that is kept about it.
pub(crate) fn add_write(
    c: &Control,
    txn: Txn,
    row: &Row<InstanceRow>,
    after: Option<&Instance>,
) -> Result<Txn, StoreError> {
    let at = segments(&row.value.0);
    let txn = txn.when(Table::<InstanceRow>::cmp_rev(&at, row.rev));
    Ok(match after {
        Some(after) => txn.then(Table::<InstanceRow>::op_put(&at, &InstanceRow(after.clone()))?),
        None => {
            let id = row.value.0.metadata.id.to_string();
            let txn = txn.then(Table::<InstanceRow>::op_del(&at)).then(Table::<ExplanationRow>::op_del(&[&id]));
            crate::snapshot::add_removals(c, txn, &row.value.0)
        }
    })
}

/// The instance when it should go: marked for its node, or nothing at all if it has none.
pub(crate) fn leaving(c: &Control, instance: &Instance) -> Option<Instance> {
    instance.status.node?;
    let mut after = instance.clone();
    after.metadata.deleting.get_or_insert(c.clock.now());
    after.metadata.generation = after.metadata.generation.next();
    after.status.state = InstanceState::Deleting;
    after.status.reason = None;
    after.status.message = None;
    after.status.before_lost = None;
    Some(after)
}

/// Waits until the caches show what a transaction has lost against.
pub(crate) async fn catch_up(c: &Control, lost: &StoreError) -> Result<(), StoreError> {
    let (StoreError::Conflict { key, .. } | StoreError::Exists { key, .. }) = lost else { return Ok(()) };
    let rev = c.store.range(KeyRange::single(key.clone()), None, 1).await?.rev;
    c.instances.cache.wait_for(rev).await?;
    c.operations.cache.wait_for(rev).await?;
    c.nodes.cache.wait_for(rev).await?;
    c.projects.cache.wait_for(rev).await?;
    c.networks.cache.wait_for(rev).await?;
    c.groups.cache.wait_for(rev).await?;
    c.snapshots.cache.wait_for(rev).await?;
    c.volumes.cache.wait_for(rev).await?;
    c.images.cache.wait_for(rev).await
}
