//! What the API asks of volumes. Who may ask was checked before.

use super::{locate, view};
use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    instance::{self, Pool, ops::refuse},
    rows::{ProjectRow, VolumeRow},
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use yun_api::cloud::{InstanceUpdate, VolumeAttach, VolumeCreate, VolumeUpdate};
use yun_engine::clock::within;
use yun_plan::{amount, place::NodeView, quota, volume as rules};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    Bytes, Generation, Instance, InstanceKind, Metadata, Name, NameOrId, NodeState, ObjectKind, Operation, Project,
    Volume, VolumeMount, VolumeState, VolumeStatus,
};

/// How often a change is tried again when others were faster.
const ATTEMPTS: usize = 16;
/// How long a request waits for the volume's node, which needs milliseconds.
const NODE: Duration = Duration::from_secs(10);

/// Finds a volume.
pub fn find(c: &Control, project: &Name, volume: &NameOrId) -> Result<Arc<Row<VolumeRow>>, Refusal> {
    locate(c, project, volume)
}

/// Creates a volume, and waits a moment until its node has made it.
pub async fn create(c: &Arc<Control>, caller: &Caller, project: &Name, body: VolumeCreate) -> Result<Volume, Refusal> {
    rules::check_spec(&body.name, &body.spec).map_err(refuse)?;
    let id = Uuid::new_v4();
    let at = [project.as_str(), body.name.as_str()];
    {
        // Nobody else takes room meanwhile.
        let _alone = c.holdings.write().await;
        let owner = c.projects.cache.get(&[project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
        let owner = owner.ok_or_else(|| Refusal::not_found(ObjectKind::Project, project, None))?;
        if let Some(row) = c.volumes.cache.get(&at) {
            return Err(exists(&row.value.0));
        }
        let node = place(c, &owner.value.0, &body)?;
        let metadata = Metadata {
            id,
            name: body.name.clone(),
            project: Some(project.clone()),
            labels: body.labels.clone(),
            created: c.clock.now(),
            generation: Generation(1),
            revision: String::new(),
            deleting: None,
        };
        let status = VolumeStatus { node: Some(node.id), node_name: Some(node.name), ..VolumeStatus::default() };
        let volume = Volume { metadata, spec: body.spec.clone(), status };
        let mut txn = Txn::new()
            .when(Table::<VolumeRow>::cmp_absent(&at))
            .when(Table::<ProjectRow>::cmp_rev(&[project.as_str()], owner.rev))
            .then(Table::<VolumeRow>::op_put(&at, &VolumeRow(volume))?);
        if let Some(once) = &caller.once {
            txn = once.add_to(txn, id)?;
        }
        let out = commit(&*c.store, txn).await.map_err(|e| {
            if e.is_conflict() {
                Refusal::conflict(
                    "Conflict",
                    format!("cannot create volume {}: its project was changed meanwhile; try again", body.name),
                )
            } else {
                e.into()
            }
        })?;
        c.volumes.cache.wait_for(out.rev).await?;
    }
    let made = |row: Option<&Row<VolumeRow>>| {
        row.is_none_or(|row| row.value.0.metadata.id != id || row.value.0.status.state != VolumeState::Creating)
    };
    wait_for_node(c, &at, made).await;
    locate(c, project, &NameOrId::Id(id)).map(|row| view(c, &row))
}

fn exists(volume: &Volume) -> Refusal {
    let name = &volume.metadata.name;
    let message = if volume.metadata.deleting.is_some() {
        format!("volume {name} is just being deleted: try again in a moment, or choose another name")
    } else {
        format!("volume {name} exists already: choose another name, or delete it first with yun volume rm {name}")
    };
    Refusal::conflict("Exists", message)
}

/// The node for a new volume: the one that was asked for, or the one with the most room.
fn place(c: &Control, project: &Project, body: &VolumeCreate) -> Result<NodeView, Refusal> {
    let pool = Pool::lock(c);
    let held = pool.held_by(&project.metadata.name);
    quota::check_disk(&project.metadata.name, &project.spec.quota, held, body.spec.size)
        .map_err(|over| Refusal::conflict("QuotaExceeded", over.to_string()))?;
    let nodes = pool.nodes();
    let free = |node: &NodeView| amount::free(node.capacity, node.reserved).disk;
    let chosen = match &body.spec.node {
        Some(name) => {
            let found = nodes.iter().find(|node| node.name == *name);
            found.ok_or_else(|| {
                let near = nearest(name.as_str(), nodes.iter().map(|node| node.name.as_str()));
                Refusal::not_found(ObjectKind::Node, name, near)
            })?
        }
        None => {
            let usable = nodes.iter().filter(|node| node.state == NodeState::Ready && !node.cordoned);
            usable.max_by_key(|node| free(node)).ok_or_else(|| {
                Refusal::conflict(
                    "NoNode",
                    format!("cannot create volume {}: no node answers and takes new work; see yun node ls", body.name),
                )
            })?
        }
    };
    no_room(&body.name, body.spec.size, chosen, free(chosen))?;
    Ok(chosen.clone())
}

fn no_room(name: &Name, wanted: Bytes, node: &NodeView, free: Bytes) -> Result<(), Refusal> {
    if wanted <= free {
        return Ok(());
    }
    let free = Bytes(free.0 >> 20 << 20);
    Err(Refusal::conflict(
        "NoRoom",
        format!(
            "cannot give volume {name} {}: node {} has {} of disk that is not promised to others; ask for at most {free}, or delete instances or volumes there",
            wanted.human(),
            node.name,
            free.human()
        ),
    ))
}

/// Waits a moment for what the volume's node does.
async fn wait_for_node(c: &Control, at: &[&str], done: impl Fn(Option<&Row<VolumeRow>>) -> bool) {
    let mut changes = c.volumes.cache.subscribe();
    let wait = async {
        loop {
            let row = c.volumes.cache.get(at);
            let here =
                row.as_ref().and_then(|row| row.value.0.status.node).is_some_and(|node| c.live.link(node).is_some());
            if done(row.as_deref()) || !here {
                return;
            }
            if changes.next().await.is_none_or(|change| change.is_err()) {
                changes = c.volumes.cache.subscribe();
            }
        }
    };
    tokio::select! {
        _ = within(&*c.clock, NODE, wait) => {}
        () = c.closing.cancelled() => {}
    }
}

/// Changes a volume.
pub async fn update(
    c: &Arc<Control>,
    project: &Name,
    volume: &NameOrId,
    body: VolumeUpdate,
    if_match: Option<String>,
) -> Result<Arc<Row<VolumeRow>>, Refusal> {
    let (at, generation) = {
        let _alone = c.holdings.write().await;
        change(c, project, volume, body, if_match).await?
    };
    let at = [project.as_str(), at.as_str()];
    let done = |row: Option<&Row<VolumeRow>>| {
        row.is_none_or(|row| {
            row.value.0.status.observed_generation >= generation || row.value.0.status.state == VolumeState::Failed
        })
    };
    wait_for_node(c, &at, done).await;
    locate(c, project, volume)
}

async fn change(
    c: &Arc<Control>,
    project: &Name,
    volume: &NameOrId,
    body: VolumeUpdate,
    if_match: Option<String>,
) -> Result<(Name, Generation), Refusal> {
    for _ in 0..ATTEMPTS {
        let row = locate(c, project, volume)?;
        let before = &row.value.0;
        let name = &before.metadata.name;
        if if_match.as_ref().is_some_and(|wanted| *wanted != row.rev.to_string()) {
            return Err(Refusal::stale(ObjectKind::Volume, name));
        }
        if before.metadata.deleting.is_some() {
            return Err(Refusal::conflict("Deleting", format!("cannot change volume {name}: it is being deleted")));
        }
        rules::check_change(before, &body.spec).map_err(refuse)?;
        let mut after = before.clone();
        after.metadata.labels.clone_from(&body.labels);
        if after.spec != body.spec {
            check_growth(c, project, before, body.spec.size)?;
            after.spec = body.spec.clone();
            after.metadata.generation = after.metadata.generation.next();
        }
        if after == *before {
            return Ok((name.clone(), before.status.observed_generation));
        }
        match c.volumes.table.update(&[project.as_str(), name.as_str()], &VolumeRow(after.clone()), row.rev).await {
            Ok(rev) => {
                c.volumes.cache.wait_for(rev).await?;
                return Ok((name.clone(), after.metadata.generation));
            }
            Err(e) if e.is_conflict() => instance::catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("volume {volume} is being changed by others all the time: try again")))
}

fn check_growth(c: &Control, project: &Name, before: &Volume, size: Bytes) -> Result<(), Refusal> {
    let more = size.saturating_sub(before.spec.size);
    let pool = Pool::lock(c);
    if let Some(owner) = c.projects.cache.get(&[project.as_str()]) {
        quota::check_disk(project, &owner.value.0.spec.quota, pool.held_by(project), more)
            .map_err(|over| Refusal::conflict("QuotaExceeded", over.to_string()))?;
    }
    let nodes = pool.nodes();
    let Some(node) = nodes.iter().find(|node| Some(node.id) == before.status.node) else { return Ok(()) };
    let free = amount::free(node.capacity, node.reserved).disk;
    if more <= free {
        return Ok(());
    }
    no_room(&before.metadata.name, size, node, free + before.spec.size)
}

/// Deletes a volume that nobody has, and waits a moment until its node has removed it.
pub async fn delete(c: &Arc<Control>, project: &Name, volume: &NameOrId) -> Result<(), Refusal> {
    let (name, id) = {
        // From here on nobody can take it until it is marked, and nobody takes what is marked.
        let _alone = c.holdings.write().await;
        mark(c, project, volume).await?
    };
    let at = [project.as_str(), name.as_str()];
    wait_for_node(c, &at, |row| row.is_none_or(|row| row.value.0.metadata.id != id)).await;
    Ok(())
}

async fn mark(c: &Arc<Control>, project: &Name, volume: &NameOrId) -> Result<(Name, Uuid), Refusal> {
    for _ in 0..ATTEMPTS {
        let row = locate(c, project, volume)?;
        let before = &row.value.0;
        let (name, id) = (before.metadata.name.clone(), before.metadata.id);
        let users = {
            let pool = Pool::lock(c);
            rules::users(project, &name, pool.instances())
        };
        rules::check_delete(&name, &users).map_err(refuse)?;
        if before.metadata.deleting.is_some() {
            return Ok((name, id));
        }
        let mut after = before.clone();
        after.metadata.deleting = Some(c.clock.now());
        after.metadata.generation = after.metadata.generation.next();
        after.status.state = VolumeState::Deleting;
        match c.volumes.table.update(&[project.as_str(), name.as_str()], &VolumeRow(after), row.rev).await {
            Ok(rev) => {
                c.volumes.cache.wait_for(rev).await?;
                return Ok((name, id));
            }
            Err(e) if e.is_conflict() => instance::catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("volume {volume} is being changed by others all the time: try again")))
}

/// Gives a volume to an instance.
pub async fn attach(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    volume: &NameOrId,
    body: VolumeAttach,
) -> Result<Operation, Refusal> {
    let name = locate(c, project, volume)?.value.0.metadata.name.clone();
    change_instance(c, caller, project, &body.instance, |instance| {
        let same = |mount: &&VolumeMount| mount.volume.as_ref() == Some(&name) && mount.target == body.target;
        if instance.spec.volumes.iter().any(|mount| same(&mount)) {
            let who = &instance.metadata.name;
            return Err(Refusal::conflict("Attached", format!("volume {name} is attached to instance {who} already")));
        }
        let (target, read_only) = (body.target.clone(), body.read_only);
        let mount = VolumeMount { volume: Some(name.clone()), target, read_only, no_copy: false };
        instance.spec.volumes.push(mount);
        Ok(())
    })
    .await
}

/// Takes a volume away from an instance.
pub async fn detach(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    volume: &NameOrId,
    instance: &NameOrId,
) -> Result<Operation, Refusal> {
    let name = locate(c, project, volume)?.value.0.metadata.name.clone();
    change_instance(c, caller, project, instance, |instance| {
        let before = instance.spec.volumes.len();
        instance.spec.volumes.retain(|mount| mount.volume.as_ref() != Some(&name));
        if instance.spec.volumes.len() == before {
            let who = &instance.metadata.name;
            return Err(Refusal::conflict(
                "NotAttached",
                format!("volume {name} is not attached to instance {who}: see who has it with yun volume show {name}"),
            ));
        }
        Ok(())
    })
    .await
}

/// Changes an instance's spec, again and again while others are faster.
pub(crate) async fn change_instance(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    target: &NameOrId,
    change: impl Fn(&mut Instance) -> Result<(), Refusal>,
) -> Result<Operation, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = instance::locate(c, project, target)?;
        let mut after = row.value.0.clone();
        change(&mut after)?;
        let body = InstanceUpdate { labels: after.metadata.labels, spec: after.spec };
        match instance::ops::update(c, caller, project, target, body, Some(row.rev.to_string())).await {
            Err(refusal) if refusal.code == "Stale" => {}
            other => return other,
        }
    }
    Err(Refusal::conflict("Conflict", format!("instance {target} changes all the time: try again")))
}

/// The volumes that an instance's spec names, checked for this instance.
pub(crate) fn wanted_by(
    c: &Control,
    pool: &Pool<'_>,
    instance: &Instance,
) -> Result<Vec<Arc<Row<VolumeRow>>>, Refusal> {
    let Some(project) = &instance.metadata.project else { return Ok(Vec::new()) };
    let kind = instance.spec.kind.unwrap_or(InstanceKind::Container);
    let mut rows: Vec<Arc<Row<VolumeRow>>> = Vec::new();
    for name in instance.spec.volumes.iter().filter_map(|mount| mount.volume.as_ref()) {
        let row = locate(c, project, &NameOrId::Name(name.clone()))?;
        let volume = &row.value.0;
        let users = rules::users(project, name, pool.others(instance.metadata.id));
        rules::check_use(&instance.metadata.name, kind, volume, &users).map_err(refuse)?;
        let (here, there) = (volume.status.node_name.as_ref(), rows.first().map(|row| &row.value.0));
        if let Some(other) = there.filter(|other| other.status.node_name.as_ref() != here) {
            let message = format!(
                "volumes {name} and {} are on different nodes ({} and {}): an instance needs all of its volumes on one",
                other.metadata.name,
                text(here),
                text(other.status.node_name.as_ref())
            );
            return Err(Refusal::conflict("VolumeElsewhere", message));
        }
        let must = instance.status.node_name.as_ref().or(instance.spec.node.as_ref());
        if let Some(must) = must.filter(|must| here.is_some_and(|here| here != *must)) {
            let message = format!(
                "volume {name} is on node {}, and instance {} on node {must}: use a volume of that node",
                text(here),
                instance.metadata.name
            );
            return Err(Refusal::conflict("VolumeElsewhere", message));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn text(node: Option<&Name>) -> &str {
    node.map_or("none", Name::as_str)
}

/// The node that an instance must be on because of its volumes.
pub(crate) fn node_of(c: &Control, instance: &Instance) -> Option<Name> {
    let project = instance.metadata.project.as_ref()?;
    let mut named = instance.spec.volumes.iter().filter_map(|mount| mount.volume.as_ref());
    named.find_map(|name| c.volumes.cache.get(&[project.as_str(), name.as_str()])?.value.0.status.node_name.clone())
}

/// Makes a transaction depend on volumes that are as they were.
pub(crate) fn guard(txn: Txn, project: &Name, rows: &[Arc<Row<VolumeRow>>]) -> Result<Txn, StoreError> {
    Ok(rows.iter().fold(txn, |txn, row| {
        txn.when(Table::<VolumeRow>::cmp_rev(&[project.as_str(), row.value.0.metadata.name.as_str()], row.rev))
    }))
}
