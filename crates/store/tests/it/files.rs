//! The files of a state: locks, formats, restarts, compaction on disk, snapshots and restores.

use futures::StreamExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yun_store::conformance::{get, head, put, run, texts, until};
use yun_store::{
    Clock, Existing, KeyRange, ManualClock, Op, Options, Rev, SqliteStore, Store, StoreError, Txn, WatchEnd,
};

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(dir, Options::default()).unwrap())
}

#[tokio::test]
async fn a_second_opening_is_refused_with_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let e = SqliteStore::open(dir.path(), Options::default()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(&e, StoreError::Locked { pid: Some(found), .. } if *found == pid), "{e}");
    assert!(e.to_string().contains(&format!("process {pid} has it open")), "{e}");
    let e = SqliteStore::restore(dir.path(), &b""[..], Existing::Replace).unwrap_err();
    assert!(matches!(e, StoreError::Locked { .. }), "a restore needs the directory alone: {e}");
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn a_newer_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conn = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    conn.execute("UPDATE meta SET value=99 WHERE name='format'", []).unwrap();
    drop(conn);
    let e = SqliteStore::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(e, StoreError::StateNewer { found: 99, .. }), "{e}");
    assert!(e.to_string().contains("install a newer yun"), "{e}");
}

#[tokio::test]
async fn a_file_that_is_no_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("state.db"),
        "this is not a database, and longer than its header would be: ".repeat(20),
    )
    .unwrap();
    let e = SqliteStore::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(e, StoreError::Io { .. }), "{e}");
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = put(&store, "a", "1").await;
    let two = put(&store, "a", "2").await;
    let kv = get(&store, "a").await;
    drop(store);
    let store = open(dir.path());
    assert_eq!((get(&store, "a").await, head(&store).await), (kv, two));
    assert_eq!(until(&mut store.watch(KeyRange::all(), one), two).await.len(), 1, "history is there");
    assert!(run(&store, Txn::swap("a", two, "3")).await.succeeded);
}

#[tokio::test]
async fn leases_have_their_full_time_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open = || {
        let options = Options { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Options::default() };
        Arc::new(SqliteStore::open(dir.path(), options).unwrap())
    };
    let ttl = Duration::from_secs(20);
    let store = open();
    let id = store.lease_grant(ttl).await.unwrap().id;
    store.txn(Txn::new().then(Op::put_leased("a", "x", id))).await.unwrap();
    clock.advance(Duration::from_secs(15));
    assert_eq!(store.lease_remaining(id).await.unwrap().remaining, Duration::from_secs(5));
    drop(store);
    let store = open();
    let left = store.lease_remaining(id).await.unwrap();
    assert_eq!((left.remaining, left.keys), (ttl, 1));
    let other = store.lease_grant(ttl).await.unwrap().id;
    assert_ne!(other, id);
    clock.advance(ttl);
    store.expire_leases().await.unwrap();
    let store: Arc<dyn Store> = store;
    assert!(get(&store, "a").await.is_none());
}

/// Real time, without a hand on the clock: the engine wakes up by itself.
#[tokio::test]
async fn leases_end_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = store.lease_grant(Duration::from_secs(1)).await.unwrap().id;
    let rev = run(&store, Txn::new().then(Op::put_leased("a", "x", id))).await.rev;
    let mut watch = store.watch(KeyRange::all(), rev);
    let batches = tokio::time::timeout(Duration::from_secs(20), until(&mut watch, Rev::new(rev.epoch, rev.n + 1)));
    assert_eq!(batches.await.unwrap().len(), 1);
}

#[tokio::test]
async fn history_is_forgotten_by_itself_and_the_file_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { keep_revisions: 20, ..Options::default() };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path(), options).unwrap());
    for i in 0..60 {
        run(&store, Txn::put("a", vec![b'x'; 200_000])).await;
        put(&store, &format!("small/{i:02}"), "x").await;
    }
    let health = store.health().await.unwrap();
    assert!((20..=25).contains(&(health.head.n - health.compacted.n)), "{health:?}");
    // Waits until the rows are removed.
    store.compact(health.head).await.unwrap();
    let size = store.health().await.unwrap().size;
    assert!(size < 1 << 20, "12 MB were written, {size} are in use");
    drop(store);
    let file = std::fs::metadata(dir.path().join("state.db")).unwrap().len();
    assert!(file < 6 << 20, "free pages were given back: {file}");
}

#[tokio::test]
async fn closing_ends_watches() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(KeyRange::all(), head(&store).await);
    let rev = put(&store, "a", "x").await;
    drop(store);
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.rev, rev, "what was there comes first");
    let end = watch.next().await.unwrap();
    assert!(matches!(end, Err(WatchEnd::Failed(StoreError::Closed { .. }))), "{end:?}");
}

async fn snapshot(store: &Arc<dyn Store>) -> (Rev, Vec<u8>) {
    let mut bytes = Vec::new();
    let rev = store.snapshot(&mut bytes).await.unwrap();
    (rev, bytes)
}

#[tokio::test]
async fn a_restore_starts_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    run(&store, Txn::put("a", "1").then(Op::put("b", "1")).then(Op::put_leased("leased", "x", lease))).await;
    put(&store, "a", "2").await;
    let (taken, bytes) = snapshot(&store).await;
    let late = put(&store, "a", "3").await;
    let before = get(&store, "b").await.unwrap();
    drop(store);

    let e = SqliteStore::restore(dir.path(), &bytes[..], Existing::Refuse).unwrap_err();
    assert!(e.to_string().contains("ask to replace it"), "{e}");
    let restored = SqliteStore::restore(dir.path(), &bytes[..], Existing::Replace).unwrap();
    assert_eq!(restored, Rev::new(taken.epoch + 1, taken.n));
    let store = open(dir.path());
    assert_eq!(texts(&store, KeyRange::all(), None).await, ["a=2", "b=1", "leased=x"]);
    assert_eq!(head(&store).await, restored);

    // Nothing of the old epoch is taken for something of the new one.
    for after in [late, taken, before.mod_rev] {
        let end = store.watch(KeyRange::all(), after).next().await.unwrap();
        assert!(matches!(end, Err(WatchEnd::Compacted { min }) if min == restored), "{end:?}");
        assert!(matches!(store.range(KeyRange::all(), Some(after), 1).await, Err(StoreError::Compacted { .. })));
    }
    assert!(!run(&store, Txn::swap("b", before.mod_rev, "old")).await.succeeded);
    let kv = get(&store, "b").await.unwrap();
    assert_eq!((kv.mod_rev.n, kv.version), (before.mod_rev.n, before.version));
    assert!(run(&store, Txn::swap("b", kv.mod_rev, "new")).await.succeeded);
    let next = head(&store).await;
    assert_eq!(until(&mut store.watch(KeyRange::all(), restored), next).await.len(), 1);

    // Leases live on, and their names are not given again.
    assert_eq!(store.lease_remaining(lease).await.unwrap().keys, 1);
    assert!(store.lease_grant(Duration::from_secs(60)).await.unwrap().id > lease);
    store.lease_revoke(lease).await.unwrap();
    assert!(get(&store, "leased").await.is_none());

    // The same snapshot again is one more epoch, not the same one.
    drop(store);
    let again = SqliteStore::restore(dir.path(), &bytes[..], Existing::Replace).unwrap();
    assert_eq!(again.epoch, restored.epoch + 1);
    let other = tempfile::tempdir().unwrap();
    assert_eq!(SqliteStore::restore(other.path(), &bytes[..], Existing::Refuse).unwrap(), restored);
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_the_state_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..20 {
        put(&store, &format!("k/{i:02}"), "value").await;
    }
    let (_, bytes) = snapshot(&store).await;
    let state = texts(&store, KeyRange::all(), None).await;
    drop(store);
    let mut damaged: Vec<Vec<u8>> = (0..bytes.len()).step_by(97).map(|at| bytes[..at].to_vec()).collect();
    damaged.extend((0..bytes.len()).step_by(61).map(|at| {
        let mut copy = bytes.clone();
        copy[at] ^= 0x10;
        copy
    }));
    let count = damaged.len();
    for (i, copy) in damaged.into_iter().enumerate() {
        let e = SqliteStore::restore(dir.path(), &copy[..], Existing::Replace).unwrap_err();
        assert!(matches!(e, StoreError::Invalid { .. } | StoreError::Io { .. }), "{i} of {count}: {e}");
    }
    let store = open(dir.path());
    assert_eq!(texts(&store, KeyRange::all(), None).await, state);
}

#[tokio::test]
async fn a_snapshot_is_one_revision_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Larger than what travels in one piece, so that writes fall in the middle.
    for i in 0..200 {
        run(&store, Txn::put(format!("fill/{i:03}"), vec![b'x'; 10_000]).then(Op::put("left", i.to_string()))).await;
    }
    let writing = async {
        for i in 0..50 {
            run(&store, Txn::put("left", format!("w{i}")).then(Op::put("right", format!("w{i}")))).await;
        }
    };
    put(&store, "right", "199").await;
    let ((rev, bytes), ()) = tokio::join!(snapshot(&store), writing);
    drop(store);
    let other = tempfile::tempdir().unwrap();
    let restored = SqliteStore::restore(other.path(), &bytes[..], Existing::Refuse).unwrap();
    assert_eq!(restored.n, rev.n);
    let store = open(other.path());
    let (left, right) = (get(&store, "left").await.unwrap().value, get(&store, "right").await.unwrap().value);
    assert_eq!(left, right);
}
