//! Groups: so many like instances, kept alive, spread over nodes, and changed a few at a time.
//!
//! Words: a group has *slots* 1 to `replicas`; the instance in slot 2 of group `web` is `web-2`. A *revision* is what instances are made from: it is
//! new whenever the template changes. A *rollout* replaces the instances of older revisions by those of the newest one. An instance is *ready*
//! when it runs and its health check, if it has one, says healthy; it is *available* when it has been running for `min_ready_seconds` too. A
//! revision is *good* once every slot of it was available.
//!
//! ```text
//!            every slot is available
//!  updating ─────────────────────────▶ ready ◀──▶ degraded (an instance is not available), scaling (slots come or go)
//!     │  ▲ │ pause ⇄ resume: paused
//!     │  └─┘
//!     │ deadline, or instances that end again and again
//!     ├──────────▶ rolling_back ──▶ rolled_back        (there is a good revision to go back to)
//!     └──────────▶ failed                              (there is none, or `rollback` is off)
//!  any ──▶ deleting ──▶ (gone)
//! ```

use crate::{Generation, InstanceSpec, InstanceState, Labels, Metadata, Name, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};
use uuid::Uuid;

/// What the instances of a group are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceTemplate {
    /// Their labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What is wanted of each.
    pub spec: InstanceSpec,
}

/// How a new revision replaces an old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdatePolicy {
    /// So many of `replicas` may be missing meanwhile.
    #[serde(default)]
    pub max_unavailable: u32,
    /// So many beside `replicas` may be there meanwhile.
    #[serde(default = "UpdatePolicy::default_surge")]
    pub max_surge: u32,
    /// An instance counts once it has been running for so long; 1 if absent, so that one that ends at once never counts.
    #[serde(default = "UpdatePolicy::default_min_ready")]
    pub min_ready_seconds: u32,
    /// A rollout that does not get on for so long has failed.
    #[serde(default = "UpdatePolicy::default_deadline")]
    pub deadline_seconds: u32,
    /// Whether a rollout that has failed is followed by one back to the last good revision.
    #[serde(default = "UpdatePolicy::default_rollback")]
    pub rollback: bool,
}

impl UpdatePolicy {
    fn default_surge() -> u32 {
        1
    }
    fn default_min_ready() -> u32 {
        1
    }
    fn default_deadline() -> u32 {
        600
    }
    fn default_rollback() -> bool {
        true
    }
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            max_unavailable: 0,
            max_surge: Self::default_surge(),
            min_ready_seconds: Self::default_min_ready(),
            deadline_seconds: Self::default_deadline(),
            rollback: Self::default_rollback(),
        }
    }
}

/// What users write about a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// How many.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Of what.
    pub template: InstanceTemplate,
    /// How they are changed.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Stops a rollout where it is.
    #[serde(default)]
    pub paused: bool,
    /// Raised by one to replace every instance by a new one of the same template: a restart, or another try after a rollback.
    #[serde(default)]
    pub round: u64,
}

fn one() -> u32 {
    1
}

/// What the instances of a group were made from at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupRevision {
    /// Its number: the first is 1.
    pub number: u64,
    /// When it was first wanted.
    pub created: Timestamp,
    /// The value of `spec.round` then.
    #[serde(default)]
    pub round: u64,
    /// What they are made from.
    pub template: InstanceTemplate,
    /// Whether every slot of it was available once.
    #[serde(default)]
    pub good: bool,
    /// Why its rollout failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// To which revision.
    pub revision: u64,
    /// Since when.
    pub started: Timestamp,
    /// When it last got on.
    pub progressed: Timestamp,
    /// How many instances of that revision were available then.
    pub available: u32,
}

/// Where a group is. The diagram stands at the top of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// A rollout is under way.
    #[default]
    Updating,
    /// As wanted.
    Ready,
    /// Slots come or go.
    Scaling,
    /// An instance is not available.
    Degraded,
    /// A rollout waits for people.
    Paused,
    /// Going back to the last good revision.
    RollingBack,
    /// Back at the last good revision: the wanted one has failed.
    RolledBack,
    /// The wanted revision has failed, and nothing is done about it.
    Failed,
    /// Everything it owns is being removed.
    Deleting,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Updating => "updating",
            Self::Ready => "ready",
            Self::Scaling => "scaling",
            Self::Degraded => "degraded",
            Self::Paused => "paused",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        })
    }
}

/// What the system observed of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct GroupStatus {
    /// The generation of `spec` that this status is about.
    pub observed_generation: Generation,
    /// Where it is.
    pub state: GroupState,
    /// Why, for people, with the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many instances there are, without those that leave.
    pub instances: u32,
    /// How many of them are of the revision that is wanted.
    pub updated: u32,
    /// How many are ready.
    pub ready: u32,
    /// How many are available.
    pub available: u32,
    /// The revision that `spec` asks for.
    pub revision: u64,
    /// The last good revision; 0 if none was good yet.
    #[serde(default)]
    pub stable: u64,
    /// The rollout that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The last revisions, oldest first.
    #[serde(default)]
    pub revisions: Vec<GroupRevision>,
}

/// So many like instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: GroupSpec,
    /// Observed.
    #[serde(default)]
    pub status: GroupStatus,
}

/// What ties an instance to its group. Written by the system at creation, and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupMember {
    /// The group's id.
    pub id: Uuid,
    /// The group's name.
    pub name: Name,
    /// Its slot.
    pub slot: u32,
    /// The revision it was made from.
    pub revision: u64,
}

/// One instance of a group, as an explanation shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedMember {
    /// The instance.
    pub name: Name,
    /// Its slot.
    pub slot: u32,
    /// Its revision.
    pub revision: u64,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Whether it counts, and why not.
    pub standing: String,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// Why a group is as it is, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupExplanation {
    /// Where it is.
    pub state: GroupState,
    /// One sentence for people.
    pub summary: String,
    /// What is done next, or waited for, and why.
    #[serde(default)]
    pub steps: Vec<String>,
    /// Its instances.
    #[serde(default)]
    pub members: Vec<ExplainedMember>,
}
