//! The state as a plain map: what a store must look like to its users.

use crate::kv::{Event, Key, KeyRange, Kv};
use crate::rev::Rev;
use crate::txn::{Op, OpResult, Txn, TxnOut};
use std::collections::BTreeMap;

/// The model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The live pairs.
    pub pairs: BTreeMap<Key, Kv>,
}

impl Model {
    /// The state that a list showed.
    pub fn new(kvs: &[Kv]) -> Self {
        Model { pairs: kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect() }
    }

    /// Runs a transaction that would get revision `next`; without changes it reads at `head`.
    pub fn run(&mut self, txn: &Txn, head: Rev, next: Rev) -> (TxnOut, Vec<Event>) {
        let succeeded = txn.cmps.iter().all(|cmp| cmp.holds(self.pairs.get(cmp.key())));
        let mut events = Vec::new();
        let ops = if succeeded { &txn.then } else { &txn.or_else };
        let results = ops.iter().map(|op| self.step(op, next, &mut events)).collect();
        let rev = if events.is_empty() { head } else { next };
        (TxnOut { rev, succeeded, results }, events)
    }

    fn step(&mut self, op: &Op, rev: Rev, events: &mut Vec<Event>) -> OpResult {
        match op {
            Op::Get(key) => OpResult::Get(self.pairs.get(key).cloned()),
            Op::Del(key) => OpResult::Del(self.del(key, events)),
            Op::DelRange(range) => {
                let keys: Vec<Key> = self.pairs.keys().filter(|key| range.contains(key)).cloned().collect();
                OpResult::Del(keys.iter().map(|key| self.del(key, events)).sum())
            }
            Op::Put { key, value, lease } => {
                let (create_rev, version) = self.pairs.get(key).map_or((rev, 1), |kv| (kv.create_rev, kv.version + 1));
                let kv =
                    Kv { key: key.clone(), value: value.clone(), create_rev, mod_rev: rev, version, lease: *lease };
                self.pairs.insert(key.clone(), kv.clone());
                events.push(Event::Put(kv));
                OpResult::Put
            }
        }
    }

    fn del(&mut self, key: &Key, events: &mut Vec<Event>) -> usize {
        let gone = self.pairs.remove(key).is_some();
        events.extend(gone.then(|| Event::Delete(key.clone())));
        usize::from(gone)
    }

    /// The pairs of a range.
    pub fn list(&self, range: &KeyRange) -> Vec<Kv> {
        self.pairs.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
    }
}
