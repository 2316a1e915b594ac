//! Operations: long work that can be waited for, followed and cancelled.
//!
//! An operation on an instance is ended by what is observed of the instance, so that it ends rightly also after a restart. An operation on
//! an image is ended by the work itself, which dies with the process: [`crate::image`] ends those whose work is gone.
//!
//! Progress is never stored: it is read off the instance or the live work when somebody asks.

pub mod ops;
mod reconcile;
#[cfg(test)]
mod tests;

use crate::{
    auth::Caller,
    core::Control,
    rows::{InstanceRow, OperationRow},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;
use yun_engine::work::Followed;
use yun_store::{Row, StoreError, Table, Txn};
use yun_types::{
    Generation, Instance, Labels, Metadata, ObjectKind, ObjectRef, Operation, OperationId, OperationKind,
    OperationSpec, OperationStatus, Progress, Timestamp,
};

pub(crate) use reconcile::start;

/// Work of this process that operations stand for.
#[derive(Debug, Default)]
pub struct Works {
    live: Mutex<HashMap<Uuid, Followed>>,
    /// Keeps ids of one millisecond in order.
    order: Mutex<uuid::ContextV7>,
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Followed>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// From now on this process works on the operation.
    pub(crate) fn begin(&self, operation: OperationId, work: Followed) {
        self.lock().insert(operation.0, work);
    }
    /// The work is over, however it ended.
    pub(crate) fn end(&self, operation: OperationId) {
        self.lock().remove(&operation.0);
    }
    /// The live work of an operation.
    pub(crate) fn get(&self, operation: OperationId) -> Option<Followed> {
        self.lock().get(&operation.0).cloned()
    }

    fn next_id(&self, now: Timestamp) -> OperationId {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        OperationId(Uuid::new_v7(uuid::Timestamp::from_unix(&*order, seconds, now.timestamp_subsec_nanos())))
    }
}

/// A new operation, not stored yet.
pub(crate) fn begin(c: &Control, caller: &Caller, kind: OperationKind, target: ObjectRef) -> Operation {
    let now = c.clock.now();
    let id = c.works.next_id(now);
    let metadata = Metadata {
        id: id.0,
        // Hexadecimal digits behind a letter are a name.
        name: format!("op-{}", id.short()).parse().unwrap_or_else(|_| yun_types::Name::default_project()),
        project: target.project.clone(),
        labels: Labels::new(),
        created: now,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let status = OperationStatus { cancellable: yun_plan::operation::cancellable(kind), ..OperationStatus::default() };
    Operation { metadata, spec: OperationSpec { kind, target, by: caller.name.clone(), cancel: false }, status }
}

/// How events, operations and audit records name an instance.
pub(crate) fn reference(kind: ObjectKind, metadata: &Metadata) -> ObjectRef {
    ObjectRef { kind, name: metadata.name.to_string(), id: metadata.id, project: metadata.project.clone() }
}

/// Adds a new operation to the transaction that begins its work, and remembers the caller's idempotency key with it.
pub(crate) fn add_to(txn: Txn, caller: &Caller, operation: &Operation) -> Result<Txn, StoreError> {
    let id = operation.metadata.id.to_string();
    let at = [id.as_str()];
    let row = OperationRow(operation.clone());
    let txn = txn.when(Table::<OperationRow>::cmp_absent(&at)).then(Table::<OperationRow>::op_put(&at, &row)?);
    match &caller.once {
        Some(once) => once.add_to(txn, operation.metadata.id),
        None => Ok(txn),
    }
}

/// Adds the ends of all operations that end when the instance in `row` becomes `after`; `None` if it goes away.
pub(crate) async fn add_ends(
    c: &Control,
    mut txn: Txn,
    row: &Row<InstanceRow>,
    after: Option<&Instance>,
) -> Result<Txn, StoreError> {
    // Who changed the instance may have made an operation with it, which the other cache must have seen too.
    c.operations.cache.wait_for(row.rev).await?;
    let target = row.value.0.metadata.id;
    for row in running(c).into_iter().filter(|row| row.value.0.spec.target.id == target) {
        if let Some(status) = yun_plan::operation::settle(&row.value.0, after, c.clock.now()) {
            txn = add_end(txn, &row, status)?;
        }
    }
    Ok(txn)
}

/// Adds the end of one operation.
pub(crate) fn add_end(txn: Txn, row: &Row<OperationRow>, status: OperationStatus) -> Result<Txn, StoreError> {
    let id = row.value.0.metadata.id.to_string();
    let at = [id.as_str()];
    let mut ended = row.value.clone();
    ended.0.status = status;
    Ok(txn.when(Table::<OperationRow>::cmp_rev(&at, row.rev)).then(Table::<OperationRow>::op_put(&at, &ended)?))
}

/// Operations that have not ended.
pub(crate) fn running(c: &Control) -> Vec<Arc<Row<OperationRow>>> {
    let mut rows = c.operations.cache.all(&[]);
    rows.retain(|row| !row.value.0.status.state.ended());
    rows
}

/// The instance that an operation is about, if it is still the same one.
pub(crate) fn target(c: &Control, operation: &Operation) -> Option<Arc<Row<InstanceRow>>> {
    let target = &operation.spec.target;
    let row = c.instances.cache.get(&[target.project.as_ref()?.as_str(), &target.name])?;
    (row.value.0.metadata.id == target.id).then_some(row)
}

/// The operation with its progress as it is now. Its revision changes also with the progress.
pub fn view(c: &Control, row: &Row<OperationRow>) -> Operation {
    let mut shown = row.value.0.clone();
    shown.metadata.revision = row.rev.to_string();
    if shown.status.state.ended() {
        return shown;
    }
    shown.status.progress = progress(c, &shown);
    shown.status.cancellable = yun_plan::operation::cancellable(shown.spec.kind) && !shown.spec.cancel;
    shown.metadata.revision = format!("{}-{:08x}", row.rev, fingerprint(&shown.status.progress));
    shown
}

fn progress(c: &Control, operation: &Operation) -> Progress {
    match operation.spec.kind {
        kind if yun_plan::operation::by_work(kind) => match c.works.get(OperationId(operation.metadata.id)) {
            Some(work) => work.progress().borrow().clone(),
            None => operation.status.progress.clone(),
        },
        _ => {
            let row = target(c, operation);
            yun_plan::operation::progress(operation, row.as_ref().map(|row| &row.value.0))
        }
    }
}

/// Tells two reports apart (FNV-1a, 32 bits). A collision only delays the next look.
fn fingerprint(progress: &Progress) -> u32 {
    let percent = progress.percent.map_or(255, |percent| percent);
    progress
        .message
        .bytes()
        .chain([percent])
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
