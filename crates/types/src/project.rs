//! Projects: the tenants.

use crate::{Bytes, Cpu, Metadata, Reserved};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most that a project may hold at once. What is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Number of instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
}

/// What is wanted of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The most it may hold.
    #[serde(default)]
    pub quota: Quota,
    /// Its part of the pool against other projects that wait for room; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

impl ProjectSpec {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 10_000;

    /// Its part against other projects.
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProjectStatus {
    /// What its instances were promised.
    pub reserved: Reserved,
}

/// A tenant: owns everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Project {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    #[serde(default)]
    pub spec: ProjectSpec,
    /// Observed.
    #[serde(default)]
    pub status: ProjectStatus,
}
