//! Changes of instances that exist: update, actions, deletion.

use super::{ATTEMPTS, ask, check_ports, refuse};
use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    group,
    instance::{Pool, Promise, add_write, catch_up, leaving, locate},
    network,
    operation::{self, reference},
    rows::InstanceRow,
    volume,
};
use std::sync::Arc;
use yun_api::cloud::{InstanceAction, InstanceUpdate};
use yun_plan::{
    amount,
    lifecycle::{Action, Step, decide},
    place, quota, spec, update as rules,
};
use yun_store::{Row, StoreError, Txn, commit};
use yun_types::{
    Instance, InstanceId, InstanceSpec, Name, NameOrId, ObjectKind, Operation, OperationKind, OperationState,
    OperationStatus, Progress, Role,
};

/// What a request makes of an instance: what it becomes (`None`: nothing is left), and what to say about it.
struct Outcome<'a> {
    after: Option<Instance>,
    /// What the operation says from the start.
    message: String,
    /// The operation has ended with that message.
    done: bool,
    promise: Option<Promise<'a>>,
}

impl Outcome<'_> {
    fn changed(after: Instance) -> Self {
        Self { after: Some(after), message: String::new(), done: false, promise: None }
    }
}

/// Changes an instance.
pub async fn update(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    instance: &NameOrId,
    body: InstanceUpdate,
    if_match: Option<String>,
) -> Result<Operation, Refusal> {
    let _held = c.holdings.read().await;
    let request = Request { c, caller, project, instance, kind: OperationKind::InstanceUpdate, if_match };
    request.run(|before| updated(c, caller, before, &body)).await
}

/// Starts, stops, restarts, pauses or resumes an instance.
pub async fn action(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    instance: &NameOrId,
    action: InstanceAction,
    timeout: Option<u32>,
) -> Result<Operation, Refusal> {
    if let Some(seconds) = timeout.filter(|seconds| *seconds > spec::MAX_STOP_TIMEOUT) {
        let message = format!("timeout {seconds} is too long: use at most {} seconds", spec::MAX_STOP_TIMEOUT);
        return Err(Refusal::bad_request("Invalid", message));
    }
    let (kind, asked) = match action {
        InstanceAction::Start => (OperationKind::InstanceStart, Action::Start),
        InstanceAction::Stop => (OperationKind::InstanceStop, Action::Stop),
        InstanceAction::Restart => (OperationKind::InstanceRestart, Action::Restart),
        InstanceAction::Pause => (OperationKind::InstancePause, Action::Pause),
        InstanceAction::Resume => (OperationKind::InstanceResume, Action::Resume),
        InstanceAction::Hibernate => (OperationKind::InstanceHibernate, Action::Hibernate),
    };
    let request = Request { c, caller, project, instance, kind, if_match: None };
    request.run(|before| acted(c, before, asked, timeout)).await
}

/// Stops an instance and removes everything it owns. Asked again, it follows the deletion that is under way.
pub async fn delete(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    instance: &NameOrId,
    if_match: Option<String>,
) -> Result<Operation, Refusal> {
    let row = locate(c, project, instance)?;
    if let Some(running) = operation::running(c).iter().find(|op| {
        op.value.0.spec.kind == OperationKind::InstanceDelete
            && op.value.0.spec.target.id == row.value.0.metadata.id
            && caller.once.is_none()
    }) {
        return Ok(operation::view(c, running));
    }
    let request = Request { c, caller, project, instance, kind: OperationKind::InstanceDelete, if_match };
    request
        .run(|before| {
            let leaves = before.metadata.deleting.is_none();
            let after = if leaves { leaving(c, before) } else { Some(before.clone()) };
            Ok(Outcome { after, message: String::new(), done: false, promise: None })
        })
        .await
}

/// One request to change one instance.
struct Request<'a> {
    c: &'a Arc<Control>,
    caller: &'a Caller,
    project: &'a Name,
    instance: &'a NameOrId,
    kind: OperationKind,
    if_match: Option<String>,
}

impl<'a> Request<'a> {
    /// Decides with `change` and writes, again and again while others are faster.
    async fn run(
        self,
        mut change: impl FnMut(&Instance) -> Result<Outcome<'a>, Refusal>,
    ) -> Result<Operation, Refusal> {
        for _ in 0..ATTEMPTS {
            let row = locate(self.c, self.project, self.instance)?;
            if self.if_match.as_ref().is_some_and(|wanted| *wanted != row.rev.to_string()) {
                return Err(Refusal::stale(ObjectKind::Instance, &row.value.0.metadata.name));
            }
            group::refuse_member(&row.value.0, &self.kind.to_string())?;
            let outcome = change(&row.value.0)?;
            match self.write(&row, outcome).await {
                Ok(operation) => return Ok(operation),
                Err(e) if e.is_conflict() => catch_up(self.c, &e).await?,
                Err(e) => return Err(e.into()),
            }
        }
        Err(Refusal::conflict("Conflict", format!("instance {} changes all the time: try again", self.instance)))
    }

    async fn write(&self, row: &Row<InstanceRow>, outcome: Outcome<'a>) -> Result<Operation, StoreError> {
        let (c, before) = (self.c, &row.value.0);
        let Outcome { after, message, done, promise } = outcome;
        let mut operation =
            operation::begin(c, self.caller, self.kind, reference(ObjectKind::Instance, &before.metadata));
        operation.status.progress = Progress { percent: None, message };
        let now = c.clock.now();
        if done {
            let progress = Progress { percent: Some(100), ..operation.status.progress.clone() };
            operation.status = OperationStatus {
                state: OperationState::Succeeded,
                progress,
                ended: Some(now),
                ..OperationStatus::default()
            };
        } else if let Some(status) = yun_plan::operation::settle(&operation, after.as_ref(), now) {
            operation.status = status;
        }
        let changed = after.as_ref() != Some(before);
        let mut txn = Txn::new();
        if changed {
            txn = add_write(c, txn, row, after.as_ref())?;
            txn = operation::add_ends(c, txn, row, after.as_ref()).await?;
        }
        let written = write(c, operation::add_to(txn, self.caller, &operation)?).await;
        if let Some(promise) = promise {
            promise.answered(&written);
        }
        written?;
        if changed {
            c.wake_instances.wake();
        }
        let row = c.operations.cache.get(&[&operation.metadata.id.to_string()]);
        Ok(row.map_or(operation, |row| operation::view(c, &row)))
    }
}

/// Commits, and waits until the caches show it.
async fn write(c: &Control, txn: Txn) -> Result<(), StoreError> {
    let out = commit(&*c.store, txn).await?;
    c.instances.cache.wait_for(out.rev).await?;
    c.operations.cache.wait_for(out.rev).await
}

fn acted<'a>(c: &'a Control, before: &Instance, action: Action, timeout: Option<u32>) -> Result<Outcome<'a>, Refusal> {
    let (power, again) = match decide(before, action).map_err(refuse)? {
        Step::Nothing(message) => {
            return Ok(Outcome { after: Some(before.clone()), message, done: true, promise: None });
        }
        Step::Follow => return Ok(Outcome::changed(before.clone())),
        Step::Change { power, again } => (power, again),
    };
    let mut after = before.clone();
    after.spec.power = power;
    after.spec.restart_count += u64::from(again);
    after.metadata.generation = after.metadata.generation.next();
    let mut promise = None;
    if power != before.spec.power && !after.spec.publish.is_empty() {
        // A stopped instance has no ports: somebody may have taken them.
        let pool = Pool::lock(c);
        check_ports(&pool, &after)?;
        promise = Some(pool.promise(after.clone()));
    }
    if let Some(seconds) = timeout {
        c.live.hurry(InstanceId(after.metadata.id), after.metadata.generation, seconds);
    }
    Ok(Outcome { promise, ..Outcome::changed(after) })
}

fn updated<'a>(
    c: &'a Control,
    caller: &Caller,
    before: &Instance,
    body: &InstanceUpdate,
) -> Result<Outcome<'a>, Refusal> {
    let name = &before.metadata.name;
    if before.metadata.deleting.is_some() {
        return Err(Refusal::conflict("Deleting", format!("cannot change instance {name}: it is being deleted")));
    }
    let wanted = InstanceSpec { kind: before.spec.kind, ..body.spec.clone() };
    let asked_kind = InstanceSpec { kind: body.spec.kind.or(before.spec.kind), ..body.spec.clone() };
    let effect = rules::check(before, &asked_kind).map_err(refuse)?;
    if let Some(kind) = wanted.kind {
        // What an administrator has mounted stays when somebody else changes something else.
        let (options, had) = (&wanted.container, &before.spec.container);
        // What an administrator gave stays, whoever changes something else.
        let given = options.mounts == had.mounts && options.security == had.security;
        let trusted = caller.has_cloud(Role::Admin) || given;
        spec::check(&wanted, kind, if trusted { spec::Trust::Cloud } else { spec::Trust::Project }).map_err(refuse)?;
    }
    let mut after = before.clone();
    after.metadata.labels = body.labels.clone();
    if wanted != before.spec {
        after.spec = wanted;
        after.metadata.generation = after.metadata.generation.next();
    }
    if after == *before {
        let message = format!("instance {name} is so already");
        return Ok(Outcome { after: Some(after), message, done: true, promise: None });
    }
    let pool = Pool::lock(c);
    check_ports(&pool, &after)?;
    refit(c, &pool, before, &mut after)?;
    if effect.resized {
        check_room(c, &pool, before, &after)?;
    }
    let message = if effect.at_next_restart {
        format!("instance {name} is changed; parts of it count from the next restart on: yun restart {name}")
    } else {
        String::new()
    };
    let promise = Some(pool.promise(after.clone()));
    let stays = |id| after.status.interfaces.iter().any(|interface| interface.network_id == id);
    for left in before.status.interfaces.iter().filter(|left| !stays(left.network_id)) {
        c.promises.rest(left.network_id, left.address, c.clock.monotonic());
    }
    Ok(Outcome { after: Some(after), message, done: false, promise })
}

/// Networks and volumes that are wanted now and were not before.
fn refit(c: &Control, pool: &Pool<'_>, before: &Instance, after: &mut Instance) -> Result<(), Refusal> {
    if after.spec.networks != before.spec.networks || after.spec.publish != before.spec.publish {
        let networks = network::ops::wanted_by(c, after)?;
        network::ops::check_first(before, after)?;
        if after.status.node.is_some() {
            pool.connect(after, &networks).map_err(refuse)?;
        } else {
            pool.connect(&mut after.clone(), &networks).map_err(refuse)?;
        }
    }
    if after.spec.volumes != before.spec.volumes {
        volume::ops::wanted_by(c, pool, after)?;
    }
    Ok(())
}

/// A changed size must be within the quota, and the node must have the difference.
fn check_room(c: &Control, pool: &Pool<'_>, before: &Instance, after: &Instance) -> Result<(), Refusal> {
    let (name, size) = (&before.metadata.name, after.spec.size);
    if let Some(project) =
        before.metadata.project.as_ref().and_then(|project| c.projects.cache.get(&[project.as_str()]))
    {
        let project = &project.value.0;
        let held = pool.held_by(&project.metadata.name);
        quota::check_resize(&project.metadata.name, &project.spec.quota, held, before.spec.size, size)
            .map_err(|over| Refusal::conflict("QuotaExceeded", over.to_string()))?;
    }
    let nodes = pool.nodes();
    let mut asked = ask(c, after);
    let Some(node) = before.status.node else {
        return place::never(&nodes, &asked)
            .map_or(Ok(()), |never| Err(Refusal::conflict(never.code(), never.to_string())));
    };
    let Some(node) = nodes.iter().find(|view| view.id == node) else { return Ok(()) };
    asked.node = Some(node.name.clone());
    if let Some(never) = place::never(&nodes, &asked) {
        return Err(Refusal::conflict(never.code(), never.to_string()));
    }
    let without = amount::free(node.capacity, amount::take(node.reserved, before.spec.size));
    let missing = amount::missing(size, without);
    if amount::first_missing(missing).is_none() {
        return Ok(());
    }
    Err(Refusal::conflict(
        "NoRoom",
        format!(
            "cannot give instance {name} the size {size}: node {} is short of {}; ask for at most {}, or delete instances there",
            node.name,
            amount::text(missing),
            amount::rounded_down(without)
        ),
    ))
}
