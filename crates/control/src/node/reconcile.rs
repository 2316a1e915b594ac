//! Watches over nodes: one that is silent for too long is lost until it is heard of again.

use crate::{core::Control, operation::reference};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use yun_engine::reconcile::{PassReport, Reconcile, Schedule, Signal, run};
use yun_store::StoreError;
use yun_types::{Event, Name, NodeId, NodeState, ObjectKind, Severity};

/// After so long without a sign of life a node is lost.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// Starts what watches over nodes.
pub(crate) fn start(c: &Arc<Control>) {
    let watch = Watch { c: Arc::clone(c), started: c.clock.monotonic() };
    let _runs_until_shutdown =
        run(&c.tasks, Arc::clone(&c.clock), "nodes", Schedule::every(Duration::from_secs(1)), Signal::default(), watch);
}

struct Watch {
    c: Arc<Control>,
    /// A node that has not registered since then is measured from there: it may just be on its way.
    started: Duration,
}

#[async_trait]
impl Reconcile for Watch {
    async fn pass(&mut self) -> PassReport {
        let c = &self.c;
        let now = c.clock.monotonic();
        let mut lost = Vec::new();
        for row in c.nodes.cache.all(&[]) {
            let node = &row.value.0;
            let heard = c.live.last_heard(NodeId(node.metadata.id)).unwrap_or(self.started);
            if node.status.state == NodeState::Lost || now.saturating_sub(heard) <= SILENCE {
                continue;
            }
            match mark(c, &node.metadata.name, NodeState::Lost).await {
                Ok(()) => lost.push(node.metadata.name.to_string()),
                Err(e) if e.is_conflict() => {}
                Err(e) => return PassReport::failed(e),
            }
        }
        if lost.is_empty() { PassReport::nothing() } else { PassReport::changed(format!("lost {}", lost.join(", "))) }
    }
}

/// Writes whether a node can be counted on, and tells.
pub(super) async fn mark(c: &Control, name: &Name, state: NodeState) -> Result<(), StoreError> {
    let (mut changed, now) = (false, c.clock.now());
    let row = c
        .nodes
        .table
        .modify(&[name.as_str()], |row| {
            changed = row.0.status.state != state;
            row.0.status.state = state;
            if state == NodeState::Ready {
                row.0.status.seen = now;
            }
            changed
        })
        .await?;
    if !changed {
        return Ok(());
    }
    c.nodes.cache.wait_for(row.rev).await?;
    let object = reference(ObjectKind::Node, &row.value.0.metadata);
    let (severity, reason, message) = match state {
        NodeState::Lost => (Severity::Warning, "Lost", format!("nothing was heard of it for {} s", SILENCE.as_secs())),
        NodeState::Ready => (Severity::Normal, "Returned", "it answers again".to_owned()),
    };
    c.events.record(|sequence, at| Event { sequence, at, object, severity, reason: reason.into(), message });
    c.wake_instances.wake();
    Ok(())
}
