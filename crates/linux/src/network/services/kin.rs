//! Who is in several networks of this node: such an instance asks the DNS of its first network for the names of all of them, and gets the
//! address in the network that both share.

use super::Names;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};
use yun_types::{InstanceId, NetworkId};

/// The names of all networks here, and who is in which.
#[derive(Debug, Default)]
pub(in crate::network) struct Kin {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<NetworkId, Names>,
    owners: BTreeMap<Ipv4Addr, (InstanceId, NetworkId)>,
    networks: BTreeMap<InstanceId, BTreeSet<NetworkId>>,
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

    /// An instance is in a network, with this address.
    pub(in crate::network) fn joined(&self, instance: InstanceId, network: NetworkId, address: Ipv4Addr) {
        self.change(|inner| {
            inner.owners.insert(address, (instance, network));
            inner.networks.entry(instance).or_default().insert(network);
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

    /// The addresses of a name in the other networks of who asks from this address. A name of several networks has those of the first.
    pub(super) fn addresses(&self, from: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let (instance, here) = inner.owners.get(&from)?;
        let others = inner.networks.get(instance)?.iter().filter(|network| *network != here);
        others.filter_map(|network| inner.names.get(network)?.addresses(name)).find(|found| !found.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::DnsRecord;

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
        kin.joined(web, a, from);
        assert_eq!(kin.addresses(from, "db.default.yun"), None);
        kin.joined(web, b, [10, 2, 0, 2].into());
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
