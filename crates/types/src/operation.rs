//! Operations: long work that can be waited for, followed and cancelled.

use crate::{Metadata, ObjectRef, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Place, prepare and start a new instance.
    InstanceLaunch,
    /// Start.
    InstanceStart,
    /// Stop.
    InstanceStop,
    /// Restart.
    InstanceRestart,
    /// Pause.
    InstancePause,
    /// Resume.
    InstanceResume,
    /// Bring to a changed spec.
    InstanceUpdate,
    /// Delete.
    InstanceDelete,
    /// Bring back to a snapshot.
    InstanceRestore,
    /// Save to disk with its memory, and end.
    InstanceHibernate,
    /// Take a snapshot.
    SnapshotCreate,
    /// Remove a snapshot.
    SnapshotDelete,
    /// Take an image in.
    ImageImport,
    /// Make an image from packages.
    ImageBuild,
    /// Fetch an image from a registry.
    ImagePull,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InstanceLaunch => "launch",
            Self::InstanceStart => "start",
            Self::InstanceStop => "stop",
            Self::InstanceRestart => "restart",
            Self::InstancePause => "pause",
            Self::InstanceResume => "resume",
            Self::InstanceUpdate => "update",
            Self::InstanceDelete => "delete",
            Self::InstanceRestore => "restore",
            Self::InstanceHibernate => "hibernation",
            Self::SnapshotCreate => "creation",
            Self::SnapshotDelete => "deletion",
            Self::ImageImport => "import",
            Self::ImageBuild => "build",
            Self::ImagePull => "pull",
        })
    }
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// Under way.
    #[default]
    Running,
    /// Done.
    Succeeded,
    /// Could not be done; `error` says why.
    Failed,
    /// Taken back on request.
    Cancelled,
}

impl OperationState {
    /// True if it will not change any more.
    pub fn ended(self) -> bool {
        self != Self::Running
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// From 0 to 100, if the end is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// What is being done, for people.
    pub message: String,
}

/// Why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// One word for programs.
    pub code: String,
    /// For people: the object, the reason and the way out.
    pub message: String,
}

/// What is wanted of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationSpec {
    /// What it does.
    pub kind: OperationKind,
    /// To what.
    pub target: ObjectRef,
    /// Who asked: the token's name.
    pub by: String,
    /// Set when it should be taken back.
    #[serde(default)]
    pub cancel: bool,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct OperationStatus {
    /// Where it is.
    pub state: OperationState,
    /// How far it is.
    #[serde(default)]
    pub progress: Progress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Whether it can be cancelled now.
    #[serde(default)]
    pub cancellable: bool,
}

/// A long piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: OperationSpec,
    /// Observed.
    #[serde(default)]
    pub status: OperationStatus,
}
