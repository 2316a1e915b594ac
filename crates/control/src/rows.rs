//! What the control plane keeps in the store: one row type a noun, in its first version.
//!
//! To change a shape, follow [`Stored`]: keep the old struct, raise the version, write `migrate`, and add the old bytes to `tests/stored`.

use serde::{Deserialize, Serialize};
use std::ops::{Deref, DerefMut};
use yun_store::{Never, Stored};
use yun_types::{
    Explanation, Group, Image, Instance, Network, Node, Operation, Project, Snapshot, SshKey, Timestamp, Token, Volume,
};

macro_rules! rows {
    ($($(#[$doc:meta])* $row:ident($noun:ty) in $table:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $row(pub $noun);

        impl Stored for $row {
            const TABLE: &'static str = $table;
            const VERSION: u32 = 1;
            type Previous = Never;
            fn migrate(previous: Never) -> Self {
                match previous {}
            }
        }
        impl Deref for $row {
            type Target = $noun;
            fn deref(&self) -> &$noun {
                &self.0
            }
        }
        impl DerefMut for $row {
            fn deref_mut(&mut self) -> &mut $noun {
                &mut self.0
            }
        }
    )*};
}

rows! {
    /// `groups/<project>/<name>`
    GroupRow(Group) in "groups";
    /// `images/<project>/<name>`
    ImageRow(Image) in "images";
    /// `instances/<project>/<name>`
    InstanceRow(Instance) in "instances";
    /// `networks/<project>/<name>`; every project has `default`.
    NetworkRow(Network) in "networks";
    /// `nodes/<name>`
    NodeRow(Node) in "nodes";
    /// `operations/<id>`; ids are of version 7, so the order of keys is that of time.
    OperationRow(Operation) in "operations";
    /// `projects/<name>`
    ProjectRow(Project) in "projects";
    /// `snapshots/<project>/<instance id>/<name>`
    SnapshotRow(Snapshot) in "snapshots";
    /// `ssh-keys/<project>/<name>`
    SshKeyRow(SshKey) in "ssh-keys";
    /// `ssh-gateway/identity`: the only one.
    GatewayRow(StoredGateway) in "ssh-gateway";
    /// `ssh-guests/<instance id>`: what the SSH server of a VM showed when it was first met.
    GuestKeyRow(StoredGuestKey) in "ssh-guests";
    /// `tokens/<name>`
    TokenRow(StoredToken) in "tokens";
    /// `volumes/<project>/<name>`
    VolumeRow(Volume) in "volumes";
    /// `explanations/<instance id>`: why a placed instance is where it is.
    ExplanationRow(Explanation) in "explanations";
    /// `idempotency/<token id>/<key>`
    IdempotencyRow(StoredAnswer) in "idempotency";
}

/// A token with the hash of its secret. The secret itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredToken {
    /// The token, as the API shows it.
    pub token: Token,
    /// SHA-256 of the secret, in hexadecimal. The secret has 256 random bits, so that a slow hash would add nothing.
    pub secret_sha256: String,
}

/// Who the SSH gateway is. Kept in the state, so that it is the same after a restart, and in backups.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGateway {
    /// The private key by which clients know it.
    pub host_key: String,
    /// The private key by which it enters VMs.
    pub client_key: String,
    /// The public half of that, which VMs get when they are made.
    pub client_public: String,
    /// VMs that were made before do not know it.
    pub created: Timestamp,
}

impl std::fmt::Debug for StoredGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredGateway").field("created", &self.created).finish_non_exhaustive()
    }
}

/// The host key of a VM's own SSH server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGuestKey {
    /// Its public half, as OpenSSH writes it.
    pub public_key: String,
    /// When it was first seen.
    pub at: Timestamp,
}

/// The answer to a request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// SHA-256 of the request (operation, path, project, body): the same key with another request is refused.
    pub request_sha256: String,
    /// When it was first asked; forgotten a day later.
    pub at: Timestamp,
    /// The id of what was created: the answer is the object or the operation with this id.
    pub created: uuid::Uuid,
}
