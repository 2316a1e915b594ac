//! The load that makes a history: clients with seeded random calls on few keys, and watchers that join at random moments.

use super::{Call, History, Watched, What};
use crate::conformance::{head, until};
use crate::error::StoreError;
use crate::kv::{Key, KeyRange};
use crate::rev::Rev;
use crate::store::{Store, read_all};
use crate::txn::{Cmp, Op, OpResult, Txn};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Put by every transaction that deletes, since a delete alone does not tell whose it is.
const MARK: &str = "mark";

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Seed of all choices; the interleaving is up to the machine.
    pub seed: u64,
    /// Clients at the same time.
    pub clients: u64,
    /// Calls of each client.
    pub calls: u64,
}

/// Runs the load and records all of it.
pub async fn record(store: &Arc<dyn Store>, load: Load) -> History {
    let (start, kvs) = read_all(&**store, KeyRange::all()).await.expect("the start can be read");
    let ticks = Arc::new(AtomicU64::new(0));
    let clients = (0..load.clients).map(|id| {
        let client = Client {
            store: Arc::clone(store),
            ticks: Arc::clone(&ticks),
            rng: StdRng::seed_from_u64(load.seed << 16 | id),
            name: format!("{}.{id}", load.seed),
            seen: HashMap::new(),
            past: vec![start],
            calls: Vec::new(),
            watches: Vec::new(),
        };
        tokio::spawn(client.run(load.calls))
    });
    let (mut calls, mut watches) = (Vec::new(), Vec::new());
    for client in join_all(clients).await {
        let client = client.expect("a client does not panic");
        calls.extend(client.calls);
        watches.extend(client.watches);
    }
    let end = head(store).await;
    let log = until(&mut store.watch(KeyRange::all(), start), end).await;
    let watched = join_all(watches.into_iter().map(|(range, after, mut watch)| async move {
        let batches = until(&mut watch, end).await;
        Watched { range, after, batches }
    }));
    History { start: (start, kvs), log, calls, watched: watched.await }
}

struct Client {
    store: Arc<dyn Store>,
    ticks: Arc<AtomicU64>,
    rng: StdRng,
    name: String,
    /// The revision that this client last saw of a key.
    seen: HashMap<Key, Rev>,
    /// Revisions that it heard of.
    past: Vec<Rev>,
    calls: Vec<Call>,
    watches: Vec<(KeyRange, Rev, crate::store::WatchStream)>,
}

impl Client {
    async fn run(mut self, calls: u64) -> Self {
        for n in 0..calls {
            let asked = self.ticks.fetch_add(1, Ordering::SeqCst);
            let what = match self.rng.random_range(0..10) {
                0 | 1 => self.list().await,
                2 => {
                    self.watch();
                    continue;
                }
                _ => self.txn(n).await,
            };
            let heard = self.ticks.fetch_add(1, Ordering::SeqCst);
            self.calls.extend(what.map(|what| Call { asked, heard, what }));
        }
        self
    }

    fn key(&mut self) -> Key {
        format!("{}/{}", ["a", "b"][self.rng.random_range(0..2)], self.rng.random_range(0..4)).into()
    }

    fn range(&mut self) -> KeyRange {
        match self.rng.random_range(0..4) {
            0 => KeyRange::single(self.key()),
            1 => KeyRange::prefix("a/"),
            2 => KeyRange::prefix("b/"),
            _ => KeyRange::all(),
        }
    }

    fn past(&mut self) -> Rev {
        self.past[self.rng.random_range(0..self.past.len())]
    }

    async fn list(&mut self) -> Option<What> {
        let range = self.range();
        let at = if self.rng.random_bool(0.3) { Some(self.past()) } else { None };
        let limit = self.rng.random_range(1..10);
        let page = self.store.range(range.clone(), at, limit).await.expect("a list works");
        self.past.push(page.rev);
        if at.is_none() {
            self.seen.extend(page.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_rev)));
        }
        Some(What::List(range, at, page))
    }

    fn watch(&mut self) {
        let (range, after) = (self.range(), self.past());
        // A few are enough, and they are only read at the end: that makes them slow ones too.
        if self.watches.len() < 3 {
            self.watches.push((range.clone(), after, self.store.watch(range, after)));
        }
    }

    async fn txn(&mut self, n: u64) -> Option<What> {
        let txn = self.choose(n);
        match self.store.txn(txn.clone()).await {
            Ok(out) => {
                self.past.push(out.rev);
                let ops = if out.succeeded { &txn.then } else { &txn.or_else };
                for (op, result) in ops.iter().zip(&out.results) {
                    match (op, result) {
                        (Op::Put { key, .. }, _) => drop(self.seen.insert(key.clone(), out.rev)),
                        (_, OpResult::Get(Some(kv))) => drop(self.seen.insert(kv.key.clone(), kv.mod_rev)),
                        _ => {}
                    }
                }
                Some(What::Txn(txn, out))
            }
            Err(StoreError::Unknown { .. }) => Some(What::Unknown(txn)),
            // A definite refusal must leave no trace, which the log shows.
            Err(_) => None,
        }
    }

    fn choose(&mut self, n: u64) -> Txn {
        let key = self.key();
        // Unique, so that a write of unknown outcome can be told in the log.
        let value = format!("{}.{n}", self.name);
        let seen = self.seen.get(&key).copied();
        match (self.rng.random_range(0..8), seen) {
            (0, _) => Txn::put(key, value),
            (1, _) => Txn::create(key.clone(), value).or_else(Op::Get(key)),
            (2, _) => Txn::new().then(Op::Get(key)).then(Op::get("a/0")),
            (3, _) => Txn::new().then(Op::Del(key)).then(Op::put(MARK, value)),
            (4, _) => {
                let txn = Txn::new().then(Op::DelRange(KeyRange::prefix("b/"))).then(Op::put("a/0", value.clone()));
                txn.then(Op::put("a/1", value))
            }
            (5, Some(rev)) => {
                let delete = Txn::new()
                    .when(Cmp::ModRev(key.clone(), rev))
                    .then(Op::Del(key))
                    .then(Op::put(MARK, value.clone()));
                delete.or_else(Op::put("a/0", value))
            }
            (_, Some(rev)) => Txn::swap(key.clone(), rev, value).or_else(Op::Get(key)),
            (_, None) => {
                Txn::new().when(Cmp::Exists(key.clone())).then(Op::Get(key.clone())).or_else(Op::put(key, value))
            }
        }
    }
}
