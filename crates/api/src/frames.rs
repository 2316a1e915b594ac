//! How a [`Session`] travels over a WebSocket.
//!
//! Each binary message is one frame: a byte that says what it is, then its content. From the client: `0` standard input, `1` end of
//! standard input, `2` window size (columns and rows, two bytes each, big endian), `3` signal (one byte). From the server: `8` standard
//! output, `9` standard error, `10` exit (JSON of `Exit`, last frame), `11` error (text, last frame).

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::io::ErrorKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, protocol::CloseFrame},
};
use yun_engine::session::{Input, Output, Session, WindowSize, session};

/// The largest message that is accepted: far above what terminals and pipes send at once.
pub const LARGEST_MESSAGE: usize = 1 << 20;

/// A frame that does not follow the rules above.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side sent a session frame of unknown type {0}: it may be of another version")]
pub struct BadFrame(u8);

/// The bytes of a frame from the client.
pub fn encode_input(input: &Input) -> Bytes {
    match input {
        Input::Stdin(bytes) => tagged(0, bytes),
        Input::StdinClosed => Bytes::from_static(&[1]),
        Input::Resize(size) => {
            let [c1, c0] = size.columns.to_be_bytes();
            let [r1, r0] = size.rows.to_be_bytes();
            Bytes::copy_from_slice(&[2, c1, c0, r1, r0])
        }
        Input::Signal(number) => Bytes::copy_from_slice(&[3, u8::try_from(*number).unwrap_or(15)]),
    }
}

/// Reads a frame from the client.
pub fn decode_input(frame: &Bytes) -> Result<Input, BadFrame> {
    match frame[..] {
        [0, ..] => Ok(Input::Stdin(frame.slice(1..))),
        [1] => Ok(Input::StdinClosed),
        [2, c1, c0, r1, r0] => {
            Ok(Input::Resize(WindowSize { columns: u16::from_be_bytes([c1, c0]), rows: u16::from_be_bytes([r1, r0]) }))
        }
        [3, number] => Ok(Input::Signal(i32::from(number))),
        [] => Err(BadFrame(255)),
        [other, ..] => Err(BadFrame(other)),
    }
}

/// The bytes of a frame from the server.
pub fn encode_output(output: &Output) -> Bytes {
    match output {
        Output::Stdout(bytes) => tagged(8, bytes),
        Output::Stderr(bytes) => tagged(9, bytes),
        Output::Exit(exit) => tagged(10, &serde_json::to_vec(exit).unwrap_or_default()),
        Output::Error(text) => tagged(11, text.as_bytes()),
    }
}

/// Reads a frame from the server.
pub fn decode_output(frame: &Bytes) -> Result<Output, BadFrame> {
    match frame.first() {
        Some(8) => Ok(Output::Stdout(frame.slice(1..))),
        Some(9) => Ok(Output::Stderr(frame.slice(1..))),
        Some(10) => serde_json::from_slice(&frame[1..]).map(Output::Exit).map_err(|_| BadFrame(10)),
        Some(11) => Ok(Output::Error(String::from_utf8_lossy(&frame[1..]).into_owned())),
        other => Err(BadFrame(other.copied().unwrap_or(255))),
    }
}

fn tagged(tag: u8, content: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(content.len() + 1);
    frame.push(tag);
    frame.extend_from_slice(content);
    frame.into()
}

/// The server's side: carries a session until either end is done. The client's going away drops the session's input, which ends the process.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(socket: WebSocketStream<S>, session: Session) {
    let Session { input, mut output } = session;
    let (mut to_client, mut from_client) = socket.split();
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(frame) = message else { continue };
            let Ok(frame) = decode_input(&frame) else { break };
            if input.send(frame).await.is_err() {
                // The process has gone; what it wrote still has to arrive.
                std::future::pending::<()>().await;
            }
        }
    };
    let outward = async {
        while let Some(frame) = output.recv().await {
            if to_client.send(Message::Binary(encode_output(&frame))).await.is_err() {
                return;
            }
        }
        let _ = to_client.close().await;
    };
    tokio::select! { () = inward => {}, () = outward => {} }
}

/// A refusal's HTTP status is the code of its close frame, less this.
pub const REFUSED: u16 = 4000;

/// The client's side: a session whose other end is the server's. Its second half carries it, and answers with the HTTP status if the server
/// refused the session.
pub fn connect<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: WebSocketStream<S>,
) -> (Session, impl Future<Output = Option<u16>> + Send) {
    let (session, mut end) = session();
    let carry = async move {
        let (mut to_server, mut from_server) = socket.split();
        let outward = async {
            while let Some(frame) = end.input.recv().await {
                if to_server.send(Message::Binary(encode_input(&frame))).await.is_err() {
                    break;
                }
            }
            let _ = to_server.close().await;
        };
        let inward = async {
            while let Some(message) = from_server.next().await {
                let (frame, status) = match message {
                    Ok(Message::Binary(frame)) => {
                        (decode_output(&frame).unwrap_or_else(|e| Output::Error(e.to_string())), None)
                    }
                    // The server refused inside the session: the close frame says why.
                    Ok(Message::Close(Some(close))) if !close.reason.is_empty() => {
                        (Output::Error(close.reason.to_string()), status_of(&close))
                    }
                    Ok(_) => continue,
                    Err(e) => (Output::Error(broken(&e)), None),
                };
                match frame {
                    Output::Error(_) if status.is_none() => {
                        let _ = end.output.send(frame).await;
                        // What stands in the close frame behind it is for programs.
                        while let Some(Ok(message)) = from_server.next().await {
                            if let Message::Close(Some(close)) = message {
                                return status_of(&close);
                            }
                        }
                        return None;
                    }
                    frame => {
                        let last = matches!(frame, Output::Exit(_) | Output::Error(_));
                        if end.output.send(frame).await.is_err() || last {
                            return status;
                        }
                    }
                }
            }
            None
        };
        // The end of our input is not the end of the session: the process may still write.
        let never = async {
            outward.await;
            std::future::pending::<Option<u16>>().await
        };
        tokio::select! { status = never => status, status = inward => status }
    };
    (session, carry)
}

fn broken(e: &Error) -> String {
    match e {
        Error::Io(e)
            if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
        {
            "the server closed the connection: it stopped, or is being restarted; instances go on without it".to_owned()
        }
        e => format!("the connection to the server broke: {e}"),
    }
}

fn status_of(close: &CloseFrame) -> Option<u16> {
    u16::from(close.code).checked_sub(REFUSED).filter(|status| (400..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_crosses_a_socket_both_ways() {
        let (near, far) = tokio::io::duplex(4096);
        let client =
            WebSocketStream::from_raw_socket(near, tokio_tungstenite::tungstenite::protocol::Role::Client, None).await;
        let server =
            WebSocketStream::from_raw_socket(far, tokio_tungstenite::tungstenite::protocol::Role::Server, None).await;
        let (driver_session, mut driver) = session();
        let serving = tokio::spawn(serve(server, driver_session));
        let (mut person, carry) = connect(client);
        let carrying = tokio::spawn(carry);

        let sent = [
            Input::Stdin("hello".into()),
            Input::Resize(WindowSize { columns: 300, rows: 50 }),
            Input::Signal(2),
            Input::StdinClosed,
        ];
        for input in &sent {
            person.input.send(input.clone()).await.unwrap();
            assert_eq!(driver.input.recv().await.as_ref(), Some(input));
        }
        let exit = yun_types::Exit { code: 3, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH };
        for output in [Output::Stdout("out".into()), Output::Stderr("err".into()), Output::Exit(exit)] {
            driver.output.send(output.clone()).await.unwrap();
            assert_eq!(person.output.recv().await, Some(output));
        }
        drop(driver);
        serving.await.unwrap();
        carrying.await.unwrap();
    }

    #[test]
    fn strange_frames_are_refused() {
        for frame in [&[][..], &[7], &[2, 0], &[200, 1, 2]] {
            assert!(decode_input(&Bytes::copy_from_slice(frame)).is_err());
            assert!(decode_output(&Bytes::copy_from_slice(frame)).is_err());
        }
    }
}
