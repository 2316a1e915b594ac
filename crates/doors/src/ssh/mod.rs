//! The SSH gateway: `ssh web.default@HOST -p 7422` is a shell in an instance, for the `ssh`, `scp` and `sftp` that people have.
//!
//! Words: a *guest* is somebody who proved to hold a key of a project; a *target* is what their user name says,
//! `[USER+]INSTANCE[.PROJECT]`. Before somebody is a guest they learn nothing: an unknown key, project and instance are refused alike.
//!
//! In a container the gateway runs processes as `yun exec` does; to a VM it is a client of the guest's own SSH server. Either way it calls
//! the API over loopback HTTPS with a token that has the role of the guest's key and ends with the connection: one place checks roles and
//! writes the audit journal. Nothing that runs in an instance depends on the gateway; sessions end with it.

mod cloud;
mod connection;
mod cut;
mod forward;
mod inlet;
mod process;
mod server;
mod signals;
mod target;
mod vm;

pub use server::{SshDoor, bind};

use futures::future::BoxFuture;
use rand::TryRngCore;
use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use std::{fmt, net::IpAddr, sync::Arc};
use yun_api::client::Client;
use yun_engine::clock::Clock;
use yun_types::{InstanceId, Name, Role};

/// What the gateway works with.
pub struct SshConfig {
    /// The private key by which clients know it.
    pub host_key: String,
    /// The private key by which it enters VMs.
    pub client_key: String,
    /// Who is let in.
    pub gate: Arc<dyn Gate>,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for SshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshConfig").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// What the gateway asks about keys.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// Whether the project has a key with this fingerprint. It is not yet proved that the client holds it.
    fn is_known(&self, project: &Name, fingerprint: &str) -> bool;
    /// Lets in who proved to hold the key. `None` if the project has no such key.
    fn admit(&self, project: &Name, fingerprint: &str, from: IpAddr) -> Option<Guest>;
    /// The key that the SSH server of a VM showed when it was first met.
    fn guest_key(&self, instance: InstanceId) -> BoxFuture<'_, Result<Option<String>, String>>;
    /// Remembers it.
    fn keep_guest_key(&self, instance: InstanceId, public_key: String) -> BoxFuture<'_, Result<(), String>>;
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The name of their key.
    pub key: Name,
    /// What the key opens.
    pub role: Role,
    /// The cloud as they see it.
    pub client: Client,
    /// Whether they may stay.
    pub stay: Arc<dyn Stay>,
}

/// Asked now and then, and before anything new is opened.
pub trait Stay: fmt::Debug + Send + Sync + 'static {
    /// False once the key was removed.
    fn holds(&self) -> bool;
}

/// A fresh private key, in OpenSSH's form, and its public half in one line.
pub fn new_key(comment: &str) -> Result<(String, String), String> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed).map_err(|e| format!("the kernel gives no random bytes: {e}"))?;
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment(comment);
    let failed = |e: russh::keys::ssh_key::Error| format!("a key cannot be written: {e}");
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
    let public = key.public_key().to_openssh().map_err(failed)?;
    Ok((private.to_string(), public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_differ_and_can_be_read() {
        let ((one, public), (two, _)) = (new_key("yun").unwrap(), new_key("yun").unwrap());
        assert_ne!(one, two);
        let read = PrivateKey::from_openssh(&one).unwrap();
        assert_eq!(read.public_key().to_openssh().unwrap(), public);
        assert!(public.parse::<yun_types::PublicKey>().is_ok() && public.ends_with(" yun"), "{public}");
    }
}
