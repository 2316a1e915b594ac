//! What the API asks of nodes.

use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    rows::NodeRow,
};
use std::sync::Arc;
use yun_store::Row;
use yun_types::{Event, NameOrId, NodeSpec, ObjectKind, Severity};

/// How often a change is tried again when others were faster.
const ATTEMPTS: usize = 16;

/// Finds a node.
pub async fn find(c: &Arc<Control>, node: &NameOrId) -> Result<Arc<Row<NodeRow>>, Refusal> {
    let rows = c.nodes.cache.all(&[]);
    let found = match node {
        NameOrId::Name(name) => c.nodes.cache.get(&[name.as_str()]),
        NameOrId::Id(id) => rows.iter().find(|row| row.value.0.metadata.id == *id).cloned(),
    };
    found.ok_or_else(|| {
        let near = nearest(&node.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Node, node, near)
    })
}

/// Changes a node, for example cordons it: what runs there stays, and nothing new comes.
pub async fn update(
    c: &Arc<Control>,
    caller: &Caller,
    node: &NameOrId,
    spec: NodeSpec,
    if_match: Option<String>,
) -> Result<Arc<Row<NodeRow>>, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = find(c, node).await?;
        let name = row.value.0.metadata.name.clone();
        if if_match.as_ref().is_some_and(|wanted| *wanted != row.rev.to_string()) {
            return Err(Refusal::stale(ObjectKind::Node, name));
        }
        if row.value.0.spec == spec {
            return Ok(row);
        }
        let mut changed = row.value.clone();
        changed.0.spec = spec.clone();
        changed.0.metadata.generation = changed.0.metadata.generation.next();
        match c.nodes.table.update(&[name.as_str()], &changed, row.rev).await {
            Ok(rev) => {
                c.nodes.cache.wait_for(rev).await?;
                tell(c, caller, &changed);
                c.wake_instances.wake();
                return find(c, node).await;
            }
            Err(e) if e.is_conflict() => crate::instance::catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("node {node} changes all the time: try again")))
}

fn tell(c: &Control, caller: &Caller, node: &NodeRow) {
    let (reason, message) = match node.0.spec.cordoned {
        true => ("Cordoned", format!("it takes no new instances, as {} asked", caller.name)),
        false => ("Uncordoned", format!("it takes new instances again, as {} asked", caller.name)),
    };
    let object = crate::operation::reference(ObjectKind::Node, &node.0.metadata);
    c.events.record(|sequence, at| Event {
        sequence,
        at,
        object,
        severity: Severity::Normal,
        reason: reason.into(),
        message,
    });
}
