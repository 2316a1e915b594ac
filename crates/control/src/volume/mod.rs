//! Volumes: named space for data that outlives the instances that use it.
//!
//! A volume has a node from its creation on, which makes it and removes it when it is told to. The state says who has a volume: the specs of
//! instances do, and nothing else. Whatever takes a volume away from under somebody is decided while nobody else can take it
//! ([`Control::holdings`]).

pub(crate) mod door;
pub mod ops;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use crate::{
    core::Control,
    error::{Refusal, nearest},
    rows::VolumeRow,
};
use std::sync::Arc;
use yun_store::Row;
use yun_types::{Bytes, Name, NameOrId, NodeId, ObjectKind, Volume};

/// The volume with who has it.
pub fn view(c: &Control, row: &Row<VolumeRow>) -> Volume {
    let mut volume = row.value.0.clone();
    if let Some(project) = &volume.metadata.project {
        let instances = c.instances.cache.all(&[project.as_str()]);
        volume.status.users =
            yun_plan::volume::users(project, &volume.metadata.name, instances.iter().map(|row| &row.value.0));
    }
    volume.metadata.revision = row.rev.to_string();
    volume
}

/// The volume of the project with this name or id.
pub(crate) fn locate(c: &Control, project: &Name, volume: &NameOrId) -> Result<Arc<Row<VolumeRow>>, Refusal> {
    let rows = c.volumes.cache.all(&[project.as_str()]);
    let found = rows.iter().find(|row| match volume {
        NameOrId::Name(name) => row.value.0.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.metadata.id == *id,
    });
    found.cloned().ok_or_else(|| {
        let near = nearest(&volume.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Volume, volume, near)
    })
}

/// What the volumes of a project may hold together.
pub(crate) fn held_by_project(c: &Control, project: &Name) -> Bytes {
    c.volumes.cache.all(&[project.as_str()]).iter().map(|row| row.value.0.spec.size).sum()
}

/// What the volumes on a node may hold together.
pub(crate) fn held_on(c: &Control, node: NodeId) -> Bytes {
    let rows = c.volumes.cache.all(&[]);
    rows.iter().filter(|row| row.value.0.status.node == Some(node)).map(|row| row.value.0.spec.size).sum()
}
