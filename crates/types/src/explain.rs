//! Explanations: every decision of the scheduler says why, in data.

use crate::{InstanceState, Name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One summand of a node's score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreTerm {
    /// What was scored: `memory fit`, `cpu fit`, `spread` …
    pub name: String,
    /// Its part of the score; more is better.
    pub value: i64,
}

/// A node that could have taken the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScoredNode {
    /// The node.
    pub node: Name,
    /// The sum of the terms.
    pub score: i64,
    /// The terms.
    pub terms: Vec<ScoreTerm>,
}

/// Nodes that could not, by one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilteredNodes {
    /// The rule: `memory`, `cpu`, `disk`, `cordoned`, `lost`, `not asked for`, `no driver` …
    pub rule: String,
    /// How many nodes.
    pub nodes: u32,
    /// The rule with numbers, for people: `short of 2 GiB memory`.
    pub detail: String,
}

/// Why an instance is where it is, or waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Where it is in its life.
    pub state: InstanceState,
    /// One sentence for people.
    pub summary: String,
    /// How many nodes were looked at.
    pub nodes: u32,
    /// Which of them could not take it, and why.
    #[serde(default)]
    pub filtered: Vec<FilteredNodes>,
    /// Placed: the winner first, then up to two runners-up.
    #[serde(default)]
    pub candidates: Vec<ScoredNode>,
    /// Waiting: the node that is closest to having room, and what it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// Waiting: what would help.
    #[serde(default)]
    pub unblock: Vec<String>,
}
