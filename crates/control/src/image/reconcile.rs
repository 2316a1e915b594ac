//! Ends operations on images whose work is gone: it died with the process that did it.

use super::work::ended;
use crate::{
    core::Control,
    operation::{add_end, running},
};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use yun_engine::reconcile::{PassReport, Reconcile, Schedule, Signal, run};
use yun_store::{StoreError, Txn, commit};
use yun_types::{Failure, ObjectKind, OperationId, OperationState};

/// Starts what ends interrupted operations on images.
pub(crate) fn start(c: &Arc<Control>) {
    let reconciler = Interrupted { c: Arc::clone(c) };
    let _runs_until_shutdown = run(
        &c.tasks,
        Arc::clone(&c.clock),
        "images",
        Schedule::every(Duration::from_secs(60)),
        Signal::default(),
        reconciler,
    );
}

struct Interrupted {
    c: Arc<Control>,
}

#[async_trait]
impl Reconcile for Interrupted {
    async fn pass(&mut self) -> PassReport {
        match end_interrupted(&self.c).await {
            Ok(0) => PassReport::nothing(),
            Ok(count) => PassReport::changed(format!("ended {count} interrupted operations")),
            Err(e) => PassReport::failed(e),
        }
    }
}

pub(super) async fn end_interrupted(c: &Control) -> Result<usize, StoreError> {
    let mut count = 0;
    for row in running(c) {
        let operation = &row.value.0;
        if operation.spec.target.kind != ObjectKind::Image || c.works.get(OperationId(operation.metadata.id)).is_some()
        {
            continue;
        }
        let (kind, target) = (operation.spec.kind, &operation.spec.target);
        let status = if operation.spec.cancel {
            ended(c.clock.now(), OperationState::Cancelled, format!("{target} was taken back"), None)
        } else {
            let message = format!("the {kind} of {target} was interrupted by a restart of yun: run it again");
            ended(
                c.clock.now(),
                OperationState::Failed,
                message.clone(),
                Some(Failure { code: "Interrupted".into(), message }),
            )
        };
        match commit(&*c.store, add_end(Txn::new(), &row, status)?).await {
            Ok(out) => {
                c.operations.cache.wait_for(out.rev).await?;
                count += 1;
            }
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}
