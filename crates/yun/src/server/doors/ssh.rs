//! The SSH gateway's place in the server: its keys, its address, and who it lets in.

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use yun_control::{
    auth::doors::DoorGuard,
    core::Control,
    rows::StoredGateway,
    ssh_key::{gateway, ops},
};
use yun_doors::ssh::{Gate, Guest, SshConfig, SshDoor, Stay, bind, new_key};
use yun_engine::{clock::Clock, tasks::Tasks};
use yun_types::{InstanceId, Name, SshKey};

use super::super::config::Config;
use crate::cli::{self, context::Context};

/// Who the gateway is; made at the first start with it.
pub(in crate::server) async fn identity(config: &Config, control: &Control) -> Result<Option<StoredGateway>> {
    if !config.ssh.enable {
        return Ok(None);
    }
    let made = || {
        let (host_key, _) = new_key("yun")?;
        let (client_key, client_public) = new_key("yun-ssh-gateway")?;
        Ok(gateway::NewIdentity { host_key, client_key, client_public })
    };
    let identity = gateway::establish(control, made).await.context("the SSH gateway has no keys")?;
    Ok(Some(identity))
}

/// Opens the gateway; the address that it listens on.
pub(super) async fn start(
    config: &Config,
    control: &Arc<Control>,
    local: &Context,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
    identity: StoredGateway,
) -> Result<SocketAddr> {
    let listen = config.ssh.listen;
    let listener = bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}: stop the program that has the port, or choose another ([ssh] listen in yun.toml)")
    })?;
    let address = listener.local_addr()?;
    let ssh = SshConfig {
        host_key: identity.host_key,
        client_key: identity.client_key,
        gate: Arc::new(ControlGate { control: Arc::clone(control), local: local.clone() }),
        clock: Arc::clone(clock),
    };
    SshDoor::start(ssh, listener, tasks).map_err(anyhow::Error::msg)?;
    tracing::info!(%address, "SSH clients are answered");
    Ok(address)
}

/// Asks the control plane.
#[derive(Debug)]
struct ControlGate {
    control: Arc<Control>,
    local: Context,
}

impl Gate for ControlGate {
    fn is_known(&self, project: &Name, fingerprint: &str) -> bool {
        ops::by_fingerprint(&self.control, project, fingerprint).is_some()
    }

    fn admit(&self, project: &Name, fingerprint: &str, from: IpAddr) -> Option<Guest> {
        let key = ops::by_fingerprint(&self.control, project, fingerprint)?;
        let admitted = gateway::admit(&self.control, &key, from).map_err(anyhow::Error::from);
        let client = admitted.and_then(|(secret, guard)| {
            Ok((cli::client(&Context { token: Some(secret), ..self.local.clone() })?, guard))
        });
        match client {
            Ok((client, guard)) => {
                let (name, role) = (key.metadata.name.clone(), key.spec.role);
                let stay = Arc::new(KeyIsThere { control: Arc::clone(&self.control), key, _token: guard });
                Some(Guest { key: name, role, client, stay })
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "an SSH client cannot be let in");
                None
            }
        }
    }

    fn guest_key(&self, instance: InstanceId) -> BoxFuture<'_, Result<Option<String>, String>> {
        Box::pin(async move { gateway::guest_key(&self.control, instance).await.map_err(|e| e.message) })
    }

    fn keep_guest_key(&self, instance: InstanceId, public_key: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(
            async move { gateway::keep_guest_key(&self.control, instance, public_key).await.map_err(|e| e.message) },
        )
    }
}

/// A guest may stay as long as their key is there. Their token ends with this value.
#[derive(Debug)]
struct KeyIsThere {
    control: Arc<Control>,
    key: SshKey,
    _token: DoorGuard,
}

impl Stay for KeyIsThere {
    fn holds(&self) -> bool {
        ops::is_there(&self.control, &self.key)
    }
}
