//! Cases about transactions, ranges, the past, and limits.

use super::{Subject, del, get, head, put, run, text, texts};
use crate::error::StoreError;
use crate::kv::{Key, KeyRange};
use crate::lease::LeaseId;
use crate::limits;
use crate::rev::Rev;
use crate::snapshot::{Decoder, Record};
use crate::store::{Store, read_all};
use crate::txn::{Cmp, Op, OpResult, Txn};
use bytes::Bytes;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub async fn an_empty_store_lists_nothing(s: Subject) {
    let page = s.store.range(KeyRange::all(), None, 10).await.unwrap();
    assert!(page.kvs.is_empty() && !page.more, "{page:?}");
}

pub async fn a_create_is_exclusive(s: Subject) {
    let first = run(&s.store, Txn::create("a", "1")).await;
    assert!(first.succeeded);
    assert_eq!(first.results, [OpResult::Put]);
    let second = run(&s.store, Txn::create("a", "2").or_else(Op::get("a"))).await;
    assert!(!second.succeeded);
    let [OpResult::Get(Some(found))] = &second.results[..] else { panic!("{second:?}") };
    assert_eq!((text(found), found.mod_rev, found.create_rev), ("a=1".into(), first.rev, first.rev));
}

pub async fn a_swap_needs_the_present_revision(s: Subject) {
    let one = put(&s.store, "a", "1").await;
    let two = run(&s.store, Txn::swap("a", one, "2")).await;
    assert!(two.succeeded && two.rev > one);
    let stale = run(&s.store, Txn::swap("a", one, "3")).await;
    assert!(!stale.succeeded, "the revision is not the present one");
    let other_epoch = Rev::new(two.rev.epoch + 1, two.rev.n);
    assert!(
        !run(&s.store, Txn::swap("a", other_epoch, "3")).await.succeeded,
        "the number is right but the epoch is not"
    );
    assert!(!run(&s.store, Txn::swap("none", one, "3")).await.succeeded, "a key that is not there has no revision");
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, ["a=2"]);
}

pub async fn comparisons_tell_the_truth(s: Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    let created = run(&s.store, Txn::new().then(Op::put_leased("a", "1", lease))).await.rev;
    let changed = run(&s.store, Txn::new().then(Op::put_leased("a", "2", lease))).await.rev;
    let (a, b) = (Key::from("a"), Key::from("b"));
    let table = [
        (Cmp::Absent(a.clone()), false),
        (Cmp::Absent(b.clone()), true),
        (Cmp::Exists(a.clone()), true),
        (Cmp::Exists(b.clone()), false),
        (Cmp::ModRev(a.clone(), changed), true),
        (Cmp::ModRev(a.clone(), created), false),
        (Cmp::CreateRev(a.clone(), created), true),
        (Cmp::CreateRev(a.clone(), changed), false),
        (Cmp::CreateRev(b.clone(), created), false),
        (Cmp::LeaseIs(a.clone(), lease), true),
        (Cmp::LeaseIs(a.clone(), LeaseId(lease.0 + 1)), false),
        (Cmp::LeaseIs(b, lease), false),
    ];
    for (cmp, holds) in table {
        assert_eq!(run(&s.store, Txn::new().when(cmp.clone())).await.succeeded, holds, "{cmp:?}");
        let with_true = Txn::new().when(Cmp::Exists(a.clone())).when(cmp.clone());
        assert_eq!(run(&s.store, with_true).await.succeeded, holds, "all must hold: {cmp:?}");
    }
}

pub async fn versions_count_and_start_anew(s: Subject) {
    let created = put(&s.store, "a", "1").await;
    put(&s.store, "a", "2").await;
    let kv = get(&s.store, "a").await.unwrap();
    assert_eq!((kv.version, kv.create_rev), (2, created));
    del(&s.store, "a").await;
    let again = put(&s.store, "a", "3").await;
    let kv = get(&s.store, "a").await.unwrap();
    assert_eq!((kv.version, kv.create_rev, kv.mod_rev), (1, again, again));
}

pub async fn reading_takes_no_revision(s: Subject) {
    let rev = put(&s.store, "a", "1").await;
    let out = run(&s.store, Txn::new().then(Op::get("a")).then(Op::get("b"))).await;
    assert_eq!(out.rev, rev);
    assert!(matches!(&out.results[..], [OpResult::Get(Some(_)), OpResult::Get(None)]), "{out:?}");
    assert_eq!(put(&s.store, "a", "2").await, Rev::new(rev.epoch, rev.n + 1), "the next write takes the next number");
}

pub async fn steps_see_the_steps_before(s: Subject) {
    put(&s.store, "a", "old").await;
    let steps = Txn::new()
        .then(Op::get("a"))
        .then(Op::put("a", "new"))
        .then(Op::get("a"))
        .then(Op::del("b"))
        .then(Op::get("b"));
    let out = run(&s.store, steps).await;
    let values: Vec<_> =
        out.results.iter().map(|r| if let OpResult::Get(kv) = r { kv.as_ref().map(text) } else { None }).collect();
    assert_eq!(values, [Some("a=old".into()), None, Some("a=new".into()), None, None]);
    let OpResult::Get(Some(kv)) = &out.results[2] else { panic!("{out:?}") };
    assert_eq!(kv.mod_rev, out.rev, "a step already sees the revision that the transaction makes");
}

pub async fn deleting_nothing_takes_no_revision(s: Subject) {
    let rev = put(&s.store, "a", "1").await;
    let out = run(&s.store, Txn::new().then(Op::del("b")).then(Op::DelRange(KeyRange::prefix("c/")))).await;
    assert_eq!((out.rev, out.results), (rev, vec![OpResult::Del(0), OpResult::Del(0)]));
}

pub async fn a_range_is_deleted_in_one_revision(s: Subject) {
    for key in ["a", "b/1", "b/2", "b0", "c"] {
        put(&s.store, key, "x").await;
    }
    let before = head(&s.store).await;
    let out = run(&s.store, Txn::new().then(Op::DelRange(KeyRange::prefix("b/")))).await;
    assert_eq!((out.rev.n, out.results), (before.n + 1, vec![OpResult::Del(2)]));
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, ["a=x", "b0=x", "c=x"]);
}

pub async fn pages_follow_the_order_of_bytes(s: Subject) {
    let mut keys = vec!["a", "a/b", "a0", "B", "é", "z", "zz", "日本", "\u{10FFFF}x", "a\u{0}b"];
    for key in &keys {
        put(&s.store, key, "x").await;
    }
    keys.sort_unstable_by_key(|key| key.as_bytes().to_vec());
    let mut found = Vec::new();
    let mut range = KeyRange::all();
    loop {
        let page = s.store.range(range.clone(), None, 3).await.unwrap();
        assert!(page.kvs.len() <= 3 && (page.kvs.len() == 3 || !page.more));
        found.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
        range = range.behind(&last.key);
    }
    assert_eq!(found.iter().map(Key::as_str).collect::<Vec<_>>(), keys);
    let one = s.store.range(KeyRange::range("a", "a0"), None, 10).await.unwrap();
    assert_eq!(one.kvs.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(), ["a", "a\u{0}b", "a/b"]);
    let exact = s.store.range(KeyRange::range("a", "a0"), None, 3).await.unwrap();
    assert!(!exact.more, "a full page at the end has no more");
}

pub async fn the_past_can_be_read(s: Subject) {
    let one = put(&s.store, "a", "1").await;
    let two = put(&s.store, "b", "1").await;
    let three = put(&s.store, "a", "2").await;
    let four = del(&s.store, "b").await;
    let five = put(&s.store, "b", "3").await;
    let expected = [
        (one, vec!["a=1"]),
        (two, vec!["a=1", "b=1"]),
        (three, vec!["a=2", "b=1"]),
        (four, vec!["a=2"]),
        (five, vec!["a=2", "b=3"]),
    ];
    for (at, state) in expected {
        assert_eq!(texts(&s.store, KeyRange::all(), Some(at)).await, state, "at {at}");
        let page = s.store.range(KeyRange::single("a"), Some(at), 1).await.unwrap();
        assert_eq!((page.rev, page.kvs[0].create_rev), (at, one));
    }
}

pub async fn a_page_of_the_past_is_one_revision(s: Subject) {
    for i in 0..20 {
        put(&s.store, &format!("k/{i:02}"), "old").await;
    }
    let first = s.store.range(KeyRange::prefix("k/"), None, 7).await.unwrap();
    // Changes of every kind before, on and behind the page boundary.
    for key in ["k/03", "k/07", "k/15"] {
        put(&s.store, key, "new").await;
        del(&s.store, &key.replace("k/0", "k/1")).await;
        put(&s.store, &format!("{key}+"), "new").await;
    }
    let mut kvs = first.kvs;
    let mut more = first.more;
    while more {
        let range = KeyRange::prefix("k/").behind(&kvs.last().unwrap().key);
        let page = s.store.range(range, Some(first.rev), 7).await.unwrap();
        assert_eq!(page.rev, first.rev);
        kvs.extend(page.kvs);
        more = page.more;
    }
    let expected: Vec<_> = (0..20).map(|i| format!("k/{i:02}=old")).collect();
    assert_eq!(kvs.iter().map(text).collect::<Vec<_>>(), expected);
}

pub async fn limits_are_the_same_everywhere(s: Subject) {
    let largest = vec![b'x'; limits::MAX_VALUE];
    run(&s.store, Txn::put("largest", largest.clone())).await;
    assert_eq!(get(&s.store, "largest").await.unwrap().value.len(), limits::MAX_VALUE);
    run(&s.store, (0..limits::MAX_OPS).fold(Txn::new(), |txn, i| txn.then(Op::put(format!("{i}"), "")))).await;
    run(&s.store, Txn::put("k".repeat(limits::MAX_KEY), "")).await;
    let half = vec![b'x'; limits::MAX_TXN / 2 + 1];
    let too_large = [
        Txn::put("a", vec![b'x'; limits::MAX_VALUE + 1]),
        Txn::new().then(Op::put("a", half.clone())).then(Op::put("b", half.clone())),
        Txn::new().then(Op::put("a", half.clone())).or_else(Op::put("b", half)),
        (0..=limits::MAX_OPS).fold(Txn::new(), |txn, i| txn.then(Op::put(format!("{i}"), ""))),
        (0..=limits::MAX_OPS).fold(Txn::new(), |txn, i| txn.when(Cmp::Absent(format!("{i}").into()))),
        Txn::put("k".repeat(limits::MAX_KEY + 1), ""),
    ];
    for txn in too_large {
        let e = s.store.txn(txn).await.unwrap_err();
        assert!(matches!(e, StoreError::TooLarge { .. }), "{e}");
    }
    let invalid = [
        Txn::put("", "empty key"),
        Txn::new().then(Op::put("a", "1")).then(Op::put("a", "2")),
        Txn::new().then(Op::put("a", "1")).then(Op::del("a")),
        Txn::new().then(Op::put("a/1", "1")).then(Op::DelRange(KeyRange::prefix("a/"))),
        Txn::new().then(Op::DelRange(KeyRange::prefix("a"))).then(Op::DelRange(KeyRange::prefix("a/"))),
    ];
    for txn in invalid {
        let e = s.store.txn(txn).await.unwrap_err();
        assert!(matches!(e, StoreError::Invalid { .. }), "{e}");
    }
    // The same key in both lists is fine: only one of them runs.
    assert!(run(&s.store, Txn::put("a", "1").or_else(Op::put("a", "2"))).await.succeeded);
}

pub async fn a_refused_transaction_leaves_no_trace(s: Subject) {
    let before = put(&s.store, "a", "1").await;
    let gone = LeaseId(0x7777_7777);
    let txn = Txn::new().then(Op::put("a", "2")).then(Op::del("a2")).then(Op::put_leased("b", "1", gone));
    // Many good ones at the same time, so that an engine which groups commits has the bad one in a group.
    let store = &s.store;
    let good = join_all((0..20).map(|i| async move { put(store, &format!("good/{i:02}"), "x").await }));
    let (e, revs) = futures::join!(s.store.txn(txn), good);
    assert!(matches!(e.unwrap_err(), StoreError::LeaseGone { id } if id == gone));
    assert_eq!(revs.iter().collect::<BTreeSet<_>>().len(), 20);
    assert_eq!(head(&s.store).await.n, before.n + 20, "the refused one took no revision");
    assert_eq!(texts(&s.store, KeyRange::range("a", "c"), None).await, ["a=1"]);
}

pub async fn one_of_many_racing_creates_wins(s: Subject) {
    let store = &s.store;
    let racers =
        (0..32).map(|i| async move { run(store, Txn::create("lock", format!("{i}")).or_else(Op::get("lock"))).await });
    let outs = join_all(racers).await;
    let winners: Vec<_> = outs.iter().filter(|out| out.succeeded).collect();
    assert_eq!(winners.len(), 1);
    for out in outs.iter().filter(|out| !out.succeeded) {
        let [OpResult::Get(Some(kv))] = &out.results[..] else { panic!("{out:?}") };
        assert_eq!(kv.create_rev, winners[0].rev, "everybody else sees the winner");
    }
}

pub async fn racing_swaps_lose_no_update(s: Subject) {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 10;
    put(&s.store, "n", "0").await;
    let tasks = (0..CLIENTS).map(|_| {
        let store = Arc::clone(&s.store);
        tokio::spawn(async move {
            for _ in 0..EACH {
                add_one(&store, "n").await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, [format!("n={}", CLIENTS * EACH)]);
    assert_eq!(get(&s.store, "n").await.unwrap().version, CLIENTS * EACH + 1);
}

async fn add_one(store: &Arc<dyn Store>, key: &str) {
    loop {
        let kv = get(store, key).await.unwrap();
        let n: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
        if run(store, Txn::swap(key, kv.mod_rev, (n + 1).to_string())).await.succeeded {
            return;
        }
    }
}

pub async fn a_snapshot_holds_the_present_state(s: Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(60)).await.unwrap();
    run(&s.store, Txn::new().then(Op::put_leased("a", "1", lease.id)).then(Op::put("b", "1"))).await;
    put(&s.store, "b", "2").await;
    put(&s.store, "c", "x").await;
    del(&s.store, "c").await;
    run(&s.store, Txn::put("large", Bytes::from(vec![7; 600_000]))).await;
    let mut bytes = Vec::new();
    let rev = s.store.snapshot(&mut bytes).await.unwrap();
    let mut decoder = Decoder::new(&bytes[..]).unwrap();
    assert_eq!(decoder.header().rev, rev);
    let (mut pairs, mut leases) = (Vec::new(), Vec::new());
    while let Some(record) = decoder.next().unwrap() {
        match record {
            Record::Pair(kv) => pairs.push(kv),
            Record::Lease(id, ttl) => leases.push((id, ttl)),
        }
    }
    assert_eq!((rev, pairs), read_all(&*s.store, KeyRange::all()).await.unwrap());
    assert_eq!(leases, [(lease.id, lease.ttl)]);
}

pub async fn revisions_of_elsewhere_are_refused(s: Subject) {
    let rev = put(&s.store, "a", "1").await;
    for at in [Rev::new(rev.epoch, rev.n + 1), Rev::new(rev.epoch + 1, rev.n), Rev::new(rev.epoch - 1, rev.n)] {
        let e = s.store.range(KeyRange::all(), Some(at), 1).await.unwrap_err();
        assert!(matches!(e, StoreError::Compacted { asked, .. } if asked == at), "{e}");
    }
}
