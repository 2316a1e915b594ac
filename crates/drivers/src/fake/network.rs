//! Networks in memory. The only real thing is [`NetworkDriver::dial`]: a TCP connection to a server that echoes.

use super::{Call, State, World};
use crate::{Attachment, DriverError, ErrorKind, NetworkDriver, Port, Result};
use async_trait::async_trait;
use ipnet::Ipv4Net;
use std::path::PathBuf;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
};
use yun_types::{DesiredNetwork, DriverFacts, InstanceId, InstanceKind, NetworkId, Nic};

/// The networks of a host.
#[derive(Debug, Clone)]
pub struct FakeNetwork {
    world: World,
}

impl FakeNetwork {
    /// The driver of a host.
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

/// What stands against connecting the instance like this.
fn obstacle(state: &State, instance: InstanceId, nic: &Nic) -> Option<DriverError> {
    let Some(network) = state.networks.get(&nic.network) else {
        let message = format!("cannot attach instance {instance}: network {} is not on this node", nic.network);
        return Some(DriverError::new(ErrorKind::NotFound, "NetworkNotFound", message));
    };
    if !network.spec.cidr.contains(&nic.address) {
        let message = format!("cannot attach instance {instance}: {} is not in {}", nic.address, network.spec.cidr);
        return Some(DriverError::bad_request("AddressOutside", message));
    }
    for ((other, _), attachment) in state.attachments.iter().filter(|((other, _), _)| *other != instance) {
        if attachment.network == nic.network && attachment.nic.address == nic.address {
            let message = format!("cannot attach instance {instance}: instance {other} has {}", nic.address);
            return Some(DriverError::new(ErrorKind::Conflict, "AddressTaken", message));
        }
        let taken = nic.publish.iter().find(|port| attachment.nic.publish.iter().any(|theirs| theirs.conflicts(port)));
        if let Some(port) = taken {
            let message = format!(
                "cannot publish port {} of instance {instance}: instance {other} has it; choose another port",
                port.host
            );
            return Some(DriverError::new(ErrorKind::Conflict, "PortTaken", message));
        }
    }
    None
}

fn not_attached(instance: InstanceId) -> DriverError {
    let message = format!("instance {instance} is not connected to a network on this node; start it with yun start");
    DriverError::new(ErrorKind::NotFound, "NotAttached", message)
}

#[async_trait]
impl NetworkDriver for FakeNetwork {
    async fn probe(&self) -> Result<DriverFacts> {
        self.world.enter(Call::NetworkProbe, None).await?;
        Ok(DriverFacts {
            driver: "network".into(),
            ready: true,
            engine: Some("fake".into()),
            accel: None,
            message: None,
        })
    }

    async fn taken_ranges(&self) -> Result<Vec<Ipv4Net>> {
        Ok(vec![Ipv4Net::new_assert(std::net::Ipv4Addr::new(192, 168, 0, 0), 24)])
    }

    async fn ensure(&self, network: &DesiredNetwork) -> Result<()> {
        self.world.enter(Call::NetworkEnsure, None).await?;
        self.world.change(|state| state.networks.insert(network.id, network.clone()));
        self.world.leave(Call::NetworkEnsure, None).await
    }

    async fn remove(&self, network: NetworkId) -> Result<()> {
        self.world.enter(Call::NetworkRemove, None).await?;
        self.world.change(|state| {
            if let Some(user) = state.attachments.values().find(|attachment| attachment.network == network) {
                let message =
                    format!("cannot remove network {network}: instance {} is attached; remove it first", user.instance);
                return Err(DriverError::new(ErrorKind::Conflict, "NetworkInUse", message));
            }
            state.networks.remove(&network);
            Ok(())
        })?;
        self.world.leave(Call::NetworkRemove, None).await
    }

    async fn attach(&self, instance: InstanceId, kind: InstanceKind, nic: &Nic) -> Result<Attachment> {
        self.world.enter(Call::NetworkAttach, Some(instance)).await?;
        let interface = match nic.index {
            0 => format!("f{}", instance.short()),
            index => format!("f{}-{index}", instance.short()),
        };
        let port = match kind {
            InstanceKind::Vm => Port::Tap { interface },
            InstanceKind::Container => {
                Port::Namespace { path: PathBuf::from("/fake/netns").join(&interface), interface }
            }
        };
        let attachment = self.world.change(|state| {
            if let Some(error) = obstacle(state, instance, nic) {
                return Err(error);
            }
            let spec = &state.networks[&nic.network].spec;
            let (network, cidr, gateway, mtu) = (nic.network, spec.cidr, spec.gateway(), spec.mtu);
            let attachment = Attachment { instance, network, nic: nic.clone(), cidr, gateway, mtu, port };
            state.attachments.insert((instance, network), attachment.clone());
            Ok(attachment)
        })?;
        self.world.leave(Call::NetworkAttach, Some(instance)).await?;
        Ok(attachment)
    }

    async fn recover(&self, attachment: &Attachment) -> Result<()> {
        self.world.enter(Call::NetworkRecover, Some(attachment.instance)).await?;
        match self.world.lock().attachments.get(&(attachment.instance, attachment.network)) {
            Some(known) if known == attachment => Ok(()),
            _ => Err(not_attached(attachment.instance)),
        }
    }

    async fn detach_from(&self, instance: InstanceId, network: NetworkId) -> Result<()> {
        self.world.enter(Call::NetworkDetach, Some(instance)).await?;
        self.world.change(|state| state.attachments.remove(&(instance, network)));
        self.world.leave(Call::NetworkDetach, Some(instance)).await
    }

    async fn detach(&self, instance: InstanceId) -> Result<()> {
        self.world.enter(Call::NetworkDetach, Some(instance)).await?;
        self.world.change(|state| state.attachments.retain(|(other, _), _| *other != instance));
        self.world.leave(Call::NetworkDetach, Some(instance)).await
    }

    async fn dial(&self, instance: InstanceId, port: u16) -> Result<TcpStream> {
        self.world.enter(Call::NetworkDial, Some(instance)).await?;
        if self.world.attachment(instance).is_none() {
            return Err(not_attached(instance));
        }
        if !self.world.is_running(instance) {
            let message =
                format!("nothing answers on port {port} of instance {instance}; check that its program listens");
            return Err(DriverError::unavailable("ConnectionRefused", message));
        }
        let broken = |e| DriverError::io(format!("connect to port {port} of instance {instance}"), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(broken)?;
        let address = listener.local_addr().map_err(broken)?;
        self.world.inner.tasks.spawn("echo", |_| async move {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let (mut reader, mut writer) = stream.split();
            // The caller decides how long it talks; its end is the end.
            let _ = io::copy(&mut reader, &mut writer).await;
        });
        TcpStream::connect(address).await.map_err(broken)
    }
}
