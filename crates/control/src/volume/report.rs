//! What nodes report of volumes.

use crate::{core::Control, operation::reference, rows::VolumeRow};
use std::sync::Arc;
use yun_store::{Row, StoreError};
use yun_types::{NodeId, ObjectKind, ObservedVolume, Severity, Volume, VolumeReport, VolumeState};

/// How often a report is tried again when others were faster.
const ATTEMPTS: usize = 32;

/// Applies reports. Durable when this returns.
pub(crate) async fn apply(c: &Arc<Control>, node: NodeId, reports: Vec<VolumeReport>) -> Result<(), StoreError> {
    for report in reports {
        one(c, node, &report).await?;
    }
    Ok(())
}

async fn one(c: &Arc<Control>, node: NodeId, report: &VolumeReport) -> Result<(), StoreError> {
    let mut lost = None;
    for _ in 0..ATTEMPTS {
        let Some(row) = find(c, node, report) else { return Ok(()) };
        let before = &row.value.0;
        let project = before.metadata.project.as_ref().map_or("", |project| project.as_str());
        let at = [project, before.metadata.name.as_str()];
        let written = match seen(before, report) {
            Seen::Nothing => return Ok(()),
            Seen::Changed(after) => {
                tell(c, before, &after);
                c.volumes.table.update(&at, &VolumeRow(*after), row.rev).await
            }
            Seen::Removed => c.volumes.table.delete(&at, row.rev).await,
        };
        match written {
            Ok(rev) => return c.volumes.cache.wait_for(rev).await,
            Err(e) if e.is_conflict() => {
                crate::instance::catch_up(c, &e).await?;
                lost = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    Err(lost.unwrap_or(StoreError::Unknown { op: "apply reports", cause: "others were always faster".into() }))
}

fn find(c: &Control, node: NodeId, report: &VolumeReport) -> Option<Arc<Row<VolumeRow>>> {
    let rows = c.volumes.cache.all(&[]);
    rows.into_iter()
        .find(|row| row.value.0.metadata.id == report.id.0)
        .filter(|row| row.value.0.status.node == Some(node))
}

enum Seen {
    Nothing,
    Changed(Box<Volume>),
    Removed,
}

fn seen(before: &Volume, report: &VolumeReport) -> Seen {
    let mut after = before.clone();
    let status = &mut after.status;
    let deleting = before.metadata.deleting.is_some();
    match &report.observed {
        ObservedVolume::Gone if deleting => return Seen::Removed,
        ObservedVolume::Gone => {
            status.state = VolumeState::Failed;
            status.reason = Some("Gone".into());
            status.message = Some("its node has nothing of it: restore it from a backup, or delete it".into());
        }
        _ if report.generation < status.observed_generation => return Seen::Nothing,
        ObservedVolume::Ready { used, enforced, message } => {
            if !deleting {
                (status.state, status.reason) = (VolumeState::Ready, None);
                status.message.clone_from(message);
            }
            (status.used, status.enforced) = (Some(*used), *enforced);
            status.observed_generation = report.generation;
        }
        ObservedVolume::Failed { reason, message } => {
            if !deleting {
                status.state = VolumeState::Failed;
            }
            (status.reason, status.message) = (Some(reason.clone()), Some(message.clone()));
        }
    }
    if after == *before { Seen::Nothing } else { Seen::Changed(Box::new(after)) }
}

fn tell(c: &Control, before: &Volume, after: &Volume) {
    if before.status.state == after.status.state {
        return;
    }
    let (severity, reason) = match after.status.state {
        VolumeState::Ready => (Severity::Normal, "Ready"),
        VolumeState::Failed => (Severity::Warning, "Failed"),
        VolumeState::Creating | VolumeState::Deleting => return,
    };
    let object = reference(ObjectKind::Volume, &after.metadata);
    let message =
        after.status.message.clone().unwrap_or_else(|| format!("{} of {}", after.spec.kind, after.spec.size.human()));
    crate::instance::tell(c, object, severity, reason.to_owned(), message);
}
