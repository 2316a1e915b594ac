//! Networks: each project has at least one, set apart from all others.

use crate::{BitRate, Metadata, Name, NetworkId};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What is wanted of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The addresses it owns, as in `10.77.3.0/24`; its gateway has the first, `.1`.
    #[schemars(with = "String")]
    pub cidr: Ipv4Net,
    /// The largest packet.
    pub mtu: u16,
    /// No way out of it, and none in: its instances reach each other and nobody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
}

impl NetworkSpec {
    /// What Ethernet carries.
    pub const MTU: u16 = 1500;

    /// A network with a way out, for packets as Ethernet carries them.
    pub fn new(cidr: Ipv4Net) -> Self {
        Self { cidr, mtu: Self::MTU, isolated: false }
    }

    /// The address of the node in this network: router, DHCP and DNS server.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + 1)
    }
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// How many instances have an address in it.
    pub addresses_used: u32,
    /// How many could.
    pub addresses_total: u32,
    /// Who is in it. Filled in when it is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<NetworkUser>,
}

/// An instance in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkUser {
    /// Its name.
    pub instance: Name,
    /// Its id.
    pub id: uuid::Uuid,
    /// Its address there; absent until it has a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its hardware address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A project's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: NetworkSpec,
    /// Observed.
    #[serde(default)]
    pub status: NetworkStatus,
}

/// The label of more names by which an instance is found in its network, with commas between them.
pub const ALIASES: &str = "yun.aliases";

/// A network that an instance is in, as users write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkMembership {
    /// The network's name in the project.
    pub network: Name,
    /// The address to have there; the lowest free one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// More names by which others in this network find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// The most that it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BitRate>,
    /// The most that it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BitRate>,
}

impl NetworkMembership {
    /// In a network, with nothing special asked for.
    pub fn of(network: Name) -> Self {
        Self { network, address: None, aliases: Vec::new(), egress: None, ingress: None }
    }
}

/// An interface that an instance has, with what was decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// The network's name.
    pub network: Name,
    /// The network.
    pub network_id: NetworkId,
    /// Its number among the instance's interfaces: containers know it as `eth` and this number.
    pub index: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: String,
}

/// The domain in which an instance is found: `web.default.yun`.
pub fn instance_domain(instance: &Name, project: &Name) -> String {
    format!("{instance}.{project}.yun")
}
