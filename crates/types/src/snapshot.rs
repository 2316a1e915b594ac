//! Snapshots of instances: a disk, and for VMs also the memory, as they were at one moment.
//!
//! A snapshot belongs to its instance: it lies on the same node, and goes away with it. Words: a *restore* brings the instance back to the
//! snapshot; a *template* is a snapshot that new instances are made from; where an instance's data came from beside its image is its *origin*.

use crate::{Bytes, InstanceId, Invalid, Metadata, Name, Size, SnapshotId, Timestamp, string_serde};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What users write about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// The instance's name.
    pub instance: Name,
    /// The instance.
    pub instance_id: InstanceId,
    /// Whether the memory of a running VM is kept too.
    #[serde(default)]
    pub memory: bool,
}

/// Where a snapshot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    /// Its node takes it.
    #[default]
    Creating,
    /// It can be restored and used as a template.
    Ready,
    /// It could not be taken; `message` says why. Nothing of it is left on the node.
    Failed,
    /// Its node removes it.
    Deleting,
}

impl fmt::Display for SnapshotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        })
    }
}

/// What a driver knows of a snapshot that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotFacts {
    /// The moment that it shows.
    pub taken: Timestamp,
    /// What it takes on the node's disk beside the instance's own.
    pub size: Bytes,
    /// Whether it holds the memory.
    pub memory: bool,
    /// Whether the guest wrote its caches out first (its agent froze its file systems), or did not run.
    #[serde(default)]
    pub consistent: bool,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotStatus {
    /// Where it is in its life.
    pub state: SnapshotState,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What its node says of it, once it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<SnapshotFacts>,
    /// The instance's size at that time: one that goes on with its memory needs the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_size: Option<Size>,
    /// The networks that the instance was in, in their order: one that goes on with its memory needs as many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Name>,
    /// The volumes that it had: their data are not in the snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Name>,
}

/// The state of an instance at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: SnapshotSpec,
    /// Observed.
    #[serde(default)]
    pub status: SnapshotStatus,
}

/// What a driver is told to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotOrder {
    /// Names it on the node.
    pub id: SnapshotId,
    /// What people call it.
    pub name: Name,
    /// Whether the memory is kept too.
    #[serde(default)]
    pub memory: bool,
}

/// A snapshot that a new instance is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Template {
    /// The instance that it was taken of.
    pub instance: InstanceId,
    /// Which.
    pub snapshot: SnapshotId,
    /// `INSTANCE/SNAPSHOT`, for people.
    pub name: String,
    /// Whether the new instance goes on with its memory; it boots if not.
    #[serde(default)]
    pub memory: bool,
    /// Whether the snapshot is taken for this alone, and goes away again: the new instance is a clone.
    #[serde(default)]
    pub live: bool,
}

/// A wish to bring an instance back to one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restore {
    /// Grows by one with each wish.
    pub count: u64,
    /// Which.
    pub snapshot: SnapshotId,
    /// What people call it.
    pub name: Name,
    /// Whether it goes on with its memory; it boots if not.
    #[serde(default)]
    pub memory: bool,
}

/// Where an instance's data come from beside its image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// The last wish to bring it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

impl Origin {
    /// True if there is only the image.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
    /// How many restores were wished for.
    pub fn restores(&self) -> u64 {
        self.restore.as_ref().map_or(0, |restore| restore.count)
    }
}

/// Names a snapshot as people do: `INSTANCE/SNAPSHOT`, or `SNAPSHOT` where only one instance of the project has one of that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotName {
    /// The instance, if it was said.
    pub instance: Option<Name>,
    /// The snapshot.
    pub snapshot: Name,
}

impl FromStr for SnapshotName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |e: Invalid| Invalid(format!("snapshot {text:?}: {e}; write INSTANCE/SNAPSHOT, as in web/before"));
        let (instance, snapshot) = match text.split_once('/') {
            Some((instance, snapshot)) => (Some(instance.parse().map_err(wrong)?), snapshot),
            None => (None, text),
        };
        Ok(Self { instance, snapshot: snapshot.parse().map_err(wrong)? })
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{instance}/{}", self.snapshot),
            None => self.snapshot.fmt(f),
        }
    }
}

string_serde!(SnapshotName, "SnapshotName", "INSTANCE/SNAPSHOT, or SNAPSHOT where that is clear.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_with_or_without_their_instance() {
        let name = |text: &str| text.parse::<SnapshotName>();
        assert_eq!(name("web/before").unwrap().instance.unwrap().as_str(), "web");
        assert_eq!(name("before").unwrap().to_string(), "before");
        assert_eq!(name("web/before").unwrap().to_string(), "web/before");
        for bad in ["", "/", "web/", "/x", "web/a/b", "Web/x"] {
            let why = name(bad).unwrap_err().to_string();
            assert!(why.contains("INSTANCE/SNAPSHOT"), "{bad}: {why}");
        }
    }

    #[test]
    fn an_origin_of_before_there_were_snapshots_is_empty() {
        let origin: Origin = serde_json::from_str("{}").unwrap();
        assert!(origin.is_default() && origin.restores() == 0);
    }
}
