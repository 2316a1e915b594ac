//! Ends operations whose instance has come to where they led, and forgets old ones.
//!
//! Usually the transaction that writes what a node observed ends the operations too; this pass catches what happened while no process was
//! there to see it.

use super::{add_end, running, target};
use crate::{core::Control, rows::OperationRow};
use async_trait::async_trait;
use chrono::TimeDelta;
use std::{sync::Arc, time::Duration};
use yun_engine::reconcile::{PassReport, Reconcile, Schedule, run};
use yun_store::{Row, StoreError, Table, Txn, commit};

/// How many ended operations are kept.
pub(super) const KEPT: usize = 1000;
/// For how long.
pub(super) const KEPT_FOR: TimeDelta = TimeDelta::days(7);
/// How many old operations go in one transaction.
const AT_ONCE: usize = 100;

/// Starts what ends operations when their work has ended.
pub(crate) fn start(c: &Arc<Control>) {
    let schedule = Schedule::every(Duration::from_secs(30));
    let reconciler = Operations { c: Arc::clone(c) };
    let _runs_until_shutdown =
        run(&c.tasks, Arc::clone(&c.clock), "operations", schedule, c.wake_operations.clone(), reconciler);
}

struct Operations {
    c: Arc<Control>,
}

#[async_trait]
impl Reconcile for Operations {
    async fn pass(&mut self) -> PassReport {
        let ended = match settle_all(&self.c).await {
            Ok(ended) => ended,
            Err(e) => return PassReport::failed(e),
        };
        match forget_old(&self.c).await {
            Ok(0) if ended == 0 => PassReport::nothing(),
            Ok(forgotten) => PassReport::changed(format!("ended {ended}, forgot {forgotten}")),
            Err(e) => PassReport::failed(e),
        }
    }
}

pub(super) async fn settle_all(c: &Control) -> Result<usize, StoreError> {
    let rows = running(c);
    let Some(newest) = rows.iter().map(|row| row.rev).max() else { return Ok(0) };
    // An operation and its instance are written together: without this, the instance could seem to be gone before it came.
    c.instances.cache.wait_for(newest).await?;
    let mut ended = 0;
    for row in rows.iter().filter(|row| !yun_plan::operation::by_work(row.value.0.spec.kind)) {
        let instance = target(c, &row.value.0);
        let Some(status) =
            yun_plan::operation::settle(&row.value.0, instance.as_ref().map(|row| &row.value.0), c.clock.now())
        else {
            continue;
        };
        match commit(&*c.store, add_end(Txn::new(), row, status)?).await {
            Ok(out) => {
                ended += 1;
                c.operations.cache.wait_for(out.rev).await?;
            }
            // Somebody else ended it.
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(ended)
}

pub(super) async fn forget_old(c: &Control) -> Result<usize, StoreError> {
    let now = c.clock.now();
    // Keys are in the order of time: the newest come last.
    let ended: Vec<Arc<Row<OperationRow>>> =
        c.operations.cache.all(&[]).into_iter().filter(|row| row.value.0.status.state.ended()).collect();
    let too_many = ended.len().saturating_sub(KEPT);
    let old = |(at, row): &(usize, &Arc<Row<OperationRow>>)| {
        *at < too_many || row.value.0.status.ended.is_some_and(|ended| now - ended > KEPT_FOR)
    };
    let old: Vec<_> = ended.iter().enumerate().filter(old).map(|(_, row)| row).collect();
    for some in old.chunks(AT_ONCE) {
        let txn = some.iter().fold(Txn::new(), |txn, row| {
            txn.then(Table::<OperationRow>::op_del(&[&row.value.0.metadata.id.to_string()]))
        });
        let out = commit(&*c.store, txn).await?;
        c.operations.cache.wait_for(out.rev).await?;
    }
    Ok(old.len())
}
