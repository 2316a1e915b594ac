//! What every engine must do: one suite of cases over a factory of empty stores, and a checker of recorded histories.
//!
//! Use: `yun_store::conformance_tests!(factory)` in a test file, where `async fn factory() -> Subject`. The cases name the traps of engines
//! that went wrong before: events of one transaction split, deletes lost at the compaction revision, revisions that go back, leases that
//! end early, progress that runs ahead.

#![allow(clippy::unwrap_used, reason = "this is the body of tests, behind a feature")]
#![allow(missing_docs, reason = "the names of the cases say what they show")]

pub mod compaction;
pub mod history;
pub mod leases;
pub mod pairs;
pub mod watches;

use crate::kv::{Batch, Event, KeyRange, Kv};
use crate::rev::Rev;
use crate::store::{Store, WatchStream};
use crate::txn::{Txn, TxnOut};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An empty store under test.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Lets time pass for leases: by moving a clock, or by waiting.
    pub pass: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
    /// What must live as long as the store, such as its directory.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Makes a test of each case over `$factory`, an async function that gives a [`Subject`].
#[macro_export]
macro_rules! conformance_tests {
    ($factory:path) => {
        $crate::conformance_tests!(@ $factory, pairs:
            an_empty_store_lists_nothing, a_create_is_exclusive, a_swap_needs_the_present_revision, comparisons_tell_the_truth,
            versions_count_and_start_anew, reading_takes_no_revision, steps_see_the_steps_before, deleting_nothing_takes_no_revision,
            a_range_is_deleted_in_one_revision, pages_follow_the_order_of_bytes, the_past_can_be_read, a_page_of_the_past_is_one_revision,
            limits_are_the_same_everywhere, a_refused_transaction_leaves_no_trace, one_of_many_racing_creates_wins,
            racing_swaps_lose_no_update, a_snapshot_holds_the_present_state, revisions_of_elsewhere_are_refused);
        $crate::conformance_tests!(@ $factory, watches:
            a_revision_comes_whole, a_watch_starts_in_the_past, a_watch_sees_its_range_only, past_and_present_join_without_gap,
            a_slow_watcher_misses_nothing, a_long_past_comes_in_whole_revisions, progress_comes_without_events, equal_values_are_events_too, a_watch_of_another_epoch_ends,
            many_watchers_see_the_same);
        $crate::conformance_tests!(@ $factory, leases:
            a_lease_takes_its_keys_in_one_revision, a_lease_lives_its_full_time, a_keep_alive_gives_the_full_time,
            a_revoked_lease_is_gone, an_ended_lease_refuses_the_whole_transaction, a_key_moves_between_leases, a_lost_lock_fences_its_owner,
            a_lease_holds_a_bounded_number_of_keys, what_is_left_of_a_lease_is_told, times_of_leases_are_bounded);
        $crate::conformance_tests!(@ $factory, compaction:
            history_ends_where_compaction_says, compaction_keeps_the_present, a_watch_from_compacted_history_ends,
            a_delete_behind_the_compaction_is_seen, revisions_grow_over_compaction, compaction_can_be_repeated,
            compaction_of_the_future_is_refused, health_tells_where_history_starts);
        $crate::conformance_tests!(@ $factory, history: concurrent_clients_see_one_history);
    };
    (@ $factory:path, $part:ident: $($case:ident),+ $(,)?) => {
        mod $part {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let run = async { $crate::conformance::$part::$case($factory().await).await };
                tokio::time::timeout(std::time::Duration::from_secs(60), run).await.expect("the case hangs");
            })+
        }
    };
}

/// Runs a transaction that must be accepted.
pub async fn run(store: &Arc<dyn Store>, txn: Txn) -> TxnOut {
    store.txn(txn).await.expect("the transaction is accepted")
}

/// Puts a key and gives the revision.
pub async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Rev {
    run(store, Txn::put(key, value.to_owned())).await.rev
}

/// Deletes a key and gives the revision.
pub async fn del(store: &Arc<dyn Store>, key: &str) -> Rev {
    run(store, Txn::new().then(crate::txn::Op::del(key))).await.rev
}

/// What a key holds now.
pub async fn get(store: &Arc<dyn Store>, key: &str) -> Option<Kv> {
    let page = store.range(KeyRange::single(key), None, 1).await.expect("a key can be read");
    page.kvs.into_iter().next()
}

/// The revision of the store now.
pub async fn head(store: &Arc<dyn Store>) -> Rev {
    store.range(KeyRange::single("none"), None, 1).await.expect("the store can be read").rev
}

/// All pairs of `range` as text.
pub async fn texts(store: &Arc<dyn Store>, range: KeyRange, at: Option<Rev>) -> Vec<String> {
    let page = store.range(range, at, 1000).await.expect("the range can be read");
    page.kvs.iter().map(text).collect()
}

/// A pair as `key=value`.
pub fn text(kv: &Kv) -> String {
    format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value))
}

/// Events as `+key=value` and `-key`.
pub fn event_texts(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Put(kv) => format!("+{}", text(kv)),
        Event::Delete(key) => format!("-{key}"),
    };
    events.iter().map(one).collect()
}

/// All batches with events up to `rev`; fails when the watch ends before, or its revisions do not grow.
pub async fn until(watch: &mut WatchStream, rev: Rev) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut last = None;
    while last < Some(rev) {
        let batch = watch.next().await.expect("the watch goes on").expect("the watch works");
        assert!(last < Some(batch.rev), "revision {} came after {last:?}", batch.rev);
        last = Some(batch.rev);
        if !batch.events.is_empty() {
            batches.push(batch);
        }
    }
    batches
}
