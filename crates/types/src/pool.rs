//! The pool as a whole: what there is, what is promised and used of it, and who holds how much.

use crate::{Name, NodeUsage, Reserved, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All machines together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    /// How many nodes answer.
    pub nodes: u32,
    /// How many do not: what they lend is not counted.
    pub lost: u32,
    /// What the nodes that answer lend.
    pub capacity: Size,
    /// What is promised on them.
    pub reserved: Reserved,
    /// What is used on them.
    pub used: NodeUsage,
    /// How many instances wait for room.
    pub waiting: u32,
    /// Who holds it, the largest share first.
    pub projects: Vec<PoolShare>,
}

/// What a project holds of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolShare {
    /// Which.
    pub project: Name,
    /// Its part against other projects that wait.
    pub weight: u32,
    /// What its placed instances and volumes were promised.
    pub reserved: Reserved,
    /// How many of its instances wait for room.
    pub waiting: u32,
    /// The dimension of which it holds the largest part: `cpu`, `memory` or `disk`.
    pub dominant: String,
    /// That part, from 0 to 1.
    pub share: f64,
}
