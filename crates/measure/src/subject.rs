//! What is measured, with the words that questions name it by.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use yun_types::{InstanceKind, Name};

/// What a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// A machine of the pool.
    Node,
    /// A VM.
    Vm,
    /// A container.
    Container,
}

impl From<InstanceKind> for SubjectKind {
    fn from(kind: InstanceKind) -> Self {
        match kind {
            InstanceKind::Vm => Self::Vm,
            InstanceKind::Container => Self::Container,
        }
    }
}

/// Something that is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its id: names come round again, ids do not.
    pub id: Uuid,
    /// What it is.
    pub kind: SubjectKind,
    /// Its name.
    pub name: Name,
    /// Its project; nodes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// The node it is on, or is.
    pub node: Name,
}
