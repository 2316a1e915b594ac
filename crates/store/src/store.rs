//! The trait that all state goes through. Its semantics are those of etcd, so that one machine and several behave the same.

use crate::error::{Result, StoreError, WatchEnd};
use crate::kv::{Batch, KeyRange, Kv, Page};
use crate::lease::{Lease, LeaseId, LeaseLeft};
use crate::limits::CheckedTxn;
use crate::rev::Rev;
use crate::txn::{Txn, TxnOut};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::fmt;
use std::time::Duration;
use tokio::io::AsyncWrite;

/// The changes of a range. Ends after the first error.
pub type WatchStream = BoxStream<'static, Result<Batch, WatchEnd>>;

/// The revisioned state of a cloud.
///
/// All calls may come at the same time from many tasks. Dropping the future of a write does not take the write back.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Reads at most `limit` pairs of `range` in key order, now (seeing every write that was answered before) or as it was at `at`.
    /// A page may be shorter than `limit` although `more` is set; it is never empty then.
    async fn range(&self, range: KeyRange, at: Option<Rev>, limit: usize) -> Result<Page>;

    /// Runs a transaction. It is durable when this returns `Ok`; `Unknown` means that it may or may not have happened; any other error that
    /// it has not. A failed comparison is no error: see `succeeded`.
    async fn txn(&self, txn: Txn) -> Result<TxnOut> {
        self.commit(CheckedTxn::new(txn)?).await
    }

    /// What an engine implements for [`Store::txn`].
    async fn commit(&self, txn: CheckedTxn) -> Result<TxnOut>;

    /// Streams all changes of `range` with revisions greater than `after`, then new ones as they happen. Each revision comes once, whole, in
    /// order. Quiet times bring batches without events that report progress.
    fn watch(&self, range: KeyRange, after: Rev) -> WatchStream;

    /// Grants a lease that lives at least `ttl` from now.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease>;

    /// Gives a lease its full time again. `LeaseGone` when it ended: its keys are deleted or about to be.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease>;

    /// Ends a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;

    /// What is left of a lease.
    async fn lease_remaining(&self, id: LeaseId) -> Result<LeaseLeft>;

    /// Forgets the history before `keep_after`: the state at `keep_after` and all later changes stay readable. Does nothing when more was
    /// forgotten already.
    async fn compact(&self, keep_after: Rev) -> Result<()>;

    /// Writes the present state to `to` in the form of [`crate::snapshot`] and gives its revision. Writers are not stopped meanwhile.
    async fn snapshot(&self, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<Rev>;

    /// How it is.
    async fn health(&self) -> Result<Health>;
}

/// How the state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which engine: `sqlite`, `etcd`.
    pub engine: &'static str,
    /// The newest revision.
    pub head: Rev,
    /// The oldest revision that can be read or watched from.
    pub compacted: Rev,
    /// Bytes in use.
    pub size: u64,
    /// Bytes from which an operator should act.
    pub soft: u64,
    /// Bytes from which puts are refused.
    pub hard: u64,
    /// Leases that live.
    pub leases: usize,
    /// Why writes fail now, in words for an operator; `None` when they work.
    pub trouble: Option<String>,
}

/// Reads all of `range` at one revision, page by page. When compaction passes that revision on the way it starts again.
pub async fn read_all(store: &dyn Store, range: KeyRange) -> Result<(Rev, Vec<Kv>)> {
    const ATTEMPTS: usize = 5;
    let mut attempt = 0;
    'again: loop {
        let mut page = store.range(range.clone(), None, crate::limits::MAX_PAGE).await?;
        let rev = page.rev;
        let mut kvs = std::mem::take(&mut page.kvs);
        while page.more {
            let Some(last) = kvs.last() else { break };
            page = match store.range(range.behind(&last.key), Some(rev), crate::limits::MAX_PAGE).await {
                Err(StoreError::Compacted { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    continue 'again;
                }
                other => other?,
            };
            kvs.append(&mut page.kvs);
        }
        return Ok((rev, kvs));
    }
}
