//! Networks: each project has one, made with it and gone with it.

pub mod ops;

use crate::{core::Control, rows::NetworkRow};
use yun_store::Row;
use yun_types::Network;

/// The network with how many of its addresses are used.
pub fn view(control: &Control, row: &Row<NetworkRow>) -> Network {
    let mut network = row.value.0.clone();
    if let Some(project) = &network.metadata.project {
        let instances = control.instances.cache.all(&[project.as_str()]);
        let used = instances
            .iter()
            .filter(|row| row.value.0.status.address.is_some_and(|address| network.spec.cidr.contains(&address)))
            .count();
        network.status.addresses_used = u32::try_from(used).unwrap_or(u32::MAX);
    }
    // The network itself, the gateway and the broadcast address are nobody's.
    let size = 1u64 << (32 - network.spec.cidr.prefix_len());
    network.status.addresses_total = u32::try_from(size.saturating_sub(3)).unwrap_or(u32::MAX);
    network.metadata.revision = row.rev.to_string();
    network
}
