//! Hijacked connections: after the head of the answer the connection carries raw bytes both ways.
//!
//! With a terminal these are plain. Without one, what a process writes comes in frames of Docker's *stdcopy* form: a byte for the stream
//! (1 standard output, 2 standard error), three zeros, the length in four bytes, big endian, and the bytes.

use super::body::{Body, empty, streamed};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use yun_engine::session::{Input, Output};

/// Plain bytes.
pub(super) const RAW: &str = "application/vnd.docker.raw-stream";
/// Frames.
pub(super) const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// Standard output's number in a frame.
pub(super) const STDOUT: u8 = 1;
/// Standard error's number in a frame.
pub(super) const STDERR: u8 = 2;

/// One frame.
pub(super) fn frame(stream: u8, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(content.len() + 8);
    bytes.put_slice(&[stream, 0, 0, 0]);
    bytes.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    bytes.put_slice(content);
    bytes.freeze()
}

/// What a session is carried with.
#[derive(Debug)]
pub(super) struct Ends {
    /// Towards the process; absent if the client wants no standard input.
    pub(super) input: Option<mpsc::Sender<Input>>,
    /// From the process: bytes as the client should get them. It ends when the process has.
    pub(super) output: mpsc::Receiver<Bytes>,
}

/// Whether the client asks for the connection itself.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

/// Answers with the connection, and carries the session over it. `work` runs in the task that carries, after the process has ended.
pub(super) fn hijack(
    request: Request<()>,
    ends: Ends,
    tty: bool,
    spawn: impl FnOnce(futures::future::BoxFuture<'static, ()>),
) -> Response<Body> {
    let kind = if tty { RAW } else { FRAMED };
    if !wants_upgrade(request.headers()) {
        // Old clients take the connection without asking; they hear, but are not heard.
        drop(ends.input);
        let output = stream::unfold(ends.output, |mut output| async move {
            let bytes = output.recv().await?;
            Some((Ok::<_, io::Error>(bytes), output))
        });
        return streamed(kind, output);
    }
    let upgrade = hyper::upgrade::on(request);
    spawn(Box::pin(async move {
        match upgrade.await {
            Ok(connection) => carry(TokioIo::new(connection), ends).await,
            Err(error) => tracing::debug!(%error, "a client went away before its connection could be taken over"),
        }
    }));
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

async fn carry(connection: TokioIo<hyper::upgrade::Upgraded>, ends: Ends) {
    let Ends { input, mut output } = ends;
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    let inward = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) => {
                    if let Some(input) = &input {
                        let _ = input.send(Input::StdinClosed).await;
                    }
                    // The client has said all it had to say, and still listens.
                    return std::future::pending().await;
                }
                Ok(read) => {
                    let Some(input) = &input else { continue };
                    if input.send(Input::Stdin(Bytes::copy_from_slice(&buffer[..read]))).await.is_err() {
                        // The process has gone; what it wrote still has to arrive.
                        return std::future::pending().await;
                    }
                }
                Err(_) => return,
            }
        }
    };
    let outward = async {
        while let Some(bytes) = output.recv().await {
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::select! { () = inward => {}, () = outward => {} }
}

/// How a process ended, as an exec remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With this code.
    Exit(i32),
    /// It could not be run, or the session broke.
    Broken(String),
}

/// Passes on what a process writes, in the client's form, until it ends.
pub(super) async fn translate(mut from: mpsc::Receiver<Output>, to: &mpsc::Sender<Bytes>, tty: bool) -> End {
    let form = |stream: u8, bytes: Bytes| if tty { bytes } else { frame(stream, &bytes) };
    while let Some(output) = from.recv().await {
        let bytes = match output {
            Output::Stdout(bytes) => form(STDOUT, bytes),
            Output::Stderr(bytes) => form(STDERR, bytes),
            Output::Exit(exit) => return End::Exit(exit.code),
            Output::Error(why) => {
                let text = if tty { format!("{why}\r\n") } else { format!("{why}\n") };
                let _ = to.send(form(STDERR, text.into())).await;
                return End::Broken(why);
            }
        };
        // A client that went away: what comes is read and forgotten, so that the process can end.
        let _ = to.send(bytes).await;
    }
    End::Broken("the session ended without an exit code".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Exit;

    fn exit(code: i32) -> Output {
        Output::Exit(Exit { code, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH })
    }

    #[tokio::test]
    async fn what_a_process_writes_is_framed_unless_it_has_a_terminal() {
        for (tty, wanted) in [(false, &b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x02no"[..]), (true, b"hino")] {
            let (process, from) = mpsc::channel(8);
            let (to, mut client) = mpsc::channel(8);
            for output in [Output::Stdout("hi".into()), Output::Stderr("no".into()), exit(3)] {
                process.send(output).await.unwrap();
            }
            assert_eq!(translate(from, &to, tty).await, End::Exit(3));
            drop(to);
            let mut all = Vec::new();
            while let Some(bytes) = client.recv().await {
                all.extend_from_slice(&bytes);
            }
            assert_eq!(all, wanted);
        }
    }
}
