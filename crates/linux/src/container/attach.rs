//! Attaching to a container's main process: its streams as they are, over the socket of its shim (`shim/attach.rs` describes the frames).
//!
//! Whoever attaches before the start is *expected*: the shim keeps what the container writes until they have come. A session outlives the
//! death of a shim, and ends with the container; the container never ends with a session.

use super::{
    driver::Inner,
    files::Files,
    life::{Truth, look},
    process::Process,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::session::{AttachRequest, Input, Output, Session, SessionEnd, WindowSize, session};
use yun_types::{Exit, InstanceId};

/// The most that one frame carries towards the container.
const FRAME: usize = 16 << 10;
/// How often a shim that takes over is looked for, and how long that is waited between two looks.
const AGAIN: (u32, Duration) = (200, Duration::from_millis(10));

/// Who is expected by containers that do not run yet.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<HashMap<InstanceId, watch::Sender<u64>>>);

impl Expected {
    /// Counts the starts from now on. The shim is told of whoever holds this.
    fn expect(&self, id: InstanceId) -> watch::Receiver<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other, starts| *other == id || starts.receiver_count() > 0);
        all.entry(id).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// True if somebody waits for the start of this container.
    pub(super) fn is(&self, id: InstanceId) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).is_some_and(|starts| starts.receiver_count() > 0)
    }

    /// It has been started.
    pub(super) fn started(&self, id: InstanceId) {
        if let Some(starts) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            starts.send_modify(|count| *count += 1);
        }
    }

    /// It will never be started again.
    pub(super) fn gone(&self, id: InstanceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// See [`yun_drivers::InstanceDriver::attach`].
pub(super) async fn attach(inner: &Arc<Inner>, files: &Files, request: AttachRequest) -> Result<Session> {
    // Before the look: a start that comes in between is heard of.
    let starts = request.wait.then(|| inner.expected.expect(files.id));
    let running = inner.main_process(files).await;
    let starts = match (running, starts) {
        (Ok(_), _) => None,
        (Err(_), Some(starts)) => Some(starts),
        (Err(refusal), None) => return Err(refusal),
    };
    let (person, end) = session();
    let attached = Attached { inner: inner.clone(), files: files.clone(), request };
    tokio::spawn(attached.serve(end, starts));
    Ok(person)
}

/// How a connection ended.
enum Left {
    /// The person has gone.
    Person,
    /// The shim has closed it.
    Shim,
}

struct Attached {
    inner: Arc<Inner>,
    files: Files,
    request: AttachRequest,
}

impl Attached {
    async fn serve(self, mut end: SessionEnd, starts: Option<watch::Receiver<u64>>) {
        // From here on nothing is missed.
        if starts.is_some() && end.output.send(Output::Stdout(Bytes::new())).await.is_err() {
            return;
        }
        let mut told = starts.is_some();
        if let Some(mut starts) = starts {
            let started = tokio::select! {
                started = starts.changed() => started,
                () = end.output.closed() => return,
            };
            if started.is_err() {
                return tell(&end, format!("container {} was removed", self.files.id)).await;
            }
        }
        match self.carry(&mut end, &mut told).await {
            Ok(Some(exit)) => drop(end.output.send(Output::Exit(exit)).await),
            Ok(None) => {}
            Err(e) => tell(&end, e.message).await,
        }
    }

    /// Carries frames until the container ends, from one shim to the next. `None` if the person left.
    async fn carry(&self, end: &mut SessionEnd, told: &mut bool) -> Result<Option<Exit>> {
        let path = self.files.run.join("attach");
        let mut served: Option<Process> = None;
        for _ in 0..AGAIN.0 {
            if let Ok(stream) = UnixStream::connect(&path).await {
                let shim = self.shim();
                if served.is_some() && served == shim {
                    return Err(DriverError::new(
                        ErrorKind::Conflict,
                        "TooSlow",
                        format!(
                            "this connection to container {} took nothing for too long and was let go; its log has everything (yun logs)",
                            self.files.id
                        ),
                    ));
                }
                served = shim;
                match self.connected(stream, end, told).await {
                    Ok(Left::Person) => return Ok(None),
                    // A connection that breaks is one that has ended.
                    Ok(Left::Shim) | Err(_) => {}
                }
            }
            match self.inner.settle(&self.files).await? {
                Truth::Running { .. } if end.output.is_closed() => return Ok(None),
                Truth::Running { .. } => tokio::time::sleep(AGAIN.1).await,
                Truth::Ended(exit) => {
                    return Ok(Some(exit.unwrap_or_else(|| Exit {
                        code: 255,
                        signal: None,
                        out_of_memory: false,
                        at: chrono::Utc::now(),
                    })));
                }
                Truth::Absent | Truth::Passing => {
                    let message = format!("container {} is gone", self.files.id);
                    return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
                }
            }
        }
        Err(DriverError::unavailable(
            "NoAttach",
            format!(
                "container {} cannot be attached to: an older yun started it; restart it (yun restart), or see yun logs",
                self.files.id
            ),
        ))
    }

    fn shim(&self) -> Option<Process> {
        let Ok(Truth::Running { running, .. }) = look(&self.files, &self.inner) else { return None };
        Some(running.shim)
    }

    async fn connected(&self, stream: UnixStream, end: &mut SessionEnd, told: &mut bool) -> io::Result<Left> {
        let (from_shim, mut to_shim) = stream.into_split();
        send(&mut to_shim, b'a', &[u8::from(self.request.wait)]).await?;
        if let Some(size) = self.request.terminal {
            send(&mut to_shim, b'w', &window(size)).await?;
        }
        let SessionEnd { input, output } = end;
        let inward = async {
            loop {
                let sent = match input.recv().await {
                    None => return Ok(Left::Person),
                    Some(Input::Stdin(bytes)) if self.request.stdin => {
                        let mut sent = Ok(());
                        for piece in bytes.chunks(FRAME) {
                            sent = send(&mut to_shim, b'i', piece).await;
                        }
                        sent
                    }
                    Some(Input::StdinClosed) if self.request.stdin => send(&mut to_shim, b'c', &[]).await,
                    Some(Input::Stdin(_) | Input::StdinClosed) => Ok(()),
                    Some(Input::Resize(size)) => send(&mut to_shim, b'w', &window(size)).await,
                    Some(Input::Signal(number)) => {
                        self.signal(number);
                        Ok(())
                    }
                };
                if sent.is_err() {
                    // The other direction says why.
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            left = inward => left,
            read = receive(from_shim, output, told) => read,
        }
    }

    /// Passes a signal to the main process; none if it has ended.
    fn signal(&self, number: i32) {
        if let Ok(Truth::Running { running, .. }) = look(&self.files, &self.inner)
            && let Ok(Some(held)) = running.main.hold()
        {
            let _ = held.signal(number);
        }
    }
}

async fn tell(end: &SessionEnd, why: String) {
    // A person who has gone already misses nothing.
    let _ = end.output.send(Output::Error(why)).await;
}

fn window(size: WindowSize) -> [u8; 4] {
    let ([c1, c0], [r1, r0]) = (size.columns.to_be_bytes(), size.rows.to_be_bytes());
    [c1, c0, r1, r0]
}

async fn send(to: &mut OwnedWriteHalf, kind: u8, rest: &[u8]) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(rest.len() + 3);
    frame.put_u8(kind);
    frame.put_u16(u16::try_from(rest.len()).unwrap_or(u16::MAX));
    frame.put_slice(rest);
    to.write_all(&frame).await
}

/// Hands on what comes until nothing does. The empty frame with which a shim answers is handed on once.
async fn receive(mut from: OwnedReadHalf, to: &tokio::sync::mpsc::Sender<Output>, told: &mut bool) -> io::Result<Left> {
    let mut held = BytesMut::new();
    loop {
        while let Some((kind, bytes)) = frame(&mut held) {
            if bytes.is_empty() && std::mem::replace(told, true) {
                continue;
            }
            let output = if kind == b'e' { Output::Stderr(bytes) } else { Output::Stdout(bytes) };
            if to.send(output).await.is_err() {
                return Ok(Left::Person);
            }
        }
        if from.read_buf(&mut held).await? == 0 {
            return Ok(Left::Shim);
        }
    }
}

/// Takes a whole frame off what was read.
fn frame(held: &mut BytesMut) -> Option<(u8, Bytes)> {
    let &[kind, high, low, ..] = &held[..] else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (held.len() >= length + 3).then(|| {
        held.advance(3);
        (kind, held.split_to(length).freeze())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut held = BytesMut::from(&b"o\0\x02hie\0\x01"[..]);
        assert_eq!(frame(&mut held), Some((b'o', "hi".into())));
        assert_eq!(frame(&mut held), None);
        held.put_slice(b"!o");
        assert_eq!(frame(&mut held), Some((b'e', "!".into())));
        assert_eq!((frame(&mut held), held.len()), (None, 1));
    }

    #[test]
    fn only_who_waits_is_expected() {
        let (all, id) = (Expected::default(), InstanceId(uuid::Uuid::from_u128(1)));
        assert!(!all.is(id));
        let mut starts = all.expect(id);
        assert!(all.is(id) && !starts.has_changed().unwrap());
        all.started(id);
        assert!(starts.has_changed().unwrap());
        starts.mark_unchanged();
        drop(starts);
        assert!(!all.is(id));
        let starts = all.expect(id);
        assert!(!starts.has_changed().unwrap(), "an earlier start is none of theirs");
        all.gone(id);
        assert!(starts.has_changed().is_err());
    }
}
