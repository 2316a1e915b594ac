//! Networks on Linux: a bridge each, with its own packet filter, DHCP and DNS; taps for VMs, namespaces for containers.
//!
//! Owns every link, namespace, table and state file that it makes, and proves it by them: links carry the cloud's id as their alias, tables
//! carry it in their name, files lie in the cloud's run directory. It never touches anything else, with one exception that [`beside`] explains.
//! It decides no address, no port and no name: those come with each call.
//!
//! Words: a *member* is an instance that is attached; a *port* of a bridge is the host's end of a member's connection, a *published port* is
//! one of the host that leads into a member.
//!
//! | module | what |
//! |---|---|
//! | [`bridges`] | a network as a whole: ensure, remove |
//! | [`members`] | an instance in it: attach, recover, detach |
//! | [`sweep`] | what earlier processes left half done; the end of everything |
//! | [`rules`], [`nft`], [`beside`], [`conntrack`] | the packet filter: its text, the way to it, other people's tables, its memory |
//! | [`netlink`], [`namespace`], [`carrier`], [`tap`], [`mac`] | links |
//! | [`ports`] | who has which port of the host |
//! | [`shape`] | how fast an interface may be |
//! | [`services`] | DHCP and DNS |
//! | [`state`] | what is connected, in memory and in files |
//! | [`trial`] | what this kernel can do, for the doctor |
//!
//! Each call runs to its end as a task of its own, also if the caller drops it half way. Calls for one instance take turns; attaching and
//! detaching go on side by side, and wait only while their network as a whole is changed. What a killed process leaves is named by its
//! state files, and the next call for it finishes or undoes it.

mod beside;
mod bridges;
mod carrier;
mod conntrack;
mod mac;
mod members;
mod namespace;
mod netlink;
mod nft;
mod ports;
mod rules;
mod services;
mod shape;
mod state;
mod sweep;
mod tap;
pub(crate) mod trial;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::net::TcpStream;
use yun_drivers::{Attachment, DriverError, ErrorKind, NetworkDriver, Result};
use yun_types::{DesiredNetwork, DriverFacts, InstanceId, InstanceKind, NetworkId, Nic};

use crate::host::Host;
pub(crate) use namespace::Namespace;
pub(crate) use ports::who_serves;
use rules::NetworkRules;
use services::{Services, upstream::Upstream};
use state::Book;

pub use services::upstream::Resolvers;

/// What can be chosen about networks on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Who is asked for names that are not ours.
    pub resolvers: Resolvers,
    /// How long [`NetworkDriver::dial`] tries.
    pub dial_limit: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { resolvers: Resolvers::default(), dial_limit: Duration::from_secs(5) }
    }
}

/// The networks of one cloud on this node. Cheap to clone; clones are the same driver.
#[derive(Debug, Clone)]
pub struct LinuxNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    options: NetworkOptions,
    boot: String,
    book: Mutex<Book>,
    nft: nft::Nft,
    beside: beside::Beside,
    ports: ports::Ports,
    upstream: Arc<Upstream>,
    services: Mutex<BTreeMap<NetworkId, Services>>,
    /// Who is in several networks, for the names of all of them.
    kin: Arc<services::kin::Kin>,
    /// The tables that this process has put into the kernel.
    applied: Mutex<BTreeMap<NetworkId, NetworkRules>>,
    network_turns: Turns<NetworkId>,
    instance_turns: Turns<InstanceId>,
}

impl LinuxNetwork {
    /// Takes up what earlier processes wrote down. Touches nothing.
    pub fn new(host: Host, options: NetworkOptions) -> Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| DriverError::io("read which boot of the host this is", e))?
            .trim()
            .to_owned();
        let book = Book::open(host.run().join("net"), &boot)?;
        let upstream = Arc::new(Upstream::new(options.resolvers.clone()));
        let inner = Inner {
            host,
            options,
            boot,
            book: Mutex::new(book),
            nft: nft::Nft::default(),
            beside: beside::Beside::default(),
            ports: ports::Ports::default(),
            upstream,
            services: Mutex::default(),
            kin: Arc::default(),
            applied: Mutex::default(),
            network_turns: Turns::default(),
            instance_turns: Turns::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Removes every bridge, tap, cable, namespace, table and file of this cloud on this node.
    pub async fn remove_all(&self) -> Result<()> {
        self.own(sweep::remove_all).await
    }

    /// The instances that are attached now: what is in no ledger should be detached.
    pub fn attached(&self) -> Vec<InstanceId> {
        let all: BTreeSet<InstanceId> = self.inner.book().members.keys().map(|(instance, _)| *instance).collect();
        all.into_iter().collect()
    }

    /// The networks that have a bridge now: what nothing needs should be removed.
    pub fn networks(&self) -> Vec<NetworkId> {
        self.inner.book().networks.keys().copied().collect()
    }

    /// The tasks that run for networks, by name.
    pub fn tasks(&self) -> Vec<String> {
        lock(&self.inner.services).values().flat_map(|s| s.tasks().map(str::to_owned)).collect()
    }

    /// Runs work to its end, whatever becomes of the caller.
    async fn own<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T> {
        tokio::spawn(work(self.inner.clone())).await.unwrap_or_else(|e| {
            Err(DriverError::new(
                ErrorKind::Internal,
                "HostError",
                format!("the work on the network ended early: {e}; try again"),
            ))
        })
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// What is written on links that are ours.
    fn alias(&self, kind: &str, id: impl fmt::Display) -> String {
        format!("{}{kind} {id}", self.alias_prefix())
    }

    /// What is written on the links of an attachment.
    fn member_alias(&self, instance: InstanceId, index: u32) -> String {
        let alias = self.alias("instance", instance);
        if index == 0 { alias } else { format!("{alias} interface {index}") }
    }

    fn alias_prefix(&self) -> String {
        format!("yun {} ", self.host.cloud())
    }
}

#[async_trait]
impl NetworkDriver for LinuxNetwork {
    async fn probe(&self) -> Result<DriverFacts> {
        self.own(sweep::probe).await
    }

    async fn taken_ranges(&self) -> Result<Vec<Ipv4Net>> {
        self.own(taken_ranges).await
    }

    async fn ensure(&self, network: &DesiredNetwork) -> Result<()> {
        let network = network.clone();
        self.own(|inner| bridges::ensure(inner, network)).await
    }

    async fn remove(&self, network: NetworkId) -> Result<()> {
        self.own(move |inner| bridges::remove(inner, network)).await
    }

    async fn attach(&self, instance: InstanceId, kind: InstanceKind, nic: &Nic) -> Result<Attachment> {
        let nic = nic.clone();
        self.own(move |inner| members::attach(inner, instance, kind, nic, members::Taken::Refuse)).await
    }

    async fn recover(&self, attachment: &Attachment) -> Result<()> {
        let attachment = attachment.clone();
        self.own(|inner| members::recover(inner, attachment)).await
    }

    async fn detach_from(&self, instance: InstanceId, network: NetworkId) -> Result<()> {
        self.own(move |inner| members::detach_from(inner, (instance, network))).await
    }

    async fn detach(&self, instance: InstanceId) -> Result<()> {
        self.own(move |inner| members::detach(inner, instance)).await
    }

    async fn dial(&self, instance: InstanceId, port: u16) -> Result<TcpStream> {
        let (name, address) = {
            let book = self.inner.book();
            let member = book.of(instance).into_iter().next().ok_or_else(|| {
                let message = format!("cannot connect to port {port} of instance {instance}: it is not attached to a network here; start it first");
                DriverError::new(ErrorKind::NotFound, "NotAttached", message)
            })?;
            (book.name_of(instance), member.attachment.nic.address)
        };
        let limit = self.inner.options.dial_limit;
        let failed = |kind, reason, why: &str| {
            DriverError::new(kind, reason, format!("cannot connect to port {port} of {name} ({address}): {why}"))
        };
        match tokio::time::timeout(limit, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                // A container's own loopback is reached too.
                let inside = namespace::Namespace::file(&self.inner.host, instance);
                if let Some(Ok(stream)) = namespace::connect_inside(inside, port, limit).await {
                    return TcpStream::from_std(stream).map_err(|e| DriverError::io("take a connection over", e));
                }
                let why = "nothing listens there; check that the program inside runs and listens on all addresses, not only on 127.0.0.1";
                Err(failed(ErrorKind::Unavailable, "ConnectionRefused", why).with(e))
            }
            Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                Err(failed(
                    ErrorKind::Unavailable,
                    "NoRoute",
                    "it does not answer in its network; check that it runs and has its address",
                )
                .with(e))
            }
            Ok(Err(e)) => Err(failed(ErrorKind::Internal, "ConnectFailed", &e.to_string()).with(e)),
            Err(_) => Err(failed(
                ErrorKind::Timeout,
                "ConnectTimeout",
                &format!("no answer within {limit:?}; check that it has started and its firewall"),
            )),
        }
    }
}

/// Ranges of the host's addresses and routes, without those of our own bridges, and its resolvers: a network there would hide them.
async fn taken_ranges(inner: Arc<Inner>) -> Result<Vec<Ipv4Net>> {
    let ours = inner.alias_prefix();
    let upstream = inner.upstream.clone();
    blocking("read the host's addresses and routes", move || {
        let own: BTreeSet<u32> = netlink::links()?
            .into_iter()
            .filter(|l| l.alias.as_ref().is_some_and(|a| a.starts_with(&ours)))
            .map(|l| l.index)
            .collect();
        let mut taken = BTreeSet::new();
        taken.extend(
            netlink::addresses()?.into_iter().filter(|(link, _)| !own.contains(link)).map(|(_, net)| net.trunc()),
        );
        let routes = netlink::routes()?.into_iter().filter(|(link, _)| !link.is_some_and(|l| own.contains(&l)));
        taken.extend(routes.map(|(_, net)| net).filter(|net| net.prefix_len() > 0));
        let resolvers = upstream.resolvers();
        taken.extend(
            resolvers.iter().filter_map(|r| if let IpAddr::V4(ip) = r.ip() { Some(Ipv4Net::from(ip)) } else { None }),
        );
        Ok(Ipv4Net::aggregate(&taken.into_iter().collect()))
    })
    .await
}

/// Work that waits in the kernel, on a thread where that harms nobody.
async fn blocking<T: Send + 'static>(
    operation: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    result.map_err(|e| DriverError::io(operation, e))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lock for each key, made when it is first asked for and forgotten when nobody holds or awaits it.
#[derive(Debug)]
struct Turns<K> {
    locks: Mutex<BTreeMap<K, Arc<tokio::sync::RwLock<()>>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Ord + Copy> Turns<K> {
    fn of(&self, key: K) -> Arc<tokio::sync::RwLock<()>> {
        let mut locks = lock(&self.locks);
        // A lock that only this map knows is free.
        locks.retain(|k, l| *k == key || Arc::strong_count(l) > 1);
        locks.entry(key).or_default().clone()
    }

    /// Waits until nobody else has this key.
    async fn alone(&self, key: K) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        self.of(key).write_owned().await
    }

    /// Waits until nobody has this key alone.
    async fn shared(&self, key: K) -> tokio::sync::OwnedRwLockReadGuard<()> {
        self.of(key).read_owned().await
    }
}
