//! The registry of typed ids: one line a kind, in alphabetical order. Ids are UUIDs; a kind cannot be passed where another is meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The first eight hexadecimal digits of the random half: short enough for interface names, read by people in logs.
            pub fn short(&self) -> String {
                let hex = self.0.simple().to_string();
                hex[24..].to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )*};
}

ids! {
    /// One installation of yun.
    CloudId,
    /// Like instances that are kept alive.
    GroupId,
    /// An image in the cloud's catalogue (its content is named by a [`crate::Digest`]).
    ImageId,
    /// A VM or a container.
    InstanceId,
    /// A project's network.
    NetworkId,
    /// A machine that lends resources to the pool.
    NodeId,
    /// A long piece of work that can be waited for, followed and cancelled.
    OperationId,
    /// A tenant.
    ProjectId,
    /// A snapshot of an instance.
    SnapshotId,
    /// An API token.
    TokenId,
    /// A volume of a project.
    VolumeId,
}
