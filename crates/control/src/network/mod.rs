//! Networks: each project has `default`, made with it, and others that its users make. All go with it.

pub(crate) mod door;
pub mod ops;
#[cfg(test)]
mod tests;

use crate::{core::Control, rows::NetworkRow};
use yun_plan::interface;
use yun_store::Row;
use yun_types::{Instance, Name, Network, NetworkId, NetworkUser};

/// The network with who is in it and how many of its addresses are used.
pub fn view(control: &Control, row: &Row<NetworkRow>) -> Network {
    let mut network = row.value.0.clone();
    if let Some(project) = &network.metadata.project {
        let instances = control.instances.cache.all(&[project.as_str()]);
        network.status.users = users(&network, project, instances.iter().map(|row| &row.value.0));
        let used = network.status.users.iter().filter(|user| user.address.is_some()).count();
        network.status.addresses_used = u32::try_from(used).unwrap_or(u32::MAX);
    }
    // The network itself, the gateway and the broadcast address are nobody's.
    let size = 1u64 << (32 - network.spec.cidr.prefix_len());
    network.status.addresses_total = u32::try_from(size.saturating_sub(3)).unwrap_or(u32::MAX);
    network.metadata.revision = row.rev.to_string();
    network
}

/// Who of these instances is in the network, or will be once it has a place.
pub(crate) fn users<'a>(
    network: &Network,
    project: &Name,
    instances: impl IntoIterator<Item = &'a Instance>,
) -> Vec<NetworkUser> {
    let id = NetworkId(network.metadata.id);
    let default = (network.metadata.name.as_str() == interface::DEFAULT).then_some(id);
    let mut users: Vec<NetworkUser> = instances
        .into_iter()
        .filter(|instance| instance.metadata.project.as_ref() == Some(project))
        .filter_map(|instance| {
            let found = interface::of(&instance.status, default).into_iter().find(|i| i.network_id == id);
            if found.is_none() && !interface::is_member(&instance.spec, &network.metadata.name) {
                return None;
            }
            Some(NetworkUser {
                instance: instance.metadata.name.clone(),
                id: instance.metadata.id,
                address: found.as_ref().map(|interface| interface.address),
                mac: found.map(|interface| interface.mac),
            })
        })
        .collect();
    users.sort_by(|a, b| a.instance.cmp(&b.instance));
    users
}
