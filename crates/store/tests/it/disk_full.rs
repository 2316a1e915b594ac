//! A state without room: refuses puts with a clear error, keeps what it acknowledged, goes on reading, and recovers when there is room.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use yun_store::conformance::{get, put, run};
use yun_store::{KeyRange, Op, Options, SqliteStore, Store, StoreError, Txn};

/// Puts until there is no room; gives how many were accepted.
async fn fill(store: &Arc<dyn Store>) -> usize {
    for i in 0..10_000 {
        match store.txn(Txn::put(format!("fill/{i:05}"), vec![b'x'; 20_000])).await {
            Ok(_) => {}
            Err(StoreError::NoSpace { .. }) => return i,
            Err(e) => panic!("not the right error: {e}"),
        }
    }
    panic!("there is no end of the room");
}

async fn count(store: &Arc<dyn Store>) -> usize {
    store.range(KeyRange::prefix("fill/"), None, 10_000).await.unwrap().kvs.len()
}

#[tokio::test]
async fn above_its_limit_the_state_takes_deletions_only() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { soft: 1 << 20, hard: 2 << 20, ..Options::default() };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path(), options).unwrap());
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    let filled = fill(&store).await;
    assert!((80..120).contains(&filled), "about 2 MiB of 20 kB: {filled}");
    let health = store.health().await.unwrap();
    assert!(health.size >= health.hard && health.trouble.is_some(), "{health:?}");
    assert_eq!(count(&store).await, filled);
    store.lease_keep_alive(lease).await.unwrap();
    let e = store.txn(Txn::new().then(Op::del("fill/00000")).then(Op::put("b", "x"))).await.unwrap_err();
    assert!(e.to_string().contains("delete objects"), "{e}");
    run(&store, Txn::new().then(Op::DelRange(KeyRange::prefix("fill/")))).await;
    // The history still holds the data: only compaction makes room.
    store.compact(store.health().await.unwrap().head).await.unwrap();
    let health = store.health().await.unwrap();
    assert!(health.size < 1 << 20 && health.trouble.is_none(), "{health:?}");
    put(&store, "b", "x").await;
}

/// A small file system of its own, unmounted with its owner.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where mounting is not allowed.
    fn new(dir: &Path) -> Option<Self> {
        let mounted = tool("mount", &["-t", "tmpfs", "-o", "size=3m", "tmpfs", dir.to_str()?]);
        if !mounted {
            eprintln!("SKIPPED: no small disk to fill, since this user may not mount; run as root to test it");
            return None;
        }
        Some(SmallDisk(dir.to_path_buf()))
    }

    fn grow(&self) {
        assert!(tool("mount", &["-o", "remount,size=32m", self.0.to_str().unwrap()]));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        tool("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[allow(clippy::disallowed_methods, reason = "a full disk needs a file system of its own")]
fn tool(name: &str, args: &[&str]) -> bool {
    std::process::Command::new(name).args(args).status().is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_puts_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path()) else { return };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path(), Options::default()).unwrap());
    put(&store, "before", "x").await;
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    let filled = fill(&store).await;
    assert!(filled > 10, "{filled}");
    assert_eq!(count(&store).await, filled, "what was acknowledged is there, what was refused is not");
    assert!(store.health().await.unwrap().trouble.is_some());
    store.lease_keep_alive(lease).await.unwrap();
    // A large one at the same time as reading ones: only the large one fails.
    let read = Txn::new().then(Op::get("before"));
    let (large, one, two) = tokio::join!(
        store.txn(Txn::put("large", vec![b'x'; 900_000])),
        store.txn(read.clone()),
        store.txn(read.clone())
    );
    assert!(matches!(large.unwrap_err(), StoreError::NoSpace { .. }));
    assert!(one.unwrap().succeeded && two.unwrap().succeeded);
    disk.grow();
    put(&store, "after", "x").await;
    assert_eq!(store.health().await.unwrap().trouble, None);
    drop(store);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path(), Options::default()).unwrap());
    assert_eq!(count(&store).await, filled);
    assert!(get(&store, "after").await.is_some() && get(&store, "large").await.is_none());
    drop(store);
}
