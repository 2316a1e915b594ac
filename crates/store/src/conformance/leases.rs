//! Cases about leases. They only rely on "not before the time to live": an engine may end a lease later.

use super::{Subject, event_texts, get, head, put, run, texts, until};
use crate::error::StoreError;
use crate::kv::{Key, KeyRange};
use crate::lease::LeaseId;
use crate::limits;
use crate::rev::Rev;
use crate::store::Store;
use crate::txn::{Cmp, Op, Txn};
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_secs(1);

async fn leased(store: &Arc<dyn Store>, keys: &[&str]) -> LeaseId {
    let lease = store.lease_grant(TTL).await.unwrap();
    assert!(lease.ttl >= TTL);
    let txn = keys.iter().fold(Txn::new(), |txn, key| txn.then(Op::put_leased(*key, "x", lease.id)));
    run(store, txn).await;
    lease.id
}

/// Lets time pass until the lease has ended.
async fn outlive(s: &Subject, id: LeaseId) {
    while s.store.lease_remaining(id).await.is_ok() {
        (s.pass)(SHORT).await;
    }
}

pub async fn a_lease_takes_its_keys_in_one_revision(s: Subject) {
    put(&s.store, "stays", "x").await;
    let id = leased(&s.store, &["a", "b", "c"]).await;
    let before = head(&s.store).await;
    let mut watch = s.store.watch(KeyRange::all(), before);
    outlive(&s, id).await;
    let end = Rev::new(before.epoch, before.n + 1);
    let batches = until(&mut watch, end).await;
    assert_eq!(event_texts(&batches[0].events), ["-a", "-b", "-c"]);
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, ["stays=x"]);
    assert_eq!(head(&s.store).await, end);
}

pub async fn a_lease_lives_its_full_time(s: Subject) {
    let id = leased(&s.store, &["a"]).await;
    (s.pass)(TTL - SHORT).await;
    assert!(get(&s.store, "a").await.is_some(), "not before its time");
    let left = s.store.lease_remaining(id).await.unwrap();
    assert!(left.remaining <= TTL);
}

pub async fn a_keep_alive_gives_the_full_time(s: Subject) {
    let id = leased(&s.store, &["a"]).await;
    for _ in 0..3 {
        (s.pass)(TTL - SHORT).await;
        assert_eq!(s.store.lease_keep_alive(id).await.unwrap().id, id);
    }
    assert!(get(&s.store, "a").await.is_some());
    outlive(&s, id).await;
    assert!(get(&s.store, "a").await.is_none());
    let e = s.store.lease_keep_alive(id).await.unwrap_err();
    assert!(matches!(e, StoreError::LeaseGone { .. }), "a keep-alive never wakes a dead lease: {e}");
}

pub async fn a_revoked_lease_is_gone(s: Subject) {
    let id = leased(&s.store, &["a", "b"]).await;
    let before = head(&s.store).await;
    s.store.lease_revoke(id).await.unwrap();
    assert!(texts(&s.store, KeyRange::all(), None).await.is_empty());
    assert_eq!(head(&s.store).await.n, before.n + 1);
    for e in [s.store.lease_revoke(id).await.unwrap_err(), s.store.lease_remaining(id).await.unwrap_err()] {
        assert!(matches!(e, StoreError::LeaseGone { id: gone } if gone == id), "{e}");
    }
    let empty = s.store.lease_grant(TTL).await.unwrap().id;
    s.store.lease_revoke(empty).await.unwrap();
    assert_eq!(head(&s.store).await.n, before.n + 1, "a lease without keys takes no revision");
}

pub async fn an_ended_lease_refuses_the_whole_transaction(s: Subject) {
    let id = leased(&s.store, &["a"]).await;
    outlive(&s, id).await;
    let before = head(&s.store).await;
    let e = s.store.txn(Txn::put("b", "x").then(Op::put_leased("c", "x", id))).await.unwrap_err();
    assert!(matches!(e, StoreError::LeaseGone { .. }), "{e}");
    assert_eq!(head(&s.store).await, before);
    assert!(get(&s.store, "b").await.is_none());
}

pub async fn a_key_moves_between_leases(s: Subject) {
    let one = leased(&s.store, &["free", "moved", "dies"]).await;
    let two = s.store.lease_grant(TTL).await.unwrap().id;
    put(&s.store, "free", "y").await;
    run(&s.store, Txn::new().then(Op::put_leased("moved", "y", two))).await;
    assert_eq!(get(&s.store, "free").await.unwrap().lease, None);
    assert_eq!(get(&s.store, "moved").await.unwrap().lease, Some(two));
    s.store.lease_revoke(one).await.unwrap();
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, ["free=y", "moved=y"]);
    // A deleted and created key belongs to no lease of its former life.
    run(&s.store, Txn::new().then(Op::del("moved"))).await;
    put(&s.store, "moved", "z").await;
    s.store.lease_revoke(two).await.unwrap();
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, ["free=y", "moved=z"]);
}

pub async fn a_lost_lock_fences_its_owner(s: Subject) {
    let lock = Key::from("lock");
    let mine = s.store.lease_grant(TTL).await.unwrap().id;
    let take = |lease| Txn::new().when(Cmp::Absent(lock.clone())).then(Op::put_leased("lock", "me", lease));
    let held = run(&s.store, take(mine)).await;
    let fenced = |what: &str| {
        let holds = Txn::new().when(Cmp::CreateRev(lock.clone(), held.rev)).when(Cmp::LeaseIs(lock.clone(), mine));
        holds.then(Op::put("work", what.to_owned()))
    };
    assert!(run(&s.store, fenced("mine")).await.succeeded);
    outlive(&s, mine).await;
    let yours = s.store.lease_grant(TTL).await.unwrap().id;
    let taken = run(&s.store, take(yours)).await;
    assert!(taken.succeeded && taken.rev > held.rev, "the fencing token grows");
    assert!(!run(&s.store, fenced("late")).await.succeeded, "the former owner writes no more");
    assert_eq!(texts(&s.store, KeyRange::single("work"), None).await, ["work=mine"]);
}

pub async fn a_lease_holds_a_bounded_number_of_keys(s: Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    for chunk in (0..limits::MAX_LEASE_KEYS).collect::<Vec<_>>().chunks(limits::MAX_OPS) {
        let txn = chunk.iter().fold(Txn::new(), |txn, i| txn.then(Op::put_leased(format!("{i:05}"), "", lease)));
        run(&s.store, txn).await;
    }
    let e = s.store.txn(Txn::new().then(Op::put_leased("more", "", lease))).await.unwrap_err();
    assert!(matches!(e, StoreError::TooLarge { .. }), "{e}");
    run(&s.store, Txn::new().then(Op::put_leased("00000", "again", lease))).await;
    assert_eq!(s.store.lease_remaining(lease).await.unwrap().keys, limits::MAX_LEASE_KEYS);
}

pub async fn what_is_left_of_a_lease_is_told(s: Subject) {
    let id = leased(&s.store, &["a", "b"]).await;
    let left = s.store.lease_remaining(id).await.unwrap();
    assert_eq!((left.id, left.keys), (id, 2));
    assert!(left.remaining <= left.ttl && left.ttl >= TTL);
    assert!(matches!(s.store.lease_remaining(LeaseId(12)).await, Err(StoreError::LeaseGone { .. })));
}

pub async fn times_of_leases_are_bounded(s: Subject) {
    for ttl in [Duration::ZERO, Duration::from_millis(10), limits::MAX_LEASE * 2] {
        let e = s.store.lease_grant(ttl).await.unwrap_err();
        assert!(matches!(e, StoreError::Invalid { .. }), "{e}");
    }
    let ids = [s.store.lease_grant(TTL).await.unwrap().id, s.store.lease_grant(TTL).await.unwrap().id];
    assert_ne!(ids[0], ids[1]);
}
