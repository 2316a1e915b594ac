//! The interfaces of an instance: which networks it is in, and with which addresses.
//!
//! Words: a *membership* is what a user wrote about a network that an instance is in; an *interface* is what was decided about it. An
//! instance whose user wrote nothing is in the project's `default` network. What was stored before instances had several interfaces has an
//! address and no list: it has the one interface in the `default` network.

use crate::{Refused, address};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use yun_types::{
    Instance, InstanceId, InstanceSpec, InstanceStatus, Interface, Name, Network, NetworkId, NetworkMembership, Nic,
};

/// The network that each project has from the start.
pub const DEFAULT: &str = "default";
/// The most interfaces of one instance: as many as a VM has sockets for.
pub const MOST: usize = 8;
/// The most names beside its own that an instance may have in one network.
pub const MOST_ALIASES: usize = 32;

/// The networks that an instance is in, as if its user had written them all.
pub fn memberships(spec: &InstanceSpec) -> Vec<NetworkMembership> {
    match (&spec.networks[..], DEFAULT.parse()) {
        ([], Ok(default)) => vec![NetworkMembership::of(default)],
        (some, _) => some.to_vec(),
    }
}

/// True if the instance is in this network, or will be once it has a place.
pub fn is_member(spec: &InstanceSpec, network: &Name) -> bool {
    match &spec.networks[..] {
        [] => network.as_str() == DEFAULT,
        some => some.iter().any(|membership| membership.network == *network),
    }
}

/// What was decided, also of an instance that was stored before it was written down as a list. `default` is the project's first network.
pub fn of(status: &InstanceStatus, default: Option<NetworkId>) -> Vec<Interface> {
    if !status.interfaces.is_empty() {
        return status.interfaces.clone();
    }
    let (Some(network_id), Some(address), Some(mac), Ok(network)) =
        (default, status.address, status.mac.clone(), DEFAULT.parse())
    else {
        return Vec::new();
    };
    vec![Interface { network, network_id, index: 0, address, mac }]
}

/// The instance's address in a network, if it has one.
pub fn address_in(instance: &Instance, network: &Network) -> Option<Ipv4Addr> {
    let id = NetworkId(network.metadata.id);
    let default = (network.metadata.name.as_str() == DEFAULT).then_some(id);
    of(&instance.status, default).into_iter().find(|interface| interface.network_id == id).map(|i| i.address)
}

/// Every address that the instance has anywhere.
pub fn addresses(status: &InstanceStatus) -> impl Iterator<Item = Ipv4Addr> {
    let old = status.interfaces.is_empty().then_some(status.address).flatten();
    old.into_iter().chain(status.interfaces.iter().map(|interface| interface.address))
}

/// Writes interfaces into a status; the first one is shown as *the* address.
pub fn put(status: &mut InstanceStatus, interfaces: Vec<Interface>) {
    status.address = interfaces.first().map(|first| first.address);
    status.mac = interfaces.first().map(|first| first.mac.clone());
    status.interfaces = interfaces;
}

/// A network as the choice of an address sees it.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
    /// Its range.
    pub cidr: Ipv4Net,
    /// Who has which address.
    pub taken: BTreeMap<Ipv4Addr, Name>,
    /// Addresses that were freed a moment ago.
    pub resting: BTreeSet<Ipv4Addr>,
}

/// The interfaces for these memberships: those that are there stay as they are, others get an address, a number and a hardware address.
/// `grounds` are the networks in the order of the memberships.
pub fn assign(
    instance: InstanceId,
    wanted: &[NetworkMembership],
    now: &[Interface],
    grounds: &[Ground],
) -> Result<Vec<Interface>, Refused> {
    let kept: Vec<&Interface> =
        now.iter().filter(|have| grounds.iter().any(|ground| ground.id == have.network_id)).collect();
    let mut numbers: BTreeSet<u32> = kept.iter().map(|interface| interface.index).collect();
    let mut interfaces = Vec::new();
    for (membership, ground) in wanted.iter().zip(grounds) {
        let have = kept.iter().find(|have| have.network_id == ground.id);
        if let Some(have) = have {
            if let Some(address) = membership.address.filter(|address| *address != have.address) {
                let message = format!(
                    "cannot change the address in network {} from {} to {address}: leave the network and join it again with the new address",
                    ground.name, have.address
                );
                return Err(Refused::new("Fixed", message));
            }
            interfaces.push((*have).clone());
            continue;
        }
        let address = match membership.address {
            Some(address) => fixed(address, ground)?,
            None => {
                let taken = ground.taken.keys().copied().collect();
                address::choose(ground.cidr, &taken, &ground.resting)
                    .map_err(|e| Refused::new("NoAddress", format!("network {}: {e}", ground.name)))?
            }
        };
        let index = (0..).find(|number| !numbers.contains(number)).unwrap_or_default();
        numbers.insert(index);
        let mac =
            if ground.name.as_str() == DEFAULT { address::mac(instance) } else { address::mac_in(instance, ground.id) };
        interfaces.push(Interface { network: ground.name.clone(), network_id: ground.id, index, address, mac });
    }
    Ok(interfaces)
}

/// Checks an address that somebody asked for.
pub fn fixed(address: Ipv4Addr, ground: &Ground) -> Result<Ipv4Addr, Refused> {
    let Ground { name, cidr, taken, .. } = ground;
    let gateway = Ipv4Addr::from(u32::from(cidr.network()) + 1);
    let (first, last) = (Ipv4Addr::from(u32::from(gateway) + 1), Ipv4Addr::from(u32::from(cidr.broadcast()) - 1));
    if !cidr.contains(&address) {
        let message = format!("address {address} is not in network {name}: use one from {first} to {last}");
        return Err(Refused::new("AddressOutside", message));
    }
    if address == gateway || address < first || address > last {
        let what = if address == gateway { "the gateway's" } else { "not for instances" };
        let message = format!("address {address} of network {name} is {what}: use one from {first} to {last}");
        return Err(Refused::new("AddressReserved", message));
    }
    if let Some(holder) = taken.get(&address) {
        let message = format!(
            "address {address} of network {name} is taken by instance {holder}: choose another, or leave it out for a free one"
        );
        return Err(Refused::new("AddressTaken", message));
    }
    Ok(address)
}

/// The interfaces as their node should have them.
pub fn nics(instance: &Instance, default: Option<NetworkId>) -> Vec<Nic> {
    let wanted = memberships(&instance.spec);
    let nic = |(at, interface): (usize, Interface)| {
        let membership = wanted.iter().find(|membership| membership.network == interface.network);
        Nic {
            network: interface.network_id,
            address: interface.address,
            mac: interface.mac,
            publish: if at == 0 { instance.spec.publish.clone() } else { Vec::new() },
            index: interface.index,
            egress: membership.and_then(|membership| membership.egress),
            ingress: membership.and_then(|membership| membership.ingress),
        }
    };
    of(&instance.status, default).into_iter().enumerate().map(nic).collect()
}

/// Checks a list of memberships by itself.
pub fn check(wanted: &[NetworkMembership]) -> Result<(), Refused> {
    let bad = |message: String| Err(Refused::new("Invalid", message));
    if wanted.len() > MOST {
        return bad(format!("{} networks are too many for one instance: use at most {MOST}", wanted.len()));
    }
    for (at, membership) in wanted.iter().enumerate() {
        let NetworkMembership { network, aliases, .. } = membership;
        if wanted[..at].iter().any(|before| before.network == *network) {
            return bad(format!("network {network} is named twice: an instance has one interface in each network"));
        }
        if aliases.len() > MOST_ALIASES {
            return bad(format!(
                "{} aliases in network {network} are too many: use at most {MOST_ALIASES}",
                aliases.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use uuid::Uuid;

    fn ground(text: &str, cidr: &str, taken: &[(&str, &str)]) -> Ground {
        let taken = taken.iter().map(|(address, who)| (address.parse().unwrap(), samples::name(who))).collect();
        Ground {
            name: samples::name(text),
            id: NetworkId(samples::id(text)),
            cidr: cidr.parse().unwrap(),
            taken,
            resting: BTreeSet::new(),
        }
    }

    fn member(network: &str, address: Option<&str>) -> NetworkMembership {
        NetworkMembership {
            address: address.map(|a| a.parse().unwrap()),
            ..NetworkMembership::of(samples::name(network))
        }
    }

    fn id() -> InstanceId {
        InstanceId(Uuid::from_u128(7))
    }

    #[test]
    fn who_says_nothing_is_in_the_default_network() {
        let web = samples::instance("web");
        assert_eq!(memberships(&web.spec), [member("default", None)]);
        assert!(is_member(&web.spec, &samples::name("default")) && !is_member(&web.spec, &samples::name("back")));
    }

    #[test]
    fn what_was_stored_before_has_its_one_interface() {
        let web = samples::instance("web");
        let network = NetworkId(samples::id("net"));
        let had = of(&web.status, Some(network));
        assert_eq!((had.len(), had[0].index, had[0].network_id), (1, 0, network));
        assert_eq!(had[0].address, web.status.address.unwrap());
        assert_eq!(addresses(&web.status).count(), 1);
        assert_eq!(nics(&web, Some(network))[0].mac, web.status.mac.clone().unwrap());
        // The interface that would be chosen now is the same.
        let grounds = [ground("default", "10.77.0.0/24", &[])];
        let again = assign(id(), &memberships(&web.spec), &of(&web.status, Some(grounds[0].id)), &grounds).unwrap();
        assert_eq!(again, of(&web.status, Some(grounds[0].id)));
    }

    #[test]
    fn numbers_stay_while_networks_come_and_go() {
        let grounds =
            [ground("default", "10.0.0.0/24", &[]), ground("a", "10.1.0.0/24", &[]), ground("b", "10.2.0.0/24", &[])];
        let all = [member("default", None), member("a", None), member("b", None)];
        let three = assign(id(), &all, &[], &grounds).unwrap();
        assert_eq!(three.iter().map(|i| i.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(three[0].mac, address::mac(id()));
        let macs: BTreeSet<&String> = three.iter().map(|i| &i.mac).collect();
        assert_eq!(macs.len(), 3);
        let without = [all[0].clone(), all[2].clone()];
        let two = assign(id(), &without, &three, &[grounds[0].clone(), grounds[2].clone()]).unwrap();
        assert_eq!(two.iter().map(|i| i.index).collect::<Vec<_>>(), [0, 2]);
        let back = [all[0].clone(), all[2].clone(), all[1].clone()];
        let back = assign(id(), &back, &two, &[grounds[0].clone(), grounds[2].clone(), grounds[1].clone()]).unwrap();
        assert_eq!(back.iter().map(|i| i.index).collect::<Vec<_>>(), [0, 2, 1]);
    }

    #[test]
    fn an_address_that_cannot_be_had_is_refused_with_who_has_it() {
        let net = ground("back", "10.1.0.0/29", &[("10.1.0.3", "db")]);
        let refusal = |address: &str| {
            assign(id(), &[member("back", Some(address))], &[], std::slice::from_ref(&net)).unwrap_err()
        };
        let outside = refusal("10.2.0.3");
        assert!(outside.code == "AddressOutside" && outside.message.contains("from 10.1.0.2 to 10.1.0.6"), "{outside}");
        assert!(refusal("10.1.0.1").message.contains("the gateway's"));
        assert!(refusal("10.1.0.7").message.contains("not for instances"));
        assert!(refusal("10.1.0.0").message.contains("not for instances"));
        let taken = refusal("10.1.0.3");
        assert!(taken.code == "AddressTaken" && taken.message.contains("taken by instance db"), "{taken}");
        assert!(assign(id(), &[member("back", Some("10.1.0.4"))], &[], std::slice::from_ref(&net)).is_ok());
        let have = assign(id(), &[member("back", None)], &[], std::slice::from_ref(&net)).unwrap();
        let moved = assign(id(), &[member("back", Some("10.1.0.5"))], &have, std::slice::from_ref(&net)).unwrap_err();
        assert!(moved.message.contains("leave the network and join it again"), "{moved}");
    }

    #[test]
    fn lists_are_checked_by_themselves() {
        assert!(check(&[member("a", None), member("b", None)]).is_ok());
        assert!(check(&[member("a", None), member("a", None)]).unwrap_err().message.contains("named twice"));
        let many: Vec<_> = (0..9).map(|n| member(&format!("n{n}"), None)).collect();
        assert!(check(&many).unwrap_err().message.contains("at most 8"));
    }
}
