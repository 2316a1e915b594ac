//! How fast the state is: compare-and-swap of 512-byte values, durable before it is answered, from 1 and from 64 clients.
//!
//! A closed loop: each client swaps a key of its own, again as soon as the answer is there. Every swap is synced; the history rows are
//! kept and compacted as in production. Also: how watches fan out, and the reads of a cache that control paths live on.

use crate::measure::{Measure, Must};
use anyhow::Result;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use yun_store::{Bytes, Cache, KeyRange, Never, Options, SqliteStore, Store, Stored, Table, Txn};

/// How long each load runs.
const TIME: Duration = Duration::from_secs(6);
/// Bytes of a value.
const VALUE: usize = 512;
/// Rows in the cache that is read.
const ROWS: u32 = 10_000;

/// Runs all measurements of the state. Takes about 15 seconds and some 100 MB below the directory for temporary files.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for clients in [1, 64] {
        let dir = Scratch::new(&format!("cas{clients}"))?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.0, Options::default())?);
        let mut micros = swap_load(store, clients).await?;
        micros.sort_unstable();
        let name = |what: &str| format!("store: 512 B compare-and-swap, {clients} clients, {what}");
        let rate = Measure::new(name("rate"), micros.len() as f64 / TIME.as_secs_f64(), "op/s");
        let p99 = Measure::new(name("p99"), percentile(&micros, 99) / 1000.0, "ms");
        let busy = clients > 1;
        measures.push(if busy { rate.must(Must::AtLeast(20_000.0)) } else { rate });
        measures.push(Measure::new(name("p50"), percentile(&micros, 50) / 1000.0, "ms"));
        measures.push(if busy { p99.must(Must::AtMost(20.0)) } else { p99 });
    }
    measures.push(fan_out().await?);
    measures.extend(cache_reads().await?);
    Ok(measures)
}

/// Events per second that a thousand watchers of one prefix get while one client writes.
async fn fan_out() -> Result<Measure> {
    const WATCHERS: usize = 1000;
    const WRITES: usize = 300;
    let dir = Scratch::new("watch")?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.0, Options::default())?);
    let start = store.txn(Txn::put("bench/0", "x")).await?.rev;
    let began = Instant::now();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let mut watch = store.watch(KeyRange::prefix("bench/"), start);
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < WRITES {
                    let Some(Ok(batch)) = watch.next().await else { break };
                    seen += batch.events.len();
                }
                seen
            })
        })
        .collect();
    for _ in 0..WRITES {
        store.txn(Txn::put("bench/0", vec![b'x'; VALUE])).await?;
    }
    let mut seen = 0;
    for watcher in watchers {
        seen += watcher.await?;
    }
    assert_eq!(seen, WATCHERS * WRITES, "every watcher sees every write");
    let rate = seen as f64 / began.elapsed().as_secs_f64();
    Ok(Measure::new("store: 1,000 watchers of one prefix, events", rate, "event/s"))
}

/// Times of all swaps in microseconds.
async fn swap_load(store: Arc<dyn Store>, clients: usize) -> Result<Vec<u32>> {
    let end = Instant::now() + TIME;
    let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(swap_client(Arc::clone(&store), client, end))).collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await??);
    }
    Ok(micros)
}

async fn swap_client(store: Arc<dyn Store>, client: usize, end: Instant) -> yun_store::Result<Vec<u32>> {
    let key = yun_store::Key::from(format!("bench/{client:04}"));
    let value = Bytes::from(vec![b'x'; VALUE]);
    let mut rev = store.txn(Txn::create(key.clone(), value.clone())).await?.rev;
    let mut micros = Vec::with_capacity(100_000);
    while Instant::now() < end {
        let start = Instant::now();
        let out = store.txn(Txn::swap(key.clone(), rev, value.clone())).await?;
        assert!(out.succeeded, "nobody else writes the key of this client");
        rev = out.rev;
        micros.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(micros)
}

fn percentile(sorted: &[u32], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).copied().map_or(0.0, f64::from)
}

#[derive(Serialize, Deserialize)]
struct Thing {
    name: String,
    size: u32,
}

impl Stored for Thing {
    const TABLE: &'static str = "thing";
    const VERSION: u32 = 1;
    type Previous = Never;
    fn migrate(previous: Never) -> Self {
        match previous {}
    }
}

/// Reads of a cache with ten thousand rows.
async fn cache_reads() -> Result<Vec<Measure>> {
    const READS: u32 = 20_000;
    let dir = Scratch::new("cache")?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.0, Options::default())?);
    let names: Vec<String> = (0..ROWS).map(|i| format!("web-{i:05}")).collect();
    for some in names.chunks(100) {
        let mut txn = Txn::new();
        for name in some {
            txn = txn.then(Table::<Thing>::op_put(&["p", name], &Thing { name: name.clone(), size: 1 })?);
        }
        store.txn(txn).await?;
    }
    let start = Instant::now();
    let cache = Cache::<Thing>::start(store, &[]).await?;
    let fill = start.elapsed();
    let start = Instant::now();
    let mut found = 0;
    for i in 0..READS {
        let name = &names[(i.wrapping_mul(7919) % ROWS) as usize];
        found += usize::from(cache.get(&["p", name]).is_some());
    }
    let get = start.elapsed() / READS;
    let mut after = None;
    let (mut pages, mut sum, start) = (0_u32, 0, Instant::now());
    loop {
        let page = cache.list(&["p"], after.as_ref(), 100);
        sum += page.rows.iter().map(|row| row.value.size as usize).sum::<usize>();
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let page = start.elapsed() / pages;
    assert_eq!((found, sum), (READS as usize, ROWS as usize), "the cache holds every row");
    Ok(vec![
        Measure::new("store: cache of 10,000 rows, fill", fill.as_secs_f64() * 1e3, "ms"),
        Measure::new("store: cache of 10,000 rows, get", get.as_secs_f64() * 1e6, "us"),
        Measure::new("store: cache of 10,000 rows, page of 100", page.as_secs_f64() * 1e6, "us"),
    ])
}

/// A directory that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("yun-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only temporary files are left when this fails.
        let _ = std::fs::remove_dir_all(AsRef::<Path>::as_ref(&self.0));
    }
}
