//! Who the SSH gateway is: the key that clients know it by, the key that it enters VMs with, and what VMs showed it.
//!
//! Whoever restores the state has the same gateway, so that no client is warned of a stranger. This module keeps keys; it does not
//! know how they are made or used.

use crate::{
    auth::doors::DoorGuard,
    core::Control,
    error::Refusal,
    rows::{GatewayRow, GuestKeyRow, StoredGateway, StoredGuestKey},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};
use yun_store::{Store, StoreError, Table};
use yun_types::{InstanceId, InstanceKind, Role, SshKey, TokenSpec};

const ROW: &[&str] = &["identity"];

/// The gateway's identity, once it has one.
#[derive(Debug, Default)]
pub struct Gateway(OnceLock<StoredGateway>);

/// A fresh pair of keys.
#[derive(Clone)]
pub struct NewIdentity {
    /// The private key by which clients know the gateway.
    pub host_key: String,
    /// The private key by which it enters VMs.
    pub client_key: String,
    /// The public half of that, in one line.
    pub client_public: String,
}

impl std::fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewIdentity").finish_non_exhaustive()
    }
}

impl Gateway {
    /// Reads what the state has.
    pub(crate) async fn load(store: &Arc<dyn Store>) -> Result<Self, StoreError> {
        let gateway = Self::default();
        if let Some(row) = Table::<GatewayRow>::new(Arc::clone(store)).get(ROW).await? {
            let _first = gateway.0.set(row.value.0);
        }
        Ok(gateway)
    }

    /// The identity, if there ever was a gateway.
    pub fn identity(&self) -> Option<&StoredGateway> {
        self.0.get()
    }

    /// The public key that an instance of this age was made with.
    pub(crate) fn key_for(&self, kind: InstanceKind, created: yun_types::Timestamp) -> Option<&str> {
        let identity = self.identity()?;
        (kind == InstanceKind::Vm && created >= identity.created).then_some(identity.client_public.as_str())
    }
}

/// The gateway's identity, made now if there was none. Call it before nodes are told what to run.
pub async fn establish(
    c: &Control,
    make: impl FnOnce() -> Result<NewIdentity, String>,
) -> Result<StoredGateway, Refusal> {
    if let Some(identity) = c.gateway.identity() {
        return Ok(identity.clone());
    }
    let made = make().map_err(|e| Refusal::internal("make the keys of the SSH gateway", e))?;
    let NewIdentity { host_key, client_key, client_public } = made;
    let identity = StoredGateway { host_key, client_key, client_public, created: c.clock.now() };
    Table::<GatewayRow>::new(Arc::clone(&c.store)).create(ROW, &GatewayRow(identity)).await?;
    // What the state has is what counts.
    let row = Table::<GatewayRow>::new(Arc::clone(&c.store)).get(ROW).await?;
    let row = row.ok_or_else(|| Refusal::internal("keep the keys of the SSH gateway", "they are not in the state"))?;
    Ok(c.gateway.0.get_or_init(|| row.value.0).clone())
}

/// Lets the holder of a key in: the secret of a token that has the key's role in its project until the guard is dropped. The audit journal
/// calls them `door:ssh:NAME`, and has the address they came from.
pub fn admit(c: &Arc<Control>, key: &SshKey, from: IpAddr) -> Result<(String, DoorGuard), Refusal> {
    let project = key.metadata.project.clone().into_iter();
    let projects: BTreeMap<_, Role> = project.map(|project| (project, key.spec.role)).collect();
    let spec = TokenSpec { cloud: None, projects, expires: None };
    c.doors.admit_guest(c, &format!("ssh:{}", key.metadata.name), spec, from)
}

/// The key by which a VM's own SSH server was known when it was first met.
pub async fn guest_key(c: &Control, instance: InstanceId) -> Result<Option<String>, Refusal> {
    let row = Table::<GuestKeyRow>::new(Arc::clone(&c.store)).get(&[&instance.to_string()]).await?;
    Ok(row.map(|row| row.value.0.public_key))
}

/// Remembers the key of a VM's own SSH server. What is known already stays. Keys of VMs that are gone are forgotten.
pub async fn keep_guest_key(c: &Control, instance: InstanceId, public_key: String) -> Result<(), Refusal> {
    let table = Table::<GuestKeyRow>::new(Arc::clone(&c.store));
    let there: std::collections::BTreeSet<String> =
        c.instances.cache.all(&[]).iter().map(|row| row.value.0.metadata.id.to_string()).collect();
    for row in table.list(&[], None, None, 1000).await?.rows {
        let id = row.key.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        if !there.contains(&id) {
            let _gone_already = table.delete(&[&id], row.rev).await;
        }
    }
    let row = GuestKeyRow(StoredGuestKey { public_key, at: c.clock.now() });
    match table.create(&[&instance.to_string()], &row).await {
        Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
