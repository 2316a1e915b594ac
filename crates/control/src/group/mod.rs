//! Groups: so many like instances, from the request until nothing is left of them.
//!
//! A request writes what is wanted ([`ops`]). [`reconcile`] compares that with what is there, asks `plan::group` for the next steps, writes down
//! what it is about to do, and does it. Which instances are a group's own is said in their status, and in no list that could be wrong.

pub mod ops;
mod reconcile;
#[cfg(test)]
mod tests;

use crate::{
    core::Control,
    error::{Refusal, nearest},
    rows::{GroupRow, InstanceRow},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;
use yun_plan::group::{Member, member};
use yun_store::Row;
use yun_types::{Group, Instance, Name, NameOrId, NodeId, NodeState, ObjectKind};

pub(crate) use reconcile::start;

/// The group of the project with this name or id.
pub(crate) fn locate(c: &Control, project: &Name, group: &NameOrId) -> Result<Arc<Row<GroupRow>>, Refusal> {
    let found = match group {
        NameOrId::Name(name) => c.groups.cache.get(&[project.as_str(), name.as_str()]),
        NameOrId::Id(id) => {
            c.groups.cache.all(&[project.as_str()]).into_iter().find(|row| row.value.0.metadata.id == *id)
        }
    };
    found.ok_or_else(|| {
        let rows = c.groups.cache.all(&[project.as_str()]);
        let near = nearest(&group.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Group, group, near)
    })
}

/// Refuses a name for a new instance that a group has, or has for one of its slots.
pub(crate) fn refuse_taken(c: &Control, project: &Name, name: &Name) -> Result<(), Refusal> {
    let taken = |group: &str| c.groups.cache.get(&[project.as_str(), group]).is_some();
    if taken(name.as_str()) {
        return Err(Refusal::conflict(
            "Exists",
            format!(
                "group {name} exists in project {project} already, and both would be {name}.{project}.yun; choose another name"
            ),
        ));
    }
    match name.as_str().rsplit_once('-') {
        Some((group, slot)) if slot.parse::<u32>().is_ok() && taken(group) => Err(Refusal::conflict(
            "Exists",
            format!(
                "the name {name} is kept for slot {slot} of group {group}; choose another name, or scale the group (yun group scale {group} N)"
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses to change one instance of a group.
pub(crate) fn refuse_member(instance: &Instance, what: &str) -> Result<(), Refusal> {
    let Some(tie) = &instance.status.group else { return Ok(()) };
    let (name, group) = (&instance.metadata.name, &tie.name);
    Err(Refusal::conflict(
        "OwnedByGroup",
        format!(
            "cannot {what} instance {name} by itself: it belongs to group {group}; change all of them with yun group set {group}, replace them with yun group restart {group}, or have fewer with yun group scale {group} N"
        ),
    ))
}

/// What there is of all groups.
struct Crowd {
    by_group: BTreeMap<Uuid, Vec<Arc<Row<InstanceRow>>>>,
    silent: Vec<NodeId>,
    /// Nodes that take new instances.
    open: Vec<NodeId>,
}

impl Crowd {
    fn look(c: &Control, segments: &[&str]) -> Self {
        let mut by_group: BTreeMap<Uuid, Vec<Arc<Row<InstanceRow>>>> = BTreeMap::new();
        for row in c.instances.cache.all(segments) {
            if let Some(tie) = &row.value.0.status.group {
                by_group.entry(tie.id).or_default().push(row);
            }
        }
        let nodes = c.nodes.cache.all(&[]);
        let ids = |wanted: &dyn Fn(&yun_types::Node) -> bool| {
            nodes
                .iter()
                .map(|row| &row.value.0)
                .filter(|node| wanted(node))
                .map(|node| NodeId(node.metadata.id))
                .collect()
        };
        let silent = ids(&|node| node.status.state == NodeState::Lost);
        let open = ids(&|node| node.status.state == NodeState::Ready && !node.spec.cordoned);
        Self { by_group, silent, open }
    }

    fn rows(&self, group: &Group) -> &[Arc<Row<InstanceRow>>] {
        self.by_group.get(&group.metadata.id).map_or(&[], Vec::as_slice)
    }

    fn members(&self, group: &Group) -> Vec<Member> {
        let see = |instance: &Instance| {
            let silent = instance.status.node.is_some_and(|node| self.silent.contains(&node));
            let elsewhere = self.open.iter().any(|node| Some(*node) != instance.status.node);
            member(instance, silent, elsewhere)
        };
        let mut members: Vec<Member> = self.rows(group).iter().filter_map(|row| see(&row.value.0)).collect();
        members.sort_by_key(|member| member.slot);
        members
    }
}
