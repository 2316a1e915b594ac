//! What requests about snapshots carry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use yun_types::{Labels, Name, NameOrId, NetworkMembership, PublishedPort, Size};

/// A new snapshot.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// Its name: unique among those of the instance.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// Whether the memory of a running VM is kept too.
    #[serde(default)]
    pub memory: bool,
}

/// A new instance that begins with the disk of another one. What is left out is as the other one has it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceClone {
    /// The new one's name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// What it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The networks that it joins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkMembership>,
    /// Ports of the host that lead to it. Those of the other one stay with that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
}

/// Names a snapshot.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SnapshotPath {
    /// The instance's name or id.
    pub instance: NameOrId,
    /// The snapshot's name or id.
    pub snapshot: NameOrId,
}

/// How an instance is brought back.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct RestoreQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Leave the snapshot's memory alone: the instance boots from the snapshot's disk.
    #[serde(default)]
    pub disk_only: Option<bool>,
}
