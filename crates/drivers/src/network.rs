//! Networks on a node: bridges, addresses, names, published ports, and the rules that keep projects apart.

use crate::Result;
use async_trait::async_trait;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, path::PathBuf};
use tokio::net::TcpStream;
use yun_types::{DesiredNetwork, DriverFacts, InstanceId, InstanceKind, NetworkId, Nic};

/// What an instance's driver connects to. Serialisable: it is kept in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which instance.
    pub instance: InstanceId,
    /// Which network.
    pub network: NetworkId,
    /// Its address and everything else that was decided.
    pub nic: Nic,
    /// The network's range.
    pub cidr: Ipv4Net,
    /// The router, DHCP and DNS server: this node.
    pub gateway: Ipv4Addr,
    /// The largest packet.
    pub mtu: u16,
    /// The host's end of the connection.
    pub port: Port,
}

/// The host's end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Port {
    /// VMs: a tap device for QEMU to open by name.
    Tap {
        /// Its name.
        interface: String,
    },
    /// Containers: a network namespace with a configured `eth0`, for the runtime to join.
    Namespace {
        /// The file that names it.
        path: PathBuf,
        /// The host's end of the cable.
        interface: String,
    },
}

/// Connects instances.
#[async_trait]
pub trait NetworkDriver: Send + Sync + 'static {
    /// What this node can do; removes leftovers that belong to this root and to no running instance.
    async fn probe(&self) -> Result<DriverFacts>;
    /// The address ranges that this host uses for other things.
    async fn taken_ranges(&self) -> Result<Vec<Ipv4Net>>;
    /// Brings the network to what is wanted: bridge, gateway address, way out, isolation, DHCP and DNS with exactly these records.
    /// Idempotent and atomic: packets of running connections are not lost by calling it again.
    async fn ensure(&self, network: &DesiredNetwork) -> Result<()>;
    /// Removes all traces of a network. Ok when nothing is there; `Conflict` while instances are attached.
    async fn remove(&self, network: NetworkId) -> Result<()>;
    /// Connects an instance to one network, beside others that it is in, and publishes its ports. The network must have been ensured. `Conflict`/`PortTaken` names who has a port.
    async fn attach(&self, instance: InstanceId, kind: InstanceKind, nic: &Nic) -> Result<Attachment>;
    /// Takes an attachment up again after a restart of this process: its rules, its names, its lease.
    async fn recover(&self, attachment: &Attachment) -> Result<()>;
    /// Disconnects an instance from one network. Ok when it is not in it.
    async fn detach_from(&self, instance: InstanceId, network: NetworkId) -> Result<()>;
    /// Disconnects an instance from all networks and removes all traces. Ok when nothing is there.
    async fn detach(&self, instance: InstanceId) -> Result<()>;
    /// Opens a TCP connection to a port of an attached instance.
    async fn dial(&self, instance: InstanceId, port: u16) -> Result<TcpStream>;
}
