//! Watches: from the ring while the watcher keeps up, from the log table while it is further behind.

use super::Shared;
use super::ring::{Revision, Slice};
use crate::error::{StoreError, WatchEnd};
use crate::kv::{Batch, KeyRange};
use crate::rev::Rev;
use crate::store::WatchStream;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch as signal;

/// Revisions that are looked at in one go.
const STEP: usize = 512;

/// The stream of one watcher. Holds no task: it works only while somebody polls it.
pub(super) fn stream(shared: Arc<Shared>, range: KeyRange, after: Rev) -> WatchStream {
    let published = shared.published.subscribe();
    let watcher = Watcher { shared, published, range, after, cursor: None, ready: VecDeque::new(), ended: false };
    Box::pin(futures::stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    }))
}

struct Watcher {
    shared: Arc<Shared>,
    published: signal::Receiver<super::Published>,
    range: KeyRange,
    after: Rev,
    /// Everything up to here was looked at; `None` until the start is checked.
    cursor: Option<u64>,
    ready: VecDeque<Batch>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Batch, WatchEnd>> {
        if self.ended {
            return None;
        }
        let item = self.advance().await;
        self.ended = item.is_err();
        Some(item)
    }

    async fn advance(&mut self) -> Result<Batch, WatchEnd> {
        let mut cursor = match self.cursor {
            Some(cursor) => cursor,
            None => self.start().await?,
        };
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            // Marked as seen before looking, so that a revision that comes in between wakes us again.
            let closed = self.published.borrow_and_update().closed;
            let slice = self.shared.ring().after(cursor, STEP);
            let upto = match slice {
                Slice::Behind => self.read_log(cursor).await?,
                Slice::Next(revisions) if revisions.is_empty() => {
                    if closed || self.published.changed().await.is_err() {
                        return Err(WatchEnd::Failed(StoreError::Closed {
                            op: "watch",
                            cause: "the store was closed".into(),
                        }));
                    }
                    continue;
                }
                Slice::Next(revisions) => {
                    let upto = revisions.last().map_or(cursor, |last| last.n);
                    for revision in revisions {
                        self.ready.extend(self.batch(&revision));
                    }
                    upto
                }
            };
            // Nothing for us up to here: say so, for those who wait to have seen a revision.
            if self.ready.back().is_none_or(|last| last.rev.n < upto) {
                self.ready.push_back(Batch { rev: self.shared.rev(upto), events: Vec::new() });
            }
            cursor = upto;
            self.cursor = Some(cursor);
        }
    }

    /// Checks that history reaches back to `after`.
    async fn start(&mut self) -> Result<u64, WatchEnd> {
        let compacted = WatchEnd::Compacted { min: self.shared.min_rev() };
        let after = self.after;
        if after.epoch != self.shared.epoch || after < self.shared.min_rev() {
            return Err(compacted);
        }
        if after.n > self.published.borrow().head {
            // Either committed and not yet published, or of a history that this one replaced without telling.
            let head = self.shared.reading("watch", |reader| Ok(reader.head())).await.map_err(WatchEnd::Failed)?;
            if after.n > head {
                return Err(compacted);
            }
        }
        self.cursor = Some(after.n);
        Ok(after.n)
    }

    async fn read_log(&mut self, cursor: u64) -> Result<u64, WatchEnd> {
        let range = self.range.clone();
        let slice = self.shared.reading("watch", move |reader| reader.log(&range, cursor)).await;
        let slice = slice.map_err(|e| match e {
            StoreError::Compacted { min, .. } => WatchEnd::Compacted { min },
            e => WatchEnd::Failed(e),
        })?;
        for revision in slice.revisions {
            self.ready.push_back(Batch { rev: self.shared.rev(revision.n), events: revision.events });
        }
        Ok(slice.upto)
    }

    fn batch(&self, revision: &Revision) -> Option<Batch> {
        let events: Vec<_> = revision.events.iter().filter(|event| self.range.contains(event.key())).cloned().collect();
        if events.is_empty() { None } else { Some(Batch { rev: self.shared.rev(revision.n), events }) }
    }
}
