//! Transactions: comparisons, then one of two lists of operations, all at once.

use crate::kv::{Key, KeyRange, Kv};
use crate::lease::LeaseId;
use crate::rev::Rev;
use bytes::Bytes;

/// A condition on the state before the transaction. One about a revision is false when the key does not exist or the epoch differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmp {
    /// The key does not exist.
    Absent(Key),
    /// The key exists.
    Exists(Key),
    /// The key was last put at this revision.
    ModRev(Key, Rev),
    /// The key was created at this revision: "I still hold this lock".
    CreateRev(Key, Rev),
    /// The key exists and dies with this lease.
    LeaseIs(Key, LeaseId),
}

impl Cmp {
    /// The key that it looks at.
    pub fn key(&self) -> &Key {
        match self {
            Cmp::Absent(key)
            | Cmp::Exists(key)
            | Cmp::ModRev(key, _)
            | Cmp::CreateRev(key, _)
            | Cmp::LeaseIs(key, _) => key,
        }
    }

    /// Whether it holds for what is stored under its key.
    pub fn holds(&self, found: Option<&Kv>) -> bool {
        match (self, found) {
            (Cmp::Absent(_), found) => found.is_none(),
            (_, None) => false,
            (Cmp::Exists(_), Some(_)) => true,
            (Cmp::ModRev(_, rev), Some(kv)) => kv.mod_rev == *rev,
            (Cmp::CreateRev(_, rev), Some(kv)) => kv.create_rev == *rev,
            (Cmp::LeaseIs(_, lease), Some(kv)) => kv.lease == Some(*lease),
        }
    }
}

/// One step of a transaction. Steps see the steps before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or change a key. Without a lease it is detached from the one that it had.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// The lease that it dies with from now on.
        lease: Option<LeaseId>,
    },
    /// Delete a key; fine when it does not exist.
    Del(Key),
    /// Delete all keys of a range.
    DelRange(KeyRange),
    /// Read a key.
    Get(Key),
}

impl Op {
    /// A put without a lease.
    pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// A put of a key that dies with `lease`.
    pub fn put_leased(key: impl Into<Key>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Op::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// A deletion of one key.
    pub fn del(key: impl Into<Key>) -> Self {
        Op::Del(key.into())
    }

    /// A read of one key.
    pub fn get(key: impl Into<Key>) -> Self {
        Op::Get(key.into())
    }
}

/// A transaction: if all `cmps` hold then `then`, else `or_else`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; none at all means `then`.
    pub cmps: Vec<Cmp>,
    /// What to do when they all hold.
    pub then: Vec<Op>,
    /// What to do otherwise.
    pub or_else: Vec<Op>,
}

impl Txn {
    /// An empty transaction, to be filled with the methods below.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, cmp: Cmp) -> Self {
        self.cmps.push(cmp);
        self
    }

    /// Adds a step for the case that all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds a step for the case that a condition fails.
    #[must_use]
    pub fn or_else(mut self, op: Op) -> Self {
        self.or_else.push(op);
        self
    }

    /// Creates a key that must not exist.
    pub fn create(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Txn::new().when(Cmp::Absent(key.clone())).then(Op::put(key, value))
    }

    /// Changes a key that must still be at `rev`.
    pub fn swap(key: impl Into<Key>, rev: Rev, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Txn::new().when(Cmp::ModRev(key.clone(), rev)).then(Op::put(key, value))
    }

    /// Puts a key whatever is there.
    pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Txn::new().then(Op::put(key, value))
    }
}

/// What one step of a transaction gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The key is put.
    Put,
    /// So many keys were deleted.
    Del(usize),
    /// What the key held at that step.
    Get(Option<Kv>),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOut {
    /// Its own revision if it changed something, else the revision at which it read.
    pub rev: Rev,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One result per step of the list that ran.
    pub results: Vec<OpResult>,
}
