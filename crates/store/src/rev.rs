//! Revisions: the order of all changes, and the token that callers keep to read or watch from there.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A revision. Written as `epoch.n`; callers outside this crate treat that text as opaque.
///
/// Ordered by epoch first: everything after a restore is later than everything before it, although `n` went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev {
    /// Which history: grows by one at each restore or change of engine.
    pub epoch: u32,
    /// Which change of that history: grows by one per writing transaction.
    pub n: u64,
}

impl Rev {
    /// The revision `n` of history `epoch`.
    pub const fn new(epoch: u32, n: u64) -> Self {
        Rev { epoch, n }
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// A text that is not a revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the revision {0:?}: use one exactly as an earlier answer gave it")]
pub struct BadRev(String);

impl FromStr for Rev {
    type Err = BadRev;

    /// Accepts only what `Display` writes, so that a token has one spelling.
    fn from_str(text: &str) -> Result<Self, BadRev> {
        let bad = || BadRev(text.chars().take(64).collect());
        let (epoch, n) = text.split_once('.').ok_or_else(bad)?;
        let rev = Rev { epoch: epoch.parse().map_err(|_| bad())?, n: n.parse().map_err(|_| bad())? };
        if rev.to_string() == text { Ok(rev) } else { Err(bad()) }
    }
}

impl Serialize for Rev {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rev {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
