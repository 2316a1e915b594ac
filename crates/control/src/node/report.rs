//! What nodes report: applied to the state in as few transactions as possible, each with the ends of the operations that it ends.

use crate::{
    core::Control,
    instance::{self, NETWORK, add_write},
    operation,
    rows::InstanceRow,
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;
use yun_plan::observe::{self, Observed};
use yun_store::{Row, StoreError, Txn, commit};
use yun_types::{Instance, InstanceId, InstanceReport, NetworkId, NodeId};

/// How many instances change in one transaction.
const AT_ONCE: usize = 24;
/// How often a transaction is tried again when others were faster.
const ATTEMPTS: usize = 32;

/// An instance that reports change, and into what.
struct Changed {
    row: Arc<Row<InstanceRow>>,
    after: Option<Instance>,
}

/// Applies reports in their order. Durable when this returns.
pub(super) async fn apply(c: &Arc<Control>, node: NodeId, reports: Vec<InstanceReport>) -> Result<(), StoreError> {
    let mut left = &reports[..];
    let mut size = AT_ONCE;
    while !left.is_empty() {
        let (some, rest) = left.split_at(size.min(left.len()));
        match apply_some(c, node, some).await {
            Ok(()) => left = rest,
            // Large specs: fewer fit into one transaction.
            Err(StoreError::TooLarge { .. }) if size > 1 => size = (size / 2).max(1),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn apply_some(c: &Arc<Control>, node: NodeId, reports: &[InstanceReport]) -> Result<(), StoreError> {
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        let changed = collect(c, node, reports);
        if changed.is_empty() {
            return Ok(());
        }
        let mut txn = Txn::new();
        for Changed { row, after } in changed.values() {
            txn = add_write(c, txn, row, after.as_ref())?;
            txn = operation::add_ends(c, txn, row, after.as_ref()).await?;
            if after.is_none() {
                give_back(c, &row.value.0);
            }
        }
        match commit(&*c.store, txn).await {
            Ok(out) => {
                c.instances.cache.wait_for(out.rev).await?;
                c.operations.cache.wait_for(out.rev).await?;
                return Ok(());
            }
            Err(e) if e.is_conflict() => {
                instance::catch_up(c, &e).await?;
                lost = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    Err(lost.unwrap_or(StoreError::Unknown { op: "apply reports", cause: "others were always faster".into() }))
}

/// What the reports change, each instance once.
fn collect(c: &Control, node: NodeId, reports: &[InstanceReport]) -> BTreeMap<Uuid, Changed> {
    let mut changed: BTreeMap<Uuid, Changed> = BTreeMap::new();
    for report in reports {
        let id = report.id.0;
        let Some(row) = changed.get(&id).map(|changed| Arc::clone(&changed.row)).or_else(|| instance::by_id(c, id))
        else {
            continue;
        };
        let now = match changed.get(&id) {
            None => &row.value.0,
            Some(Changed { after: Some(after), .. }) => after,
            Some(Changed { after: None, .. }) => continue,
        };
        let after = match observe::apply(now, node, report) {
            Observed::Nothing => continue,
            Observed::Changed(after) => Some(*after),
            Observed::Removed => None,
        };
        changed.insert(id, Changed { row, after });
    }
    changed
}

/// Gives back what an instance holds outside the state. Before the state says that it is gone: whoever comes next must find it so.
fn give_back(c: &Control, instance: &Instance) {
    c.live.forget_instance(InstanceId(instance.metadata.id));
    let project = instance.metadata.project.as_ref();
    let default = project.and_then(|project| c.networks.cache.get(&[project.as_str(), NETWORK]));
    let default = default.map(|network| NetworkId(network.value.0.metadata.id));
    for interface in yun_plan::interface::of(&instance.status, default) {
        c.promises.rest(interface.network_id, interface.address, c.clock.monotonic());
    }
}
