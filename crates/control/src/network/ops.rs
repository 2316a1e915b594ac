//! What the API asks of networks.

use crate::{
    core::Control,
    error::{Refusal, nearest},
    rows::NetworkRow,
};
use std::sync::Arc;
use yun_store::Row;
use yun_types::{Name, NameOrId, ObjectKind};

/// Finds a network of the project.
pub fn find(control: &Control, project: &Name, network: &NameOrId) -> Result<Arc<Row<NetworkRow>>, Refusal> {
    let rows = control.networks.cache.all(&[project.as_str()]);
    let found = rows.iter().find(|row| match network {
        NameOrId::Name(name) => row.value.0.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.metadata.id == *id,
    });
    found.cloned().ok_or_else(|| {
        let near = nearest(&network.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Network, network, near)
    })
}
