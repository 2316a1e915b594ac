//! What is used, now and over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;
use yun_types::{InstanceKind, InstanceState, Metric, Name, NodeState, Size, Timestamp};

/// Whose use is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct UsageQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Every project that the caller may see.
    #[serde(default)]
    pub all_projects: Option<bool>,
}

/// Which time is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct HistoryQuery {
    /// The project; `default` if absent. Ignored for nodes.
    pub project: Option<Name>,
    /// The beginning; an hour before the end if absent. A month is kept.
    pub since: Option<Timestamp>,
    /// The end; now if absent.
    pub until: Option<Timestamp>,
    /// Seconds in one point; a hundredth of the time, and 5 at least, if absent.
    pub step: Option<u32>,
    /// Only these metrics, as in `cpu,memory`; all if absent.
    pub metrics: Option<String>,
}

/// What an instance uses now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUsage {
    /// Its name.
    pub name: Name,
    /// Its project.
    pub project: Name,
    /// Its id.
    pub id: Uuid,
    /// VM or container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<InstanceKind>,
    /// Where it is in its life.
    pub state: InstanceState,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// What it was promised.
    pub size: Size,
    /// When it was measured; absent if it was not, or does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What it uses, by metric: cores, bytes, bytes a second …
    pub used: BTreeMap<String, f64>,
}

/// What a node uses now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeUsageNow {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: Uuid,
    /// Whether it answers.
    pub state: NodeState,
    /// What the machine has.
    pub total: Size,
    /// When it was measured; absent if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What it uses, by metric: cores, bytes, bytes a second …
    pub used: BTreeMap<String, f64>,
}

/// How something was used over a span of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageHistory {
    /// Of what.
    pub name: Name,
    /// The beginning.
    pub since: Timestamp,
    /// The end.
    pub until: Timestamp,
    /// Seconds in one point.
    pub step: u32,
    /// A line each metric that was measured.
    pub lines: Vec<UsageLine>,
}

/// One metric over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageLine {
    /// Which.
    pub metric: Metric,
    /// What its numbers are: `cores`, `bytes`, `bytes/s` …
    pub unit: String,
    /// Points in which something was measured.
    pub points: Vec<UsagePoint>,
}

/// One point of a line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsagePoint {
    /// Its beginning.
    pub at: Timestamp,
    /// The average.
    pub avg: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}
