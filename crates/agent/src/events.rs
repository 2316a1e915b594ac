//! What a node saw happen, on its way to the journal of events. May be lost: a full queue drops the newest.

use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use yun_api::node::{ControlLink, NodeEvent};
use yun_engine::tasks::Task;
use yun_types::{InstanceId, NodeId, Severity};

/// How many events wait at most.
const DEPTH: usize = 256;

/// Where events go in.
#[derive(Debug, Clone)]
pub(crate) struct Events(mpsc::Sender<NodeEvent>);

/// Where they come out.
pub(crate) type EventQueue = mpsc::Receiver<NodeEvent>;

impl Events {
    /// Makes both ends.
    pub(crate) fn new() -> (Self, EventQueue) {
        let (sender, queue) = mpsc::channel(DEPTH);
        (Self(sender), queue)
    }

    /// Something happened to an instance.
    pub(crate) fn tell(&self, instance: InstanceId, severity: Severity, reason: &str, message: impl Into<String>) {
        let event = NodeEvent {
            instance: Some(instance),
            object: None,
            severity,
            reason: reason.to_owned(),
            message: message.into(),
        };
        tracing::info!(%instance, reason, message = event.message, "event");
        if self.0.try_send(event).is_err() {
            tracing::debug!(%instance, reason, "the queue of events is full; this one is lost");
        }
    }
}

/// Carries events to the control plane, once the node has an id.
pub(crate) async fn carry(
    mut queue: EventQueue,
    link: Arc<dyn ControlLink>,
    mut node: watch::Receiver<Option<NodeId>>,
    task: Task,
) {
    let work = async {
        while let Some(event) = queue.recv().await {
            let Ok(id) = node.wait_for(Option::is_some).await.map(|id| *id) else { return };
            let Some(id) = id else { return };
            if let Err(error) = link.event(id, event).await {
                tracing::debug!(%error, "an event was lost");
            }
        }
    };
    tokio::select! {
        biased;
        () = task.stopping().cancelled() => {}
        () = work => {}
    }
}
