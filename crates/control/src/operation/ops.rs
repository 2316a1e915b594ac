//! What the API asks of operations.

use super::{running, target, view};
use crate::{auth::Caller, core::Control, error::Refusal, instance, rows::OperationRow};
use std::{sync::Arc, time::Duration};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{ObjectKind, Operation, OperationId, OperationKind, OperationState, Role};

/// How often a change is tried again when others were faster.
const ATTEMPTS: usize = 16;

fn locate(c: &Control, caller: &Caller, id: OperationId) -> Result<Arc<Row<OperationRow>>, Refusal> {
    let row = c.operations.cache.get(&[&id.to_string()]);
    let visible = |row: &Arc<Row<OperationRow>>| match &row.value.0.metadata.project {
        Some(project) => caller.sees(project),
        None => caller.has_cloud(Role::Viewer),
    };
    row.filter(visible).ok_or_else(|| Refusal::not_found(ObjectKind::Operation, id, None))
}

/// Shows an operation of a project that the caller sees.
pub async fn find(c: &Arc<Control>, caller: &Caller, id: OperationId) -> Result<Operation, Refusal> {
    let row = locate(c, caller, id)?;
    if row.value.0.status.state.ended() {
        visible(c, row.rev).await;
    }
    Ok(view(c, &row))
}

/// Waits until it has ended, or changed after `seen`, for at most `limit`.
pub async fn wait(
    c: &Arc<Control>,
    caller: &Caller,
    id: OperationId,
    seen: Option<String>,
    limit: Duration,
) -> Result<Operation, Refusal> {
    let mut deadline = c.clock.sleep(limit);
    loop {
        // Subscribed before looking, so that what happens in between wakes us.
        let (mut operations, mut instances) = (c.operations.cache.subscribe(), c.instances.cache.subscribe());
        let mut progress = c.works.get(id).map(|work| work.progress());
        loop {
            let row = locate(c, caller, id)?;
            let now = view(c, &row);
            if now.status.state.ended() {
                visible(c, row.rev).await;
                return Ok(now);
            }
            if seen.as_ref().is_some_and(|seen| *seen != now.metadata.revision) {
                return Ok(now);
            }
            let reported = async {
                match &mut progress {
                    Some(progress) => progress.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            // A stream that fell behind is subscribed to again.
            let whole = tokio::select! {
                biased;
                () = &mut deadline => return Ok(now),
                () = c.closing.cancelled() => return Ok(now),
                change = operations.next() => matches!(change, Some(Ok(_))),
                change = instances.next() => matches!(change, Some(Ok(_))),
                alive = reported => {
                    if alive && seen.is_some() {
                        // Work may report a thousand times a second; people read ten.
                        c.clock.sleep(Duration::from_millis(100)).await;
                        let row = locate(c, caller, id)?;
                        if !row.value.0.status.state.ended() {
                            return Ok(view(c, &row));
                        }
                    }
                    alive
                }
            };
            if !whole {
                break;
            }
        }
        // The work may be over a moment before its operation is: let the writer get on.
        tokio::task::yield_now().await;
    }
}

/// Takes an operation back.
pub async fn cancel(c: &Arc<Control>, caller: &Caller, id: OperationId) -> Result<Operation, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = locate(c, caller, id)?;
        let operation = &row.value.0;
        if let Some(project) = &operation.metadata.project {
            caller.require(project, Role::Editor)?;
        }
        if operation.status.state == OperationState::Cancelled
            || (operation.spec.cancel && !operation.status.state.ended())
        {
            return Ok(view(c, &row));
        }
        refuse_if_too_late(operation)?;
        match take_back(c, &row).await {
            Ok(()) => {
                if let Some(work) = c.works.get(id) {
                    work.cancel();
                }
                return find(c, caller, id).await;
            }
            Err(e) if e.is_conflict() => instance::catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("operation {id} changes all the time: try again")))
}

fn refuse_if_too_late(operation: &Operation) -> Result<(), Refusal> {
    let (kind, target) = (operation.spec.kind, &operation.spec.target);
    if operation.status.state.ended() {
        return Err(Refusal::conflict(
            "Ended",
            format!("cannot take the {kind} of {target} back: it has {} already", operation.status.state),
        ));
    }
    if yun_plan::operation::cancellable(kind) {
        return Ok(());
    }
    let way_out = match kind {
        OperationKind::InstanceDelete => "what is deleted cannot come back; create it again".to_owned(),
        OperationKind::InstanceStop => format!("start it again with yun start {}", target.name),
        OperationKind::InstanceStart | OperationKind::InstanceRestart => {
            format!("stop it with yun stop {}", target.name)
        }
        OperationKind::InstancePause => format!("let it go on with yun resume {}", target.name),
        OperationKind::InstanceResume => format!("pause it with yun pause {}", target.name),
        _ => "ask for the change that undoes it".to_owned(),
    };
    Err(Refusal::conflict("NotCancellable", format!("cannot take the {kind} of {target} back: {way_out}")))
}

/// Marks the operation, and in the same transaction sends away the instance that a launch has made.
async fn take_back(c: &Arc<Control>, row: &Row<OperationRow>) -> Result<(), StoreError> {
    let mut marked = row.value.clone();
    marked.0.spec.cancel = true;
    let id = marked.0.metadata.id.to_string();
    let at = [id.as_str()];
    let mut txn = Txn::new().when(Table::<OperationRow>::cmp_rev(&at, row.rev));
    if marked.0.spec.kind == OperationKind::InstanceLaunch
        && let Some(launched) = target(c, &marked.0)
    {
        let after = instance::leaving(c, &launched.value.0);
        if after.is_none() {
            // It has no node: nothing is left at once, and so the operation has ended.
            if let Some(status) = yun_plan::operation::settle(&marked.0, None, c.clock.now()) {
                marked.0.status = status;
            }
        }
        txn = instance::add_write(c, txn, &launched, after.as_ref())?;
        for other in running(c)
            .into_iter()
            .filter(|other| other.value.0.spec.target.id == launched.value.0.metadata.id && other.key != row.key)
        {
            if let Some(status) = yun_plan::operation::settle(&other.value.0, after.as_ref(), c.clock.now()) {
                txn = super::add_end(txn, &other, status)?;
            }
        }
    }
    let out = commit(&*c.store, txn.then(Table::<OperationRow>::op_put(&at, &marked)?)).await?;
    c.operations.cache.wait_for(out.rev).await?;
    c.instances.cache.wait_for(out.rev).await?;
    c.wake_instances.wake();
    Ok(())
}

/// Who is told that an operation has ended may look at what it made at once: each cache follows the store on its own.
async fn visible(c: &Control, rev: yun_store::Rev) {
    let all = async {
        tokio::join!(
            c.images.cache.wait_for(rev),
            c.instances.cache.wait_for(rev),
            c.projects.cache.wait_for(rev),
            c.snapshots.cache.wait_for(rev)
        )
    };
    // A cache that hangs has troubles of its own, which it shows; the answer is true all the same.
    let _ = yun_engine::clock::within(&*c.clock, Duration::from_secs(2), all).await;
}
