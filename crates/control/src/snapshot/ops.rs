//! What the API asks of snapshots. Who may ask was checked before.

use super::{locate, of, reference, require_ready, segments};
use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    instance::{self, Pool, catch_up},
    operation,
    rows::{InstanceRow, SnapshotRow},
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::SnapshotCreate;
use yun_plan::interface;
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    Bytes, Generation, Instance, InstanceId, InstanceKind, InstanceState, Metadata, Name, NameOrId, ObjectKind,
    Operation, OperationKind, Power, Restore, Snapshot, SnapshotId, SnapshotSpec, SnapshotState, SnapshotStatus,
};

/// How often a request is tried again when others were faster.
const ATTEMPTS: usize = 16;
/// The most snapshots of one instance: a chain of them slows its disk down.
const MOST: usize = 100;

fn changes_all_the_time(name: &NameOrId) -> Refusal {
    Refusal::conflict("Conflict", format!("instance {name} changes all the time: try again"))
}

/// Finds a snapshot.
pub fn find(
    c: &Control,
    project: &Name,
    instance: &NameOrId,
    snapshot: &NameOrId,
) -> Result<Arc<Row<SnapshotRow>>, Refusal> {
    let row = instance::locate(c, project, instance)?;
    locate(c, &row.value.0, snapshot)
}

/// Takes a snapshot.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    target: &NameOrId,
    body: SnapshotCreate,
) -> Result<Operation, Refusal> {
    let id = Uuid::new_v4();
    for _ in 0..ATTEMPTS {
        let row = instance::locate(c, project, target)?;
        let snapshot = describe(c, &row.value.0, id, &body)?;
        let operation = operation::begin(c, caller, OperationKind::SnapshotCreate, reference(&snapshot));
        let at = segments(&snapshot);
        let at = [at[0].as_str(), &at[1], &at[2]];
        let txn = Txn::new()
            // It is not being deleted, and is where it was.
            .when(Table::<InstanceRow>::cmp_rev(&instance::segments(&row.value.0), row.rev))
            .when(Table::<SnapshotRow>::cmp_absent(&at))
            .then(Table::<SnapshotRow>::op_put(&at, &SnapshotRow(snapshot.clone()))?);
        match write(c, operation::add_to(txn, caller, &operation)?).await {
            Ok(()) => return Ok(operation),
            Err(StoreError::Exists { key, .. }) if key == Table::<SnapshotRow>::key(&at) => {
                return Err(exists(&row.value.0.metadata.name, &body.name));
            }
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(changes_all_the_time(target))
}

async fn write(c: &Control, txn: Txn) -> Result<(), StoreError> {
    let out = commit(&*c.store, txn).await?;
    c.snapshots.cache.wait_for(out.rev).await?;
    c.instances.cache.wait_for(out.rev).await?;
    c.operations.cache.wait_for(out.rev).await?;
    c.wake_snapshots.wake();
    Ok(())
}

fn exists(instance: &Name, name: &Name) -> Refusal {
    let message = format!(
        "instance {instance} has a snapshot {name} already; choose another name, or remove it with yun snapshot rm {instance}/{name}"
    );
    Refusal::conflict("Exists", message)
}

fn describe(c: &Control, instance: &Instance, id: Uuid, body: &SnapshotCreate) -> Result<Snapshot, Refusal> {
    let (metadata, status) = (&instance.metadata, &instance.status);
    let name = &metadata.name;
    let cannot = |code: &'static str, why: &str| {
        Refusal::conflict(code, format!("cannot take a snapshot of instance {name}: {why}"))
    };
    if metadata.deleting.is_some() {
        return Err(cannot("Deleting", "it is being deleted"));
    }
    match status.state {
        InstanceState::Lost => return Err(cannot("NodeLost", "its node is silent; bring the node back")),
        InstanceState::Pending | InstanceState::Scheduled | InstanceState::Preparing => {
            return Err(cannot("NotReady", "it has no data yet; wait until it runs"));
        }
        _ => {}
    }
    if body.memory {
        if instance.spec.kind == Some(InstanceKind::Container) {
            let message = format!(
                "cannot keep the memory of instance {name}: it is a container, and its processes live in the host's memory; leave memory out to keep its files"
            );
            return Err(Refusal::bad_request("WrongKind", message));
        }
        if let Some(volume) = volumes(instance).first() {
            let message = format!(
                "cannot keep the memory of instance {name}: volume {volume} is attached, and what the memory knows of it would be wrong later; detach it first (yun volume detach {volume} {name}), or leave memory out"
            );
            return Err(Refusal::conflict("HasVolumes", message));
        }
        if !matches!(status.state, InstanceState::Running | InstanceState::Paused) {
            let why = format!("it is {} and has no memory to keep; start it, or leave memory out", status.state);
            return Err(cannot("NotRunning", &why));
        }
    }
    let there = of(c, instance);
    if there.iter().any(|row| row.value.0.metadata.name == body.name) {
        return Err(exists(name, &body.name));
    }
    if there.len() >= MOST {
        return Err(cannot("TooMany", &format!("it has {MOST} already; remove some with yun snapshot rm")));
    }
    check_quota(c, instance, body.memory)?;
    let metadata = Metadata {
        id,
        name: body.name.clone(),
        project: metadata.project.clone(),
        labels: body.labels.clone(),
        created: c.clock.now(),
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let spec =
        SnapshotSpec { instance: name.clone(), instance_id: InstanceId(instance.metadata.id), memory: body.memory };
    let status = SnapshotStatus {
        instance_size: Some(instance.spec.size),
        networks: networks(instance),
        volumes: volumes(instance),
        ..SnapshotStatus::default()
    };
    Ok(Snapshot { metadata, spec, status })
}

fn volumes(instance: &Instance) -> Vec<Name> {
    instance.spec.volumes.iter().filter_map(|mount| mount.volume.clone()).collect()
}

fn networks(instance: &Instance) -> Vec<Name> {
    interface::memberships(&instance.spec).into_iter().map(|membership| membership.network).collect()
}

/// What a project's snapshots take counts against its quota of disk, with the memory that this one will hold at most.
fn check_quota(c: &Control, instance: &Instance, memory: bool) -> Result<(), Refusal> {
    let Some(project) = &instance.metadata.project else { return Ok(()) };
    let Some(row) = c.projects.cache.get(&[project.as_str()]) else { return Ok(()) };
    let Some(most) = row.value.0.spec.quota.disk else { return Ok(()) };
    let taken: u64 = c.snapshots.cache.all(&[project.as_str()]).iter().map(|row| size_of(&row.value.0)).sum();
    let held = Pool::lock(c).held_by(project).disk;
    let more = if memory { instance.spec.size.memory.0 } else { 0 };
    if held.0 + taken + more <= most.0 {
        return Ok(());
    }
    Err(Refusal::conflict(
        "QuotaExceeded",
        format!(
            "cannot take a snapshot of instance {}: project {project} may hold {} of disk, its instances were promised {} and its snapshots take {}{}; remove snapshots (yun snapshot ls), or ask for a larger quota",
            instance.metadata.name,
            most.human(),
            held.human(),
            Bytes(taken).human(),
            if memory {
                format!(", and this one would take up to {} for the memory", Bytes(more).human())
            } else {
                String::new()
            },
        ),
    ))
}

fn size_of(snapshot: &Snapshot) -> u64 {
    snapshot.status.facts.as_ref().map_or(0, |facts| facts.size.0)
}

/// Removes a snapshot. Asked again, it follows the removal that is under way.
pub async fn delete(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    target: &NameOrId,
    snapshot: &NameOrId,
) -> Result<Operation, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = find(c, project, target, snapshot)?;
        let before = &row.value.0;
        if before.status.state == SnapshotState::Deleting
            && let Some(running) = operation::running(c).iter().find(|op| {
                op.value.0.spec.kind == OperationKind::SnapshotDelete && op.value.0.spec.target.id == before.metadata.id
            })
        {
            return Ok(operation::view(c, running));
        }
        if before.status.state == SnapshotState::Creating {
            return Err(require_ready(before, "remove").err().unwrap_or_else(|| changes_all_the_time(target)));
        }
        let mut after = before.clone();
        after.status.state = SnapshotState::Deleting;
        after.metadata.deleting = Some(c.clock.now());
        let operation = operation::begin(c, caller, OperationKind::SnapshotDelete, reference(before));
        let at = segments(before);
        let at = [at[0].as_str(), &at[1], &at[2]];
        let txn = Txn::new()
            .when(Table::<SnapshotRow>::cmp_rev(&at, row.rev))
            .then(Table::<SnapshotRow>::op_put(&at, &SnapshotRow(after))?);
        match write(c, operation::add_to(txn, caller, &operation)?).await {
            Ok(()) => return Ok(operation),
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(changes_all_the_time(target))
}

/// Brings an instance back to one of its snapshots.
pub async fn restore(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    target: &NameOrId,
    snapshot: &NameOrId,
    disk_only: bool,
) -> Result<Operation, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = instance::locate(c, project, target)?;
        let wanted = locate(c, &row.value.0, snapshot)?;
        let after = restored(c, &row.value.0, &wanted.value.0, disk_only)?;
        let target_ref = operation::reference(ObjectKind::Instance, &row.value.0.metadata);
        let operation = operation::begin(c, caller, OperationKind::InstanceRestore, target_ref);
        let at = segments(&wanted.value.0);
        let txn = instance::add_write(c, Txn::new(), &row, Some(&after))?
            .when(Table::<SnapshotRow>::cmp_rev(&[&at[0], &at[1], &at[2]], wanted.rev));
        let txn = operation::add_ends(c, txn, &row, Some(&after)).await?;
        match write(c, operation::add_to(txn, caller, &operation)?).await {
            Ok(()) => return Ok(operation),
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(changes_all_the_time(target))
}

fn restored(c: &Control, before: &Instance, snapshot: &Snapshot, disk_only: bool) -> Result<Instance, Refusal> {
    let name = &before.metadata.name;
    require_ready(snapshot, "restore")?;
    if before.metadata.deleting.is_some() {
        return Err(Refusal::conflict("Deleting", format!("cannot restore instance {name}: it is being deleted")));
    }
    if before.status.state == InstanceState::Lost {
        let message =
            format!("cannot restore instance {name}: its node is silent; bring the node back, then try again");
        return Err(Refusal::conflict("NodeLost", message));
    }
    let memory = !disk_only && snapshot.status.facts.as_ref().is_some_and(|facts| facts.memory);
    if let Some(size) = snapshot.status.instance_size.filter(|_| memory)
        && (size.cpu, size.memory) != (before.spec.size.cpu, before.spec.size.memory)
    {
        let (had, has) = (format!("cpu:{},memory:{}", size.cpu, size.memory), before.spec.size);
        let message = format!(
            "cannot restore instance {name} with its memory: it had {had} then, and has cpu:{},memory:{} now; give it that size back (yun set {name} --size {had}), or let it boot from the snapshot's disk (--disk-only)",
            has.cpu, has.memory
        );
        return Err(Refusal::conflict("SizeChanged", message));
    }
    let (then, now) = (snapshot.status.networks.len(), networks(before).len());
    if memory && now < then {
        let all: Vec<&str> = snapshot.status.networks.iter().map(Name::as_str).collect();
        let message = format!(
            "cannot restore instance {name} with its memory: it was in {then} networks then ({}), and is in {now} now; let it join as many (yun network attach), or let it boot from the snapshot's disk (--disk-only)",
            all.join(", ")
        );
        return Err(Refusal::conflict("NetworksChanged", message));
    }
    let mut after = before.clone();
    let count = before.status.origin.restores() + 1;
    let (id, called) = (SnapshotId(snapshot.metadata.id), snapshot.metadata.name.clone());
    after.status.origin.restore = Some(Restore { count, snapshot: id, name: called, memory });
    if memory {
        // A memory is that of something that runs.
        after.spec.power = Power::Running;
        let pool = Pool::lock(c);
        instance::ops::check_ports(&pool, &after)?;
    } else if after.spec.power == Power::Hibernated {
        // The memory that it has does not fit to that disk.
        after.spec.power = Power::Stopped;
    }
    after.metadata.generation = after.metadata.generation.next();
    Ok(after)
}
