//! What the API asks of groups. Who may ask was checked before.

use super::{Crowd, locate};
use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    image, instance,
    rows::{GroupRow, InstanceRow, ProjectRow},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;
use yun_api::cloud::{GroupCreate, GroupUpdate};
use yun_plan::{
    group::{check, decide, slot_name},
    spec::Trust,
};
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    ExplainedMember, Generation, Group, GroupExplanation, GroupSpec, GroupState, GroupStatus, Metadata, Name, NameOrId,
    ObjectKind, Role,
};

/// How often a request is tried again when others were faster.
const ATTEMPTS: usize = 16;

/// Creates a group. Its instances are made by the reconciler.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    body: GroupCreate,
) -> Result<Arc<Row<GroupRow>>, Refusal> {
    let name = &body.name;
    for _ in 0..ATTEMPTS {
        let owner = c.projects.cache.get(&[project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
        let owner = owner.ok_or_else(|| Refusal::not_found(ObjectKind::Project, project, None))?;
        if c.groups.cache.get(&[project.as_str(), name.as_str()]).is_some() {
            return Err(exists(project, name));
        }
        if c.instances.cache.get(&[project.as_str(), name.as_str()]).is_some() {
            return Err(Refusal::conflict(
                "Exists",
                format!(
                    "instance {name} exists in project {project} already, and both would be {name}.{project}.yun; choose another name"
                ),
            ));
        }
        let id = Uuid::new_v4();
        check_all(c, project, name, id, &body.spec, trust(caller, true))?;
        let metadata = Metadata {
            id,
            name: name.clone(),
            project: Some(project.clone()),
            labels: body.labels.clone(),
            created: c.clock.now(),
            generation: Generation(1),
            revision: String::new(),
            deleting: None,
        };
        let group = Group { metadata, spec: body.spec.clone(), status: GroupStatus::default() };
        let at = [project.as_str(), name.as_str()];
        let txn = Txn::new()
            .when(Table::<GroupRow>::cmp_absent(&at))
            .when(Table::<InstanceRow>::cmp_absent(&at))
            .when(Table::<ProjectRow>::cmp_rev(&[project.as_str()], owner.rev))
            .then(Table::<GroupRow>::op_put(&at, &GroupRow(group))?);
        let txn = match &caller.once {
            Some(once) => once.add_to(txn, id)?,
            None => txn,
        };
        match commit(&*c.store, txn).await {
            Ok(out) => {
                c.groups.cache.wait_for(out.rev).await?;
                return locate(c, project, &NameOrId::Id(id));
            }
            Err(e) if e.is_conflict() => instance::catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict(
        "Conflict",
        format!("cannot create group {name}: its project changes all the time; try again"),
    ))
}

fn exists(project: &Name, name: &Name) -> Refusal {
    Refusal::conflict(
        "Exists",
        format!(
            "group {name} exists in project {project} already; choose another name, change it with yun group set {name}, or delete it first with yun group rm {name}"
        ),
    )
}

/// Paths of the host are for administrators, and stay when somebody else changes something else.
fn trust(caller: &Caller, mounts_changed: bool) -> Trust {
    if caller.has_cloud(Role::Admin) || !mounts_changed { Trust::Cloud } else { Trust::Project }
}

/// Everything that can be known of a spec before the first instance is made.
fn check_all(
    c: &Control,
    project: &Name,
    name: &Name,
    id: Uuid,
    spec: &GroupSpec,
    trust: Trust,
) -> Result<(), Refusal> {
    let image = image::locate(c, project, &spec.template.spec.image)?;
    let image = &image.value.0;
    check(name, spec, image.status.facts.kind, trust).map_err(instance::ops::refuse)?;
    instance::ops::check_image(c, image, &spec.template.spec)?;
    instance::ops::check_ever(c, image, slot_name(name, 1), &spec.template.spec)?;
    for slot in 1..=spec.replicas.saturating_add(spec.update.max_surge) {
        let taken = slot_name(name, slot);
        let Some(row) = c.instances.cache.get(&[project.as_str(), taken.as_str()]) else { continue };
        if row.value.0.status.group.as_ref().is_none_or(|tie| tie.id != id) {
            return Err(Refusal::conflict(
                "NameTaken",
                format!(
                    "group {name} needs the name {taken} for its slot {slot}, and instance {taken} has it: delete that one first (yun rm {taken}), or choose another name for the group"
                ),
            ));
        }
    }
    Ok(())
}

/// Changes a group.
pub async fn update(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    group: &NameOrId,
    body: GroupUpdate,
    if_match: Option<String>,
) -> Result<Arc<Row<GroupRow>>, Refusal> {
    change(c, project, group, if_match, |before| {
        let (name, spec) = (&before.metadata.name, &body.spec);
        if spec.round < before.spec.round {
            return Err(Refusal::conflict(
                "Stale",
                format!(
                    "cannot set round of group {name} back from {} to {}: read it again and repeat the change",
                    before.spec.round, spec.round
                ),
            ));
        }
        if *spec != before.spec {
            let mounts = |spec: &GroupSpec| spec.template.spec.container.mounts.clone();
            check_all(c, project, name, before.metadata.id, spec, trust(caller, mounts(spec) != mounts(&before.spec)))?;
        }
        Ok(Group {
            metadata: Metadata { labels: body.labels.clone(), ..before.metadata.clone() },
            spec: spec.clone(),
            status: before.status.clone(),
        })
    })
    .await
}

/// Goes back to an earlier revision.
pub async fn undo(
    c: &Arc<Control>,
    project: &Name,
    group: &NameOrId,
    to: Option<u64>,
) -> Result<Arc<Row<GroupRow>>, Refusal> {
    change(c, project, group, None, |before| {
        let (name, status) = (&before.metadata.name, &before.status);
        let all: Vec<String> = status.revisions.iter().map(|revision| revision.number.to_string()).collect();
        let found = match to {
            Some(number) => status.revisions.iter().find(|revision| revision.number == number).ok_or_else(|| {
                Refusal::conflict(
                    "NoRevision",
                    format!(
                        "group {name} has no revision {number}: it knows {} (yun group rollout history {name})",
                        all.join(", ")
                    ),
                )
            })?,
            None => status
                .revisions
                .iter()
                .rev()
                .find(|revision| revision.number != status.revision && revision.good)
                .ok_or_else(|| {
                    Refusal::conflict(
                        "NoRevision",
                        format!(
                            "group {name} has no other revision that was good: change it with yun group set {name}"
                        ),
                    )
                })?,
        };
        let mut after = before.clone();
        after.spec.template = found.template.clone();
        after.spec.paused = false;
        if found.failed.is_some() {
            // It failed before: this is another try.
            after.spec.round = status.revisions.iter().map(|revision| revision.round).max().unwrap_or_default() + 1;
        }
        Ok(after)
    })
    .await
}

/// Marks a group for deletion. Asked again, it follows the deletion that is under way.
pub async fn delete(
    c: &Arc<Control>,
    project: &Name,
    group: &NameOrId,
    if_match: Option<String>,
) -> Result<Arc<Row<GroupRow>>, Refusal> {
    let now = c.clock.now();
    let row = locate(c, project, group)?;
    if row.value.0.metadata.deleting.is_some() {
        return Ok(row);
    }
    change(c, project, group, if_match, |before| {
        let mut after = before.clone();
        after.metadata.deleting.get_or_insert(now);
        after.status.state = GroupState::Deleting;
        Ok(after)
    })
    .await
}

/// Decides with `decide` and writes, again and again while others are faster.
async fn change(
    c: &Arc<Control>,
    project: &Name,
    group: &NameOrId,
    if_match: Option<String>,
    mut decide: impl FnMut(&Group) -> Result<Group, Refusal>,
) -> Result<Arc<Row<GroupRow>>, Refusal> {
    for _ in 0..ATTEMPTS {
        let row = locate(c, project, group)?;
        let before = &row.value.0;
        let name = before.metadata.name.as_str();
        if if_match.as_ref().is_some_and(|wanted| *wanted != row.rev.to_string()) {
            return Err(Refusal::stale(ObjectKind::Group, name));
        }
        if before.metadata.deleting.is_some() {
            return Err(Refusal::conflict("Deleting", format!("cannot change group {name}: it is being deleted")));
        }
        let mut after = decide(before)?;
        if after == *before {
            return Ok(row);
        }
        if after.spec != before.spec {
            after.metadata.generation = after.metadata.generation.next();
        }
        match c.groups.table.update(&[project.as_str(), name], &GroupRow(after), row.rev).await {
            Ok(rev) => {
                c.groups.cache.wait_for(rev).await?;
                c.wake_groups.wake();
                return locate(c, project, group);
            }
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("group {group} changes all the time: try again")))
}

async fn catch_up(c: &Control, lost: &StoreError) -> Result<(), StoreError> {
    instance::catch_up(c, lost).await
}

/// Says why a group is as it is, and what comes next.
pub fn explain(c: &Arc<Control>, project: &Name, group: &NameOrId) -> Result<GroupExplanation, Refusal> {
    let row = locate(c, project, group)?;
    let group = &row.value.0;
    let crowd = Crowd::look(c, &[project.as_str()]);
    let members = crowd.members(group);
    let decision = decide(group, &members, &BTreeMap::new(), c.clock.now());
    let explained = members.iter().filter_map(|member| {
        let row = crowd.rows(group).iter().find(|row| row.value.0.metadata.id == member.id)?;
        let status = &row.value.0.status;
        Some(ExplainedMember {
            name: member.name.clone(),
            slot: member.slot,
            revision: member.revision,
            state: status.state,
            standing: member.standing.text(),
            node: status.node_name.clone(),
            address: status.address,
        })
    });
    let status = &group.status;
    let wanted = group.spec.replicas;
    let mut summary = format!(
        "group {} is {}: {} of {wanted} available, revision {}",
        group.metadata.name, status.state, status.available, status.revision
    );
    if let Some(message) = &status.message {
        summary = format!("{summary}; {message}");
    }
    Ok(GroupExplanation { state: status.state, summary, steps: decision.why, members: explained.collect() })
}
