//! Watch caches: following, reading own writes, resuming, and surviving a store that was away.

use crate::table::{Disk, disk, store};
use async_trait::async_trait;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use yun_store::store::{Health, WatchStream};
use yun_store::{
    Cache, Change, Changes, CheckedTxn, KeyRange, Lease, LeaseId, LeaseLeft, Op, Page, Result, Rev, Store, StoreError,
    Table, Txn, TxnOut, WatchEnd,
};

/// Change as text.
fn text(change: &Change<Disk>) -> String {
    let size =
        |row: &Option<Arc<yun_store::Row<Disk>>>| row.as_ref().map_or("none".into(), |row| row.value.bytes.to_string());
    format!("{} {}>{}", change.key, size(&change.old), size(&change.new))
}

async fn next(changes: &mut Changes<Disk>) -> Arc<Change<Disk>> {
    let change = tokio::time::timeout(Duration::from_secs(20), changes.next());
    change.await.expect("a change comes").expect("the cache lives").expect("nothing is missed")
}

#[tokio::test]
async fn a_writer_reads_its_own_write() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    table.create(&["p", "old"], &disk(1)).await.unwrap();
    let cache = Cache::<Disk>::start(Arc::clone(&store), &[]).await.unwrap();
    assert_eq!(cache.get(&["p", "old"]).unwrap().value, disk(1));
    for i in 0..50 {
        let rev = table.create(&["p", &format!("{i:02}")], &disk(i)).await.unwrap();
        cache.wait_for(rev).await.unwrap();
        let row = cache.get(&["p", &format!("{i:02}")]).unwrap();
        assert_eq!((row.value.bytes, row.rev), (i, rev));
    }
    // A write elsewhere also counts.
    let rev = store.txn(Txn::put("elsewhere", "x")).await.unwrap().rev;
    cache.wait_for(rev).await.unwrap();
    assert!(cache.rev() >= rev);
    assert_eq!(cache.len(), 51);
}

#[tokio::test]
async fn pages_follow_the_order_of_keys() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    for name in ["a", "b", "c", "d", "e"] {
        table.create(&["p", name], &disk(1)).await.unwrap();
        table.create(&["p2", name], &disk(2)).await.unwrap();
    }
    let cache = Cache::<Disk>::start(store, &[]).await.unwrap();
    let first = cache.list(&["p"], None, 2);
    let second = cache.list(&["p"], first.next.as_ref(), 2);
    let third = cache.list(&["p"], second.next.as_ref(), 2);
    let names: Vec<_> = [first.rows, second.rows, third.rows].concat().iter().map(|row| row.key.to_string()).collect();
    assert_eq!(names, ["disk/p/a", "disk/p/b", "disk/p/c", "disk/p/d", "disk/p/e"]);
    assert!(third.next.is_none());
    assert_eq!((cache.all(&["p2"]).len(), cache.all(&[]).len(), cache.all(&["none"]).len()), (5, 10, 0));
    let exact = cache.list(&["p"], None, 5);
    assert!(exact.next.is_none() && exact.rev == cache.rev());
}

#[tokio::test]
async fn subscribers_see_old_and_new() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    let cache = Cache::<Disk>::start(store, &["p"]).await.unwrap();
    let mut changes = cache.subscribe();
    let one = table.create(&["p", "a"], &disk(1)).await.unwrap();
    table.create(&["elsewhere", "a"], &disk(9)).await.unwrap();
    let two = table.update(&["p", "a"], &disk(2), one).await.unwrap();
    let three = table.delete(&["p", "a"], two).await.unwrap();
    let seen = [next(&mut changes).await, next(&mut changes).await, next(&mut changes).await];
    assert_eq!(seen.each_ref().map(|change| text(change)), ["disk/p/a none>1", "disk/p/a 1>2", "disk/p/a 2>none"]);
    assert_eq!(seen.each_ref().map(|change| change.rev), [one, two, three]);
    drop(cache);
    assert!(changes.next().await.is_none(), "the end of the cache is the end of its changes");
}

#[tokio::test]
async fn a_reader_resumes_where_it_was() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    let cache = Cache::<Disk>::start_sized(Arc::clone(&store), &[], 5).await.unwrap();
    let start = cache.rev();
    let mut slow = cache.subscribe();
    let mut revs = Vec::new();
    for i in 0..8 {
        revs.push(table.create(&["p", &format!("{i}")], &disk(i)).await.unwrap());
    }
    cache.wait_for(revs[7]).await.unwrap();
    for (from, count) in [(revs[2], 5), (revs[5], 2), (revs[7], 0)] {
        let changes = cache.subscribe_from(from).unwrap();
        let seen: Vec<_> = changes.into_stream().take(count).map(|change| change.unwrap().rev).collect().await;
        assert_eq!(seen, revs[8 - count..], "from {from}");
    }
    for gone in [start, revs[1], Rev::new(revs[7].epoch + 1, 0)] {
        let end = cache.subscribe_from(gone).unwrap_err();
        assert!(matches!(end, WatchEnd::Compacted { min } if min == revs[2]), "{gone}: {end}");
    }
    let end = slow.next().await.unwrap();
    assert!(matches!(end, Err(WatchEnd::Compacted { .. })), "a slow reader is told that it missed something");
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    let newer = |key: &str| Txn::put(key, r#"{"v":99,"o":{}}"#);
    store.txn(newer("disk/p/newer")).await.unwrap();
    let one = table.create(&["p", "good"], &disk(1)).await.unwrap();
    let cache = Cache::<Disk>::start(Arc::clone(&store), &[]).await.unwrap();
    assert_eq!((cache.len(), cache.broken().len()), (1, 1));
    assert!(cache.broken()[0].1.to_string().contains("upgrade yun"));
    let mut changes = cache.subscribe();
    store.txn(newer("disk/p/good")).await.unwrap();
    assert_eq!(text(&*next(&mut changes).await), "disk/p/good 1>none");
    assert!(cache.is_empty() && cache.broken().len() == 2);
    assert!(table.get(&["p", "good"]).await.unwrap_err().to_string().contains("disk/p/good"));
    let rev = store
        .txn(Txn::new().then(Table::op_put(&["p", "good"], &disk(2)).unwrap()).then(Op::del("disk/p/newer")))
        .await
        .unwrap()
        .rev;
    cache.wait_for(rev).await.unwrap();
    assert!(rev > one && cache.broken().is_empty() && cache.len() == 1);
}

/// A store whose watches can be cut off.
#[derive(Debug)]
struct Remote {
    store: Arc<dyn Store>,
    up: watch::Sender<bool>,
}

#[async_trait]
impl Store for Remote {
    fn watch(&self, range: KeyRange, after: Rev) -> WatchStream {
        let state = (self.store.watch(range, after), self.up.subscribe(), false);
        Box::pin(futures::stream::unfold(state, |(mut inner, mut up, ended)| async move {
            if ended {
                return None;
            }
            let item = tokio::select! {
                biased;
                _ = up.wait_for(|up| !up) => Err(WatchEnd::Failed(StoreError::NoLeader)),
                item = inner.next() => item?,
            };
            let ended = item.is_err();
            Some((item, (inner, up, ended)))
        }))
    }
    async fn range(&self, range: KeyRange, at: Option<Rev>, limit: usize) -> Result<Page> {
        self.store.range(range, at, limit).await
    }
    async fn commit(&self, txn: CheckedTxn) -> Result<TxnOut> {
        self.store.commit(txn).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.store.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.store.lease_revoke(id).await
    }
    async fn lease_remaining(&self, id: LeaseId) -> Result<LeaseLeft> {
        self.store.lease_remaining(id).await
    }
    async fn compact(&self, keep_after: Rev) -> Result<()> {
        self.store.compact(keep_after).await
    }
    async fn snapshot(&self, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<Rev> {
        self.store.snapshot(to).await
    }
    async fn health(&self) -> Result<Health> {
        self.store.health().await
    }
}

/// A cache of a store that is away while `keep`, `change`, `gone` live through it.
async fn away(compact: bool) -> Vec<String> {
    let (_dir, store) = store();
    let remote = Arc::new(Remote { store: Arc::clone(&store), up: watch::Sender::new(true) });
    let table = Table::<Disk>::new(Arc::clone(&store));
    table.create(&["p", "keep"], &disk(1)).await.unwrap();
    let gone = table.create(&["p", "gone"], &disk(2)).await.unwrap();
    let change = table.create(&["p", "change"], &disk(3)).await.unwrap();
    let cache = Cache::<Disk>::start(Arc::clone(&remote) as Arc<dyn Store>, &[]).await.unwrap();
    let start = cache.rev();
    let mut changes = cache.subscribe();
    remote.up.send_replace(false);
    table.delete(&["p", "gone"], gone).await.unwrap();
    let middle = table.update(&["p", "change"], &disk(4), change).await.unwrap();
    table.update(&["p", "change"], &disk(5), middle).await.unwrap();
    let end = table.create(&["p", "new"], &disk(6)).await.unwrap();
    if compact {
        store.compact(end).await.unwrap();
    }
    assert_eq!(cache.len(), 3, "it cannot know yet");
    remote.up.send_replace(true);
    tokio::time::timeout(Duration::from_secs(20), cache.wait_for(end)).await.unwrap().unwrap();
    assert_eq!((cache.rev(), cache.len(), cache.trouble().is_none()), (end, 3, true));
    let mut seen = Vec::new();
    for _ in 0..if compact { 3 } else { 4 } {
        seen.push(text(&*next(&mut changes).await));
    }
    // Who resumes from before sees the same.
    let again = cache.subscribe_from(start).unwrap().into_stream().take(seen.len());
    assert_eq!(again.map(|change| text(&change.unwrap())).collect::<Vec<_>>().await, seen);
    seen
}

#[tokio::test]
async fn a_cut_off_watch_goes_on_where_it_was() {
    assert_eq!(
        away(false).await,
        ["disk/p/gone 2>none", "disk/p/change 3>4", "disk/p/change 4>5", "disk/p/new none>6"]
    );
}

#[tokio::test]
async fn what_vanished_with_the_history_is_reported_as_deleted() {
    assert_eq!(away(true).await, ["disk/p/gone 2>none", "disk/p/change 3>5", "disk/p/new none>6"]);
}

#[tokio::test]
async fn a_cache_stops_with_its_last_handle() {
    let (_dir, store) = store();
    let cache = Cache::<Disk>::start(Arc::clone(&store), &[]).await.unwrap();
    let other = cache.clone();
    drop(cache);
    let rev = store.txn(Txn::put("x", "y")).await.unwrap().rev;
    other.wait_for(rev).await.unwrap();
    drop(other);
    // The task gives the store back, so that its directory can be freed.
    let freed = async {
        while Arc::strong_count(&store) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed).await.unwrap();
}
