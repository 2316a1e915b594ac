//! SSH keys: who may enter a project's instances through the SSH gateway, and who the gateway itself is.
//!
//! A key belongs to one project and opens every instance of it. The gateway asks for each login whether the key is there now, so that one that
//! was removed opens nothing any more. Private halves of users' keys are never here; the gateway's own are in one row.

pub(crate) mod door;
pub mod gateway;
pub mod ops;
#[cfg(test)]
mod tests;

pub use gateway::Gateway;

use crate::rows::SshKeyRow;
use yun_store::Row;
use yun_types::SshKey;

/// The key with its revision and fingerprint.
pub fn view(row: &Row<SshKeyRow>) -> SshKey {
    let mut key = row.value.0.clone();
    key.status.fingerprint = key.spec.public_key.fingerprint();
    key.metadata.revision = row.rev.to_string();
    key
}
