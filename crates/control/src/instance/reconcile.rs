//! Keeps instances as they are wanted: places those that wait, removes those that leave without ever having had a place, and follows nodes
//! that fall silent and come back.
//!
//! Level-triggered: it looks at everything each time, and one write that loses a race is simply done in the next pass.

use super::{
    Pool, add_write,
    ops::{ask, put_on, refuse, waiting_text},
};
use crate::{
    core::Control,
    operation,
    rows::{ExplanationRow, InstanceRow, NodeRow},
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use yun_engine::{
    reconcile::{PassReport, Reconcile, Schedule, run},
    tasks::Task,
};
use yun_plan::{
    observe,
    place::{
        Decision, Placement, place,
        turns::{Claim, in_turn},
    },
};
use yun_store::{Change, Row, StoreError, Table, Txn, commit};
use yun_types::{Instance, InstanceState, Name, NodeState, Reserved};

/// Starts the loop and what wakes it.
pub(super) fn start(c: &Arc<Control>) {
    let schedule = Schedule::every(Duration::from_secs(30));
    let reconciler = Instances { c: Arc::clone(c) };
    let _runs_until_shutdown =
        run(&c.tasks, Arc::clone(&c.clock), "instances", schedule, c.wake_instances.clone(), reconciler);
    let waker = Arc::clone(c);
    let _runs_until_shutdown = c.tasks.spawn("instances/wake", move |task| wake(waker, task));
}

/// Turns changes of the state into signals.
async fn wake(c: Arc<Control>, task: Task) {
    let stop = task.stopping().clone();
    loop {
        let (mut instances, mut nodes) = (c.instances.cache.subscribe(), c.nodes.cache.subscribe());
        let mut operations = c.operations.cache.subscribe();
        // Whatever happened before the subscription.
        c.wake_instances.wake();
        c.wake_operations.wake();
        loop {
            let whole = tokio::select! {
                () = stop.cancelled() => return,
                change = instances.next() => change.is_some_and(|change| change.is_ok_and(|change| {
                    if concerns_placement(&change) {
                        c.wake_instances.wake();
                    }
                    c.wake_operations.wake();
                    true
                })),
                change = nodes.next() => change.is_some_and(|change| change.is_ok_and(|_| {
                    c.wake_instances.wake();
                    true
                })),
                change = operations.next() => change.is_some_and(|change| change.is_ok_and(|change| {
                    // What it waits for may have happened just before it came.
                    if change.new.as_ref().is_some_and(|row| !row.value.0.status.state.ended()) {
                        c.wake_operations.wake();
                    }
                    true
                })),
            };
            if !whole {
                break;
            }
        }
    }
}

/// Whether there is something to place or to remove, or room has come.
fn concerns_placement(change: &Change<InstanceRow>) -> bool {
    match &change.new {
        None => true,
        Some(row) => {
            row.value.0.status.node.is_none()
                || change.old.as_ref().is_some_and(|old| old.value.0.spec.size != row.value.0.spec.size)
        }
    }
}

struct Instances {
    c: Arc<Control>,
}

/// What one pass did.
#[derive(Debug, Default)]
struct Tally {
    placed: usize,
    waiting: usize,
    removed: usize,
    followed: usize,
}

#[async_trait]
impl Reconcile for Instances {
    async fn pass(&mut self) -> PassReport {
        match pass(&self.c).await {
            Ok(t) if t.placed + t.removed + t.followed == 0 && t.waiting == 0 => PassReport::nothing(),
            Ok(t) => PassReport::changed(format!(
                "placed {}, removed {}, followed nodes of {}; {} wait",
                t.placed, t.removed, t.followed, t.waiting
            )),
            Err(e) => PassReport::failed(e),
        }
    }
}

async fn pass(c: &Control) -> Result<Tally, StoreError> {
    let mut tally = Tally::default();
    let mut waiting: Vec<Arc<Row<InstanceRow>>> = Vec::new();
    for row in c.instances.cache.all(&[]) {
        let instance = &row.value.0;
        match (instance.status.node, instance.metadata.deleting) {
            (None, None) => waiting.push(row),
            (None, Some(_)) => tally.removed += usize::from(write(c, &row, None).await?),
            (Some(_), _) => {
                if let Some(after) = follow_node(c, instance) {
                    tally.followed += usize::from(write(c, &row, Some(after)).await?);
                }
            }
        }
    }
    // First come, first served, within each project.
    waiting.sort_by_key(|row| (row.value.0.metadata.created, row.value.0.metadata.id));
    for (row, decision) in foresee(c, waiting) {
        let placed = match &decision.placement {
            // Decided anew, with all that was promised meanwhile.
            Placement::On { .. } => place_one(c, &row).await?,
            Placement::Waits { reason } => {
                let mut after = row.value.0.clone();
                wait(&mut after, reason, waiting_text(&decision.explanation));
                if after != row.value.0 {
                    finish(c, add_write(c, Txn::new(), &row, Some(&after))?).await?;
                }
                false
            }
        };
        if placed {
            tally.placed += 1;
        } else {
            tally.waiting += 1;
        }
    }
    Ok(tally)
}

/// What would become of those that wait, by one look at the pool: ten thousand that do not fit cost one look, not ten thousand. In a project it
/// is first come, first served; between projects, the turn is theirs who hold the smallest share.
fn foresee(c: &Control, waiting: Vec<Arc<Row<InstanceRow>>>) -> Vec<(Arc<Row<InstanceRow>>, Decision)> {
    if waiting.is_empty() {
        return Vec::new();
    }
    let mut claims: BTreeMap<Name, Claim> = crate::node::pool::claims(c)
        .into_iter()
        .map(|(project, (weight, held))| (project, Claim { weight, held, asks: Vec::new() }))
        .collect();
    let mut rows = HashMap::new();
    for row in waiting {
        let instance = &row.value.0;
        let project = instance.metadata.project.clone().unwrap_or_else(Name::default_project);
        let claim = claims.entry(project);
        claim
            .or_insert_with(|| Claim { weight: 1, held: Reserved::default(), asks: Vec::new() })
            .asks
            .push(ask(c, instance));
        rows.insert(instance.metadata.id, row);
    }
    let nodes = Pool::lock(c).nodes();
    let decisions = in_turn(&nodes, claims.into_values().collect()).into_iter();
    decisions.filter_map(|decision| Some((rows.remove(&decision.instance.0)?, decision))).collect()
}

fn wait(instance: &mut Instance, reason: &str, message: String) {
    instance.status.state = InstanceState::Pending;
    instance.status.reason = Some(reason.into());
    instance.status.message = Some(message);
}

/// Writes a change with the ends of its operations. `false` if somebody else was faster: the next pass looks again.
async fn write(c: &Control, row: &Row<InstanceRow>, after: Option<Instance>) -> Result<bool, StoreError> {
    let txn = add_write(c, Txn::new(), row, after.as_ref())?;
    let txn = operation::add_ends(c, txn, row, after.as_ref()).await?;
    finish(c, txn).await
}

async fn finish(c: &Control, txn: Txn) -> Result<bool, StoreError> {
    match commit(&*c.store, txn).await {
        Ok(out) => {
            c.instances.cache.wait_for(out.rev).await?;
            Ok(true)
        }
        Err(e) if e.is_conflict() => {
            c.wake_instances.wake();
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn follow_node(c: &Control, instance: &Instance) -> Option<Instance> {
    let node = c.nodes.cache.get(&[instance.status.node_name.as_ref()?.as_str()])?;
    match node.value.0.status.state {
        NodeState::Lost => observe::node_lost(instance),
        NodeState::Ready => observe::node_back(instance),
    }
}

/// Gives an instance a place if there is one now. `false` if it goes on waiting.
async fn place_one(c: &Control, row: &Row<InstanceRow>) -> Result<bool, StoreError> {
    let before = &row.value.0;
    let mut after = before.clone();
    let Some((decision, promise)) = decide(c, &mut after) else { return Ok(false) };
    let mut txn = add_write(c, Txn::new(), row, Some(&after))?;
    let placed = after.status.node.is_some();
    if placed {
        let id = after.metadata.id.to_string();
        txn = txn.then(Table::<ExplanationRow>::op_put(&[&id], &ExplanationRow(decision.explanation))?);
        if let Some(node) = after.status.node_name.as_ref().and_then(|name| c.nodes.cache.get(&[name.as_str()])) {
            txn = txn.when(Table::<NodeRow>::cmp_rev(&[node.value.0.metadata.name.as_str()], node.rev));
        }
    } else if after == *before {
        promise.answered(&Ok(()));
        return Ok(false);
    }
    let written = finish(c, txn).await;
    promise.answered(&written);
    Ok(placed && written?)
}

fn decide<'a>(c: &'a Control, instance: &mut Instance) -> Option<(Decision, super::Promise<'a>)> {
    let pool = Pool::lock(c);
    let decision = place(&pool.nodes(), &[ask(c, instance)]).pop()?;
    match &decision.placement {
        Placement::On { node, name } => {
            let networks = crate::network::ops::wanted_by(c, instance);
            let connected = networks.and_then(|networks| pool.connect(instance, &networks).map_err(refuse));
            match connected {
                Ok(()) => put_on(&mut instance.status, *node, name.clone()),
                Err(e) => wait(instance, "NoAddress", e.message),
            }
        }
        Placement::Waits { reason } => wait(instance, reason, waiting_text(&decision.explanation)),
    }
    let promise = pool.promise(instance.clone());
    Some((decision, promise))
}
