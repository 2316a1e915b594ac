//! The choice of addresses in a network.
//!
//! Words: an address is *resting* if it belonged to somebody a moment ago; it is taken only if nothing else is left, because neighbours may
//! still remember its old hardware address.

use ipnet::Ipv4Net;
use std::{collections::BTreeSet, net::Ipv4Addr};
use yun_types::{InstanceId, NetworkId};

/// Every address of the network has an owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network {network} has no free address: all {total} are in use; delete an instance that is not needed")]
pub struct NoAddress {
    network: Ipv4Net,
    total: u32,
}

/// How many instances can have an address: all but the network's own, the gateway's and the broadcast address.
pub fn total(cidr: Ipv4Net) -> u32 {
    u32::try_from((1u64 << (32 - cidr.prefix_len())).saturating_sub(3)).unwrap_or(u32::MAX)
}

/// The lowest address that is free and not resting; the lowest resting one if there is no other.
pub fn choose(cidr: Ipv4Net, taken: &BTreeSet<Ipv4Addr>, resting: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, NoAddress> {
    let first = u32::from(cidr.network()).saturating_add(2);
    let free = || (first..u32::from(cidr.broadcast())).map(Ipv4Addr::from).filter(|address| !taken.contains(address));
    free()
        .find(|address| !resting.contains(address))
        .or_else(|| free().next())
        .ok_or(NoAddress { network: cidr, total: total(cidr) })
}

/// The hardware address of an instance: locally administered, and the same whenever it is asked for.
pub fn mac(instance: InstanceId) -> String {
    mac_of(instance.0.as_u128())
}

/// The hardware address of an instance in a network other than the first one of its project.
pub fn mac_in(instance: InstanceId, network: NetworkId) -> String {
    mac_of(instance.0.as_u128() ^ network.0.as_u128().rotate_left(17))
}

fn mac_of(bits: u128) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let mixed = crate::mix(bits as u64 ^ crate::mix((bits >> 64) as u64)).to_be_bytes();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mixed[0], mixed[1], mixed[2], mixed[3], mixed[4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn set(addresses: &[&str]) -> BTreeSet<Ipv4Addr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn the_lowest_free_address_behind_the_gateway_is_chosen() {
        let none = BTreeSet::new();
        assert_eq!(choose(net("10.77.3.0/24"), &none, &none).unwrap().to_string(), "10.77.3.2");
        let taken = set(&["10.77.3.2", "10.77.3.3", "10.77.3.5"]);
        assert_eq!(choose(net("10.77.3.0/24"), &taken, &none).unwrap().to_string(), "10.77.3.4");
    }

    #[test]
    fn resting_addresses_come_last() {
        let resting = set(&["10.0.0.2", "10.0.0.3"]);
        assert_eq!(choose(net("10.0.0.0/29"), &BTreeSet::new(), &resting).unwrap().to_string(), "10.0.0.4");
        let taken = set(&["10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(choose(net("10.0.0.0/29"), &taken, &resting).unwrap().to_string(), "10.0.0.2");
    }

    #[test]
    fn a_full_network_says_so() {
        let taken = set(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let error = choose(net("10.0.0.0/29"), &taken, &BTreeSet::new()).unwrap_err().to_string();
        assert_eq!(
            error,
            "network 10.0.0.0/29 has no free address: all 5 are in use; delete an instance that is not needed"
        );
        assert!(choose(net("10.0.0.0/31"), &BTreeSet::new(), &BTreeSet::new()).is_err());
        assert_eq!((total(net("10.0.0.0/29")), total(net("10.0.0.0/24")), total(net("10.0.0.0/32"))), (5, 253, 0));
    }

    #[test]
    fn hardware_addresses_stay_and_differ() {
        let ids: Vec<InstanceId> = (0..2000u128).map(|n| InstanceId(Uuid::from_u128(n << 64 | 7))).collect();
        let macs: BTreeSet<String> = ids.iter().map(|id| mac(*id)).collect();
        assert_eq!(macs.len(), ids.len());
        assert_eq!(mac(ids[5]), mac(ids[5]));
        assert!(macs.iter().all(|m| m.starts_with("02:") && m.len() == 17));
    }

    proptest! {
        #[test]
        fn a_chosen_address_is_in_the_network_and_free(third in 0u8..255, prefix in 24u8..=29, gone in proptest::collection::btree_set(0u32..256, 0..256)) {
            let network = Ipv4Net::new(Ipv4Addr::new(10, 9, third, 0), prefix).unwrap();
            let taken: BTreeSet<Ipv4Addr> = gone.iter().map(|n| Ipv4Addr::from(u32::from(network.network()) + n)).collect();
            match choose(network, &taken, &BTreeSet::new()) {
                Ok(address) => {
                    prop_assert!(network.contains(&address) && !taken.contains(&address));
                    prop_assert!(address > Ipv4Addr::from(u32::from(network.network()) + 1) && address < network.broadcast());
                }
                Err(_) => prop_assert!(network.hosts().skip(1).all(|a| taken.contains(&a))),
            }
        }

        #[test]
        fn choosing_again_and_again_fills_the_network_exactly(prefix in 26u8..=29) {
            let network = Ipv4Net::new(Ipv4Addr::new(10, 9, 9, 0), prefix).unwrap();
            let mut taken = BTreeSet::new();
            while let Ok(address) = choose(network, &taken, &BTreeSet::new()) {
                prop_assert!(taken.insert(address));
            }
            prop_assert_eq!(taken.len(), total(network) as usize);
        }
    }
}
