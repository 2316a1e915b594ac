//! The revisioned key-value state of a cloud: one trait, an embedded engine behind it, typed tables and watch caches on top.
//!
//! Owns: revisions, compare-and-swap transactions, watches, leases, compaction, snapshots, and the stored form of typed objects.
//! Never: decides what an object means, talks to nodes, or holds logs, metrics, images (a value is at most 1 MiB).
//!
//! Words:
//! - *revision* ([`Rev`]): the number of a committed change; grows by one per writing transaction; given out as an opaque string. Its
//!   *epoch* grows when history was replaced (restore, move to another engine): tokens of an older epoch are always "compacted".
//! - *transaction* ([`Txn`]): comparisons, then one of two lists of operations, atomically. All its events carry one revision.
//! - *watch*: the changes of a key range after a revision, in order, without gaps, until `Compacted` says: list again.
//! - *lease*: keys that disappear together, not before the time to live after the last sign of life. It shows liveness; it is **not** a
//!   lock: write with [`Cmp::CreateRev`] on the lock key in the same transaction and pass that revision on as the fencing token.
//! - *compaction*: forgetting history up to a revision; the state at that revision and all later changes stay readable.
//!
//! ```text
//! Cache<T>  in memory, read in microseconds, subscribe, resume        cache.rs
//! Table<T>  typed rows in an envelope {"v":N,"o":...}, CAS            table.rs, codec.rs, path.rs
//! Store     etcd semantics, limits equal for every engine             store.rs, txn.rs, kv.rs, rev.rs, limits.rs, error.rs
//! engines   SqliteStore                                               sqlite/
//! ```
//!
//! Usual use: write through [`Table`] (or one [`Txn`] made of `Table::cmp_*` and `Table::op_*` parts), then `cache.wait_for(rev)` to read your own
//! write, read everything through [`Cache`]. A failed comparison is [`StoreError::Conflict`]: read again and repeat, or use
//! [`Table::modify`]. [`StoreError::Unknown`] means that the write may or may not have happened: read again before you act.

pub mod cache;
pub mod clock;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
pub mod kv;
pub mod lease;
pub mod limits;
pub mod path;
pub mod rev;
pub mod snapshot;
pub mod sqlite;
pub mod store;
pub mod table;
pub mod txn;

/// The type of values, so that users need no dependency of their own.
pub use bytes::Bytes;
pub use cache::{Cache, CachePage, Change, Changes, Entry};
pub use clock::{Clock, ManualClock, SystemClock};
pub use codec::{Never, Stored};
pub use error::{Result, StoreError, WatchEnd};
pub use kv::{Batch, Event, Key, KeyRange, Kv, Page};
pub use lease::{Lease, LeaseId, LeaseLeft};
pub use limits::CheckedTxn;
pub use rev::Rev;
pub use sqlite::{Existing, Options, SqliteStore};
pub use store::{Health, Store, WatchStream, read_all};
pub use table::{Row, Rows, Table, commit};
pub use txn::{Cmp, Op, OpResult, Txn, TxnOut};
