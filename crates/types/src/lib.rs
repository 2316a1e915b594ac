//! The nouns of yun: typed ids, names, units, and the objects that users and nodes exchange.
//!
//! Every value is checked when it is built *and* when it is decoded, so a bad value cannot exist further in. This crate decides nothing
//! and does no I/O: placement, quotas and state machines live elsewhere. The words are those of the glossary in `docs/ARCHITECTURE.md`.
//!
//! Every object has the same shape: [`Metadata`], a `spec` (wanted; users write it) and a `status` (observed; only the system writes it).

mod desired;
mod event;
mod explain;
mod group;
mod health;
mod id;
mod image;
mod instance;
mod io;
mod meta;
mod name;
mod network;
mod node;
mod operation;
mod pool;
mod ports;
mod project;
mod reference;
mod security;
mod size;
mod snapshot;
mod span;
mod ssh_key;
mod stdin;
mod token;
mod unit;
mod usage;
mod volume;

pub use desired::*;
pub use event::*;
pub use explain::*;
pub use group::*;
pub use health::*;
pub use id::*;
pub use image::*;
pub use instance::*;
pub use io::*;
pub use meta::*;
pub use name::*;
pub use network::*;
pub use node::*;
pub use operation::*;
pub use pool::*;
pub use ports::*;
pub use project::*;
pub use reference::*;
pub use security::*;
pub use size::*;
pub use snapshot::*;
pub use span::*;
pub use ssh_key::*;
pub use stdin::*;
pub use token::*;
pub use unit::*;
pub use usage::*;
pub use volume::*;

/// Why a value was refused. The text names the field, says what is wrong and shows a right value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// Builds a refusal from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Implements `Serialize`, `Deserialize` and `JsonSchema` as a string through `Display` and `FromStr`, so that decoding validates.
macro_rules! string_serde {
    ($type:ty, $name:literal, $description:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> String {
                $name.to_owned()
            }
            fn json_schema(_: &mut schemars::r#gen::SchemaGenerator) -> schemars::schema::Schema {
                schemars::schema::SchemaObject {
                    instance_type: Some(schemars::schema::InstanceType::String.into()),
                    metadata: Some(Box::new(schemars::schema::Metadata {
                        description: Some($description.to_owned()),
                        ..Default::default()
                    })),
                    ..Default::default()
                }
                .into()
            }
        }
    };
}
pub(crate) use string_serde;
