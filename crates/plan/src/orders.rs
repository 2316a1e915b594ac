//! What a node is told: the difference between what it was told before and what is wanted now.
//!
//! Words: the *catalogue* is the set of contents that any image of the cloud names; a node keeps those and what its instances were made
//! from. An instance leaves a node in two steps: it is told with `deleting` set, and it vanishes when the node has said that nothing is left.
//! One that vanishes in any other way cannot be told by a change: the node gets a snapshot.

use crate::{group, interface, volume};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use yun_types::{
    ALIASES, DesiredInstance, DesiredNetwork, DesiredVolume, Digest, DnsRecord, Instance, InstanceId, Name, Network,
    NetworkId, NodeOrder, VolumeId, instance_domain,
};

/// Everything that one node was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    instances: BTreeMap<InstanceId, DesiredInstance>,
    networks: BTreeMap<NetworkId, DesiredNetwork>,
    volumes: BTreeMap<VolumeId, DesiredVolume>,
    catalogue: BTreeSet<Digest>,
    images: BTreeSet<Digest>,
}

/// What may have changed. What is not mentioned is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Instances as this node should have them now; `None` for one that is none of this node's business (any more).
    pub instances: BTreeMap<InstanceId, Option<DesiredInstance>>,
    /// Networks as they are now; `None` for one that does not exist. Those that no instance of the node is in are left out by [`diff`].
    pub networks: BTreeMap<NetworkId, Option<DesiredNetwork>>,
    /// Volumes as this node should have them now; `None` for one that is gone, which the node has said itself.
    pub volumes: BTreeMap<VolumeId, Option<DesiredVolume>>,
    /// The whole catalogue, if it may have changed.
    pub catalogue: Option<BTreeSet<Digest>>,
}

impl Told {
    /// All of it in one order.
    pub fn snapshot(&self) -> NodeOrder {
        NodeOrder::Snapshot {
            instances: self.instances.values().cloned().collect(),
            networks: self.networks.values().cloned().collect(),
            images: self.images.iter().cloned().collect(),
            volumes: self.volumes.values().cloned().collect(),
        }
    }

    /// The networks that the node's instances are in.
    pub fn networks_in_use(&self) -> BTreeSet<NetworkId> {
        self.instances.values().flat_map(|instance| instance.nics().map(|nic| nic.network)).collect()
    }

    /// What the node was told of an instance.
    pub fn instance(&self, id: InstanceId) -> Option<&DesiredInstance> {
        self.instances.get(&id)
    }
}

/// The orders that bring a node from what it was told to what is wanted; `told` is brought there too. Networks come before the instances in
/// them, and go after them. `changed` must bring each network that an instance in it needs and that the node was not told of.
pub fn diff(told: &mut Told, changed: Changed) -> Vec<NodeOrder> {
    let mut instances = Vec::new();
    let mut vanished = false;
    for (id, now) in changed.instances {
        match now {
            Some(now) => {
                if told.instances.get(&id).is_none_or(|before| !same(before, &now)) {
                    instances.push(NodeOrder::Instance(Box::new(now.clone())));
                }
                told.instances.insert(id, now);
            }
            None => vanished |= told.instances.remove(&id).is_some_and(|before| !before.deleting),
        }
    }
    let mut orders = networks(told, changed.networks);
    orders.extend(volumes(told, changed.volumes));
    orders.append(&mut instances);
    orders.extend(unused_networks(told));
    if let Some(catalogue) = changed.catalogue {
        told.catalogue = catalogue;
    }
    orders.extend(unused_images(told));
    if vanished { vec![told.snapshot()] } else { orders }
}

/// Whether the node would do the same for both. The counters are the node's own reports, come back.
fn same(before: &DesiredInstance, now: &DesiredInstance) -> bool {
    let DesiredInstance { restarts, restart_count, restores, .. } = *before;
    let counted = DesiredInstance { restarts, restart_count, restores, ..now.clone() };
    *before == counted
}

fn networks(told: &mut Told, changed: BTreeMap<NetworkId, Option<DesiredNetwork>>) -> Vec<NodeOrder> {
    let in_use = told.networks_in_use();
    let mut orders = Vec::new();
    for (id, now) in changed {
        let Some(now) = now.filter(|_| in_use.contains(&id)) else { continue };
        if told.networks.get(&id) != Some(&now) {
            orders.push(NodeOrder::Network(now.clone()));
            told.networks.insert(id, now);
        }
    }
    orders
}

fn volumes(told: &mut Told, changed: BTreeMap<VolumeId, Option<DesiredVolume>>) -> Vec<NodeOrder> {
    let mut orders = Vec::new();
    for (id, now) in changed {
        match now {
            Some(now) if told.volumes.get(&id) != Some(&now) => {
                orders.push(NodeOrder::Volume(now.clone()));
                told.volumes.insert(id, now);
            }
            Some(_) => {}
            None => drop(told.volumes.remove(&id)),
        }
    }
    orders
}

fn unused_networks(told: &mut Told) -> Vec<NodeOrder> {
    let in_use = told.networks_in_use();
    let gone: Vec<NetworkId> = told.networks.keys().copied().filter(|id| !in_use.contains(id)).collect();
    for id in &gone {
        told.networks.remove(id);
    }
    gone.into_iter().map(|id| NodeOrder::NetworkGone { id }).collect()
}

fn unused_images(told: &mut Told) -> Vec<NodeOrder> {
    let pins = told.instances.values().map(|instance| instance.image.digest.clone());
    let needed: BTreeSet<Digest> = told.catalogue.iter().cloned().chain(pins).collect();
    let gone = told.images.difference(&needed).cloned().map(|digest| NodeOrder::ImageGone { digest }).collect();
    told.images = needed;
    gone
}

/// An instance as its node should have it. `None` as long as it has no node. `default` is the project's first network; `named` finds the
/// project's volumes.
pub fn desired_instance(
    instance: &Instance,
    default: NetworkId,
    named: &dyn Fn(&Name) -> Option<DesiredVolume>,
) -> Option<DesiredInstance> {
    let (metadata, spec, status) = (&instance.metadata, &instance.spec, &instance.status);
    status.node?;
    let mut nics = interface::nics(instance, Some(default)).into_iter();
    Some(DesiredInstance {
        id: InstanceId(metadata.id),
        name: metadata.name.clone(),
        project: metadata.project.clone()?,
        kind: spec.kind?,
        generation: metadata.generation,
        fence: status.fence,
        spec: spec.clone(),
        image: status.image.clone()?,
        nic: nics.next()?,
        more_nics: nics.collect(),
        volumes: volume::mounts(spec, named),
        origin: status.origin.clone(),
        deleting: metadata.deleting.is_some(),
        restarts: status.restarts,
        restart_count: status.restart_count,
        restores: status.restores,
    })
}

/// Names that instances share: the name of a group, and aliases. Who asks for one gets all instances of it that are ready.
fn shared_records(instance: &Instance, project: &Name, address: Ipv4Addr) -> Vec<DnsRecord> {
    if !counts(instance) {
        return Vec::new();
    }
    let group = instance.status.group.as_ref().map(|tie| tie.name.clone());
    group
        .into_iter()
        .chain(aliases(instance))
        .map(|name| DnsRecord { name: instance_domain(&name, project), address })
        .collect()
}

/// Whether the names that it shares lead to it: those of a group must be ready.
pub fn counts(instance: &Instance) -> bool {
    instance.status.group.is_none() || group::ready(instance)
}

/// More names of an instance, as the label [`ALIASES`] has them.
pub fn aliases(instance: &Instance) -> Vec<Name> {
    let words = instance.metadata.labels.get(ALIASES).map_or("", String::as_str);
    words.split(',').filter_map(|word| word.trim().parse().ok()).collect()
}

/// A network as nodes should have it, with the names of its instances, their aliases and their groups.
pub fn desired_network<'a>(
    network: &Network,
    instances: impl IntoIterator<Item = &'a Instance>,
) -> Option<DesiredNetwork> {
    let project = network.metadata.project.clone()?;
    let mut records: Vec<DnsRecord> = instances
        .into_iter()
        .filter(|instance| instance.metadata.deleting.is_none() && instance.metadata.project.as_ref() == Some(&project))
        .filter_map(|instance| Some((instance, interface::address_in(instance, network)?)))
        .flat_map(|(instance, address)| {
            let name = &network.metadata.name;
            let membership = instance.spec.networks.iter().find(|membership| membership.network == *name);
            let aliases = membership.map_or(&[][..], |membership| &membership.aliases[..]);
            let names = std::iter::once(&instance.metadata.name).chain(aliases);
            let own = names.map(|name| DnsRecord { name: instance_domain(name, &project), address });
            own.chain(shared_records(instance, &project, address)).collect::<Vec<_>>()
        })
        .collect();
    records.sort();
    records.dedup();
    Some(DesiredNetwork { id: NetworkId(network.metadata.id), project, spec: network.spec.clone(), records })
}

#[cfg(test)]
mod tests;
