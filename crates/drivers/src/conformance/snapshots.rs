//! Cases about snapshots: what was kept comes back, also in another instance and by another process; what was cut short counts for nothing.

use super::{Harness, Program, dropped_after, instances::Subject, must, refused, soon};
use crate::{ErrorKind, Observed, SnapshotDriver};
use std::sync::Arc;
use yun_engine::work::Followed;
use yun_types::{InstanceId, SnapshotId, SnapshotOrder, Template};

pub(super) async fn run(harness: &dyn Harness) {
    if harness.kit().await.snapshot.is_none() {
        return;
    }
    let network = harness.network();
    must("ensure", harness.kit().await.network.ensure(&network).await);
    what_was_kept_comes_back(harness).await;
    a_running_one_is_kept_and_goes_on(harness).await;
    another_instance_begins_with_it(harness).await;
    an_instance_is_cloned_as_it_is(harness).await;
    takes_dropped_half_way(harness).await;
    must("remove of the network", harness.kit().await.network.remove(network.id).await);
}

fn order(number: u64) -> SnapshotOrder {
    let name = format!("s{number}").parse().unwrap_or_else(|e| panic!("a name: {e}"));
    let id = format!("00000000-0000-0000-0000-{:012x}", 0x5000 + number).parse();
    SnapshotOrder { id: id.unwrap_or_else(|e| panic!("an id: {e}")), name, memory: false }
}

async fn snapshots(harness: &dyn Harness) -> Arc<dyn SnapshotDriver> {
    harness.kit().await.snapshot.unwrap_or_else(|| panic!("this host has no snapshots"))
}

async fn ids(driver: &dyn SnapshotDriver, id: InstanceId) -> Vec<SnapshotId> {
    must("list", driver.list(id).await).into_iter().map(|(id, _)| id).collect()
}

async fn what_was_kept_comes_back(harness: &dyn Harness) {
    let subject = Subject::prepared(harness, Program::Patient).await;
    let (id, driver, work) = (subject.order.id, snapshots(harness).await, Followed::default());
    assert_eq!(ids(&*driver, id).await, [], "no snapshot was taken yet");
    let unknown = refused("restore of nothing", driver.restore(id, order(9).id, false).await);
    assert_eq!(unknown.kind, ErrorKind::NotFound, "{unknown}");
    harness.mark(id, "one").await;
    let first = must("take", soon(harness, "take", driver.take(id, &order(1), &work)).await);
    assert!(!first.memory && first.consistent, "what does not run has no memory and no caches: {first:?}");
    harness.mark(id, "two").await;
    let again = must("take again", driver.take(id, &order(1), &work).await);
    assert_eq!(again, first, "take: one that is whole is told of again");
    must("take", driver.take(id, &order(2), &work).await);

    // Another process knows both.
    let driver = snapshots(harness).await;
    let mut there = ids(&*driver, id).await;
    there.sort();
    assert_eq!(there, [order(1).id, order(2).id]);
    must("restore", soon(harness, "restore", driver.restore(id, order(1).id, false)).await);
    assert_eq!(harness.marked(id).await, "one", "restore");
    must("restore forward", driver.restore(id, order(2).id, false).await);
    assert_eq!(harness.marked(id).await, "two", "restore forward");
    must("remove", driver.remove(id, order(1).id).await);
    must("remove twice", driver.remove(id, order(1).id).await);
    assert_eq!(ids(&*driver, id).await, [order(2).id]);
    assert_eq!(harness.marked(id).await, "two", "a snapshot's removal leaves the instance alone");
    must("restore after a removal", driver.restore(id, order(2).id, false).await);
    assert_eq!(harness.marked(id).await, "two");
    // Its removal removes the other one too.
    subject.remove().await;
    assert_eq!(ids(&*driver, id).await, []);
    must("remove of what is gone", driver.remove(id, order(2).id).await);
}

async fn a_running_one_is_kept_and_goes_on(harness: &dyn Harness) {
    let mut subject = Subject::prepared(harness, Program::Patient).await;
    let (id, driver) = (subject.order.id, snapshots(harness).await);
    harness.mark(id, "before").await;
    subject.start().await;
    let facts = must("take", soon(harness, "take", driver.take(id, &order(1), &Followed::default())).await);
    assert!(!facts.memory, "no memory was asked for");
    assert!(matches!(subject.seen().await, Observed::Running { .. }), "take: it goes on");
    refused("restore of what runs", driver.restore(id, order(1).id, false).await);
    subject.stop().await;
    harness.mark(id, "after").await;
    must("restore", driver.restore(id, order(1).id, false).await);
    assert_eq!(harness.marked(id).await, "before");
    subject.start().await;
    assert!(matches!(subject.seen().await, Observed::Running { .. }), "start after restore");
    subject.remove().await;
}

async fn another_instance_begins_with_it(harness: &dyn Harness) {
    let source = Subject::prepared(harness, Program::Patient).await;
    let (id, driver) = (source.order.id, snapshots(harness).await);
    harness.mark(id, "seed").await;
    must("take", driver.take(id, &order(1), &Followed::default()).await);
    harness.mark(id, "later").await;
    let twin = harness.instance(Program::Patient);
    let template = Template {
        instance: id,
        snapshot: order(1).id,
        name: format!("{}/s1", source.order.name),
        memory: false,
        live: false,
    };
    must("seed", soon(harness, "seed", driver.seed(twin.id, &template)).await);
    must("seed twice", driver.seed(twin.id, &template).await);
    let mut twin = Subject::prepared_as(harness, twin).await;
    // It owes nothing to where it came from.
    source.remove().await;
    assert_eq!(harness.marked(twin.order.id).await, "seed");
    must("seed of what has data", driver.seed(twin.order.id, &template).await);
    twin.start().await;
    assert!(matches!(twin.seen().await, Observed::Running { .. }), "start of what was seeded");
    twin.remove().await;
}

async fn an_instance_is_cloned_as_it_is(harness: &dyn Harness) {
    let mut source = Subject::prepared(harness, Program::Patient).await;
    let id = source.order.id;
    harness.mark(id, "seed").await;
    source.start().await;
    let twin = harness.instance(Program::Patient);
    let name = source.order.name.to_string();
    let template = Template { instance: id, snapshot: order(7).id, name, memory: false, live: true };
    for polls in harness.drops() {
        dropped_after(polls, snapshots(harness).await.seed(twin.id, &template)).await;
    }
    let driver = snapshots(harness).await;
    must("seed of a clone", soon(harness, "seed", driver.seed(twin.id, &template)).await);
    must("seed of a clone twice", driver.seed(twin.id, &template).await);
    assert_eq!(ids(&*driver, id).await, [], "what was taken for the clone is gone");
    assert!(matches!(source.seen().await, Observed::Running { .. }), "it goes on");
    let twin = Subject::prepared_as(harness, twin).await;
    assert_eq!(harness.marked(twin.order.id).await, "seed");
    source.remove().await;
    must("seed of a clone whose source is gone", driver.seed(twin.order.id, &template).await);
    let orphan = harness.instance(Program::Patient);
    let error = refused("seed from nothing", driver.seed(orphan.id, &template).await);
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    twin.remove().await;
}

async fn takes_dropped_half_way(harness: &dyn Harness) {
    let subject = Subject::prepared(harness, Program::Patient).await;
    let id = subject.order.id;
    harness.mark(id, "kept").await;
    for polls in harness.drops() {
        let driver = snapshots(harness).await;
        dropped_after(polls, driver.take(id, &order(1), &Followed::default())).await;
        let driver = snapshots(harness).await;
        must("take after one that was dropped", driver.take(id, &order(1), &Followed::default()).await);
        assert_eq!(ids(&*driver, id).await, [order(1).id]);
        dropped_after(polls, driver.restore(id, order(1).id, false)).await;
        must("restore after one that was dropped", driver.restore(id, order(1).id, false).await);
        assert_eq!(harness.marked(id).await, "kept");
        dropped_after(polls, driver.remove(id, order(1).id)).await;
        must("remove after one that was dropped", driver.remove(id, order(1).id).await);
        assert_eq!(ids(&*driver, id).await, []);
    }
    subject.remove().await;
}
