//! New instances from the data of another one, as a snapshot has them or as they are now: what that asks of the new one.

use crate::{
    core::Control,
    error::Refusal,
    instance,
    rows::{InstanceRow, SnapshotRow},
    snapshot,
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::{InstanceClone, InstanceCreate};
use yun_plan::interface;
use yun_store::{Row, Table, Txn};
use yun_types::{
    Digest, Instance, InstanceKind, InstanceSpec, InstanceState, Name, NetworkMembership, Power, Size, SnapshotId,
    SnapshotName, Template,
};

/// What a new instance is made from, as the caches show it now.
#[derive(Clone)]
enum Origin {
    /// A snapshot.
    Snapshot(Arc<Row<SnapshotRow>>),
    /// The other instance itself, by a snapshot of this id that is taken for it.
    Itself(Arc<Row<InstanceRow>>, Uuid),
}

/// What a new instance is made from, with the instance that it belongs to.
#[derive(Clone)]
pub(super) struct Ground {
    origin: Origin,
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
    Ok(Ground { source: source.value.0.clone(), origin: Origin::Snapshot(row) })
}

/// An instance that can be cloned as it is now.
pub(super) fn itself(row: Arc<Row<InstanceRow>>, id: Uuid) -> Result<Ground, Refusal> {
    let source = row.value.0.clone();
    let name = &source.metadata.name;
    let cannot =
        |code: &'static str, why: String| Err(Refusal::conflict(code, format!("cannot clone instance {name}: {why}")));
    if source.spec.kind == Some(InstanceKind::Container) {
        return cannot(
            "WrongKind",
            format!(
                "it is a container; make an image of its files and launch that (yun commit {name} {name}-copy, yun launch {name}-copy)"
            ),
        );
    }
    if source.metadata.deleting.is_some() {
        return cannot("Deleting", "it is being deleted".to_owned());
    }
    match source.status.state {
        InstanceState::Lost => cannot("NodeLost", "its node is silent; bring the node back".to_owned()),
        InstanceState::Pending | InstanceState::Scheduled | InstanceState::Preparing => {
            cannot("NotReady", "it has no data yet; wait until it runs".to_owned())
        }
        _ => Ok(Ground { origin: Origin::Itself(row, id), source }),
    }
}

/// The request for a clone in full.
pub(super) fn clone_of(source: &Instance, wanted: &InstanceClone) -> InstanceCreate {
    let memberships = interface::memberships(&source.spec).into_iter();
    let spec = InstanceSpec {
        size: wanted.size.unwrap_or(source.spec.size),
        power: Power::Running,
        restart_count: 0,
        template: None,
        // Addresses, ports and volumes are those of the other one.
        networks: match &wanted.networks[..] {
            [] => memberships.map(|membership| NetworkMembership::of(membership.network)).collect(),
            named => named.to_vec(),
        },
        volumes: Vec::new(),
        publish: wanted.publish.clone(),
        ..source.spec.clone()
    };
    InstanceCreate { name: wanted.name.clone(), labels: wanted.labels.clone(), spec }
}

impl Ground {
    /// What people call it.
    fn name(&self) -> String {
        match &self.origin {
            Origin::Snapshot(row) => snapshot::reference(&row.value.0).name,
            Origin::Itself(row, _) => row.value.0.metadata.name.to_string(),
        }
    }

    /// The size that its data were made for.
    fn size(&self) -> Size {
        match &self.origin {
            Origin::Snapshot(row) => row.value.0.status.instance_size.unwrap_or(self.source.spec.size),
            Origin::Itself(..) => self.source.spec.size,
        }
    }

    /// Whether there is a memory to go on with.
    fn memory(&self) -> bool {
        match &self.origin {
            Origin::Snapshot(row) => row.value.0.status.facts.as_ref().is_some_and(|facts| facts.memory),
            Origin::Itself(..) => false,
        }
    }

    /// Fills in what the data decide, and refuses what does not fit to them.
    pub(super) fn apply(&self, spec: &mut InstanceSpec, image: &Digest) -> Result<Template, Refusal> {
        let name = self.name();
        if self.source.status.image.as_ref().is_none_or(|pin| pin.digest != *image) {
            return Err(self.wrong_image(&spec.image));
        }
        let (then, memory) = (self.size(), self.memory());
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
                    "{} {name} has a disk of {}, and disk:{} was asked for; ask for disk:{} or more",
                    self.what(),
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
                    "{} {name} is on node {there}, and node {wanted} was asked for; leave the node out, or say --node {there}",
                    self.what()
                );
                return Err(Refusal::bad_request("WrongNode", message));
            }
            (_, there) => spec.node.clone_from(there),
        }
        let (id, live) = match &self.origin {
            Origin::Snapshot(row) => (row.value.0.metadata.id, false),
            Origin::Itself(_, id) => (*id, true),
        };
        let instance = yun_types::InstanceId(self.source.metadata.id);
        Ok(Template { instance, snapshot: SnapshotId(id), name, memory, live })
    }

    fn what(&self) -> &'static str {
        match self.origin {
            Origin::Snapshot(_) => "snapshot",
            Origin::Itself(..) => "instance",
        }
    }

    fn wrong_image(&self, asked: &str) -> Refusal {
        let (name, had) = (self.name(), self.source.status.image.as_ref().map_or("", |pin| &pin.name));
        let message = match self.origin {
            Origin::Snapshot(_) => {
                format!("snapshot {name} is of an instance of image {had}, and {asked} was asked for; name image {had}")
            }
            Origin::Itself(..) => format!(
                "cannot clone instance {name}: image {had} has other content than when {name} was made; take a copy out of it instead (yun cp), or bring the old content back"
            ),
        };
        Refusal::bad_request("WrongImage", message)
    }

    /// It joins the networks of the one that it is made from, unless others are named; a memory needs as many interfaces as it knows.
    fn networks(&self, spec: &mut InstanceSpec, memory: bool, name: &str) -> Result<(), Refusal> {
        let Origin::Snapshot(row) = &self.origin else { return Ok(()) };
        let then = &row.value.0.status.networks;
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

    /// What it is made from must still be there when the instance is written.
    pub(super) fn add_guard(&self, txn: Txn) -> Txn {
        match &self.origin {
            Origin::Snapshot(row) => {
                let at = snapshot::segments(&row.value.0);
                txn.when(Table::<SnapshotRow>::cmp_rev(&[&at[0], &at[1], &at[2]], row.rev))
            }
            Origin::Itself(row, _) => {
                txn.when(Table::<InstanceRow>::cmp_rev(&instance::segments(&row.value.0), row.rev))
            }
        }
    }
}
