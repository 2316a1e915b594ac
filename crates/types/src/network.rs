//! Networks: each project has one, set apart from all others.

use crate::{Metadata, Name};
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
}

impl NetworkSpec {
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

/// The domain in which an instance is found: `web.default.yun`.
pub fn instance_domain(instance: &Name, project: &Name) -> String {
    format!("{instance}.{project}.yun")
}
