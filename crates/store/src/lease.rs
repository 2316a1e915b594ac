//! Leases: keys that disappear together when their owner falls silent.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Name of a lease; never used twice, also not after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A granted lease. It ends not before `ttl` after the grant or the last keep-alive, and may last longer: a restart of the store gives
/// each lease its full time again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// Its time to live, counted from the last sign of life.
    pub ttl: Duration,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLeft {
    /// Its name.
    pub id: LeaseId,
    /// Its full time to live.
    pub ttl: Duration,
    /// What is left of it now.
    pub remaining: Duration,
    /// How many keys die with it.
    pub keys: usize,
}
