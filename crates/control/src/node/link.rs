//! The control plane's side of the node protocol, for an agent in the same process. HTTP carries the same calls for others.

use super::{orders, report};
use crate::{core::Control, operation::reference, rows::NodeRow};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::sync::Arc;
use uuid::Uuid;
use yun_api::node::{ControlLink, LinkError, NodeEvent, NodeLink, Registered};
use yun_store::StoreError;
use yun_types::{
    Event, Generation, InstanceReport, Labels, Measured, Metadata, Name, Node, NodeFacts, NodeId, NodeOrder, NodeSpec,
    NodeState, NodeStatus, NodeUsage, ObjectKind, Reserved, Severity, VolumeReport,
};

/// How often a registration is tried again when others were faster.
const ATTEMPTS: usize = 16;

/// Calls into the control plane of this process.
#[derive(Debug, Clone)]
pub struct LocalLink(pub Arc<Control>);

#[async_trait]
impl ControlLink for LocalLink {
    async fn register(&self, facts: NodeFacts, callback: Arc<dyn NodeLink>) -> Result<Registered, LinkError> {
        let c = &self.0;
        let name = node_name(&facts.hostname);
        for _ in 0..ATTEMPTS {
            match write(c, &name, &facts).await {
                Ok(node) => {
                    c.live.register(node, callback, c.clock.monotonic(), c.clock.now());
                    c.wake_instances.wake();
                    return Ok(Registered { node });
                }
                Err(e) if e.is_conflict() => {}
                Err(e) => return Err(unreachable(e)),
            }
        }
        Err(LinkError::Unreachable(format!("node {name} changes all the time: register again")))
    }

    async fn heartbeat(&self, node: NodeId, usage: NodeUsage) -> Result<(), LinkError> {
        let c = &self.0;
        if !c.live.heard(node, Some(usage), c.clock.monotonic(), c.clock.now()) {
            return Err(not_registered(node));
        }
        let lost = |row: &&Arc<yun_store::Row<NodeRow>>| {
            row.value.0.metadata.id == node.0 && row.value.0.status.state == NodeState::Lost
        };
        match c.nodes.cache.all(&[]).iter().find(lost) {
            Some(row) => {
                super::reconcile::mark(c, &row.value.0.metadata.name, NodeState::Ready).await.map_err(unreachable)
            }
            None => Ok(()),
        }
    }

    async fn measured(&self, node: NodeId, measured: Measured) -> Result<(), LinkError> {
        if self.0.live.link(node).is_none() {
            return Err(not_registered(node));
        }
        crate::usage::take(&self.0, node, measured).await;
        Ok(())
    }

    async fn orders(&self, node: NodeId) -> Result<BoxStream<'static, NodeOrder>, LinkError> {
        if self.0.live.link(node).is_none() {
            return Err(not_registered(node));
        }
        Ok(orders::stream(Arc::clone(&self.0), node))
    }

    async fn report(&self, node: NodeId, reports: Vec<InstanceReport>) -> Result<(), LinkError> {
        let c = &self.0;
        c.live.heard(node, None, c.clock.monotonic(), c.clock.now());
        report::apply(c, node, reports).await.map_err(unreachable)
    }

    async fn report_volumes(&self, node: NodeId, reports: Vec<VolumeReport>) -> Result<(), LinkError> {
        let c = &self.0;
        c.live.heard(node, None, c.clock.monotonic(), c.clock.now());
        crate::volume::report::apply(c, node, reports).await.map_err(unreachable)
    }

    async fn event(&self, node: NodeId, event: NodeEvent) -> Result<(), LinkError> {
        let c = &self.0;
        let instance = event
            .instance
            .and_then(|id| crate::instance::by_id(c, id.0))
            .filter(|row| row.value.0.status.node == Some(node));
        let object = match (instance, event.object) {
            // It leads to the instance's deletion, which is told.
            (Some(_), _) if event.reason == "Removed" => None,
            (Some(row), _) => Some(reference(ObjectKind::Instance, &row.value.0.metadata)),
            (None, Some(object)) => Some(object),
            // About an instance that is gone or elsewhere now.
            (None, None) if event.instance.is_some() => None,
            (None, None) => {
                let rows = c.nodes.cache.all(&[]);
                rows.iter()
                    .find(|row| row.value.0.metadata.id == node.0)
                    .map(|row| reference(ObjectKind::Node, &row.value.0.metadata))
            }
        };
        if let Some(object) = object {
            crate::instance::tell(c, object, event.severity, event.reason, event.message);
        }
        Ok(())
    }
}

/// The state cannot be used now: to a node it is as if we were not there.
fn unreachable(error: StoreError) -> LinkError {
    LinkError::Unreachable(error.to_string())
}

fn not_registered(node: NodeId) -> LinkError {
    LinkError::NotFound(format!(
        "node {node} has not registered with this control plane since it started: register first"
    ))
}

/// Creates or updates the node's row. A name that is known keeps its id, so that a node that was set up again gets its instances back.
async fn write(c: &Control, name: &Name, facts: &NodeFacts) -> Result<NodeId, StoreError> {
    let at = [name.as_str()];
    let now = c.clock.now();
    let found = c.nodes.table.get(&at).await?;
    let known = found.is_some();
    let (row, rev) = match found {
        None => {
            let status = NodeStatus {
                state: NodeState::Ready,
                facts: facts.clone(),
                reserved: Reserved::default(),
                used: NodeUsage::default(),
                seen: now,
            };
            let metadata = Metadata {
                id: Uuid::new_v4(),
                name: name.clone(),
                project: None,
                labels: Labels::new(),
                created: now,
                generation: Generation(1),
                revision: String::new(),
                deleting: None,
            };
            let row = NodeRow(Node { metadata, spec: NodeSpec::default(), status });
            let rev = c.nodes.table.create(&at, &row).await?;
            (row, rev)
        }
        Some(found) => {
            let mut row = found.value;
            if row.0.status.facts == *facts && row.0.status.state == NodeState::Ready {
                return Ok(NodeId(row.0.metadata.id));
            }
            row.0.status.facts = facts.clone();
            row.0.status.state = NodeState::Ready;
            row.0.status.seen = now;
            let rev = c.nodes.table.update(&at, &row, found.rev).await?;
            (row, rev)
        }
    };
    c.nodes.cache.wait_for(rev).await?;
    let object = reference(ObjectKind::Node, &row.0.metadata);
    let (reason, message) =
        if known { ("Updated", "it says what it has") } else { ("Joined", "it is new in the pool") };
    let message = format!("{message}: {}", row.0.status.facts.capacity);
    c.events.record(|sequence, at| Event {
        sequence,
        at,
        object,
        severity: Severity::Normal,
        reason: reason.into(),
        message,
    });
    Ok(NodeId(row.0.metadata.id))
}

/// A name from a host name: its first label, with what names may not have replaced.
fn node_name(hostname: &str) -> Name {
    let label = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let joined = words.join("-");
    let text = if joined.starts_with(|c: char| c.is_ascii_lowercase()) { joined } else { format!("node-{joined}") };
    let short: String = text.chars().take(Name::MAX).collect();
    short.trim_end_matches('-').parse().unwrap_or_else(|_| Name::default_project())
}

#[cfg(test)]
mod tests {
    use super::node_name;

    #[test]
    fn host_names_become_names() {
        for (host, name) in [
            ("alpha", "alpha"),
            ("Alpha.example.org", "alpha"),
            ("my_host--1", "my-host-1"),
            ("10-0-0-1", "node-10-0-0-1"),
            ("", "node"),
            ("-", "node"),
            (&"x".repeat(80), &"x".repeat(63)),
        ] {
            assert_eq!(node_name(host).as_str(), name, "{host}");
        }
    }
}
