//! WebSockets: sessions of people, and TCP connections.
//!
//! The upgrade to a WebSocket is answered before a handler runs, so that a refusal travels inside: as the error frame of sessions, as the only
//! text message of TCP connections, and in the close frame, whose code is 4000 plus the HTTP status (4403 for 403) and whose reason is as much of the message as fits. On TCP connections
//! an empty message from the server comes first, once the connection is made; one from the client says that it will send nothing more; the server's end of data is the close frame.

use crate::{core::Control, error::Refusal};
use bytes::{Bytes, BytesMut};
use dropshot::{WebsocketChannelResult, WebsocketConnection, WebsocketConnectionRaw};
use futures::{SinkExt, StreamExt};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use yun_api::{
    frames::{self, LARGEST_MESSAGE},
    node::Stream,
};
use yun_engine::session::{Output, Session};

/// How much of a TCP stream one message carries at most.
const CHUNK: usize = 64 << 10;
/// What fits into a close frame beside its code.
const REASON: usize = 123;

async fn accept(upgraded: WebsocketConnection) -> WebSocketStream<WebsocketConnectionRaw> {
    let config =
        WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE));
    WebSocketStream::from_raw_socket(upgraded.into_inner(), Role::Server, Some(config)).await
}

/// Carries a session until either end is done, or tells why there is none.
pub(super) async fn carry_session(
    control: &Arc<Control>,
    upgraded: WebsocketConnection,
    session: Result<Session, Refusal>,
) -> WebsocketChannelResult {
    let mut socket = accept(upgraded).await;
    match session {
        Ok(session) => {
            tokio::select! {
                () = frames::serve(socket, session) => {}
                () = control.closing.cancelled() => {}
            }
        }
        Err(refusal) => {
            // Who left does not want to know why.
            let _ = socket.send(Message::Binary(frames::encode_output(&Output::Error(refusal.message.clone())))).await;
            close(&mut socket, &refusal).await;
        }
    }
    Ok(())
}

/// Copies a TCP connection both ways until it ends, or tells why there is none.
pub(super) async fn carry_stream(
    control: &Arc<Control>,
    upgraded: WebsocketConnection,
    stream: Result<Box<dyn Stream>, Refusal>,
) -> WebsocketChannelResult {
    let mut socket = accept(upgraded).await;
    match stream {
        Ok(stream) => {
            // Who has left does not want to know.
            let _ = socket.send(Message::Binary(Bytes::new())).await;
            tokio::select! {
                () = copy(socket, stream) => {}
                () = control.closing.cancelled() => {}
            }
        }
        Err(refusal) => {
            let _ = socket.send(Message::Text(Utf8Bytes::from(&refusal.message))).await;
            close(&mut socket, &refusal).await;
        }
    }
    Ok(())
}

async fn close(socket: &mut WebSocketStream<WebsocketConnectionRaw>, refusal: &Refusal) {
    let mut end = refusal.message.len().min(REASON);
    while !refusal.message.is_char_boundary(end) {
        end -= 1;
    }
    let code = CloseCode::from(frames::REFUSED + refusal.status.as_u16());
    let frame = CloseFrame { code, reason: Utf8Bytes::from(&refusal.message[..end]) };
    if socket.close(Some(frame)).await.is_ok() {
        // The client's answer, so that its last words do not meet a closed port and take ours away.
        while let Some(Ok(_)) = socket.next().await {}
    }
}

async fn copy(socket: WebSocketStream<WebsocketConnectionRaw>, stream: Box<dyn Stream>) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_instance, mut to_instance) = tokio::io::split(stream);
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let wrote = match message {
                Message::Binary(bytes) if bytes.is_empty() => to_instance.shutdown().await,
                Message::Binary(bytes) => to_instance.write_all(&bytes).await,
                Message::Close(_) => return,
                _ => Ok(()),
            };
            if wrote.is_err() {
                // The other direction finds out by itself, after what is still on its way.
                std::future::pending::<()>().await;
            }
        }
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from_instance.read_buf(&mut buffer).await {
            let chunk: Bytes = buffer.split().freeze();
            if to_client.send(Message::Binary(chunk)).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
        let _ = to_client.close().await;
    };
    tokio::select! { () = inward => {}, () = outward => {} }
}
