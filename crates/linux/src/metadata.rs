//! What an instance may know of itself: written beside its files when it is prepared, and read by the metadata service of its network.
//!
//! It never holds what another instance must not know: the service finds the file by the caller's own address.

use crate::host::Host;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, Result};
use yun_types::{Arch, DesiredInstance, InstanceId, InstanceKind};

/// What an instance may know of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) project: String,
    pub(crate) kind: InstanceKind,
    /// As people write it: `cpu:1,memory:512M,disk:2G`.
    pub(crate) size: String,
    pub(crate) image: String,
    pub(crate) domain: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: String,
    /// The machine it is on.
    pub(crate) node: String,
    pub(crate) arch: String,
    #[serde(default)]
    pub(crate) ssh_keys: Vec<String>,
    #[serde(default)]
    pub(crate) user_data: Option<String>,
}

/// Where an instance's document is.
pub(crate) fn path(host: &Host, id: InstanceId) -> PathBuf {
    host.instance_dir(id).join("metadata.json")
}

/// Writes the document of an instance whose directory is there.
pub(crate) fn write(directory: &Path, instance: &DesiredInstance) -> Result<()> {
    let node = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let document = Document {
        id: instance.id,
        name: instance.name.to_string(),
        project: instance.project.to_string(),
        kind: instance.kind,
        size: instance.spec.size.to_string(),
        image: instance.image.name.clone(),
        domain: instance.domain(),
        address: instance.nic.address,
        mac: instance.nic.mac.clone(),
        node,
        arch: Arch::host().to_string(),
        ssh_keys: instance.spec.vm.ssh_keys.clone(),
        user_data: instance.spec.vm.user_data.clone(),
    };
    let path = directory.join("metadata.json");
    put(&path, &document).map_err(|e| DriverError::io(format!("write {}", path.display()), e))
}

/// User data may hold secrets: only root reads it.
fn put(path: &Path, document: &Document) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    serde_json::to_writer(&mut file, document)?;
    fs::rename(&draft, path)
}

/// Reads the document of an instance.
pub(crate) fn read(path: &Path) -> io::Result<Document> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}
