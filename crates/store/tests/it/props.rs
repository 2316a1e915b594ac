//! Properties: revisions and keys as text, ranges against their definition, and the engine against a plain map.

use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use yun_store::conformance::history::Model;
use yun_store::conformance::until;
use yun_store::{Batch, Cmp, Key, KeyRange, Op, Options, Rev, SqliteStore, Store, Txn, path, read_all};

fn short_text() -> impl Strategy<Value = String> {
    // Few characters, so that prefixes meet; among them the edges of UTF-8.
    let chars = prop_oneof![
        Just('a'),
        Just('b'),
        Just('/'),
        Just('%'),
        Just('\u{0}'),
        Just('\u{7f}'),
        Just('é'),
        Just('\u{d7ff}'),
        Just('\u{e000}'),
        Just(char::MAX)
    ];
    vec(chars, 0..5).prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn revisions_are_read_as_they_are_written(epoch: u32, n: u64, other_epoch: u32, other_n: u64) {
        let rev = Rev::new(epoch, n);
        prop_assert_eq!(rev.to_string().parse::<Rev>().unwrap(), rev);
        let json = serde_json::to_string(&rev).unwrap();
        prop_assert_eq!(&json, &format!("\"{rev}\""));
        prop_assert_eq!(serde_json::from_str::<Rev>(&json).unwrap(), rev);
        let other = Rev::new(other_epoch, other_n);
        prop_assert_eq!(rev < other, (epoch, n) < (other_epoch, other_n));
    }

    #[test]
    fn only_revisions_are_read_as_revisions(text in "[0-9.+ -]{0,8}") {
        if let Ok(rev) = text.parse::<Rev>() {
            prop_assert_eq!(rev.to_string(), text);
        }
    }

    #[test]
    fn ranges_hold_what_they_say(prefix in short_text(), key in short_text(), from in short_text(), to in short_text()) {
        prop_assert_eq!(KeyRange::prefix(&prefix).contains(&key), key.starts_with(&prefix));
        prop_assert_eq!(KeyRange::single(&*from).contains(&key), key == from);
        let range = KeyRange::range(&*from, &*to);
        prop_assert_eq!(range.contains(&key), from.as_bytes() <= key.as_bytes() && key.as_bytes() < to.as_bytes());
        let behind = range.behind(&Key::from(&*prefix));
        prop_assert_eq!(behind.contains(&key), range.contains(&key) && key > prefix);
        prop_assert!(range.contains(&key) <= !range.is_empty());
        if range.contains(&key) && KeyRange::prefix(&prefix).contains(&key) {
            prop_assert!(range.overlaps(&KeyRange::prefix(&prefix)) && KeyRange::prefix(&prefix).overlaps(&range));
        }
    }

    #[test]
    fn paths_are_read_as_they_are_written(segments in vec(short_text(), 1..4), other in vec(short_text(), 1..4)) {
        fn slices(owned: &[String]) -> Vec<&str> {
            owned.iter().map(String::as_str).collect()
        }
        let key = path::key("t", &slices(&segments));
        prop_assert_eq!(&path::segments(&key), &segments);
        let inside = path::below("t", &slices(&other)).contains(&key);
        prop_assert_eq!(inside, segments.len() > other.len() && segments.starts_with(&other));
    }
}

/// One step of a random life of a store.
#[derive(Clone, Debug)]
enum Act {
    Run(Txn),
    /// Compact to this share of the history.
    Compact(u8),
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    (0..6_u8).prop_map(|i| Key::from(format!("k/{i}")))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), 0..100_u8).prop_map(|(key, value)| Op::put(key, value.to_string())),
        2 => key().prop_map(Op::Del),
        1 => (key(), key()).prop_map(|(a, b)| Op::DelRange(KeyRange::range(a, b))),
        1 => key().prop_map(Op::Get),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let cmp = prop_oneof![
        key().prop_map(Cmp::Absent),
        key().prop_map(Cmp::Exists),
        (key(), 0..30_u64).prop_map(|(key, n)| Cmp::ModRev(key, Rev::new(1, n)))
    ];
    let txn = (vec(cmp, 0..2), vec(op(), 0..4), vec(op(), 0..4)).prop_map(|(cmps, then, or_else)| Txn {
        cmps,
        then,
        or_else,
    });
    prop_oneof![12 => txn.prop_map(Act::Run), 1 => any::<u8>().prop_map(Act::Compact), 1 => Just(Act::Reopen)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens, the engine answers as a map does, and each kept revision reads as the map was then.
    #[test]
    fn the_engine_is_a_map_with_a_past(acts in vec(act(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(acts));
    }
}

async fn live(acts: Vec<Act>) {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(dir.path(), Options { ring_revisions: 3, ..Options::default() }).unwrap())
    };
    let mut store = Some(open());
    let mut model = Model::default();
    let mut head = Rev::new(1, 0);
    let mut compacted = 0;
    // What the map was at each revision, and what led there.
    let mut past = vec![(Batch { rev: head, events: Vec::new() }, model.clone())];
    for act in acts {
        let open_store = store.as_ref().unwrap();
        match act {
            Act::Run(txn) => {
                let Ok(out) = open_store.txn(txn.clone()).await else { continue };
                let next = Rev::new(1, head.n + 1);
                let (expected, events) = model.run(&txn, head, next);
                assert_eq!(out, expected, "{txn:?}");
                head = out.rev;
                if !events.is_empty() {
                    past.push((Batch { rev: next, events }, model.clone()));
                }
            }
            Act::Compact(share) => {
                let to = head.n * u64::from(share) / 255;
                open_store.compact(Rev::new(1, to)).await.unwrap();
                compacted = compacted.max(to);
            }
            Act::Reopen => {
                drop(store.take());
                store = Some(open());
            }
        }
    }
    let store = store.unwrap();
    assert_eq!(read_all(&*store, KeyRange::all()).await.unwrap(), (head, model.list(&KeyRange::all())));
    for (batch, then) in past.iter().filter(|(batch, _)| batch.rev.n >= compacted) {
        for range in [KeyRange::all(), KeyRange::range("k/1", "k/4")] {
            let page = store.range(range.clone(), Some(batch.rev), 100).await.unwrap();
            assert_eq!(page.kvs, then.list(&range), "at {}", batch.rev);
        }
    }
    if head.n > compacted {
        let batches = until(&mut store.watch(KeyRange::all(), Rev::new(1, compacted)), head).await;
        let expected: Vec<_> =
            past.into_iter().map(|(batch, _)| batch).filter(|batch| batch.rev.n > compacted).collect();
        assert_eq!(batches, expected);
    }
}
