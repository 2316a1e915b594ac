//! The lines of NDJSON streams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use yun_types::{Group, Image, Instance, Network, Node, Operation, Project, Snapshot, Timestamp, Volume};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new, or was there when the stream began.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the object is as it last was.
    Deleted,
    /// Nothing changed up to this revision; there is no object.
    Bookmark,
}

/// An object of any kind that can be watched.
#[allow(clippy::large_enum_variant, reason = "lives for one line of a stream")]
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AnyObject {
    /// A group.
    Group(Group),
    /// An instance.
    Instance(Instance),
    /// An image.
    Image(Image),
    /// A network.
    Network(Network),
    /// A node.
    Node(Node),
    /// An operation.
    Operation(Operation),
    /// A project.
    Project(Project),
    /// A snapshot.
    Snapshot(Snapshot),
    /// A volume.
    Volume(Volume),
}

/// One line of `watch`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvent {
    /// What happened.
    pub change: Change,
    /// Go on after this one.
    pub revision: String,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<AnyObject>,
}

/// One line of `logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogRecord {
    /// When it was written; consoles do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// `stdout`, `stderr` or `console`.
    pub stream: String,
    /// The line, without its newline; bytes that are not UTF-8 are replaced.
    pub text: String,
}
