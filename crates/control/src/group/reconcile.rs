//! Keeps groups as they are wanted: one look at everything, the decision of `plan::group`, and its steps.
//!
//! Level-triggered: the status, with the revision that new instances will be of, is written before any step is taken; each step can be
//! repeated; a step that fails is remembered only to be shown, and is decided again in the next pass. Losing the process at any point
//! loses nothing.

use super::Crowd;
use crate::{
    core::Control,
    instance,
    operation::{self, reference},
    rows::{GroupRow, InstanceRow},
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;
use yun_api::cloud::InstanceCreate;
use yun_engine::{
    reconcile::{PassReport, Reconcile, Schedule, run},
    tasks::Task,
};
use yun_plan::group::{Decision, Step, decide, slot_name};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{Group, GroupMember, GroupState, Name, ObjectKind, Severity};

/// How long to wait before an instance that could not be created is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// Starts the loop and what wakes it.
pub(crate) fn start(c: &Arc<Control>) {
    let schedule = Schedule::every(Duration::from_secs(30));
    let reconciler = Groups { c: Arc::clone(c), troubles: HashMap::new() };
    let _runs_until_shutdown =
        run(&c.tasks, Arc::clone(&c.clock), "groups", schedule, c.wake_groups.clone(), reconciler);
    let waker = Arc::clone(c);
    let _runs_until_shutdown = c.tasks.spawn("groups/wake", move |task| wake(waker, task));
}

/// Turns changes of the state into signals.
async fn wake(c: Arc<Control>, task: Task) {
    let stop = task.stopping().clone();
    loop {
        let (mut groups, mut nodes) = (c.groups.cache.subscribe(), c.nodes.cache.subscribe());
        let mut instances = c.instances.cache.subscribe();
        // Whatever happened before the subscription.
        c.wake_groups.wake();
        loop {
            let woken = tokio::select! {
                () = stop.cancelled() => return,
                change = groups.next() => change.map(|change| change.is_ok()),
                change = nodes.next() => change.map(|change| change.is_ok()),
                change = instances.next() => match change {
                    Some(Ok(change)) => {
                        let tied = |row: &Option<Arc<Row<InstanceRow>>>| {
                            row.as_ref().is_some_and(|row| row.value.0.status.group.is_some())
                        };
                        if !tied(&change.old) && !tied(&change.new) {
                            continue;
                        }
                        Some(true)
                    }
                    Some(Err(_)) => Some(false),
                    None => None,
                },
            };
            match woken {
                Some(true) => c.wake_groups.wake(),
                // So far behind that the cache has forgotten the way: subscribe anew.
                Some(false) => break,
                None => return,
            }
        }
    }
}

struct Groups {
    c: Arc<Control>,
    /// Why slots could not be filled a moment ago.
    troubles: HashMap<Uuid, BTreeMap<u32, String>>,
}

#[async_trait]
impl Reconcile for Groups {
    async fn pass(&mut self) -> PassReport {
        match self.all().await {
            Ok(report) => report,
            Err(e) => PassReport::failed(e),
        }
    }
}

impl Groups {
    async fn all(&mut self) -> Result<PassReport, StoreError> {
        let (mut steps, mut soon) = (0, None);
        let rows = self.c.groups.cache.all(&[]);
        self.troubles.retain(|id, _| rows.iter().any(|row| row.value.0.metadata.id == *id));
        // One look for all: what one group does is no other group's business.
        let crowd = Crowd::look(&self.c, &[]);
        for row in rows {
            let (done, again) = self.one(&row, &crowd).await?;
            steps += done;
            soon = [soon, again].into_iter().flatten().min();
        }
        let report = match steps {
            0 => PassReport::nothing(),
            steps => PassReport::changed(format!("took {steps} steps")),
        };
        Ok(match soon {
            Some(span) => report.again_in(span),
            None => report,
        })
    }

    /// Takes the next steps of one group. Answers how many, and when to look again.
    async fn one(&mut self, row: &Row<GroupRow>, crowd: &Crowd) -> Result<(usize, Option<Duration>), StoreError> {
        let c = Arc::clone(&self.c);
        let group = &row.value.0;
        let members = crowd.members(group);
        if group.metadata.deleting.is_some() && members.is_empty() {
            return forget(&c, row).await.map(|()| (1, None));
        }
        let none = BTreeMap::new();
        let troubles = self.troubles.get(&group.metadata.id).unwrap_or(&none);
        let now = c.clock.now();
        let Decision { status, steps, again, .. } = decide(group, &members, troubles, now);
        if status != group.status {
            let after = Group { status, ..group.clone() };
            match c.groups.table.update(&segments(group), &GroupRow(after.clone()), row.rev).await {
                Ok(rev) => c.groups.cache.wait_for(rev).await?,
                // Somebody else was faster: the change wakes the next pass.
                Err(e) if e.is_conflict() => return Ok((0, Some(Duration::ZERO))),
                Err(e) => return Err(e),
            }
            tell(&c, group, &after);
            return self.take(&after, crowd, &steps).await.map(|troubled| (steps.len(), span(again, now, troubled)));
        }
        let troubled = self.take(group, crowd, &steps).await?;
        Ok((steps.len(), span(again, now, troubled)))
    }

    /// Takes steps. Answers whether one could not be taken.
    async fn take(&mut self, group: &Group, crowd: &Crowd, steps: &[Step]) -> Result<bool, StoreError> {
        let mut troubles = BTreeMap::new();
        for step in steps {
            match step {
                Step::Create { slot, revision } => {
                    if let Err(why) = create(&self.c, group, *slot, *revision).await {
                        troubles.insert(*slot, why);
                    }
                }
                Step::Remove { id, .. } => {
                    if let Some(row) = crowd.rows(group).iter().find(|row| row.value.0.metadata.id == *id) {
                        remove(&self.c, row).await?;
                    }
                }
            }
        }
        let troubled = !troubles.is_empty();
        match troubled {
            true => drop(self.troubles.insert(group.metadata.id, troubles)),
            false => drop(self.troubles.remove(&group.metadata.id)),
        }
        Ok(troubled)
    }
}

fn span(again: Option<yun_types::Timestamp>, now: yun_types::Timestamp, troubled: bool) -> Option<Duration> {
    let timed = again.map(|at| (at - now).to_std().unwrap_or_default());
    [timed, troubled.then_some(AGAIN)].into_iter().flatten().min()
}

fn segments(group: &Group) -> [&str; 2] {
    [group.metadata.project.as_ref().map_or("", Name::as_str), group.metadata.name.as_str()]
}

async fn create(c: &Arc<Control>, group: &Group, slot: u32, revision: u64) -> Result<(), String> {
    let made_from = group.status.revisions.iter().find(|known| known.number == revision);
    let (Some(made_from), Some(project)) = (made_from, &group.metadata.project) else {
        return Err(format!("revision {revision} is not known any more"));
    };
    let tie = GroupMember { id: group.metadata.id, name: group.metadata.name.clone(), slot, revision };
    let body = InstanceCreate {
        name: slot_name(&group.metadata.name, slot),
        labels: made_from.template.labels.clone(),
        spec: made_from.template.spec.clone(),
    };
    instance::ops::create_member(c, project, body, tie).await.map_err(|refusal| refusal.message)
}

/// Sends an instance away. One that somebody else has changed meanwhile is looked at again in the next pass.
async fn remove(c: &Arc<Control>, row: &Row<InstanceRow>) -> Result<(), StoreError> {
    let after = instance::leaving(c, &row.value.0);
    let txn = instance::add_write(c, Txn::new(), row, after.as_ref())?;
    let txn = operation::add_ends(c, txn, row, after.as_ref()).await?;
    match commit(&*c.store, txn).await {
        Ok(out) => {
            c.instances.cache.wait_for(out.rev).await?;
            c.wake_instances.wake();
            Ok(())
        }
        Err(e) if e.is_conflict() => {
            c.wake_groups.wake();
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Nothing is left of it.
async fn forget(c: &Arc<Control>, row: &Row<GroupRow>) -> Result<(), StoreError> {
    let group = &row.value.0;
    let at = segments(group);
    let txn = Txn::new().when(Table::<GroupRow>::cmp_rev(&at, row.rev)).then(Table::<GroupRow>::op_del(&at));
    match commit(&*c.store, txn).await {
        Ok(out) => c.groups.cache.wait_for(out.rev).await?,
        Err(e) if e.is_conflict() => return Ok(()),
        Err(e) => return Err(e),
    }
    let object = reference(ObjectKind::Group, &group.metadata);
    instance::tell(c, object, Severity::Normal, "Deleted".into(), "nothing of it is left".into());
    Ok(())
}

/// Says what has become of a group, when its state changes.
fn tell(c: &Arc<Control>, before: &Group, after: &Group) {
    let status = &after.status;
    if before.status.state == status.state && before.status.revision == status.revision {
        return;
    }
    let (severity, reason) = match status.state {
        GroupState::Updating => (Severity::Normal, "Updating"),
        GroupState::Ready => (Severity::Normal, "Ready"),
        GroupState::Scaling => (Severity::Normal, "Scaling"),
        GroupState::Degraded => (Severity::Warning, "Degraded"),
        GroupState::Paused => (Severity::Normal, "Paused"),
        GroupState::RollingBack => (Severity::Warning, "RollingBack"),
        GroupState::RolledBack => (Severity::Warning, "RolledBack"),
        GroupState::Failed => (Severity::Warning, "Failed"),
        GroupState::Deleting => (Severity::Normal, "Deleting"),
    };
    let counts = format!(
        "revision {}: {} of {} are available, {} are of this revision",
        status.revision, status.available, after.spec.replicas, status.updated
    );
    let message = match &status.message {
        Some(message) => format!("{counts}; {message}"),
        None => counts,
    };
    instance::tell(c, reference(ObjectKind::Group, &after.metadata), severity, reason.into(), message);
}
