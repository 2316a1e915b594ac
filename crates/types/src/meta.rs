//! What every object has in common.

use crate::{Invalid, Name, string_serde};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};
use uuid::Uuid;

/// A moment, in UTC. Always given as an argument; only `engine::clock` reads the real one.
pub type Timestamp = DateTime<Utc>;

/// Free words that users attach to objects.
pub type Labels = BTreeMap<String, String>;

/// Counts the changes of an object's `spec`. A status with an equal `observed_generation` has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity and history of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Stable for the object's whole life, and never used again.
    pub id: Uuid,
    /// Unique among the objects of one kind in the project.
    pub name: Name,
    /// The owner; absent for objects of the cloud itself (nodes, projects).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// Free words of the users.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
    /// Grows by one with each change of `spec`.
    pub generation: Generation,
    /// The state's revision at the last change of this object: an opaque token for `ETag`, `If-Match` and watches.
    #[serde(default)]
    pub revision: String,
    /// Set when deletion was asked for; the object goes away when everything it owns is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
}

/// The content of a blob, an image or a layer: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Box<str>);

impl Digest {
    /// From the 32 bytes that SHA-256 gives.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }
    /// The hexadecimal digits alone: a safe file name.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }
    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl FromStr for Digest {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(format!("sha256:{hex}").into()));
        }
        let shown: String = text.chars().take(90).collect();
        Err(Invalid(format!(
            "digest {shown:?} is not SHA-256: write sha256: and 64 lower-case hexadecimal digits, as sha256sum prints them"
        )))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

string_serde!(Digest, "Digest", "sha256: and 64 lower-case hexadecimal digits.");

/// Names an object in events, operations and the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// The noun.
    pub kind: ObjectKind,
    /// Its name when this was written.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Its owner, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The nouns that the API knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// The installation itself.
    Cloud,
    /// So many like instances.
    Group,
    /// What instances start from.
    Image,
    /// A VM or a container.
    Instance,
    /// A project's network.
    Network,
    /// A machine of the pool.
    Node,
    /// A long piece of work.
    Operation,
    /// A tenant.
    Project,
    /// The state of an instance at one moment.
    Snapshot,
    /// A key that opens a project's instances to SSH.
    SshKey,
    /// An API token.
    Token,
    /// Space for data.
    Volume,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cloud => "cloud",
            Self::Group => "group",
            Self::Image => "image",
            Self::Instance => "instance",
            Self::Network => "network",
            Self::Node => "node",
            Self::Operation => "operation",
            Self::Project => "project",
            Self::Snapshot => "snapshot",
            Self::SshKey => "ssh-key",
            Self::Token => "token",
            Self::Volume => "volume",
        })
    }
}
