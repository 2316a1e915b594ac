//! What a cache holds, and how batches and lists change it. Pure: the caller brings what the store said.

use super::changes::{Change, Ring};
use crate::codec::Stored;
use crate::error::StoreError;
use crate::kv::{Batch, Event, Key, Kv};
use crate::rev::Rev;
use crate::table::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far a cache is: what its readers wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(super) rev: Rev,
    /// Number of the next change; moves when a list repeats a revision.
    seq: u64,
}

/// The rows at one revision, and the way there.
pub(super) struct State<T> {
    pub(super) rows: BTreeMap<Key, Arc<Row<T>>>,
    pub(super) broken: BTreeMap<Key, StoreError>,
    pub(super) rev: Rev,
    pub(super) ring: Ring<T>,
    pub(super) trouble: Option<StoreError>,
}

impl<T> State<T> {
    pub(super) fn head(&self) -> Head {
        Head { rev: self.rev, seq: self.ring.end() }
    }
}

impl<T: Stored> State<T> {
    pub(super) fn new(rev: Rev, kvs: &[Kv], keep: usize) -> Self {
        let ring = Ring::new(rev, keep);
        let mut state = State { rows: BTreeMap::new(), broken: BTreeMap::new(), rev, ring, trouble: None };
        for kv in kvs {
            if let Some(row) = state.decode(kv) {
                state.rows.insert(kv.key.clone(), row);
            }
        }
        state
    }

    /// Applies one revision.
    pub(super) fn apply(&mut self, batch: Batch) {
        for event in &batch.events {
            match event {
                Event::Put(kv) => self.put(kv, batch.rev),
                Event::Delete(key) => self.delete(key, batch.rev),
            }
        }
        self.rev = batch.rev;
        self.trouble = None;
    }

    /// Becomes the state of a new list: what is not in it was deleted meanwhile, what differs was changed.
    pub(super) fn replace(&mut self, rev: Rev, kvs: &[Kv]) {
        if rev < self.rev {
            self.ring.restart(rev);
        }
        let listed: BTreeSet<&Key> = kvs.iter().map(|kv| &kv.key).collect();
        let gone: Vec<Key> =
            self.rows.keys().chain(self.broken.keys()).filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            self.delete(&key, rev);
        }
        for kv in kvs {
            if self.rows.get(&kv.key).is_none_or(|row| row.rev != kv.mod_rev) {
                self.put(kv, rev);
            }
        }
        self.rev = rev;
        self.trouble = None;
    }

    fn put(&mut self, kv: &Kv, rev: Rev) {
        match self.decode(kv) {
            Some(row) => {
                let old = self.rows.insert(kv.key.clone(), Arc::clone(&row));
                self.ring.push(Change { key: kv.key.clone(), old, new: Some(row), rev });
            }
            // To readers an object that cannot be read is as good as gone; `broken` keeps why.
            None => self.remove(&kv.key, rev),
        }
    }

    fn delete(&mut self, key: &Key, rev: Rev) {
        self.broken.remove(key);
        self.remove(key, rev);
    }

    fn remove(&mut self, key: &Key, rev: Rev) {
        if let Some(old) = self.rows.remove(key) {
            self.ring.push(Change { key: key.clone(), old: Some(old), new: None, rev });
        }
    }

    fn decode(&mut self, kv: &Kv) -> Option<Arc<Row<T>>> {
        match Row::decode(kv) {
            Ok(row) => {
                self.broken.remove(&kv.key);
                Some(Arc::new(row))
            }
            Err(e) => {
                tracing::error!(error = %e, "a stored object cannot be read and is left out");
                self.broken.insert(kv.key.clone(), e);
                None
            }
        }
    }
}
