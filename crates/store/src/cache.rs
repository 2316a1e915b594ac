//! A watch cache: a part of a table in memory, always following the store.
//!
//! Words: the cache *is at* revision R when it has applied every change up to R. Whoever wrote at R and then awaits `wait_for(R)` reads its
//! own write. A *change* is what one revision did to one row; the last few thousand are kept so that a reader can resume where it was.
//! When the store has forgotten what the cache missed, the cache lists again and reports what vanished as deleted: subscribers notice nothing.

mod changes;
mod state;

pub use changes::{Change, Changes};

use crate::codec::Stored;
use crate::error::{Result, StoreError, WatchEnd};
use crate::kv::{Key, KeyRange};
use crate::path;
use crate::rev::Rev;
use crate::store::{Store, read_all};
use crate::table::Row;
use futures::StreamExt;
use state::{Head, State};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::watch;

/// What a cache holds per key.
pub type Entry<T> = Row<T>;

/// First and longest pause before the store is asked again after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A cache of the rows of `T` below a path. Cheap to clone; stops following when the last clone is dropped.
pub struct Cache<T> {
    owner: Arc<Owner<T>>,
}

struct Owner<T> {
    shared: Arc<Shared<T>>,
    /// The task that follows the store; ended with the last handle.
    task: tokio::task::AbortHandle,
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Cache { owner: Arc::clone(&self.owner) }
    }
}

impl<T: Stored> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("table", &T::TABLE).field("rev", &self.rev()).finish_non_exhaustive()
    }
}

pub(crate) struct Shared<T> {
    state: RwLock<State<T>>,
    head: watch::Sender<Head>,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then tells everybody who waits.
    fn write(&self, change: impl FnOnce(&mut State<T>)) {
        let head = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.head()
        };
        self.head.send_replace(head);
    }
}

/// A page of a cache in key order.
#[derive(Debug, Clone)]
pub struct CachePage<T> {
    /// The revision that the cache was at; watch from here to miss nothing.
    pub rev: Rev,
    /// The rows.
    pub rows: Vec<Arc<Row<T>>>,
    /// Key to go on behind; `None` at the end.
    pub next: Option<Key>,
}

impl<T: Stored> Cache<T> {
    /// Lists everything below `segments` (the whole table for `[]`) and follows it from then on. Needs a tokio runtime.
    pub async fn start(store: Arc<dyn Store>, segments: &[&str]) -> Result<Self> {
        Self::start_sized(store, segments, changes::KEEP).await
    }

    /// The same with room for `keep` changes to resume from.
    pub async fn start_sized(store: Arc<dyn Store>, segments: &[&str], keep: usize) -> Result<Self> {
        let range = path::below(T::TABLE, segments);
        let (rev, kvs) = read_all(&*store, range.clone()).await?;
        let state = State::new(rev, &kvs, keep);
        let head = watch::Sender::new(state.head());
        let shared = Arc::new(Shared { state: RwLock::new(state), head });
        let task = tokio::spawn(follow(Arc::clone(&shared), store, range)).abort_handle();
        Ok(Cache { owner: Arc::new(Owner { shared, task }) })
    }

    /// The row at `segments`, counted from the table.
    pub fn get(&self, segments: &[&str]) -> Option<Arc<Row<T>>> {
        self.get_key(&path::key(T::TABLE, segments))
    }

    /// The row with this key.
    pub fn get_key(&self, key: &str) -> Option<Arc<Row<T>>> {
        self.owner.shared.read().rows.get(key).cloned()
    }

    /// At most `limit` rows below `segments`, behind the key `after`.
    pub fn list(&self, segments: &[&str], after: Option<&Key>, limit: usize) -> CachePage<T> {
        let range = path::below(T::TABLE, segments);
        let state = self.owner.shared.read();
        let from = match after {
            Some(key) if key >= range.from() => Bound::Excluded(key.as_str()),
            _ => Bound::Included(range.from().as_str()),
        };
        let mut found = state
            .rows
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, row)| row)
            .take_while(|row| range.to().is_none_or(|to| row.key < *to));
        let rows: Vec<_> = found.by_ref().take(limit).cloned().collect();
        let next = if found.next().is_some() { rows.last().map(|row| row.key.clone()) } else { None };
        CachePage { rev: state.rev, rows, next }
    }

    /// All rows below `segments`, in key order.
    pub fn all(&self, segments: &[&str]) -> Vec<Arc<Row<T>>> {
        self.list(segments, None, usize::MAX).rows
    }

    /// How many rows it holds.
    pub fn len(&self) -> usize {
        self.owner.shared.read().rows.len()
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision that it is at.
    pub fn rev(&self) -> Rev {
        self.owner.shared.read().rev
    }

    /// Stored objects that cannot be read, with the reason; they are in no list.
    pub fn broken(&self) -> Vec<(Key, StoreError)> {
        self.owner.shared.read().broken.iter().map(|(key, e)| (key.clone(), e.clone())).collect()
    }

    /// Why it cannot follow the store now; `None` when it follows.
    pub fn trouble(&self) -> Option<StoreError> {
        self.owner.shared.read().trouble.clone()
    }

    /// Returns when the cache is at `rev` or later. Waits as long as the store is away: callers set their own time limit.
    pub async fn wait_for(&self, rev: Rev) -> Result<()> {
        let mut head = self.owner.shared.head.subscribe();
        let reached = head.wait_for(|head| head.rev >= rev).await.map(|_| ());
        reached.map_err(|_| StoreError::Closed { op: "wait for a revision", cause: "the cache stopped".into() })
    }

    /// All changes from now on.
    pub fn subscribe(&self) -> Changes<T> {
        let seq = self.owner.shared.read().ring.end();
        Changes::new(&self.owner.shared, seq)
    }

    /// All changes with revisions greater than `rev`. `Compacted` when some are not kept any more: list, then subscribe from the revision of
    /// the list.
    pub fn subscribe_from(&self, rev: Rev) -> Result<Changes<T>, WatchEnd> {
        let state = self.owner.shared.read();
        let seq = state.ring.seek(rev, state.rev)?;
        Ok(Changes::new(&self.owner.shared, seq))
    }
}

/// Applies what the store reports, for ever.
async fn follow<T: Stored>(shared: Arc<Shared<T>>, store: Arc<dyn Store>, range: KeyRange) {
    let mut pause = RETRY.0;
    loop {
        let rev = shared.read().rev;
        let mut watch = store.watch(range.clone(), rev);
        let trouble = loop {
            match watch.next().await {
                Some(Ok(batch)) => {
                    pause = RETRY.0;
                    shared.write(|state| state.apply(batch));
                }
                Some(Err(WatchEnd::Compacted { .. })) => break relist(&shared, &*store, &range).await.err(),
                Some(Err(WatchEnd::Failed(e))) => break Some(e),
                None => break Some(StoreError::Closed { op: "watch", cause: "the watch ended".into() }),
            }
        };
        if let Some(e) = trouble {
            tracing::warn!(table = T::TABLE, error = %e, "the cache cannot follow the state; it will try again");
            shared.write(|state| state.trouble = Some(e));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

async fn relist<T: Stored>(shared: &Shared<T>, store: &dyn Store, range: &KeyRange) -> Result<()> {
    let (rev, kvs) = read_all(store, range.clone()).await?;
    tracing::info!(table = T::TABLE, %rev, "the cache listed again, since the history it missed is gone");
    shared.write(|state| state.replace(rev, &kvs));
    Ok(())
}
