//! Cases about forgetting history.

use super::{Subject, del, event_texts, get, head, put, texts, until};
use crate::error::{StoreError, WatchEnd};
use crate::kv::KeyRange;
use crate::rev::Rev;
use crate::store::Store;
use futures::StreamExt;
use std::sync::Arc;

/// a=1, b=1, a=2, -b, a=3 and their revisions.
async fn five(store: &Arc<dyn Store>) -> [Rev; 5] {
    [
        put(store, "a", "1").await,
        put(store, "b", "1").await,
        put(store, "a", "2").await,
        del(store, "b").await,
        put(store, "a", "3").await,
    ]
}

pub async fn history_ends_where_compaction_says(s: Subject) {
    let revs = five(&s.store).await;
    s.store.compact(revs[2]).await.unwrap();
    for at in &revs[..2] {
        let e = s.store.range(KeyRange::all(), Some(*at), 10).await.unwrap_err();
        assert!(matches!(e, StoreError::Compacted { asked, min } if asked == *at && min == revs[2]), "{e}");
    }
    assert_eq!(
        texts(&s.store, KeyRange::all(), Some(revs[2])).await,
        ["a=2", "b=1"],
        "the state at the compaction is kept"
    );
    assert_eq!(texts(&s.store, KeyRange::all(), Some(revs[3])).await, ["a=2"]);
    assert_eq!(texts(&s.store, KeyRange::all(), Some(revs[4])).await, ["a=3"]);
}

pub async fn compaction_keeps_the_present(s: Subject) {
    for i in 0..700 {
        put(&s.store, &format!("k/{:02}", i % 50), &i.to_string()).await;
    }
    for i in 0..10 {
        del(&s.store, &format!("k/{i:02}")).await;
    }
    let before = texts(&s.store, KeyRange::all(), None).await;
    let created = get(&s.store, "k/10").await.unwrap();
    s.store.compact(head(&s.store).await).await.unwrap();
    assert_eq!(texts(&s.store, KeyRange::all(), None).await, before);
    assert_eq!(get(&s.store, "k/10").await.unwrap(), created, "also its history numbers");
    assert_eq!(before.len(), 40);
}

pub async fn a_watch_from_compacted_history_ends(s: Subject) {
    let revs = five(&s.store).await;
    let mut early = s.store.watch(KeyRange::all(), revs[0]);
    let first = early.next().await.unwrap().unwrap();
    assert_eq!(first.rev, revs[1]);
    s.store.compact(revs[3]).await.unwrap();
    let mut late = s.store.watch(KeyRange::all(), revs[2]);
    let end = late.next().await.unwrap();
    assert!(matches!(end, Err(WatchEnd::Compacted { min }) if min == revs[3]), "{end:?}");
    assert!(late.next().await.is_none());
    // The way out: list, then watch from the list.
    let page = s.store.range(KeyRange::all(), None, 10).await.unwrap();
    let mut again = s.store.watch(KeyRange::all(), page.rev);
    let next = put(&s.store, "c", "x").await;
    assert_eq!(until(&mut again, next).await.len(), 1);
    // One that is under way gets all that is left or the same end, never a gap.
    let mut expected = 2;
    loop {
        match early.next().await.unwrap() {
            Ok(batch) if batch.rev == next => break,
            Ok(batch) => {
                assert_eq!(batch.rev, revs[expected]);
                expected += 1;
            }
            Err(WatchEnd::Compacted { .. }) => break,
            Err(e) => panic!("{e}"),
        }
    }
}

pub async fn a_delete_behind_the_compaction_is_seen(s: Subject) {
    let revs = five(&s.store).await;
    s.store.compact(revs[2]).await.unwrap();
    let batches = until(&mut s.store.watch(KeyRange::all(), revs[2]), revs[4]).await;
    let events: Vec<_> = batches.iter().flat_map(|batch| event_texts(&batch.events)).collect();
    assert_eq!(events, ["-b", "+a=3"], "the delete right behind the compaction is an event");
}

pub async fn revisions_grow_over_compaction(s: Subject) {
    put(&s.store, "a", "1").await;
    let deleted = del(&s.store, "a").await;
    // Nothing is left of the newest revision but its number.
    s.store.compact(deleted).await.unwrap();
    assert_eq!(head(&s.store).await, deleted);
    let next = put(&s.store, "a", "2").await;
    assert_eq!(next, Rev::new(deleted.epoch, deleted.n + 1));
    let batches = until(&mut s.store.watch(KeyRange::all(), deleted), next).await;
    assert_eq!(event_texts(&batches[0].events), ["+a=2"]);
}

pub async fn compaction_can_be_repeated(s: Subject) {
    let revs = five(&s.store).await;
    for at in [revs[1], revs[1], revs[3], revs[0], revs[3]] {
        s.store.compact(at).await.unwrap();
    }
    assert_eq!(s.store.health().await.unwrap().compacted, revs[3], "it never goes back");
    assert_eq!(texts(&s.store, KeyRange::all(), Some(revs[3])).await, ["a=2"]);
}

pub async fn compaction_of_the_future_is_refused(s: Subject) {
    let revs = five(&s.store).await;
    for rev in [Rev::new(revs[4].epoch, revs[4].n + 1), Rev::new(revs[4].epoch + 1, 1)] {
        let e = s.store.compact(rev).await.unwrap_err();
        assert!(matches!(e, StoreError::Invalid { .. }), "{e}");
    }
    s.store.compact(Rev::new(revs[4].epoch - 1, 99)).await.unwrap();
    assert_eq!(
        texts(&s.store, KeyRange::all(), Some(revs[0])).await,
        ["a=1"],
        "of another epoch there is nothing to forget"
    );
}

pub async fn health_tells_where_history_starts(s: Subject) {
    let revs = five(&s.store).await;
    s.store.compact(revs[2]).await.unwrap();
    let lease = s.store.lease_grant(std::time::Duration::from_secs(60)).await.unwrap();
    let health = s.store.health().await.unwrap();
    assert_eq!((health.head, health.compacted, health.leases, &health.trouble), (revs[4], revs[2], 1, &None));
    assert!(health.size > 0 && health.soft <= health.hard);
    s.store.lease_revoke(lease.id).await.unwrap();
}
