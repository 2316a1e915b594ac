//! Who is in several networks of this node: such an instance asks the DNS of its first network for the names of all of them, and gets the
//! address in the network that both share; and the metadata service tells it all of its cards.

use super::Names;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};
use yun_drivers::Attachment;
use yun_types::{InstanceId, NetworkId};

/// A card of an instance, as the instance may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) index: u32,
    pub(super) mac: String,
    pub(super) address: Ipv4Addr,
    pub(super) cidr: ipnet::Ipv4Net,
}

/// The names of all networks here, and who is in which.
#[derive(Debug, Default)]
pub(in crate::network) struct Kin {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<NetworkId, Names>,
    owners: BTreeMap<Ipv4Addr, (InstanceId, NetworkId)>,
    networks: BTreeMap<InstanceId, BTreeMap<NetworkId, Card>>,
}

impl Kin {
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces the names of a network.
    pub(in crate::network) fn set_names(&self, network: NetworkId, names: Names) {
        self.change(|inner| drop(inner.names.insert(network, names)));
    }

    /// Forgets a network that is gone.
    pub(in crate::network) fn forget(&self, network: NetworkId) {
        self.change(|inner| drop(inner.names.remove(&network)));
    }

    /// An instance is in a network.
    pub(in crate::network) fn joined(&self, attachment: &Attachment) {
        let Attachment { instance, network, nic, cidr, .. } = attachment;
        let card = Card { index: nic.index, mac: nic.mac.to_ascii_lowercase(), address: nic.address, cidr: *cidr };
        self.change(|inner| {
            inner.owners.insert(card.address, (*instance, *network));
            inner.networks.entry(*instance).or_default().insert(*network, card);
        });
    }

    /// An instance has left a network.
    pub(in crate::network) fn left(&self, instance: InstanceId, network: NetworkId) {
        self.change(|inner| {
            inner.owners.retain(|_, owner| *owner != (instance, network));
            if let Some(networks) = inner.networks.get_mut(&instance) {
                networks.remove(&network);
                if networks.is_empty() {
                    inner.networks.remove(&instance);
                }
            }
        });
    }

    /// All cards of an instance, the first one first.
    pub(super) fn cards(&self, instance: InstanceId) -> Vec<Card> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut cards: Vec<Card> =
            inner.networks.get(&instance).into_iter().flat_map(BTreeMap::values).cloned().collect();
        cards.sort_by_key(|card| card.index);
        cards
    }

    /// The addresses of a name in the other networks of who asks from this address. A name of several networks has those of the first.
    pub(super) fn addresses(&self, from: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let (instance, here) = inner.owners.get(&from)?;
        let others = inner.networks.get(instance)?.keys().filter(|network| *network != here);
        others.filter_map(|network| inner.names.get(network)?.addresses(name)).find(|found| !found.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_drivers::Port;
    use yun_types::{DnsRecord, Nic};

    fn attachment(instance: InstanceId, network: NetworkId, index: u32, last: u8) -> Attachment {
        let cidr: ipnet::Ipv4Net = format!("10.{last}.0.0/24").parse().unwrap();
        let nic = Nic { index, ..Nic::new(network, [10, last, 0, 2].into(), format!("02:00:00:00:00:0{last}")) };
        let port = Port::Tap { interface: "yt1".into() };
        Attachment { instance, network, nic, cidr, gateway: [10, last, 0, 1].into(), mtu: 1500, port }
    }

    #[test]
    fn names_of_the_networks_that_both_share_are_told_and_no_others() {
        let (a, b, c) = (1, 2, 3).into_networks();
        let kin = Kin::default();
        let record = |last: u8| DnsRecord { name: "db.default.yun".into(), address: [10, last, 0, 9].into() };
        kin.set_names(a, Names::new(&[]));
        kin.set_names(b, Names::new(&[record(2)]));
        kin.set_names(c, Names::new(&[record(3)]));
        let web = InstanceId(uuid::Uuid::from_u128(7));
        let from = Ipv4Addr::new(10, 1, 0, 2);
        kin.joined(&attachment(web, a, 1, 1));
        assert_eq!(kin.addresses(from, "db.default.yun"), None);
        kin.joined(&attachment(web, b, 0, 2));
        let cards = kin.cards(web);
        let told: Vec<_> = cards.iter().map(|card| (card.index, card.mac.as_str(), card.cidr.to_string())).collect();
        let want =
            [(0, "02:00:00:00:00:02", "10.2.0.0/24".to_owned()), (1, "02:00:00:00:00:01", "10.1.0.0/24".to_owned())];
        assert_eq!(told, want);
        assert!(kin.cards(InstanceId(uuid::Uuid::from_u128(8))).is_empty());
        assert_eq!(kin.addresses(from, "db.default.yun"), Some(vec![[10, 2, 0, 9].into()]));
        assert_eq!(kin.addresses([10, 1, 0, 3].into(), "db.default.yun"), None, "a stranger");
        kin.left(web, b);
        assert_eq!(kin.addresses(from, "db.default.yun"), None);
    }

    trait IntoNetworks {
        fn into_networks(self) -> (NetworkId, NetworkId, NetworkId);
    }

    impl IntoNetworks for (u128, u128, u128) {
        fn into_networks(self) -> (NetworkId, NetworkId, NetworkId) {
            let id = |n| NetworkId(uuid::Uuid::from_u128(n));
            (id(self.0), id(self.1), id(self.2))
        }
    }
}
