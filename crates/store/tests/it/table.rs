//! Typed tables: the stored form, reading every old version, compare-and-swap, and transactions over several tables.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use yun_store::{
    Cmp, Key, KeyRange, Never, Op, OpResult, Options, Row, SqliteStore, Store, StoreError, Stored, Table, Txn, codec,
    commit, path,
};

/// Third shape of a thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    pub(crate) zone: String,
}

/// Second shape: it had no zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Disk2 {
    bytes: u64,
}

/// First shape: it counted gigabytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Disk1 {
    gb: u64,
}

impl Stored for Disk1 {
    const TABLE: &'static str = "disk";
    const VERSION: u32 = 1;
    type Previous = Never;
    fn migrate(previous: Never) -> Self {
        match previous {}
    }
}

impl Stored for Disk2 {
    const TABLE: &'static str = "disk";
    const VERSION: u32 = 2;
    type Previous = Disk1;
    fn migrate(previous: Disk1) -> Self {
        Disk2 { bytes: previous.gb * 1_000_000_000 }
    }
}

impl Stored for Disk {
    const TABLE: &'static str = "disk";
    const VERSION: u32 = 3;
    type Previous = Disk2;
    fn migrate(previous: Disk2) -> Self {
        Disk { bytes: previous.bytes, zone: "default".into() }
    }
}

pub(crate) fn disk(bytes: u64) -> Disk {
    Disk { bytes, zone: "a".into() }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner(String);

impl Stored for Owner {
    const TABLE: &'static str = "owner";
    const VERSION: u32 = 1;
    type Previous = Never;
    fn migrate(previous: Never) -> Self {
        match previous {}
    }
}

pub(crate) fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path(), Options::default()).unwrap());
    (dir, store)
}

/// Bytes as they were written once; they never change again.
#[test]
fn every_version_ever_written_is_read() {
    let key = Key::from("disk/p/web");
    let table: [(&str, Disk); 3] = [
        (r#"{"v":1,"o":{"gb":5}}"#, Disk { bytes: 5_000_000_000, zone: "default".into() }),
        (r#"{"v":2,"o":{"bytes":7}}"#, Disk { bytes: 7, zone: "default".into() }),
        (r#"{"v":3,"o":{"bytes":7,"zone":"b"}}"#, Disk { bytes: 7, zone: "b".into() }),
    ];
    for (bytes, expected) in table {
        assert_eq!(codec::decode::<Disk>(&key, bytes.as_bytes()).unwrap(), expected, "{bytes}");
    }
    let bytes = codec::encode(&key, &Disk { bytes: 7, zone: "b".into() }).unwrap();
    assert_eq!(&bytes[..], br#"{"v":3,"o":{"bytes":7,"zone":"b"}}"#);
}

#[test]
fn what_cannot_be_read_says_why() {
    let key = Key::from("disk/p/web");
    let e = codec::decode::<Disk>(&key, br#"{"v":4,"o":{"anything":1}}"#).unwrap_err();
    assert!(matches!(e, StoreError::ObjectNewer { found: 4, known: 3, .. }), "{e}");
    assert!(e.to_string().contains("disk/p/web") && e.to_string().contains("upgrade yun"), "{e}");
    for bytes in [
        &b"{}"[..],
        b"",
        b"nonsense",
        br#"{"v":3,"o":{"bytes":"x"}}"#,
        br#"{"v":0,"o":{}}"#,
        br#"{"v":1,"o":{"bytes":1}}"#,
    ] {
        let e = codec::decode::<Disk>(&key, bytes).unwrap_err();
        assert!(matches!(&e, StoreError::Corrupt { object, .. } if object == "disk/p/web"), "{e}");
    }
}

#[tokio::test]
async fn rows_are_created_changed_and_deleted() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(store);
    let web = ["p", "web"];
    assert_eq!(table.get(&web).await.unwrap(), None);
    let one = table.create(&web, &disk(1)).await.unwrap();
    let e = table.create(&web, &disk(2)).await.unwrap_err();
    assert!(matches!(&e, StoreError::Exists { rev, .. } if *rev == one), "{e}");
    assert!(e.is_conflict() && e.to_string().contains("disk/p/web"), "{e}");
    let two = table.update(&web, &disk(3), one).await.unwrap();
    let row = table.get(&web).await.unwrap().unwrap();
    assert_eq!((row.value, row.rev, row.create_rev), (disk(3), two, one));
    let e = table.update(&web, &disk(4), one).await.unwrap_err();
    assert!(matches!(&e, StoreError::Conflict { found: Some(found), .. } if *found == two), "{e}");
    let e = table.delete(&web, one).await.unwrap_err();
    assert!(e.to_string().contains("read it again"), "{e}");
    table.delete(&web, two).await.unwrap();
    let e = table.update(&web, &disk(5), two).await.unwrap_err();
    assert!(matches!(&e, StoreError::Conflict { found: None, .. }), "{e}");
}

#[tokio::test]
async fn lists_come_in_pages_of_one_revision() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(store);
    for i in 0..10 {
        table.create(&["p", &format!("{i}")], &disk(i)).await.unwrap();
        table.create(&["p2", &format!("{i}")], &disk(i)).await.unwrap();
    }
    let first = table.list(&["p"], None, None, 4).await.unwrap();
    table.create(&["p", "55"], &disk(55)).await.unwrap();
    let mut sizes: Vec<_> = first.rows.iter().map(|row| row.value.bytes).collect();
    let mut next = first.next;
    while let Some(key) = next {
        let page = table.list(&["p"], Some(&key), Some(first.rev), 4).await.unwrap();
        sizes.extend(page.rows.iter().map(|row| row.value.bytes));
        next = page.next;
    }
    assert_eq!(sizes, (0..10).collect::<Vec<_>>());
    assert_eq!(table.list(&[], None, None, 100).await.unwrap().rows.len(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modify_loses_no_update() {
    let (_dir, store) = store();
    let table = Table::<Disk>::new(Arc::clone(&store));
    let lease = store.lease_grant(std::time::Duration::from_secs(60)).await.unwrap().id;
    store.txn(Txn::new().then(Table::op_put_leased(&["p", "n"], &disk(0), lease).unwrap())).await.unwrap();
    let tasks = (0..4).map(|_| {
        let table = table.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                table
                    .modify(&["p", "n"], |disk: &mut Disk| {
                        disk.bytes += 1;
                        true
                    })
                    .await
                    .unwrap();
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    let row = table.get(&["p", "n"]).await.unwrap().unwrap();
    assert_eq!((row.value.bytes, row.lease), (20, Some(lease)), "also its lease stays");
    let same = table.modify(&["p", "n"], |_| false).await.unwrap();
    assert_eq!(same.rev, row.rev, "nothing to write, nothing written");
    assert!(table.modify(&["p", "none"], |_| true).await.unwrap_err().is_conflict());
}

#[tokio::test]
async fn one_transaction_spans_tables() {
    let (_dir, store) = store();
    let owner = Owner("me".into());
    let txn = || {
        let txn = Txn::new().when(Table::<Disk>::cmp_absent(&["p", "d"])).when(Table::<Owner>::cmp_absent(&["d"]));
        txn.then(Table::op_put(&["p", "d"], &disk(1)).unwrap()).then(Table::op_put(&["d"], &owner).unwrap())
    };
    let out = commit(&*store, txn()).await.unwrap();
    let e = commit(&*store, txn()).await.unwrap_err();
    assert!(matches!(&e, StoreError::Exists { key, rev } if &**key == "disk/p/d" && *rev == out.rev), "{e}");
    let stale = Txn::new()
        .when(Cmp::Exists("disk/p/d".into()))
        .when(Table::<Owner>::cmp_rev(&["d"], yun_store::Rev::new(1, 999)));
    let e = commit(&*store, stale.then(Table::<Disk>::op_del(&["p", "d"]))).await.unwrap_err();
    assert!(
        matches!(&e, StoreError::Conflict { key, found: Some(rev) } if &**key == "owner/d" && *rev == out.rev),
        "{e}"
    );
    let read = store.txn(Txn::new().then(Table::<Owner>::op_get(&["d"])).then(Op::get("none"))).await.unwrap();
    let [OpResult::Get(Some(kv)), OpResult::Get(None)] = &read.results[..] else { panic!("{read:?}") };
    assert_eq!(Row::<Owner>::decode(kv).unwrap().value, owner);
}

#[test]
fn names_cannot_forge_paths() {
    assert_eq!(path::key("disk", &["p", "a/b%2F"]).as_str(), "disk/p/a%2Fb%252F");
    assert_eq!(path::segments("disk/p/a%2Fb%252F"), ["p", "a/b%2F"]);
    let below: KeyRange = path::below("disk", &["web"]);
    assert!(below.contains("disk/web/1"));
    for outside in ["disk/web", "disk/web2/1", "disk/web0", "disks/web/1"] {
        assert!(!below.contains(outside), "{outside}");
    }
}
