//! The link to the control plane, seen from the node: come up, register, follow the orders, say that we live.
//!
//! A link that breaks is made anew with growing pauses; each new one begins with a registration and a snapshot, so that neither side has to
//! remember where the other was.

use crate::node::Node;
use futures::StreamExt;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use yun_api::node::{LinkError, NodeLink};
use yun_engine::{
    backoff::{Backoff, Tries},
    clock::within,
    tasks::Task,
};
use yun_types::{DriverFacts, NodeFacts, NodeId};

/// The pauses between two tries to make the link.
const RETRY: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5), jitter: 30 };

/// After so many heartbeats in a row that nobody took, the link counts as broken even if it does not say so.
const SILENT: u32 = 3;

/// How many drivers a node has.
const DRIVERS: [&str; 4] = ["image", "network", "container", "vm"];

/// Comes up: asks the drivers, takes up what the ledger remembers, then follows the orders.
pub(crate) async fn run(node: Arc<Node>, callback: Arc<dyn NodeLink>, task: Task) {
    let stop = task.stopping().clone();
    let work = async {
        task.working("come up");
        come_up(&node).await;
        follow(&node, callback, &task).await;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn come_up(node: &Arc<Node>) {
    let facts = node.inventory.facts().await;
    let _ = node.boot_id.set(facts.boot_id);
    probe_later(node, "container", |node| async move { node.drivers.container.probe().await });
    probe_later(node, "vm", |node| async move { node.drivers.vm.probe().await });
    // These two finish what a crash left half done: nothing may come before that.
    let (image, network) = tokio::join!(node.drivers.image.probe(), node.drivers.network.probe());
    learn(node, "image", image);
    learn(node, "network", network);
    let remembered = node.ledger.load().unwrap_or_else(|error| {
        tracing::error!(%error, "the ledger cannot be read; only what the control plane names is taken up");
        Default::default()
    });
    for network in remembered.networks {
        node.networks.want(node, network);
    }
    node.remember(remembered.instances);
    let mut abilities = node.abilities.subscribe();
    let all = abilities.wait_for(|known| known.len() == DRIVERS.len());
    // The sender lives in the node, so the wait cannot end with an error.
    let _ = within(&*node.clock, node.config.probe_limit, all).await;
}

fn probe_later<W>(node: &Arc<Node>, driver: &'static str, probe: impl FnOnce(Arc<Node>) -> W)
where
    W: Future<Output = yun_drivers::Result<DriverFacts>> + Send + 'static,
{
    let (work, node) = (probe(node.clone()), node.clone());
    let tasks = node.tasks.clone();
    tasks.spawn(format!("probe/{driver}"), move |_| async move { learn(&node, driver, work.await) });
}

fn learn(node: &Node, driver: &'static str, facts: yun_drivers::Result<DriverFacts>) {
    let facts = facts.unwrap_or_else(|error| {
        tracing::warn!(driver, %error, "this driver does not work on this node");
        not_ready(driver, error.message)
    });
    node.abilities.send_modify(|known| {
        known.insert(driver, facts);
    });
}

fn not_ready(driver: &str, message: String) -> DriverFacts {
    DriverFacts { driver: driver.to_owned(), ready: false, engine: None, accel: None, message: Some(message) }
}

/// What the machine and the drivers say of themselves.
async fn facts(node: &Node) -> NodeFacts {
    let mut facts = node.inventory.facts().await;
    let known: BTreeMap<_, _> = node.abilities.borrow().clone();
    let asked = |driver: &&str| {
        known
            .get(driver)
            .cloned()
            .unwrap_or_else(|| not_ready(driver, "it is still being tried out; look again soon".into()))
    };
    facts.drivers = DRIVERS.iter().map(asked).collect();
    match node.drivers.network.taken_ranges().await {
        Ok(ranges) => facts.taken_ranges.extend(ranges),
        Err(error) => tracing::warn!(%error, "cannot tell which address ranges are taken around this node"),
    }
    facts.taken_ranges.sort_unstable();
    facts.taken_ranges.dedup();
    facts
}

/// Makes the link again and again.
async fn follow(node: &Arc<Node>, callback: Arc<dyn NodeLink>, task: &Task) {
    let mut tries = Tries::new(RETRY, node.config.seed);
    loop {
        task.working("connect");
        let why = match connected(node, &callback, &mut tries, task).await {
            Ok(why) => why.to_owned(),
            Err(error) => error.to_string(),
        };
        let pause = tries.failed();
        tracing::info!(why, ?pause, "the link to the control plane ended; it is made again");
        task.failed(why, None);
        node.clock.sleep(pause).await;
    }
}

/// Follows one link to its end.
async fn connected(
    node: &Arc<Node>,
    callback: &Arc<dyn NodeLink>,
    tries: &mut Tries,
    task: &Task,
) -> Result<&'static str, LinkError> {
    let mut abilities = node.abilities.subscribe();
    abilities.mark_unchanged();
    let id = node.link.register(facts(node).await, callback.clone()).await?.node;
    let mut orders = node.link.orders(id).await?;
    node.id.send_replace(Some(id));
    loop {
        tokio::select! {
            biased;
            () = node.reconnect.woken() => return Ok("the control plane does not hear or know this node"),
            order = orders.next() => {
                let Some(order) = order else { return Ok("the stream of orders ended") };
                tries.succeeded();
                node.apply(order);
                task.idle("following orders", None);
            }
            _ = abilities.changed() => {
                node.link.register(facts(node).await, callback.clone()).await?;
            }
        }
    }
}

/// Says that the node lives, for as long as it does.
pub(crate) async fn heartbeat(node: Arc<Node>, task: Task) {
    let stop = task.stopping().clone();
    let mut id = node.id.subscribe();
    let work = async {
        let mut silent = 0;
        loop {
            let Ok(known) = id.wait_for(Option::is_some).await.map(|id| *id) else { return };
            if let Some(known) = known {
                beat(&node, known, &mut silent, &task).await;
            }
            node.clock.sleep(node.config.heartbeat).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn beat(node: &Node, id: NodeId, silent: &mut u32, task: &Task) {
    task.working("heartbeat");
    let usage = node.inventory.usage().await;
    match node.link.heartbeat(id, usage).await {
        Ok(()) => {
            *silent = 0;
            task.idle("heard", None);
        }
        Err(error) => {
            *silent += 1;
            task.failed(error.to_string(), None);
            if matches!(error, LinkError::NotFound(_)) || *silent >= SILENT {
                *silent = 0;
                node.reconnect.wake();
            }
        }
    }
}
