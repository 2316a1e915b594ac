//! What the API asks of projects.

use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    project::not_found,
    rows::{GroupRow, ImageRow, InstanceRow, NetworkRow, ProjectRow, SshKeyRow, TokenRow, VolumeRow},
};
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::ProjectCreate;
use yun_store::{Row, Table, Txn, commit};
use yun_types::{
    Generation, Labels, Metadata, Name, NameOrId, Network, NetworkSpec, NetworkStatus, ObjectKind, Project,
    ProjectSpec, ProjectStatus, Role, Timestamp,
};

/// How often a change is tried again when others were faster.
const ATTEMPTS: usize = 8;
/// The network that each project has.
const DEFAULT_NETWORK: &str = "default";

/// Finds a project that the caller sees.
pub fn find(control: &Control, caller: &Caller, project: &NameOrId) -> Result<Arc<Row<ProjectRow>>, Refusal> {
    let row = match project {
        NameOrId::Name(name) => control.projects.cache.get(&[name.as_str()]),
        NameOrId::Id(id) => control.projects.cache.all(&[]).into_iter().find(|row| row.value.0.metadata.id == *id),
    };
    row.filter(|row| caller.sees(&row.value.0.metadata.name)).ok_or_else(|| not_found(control, caller, project))
}

/// Creates a project with its network.
pub async fn create(
    control: &Arc<Control>,
    caller: &Caller,
    body: ProjectCreate,
) -> Result<Arc<Row<ProjectRow>>, Refusal> {
    check(&body.spec)?;
    insert(control, body, caller.once.as_ref()).await
}

fn check(spec: &ProjectSpec) -> Result<(), Refusal> {
    match spec.weight {
        Some(weight) if weight == 0 || weight > ProjectSpec::MAX_WEIGHT => Err(Refusal::bad_request(
            "BadWeight",
            format!("the weight {weight} is not from 1 to {}: 1 is an ordinary project's", ProjectSpec::MAX_WEIGHT),
        )),
        _ => Ok(()),
    }
}

/// Creates the project `default` if this cloud has none.
pub(crate) async fn ensure_default(control: &Arc<Control>) -> Result<(), Refusal> {
    let name = Name::default_project();
    if control.projects.cache.get(&[name.as_str()]).is_some() {
        return Ok(());
    }
    let body = ProjectCreate { name, labels: Labels::new(), spec: ProjectSpec::default() };
    insert(control, body, None).await.map(drop)
}

async fn insert(
    control: &Arc<Control>,
    body: ProjectCreate,
    once: Option<&crate::http::idempotency::Once>,
) -> Result<Arc<Row<ProjectRow>>, Refusal> {
    let _choosing = control.choosing_range.lock().await;
    let (id, now) = (Uuid::new_v4(), control.clock.now());
    let metadata = |id, name, project, labels| Metadata {
        id,
        name,
        project,
        labels,
        created: now,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let name = body.name.clone();
    let network = Network {
        metadata: metadata(Uuid::new_v4(), DEFAULT_NETWORK.parse()?, Some(name.clone()), Labels::new()),
        spec: NetworkSpec::new(free_range(control, id)?),
        status: NetworkStatus::default(),
    };
    let project = Project {
        metadata: metadata(id, name.clone(), None, body.labels),
        spec: body.spec,
        status: ProjectStatus::default(),
    };
    let (at, network_at) = ([name.as_str()], [name.as_str(), DEFAULT_NETWORK]);
    let txn = Txn::new()
        .when(Table::<ProjectRow>::cmp_absent(&at))
        .when(Table::<NetworkRow>::cmp_absent(&network_at))
        .then(Table::<ProjectRow>::op_put(&at, &ProjectRow(project))?)
        .then(Table::<NetworkRow>::op_put(&network_at, &NetworkRow(network))?);
    let txn = match once {
        Some(once) => once.add_to(txn, id)?,
        None => txn,
    };
    let out = match commit(&*control.store, txn).await {
        Err(e) if e.is_conflict() && control.projects.table.get(&at).await?.is_some() => {
            return Err(Refusal::conflict(
                "Exists",
                format!(
                    "project {name} exists already: choose another name, or use it as it is (yun project show {name})"
                ),
            ));
        }
        other => other?,
    };
    control.networks.cache.wait_for(out.rev).await?;
    settled(control, &name, out.rev).await
}

/// A range that no network and no node uses.
pub(crate) fn free_range(control: &Control, seed: Uuid) -> Result<ipnet::Ipv4Net, Refusal> {
    let mut taken: Vec<_> = control.networks.cache.all(&[]).iter().map(|row| row.value.0.spec.cidr).collect();
    for node in control.nodes.cache.all(&[]) {
        taken.extend(node.value.0.status.facts.taken_ranges.iter().copied());
    }
    let (seed, _) = seed.as_u64_pair();
    yun_plan::network::choose(control.config.network_pool, control.config.network_prefix, &taken, seed)
        .map_err(|e| Refusal::conflict("NoFreeRange", format!("cannot give the project a network: {e}")))
}

/// The row once the cache has it.
async fn settled(control: &Control, name: &Name, rev: yun_store::Rev) -> Result<Arc<Row<ProjectRow>>, Refusal> {
    control.projects.cache.wait_for(rev).await?;
    let row = control.projects.cache.get(&[name.as_str()]);
    row.ok_or_else(|| {
        Refusal::conflict(
            "Conflict",
            format!("project {name} was deleted by another request meanwhile: look again with: yun project ls"),
        )
    })
}

/// Changes a project. Its quota is the cloud's to change.
pub async fn update(
    control: &Arc<Control>,
    caller: &Caller,
    project: &NameOrId,
    spec: ProjectSpec,
    if_match: Option<String>,
) -> Result<Arc<Row<ProjectRow>>, Refusal> {
    let row = find(control, caller, project)?;
    let name = &row.value.0.metadata.name;
    check(&spec)?;
    for _ in 0..ATTEMPTS {
        let Some(row) = control.projects.table.get(&[name.as_str()]).await? else {
            return Err(not_found(control, caller, project));
        };
        if if_match.as_ref().is_some_and(|wanted| *wanted != row.rev.to_string()) {
            return Err(Refusal::stale(ObjectKind::Project, name));
        }
        let mut changed = row.value.clone();
        if changed.spec.weight != spec.weight && !caller.has_cloud(Role::Admin) {
            return Err(Refusal::forbidden(format!(
                "the weight of project {name} is changed by admins of the cloud only: send the weight as it is, or ask one of them"
            )));
        }
        if changed.spec.quota != spec.quota && !caller.has_cloud(Role::Admin) {
            return Err(Refusal::forbidden(format!(
                "the quota of project {name} is changed by admins of the cloud only: send the quota as it is, or ask one of them"
            )));
        }
        if changed.spec == spec {
            return settled(control, name, row.rev).await;
        }
        changed.spec = spec.clone();
        changed.metadata.generation = changed.metadata.generation.next();
        match control.projects.table.update(&[name.as_str()], &changed, row.rev).await {
            Ok(rev) => return settled(control, name, rev).await,
            Err(e) if e.is_conflict() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("project {name} is being changed by others all the time: try again")))
}

/// Deletes a project that owns nothing but its network.
pub async fn delete(control: &Arc<Control>, caller: &Caller, project: &NameOrId) -> Result<(), Refusal> {
    let row = find(control, caller, project)?;
    let name = row.value.0.metadata.name.clone();
    if name == Name::default_project() {
        return Err(Refusal::conflict(
            "ProjectNeeded",
            "project default cannot be deleted: requests that name no project are about it",
        ));
    }
    refuse_if_used(&name, &owned_in_caches(control, &name))?;
    // From now on nothing new can be made in it: what creates compares the project's revision.
    let marked = mark(control, &name, Some(control.clock.now())).await?;
    let result = delete_marked(control, &name, &marked).await;
    if result.is_err() {
        mark(control, &name, None).await?;
    }
    result
}

async fn delete_marked(control: &Control, name: &Name, marked: &Row<ProjectRow>) -> Result<(), Refusal> {
    let project = [name.as_str()];
    let instances = Table::<InstanceRow>::new(Arc::clone(&control.store)).list(&project, None, None, 20).await?;
    let images = Table::<ImageRow>::new(Arc::clone(&control.store)).list(&project, None, None, 20).await?;
    let groups = Table::<GroupRow>::new(Arc::clone(&control.store)).list(&project, None, None, 20).await?;
    let named = |kind: &str, name: &Name| format!("{kind} {name}");
    let mut owned: Vec<String> = groups.rows.iter().map(|row| named("group", &row.value.0.metadata.name)).collect();
    owned.extend(instances.rows.iter().map(|row| named("instance", &row.value.0.metadata.name)));
    owned.extend(images.rows.iter().map(|row| named("image", &row.value.0.metadata.name)));
    let volumes = Table::<VolumeRow>::new(Arc::clone(&control.store)).list(&project, None, None, 20).await?;
    owned.extend(volumes.rows.iter().map(|row| named("volume", &row.value.0.metadata.name)));
    refuse_if_used(name, &owned)?;
    let mut txn =
        Txn::new().when(Table::<ProjectRow>::cmp_rev(&project, marked.rev)).then(Table::<ProjectRow>::op_del(&project));
    for network in control.networks.cache.all(&project) {
        txn = txn.then(Table::<NetworkRow>::op_del(&[name.as_str(), network.value.0.metadata.name.as_str()]));
    }
    for key in control.ssh_keys.cache.all(&project) {
        txn = txn.then(Table::<SshKeyRow>::op_del(&[name.as_str(), key.value.0.metadata.name.as_str()]));
    }
    // A later project of this name is another's: no token may reach it by an old right.
    for row in control.tokens.cache.all(&[]) {
        let mut token = row.value.clone();
        if token.0.token.spec.projects.remove(name).is_some() {
            let at = [token.0.token.metadata.name.as_str()];
            txn = txn.when(Table::<TokenRow>::cmp_rev(&at, row.rev)).then(Table::<TokenRow>::op_put(&at, &token)?);
        }
    }
    let out = commit(&*control.store, txn).await?;
    control.projects.cache.wait_for(out.rev).await?;
    control.networks.cache.wait_for(out.rev).await?;
    control.ssh_keys.cache.wait_for(out.rev).await?;
    control.tokens.cache.wait_for(out.rev).await?;
    Ok(())
}

/// Sets or takes back the mark of deletion.
async fn mark(control: &Control, name: &Name, deleting: Option<Timestamp>) -> Result<Row<ProjectRow>, Refusal> {
    let change = |row: &mut ProjectRow| {
        row.metadata.deleting = deleting;
        true
    };
    Ok(control.projects.table.modify(&[name.as_str()], change).await?)
}

fn owned_in_caches(control: &Control, name: &Name) -> Vec<String> {
    let instances = control.instances.cache.list(&[name.as_str()], None, 20).rows;
    let images = control.images.cache.list(&[name.as_str()], None, 20).rows;
    let groups = control.groups.cache.list(&[name.as_str()], None, 20).rows;
    let groups = groups.iter().map(|row| format!("group {}", row.value.0.metadata.name));
    let instances = instances.iter().map(|row| format!("instance {}", row.value.0.metadata.name));
    let volumes = control.volumes.cache.list(&[name.as_str()], None, 20).rows;
    let volumes = volumes.iter().map(|row| format!("volume {}", row.value.0.metadata.name));
    let images = images.iter().map(|row| format!("image {}", row.value.0.metadata.name));
    groups.chain(instances).chain(images).chain(volumes).collect()
}

fn refuse_if_used(name: &Name, owned: &[String]) -> Result<(), Refusal> {
    const SHOWN: usize = 10;
    if owned.is_empty() {
        return Ok(());
    }
    let more = if owned.len() > SHOWN { " and more" } else { "" };
    let list = owned[..owned.len().min(SHOWN)].join(", ");
    Err(Refusal::conflict(
        "ProjectInUse",
        format!(
            "project {name} cannot be deleted: it owns {list}{more}; delete them first \
             (yun rm -p {name} NAME, yun image rm -p {name} NAME, yun volume rm -p {name} NAME)"
        ),
    ))
}
