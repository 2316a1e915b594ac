//! Brings rows that say `creating` or `deleting` to their end by asking the instance's node, one task a row.
//!
//! The row is the wish, so that work that died with a process is begun again by the next one: nodes take and remove the same snapshot twice
//! without harm. A node that cannot be reached is asked again later.

use super::{reference, segments};
use crate::{
    core::Control,
    instance::{self, catch_up},
    operation,
    rows::SnapshotRow,
};
use async_trait::async_trait;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use uuid::Uuid;
use yun_api::node::{LinkError, NodeLink};
use yun_engine::{
    reconcile::{PassReport, Reconcile, Schedule, run},
    work::Followed,
};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    Event, Failure, OperationId, OperationKind, OperationState, OperationStatus, Progress, Severity, Snapshot,
    SnapshotFacts, SnapshotId, SnapshotOrder, SnapshotState,
};

/// How often the end is tried to be written when others were faster.
const ATTEMPTS: usize = 32;
/// When a node that could not be reached is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Starts what takes and removes snapshots.
pub(crate) fn start(c: &Arc<Control>) {
    let reconciler = Snapshots { c: Arc::clone(c), busy: Arc::default() };
    let schedule = Schedule::every(Duration::from_secs(10));
    let _runs_until_shutdown =
        run(&c.tasks, Arc::clone(&c.clock), "snapshots", schedule, c.wake_snapshots.clone(), reconciler);
}

struct Snapshots {
    c: Arc<Control>,
    /// Rows that a task works on.
    busy: Arc<Mutex<HashSet<Uuid>>>,
}

#[async_trait]
impl Reconcile for Snapshots {
    async fn pass(&mut self) -> PassReport {
        let mut begun = 0;
        for row in self.c.snapshots.cache.all(&[]) {
            let snapshot = &row.value.0;
            if !matches!(snapshot.status.state, SnapshotState::Creating | SnapshotState::Deleting) {
                continue;
            }
            let id = snapshot.metadata.id;
            if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                continue;
            }
            begun += 1;
            let (c, busy) = (Arc::clone(&self.c), Arc::clone(&self.busy));
            let name = format!("snapshot/{}", reference(snapshot).name);
            let _runs_until_done = self.c.tasks.spawn(name, move |_| async move {
                let again = work_on(&c, &row).await;
                busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if again {
                    c.clock.sleep(AGAIN).await;
                }
                // What changed meanwhile was passed over.
                c.wake_snapshots.wake();
            });
        }
        if begun == 0 { PassReport::nothing() } else { PassReport::changed(format!("began work on {begun}")) }
    }
}

/// Works on one row. `true` if it has to be tried again.
async fn work_on(c: &Arc<Control>, row: &Row<SnapshotRow>) -> bool {
    let snapshot = &row.value.0;
    let Some(instance) = instance::by_id(c, snapshot.spec.instance_id.0) else {
        // Gone from its node, and its snapshots with it.
        return finish(c, snapshot, End::Removed).await.is_err();
    };
    let Some(link) = instance.value.0.status.node.and_then(|node| c.live.link(node)) else { return true };
    let end = match snapshot.status.state {
        SnapshotState::Deleting => remove(&*link, snapshot).await,
        _ => take(c, &*link, snapshot).await,
    };
    match end {
        Some(end) => finish(c, snapshot, end).await.is_err(),
        None => true,
    }
}

/// What the row becomes.
enum End {
    Ready(SnapshotFacts),
    Removed,
    Cancelled,
    Failed(Failure),
}

async fn remove(link: &dyn NodeLink, snapshot: &Snapshot) -> Option<End> {
    match link.remove_snapshot(snapshot.spec.instance_id, SnapshotId(snapshot.metadata.id)).await {
        Ok(()) | Err(LinkError::NotFound(_)) => Some(End::Removed),
        Err(LinkError::Unreachable(_) | LinkError::Cancelled) => None,
        Err(LinkError::Refused(failure)) => Some(End::Failed(failure)),
    }
}

async fn take(c: &Arc<Control>, link: &dyn NodeLink, snapshot: &Snapshot) -> Option<End> {
    let work = Followed::default();
    let id = SnapshotId(snapshot.metadata.id);
    let order = SnapshotOrder { id, name: snapshot.metadata.name.clone(), memory: snapshot.spec.memory };
    let operation = running(c, snapshot, OperationKind::SnapshotCreate);
    if let Some(row) = &operation {
        if row.value.0.spec.cancel {
            work.cancel();
        }
        c.works.begin(OperationId(row.value.0.metadata.id), work.clone());
    }
    let taken = tokio::select! {
        taken = link.take_snapshot(snapshot.spec.instance_id, order, work.clone()) => taken,
        () = work.cancelled() => Err(LinkError::Cancelled),
    };
    if let Some(row) = &operation {
        c.works.end(OperationId(row.value.0.metadata.id));
    }
    match taken {
        Ok(facts) => Some(End::Ready(facts)),
        Err(LinkError::Unreachable(_)) => None,
        // What was begun is removed before it counts as taken back.
        Err(LinkError::Cancelled) => match remove(link, snapshot).await {
            Some(End::Removed) => Some(End::Cancelled),
            other => other,
        },
        Err(LinkError::NotFound(message)) => Some(End::Failed(Failure { code: "NotFound".into(), message })),
        Err(LinkError::Refused(failure)) => Some(End::Failed(failure)),
    }
}

fn running(c: &Control, snapshot: &Snapshot, kind: OperationKind) -> Option<Arc<Row<crate::rows::OperationRow>>> {
    operation::running(c).into_iter().find(|row| {
        let spec = &row.value.0.spec;
        spec.kind == kind && spec.target.id == snapshot.metadata.id
    })
}

/// Writes the end: the row and its operations together.
async fn finish(c: &Arc<Control>, snapshot: &Snapshot, end: End) -> Result<(), StoreError> {
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        match write_end(c, snapshot, &end).await {
            Ok(()) => return Ok(()),
            Err(e) if e.is_conflict() => {
                catch_up(c, &e).await?;
                lost = Some(e);
            }
            Err(error) => {
                tracing::error!(snapshot = %reference(snapshot).name, %error, "cannot write down what became of a snapshot; it will be tried again");
                return Err(error);
            }
        }
    }
    lost.map_or(Ok(()), Err)
}

async fn write_end(c: &Arc<Control>, snapshot: &Snapshot, end: &End) -> Result<(), StoreError> {
    let at = segments(snapshot);
    let at = [at[0].as_str(), &at[1], &at[2]];
    let found = c.snapshots.cache.get(&at).filter(|row| row.value.0.metadata.id == snapshot.metadata.id);
    let mut txn = Txn::new();
    if let Some(row) = found {
        let mut after = row.value.clone();
        txn = txn.when(Table::<SnapshotRow>::cmp_rev(&at, row.rev));
        let goes = match end {
            End::Removed | End::Cancelled => true,
            End::Ready(facts) => {
                (after.0.status.state, after.0.status.message) = (SnapshotState::Ready, None);
                after.0.status.facts = Some(facts.clone());
                false
            }
            End::Failed(failure) => {
                after.0.status.state = SnapshotState::Failed;
                after.0.status.message = Some(failure.message.clone());
                after.0.metadata.deleting = None;
                false
            }
        };
        txn = if goes {
            txn.then(Table::<SnapshotRow>::op_del(&at))
        } else {
            txn.then(Table::<SnapshotRow>::op_put(&at, &after)?)
        };
    }
    let (status, reason, severity) = status(c, snapshot, end);
    for kind in [OperationKind::SnapshotCreate, OperationKind::SnapshotDelete] {
        if let Some(row) = running(c, snapshot, kind) {
            txn = operation::add_end(txn, &row, status.clone())?;
        }
    }
    let out = commit(&*c.store, txn).await?;
    c.snapshots.cache.wait_for(out.rev).await?;
    c.operations.cache.wait_for(out.rev).await?;
    let (object, message) = (reference(snapshot), status.progress.message);
    c.events.record(|sequence, at| Event { sequence, at, object, severity, reason: reason.into(), message });
    Ok(())
}

fn status(c: &Control, snapshot: &Snapshot, end: &End) -> (OperationStatus, &'static str, Severity) {
    let name = reference(snapshot).name;
    let (state, reason, message, error) = match end {
        End::Ready(facts) => {
            let what = if facts.memory { "disk and memory" } else { "disk" };
            let left: Vec<&str> = snapshot.status.volumes.iter().map(|volume| volume.as_str()).collect();
            let left = match &left[..] {
                [] => String::new(),
                [one] => format!("; volume {one} is not in it"),
                several => format!("; volumes {} are not in it", several.join(", ")),
            };
            let message = format!("snapshot {name} is ready: {what}, {}{left}", facts.size.human());
            (OperationState::Succeeded, "SnapshotTaken", message, None)
        }
        End::Removed if snapshot.status.state == SnapshotState::Deleting => {
            (OperationState::Succeeded, "SnapshotRemoved", format!("snapshot {name} is removed"), None)
        }
        End::Removed => {
            let message = format!("snapshot {name} was not taken: its instance was deleted");
            (OperationState::Cancelled, "SnapshotCancelled", message, None)
        }
        End::Cancelled => {
            (OperationState::Cancelled, "SnapshotCancelled", format!("snapshot {name} was taken back"), None)
        }
        End::Failed(failure) => {
            (OperationState::Failed, "SnapshotFailed", failure.message.clone(), Some(failure.clone()))
        }
    };
    let percent = (state == OperationState::Succeeded).then_some(100);
    let severity = if state == OperationState::Failed { Severity::Warning } else { Severity::Normal };
    let ended = Some(c.clock.now());
    (
        OperationStatus { state, progress: Progress { percent, message }, error, ended, cancellable: false },
        reason,
        severity,
    )
}
