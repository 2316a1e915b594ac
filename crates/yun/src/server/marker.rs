//! The file that says which process serves a root, and where it listens. It is a hint for `up`, `down` and `status`: the lock on the state,
//! not this file, keeps a second server away.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{fs, net::SocketAddr, path::PathBuf};
use yun_linux::{daemon::ProcessId, host::Host};

/// A server that runs, or ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// Its process.
    pub(crate) process: ProcessId,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where SSH clients are answered, if they are.
    #[serde(default)]
    pub(crate) ssh: Option<SocketAddr>,
    /// Its version.
    pub(crate) version: String,
    /// Whether this machine lends its pool what it has.
    #[serde(default)]
    pub(crate) joined: bool,
}

impl Marker {
    /// For this process.
    pub(crate) fn new(address: SocketAddr, ssh: Option<SocketAddr>) -> Result<Self> {
        let process = ProcessId::current().context("cannot read /proc/self: is /proc mounted?")?;
        Ok(Self { process, address, ssh, version: env!("CARGO_PKG_VERSION").to_owned(), joined: false })
    }

    fn path(host: &Host) -> PathBuf {
        host.run().join("server.json")
    }

    /// Leaves it where others look.
    pub(crate) fn write(&self, host: &Host) -> Result<()> {
        let path = Self::path(host);
        let draft = path.with_extension("new");
        fs::write(&draft, serde_json::to_vec(self)?)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The server of this root, if it lives.
    pub(crate) fn find(host: &Host) -> Option<Self> {
        let marker: Self = serde_json::from_slice(&fs::read(Self::path(host)).ok()?).ok()?;
        marker.process.lives().then_some(marker)
    }

    /// Takes it away.
    pub(crate) fn remove(host: &Host) {
        let _ = fs::remove_file(Self::path(host));
    }
}
