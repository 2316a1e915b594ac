//! What a network offers on its gateway: DHCP, DNS and metadata, as a small, fixed set of tasks that are listed by name and end with the network.

pub(super) mod dhcp;
pub(super) mod dns;
pub(super) mod kin;
pub(super) mod metadata;
pub(super) mod upstream;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::task::JoinHandle;
use yun_drivers::Result;
use yun_types::{DesiredNetwork, DnsRecord};

use super::mac::Mac;
use upstream::Upstream;

/// Services that were stopped a moment ago may still be bound: a child of this process has all our sockets until its program starts.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_millis(20);

/// What the services answer from. Changed in place while they run.
#[derive(Debug)]
pub(super) struct Knowledge {
    pub(super) network: Network,
    names: RwLock<Names>,
    leases: RwLock<BTreeMap<Mac, Ipv4Addr>>,
    /// Cards that are not their instance's first: the way out is elsewhere.
    second: RwLock<BTreeSet<Mac>>,
    kin: Arc<kin::Kin>,
    /// Where each member's metadata is.
    members: RwLock<BTreeMap<Ipv4Addr, PathBuf>>,
}

/// What does not change while a network's services run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) bridge: String,
    pub(super) cidr: ipnet::Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    pub(super) mtu: u16,
    /// The search domain: `default.yun`.
    pub(super) domain: String,
    /// Nothing leaves it, not even a question.
    pub(super) isolated: bool,
}

impl Network {
    /// The part of what is wanted that the services need.
    pub(super) fn of(bridge: String, network: &DesiredNetwork) -> Self {
        let spec = &network.spec;
        Self {
            bridge,
            cidr: spec.cidr,
            gateway: spec.gateway(),
            mtu: spec.mtu,
            domain: format!("{}.yun", network.project),
            isolated: spec.isolated,
        }
    }
}

/// The names of a network, in both directions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// Lower case, without a trailing dot.
    addresses: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    names: BTreeMap<Ipv4Addr, String>,
}

impl Names {
    /// Takes the records as they were given.
    pub(super) fn new(records: &[DnsRecord]) -> Self {
        let mut names = Self::default();
        for record in records {
            let name = record.name.trim_end_matches('.').to_ascii_lowercase();
            names.names.entry(record.address).or_insert_with(|| name.clone());
            names.addresses.entry(name).or_default().insert(record.address);
        }
        names
    }

    /// The addresses of a name; `None` if there is no such name, empty if only names below it exist.
    pub(super) fn addresses(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        if let Some(addresses) = self.addresses.get(name) {
            return Some(addresses.iter().copied().collect());
        }
        let below = |n: &String| n.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        self.addresses.keys().any(below).then(Vec::new)
    }

    /// The name of an address.
    pub(super) fn name(&self, address: Ipv4Addr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }
}

impl Knowledge {
    /// Nothing known but the network.
    pub(super) fn new(network: Network) -> Self {
        Self {
            network,
            names: RwLock::default(),
            leases: RwLock::default(),
            second: RwLock::default(),
            kin: Arc::default(),
            members: RwLock::default(),
        }
    }

    /// With who is in several networks.
    pub(super) fn with_kin(self, kin: Arc<kin::Kin>) -> Self {
        Self { kin, ..self }
    }

    /// This card is not its instance's first.
    pub(super) fn set_second(&self, mac: Mac) {
        self.second.write().unwrap_or_else(PoisonError::into_inner).insert(mac);
    }

    fn is_second(&self, mac: Mac) -> bool {
        self.second.read().unwrap_or_else(PoisonError::into_inner).contains(&mac)
    }

    /// Replaces all names.
    pub(super) fn set_names(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Lets a card have its address.
    pub(super) fn set_lease(&self, mac: Mac, address: Ipv4Addr) {
        self.leases.write().unwrap_or_else(PoisonError::into_inner).insert(mac, address);
    }

    /// Forgets a card.
    pub(super) fn drop_lease(&self, mac: Mac) {
        self.leases.write().unwrap_or_else(PoisonError::into_inner).remove(&mac);
        self.second.write().unwrap_or_else(PoisonError::into_inner).remove(&mac);
    }

    /// Lets the instance that has an address read its metadata.
    pub(super) fn set_member(&self, address: Ipv4Addr, metadata: PathBuf) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).insert(address, metadata);
    }

    /// Forgets the instance that had an address.
    pub(super) fn drop_member(&self, address: Ipv4Addr) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    fn member(&self, address: Ipv4Addr) -> Option<PathBuf> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    fn lease(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.leases.read().unwrap_or_else(PoisonError::into_inner).get(&mac).copied()
    }

    fn names(&self) -> std::sync::RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running services of one network.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) knowledge: Arc<Knowledge>,
    tasks: Vec<(String, JoinHandle<()>)>,
}

impl Services {
    /// Binds the sockets, so that a failure is the caller's, and starts the tasks.
    pub(super) async fn start(knowledge: Arc<Knowledge>, upstream: Arc<Upstream>) -> Result<Self> {
        let bridge = knowledge.network.bridge.clone();
        let mut tries = TRIES;
        let gateway = knowledge.network.gateway;
        let listen = || -> Result<_> {
            Ok((dhcp::listen(&bridge)?, dns::listen(&knowledge.network)?, metadata::listen(gateway)?))
        };
        let (dhcp, (udp, tcp), about) = loop {
            match listen() {
                Err(e) if (e.reason == "PortTaken" || metadata::busy(&e)) && tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(AGAIN).await;
                }
                bound => break bound?,
            }
        };
        let task = |name: &str, handle| (format!("{name} on {bridge}"), handle);
        let tasks = vec![
            task("dhcp", tokio::spawn(dhcp::serve(knowledge.clone(), dhcp))),
            task("dns over udp", tokio::spawn(dns::serve_udp(knowledge.clone(), upstream.clone(), udp))),
            task("dns over tcp", tokio::spawn(dns::serve_tcp(knowledge.clone(), upstream, tcp))),
            task("metadata", tokio::spawn(metadata::serve(knowledge.clone(), about))),
        ];
        Ok(Self { knowledge, tasks })
    }

    /// The names of the tasks that still run.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().filter(|(_, task)| !task.is_finished()).map(|(name, _)| name.as_str())
    }

    /// True if every task runs.
    pub(super) fn run(&self) -> bool {
        self.tasks.iter().all(|(_, task)| !task.is_finished())
    }

    /// Ends the tasks; when this returns, their sockets are closed.
    pub(super) async fn stop(mut self) {
        for (_, task) in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
    }
}
