//! What a client sends on one channel, on its way to whoever reads it.
//!
//! `russh` takes data off the wire as it comes, gives the client new room at once, and does nothing else for the connection while a handler
//! waits. So the queue itself has no end, and the handler waits a moment for room when much is in it: short enough that output and other
//! channels go on (a program whose output waits for its input to be taken must not wait for ever), and the client's room is made tiny until
//! the queue is read. Together that bounds what a client that sends faster than is read can fill.

use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{Notify, mpsc};
use yun_engine::session::WindowSize;

/// How many bytes may wait before the client is slowed down.
const MUCH: usize = 1 << 20;

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    Data(Bytes),
    Eof,
    Resize(WindowSize),
    Signal(i32),
}

#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    taken: Notify,
}

/// The handler's end.
#[derive(Debug, Clone)]
pub(super) struct Inlet {
    sender: mpsc::UnboundedSender<Incoming>,
    held: Arc<Held>,
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct Outlet {
    receiver: mpsc::UnboundedReceiver<Incoming>,
    held: Arc<Held>,
}

/// Both ends of a channel.
pub(super) fn inlet() -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let held = Arc::<Held>::default();
    (Inlet { sender, held: Arc::clone(&held) }, Outlet { receiver, held })
}

impl Inlet {
    /// Takes what came. Nobody may be there any more to read it.
    pub(super) fn push(&self, incoming: Incoming) {
        let size = size(&incoming);
        // Counted first: the reader may be faster.
        self.held.bytes.fetch_add(size, Ordering::Relaxed);
        if self.sender.send(incoming).is_err() {
            self.held.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Whether much waits to be read.
    pub(super) fn is_full(&self) -> bool {
        self.held.bytes.load(Ordering::Relaxed) >= MUCH && !self.sender.is_closed()
    }

    /// Resolves when there is less to read, or nobody to read it.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.held.taken.notified();
            if !self.is_full() {
                return;
            }
            tokio::select! { () = taken => {}, () = self.sender.closed() => return }
        }
    }
}

impl Outlet {
    /// What comes next; `None` when the channel is gone.
    pub(super) async fn next(&mut self) -> Option<Incoming> {
        let incoming = self.receiver.recv().await?;
        self.held.bytes.fetch_sub(size(&incoming), Ordering::Relaxed);
        self.held.taken.notify_waiters();
        Some(incoming)
    }
}

fn size(incoming: &Incoming) -> usize {
    if let Incoming::Data(bytes) = incoming { bytes.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn much_slows_down_and_reading_makes_room() {
        let (inlet, mut outlet) = inlet();
        let piece = Bytes::from(vec![0; MUCH / 2]);
        inlet.push(Incoming::Data(piece.clone()));
        assert!(!inlet.is_full());
        inlet.room().await;
        inlet.push(Incoming::Data(piece));
        assert!(inlet.is_full());
        let waiting = tokio::spawn({
            let inlet = inlet.clone();
            async move { inlet.room().await }
        });
        assert!(matches!(outlet.next().await, Some(Incoming::Data(_))));
        waiting.await.unwrap();
        inlet.push(Incoming::Eof);
        drop(outlet);
        // Nobody reads: nothing is kept, and nobody waits.
        inlet.push(Incoming::Data(vec![0; 2 * MUCH].into()));
        inlet.room().await;
        assert!(!inlet.is_full());
    }
}
