//! The cloud as a guest sees it: the generated client in the project of their key, and sentences for what goes wrong.

use super::{Guest, target::Target};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role as End},
};
use yun_api::{
    client::{Error, types},
    frames,
};
use yun_engine::session::{Session, WindowSize};
use yun_types::{Instance, NameOrId, Role};

/// How much of a TCP stream waits in each direction.
const PIPE: usize = 64 << 10;

/// One guest at one target.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    pub(super) guest: Guest,
    pub(super) target: Arc<Target>,
}

/// What a process in a container should be.
#[derive(Debug, Clone, Default)]
pub(super) struct Exec {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) terminal: Option<WindowSize>,
}

type Carried = (Session, futures::future::BoxFuture<'static, Option<u16>>);

impl Cloud {
    /// Whether the guest may still do anything, and enter instances at all.
    pub(super) fn may_enter(&self) -> Result<(), String> {
        let Guest { key, role, stay, .. } = &self.guest;
        let project = &self.target.project;
        if !stay.holds() {
            return Err(format!("SSH key {key} is no longer in project {project}"));
        }
        if *role < Role::Editor {
            return Err(format!(
                "SSH key {key} has the role {role} in project {project}, and entering instances needs editor; \
                 ask somebody who is one: yun ssh-key rm -p {project} {key}, then add it with --role editor"
            ));
        }
        Ok(())
    }

    /// The target as it is now.
    pub(super) async fn instance(&self) -> Result<Instance, String> {
        self.instance_called(self.target.instance.clone()).await
    }

    /// An instance of the project.
    pub(super) async fn instance_called(&self, name: NameOrId) -> Result<Instance, String> {
        let request = self.guest.client.instance_get().project(self.target.project.clone()).instance(name);
        Ok(request.send().await.map_err(explain)?.into_inner())
    }

    /// Runs a process in a container. The second half carries the session.
    pub(super) async fn exec(&self, instance: &Instance, exec: &Exec) -> Result<Carried, String> {
        let json = |words: &[String]| serde_json::Value::from(words).to_string();
        let mut request = self
            .guest
            .client
            .instance_exec()
            .project(self.target.project.clone())
            .instance(NameOrId::Id(instance.metadata.id))
            .command(json(&exec.command))
            .env(json(&exec.env));
        if let Some(user) = &self.target.user {
            request = request.user(user.clone());
        }
        if let Some(size) = exec.terminal {
            request = request.terminal(format!("{}x{}", size.columns, size.rows));
        }
        let upgraded = request.send().await.map_err(explain)?.into_inner();
        let socket = WebSocketStream::from_raw_socket(upgraded, End::Client, None).await;
        let (session, carry) = frames::connect(socket);
        Ok((session, Box::pin(carry)))
    }

    /// Opens a session of SFTP with a container.
    pub(super) async fn sftp(&self, instance: &Instance) -> Result<Carried, String> {
        let mut request = self
            .guest
            .client
            .instance_sftp()
            .project(self.target.project.clone())
            .instance(NameOrId::Id(instance.metadata.id));
        if let Some(user) = &self.target.user {
            request = request.user(user.clone());
        }
        let upgraded = request.send().await.map_err(explain)?.into_inner();
        let socket = WebSocketStream::from_raw_socket(upgraded, End::Client, None).await;
        let (session, carry) = frames::connect(socket);
        Ok((session, Box::pin(carry)))
    }

    /// A connection to a port of an instance.
    pub(super) async fn dial(&self, instance: &Instance, port: u16) -> Result<DuplexStream, String> {
        let request = self
            .guest
            .client
            .instance_dial()
            .project(self.target.project.clone())
            .instance(NameOrId::Id(instance.metadata.id))
            .port(port);
        let upgraded = request.send().await.map_err(explain)?.into_inner();
        let mut socket = WebSocketStream::from_raw_socket(upgraded, End::Client, None).await;
        // The server begins with an empty message once it is connected, and with a text if it will not be.
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(_))) => break,
                Some(Ok(Message::Text(why))) => return Err(why.to_string()),
                Some(Ok(Message::Close(Some(close)))) if !close.reason.is_empty() => {
                    return Err(close.reason.to_string());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Err("the server ended the connection: it stops; instances go on without it".into()),
            }
        }
        let (near, far) = tokio::io::duplex(PIPE);
        tokio::spawn(carry(socket, far));
        Ok(near)
    }
}

/// Copies both ways until either side is gone.
async fn carry(socket: WebSocketStream<reqwest::Upgraded>, stream: DuplexStream) {
    let (mut to_server, mut from_server) = socket.split();
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let outward = async {
        let mut buffer = BytesMut::with_capacity(PIPE);
        while let Ok(1..) = from_client.read_buf(&mut buffer).await {
            if to_server.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(PIPE);
        }
        // An empty message closes our half; the other side may still have something to say.
        if to_server.send(Message::Binary(Bytes::new())).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let inward = async {
        while let Some(Ok(message)) = from_server.next().await {
            match message {
                Message::Binary(bytes) if to_client.write_all(&bytes).await.is_err() => return,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::select! { () = outward => {}, () = inward => {} }
}

/// One of the client's errors as a sentence.
pub(super) fn explain(error: Error<types::Error>) -> String {
    match error {
        Error::ErrorResponse(answer) => answer.into_inner().message,
        Error::CommunicationError(e) => {
            let mut deepest: &dyn std::error::Error = &e;
            while let Some(next) = deepest.source() {
                deepest = next;
            }
            format!("the cloud does not answer its own gateway: {deepest}; try again")
        }
        other => format!("the cloud gave an answer that the gateway does not understand: {other}"),
    }
}
