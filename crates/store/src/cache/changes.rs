//! The recent changes of a cache, and readers that follow them.

use super::Shared;
use super::state::Head;
use crate::error::WatchEnd;
use crate::kv::Key;
use crate::rev::Rev;
use crate::table::Row;
use futures::Stream;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// How many changes a cache keeps by default.
pub(super) const KEEP: usize = 4096;

/// What one revision did to one row. Both `old` and `new` missing cannot happen.
pub struct Change<T> {
    /// The key of the row.
    pub key: Key,
    /// The row before; `None` when this created it.
    pub old: Option<Arc<Row<T>>>,
    /// The row after; `None` when this deleted it.
    pub new: Option<Arc<Row<T>>>,
    /// The revision of the change; resume from here. After the cache had to list again it is the revision of that list.
    pub rev: Rev,
}

impl<T> fmt::Debug for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (&self.old, &self.new) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "changed",
        };
        write!(f, "{} {kind} at {}", self.key, self.rev)
    }
}

/// The last changes, numbered in the order of their coming.
pub(super) struct Ring<T> {
    changes: VecDeque<Arc<Change<T>>>,
    /// Number of the first kept change.
    first: u64,
    /// Every change with a greater revision is kept.
    floor: Rev,
    keep: usize,
}

impl<T> Ring<T> {
    pub(super) fn new(floor: Rev, keep: usize) -> Self {
        Ring { changes: VecDeque::new(), first: 0, floor, keep }
    }

    pub(super) fn push(&mut self, change: Change<T>) {
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > self.keep {
            if let Some(gone) = self.changes.pop_front() {
                self.first += 1;
                self.floor = gone.rev;
            }
        }
    }

    /// Forgets what cannot be ordered with what comes: revisions start anew at `floor`.
    pub(super) fn restart(&mut self, floor: Rev) {
        self.first += self.changes.len() as u64;
        self.changes.clear();
        self.floor = floor;
    }

    /// Number of the next change.
    pub(super) fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// Number of the first change after `rev`, for a cache that is at `head`.
    pub(super) fn seek(&self, rev: Rev, head: Rev) -> Result<u64, WatchEnd> {
        // A revision from beyond the head belongs to a history that this one replaced.
        if rev < self.floor || rev.epoch > head.epoch {
            return Err(WatchEnd::Compacted { min: self.floor });
        }
        Ok(self.first + self.changes.partition_point(|change| change.rev <= rev) as u64)
    }

    /// The change with this number: `Err` when it is gone, `None` when it has not come.
    fn at(&self, seq: u64) -> Result<Option<Arc<Change<T>>>, WatchEnd> {
        let gone = WatchEnd::Compacted { min: self.floor };
        let index = seq.checked_sub(self.first).ok_or(gone)?;
        Ok(usize::try_from(index).ok().and_then(|index| self.changes.get(index)).cloned())
    }
}

/// A reader of the changes of a cache. Ends when the cache is dropped, or with `Compacted` when it read too slowly.
pub struct Changes<T> {
    shared: Weak<Shared<T>>,
    head: watch::Receiver<Head>,
    seq: u64,
    ended: bool,
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl<T> Changes<T> {
    pub(super) fn new(shared: &Arc<Shared<T>>, seq: u64) -> Self {
        Changes { shared: Arc::downgrade(shared), head: shared.head.subscribe(), seq, ended: false }
    }

    /// The next change. Cancel safe. On `Compacted`: list, then subscribe again.
    pub async fn next(&mut self) -> Option<Result<Arc<Change<T>>, WatchEnd>> {
        while !self.ended {
            // Marked as seen before looking, so that a change that comes in between wakes us again.
            self.head.borrow_and_update();
            let found = self.shared.upgrade()?.read().ring.at(self.seq);
            match found {
                Ok(Some(change)) => {
                    self.seq += 1;
                    return Some(Ok(change));
                }
                Ok(None) => self.head.changed().await.ok()?,
                Err(end) => {
                    self.ended = true;
                    return Some(Err(end));
                }
            }
        }
        None
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Arc<Change<T>>, WatchEnd>> + Send
    where
        T: Send + Sync + 'static,
    {
        futures::stream::unfold(self, |mut changes| async move { Some((changes.next().await?, changes)) })
    }
}
