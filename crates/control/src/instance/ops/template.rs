//! New instances from snapshots: what the snapshot asks of the new one.

use crate::{core::Control, error::Refusal, instance, rows::SnapshotRow, snapshot};
use std::sync::Arc;
use yun_store::{Row, Table, Txn};
use yun_types::{Digest, Instance, InstanceSpec, Name, NetworkMembership, Size, SnapshotId, SnapshotName, Template};

/// A snapshot that a new instance is made from, as the caches show it now.
pub(super) struct Ground {
    snapshot: Arc<Row<SnapshotRow>>,
    source: Instance,
}

/// Finds the snapshot of the project, which must be whole.
pub(super) fn ground(c: &Control, project: &Name, name: &SnapshotName) -> Result<Ground, Refusal> {
    let row = snapshot::by_name(c, project, name)?;
    snapshot::require_ready(&row.value.0, "make an instance from")?;
    let source = instance::by_id(c, row.value.0.spec.instance_id.0).ok_or_else(|| {
        let message = format!("the instance of snapshot {name} is gone; use another snapshot (yun snapshot ls)");
        Refusal::conflict("Gone", message)
    })?;
    Ok(Ground { source: source.value.0.clone(), snapshot: row })
}

impl Ground {
    /// Fills in what the snapshot decides, and refuses what does not fit to it.
    pub(super) fn apply(&self, spec: &mut InstanceSpec, image: &Digest) -> Result<Template, Refusal> {
        let taken = &self.snapshot.value.0;
        let name = snapshot::reference(taken).name;
        if self.source.status.image.as_ref().is_none_or(|pin| pin.digest != *image) {
            let wanted = self.source.status.image.as_ref().map_or("", |pin| &pin.name);
            let message = format!(
                "snapshot {name} is of an instance of image {wanted}, and {} was asked for; name image {wanted}",
                spec.image
            );
            return Err(Refusal::bad_request("WrongImage", message));
        }
        let then = taken.status.instance_size.unwrap_or(self.source.spec.size);
        let memory = taken.status.facts.as_ref().is_some_and(|facts| facts.memory);
        if memory && (spec.size.cpu, spec.size.memory) != (then.cpu, then.memory) {
            // A size that nobody gave is that of the snapshot.
            if spec.size != Size::default() {
                let message = format!(
                    "snapshot {name} goes on with its memory and needs cpu:{},memory:{}, and {} was asked for; leave the size out, or take a snapshot without memory",
                    then.cpu, then.memory, spec.size
                );
                return Err(Refusal::bad_request("WrongSize", message));
            }
            spec.size = then;
        }
        if spec.size.disk < then.disk {
            if spec.size != Size::default() {
                let message = format!(
                    "snapshot {name} has a disk of {}, and disk:{} was asked for; ask for disk:{} or more",
                    then.disk.human(),
                    spec.size.disk,
                    then.disk
                );
                return Err(Refusal::bad_request("DiskTooSmall", message));
            }
            spec.size.disk = then.disk;
        }
        self.networks(spec, memory, &name)?;
        // Its data are on that node.
        match (&spec.node, &self.source.status.node_name) {
            (Some(wanted), Some(there)) if wanted != there => {
                let message = format!(
                    "snapshot {name} is on node {there}, and node {wanted} was asked for; leave the node out, or say --node {there}"
                );
                return Err(Refusal::bad_request("WrongNode", message));
            }
            (_, there) => spec.node.clone_from(there),
        }
        Ok(Template { instance: taken.spec.instance_id, snapshot: SnapshotId(taken.metadata.id), name, memory })
    }

    /// It joins the networks of the one that it is made from, unless others are named; a memory needs as many interfaces as it knows.
    fn networks(&self, spec: &mut InstanceSpec, memory: bool, name: &str) -> Result<(), Refusal> {
        let then = &self.snapshot.value.0.status.networks;
        if spec.networks.is_empty() {
            spec.networks = then.iter().cloned().map(NetworkMembership::of).collect();
        }
        if memory && spec.networks.len() < then.len() {
            let all: Vec<&str> = then.iter().map(Name::as_str).collect();
            let message = format!(
                "snapshot {name} goes on with its memory and needs {} networks, and {} were asked for; leave them out for those that it had ({}), or name as many",
                then.len(),
                spec.networks.len(),
                all.join(", ")
            );
            return Err(Refusal::bad_request("WrongNetworks", message));
        }
        Ok(())
    }

    /// The snapshot must still be there when the instance is written.
    pub(super) fn add_guard(&self, txn: Txn) -> Txn {
        let at = snapshot::segments(&self.snapshot.value.0);
        txn.when(Table::<SnapshotRow>::cmp_rev(&[&at[0], &at[1], &at[2]], self.snapshot.rev))
    }
}
