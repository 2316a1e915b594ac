//! The embedded engine: SQLite in write-ahead mode, synced at every commit, one writer thread with group commit.
//!
//! ```text
//! callers ──jobs──▶ writer thread ──BEGIN..COMMIT (fsync)──▶ state.db
//!    ▲                  │ publish revisions in the ring, wake watchers, then answer
//!    └───answers────────┘
//! readers: own connections, always see the last commit          watchers: ring; the log table when they are further behind
//! ```
//!
//! Words: a *job* is one request to the writer; a *batch* is the jobs of one commit; *log* has one row per event, *head* one per live key.
//! `log.id` is `revision << 16 | place in the transaction`; `prev` is the id that a row replaced, so that both reading the past and
//! forgetting it need no index.

mod apply;
mod lease;
mod read;
mod restore;
mod ring;
mod schema;
mod sweep;
mod watch;
mod writer;

pub use restore::Existing;

use crate::clock::{Clock, SystemClock};
use crate::error::{Result, StoreError};
use crate::kv::{KeyRange, Page};
use crate::lease::{Lease, LeaseId, LeaseLeft};
use crate::limits::{self, CheckedTxn};
use crate::rev::Rev;
use crate::store::{Health, Store, WatchStream};
use crate::txn::TxnOut;
use async_trait::async_trait;
use read::Readers;
use ring::Ring;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, oneshot, watch as signal};
use writer::{Job, Queued, Reply, Writer};

/// Room in the queue of the writer, in KiB of requests; callers wait when it is used up.
const QUEUE_KIB: u32 = 32 * 1024;

/// How a store is opened. The defaults are right for production.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time for leases.
    pub clock: Arc<dyn Clock>,
    /// Size from which `health` warns.
    pub soft: u64,
    /// Size from which puts are refused.
    pub hard: u64,
    /// How many revisions stay readable without a call of `compact`. Older ones are forgotten little by little.
    pub keep_revisions: u64,
    /// Revisions in memory for watchers.
    pub ring_revisions: usize,
    /// Bytes of events in memory for watchers.
    pub ring_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            clock: Arc::new(SystemClock::default()),
            soft: limits::SOFT_SIZE,
            hard: limits::HARD_SIZE,
            keep_revisions: 100_000,
            ring_revisions: 10_000,
            ring_bytes: 6 << 20,
        }
    }
}

/// What the writer, the readers and the watchers share.
pub(crate) struct Shared {
    dir: PathBuf,
    epoch: u32,
    soft: u64,
    hard: u64,
    ring: Mutex<Ring>,
    /// Tells watchers that the ring grew.
    published: signal::Sender<Published>,
    compacted: AtomicU64,
    leases: AtomicUsize,
    readers: Readers,
    trouble: Mutex<Option<String>>,
}

/// What watchers wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Published {
    head: u64,
    closed: bool,
}

impl Shared {
    fn rev(&self, n: u64) -> Rev {
        Rev::new(self.epoch, n)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn min_rev(&self) -> Rev {
        self.rev(self.compacted.load(Ordering::Acquire))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a read connection away from the async threads.
    async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        op: &'static str,
        work: impl FnOnce(&read::Reader<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self);
        let permit = self.readers.permit().await;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            shared.readers.with(&shared, op, work)
        });
        task.await.map_err(|e| StoreError::io(op, self.dir.display(), e))?
    }
}

/// A state in a directory of this machine. Dropping it finishes the queue, ends all watches and frees the directory.
pub struct SqliteStore {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Queued>>,
    room: Arc<Semaphore>,
    writer: Option<std::thread::JoinHandle<()>>,
    /// Held as long as the state is open.
    _lock: std::fs::File,
}

impl SqliteStore {
    /// Opens the state in `dir`, or makes an empty one. Blocks for the time that recovery needs.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let lock = schema::lock(dir)?;
        let conn = schema::open(dir, &options)?;
        let meta = schema::Meta::load(&conn).map_err(|e| StoreError::io("open", dir.display(), e))?;
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            epoch: meta.epoch,
            soft: options.soft,
            hard: options.hard,
            ring: Mutex::new(Ring::new(meta.head, options.ring_revisions, options.ring_bytes)),
            published: signal::Sender::new(Published { head: meta.head, closed: false }),
            compacted: AtomicU64::new(meta.compacted),
            leases: AtomicUsize::new(0),
            readers: Readers::new(schema::file(dir)),
            trouble: Mutex::new(None),
        });
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(conn, meta, Arc::clone(&shared), &options)
            .map_err(|e| StoreError::io("open", dir.display(), e))?;
        let writer = std::thread::Builder::new()
            .name("yun-store".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| StoreError::io("start the writer of", dir.display(), e))?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
        Ok(SqliteStore { shared, jobs: Some(jobs), room, writer: Some(writer), _lock: lock })
    }

    /// Ends the leases whose time is over by the clock of the options. The engine does so by itself in real time; tests that move the clock
    /// by hand call this after it.
    pub async fn expire_leases(&self) -> Result<()> {
        self.ask("end leases", 1, Job::Expire).await
    }

    async fn ask<T>(&self, op: &'static str, kib: u32, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let closed = || StoreError::Closed { op, cause: "its writer has stopped".into() };
        let permit = Arc::clone(&self.room).acquire_many_owned(kib.min(QUEUE_KIB)).await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(Queued { job: job(reply), permit }).map_err(|_| closed())?;
        answer.await.map_err(|_| StoreError::Unknown { op, cause: "the writer stopped before it answered".into() })?
    }
}

impl fmt::Debug for SqliteStore {
    /// Names the directory only: what is stored may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has told so in the log; there is nobody left to tell.
            let _ = writer.join();
        }
        self.shared.published.send_modify(|published| published.closed = true);
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn range(&self, range: KeyRange, at: Option<Rev>, limit: usize) -> Result<Page> {
        self.shared.reading("list", move |reader| reader.range(&range, at, limit)).await
    }

    async fn commit(&self, txn: CheckedTxn) -> Result<TxnOut> {
        let kib = txn.kib();
        self.ask("the transaction", kib, |reply| Job::Txn(txn.into_inner(), reply)).await
    }

    fn watch(&self, range: KeyRange, after: Rev) -> WatchStream {
        watch::stream(Arc::clone(&self.shared), range, after)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        limits::check_ttl(ttl)?;
        self.ask("grant a lease", 1, |reply| Job::Grant(ttl, reply)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.ask("keep a lease alive", 1, |reply| Job::KeepAlive(id, reply)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.ask("revoke a lease", 1, |reply| Job::Revoke(id, reply)).await
    }

    async fn lease_remaining(&self, id: LeaseId) -> Result<LeaseLeft> {
        self.ask("look at a lease", 1, |reply| Job::Remaining(id, reply)).await
    }

    async fn compact(&self, keep_after: Rev) -> Result<()> {
        self.ask("compact", 1, |reply| Job::Compact(keep_after, reply)).await
    }

    async fn snapshot(&self, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<Rev> {
        let (chunks, mut arriving) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
        let copy = self.shared.reading("snapshot", move |reader| reader.snapshot(&chunks));
        let write = async move {
            // Ends, and drops the receiver, at the first failure: the copy then stops too.
            while let Some(chunk) = arriving.recv().await {
                to.write_all(&chunk).await?;
            }
            to.flush().await
        };
        // Both at once: the copy waits for room, the writing waits for chunks.
        let (rev, written) = tokio::join!(copy, write);
        written.map_err(|e| StoreError::io("write a snapshot of", self.shared.dir.display(), e))?;
        rev
    }

    async fn health(&self) -> Result<Health> {
        self.shared.reading("look at", |reader| reader.health()).await
    }
}
