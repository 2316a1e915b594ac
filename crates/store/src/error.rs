//! What can go wrong, and what to do about it. Each message names the operation or object and the way out.

use crate::kv::Key;
use crate::lease::LeaseId;
use crate::rev::Rev;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Result of an operation on the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store refused or failed. Cheap to clone, since one failure can answer many callers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A create found the key taken.
    #[error("cannot create {key}: it exists since revision {rev}; choose another name or update it")]
    Exists {
        /// The taken key.
        key: Key,
        /// Its present revision.
        rev: Rev,
    },
    /// A compare-and-swap lost against another writer.
    #[error("cannot change {key}: {}; read it again and repeat the change", found_text(*found))]
    Conflict {
        /// The key that did not match; one of them when several were compared.
        key: Key,
        /// Its present revision, `None` when it does not exist.
        found: Option<Rev>,
    },
    /// The history that was asked for is no longer (or not) there.
    #[error(
        "revision {asked} is not in the history any more (it starts at {min}); list again and go on from the revision of the list"
    )]
    Compacted {
        /// The revision that was asked for.
        asked: Rev,
        /// The oldest revision that can be asked for.
        min: Rev,
    },
    /// It may or may not have happened.
    #[error("{op} may or may not have happened ({cause}); read the keys again before you repeat it")]
    Unknown {
        /// The operation.
        op: &'static str,
        /// Why the answer is missing.
        cause: String,
    },
    /// A limit of the store; the same with every engine.
    #[error("{what} of {size} is over the limit of {limit} per transaction; {hint}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
        /// What to do instead.
        hint: &'static str,
    },
    /// A request that has no meaning.
    #[error("cannot run the request on {object}: {reason}")]
    Invalid {
        /// The key or field at fault.
        object: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No room for more data. Reads and deletions still work.
    #[error("the state is full ({cause}): delete objects that you do not need, compact, or give {place} more room")]
    NoSpace {
        /// Which limit was met.
        cause: String,
        /// The directory or cluster that is full.
        place: String,
    },
    /// No member of the cluster can decide now.
    #[error("the state has no leader now: wait until a majority of its members is up, then repeat")]
    NoLeader,
    /// The lease ended or never was.
    #[error("lease {id} has ended: ask for a new lease and write its keys again")]
    LeaseGone {
        /// The lease.
        id: LeaseId,
    },
    /// The files were written by a newer yun.
    #[error(
        "cannot open the state in {dir}: its format {found} is newer than {known}, the newest that this yun knows; install a newer yun"
    )]
    StateNewer {
        /// The state directory.
        dir: PathBuf,
        /// Format of the files.
        found: u32,
        /// Newest known format.
        known: u32,
    },
    /// The object was written by a newer yun.
    #[error(
        "cannot read {key}: its version {found} is newer than {known}, the newest that this yun knows; upgrade yun"
    )]
    ObjectNewer {
        /// The object.
        key: Key,
        /// Version of the stored object.
        found: u32,
        /// Newest known version.
        known: u32,
    },
    /// What is stored cannot be understood.
    #[error("cannot read {object}: {detail}; restore it from a snapshot or delete it")]
    Corrupt {
        /// The key or file.
        object: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Another process has the state open.
    #[error("cannot open the state in {dir}: {} has it open; stop that process or choose another root", pid_text(*pid))]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// The other process, if it left its number.
        pid: Option<u32>,
    },
    /// The store was closed, or its writer stopped after a failure of the disk.
    #[error("cannot {op}: the state is closed ({cause}); restart yun")]
    Closed {
        /// The operation that came too late.
        op: &'static str,
        /// Why it is closed.
        cause: String,
    },
    /// The disk or the database failed.
    #[error("cannot {op} {object}: the disk or database failed; check the disk and the log of the kernel")]
    Io {
        /// The operation.
        op: &'static str,
        /// The file or key.
        object: String,
        /// The failure below.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// Wraps a failure of the disk or the database with what was being done to what.
    pub fn io(op: &'static str, object: impl ToString, source: impl Error + Send + Sync + 'static) -> Self {
        StoreError::Io { op, object: object.to_string(), source: Arc::new(source) }
    }

    /// Whether reading again and repeating can help: another writer was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, StoreError::Conflict { .. } | StoreError::Exists { .. })
    }
}

fn found_text(found: Option<Rev>) -> String {
    match found {
        Some(rev) => format!("someone else changed it at revision {rev}"),
        None => "it does not exist any more".into(),
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// Why a watch ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchEnd {
    /// Changes may be missing: list again, treat what vanished as deleted, and watch from the revision of the list.
    #[error(
        "the watch fell behind the history, which starts at {min}: list again and watch from the revision of the list"
    )]
    Compacted {
        /// The oldest revision to watch from.
        min: Rev,
    },
    /// The store failed or was closed; nothing is lost: watch again from the last revision that came.
    #[error("the watch was cut off: watch again from the last revision that came")]
    Failed(#[source] StoreError),
}
