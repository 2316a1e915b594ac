//! Events tell what happened to objects; audit records tell who changed what. Both are kept in journals, never in the state.

use crate::{Name, ObjectRef, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether an event asks for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    #[default]
    Normal,
    /// Worth a look.
    Warning,
}

/// Something happened to an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Grows by one with each event; the place to go on from.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// To what.
    pub object: ObjectRef,
    /// Whether it asks for attention.
    pub severity: Severity,
    /// One word for programs: `Started`, `OutOfMemory`, `NoRoom` …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Somebody asked for a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRecord {
    /// Grows by one with each record.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// The token's name, or `anonymous` for a refused request without one.
    pub by: String,
    /// Where the request came from.
    pub from: String,
    /// The API operation: `instance_create`.
    pub action: String,
    /// The project it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// The object it was about, as the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The request's id, as the answer and the log have it.
    pub request_id: String,
}
