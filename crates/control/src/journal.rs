//! Journals: what happened, in order, kept beside the state because it may be long and nobody decides by it.
//!
//! A journal is a file of JSON lines that is set aside when it grows large, and the newest entries in memory, from which all readers are
//! served. Writing never waits for the disk; who must know that an entry is kept awaits [`Journal::kept`]. One thread writes, and makes
//! everything durable that came while it was busy with one `fsync`.
//!
//! Words: a *sequence* numbers the entries from 1 without gaps; an entry is *kept* once a power cut cannot take it.

pub(crate) mod audit;
mod file;

use file::{Command, Writer};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::VecDeque,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};
use tokio::sync::{oneshot, watch};
use yun_engine::clock::Clock;
use yun_types::{AuditRecord, Event, Timestamp};

/// How many entries stay in memory.
const IN_MEMORY: usize = 10_000;

/// What a journal can hold.
pub trait Entry: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its number.
    fn sequence(&self) -> u64;
}

impl Entry for Event {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Entry for AuditRecord {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// A journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the journal {path}: check that its directory exists and that yun may write there")]
pub struct OpenJournal {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An entry may not survive a power cut.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot write the journal {path} ({cause}): give its disk room, or check the disk")]
pub struct NotKept {
    path: String,
    cause: String,
}

/// Entries in order. Cheap to share by reference; readers keep their own place.
pub struct Journal<T> {
    clock: Arc<dyn Clock>,
    recent: Arc<Mutex<Recent<T>>>,
    head: watch::Sender<u64>,
    writer: mpsc::Sender<Command>,
    path: PathBuf,
}

struct Recent<T> {
    next: u64,
    entries: VecDeque<Arc<T>>,
}

impl<T> Recent<T> {
    /// The number of the oldest entry in memory.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// Entries after `sequence`, oldest first.
    fn after(&self, sequence: u64) -> impl Iterator<Item = &Arc<T>> {
        let skip = (sequence + 1).saturating_sub(self.first());
        self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }
}

impl<T> fmt::Debug for Journal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).field("head", &*self.head.borrow()).finish_non_exhaustive()
    }
}

impl<T: Entry> Journal<T> {
    /// Opens or creates the journal whose newest file is `path`, and starts its writer.
    pub fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, OpenJournal> {
        let wrap = |source| OpenJournal { path: path.clone(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(wrap)?;
        }
        let (writer, lines) = Writer::open(path.clone(), IN_MEMORY).map_err(wrap)?;
        let entries: VecDeque<Arc<T>> =
            lines.iter().filter_map(|line| serde_json::from_slice(line).ok().map(Arc::new)).collect();
        let next = entries.back().map_or(1, |last| last.sequence() + 1);
        // A gap would break the arithmetic of `Recent`: what is before it stays in the file only.
        let whole =
            entries.iter().rev().zip((1..next).rev()).take_while(|(entry, number)| entry.sequence() == *number).count();
        let entries = entries.into_iter().rev().take(whole).rev().collect();
        let (sender, commands) = mpsc::channel();
        writer.start(commands).map_err(wrap)?;
        let recent = Arc::new(Mutex::new(Recent { next, entries }));
        Ok(Self { clock, recent, head: watch::Sender::new(next - 1), writer: sender, path })
    }

    fn lock(&self) -> MutexGuard<'_, Recent<T>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry and gives its number. It is durable soon after; see [`Journal::kept`].
    pub fn record(&self, make: impl FnOnce(u64, Timestamp) -> T) -> u64 {
        let mut recent = self.lock();
        let sequence = recent.next;
        let entry = Arc::new(make(sequence, self.clock.now()));
        let mut line = serde_json::to_vec(&*entry).unwrap_or_default();
        line.push(b'\n');
        recent.next += 1;
        recent.entries.push_back(entry);
        if recent.entries.len() > IN_MEMORY {
            recent.entries.pop_front();
        }
        // Under the lock, so that the file has the order of the numbers. The writer outlives us; if it died, `kept` says so.
        let _ = self.writer.send(Command::Line(line));
        drop(recent);
        // Another entry may have come in between: the head never goes back.
        self.head.send_modify(|head| *head = sequence.max(*head));
        sequence
    }

    /// Resolves once everything recorded before is kept.
    pub async fn kept(&self) -> Result<(), NotKept> {
        let failed = |cause: String| NotKept { path: self.path.display().to_string(), cause };
        let (answer, answered) = oneshot::channel();
        self.writer.send(Command::Sync(answer)).map_err(|_| failed("its writer has ended".into()))?;
        answered.await.map_err(|_| failed("its writer has ended".into()))?.map_err(failed)
    }

    /// The last `count` entries in memory, oldest first.
    pub fn tail(&self, count: usize) -> Vec<Arc<T>> {
        let recent = self.lock();
        recent.entries.iter().skip(recent.entries.len().saturating_sub(count)).cloned().collect()
    }

    /// At most `count` entries before `sequence`, newest first. Those that are no longer in memory are read from the files.
    pub async fn before(&self, sequence: u64, count: usize) -> io::Result<Vec<Arc<T>>> {
        let (mut found, first) = {
            let recent = self.lock();
            let older = recent.entries.iter().rev().filter(|entry| entry.sequence() < sequence);
            (older.take(count).cloned().collect::<Vec<_>>(), recent.first())
        };
        let missing = count - found.len();
        if missing > 0 && first > 1 {
            let (path, end) = (self.path.clone(), sequence.min(first));
            let read = tokio::task::spawn_blocking(move || file::read_before::<T>(&path, end, missing)).await;
            found.extend(read.map_err(io::Error::other)??.into_iter().map(Arc::new));
        }
        Ok(found)
    }

    /// The number of the newest entry; 0 if there is none.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// A reader of the entries from now on.
    pub fn subscribe(&self) -> Follower<T> {
        self.subscribe_after(self.head())
    }

    /// A reader of the entries after `sequence`. Entries that are no longer in memory are left out.
    pub fn subscribe_after(&self, sequence: u64) -> Follower<T> {
        Follower { recent: Arc::clone(&self.recent), head: self.head.subscribe(), seen: sequence }
    }
}

/// A reader that follows a journal.
pub struct Follower<T> {
    recent: Arc<Mutex<Recent<T>>>,
    head: watch::Receiver<u64>,
    seen: u64,
}

impl<T> fmt::Debug for Follower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl<T: Entry> Follower<T> {
    /// The next entry; `None` when the journal is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<T>> {
        loop {
            self.head.borrow_and_update();
            let found = self.recent.lock().unwrap_or_else(PoisonError::into_inner).after(self.seen).next().cloned();
            if let Some(entry) = found {
                self.seen = entry.sequence();
                return Some(entry);
            }
            self.head.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests;
