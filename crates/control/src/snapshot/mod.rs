//! Snapshots of instances: what is wanted and known of them. The data lie with the instance on its node.
//!
//! A request writes a row that says `creating` or `deleting` ([`ops`]); [`reconcile`] asks the node until it is so, also after a restart of
//! either side, and ends the operation with the same transaction. A restore is a wish about the *instance*: its node carries it out between
//! an end and a start ([`yun_types::Restore`]). Rows go away with their instance.

pub mod ops;
mod reconcile;
#[cfg(test)]
mod tests;

pub(crate) use reconcile::start;

use crate::{
    core::Control,
    error::{Refusal, nearest},
    rows::SnapshotRow,
};
use std::sync::Arc;
use yun_store::{Row, Table, Txn};
use yun_types::{Instance, Metadata, Name, NameOrId, ObjectKind, ObjectRef, Snapshot, SnapshotName, SnapshotState};

/// The segments of a snapshot's key: its project, its instance's id, its name.
pub(crate) fn segments(snapshot: &Snapshot) -> [String; 3] {
    let project = snapshot.metadata.project.as_ref().map_or_else(String::new, ToString::to_string);
    [project, snapshot.spec.instance_id.to_string(), snapshot.metadata.name.to_string()]
}

/// How events and operations name a snapshot: `web/before`.
pub(crate) fn reference(snapshot: &Snapshot) -> ObjectRef {
    let Metadata { id, name, project, .. } = &snapshot.metadata;
    let name = format!("{}/{name}", snapshot.spec.instance);
    ObjectRef { kind: ObjectKind::Snapshot, name, id: *id, project: project.clone() }
}

/// The snapshots of an instance.
pub(crate) fn of(c: &Control, instance: &Instance) -> Vec<Arc<Row<SnapshotRow>>> {
    let project = instance.metadata.project.as_ref().map_or("", |project| project.as_str());
    c.snapshots.cache.all(&[project, &instance.metadata.id.to_string()])
}

/// The instance's snapshot of this name or id.
pub(crate) fn locate(c: &Control, instance: &Instance, snapshot: &NameOrId) -> Result<Arc<Row<SnapshotRow>>, Refusal> {
    let rows = of(c, instance);
    let is = |row: &&Arc<Row<SnapshotRow>>| match snapshot {
        NameOrId::Name(name) => row.value.0.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.metadata.id == *id,
    };
    rows.iter().find(is).cloned().ok_or_else(|| {
        let near = nearest(&snapshot.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        let name = &instance.metadata.name;
        let way_out = match near {
            Some(near) => format!("did you mean {near}?"),
            None if rows.is_empty() => format!("it has none; take one with yun snapshot create {name}"),
            None => format!("list what there is with: yun snapshot ls {name}"),
        };
        let message = format!("instance {name} has no snapshot {snapshot}; {way_out}");
        Refusal::new(dropshot::ErrorStatusCode::NOT_FOUND, "NotFound", message)
    })
}

/// The snapshot of a project that people mean by `INSTANCE/SNAPSHOT`, or by `SNAPSHOT` alone.
pub(crate) fn by_name(c: &Control, project: &Name, wanted: &SnapshotName) -> Result<Arc<Row<SnapshotRow>>, Refusal> {
    if let Some(instance) = &wanted.instance {
        let instance = crate::instance::locate(c, project, &NameOrId::Name(instance.clone()))?;
        return locate(c, &instance.value.0, &NameOrId::Name(wanted.snapshot.clone()));
    }
    let mut rows = c.snapshots.cache.all(&[project.as_str()]);
    let all: Vec<String> = rows.iter().map(|row| row.value.0.metadata.name.to_string()).collect();
    rows.retain(|row| row.value.0.metadata.name == wanted.snapshot);
    match &rows[..] {
        [one] => Ok(Arc::clone(one)),
        [] => {
            let near = nearest(wanted.snapshot.as_str(), all.iter().map(String::as_str));
            Err(Refusal::not_found(ObjectKind::Snapshot, &wanted.snapshot, near))
        }
        several => {
            let names: Vec<String> = several.iter().map(|row| reference(&row.value.0).name).collect();
            Err(Refusal::conflict(
                "Ambiguous",
                format!(
                    "several instances have a snapshot {}: say which, as in {}",
                    wanted.snapshot,
                    names.join(" or ")
                ),
            ))
        }
    }
}

/// Adds the removal of all that is kept about an instance's snapshots: the instance is gone from its node, and they with it.
pub(crate) fn add_removals(c: &Control, mut txn: Txn, instance: &Instance) -> Txn {
    for row in of(c, instance) {
        let at = segments(&row.value.0);
        txn = txn.then(Table::<SnapshotRow>::op_del(&[&at[0], &at[1], &at[2]]));
    }
    txn
}

/// Refuses a snapshot that is not whole.
pub(crate) fn require_ready(snapshot: &Snapshot, verb: &str) -> Result<(), Refusal> {
    let name = reference(snapshot).name;
    let why = match snapshot.status.state {
        SnapshotState::Ready => return Ok(()),
        SnapshotState::Creating => "it is being taken; wait until it is ready".to_owned(),
        SnapshotState::Deleting => "it is being removed".to_owned(),
        SnapshotState::Failed => format!(
            "it could not be taken ({}); remove it with yun snapshot rm {name} and take another",
            snapshot.status.message.as_deref().unwrap_or("no reason was given")
        ),
    };
    Err(Refusal::conflict("NotReady", format!("cannot {verb} snapshot {name}: {why}")))
}
