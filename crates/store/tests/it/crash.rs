//! Kills a process in the middle of writing, again and again on the same state, and looks at what is left.
//!
//! Holds: what was acknowledged is there; a transaction is there whole or not at all; revisions never go back. A killed process keeps its
//! page cache, so this says nothing about power loss: there SQLite's own tests must be believed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use yun_store::conformance::until;
use yun_store::{KeyRange, Kv, Op, Options, Rev, SqliteStore, Store, Txn, read_all};

const DIR: &str = "YUN_STORE_CRASH_DIR";
const POINT: &str = "YUN_STORE_CRASH_POINT";
const CLIENTS: u64 = 6;
/// Small, so that compaction is always under way.
const KEEP: u64 = 50;

fn options() -> Options {
    Options { keep_revisions: KEEP, ..Options::default() }
}

/// The process that is killed: writes as fast as it can and prints what was acknowledged. Not a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    if let Ok(point) = std::env::var(POINT) {
        die_at(&point);
    }
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(Path::new(&dir), options()).unwrap());
    let round = store.health().await.unwrap().head.n;
    let clients: Vec<_> =
        (0..CLIENTS).map(|id| tokio::spawn(client(Arc::clone(&store), format!("{round}.{id}")))).collect();
    futures::future::join_all(clients).await;
}

/// Each transaction makes two keys that stay, and changes and deletes others, so that there is something to compact.
async fn client(store: Arc<dyn Store>, name: String) {
    for n in 0_u64.. {
        let id = format!("{name}.{n}");
        let txn = Txn::new()
            .then(Op::put(format!("a/{id}"), id.clone()))
            .then(Op::put(format!("b/{id}"), id.clone()))
            .then(Op::put(format!("busy/{name}"), id.clone()))
            .then(Op::del(format!("busy/{}", n % CLIENTS)));
        let out = store.txn(txn).await.unwrap();
        println!("\nacked {id} {}", out.rev);
    }
}

/// Ends the process the `count`th time that it comes by `point`, given as `point:count`.
fn die_at(point: &str) {
    let (name, count) = point.rsplit_once(':').unwrap();
    let left = AtomicU64::new(count.parse().unwrap());
    let count_down = move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    };
    fail::cfg_callback(name, count_down).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "the process under test is this test itself")]
fn start(dir: &Path, point: Option<&str>) -> Child {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--nocapture"]).env(DIR, dir);
    if let Some(point) = point {
        command.env(POINT, point);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Lets a child write until `kill_after` acknowledgements, or until it dies by itself, and gives what it acknowledged.
fn run_child(dir: &Path, point: Option<&str>, kill_after: usize) -> BTreeMap<String, Rev> {
    let mut child = start(dir, point);
    let mut acked = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if words.next() == Some("acked") {
            let (Some(id), Some(rev)) = (words.next(), words.next()) else { continue };
            // The last line may be cut off by the kill.
            let Ok(rev) = rev.parse() else { continue };
            acked.insert(id.to_owned(), rev);
        }
        if acked.len() == kill_after {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child was to die");
    acked
}

/// Checks the state after a death; gives its head.
async fn inspect(dir: &Path, acked: &BTreeMap<String, Rev>) -> Rev {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir, options()).unwrap());
    let (head, kvs) = read_all(&*store, KeyRange::all()).await.unwrap();
    let part = |prefix: &str| -> BTreeMap<String, Rev> {
        let of = |kv: &Kv| kv.key.strip_prefix(prefix).map(|id| (id.to_owned(), kv.mod_rev));
        kvs.iter().filter_map(of).collect()
    };
    let (a, b) = (part("a/"), part("b/"));
    assert_eq!(a, b, "each transaction is there whole or not at all");
    for (id, rev) in acked {
        assert_eq!(a.get(id), Some(rev), "{id} was acknowledged at {rev}");
    }
    let next = store.txn(Txn::put("after", "x")).await.unwrap().rev;
    assert_eq!(next, Rev::new(head.epoch, head.n + 1));
    // What is left of the log has no gap.
    let compacted = store.health().await.unwrap().compacted;
    let batches = until(&mut store.watch(KeyRange::all(), compacted), next).await;
    assert_eq!(batches.iter().map(|b| b.rev.n).collect::<Vec<_>>(), (compacted.n + 1..=next.n).collect::<Vec<_>>());
    drop(store);
    let conn = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    next
}

#[tokio::test]
async fn a_killed_writer_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let mut acked = BTreeMap::new();
    let mut head = Rev::new(1, 0);
    for round in 0..10 {
        acked.extend(run_child(dir.path(), None, rng.random_range(1..300)));
        let now = inspect(dir.path(), &acked).await;
        assert!(now > head, "round {round}: revisions went back");
        head = now;
    }
    assert!(acked.len() > 100, "the children did write: {}", acked.len());
}

#[tokio::test]
async fn a_death_at_every_point_loses_nothing() {
    for name in ["store::commit", "store::committed", "store::publish", "store::sweep"] {
        let dir = tempfile::tempdir().unwrap();
        let mut acked = BTreeMap::new();
        for count in [1, 2, 40] {
            acked.extend(run_child(dir.path(), Some(&format!("{name}:{count}")), usize::MAX));
            inspect(dir.path(), &acked).await;
        }
    }
}
