//! Nodes: the machines of the pool.

use crate::{Arch, Bytes, Cpu, Metadata, Size, Timestamp};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How VMs run on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor, through KVM; proved by booting a guest.
    Kvm,
    /// By emulation: works everywhere, an order of magnitude slower.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// How the node's kernel limits processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What one driver can do on a node now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriverFacts {
    /// `vm`, `container`, `network` or `image`.
    pub driver: String,
    /// Whether it works.
    pub ready: bool,
    /// The engine and its version: `QEMU 10.0.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// VMs: how they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<Accel>,
    /// Why it does not work, or works slower than it could, and the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a node found out about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeFacts {
    /// The host's name.
    pub hostname: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's architecture.
    pub arch: Arch,
    /// The processor's name.
    pub cpu_model: String,
    /// What it lends to the pool: the machine less what the host keeps. A full disk lends nothing.
    #[serde(deserialize_with = "crate::size::there")]
    pub capacity: Size,
    /// What the machine has.
    #[serde(deserialize_with = "crate::size::there")]
    pub total: Size,
    /// How the kernel limits processes.
    pub cgroup: CgroupVersion,
    /// Changes with each boot of the machine.
    pub boot_id: String,
    /// Address ranges in use around the node: no network may take them.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub taken_ranges: Vec<Ipv4Net>,
    /// What each driver can do.
    pub drivers: Vec<DriverFacts>,
}

/// What is used on a node now, measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NodeUsage {
    /// Busy CPU.
    pub cpu: Cpu,
    /// Memory that cannot be taken back.
    pub memory: Bytes,
    /// Disk under yun's root that is taken.
    pub disk: Bytes,
    /// Disk that is still free.
    pub disk_free: Bytes,
}

/// What is wanted of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// No new instance is placed here.
    #[serde(default)]
    pub cordoned: bool,
}

/// Whether a node can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    #[default]
    Ready,
    /// It has been silent for too long.
    Lost,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Lost => "lost",
        })
    }
}

/// What is promised on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Reserved {
    /// CPU promised to instances.
    pub cpu: Cpu,
    /// Memory promised.
    pub memory: Bytes,
    /// Disk promised.
    pub disk: Bytes,
    /// How many instances were placed.
    pub instances: u32,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Whether it answers.
    pub state: NodeState,
    /// What it found out about itself.
    pub facts: NodeFacts,
    /// What is promised on it.
    #[serde(default)]
    pub reserved: Reserved,
    /// What is used on it.
    #[serde(default)]
    pub used: NodeUsage,
    /// When it was last heard of.
    pub seen: Timestamp,
}

/// A machine of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Observed.
    pub status: NodeStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_full_disk_is_still_read() {
        let nothing = serde_json::json!({ "cpu": "2", "memory": "1Gi", "disk": "0" });
        let facts = serde_json::json!({
            "hostname": "n", "os": "Debian", "kernel": "6", "arch": "amd64", "cpu_model": "x", "capacity": nothing, "total": nothing,
            "cgroup": "v1", "boot_id": "b", "drivers": [],
        });
        let facts: NodeFacts = serde_json::from_value(facts).unwrap();
        assert_eq!(facts.capacity, Size { cpu: Cpu(2000), memory: Bytes::gib(1), disk: Bytes(0) });
        assert_eq!(serde_json::from_value::<NodeFacts>(serde_json::to_value(&facts).unwrap()).unwrap(), facts);
    }
}
