//! The standard input of a container's main process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What becomes of a main process's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// It is empty.
    #[default]
    Closed,
    /// It stays open, whoever attaches and leaves.
    Open,
    /// It ends when somebody who is attached says so. With a terminal, the same as open.
    Once,
}

impl Stdin {
    /// True if there is none.
    pub fn is_closed(&self) -> bool {
        *self == Self::Closed
    }
}

impl fmt::Display for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Once => "once",
        })
    }
}
