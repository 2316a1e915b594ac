//! Forwarded connections (`-L`, `-W`, `-J`): from the client to a port of an instance of the project.

use super::{
    cloud::Cloud,
    inlet::{Incoming, Outlet},
    server::SshDoor,
    vm::Login,
};
use bytes::BytesMut;
use russh::{ChannelWriteHalf, server::Msg};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use yun_types::InstanceKind;

/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// Both directions of a forwarded connection.
pub(super) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// Connects to where the client wants to go, or says why not.
pub(super) async fn open(door: &Arc<SshDoor>, cloud: &Cloud, host: &str, port: u32) -> Result<Box<dyn Pipe>, String> {
    cloud.may_enter()?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("{port} is no port"))?;
    let Some(name) = cloud.target.instance_named(host) else {
        let instance = cloud.instance().await?;
        // A VM's own SSH server decides where else it connects to.
        if instance.spec.kind == Some(InstanceKind::Vm) {
            return Ok(Box::new(Login::at(door, cloud, &instance, false).await?.forward(host, port).await?));
        }
        let shown: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(format!(
            "{shown} is not reached from here: forward to localhost, or to an instance of project {} by its name",
            cloud.target.project
        ));
    };
    let instance = cloud.instance_called(name).await?;
    match cloud.dial(&instance, port).await {
        Ok(stream) => Ok(Box::new(stream)),
        // What a VM has on its loopback is reached from inside.
        Err(why) if instance.spec.kind == Some(InstanceKind::Vm) && port != 22 => {
            let login = Login::at(door, cloud, &instance, false).await.map_err(|_| why.clone())?;
            let stream = login.forward("127.0.0.1", port).await.map_err(|_| why)?;
            Ok(Box::new(stream))
        }
        Err(why) => Err(why),
    }
}

/// Copies both ways. Each half ends by itself; the channel when both have.
pub(super) async fn carry(stream: Box<dyn Pipe>, mut outlet: Outlet, writer: &ChannelWriteHalf<Msg>) {
    let (mut from_instance, mut to_instance) = tokio::io::split(stream);
    let inward = async {
        while let Some(incoming) = outlet.next().await {
            match incoming {
                Incoming::Data(bytes) if to_instance.write_all(&bytes).await.is_err() => break,
                Incoming::Eof => {
                    let _ = to_instance.shutdown().await;
                }
                _ => {}
            }
        }
        std::future::pending::<()>().await;
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from_instance.read_buf(&mut buffer).await {
            if writer.data_bytes(buffer.split().freeze()).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
    };
    tokio::select! { () = inward => {}, () = outward => {} }
    let _ = writer.eof().await;
    let _ = writer.close().await;
}
