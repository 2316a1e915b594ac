//! Cases about watches.

use super::{Subject, del, event_texts, head, put, run, until};
use crate::error::WatchEnd;
use crate::kv::{Event, KeyRange};
use crate::rev::Rev;
use crate::txn::{Op, Txn};
use futures::StreamExt;
use futures::future::join_all;
use std::sync::Arc;

pub async fn a_revision_comes_whole(s: Subject) {
    put(&s.store, "k/old", "x").await;
    let start = head(&s.store).await;
    let mut watch = s.store.watch(KeyRange::prefix("k/"), start);
    let mut txn = Txn::new().then(Op::del("k/old"));
    for i in 0..100 {
        txn = txn.then(Op::put(format!("k/{i:03}"), "x"));
    }
    let rev = run(&s.store, txn).await.rev;
    let batches = until(&mut watch, rev).await;
    assert_eq!(batches.len(), 1, "one revision is one batch");
    assert_eq!(batches[0].events.len(), 101);
    assert_eq!(event_texts(&batches[0].events[..2]), ["-k/old", "+k/000=x"], "in the order of the transaction");
    for event in &batches[0].events {
        assert!(matches!(event, Event::Put(kv) if kv.mod_rev == rev) || matches!(event, Event::Delete(_)));
    }
    // The same from the past.
    let again = until(&mut s.store.watch(KeyRange::prefix("k/"), start), rev).await;
    assert_eq!(again, batches);
}

pub async fn a_watch_starts_in_the_past(s: Subject) {
    let start = head(&s.store).await;
    let one = put(&s.store, "a", "1").await;
    let two = put(&s.store, "a", "2").await;
    let three = del(&s.store, "a").await;
    for (after, expected) in [(start, vec!["+a=1", "+a=2", "-a"]), (one, vec!["+a=2", "-a"]), (two, vec!["-a"])] {
        let batches = until(&mut s.store.watch(KeyRange::all(), after), three).await;
        let events: Vec<_> = batches.iter().flat_map(|batch| event_texts(&batch.events)).collect();
        assert_eq!(events, expected, "after {after}");
    }
}

pub async fn a_watch_sees_its_range_only(s: Subject) {
    let start = head(&s.store).await;
    put(&s.store, "web", "no").await;
    run(&s.store, Txn::new().then(Op::put("web/1", "yes")).then(Op::put("web2/1", "no")).then(Op::put("zoo", "no")))
        .await;
    let last = put(&s.store, "web0", "no").await;
    let batches = until(&mut s.store.watch(KeyRange::prefix("web/"), start), last).await;
    assert_eq!(batches.iter().flat_map(|b| event_texts(&b.events)).collect::<Vec<_>>(), ["+web/1=yes"]);
    let batches = until(&mut s.store.watch(KeyRange::single("web"), start), last).await;
    assert_eq!(batches.iter().flat_map(|b| event_texts(&b.events)).collect::<Vec<_>>(), ["+web=no"]);
}

pub async fn past_and_present_join_without_gap(s: Subject) {
    const PAST: u64 = 60;
    const PRESENT: u64 = 60;
    let start = head(&s.store).await;
    for i in 0..PAST {
        put(&s.store, "n", &i.to_string()).await;
    }
    let watchers: Vec<_> = (0..4)
        .map(|i| {
            let mut watch = s.store.watch(KeyRange::all(), Rev::new(start.epoch, start.n + i * 10));
            tokio::spawn(async move { until(&mut watch, Rev::new(start.epoch, start.n + PAST + PRESENT)).await })
        })
        .collect();
    for i in 0..PRESENT {
        put(&s.store, "n", &(PAST + i).to_string()).await;
    }
    for (i, task) in (0..).zip(watchers) {
        let batches = task.await.unwrap();
        let revs: Vec<_> = batches.iter().map(|batch| batch.rev.n).collect();
        assert_eq!(revs, (start.n + i * 10 + 1..=start.n + PAST + PRESENT).collect::<Vec<_>>());
    }
}

pub async fn a_slow_watcher_misses_nothing(s: Subject) {
    // More than engines keep in memory in tests; each revision has something outside of the range as well.
    const COUNT: u64 = 400;
    let start = put(&s.store, "k/0", "start").await;
    let mut watch = s.store.watch(KeyRange::prefix("k/"), start);
    put(&s.store, "k/first", "x").await;
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.rev.n, start.n + 1);
    let store = &s.store;
    join_all((0..COUNT).map(|i| async move {
        run(store, Txn::put(format!("k/{i}"), vec![b'x'; 100]).then(Op::put(format!("other/{i}"), "x"))).await
    }))
    .await;
    let end = head(&s.store).await;
    let batches = until(&mut watch, end).await;
    assert_eq!(batches.iter().map(|b| b.rev.n).collect::<Vec<_>>(), (first.rev.n + 1..=end.n).collect::<Vec<_>>());
    assert!(batches.iter().all(|batch| batch.events.len() == 1));
}

pub async fn a_long_past_comes_in_whole_revisions(s: Subject) {
    // More rows than engines read at once, in revisions that do not divide that number.
    const REVISIONS: u64 = 24;
    const KEYS: usize = 97;
    let start = head(&s.store).await;
    for n in 0..REVISIONS {
        run(&s.store, (0..KEYS).fold(Txn::new(), |txn, i| txn.then(Op::put(format!("k/{i}"), n.to_string())))).await;
    }
    let end = head(&s.store).await;
    let batches = until(&mut s.store.watch(KeyRange::all(), start), end).await;
    assert_eq!(batches.len() as u64, REVISIONS);
    assert!(batches.iter().all(|batch| batch.events.len() == KEYS), "no revision is split");
}

pub async fn progress_comes_without_events(s: Subject) {
    let start = head(&s.store).await;
    let mut watch = s.store.watch(KeyRange::prefix("quiet/"), start);
    let rev = put(&s.store, "loud", "x").await;
    // Returns only because progress is reported.
    assert!(until(&mut watch, rev).await.is_empty());
    let event = put(&s.store, "quiet/1", "x").await;
    assert_eq!(until(&mut watch, event).await.len(), 1, "progress never runs ahead of events");
}

pub async fn equal_values_are_events_too(s: Subject) {
    let start = put(&s.store, "a", "same").await;
    let end = put(&s.store, "a", "same").await;
    assert_eq!(until(&mut s.store.watch(KeyRange::all(), start), end).await.len(), 1);
}

pub async fn a_watch_of_another_epoch_ends(s: Subject) {
    let rev = put(&s.store, "a", "x").await;
    for after in [Rev::new(rev.epoch + 1, 0), Rev::new(rev.epoch - 1, rev.n), Rev::new(rev.epoch, rev.n + 1_000)] {
        let mut watch = s.store.watch(KeyRange::all(), after);
        let end = watch.next().await.unwrap();
        assert!(matches!(end, Err(WatchEnd::Compacted { .. })), "{after}: {end:?}");
        assert!(watch.next().await.is_none(), "nothing comes after the end");
    }
}

pub async fn many_watchers_see_the_same(s: Subject) {
    const WATCHERS: usize = 100;
    let start = head(&s.store).await;
    let end = Rev::new(start.epoch, start.n + 30);
    let tasks: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let store = Arc::clone(&s.store);
            tokio::spawn(async move { until(&mut store.watch(KeyRange::all(), start), end).await })
        })
        .collect();
    for i in 0..30 {
        put(&s.store, &format!("{i}"), "x").await;
    }
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await.unwrap());
    }
    assert_eq!(seen[0].len(), 30);
    assert!(seen.iter().all(|batches| *batches == seen[0]));
}
