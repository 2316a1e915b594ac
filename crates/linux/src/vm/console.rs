//! The serial console, for several people at once. QEMU serves one client, so one task a VM holds that connection, gives what arrives to
//! every session, and writes what any of them types. It lives as long as sessions do, also across a restart of the VM.
//!
//! A person who reads slowly never slows the guest down: what does not fit into their buffer is lost to them, and they are told so.

use bytes::{Bytes, BytesMut};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use yun_engine::session::{Input, Output, Session, SessionEnd, session};

/// What a session may be behind.
const BEHIND: usize = 1 << 20;
/// The largest piece that is handed on at once.
const PIECE: usize = 32 << 10;
/// How long a console waits for its VM to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it tries.
const RETRY: Duration = Duration::from_millis(50);
const LOST: &[u8] = b"\r\n[yun: some output was lost, this terminal is too slow]\r\n";

/// The console of one VM.
#[derive(Debug, Default)]
pub(super) struct Console {
    hub: Mutex<Option<Hub>>,
}

#[derive(Debug)]
struct Hub {
    shared: Arc<Shared>,
    typed: mpsc::Sender<Bytes>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` once the hub has ended: nobody may join any more.
    listeners: Mutex<Option<Vec<Arc<Listener>>>>,
}

/// What one session has not read yet.
#[derive(Debug, Default)]
struct Listener {
    pending: Mutex<Pending>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    lost: bool,
    /// Why it is over, if it is.
    over: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    /// Opens a session on the console whose socket is `serial`.
    pub(super) fn open(&self, serial: PathBuf) -> Session {
        let (ours, theirs) = session();
        let listener = Arc::new(Listener::default());
        let mut slot = locked(&self.hub);
        let joined = slot.as_ref().is_some_and(|hub| hub.shared.join(&listener));
        if !joined {
            *slot = Some(Hub::begin(serial, &listener));
        }
        let hub = slot.as_ref().expect("a hub was there or has just been begun");
        tokio::spawn(serve(theirs, listener, hub.typed.clone(), Arc::clone(&hub.shared)));
        ours
    }

    /// Ends every session: the VM is being removed.
    pub(super) fn close(&self) {
        if let Some(hub) = locked(&self.hub).take() {
            hub.shared.end("the VM was removed");
        }
    }
}

impl Hub {
    fn begin(serial: PathBuf, first: &Arc<Listener>) -> Self {
        let shared = Arc::new(Shared { listeners: Mutex::new(Some(vec![Arc::clone(first)])) });
        let (typed, input) = mpsc::channel(32);
        let task = tokio::spawn(carry(serial, Arc::clone(&shared), input));
        Self { shared, typed, _task: AbortOnDropHandle::new(task) }
    }
}

impl Shared {
    fn join(&self, listener: &Arc<Listener>) -> bool {
        locked(&self.listeners).as_mut().map(|all| all.push(Arc::clone(listener))).is_some()
    }

    /// Takes one out. True if that was the last: then the hub has ended.
    fn leave(&self, listener: &Arc<Listener>) {
        let mut slot = locked(&self.listeners);
        let Some(all) = slot.as_mut() else { return };
        all.retain(|other| !Arc::ptr_eq(other, listener));
        if all.is_empty() {
            *slot = None;
        }
    }

    fn is_over(&self) -> bool {
        locked(&self.listeners).is_none()
    }

    fn tell(&self, bytes: &[u8]) {
        for listener in locked(&self.listeners).iter().flatten() {
            let mut pending = locked(&listener.pending);
            if pending.bytes.len() + bytes.len() > BEHIND {
                pending.bytes.clear();
                pending.lost = true;
            }
            pending.bytes.extend_from_slice(bytes);
            listener.news.notify_one();
        }
    }

    fn end(&self, why: &str) {
        for listener in locked(&self.listeners).take().into_iter().flatten() {
            locked(&listener.pending).over = Some(why.to_owned());
            listener.news.notify_one();
        }
    }
}

/// One session: from the person to the guest and back, until either leaves.
async fn serve(end: SessionEnd, listener: Arc<Listener>, typed: mpsc::Sender<Bytes>, shared: Arc<Shared>) {
    let SessionEnd { mut input, output } = end;
    let inward = async {
        // Sizes and signals mean nothing on a serial line, and it has no end of input.
        while let Some(frame) = input.recv().await {
            if let Input::Stdin(bytes) = frame
                && typed.send(bytes).await.is_err()
            {
                // The hub has ended; the other direction says why.
                std::future::pending::<()>().await;
            }
        }
    };
    let outward = async {
        loop {
            listener.news.notified().await;
            while let Some(frame) = listener.next() {
                let last = matches!(frame, Output::Error(_));
                if output.send(frame).await.is_err() || last {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
    shared.leave(&listener);
}

impl Listener {
    fn next(&self) -> Option<Output> {
        let mut pending = locked(&self.pending);
        if std::mem::take(&mut pending.lost) {
            return Some(Output::Stdout(Bytes::from_static(LOST)));
        }
        if pending.bytes.is_empty() {
            return pending.over.take().map(Output::Error);
        }
        let size = pending.bytes.len().min(PIECE);
        Some(Output::Stdout(pending.bytes.split_to(size).freeze()))
    }
}

/// Holds the connection, and makes it again when the VM comes back.
async fn carry(serial: PathBuf, shared: Arc<Shared>, mut input: mpsc::Receiver<Bytes>) {
    let mut deadline = Instant::now() + PATIENCE;
    while !shared.is_over() {
        match super::socket::connect(&serial).await {
            Ok(stream) => {
                exchange(stream, &shared, &mut input).await;
                deadline = Instant::now() + PATIENCE;
            }
            Err(_) if Instant::now() >= deadline => break,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    shared.end("the VM does not run any more; start it with yun start and open the console again");
}

async fn exchange(mut stream: UnixStream, shared: &Shared, input: &mut mpsc::Receiver<Bytes>) {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; PIECE];
    // Also noticed without traffic: the connection would keep the next client out.
    let mut look = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(size) => shared.tell(&buffer[..size]),
            },
            bytes = input.recv() => match bytes {
                Some(bytes) => if writer.write_all(&bytes).await.is_err() { return },
                None => return,
            },
            _ = look.tick() => if shared.is_over() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn read(session: &mut Session, want: &str) {
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains(want) {
            match session.output.recv().await.unwrap() {
                Output::Stdout(bytes) => got.extend_from_slice(&bytes),
                other => panic!("{other:?} before {want:?}, after {:?}", String::from_utf8_lossy(&got)),
            }
        }
    }

    #[tokio::test]
    async fn several_people_share_one_console_that_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let guest = UnixListener::bind(&path).unwrap();
        let console = Console::default();
        let (mut one, mut two) = (console.open(path.clone()), console.open(path.clone()));
        let (mut line, _) = guest.accept().await.unwrap();
        line.write_all(b"login: ").await.unwrap();
        read(&mut one, "login: ").await;
        read(&mut two, "login: ").await;
        two.input.send(Input::Stdin(Bytes::from_static(b"root\x03"))).await.unwrap();
        let mut typed = [0; 5];
        line.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\x03");
        // The first leaves; the VM goes and comes back.
        drop(one);
        drop(line);
        let (mut line, _) = guest.accept().await.unwrap();
        line.write_all(b"again").await.unwrap();
        read(&mut two, "again").await;
        // With the last one the connection goes, and the next one makes a new one.
        drop(two);
        assert_eq!(line.read(&mut typed).await.unwrap(), 0);
        let mut three = console.open(path);
        let (mut line, _) = guest.accept().await.unwrap();
        line.write_all(b"hello").await.unwrap();
        read(&mut three, "hello").await;
        console.close();
        assert_eq!(three.output.recv().await, Some(Output::Error("the VM was removed".into())));
        assert_eq!(three.output.recv().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_output_and_is_told() {
        let shared = Shared::default();
        let listener = Arc::new(Listener::default());
        *locked(&shared.listeners) = Some(vec![Arc::clone(&listener)]);
        for _ in 0..=BEHIND / PIECE {
            shared.tell(&vec![b'x'; PIECE]);
        }
        assert_eq!(listener.next(), Some(Output::Stdout(Bytes::from_static(LOST))));
        assert_eq!(listener.next(), Some(Output::Stdout(Bytes::from(vec![b'x'; PIECE]))));
        assert_eq!(listener.next(), None);
    }
}
