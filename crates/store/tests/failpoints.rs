//! Failures of the disk, injected into the engine at its named points. Fail points are global, so each test holds the scenario alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use fail::FailScenario;
use std::path::Path;
use std::sync::Arc;
use yun_store::conformance::history::{Load, What, check, record};
use yun_store::conformance::{get, head, put, texts, until};
use yun_store::{KeyRange, Options, SqliteStore, Store, StoreError, Txn};

/// Extended codes of SQLite.
const FSYNC: &str = "1034";
const WRITE: &str = "778";
const FULL: &str = "13";

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(dir, Options { ring_revisions: 50, ..Options::default() }).unwrap())
}

/// Fails `count` times at `point`, in the way of `code`.
fn fail_at(point: &str, count: &str, code: &str) {
    fail::cfg(point, &format!("{count}return({code})")).unwrap();
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_written() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "a", "1").await;
    fail_at("store::commit", "1*", FSYNC);
    let e = store.txn(Txn::put("a", "2")).await.unwrap_err();
    assert!(matches!(e, StoreError::Unknown { .. }), "{e}");
    assert!(e.to_string().contains("read the keys again"), "{e}");
    let e = store.txn(Txn::put("a", "3")).await.unwrap_err();
    assert!(matches!(e, StoreError::Closed { .. }), "a later sync may lie: {e}");
    assert_eq!(texts(&store, KeyRange::all(), None).await, ["a=1"], "reads go on");
    assert!(store.health().await.unwrap().trouble.unwrap().contains("failed to sync"));
    drop(store);
    let store = open(dir.path());
    put(&store, "a", "4").await;
    scenario.teardown();
}

#[tokio::test]
async fn a_full_disk_at_the_commit_is_definite() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = put(&store, "a", "1").await;
    fail_at("store::commit", "1*", FULL);
    let e = store.txn(Txn::put("a", "2")).await.unwrap_err();
    assert!(matches!(e, StoreError::NoSpace { .. }), "{e}");
    assert!(store.health().await.unwrap().trouble.is_some());
    assert_eq!(head(&store).await, before);
    let rev = put(&store, "a", "3").await;
    assert_eq!(rev.n, before.n + 1);
    assert!(store.health().await.unwrap().trouble.is_none());
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_does_not_fit_is_tried_one_by_one() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = head(&store).await;
    // The first commit holds one or more jobs; the following ones gather behind it.
    fail_at("store::commit", "2*", FULL);
    let puts = (0..50).map(|i| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.txn(Txn::put(format!("k/{i:02}"), "x")).await })
    });
    let outs = futures::future::join_all(puts).await;
    let refused = outs.iter().filter(|out| matches!(out.as_ref().unwrap(), Err(StoreError::NoSpace { .. }))).count();
    let accepted = outs.iter().filter(|out| out.as_ref().unwrap().is_ok()).count();
    assert!((1..=2).contains(&refused) && accepted == 50 - refused, "{refused} refused, {accepted} accepted");
    assert_eq!(texts(&store, KeyRange::all(), None).await.len(), accepted);
    assert_eq!(head(&store).await.n, before.n + accepted as u64);
    scenario.teardown();
}

/// The commit happened although it reported a failure: callers hear `Unknown`, watchers see it.
#[tokio::test]
async fn a_commit_that_happened_in_spite_of_its_error_is_shown() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = put(&store, "a", "1").await;
    let mut watch = store.watch(KeyRange::all(), before);
    fail_at("store::committed", "1*", WRITE);
    let e = store.txn(Txn::put("a", "2")).await.unwrap_err();
    assert!(matches!(e, StoreError::Unknown { .. }), "{e}");
    assert_eq!(get(&store, "a").await.unwrap().value, "2");
    let next = put(&store, "a", "3").await;
    assert_eq!(next.n, before.n + 2);
    assert_eq!(until(&mut watch, next).await.len(), 2);
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_while_commits_fail() {
    let scenario = FailScenario::setup();
    for (seed, point, code) in [(1, "store::commit", WRITE), (2, "store::committed", WRITE), (3, "store::commit", FULL)]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, "a/0", "start").await;
        fail_at(point, "20%", code);
        let history = record(&store, Load { seed, clients: 8, calls: 80 }).await;
        fail::remove(point);
        let unknown = history.calls.iter().filter(|call| matches!(call.what, What::Unknown(_))).count();
        assert_eq!(unknown > 0, code == WRITE, "{point} {code}: {unknown} outcomes are unknown");
        if let Err(e) = check(&history) {
            panic!("{point} {code}: {e}");
        }
    }
    scenario.teardown();
}

#[tokio::test]
async fn compaction_goes_on_after_a_failure() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..10 {
        put(&store, "a", &i.to_string()).await;
    }
    let head = head(&store).await;
    fail_at("store::sweep", "1*", "0");
    let e = store.compact(head).await.unwrap_err();
    assert!(e.to_string().contains("cannot compact"), "{e}");
    let early = yun_store::Rev::new(head.epoch, 3);
    assert!(
        matches!(store.range(KeyRange::all(), Some(early), 1).await, Err(StoreError::Compacted { .. })),
        "history is cut"
    );
    put(&store, "a", "next").await;
    store.compact(head).await.unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    let rows: u32 = conn.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2, "the state at the compaction and the change after it");
    scenario.teardown();
}
