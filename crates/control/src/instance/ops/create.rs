//! Creation: checks everything that can be known now, chooses a place if there is one, and writes it all in one transaction.

use super::{ATTEMPTS, check_ports, kin, refuse, template};
use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    group, image,
    instance::{Pool, Promise, catch_up, locate},
    network,
    operation::{self, reference},
    rows::{ExplanationRow, GroupRow, ImageRow, InstanceRow, NetworkRow, NodeRow, ProjectRow, VolumeRow},
    volume,
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::{InstanceClone, InstanceCreate};
use yun_plan::{
    place::{self, Ask, Decision, Placement},
    quota, spec,
};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    Explanation, Generation, GroupMember, Image, ImageId, ImagePin, Instance, InstanceId, InstanceSpec, InstanceState,
    InstanceStatus, Metadata, Name, NameOrId, NodeId, ObjectKind, Operation, OperationKind, Origin, Role,
};

/// What a new instance is made from, as the caches show it now.
struct Ground {
    project: Arc<Row<ProjectRow>>,
    image: Arc<Row<ImageRow>>,
    template: Option<template::Ground>,
}

/// A new instance with the reasons for its place.
struct Draft<'a> {
    instance: Instance,
    explanation: Option<Explanation>,
    node: Option<Arc<Row<NodeRow>>>,
    networks: Vec<Arc<Row<NetworkRow>>>,
    volumes: Vec<Arc<Row<VolumeRow>>>,
    promise: Promise<'a>,
}

/// Creates an instance, places it if there is room, and starts it.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    body: InstanceCreate,
) -> Result<Operation, Refusal> {
    create_from(c, caller, project, &body.name, || {
        let template = body.spec.template.as_ref().map(|name| template::ground(c, project, name)).transpose()?;
        Ok((body.clone(), template))
    })
    .await
}

/// Creates an instance that begins with the disk of another one as it is now.
pub async fn clone(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    source: &NameOrId,
    body: InstanceClone,
) -> Result<Operation, Refusal> {
    let snapshot = Uuid::new_v4();
    create_from(c, caller, project, &body.name, || {
        let row = locate(c, project, source)?;
        let create = template::clone_of(&row.value.0, &body);
        Ok((create, Some(template::itself(row, snapshot)?)))
    })
    .await
}

/// Creates an instance of what is asked for and what it is made from, both looked at again while others are faster.
async fn create_from(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    name: &Name,
    look: impl Fn() -> Result<(InstanceCreate, Option<template::Ground>), Refusal>,
) -> Result<Operation, Refusal> {
    let id = InstanceId(Uuid::new_v4());
    let trust = if caller.has_cloud(Role::Admin) { spec::Trust::Cloud } else { spec::Trust::Project };
    let _held = c.holdings.read().await;
    for _ in 0..ATTEMPTS {
        group::refuse_taken(c, project, name)?;
        let (body, template) = look()?;
        let ground = ground(c, project, &body, template)?;
        let draft = draft(c, trust, &ground, id, &body, None)?;
        let mut operation = operation::begin(
            c,
            caller,
            OperationKind::InstanceLaunch,
            reference(ObjectKind::Instance, &draft.instance.metadata),
        );
        let written = write(c, &ground, &draft, Some((caller, &operation))).await;
        draft.promise.answered(&written);
        match written {
            Ok(()) => {
                operation.status.progress = yun_plan::operation::progress(&operation, Some(&draft.instance));
                return Ok(operation::ops::find(c, caller, yun_types::OperationId(operation.metadata.id))
                    .await
                    .unwrap_or(operation));
            }
            Err(StoreError::Exists { key, .. })
                if key == Table::<InstanceRow>::key(&[project.as_str(), name.as_str()]) =>
            {
                return Err(exists(project, name));
            }
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict(
        "Conflict",
        format!("cannot create instance {name}: the project or its image changes all the time; try again"),
    ))
}

/// Creates an instance of a group, without an operation: what comes of it is seen in the group. What its template may ask for was checked
/// when the template was written.
pub(crate) async fn create_member(
    c: &Arc<Control>,
    project: &Name,
    body: InstanceCreate,
    tie: GroupMember,
) -> Result<(), Refusal> {
    let id = InstanceId(Uuid::new_v4());
    let _held = c.holdings.read().await;
    for _ in 0..ATTEMPTS {
        let template = body.spec.template.as_ref().map(|name| template::ground(c, project, name)).transpose()?;
        let ground = ground(c, project, &body, template)?;
        let draft = draft(c, spec::Trust::Cloud, &ground, id, &body, Some(&tie))?;
        let written = write(c, &ground, &draft, None).await;
        draft.promise.answered(&written);
        match written {
            Ok(()) => return Ok(()),
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", "the project or its image changes all the time".to_owned()))
}

fn exists(project: &Name, name: &Name) -> Refusal {
    Refusal::conflict(
        "Exists",
        format!(
            "instance {name} exists in project {project} already; choose another name, or delete it first with yun rm {name}"
        ),
    )
}

fn ground(
    c: &Control,
    project: &Name,
    body: &InstanceCreate,
    template: Option<template::Ground>,
) -> Result<Ground, Refusal> {
    let found = c.projects.cache.get(&[project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
    let row = found.ok_or_else(|| Refusal::not_found(ObjectKind::Project, project, None))?;
    if c.instances.cache.get(&[project.as_str(), body.name.as_str()]).is_some() {
        return Err(exists(project, &body.name));
    }
    let image = image::locate(c, project, &body.spec.image)?;
    Ok(Ground { project: row, image, template })
}

fn draft<'a>(
    c: &'a Control,
    trust: spec::Trust,
    ground: &Ground,
    id: InstanceId,
    body: &InstanceCreate,
    tie: Option<&GroupMember>,
) -> Result<Draft<'a>, Refusal> {
    let mut instance = describe(c, ground, id, body)?;
    instance.status.group = tie.cloned();
    check(c, trust, ground, &instance)?;
    let facts = &ground.image.value.0.status.facts;
    let pool = Pool::lock(c);
    let networks = network::ops::wanted_by(c, &instance)?;
    let volumes = volume::ops::wanted_by(c, &pool, &instance)?;
    let ask = Ask {
        instance: id,
        name: body.name.clone(),
        kind: facts.kind,
        arch: facts.arch,
        size: instance.spec.size,
        node: volume::ops::node_of(c, &instance).or_else(|| instance.spec.node.clone()),
        kin: kin(c, &instance),
    };
    // Addresses that cannot be had are refused now, also if there is no room yet.
    pool.connect(&mut instance.clone(), &networks).map_err(refuse)?;
    let project = &ground.project.value.0;
    quota::check(&project.metadata.name, &project.spec.quota, pool.held_by(&project.metadata.name), instance.spec.size)
        .map_err(|over| Refusal::conflict("QuotaExceeded", over.to_string()))?;
    check_ports(&pool, &instance)?;
    let nodes = pool.nodes();
    if let Some(never) = place::never(&nodes, &ask) {
        return Err(Refusal::conflict(never.code(), never.to_string()));
    }
    let mut explanation = None;
    for decision in place::place(&nodes, &[ask]) {
        explanation = settle(&pool, &networks, &mut instance, decision)?;
    }
    let node = instance.status.node_name.as_ref().and_then(|name| c.nodes.cache.get(&[name.as_str()]));
    let promise = pool.promise(instance.clone());
    Ok(Draft { instance, explanation, node, networks, volumes, promise })
}

/// Refuses what no node of the cloud could ever run.
pub(crate) fn check_ever(c: &Control, image: &Image, name: Name, wanted: &InstanceSpec) -> Result<(), Refusal> {
    let facts = &image.status.facts;
    let instance = InstanceId(Uuid::nil());
    let (size, node, kin) = (wanted.size, wanted.node.clone(), std::collections::BTreeMap::new());
    let ask = Ask { instance, name, kind: facts.kind, arch: facts.arch, size, node, kin };
    match place::never(&Pool::lock(c).nodes(), &ask) {
        Some(never) => Err(Refusal::conflict(never.code(), never.to_string())),
        None => Ok(()),
    }
}

/// The instance as it is before it has a place.
fn describe(c: &Control, ground: &Ground, id: InstanceId, body: &InstanceCreate) -> Result<Instance, Refusal> {
    let image = &ground.image.value.0;
    let facts = &image.status.facts;
    let mut spec = body.spec.clone();
    check_kind(image, &spec)?;
    spec.kind = Some(facts.kind);
    // A spec that was copied from another instance asks for no restarts of this one.
    spec.restart_count = 0;
    let mut origin = Origin::default();
    if let Some(template) = &ground.template {
        origin.template = Some(template.apply(&mut spec, &image.status.facts.digest)?);
    }
    let now = c.clock.now();
    let metadata = Metadata {
        id: id.0,
        name: body.name.clone(),
        project: Some(ground.project.value.0.metadata.name.clone()),
        labels: body.labels.clone(),
        created: now,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let pin = ImagePin {
        id: ImageId(image.metadata.id),
        name: image.metadata.name.to_string(),
        digest: facts.digest.clone(),
    };
    Ok(Instance { metadata, spec, status: InstanceStatus { image: Some(pin), origin, ..InstanceStatus::default() } })
}

fn check_kind(image: &Image, spec: &InstanceSpec) -> Result<(), Refusal> {
    let facts = &image.status.facts;
    if let Some(kind) = spec.kind.filter(|kind| *kind != facts.kind) {
        return Err(Refusal::bad_request(
            "WrongKind",
            format!(
                "image {} makes a {}, and a {kind} was asked for; leave kind out, or use another image (yun image ls)",
                image.metadata.name, facts.kind
            ),
        ));
    }
    Ok(())
}

fn check(c: &Control, trust: spec::Trust, ground: &Ground, instance: &Instance) -> Result<(), Refusal> {
    spec::check(&instance.spec, ground.image.value.0.status.facts.kind, trust).map_err(refuse)?;
    check_image(c, &ground.image.value.0, &instance.spec)
}

/// What an image asks of a spec, and whether the node that the spec asks for exists.
pub(crate) fn check_image(c: &Control, image: &Image, wanted: &InstanceSpec) -> Result<(), Refusal> {
    check_kind(image, wanted)?;
    let facts = &image.status.facts;
    if wanted.size.disk < facts.min_disk {
        let least = yun_types::Bytes(facts.min_disk.ceil_mib() << 20);
        return Err(Refusal::bad_request(
            "DiskTooSmall",
            format!(
                "image {} needs a disk of {}, and disk:{} was asked for; ask for disk:{least} or more",
                image.metadata.name,
                facts.min_disk.human(),
                wanted.size.disk
            ),
        ));
    }
    let Some(node) = &wanted.node else { return Ok(()) };
    if c.nodes.cache.get(&[node.as_str()]).is_some() {
        return Ok(());
    }
    let rows = c.nodes.cache.all(&[]);
    let near = nearest(node.as_str(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
    Err(Refusal::not_found(ObjectKind::Node, node, near))
}

/// Gives the instance what was decided: a node, an address and a fence, or the reason why it waits.
fn settle(
    pool: &Pool<'_>,
    networks: &[Arc<Row<NetworkRow>>],
    instance: &mut Instance,
    decision: Decision,
) -> Result<Option<Explanation>, Refusal> {
    match decision.placement {
        Placement::On { node, name } => {
            pool.connect(instance, networks).map_err(refuse)?;
            put_on(&mut instance.status, node, name);
            Ok(Some(decision.explanation))
        }
        Placement::Waits { reason } => {
            instance.status.reason = Some(reason.into());
            instance.status.message = Some(waiting_text(&decision.explanation));
            Ok(None)
        }
    }
}

/// Puts an instance on a node. Its fence grows, so that an earlier placement can never be mistaken for this one.
pub(in crate::instance) fn put_on(status: &mut InstanceStatus, node: NodeId, name: Name) {
    status.state = InstanceState::Scheduled;
    status.reason = None;
    status.message = None;
    status.node = Some(node);
    status.node_name = Some(name);
    status.fence += 1;
}

/// Why an instance waits, in one sentence with a way out.
pub(in crate::instance) fn waiting_text(explanation: &Explanation) -> String {
    match explanation.unblock.first() {
        Some(help) => format!("{}; {help}", explanation.summary),
        None => explanation.summary.clone(),
    }
}

async fn write(
    c: &Control,
    ground: &Ground,
    draft: &Draft<'_>,
    operation: Option<(&Caller, &Operation)>,
) -> Result<(), StoreError> {
    let (project, instance) = (ground.project.value.0.metadata.name.as_str(), &draft.instance);
    let at = [project, instance.metadata.name.as_str()];
    let image = &ground.image.value.0.metadata;
    let image_project = image.project.as_ref().map_or(project, |owner| owner.as_str());
    let mut txn = Txn::new()
        .when(Table::<InstanceRow>::cmp_absent(&at))
        // Nor is there a group of this name.
        .when(Table::<GroupRow>::cmp_absent(&at))
        // Its quota is as it was, and it is not being deleted.
        .when(Table::<ProjectRow>::cmp_rev(&[project], ground.project.rev))
        .when(Table::<ImageRow>::cmp_rev(&[image_project, image.name.as_str()], ground.image.rev))
        .then(Table::<InstanceRow>::op_put(&at, &InstanceRow(instance.clone()))?);
    if let Some(template) = &ground.template {
        txn = template.add_guard(txn);
    }
    for network in &draft.networks {
        let name = network.value.0.metadata.name.as_str();
        txn = txn.when(Table::<NetworkRow>::cmp_rev(&[project, name], network.rev));
    }
    txn = volume::ops::guard(txn, &ground.project.value.0.metadata.name, &draft.volumes)?;
    if let Some(node) = &draft.node {
        // It still answers and takes instances.
        txn = txn.when(Table::<NodeRow>::cmp_rev(&[node.value.0.metadata.name.as_str()], node.rev));
    }
    if let Some(explanation) = &draft.explanation {
        let id = instance.metadata.id.to_string();
        txn = txn.then(Table::<ExplanationRow>::op_put(&[&id], &ExplanationRow(explanation.clone()))?);
    }
    if let Some((caller, operation)) = operation {
        txn = operation::add_to(txn, caller, operation)?;
    }
    let out = commit(&*c.store, txn).await?;
    c.instances.cache.wait_for(out.rev).await?;
    c.operations.cache.wait_for(out.rev).await
}
