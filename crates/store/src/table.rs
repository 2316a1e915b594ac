//! Typed rows on top of the store. Reads of hot paths belong to [`crate::Cache`]; this one always asks the store.

use crate::codec::{self, Stored};
use crate::error::{Result, StoreError};
use crate::kv::{Key, KeyRange, Kv};
use crate::lease::LeaseId;
use crate::path;
use crate::rev::Rev;
use crate::store::Store;
use crate::txn::{Cmp, Op, OpResult, Txn, TxnOut};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A table of `T`. Cheap to clone.
pub struct Table<T> {
    store: Arc<dyn Store>,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Table { store: Arc::clone(&self.store), rows: PhantomData }
    }
}

impl<T: Stored> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("table", &T::TABLE).finish_non_exhaustive()
    }
}

/// A stored object with its history numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T> {
    /// Its key.
    pub key: Key,
    /// The object, brought to the present version.
    pub value: T,
    /// When it was last written: what `update` and `delete` compare.
    pub rev: Rev,
    /// When it was created; the fencing token of a lock.
    pub create_rev: Rev,
    /// The lease that it dies with.
    pub lease: Option<LeaseId>,
}

/// A page of rows in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The revision at which all were read.
    pub rev: Rev,
    /// The rows.
    pub rows: Vec<Row<T>>,
    /// Key to go on behind; `None` at the end.
    pub next: Option<Key>,
}

impl<T: Stored> Row<T> {
    /// Reads a stored pair as a row.
    pub fn decode(kv: &Kv) -> Result<Self> {
        let value = codec::decode(&kv.key, &kv.value)?;
        Ok(Row { key: kv.key.clone(), value, rev: kv.mod_rev, create_rev: kv.create_rev, lease: kv.lease })
    }
}

impl<T: Stored> Table<T> {
    /// The table of `T` in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Table { store, rows: PhantomData }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Key of the object at `segments`, for example `[project, name]`.
    pub fn key(segments: &[&str]) -> Key {
        path::key(T::TABLE, segments)
    }

    /// All keys below `segments`; the whole table for `[]`.
    pub fn below(segments: &[&str]) -> KeyRange {
        path::below(T::TABLE, segments)
    }

    /// Reads one object.
    pub async fn get(&self, segments: &[&str]) -> Result<Option<Row<T>>> {
        let page = self.store.range(KeyRange::single(Self::key(segments)), None, 1).await?;
        page.kvs.first().map(Row::decode).transpose()
    }

    /// Reads at most `limit` objects below `segments`, behind the key `after`. Give the `rev` of the first page as `at` to read all pages at
    /// one revision.
    pub async fn list(&self, segments: &[&str], after: Option<&Key>, at: Option<Rev>, limit: usize) -> Result<Rows<T>> {
        let range = Self::below(segments);
        let range = after.map_or_else(|| range.clone(), |key| range.behind(key));
        let page = self.store.range(range, at, limit).await?;
        let rows = page.kvs.iter().map(Row::decode).collect::<Result<Vec<_>>>()?;
        let next = if page.more { rows.last().map(|row| row.key.clone()) } else { None };
        Ok(Rows { rev: page.rev, rows, next })
    }

    /// Creates an object; `Exists` when there is one.
    pub async fn create(&self, segments: &[&str], value: &T) -> Result<Rev> {
        let key = Self::key(segments);
        let txn = Txn::new()
            .when(Cmp::Absent(key.clone()))
            .then(Self::op_put(segments, value)?)
            .or_else(Op::Get(key.clone()));
        let out = self.store.txn(txn).await?;
        match (out.succeeded, found(&out)) {
            (true, _) => Ok(out.rev),
            (false, Some(rev)) => Err(StoreError::Exists { key, rev }),
            (false, None) => Err(StoreError::Conflict { key, found: None }),
        }
    }

    /// Changes an object that must still be at `rev`; `Conflict` when it is not.
    pub async fn update(&self, segments: &[&str], value: &T, rev: Rev) -> Result<Rev> {
        self.swap(segments, rev, Self::op_put(segments, value)?).await
    }

    /// Deletes an object that must still be at `rev`; `Conflict` when it is not.
    pub async fn delete(&self, segments: &[&str], rev: Rev) -> Result<Rev> {
        self.swap(segments, rev, Self::op_del(segments)).await
    }

    /// Reads, changes and writes an object, again and again while others are faster. `change` answers `false` when there is nothing to
    /// write. `Conflict` when the object does not exist or 32 attempts all lost.
    pub async fn modify<F: FnMut(&mut T) -> bool + Send>(&self, segments: &[&str], mut change: F) -> Result<Row<T>> {
        const ATTEMPTS: usize = 32;
        let mut found = None;
        for _ in 0..ATTEMPTS {
            let Some(mut row) = self.get(segments).await? else {
                return Err(StoreError::Conflict { key: Self::key(segments), found: None });
            };
            if !change(&mut row.value) {
                return Ok(row);
            }
            let op = Op::Put { key: row.key.clone(), value: codec::encode(&row.key, &row.value)?, lease: row.lease };
            match self.swap(segments, row.rev, op).await {
                Ok(rev) => return Ok(Row { rev, ..row }),
                Err(StoreError::Conflict { found: now, .. }) => found = now,
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Conflict { key: Self::key(segments), found })
    }

    async fn swap(&self, segments: &[&str], rev: Rev, op: Op) -> Result<Rev> {
        let key = Self::key(segments);
        let txn = Txn::new().when(Cmp::ModRev(key.clone(), rev)).then(op).or_else(Op::Get(key.clone()));
        let out = self.store.txn(txn).await?;
        if out.succeeded { Ok(out.rev) } else { Err(StoreError::Conflict { key, found: found(&out) }) }
    }

    /// Condition: nothing is at `segments`.
    pub fn cmp_absent(segments: &[&str]) -> Cmp {
        Cmp::Absent(Self::key(segments))
    }

    /// Condition: something is at `segments`.
    pub fn cmp_exists(segments: &[&str]) -> Cmp {
        Cmp::Exists(Self::key(segments))
    }

    /// Condition: the object was last written at `rev`.
    pub fn cmp_rev(segments: &[&str], rev: Rev) -> Cmp {
        Cmp::ModRev(Self::key(segments), rev)
    }

    /// Step: write the object.
    pub fn op_put(segments: &[&str], value: &T) -> Result<Op> {
        let key = Self::key(segments);
        Ok(Op::Put { value: codec::encode(&key, value)?, key, lease: None })
    }

    /// Step: write the object so that it dies with `lease`.
    pub fn op_put_leased(segments: &[&str], value: &T, lease: LeaseId) -> Result<Op> {
        let key = Self::key(segments);
        Ok(Op::Put { value: codec::encode(&key, value)?, key, lease: Some(lease) })
    }

    /// Step: delete the object.
    pub fn op_del(segments: &[&str]) -> Op {
        Op::Del(Self::key(segments))
    }

    /// Step: read the object; decode the result with [`Row::decode`].
    pub fn op_get(segments: &[&str]) -> Op {
        Op::Get(Self::key(segments))
    }
}

/// Revision of the key that the last step read.
fn found(out: &TxnOut) -> Option<Rev> {
    match out.results.last() {
        Some(OpResult::Get(Some(kv))) => Some(kv.mod_rev),
        _ => None,
    }
}

/// Runs a transaction made of parts of several tables; a failed comparison becomes `Conflict` on the first key that does not match.
///
/// # Errors
/// What [`Store::txn`] gives, and `Conflict`.
pub async fn commit(store: &dyn Store, mut txn: Txn) -> Result<TxnOut> {
    // The reads of the other branch tell which comparison failed, in the same instant.
    txn.or_else = txn.cmps.iter().map(|cmp| Op::Get(cmp.key().clone())).collect();
    let cmps = txn.cmps.clone();
    let out = store.txn(txn).await?;
    if out.succeeded {
        return Ok(out);
    }
    let mut results = out.results.into_iter();
    for cmp in cmps {
        let Some(OpResult::Get(kv)) = results.next() else { break };
        if !cmp.holds(kv.as_ref()) {
            let found = kv.as_ref().map(|kv| kv.mod_rev);
            return Err(match (&cmp, found) {
                (Cmp::Absent(key), Some(rev)) => StoreError::Exists { key: key.clone(), rev },
                _ => StoreError::Conflict { key: cmp.key().clone(), found },
            });
        }
    }
    Err(StoreError::Unknown { op: "the transaction", cause: "the store failed a comparison that holds".into() })
}
