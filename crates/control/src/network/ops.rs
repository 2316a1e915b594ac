//! What the API asks of networks. Who may ask was checked before.

use super::users;
use crate::{
    auth::Caller,
    core::Control,
    error::{Refusal, nearest},
    instance::Pool,
    rows::{NetworkRow, ProjectRow},
    volume::ops::change_instance,
};
use ipnet::Ipv4Net;
use std::sync::Arc;
use uuid::Uuid;
use yun_api::cloud::{NetworkAttach, NetworkCreate};
use yun_plan::{interface, network as rules};
use yun_store::{Row, Table, Txn, commit};
use yun_types::{
    Generation, Instance, InstanceState, Metadata, Name, NameOrId, Network, NetworkMembership, NetworkSpec, ObjectKind,
    Operation,
};

/// The most networks of one project.
const MOST: usize = 64;

/// Finds a network of the project.
pub fn find(control: &Control, project: &Name, network: &NameOrId) -> Result<Arc<Row<NetworkRow>>, Refusal> {
    let rows = control.networks.cache.all(&[project.as_str()]);
    let found = rows.iter().find(|row| match network {
        NameOrId::Name(name) => row.value.0.metadata.name == *name,
        NameOrId::Id(id) => row.value.0.metadata.id == *id,
    });
    found.cloned().ok_or_else(|| {
        let near = nearest(&network.to_string(), rows.iter().map(|row| row.value.0.metadata.name.as_str()));
        Refusal::not_found(ObjectKind::Network, network, near)
    })
}

/// Creates a network.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    body: NetworkCreate,
) -> Result<Arc<Row<NetworkRow>>, Refusal> {
    let mtu = body.mtu.unwrap_or(NetworkSpec::MTU);
    rules::check_mtu(mtu)?;
    let asked = body.cidr.as_deref().map(rules::parse_range).transpose()?;
    let _choosing = c.choosing_range.lock().await;
    let owner = c.projects.cache.get(&[project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
    let owner = owner.ok_or_else(|| Refusal::not_found(ObjectKind::Project, project, None))?;
    let at = [project.as_str(), body.name.as_str()];
    if c.networks.cache.get(&at).is_some() {
        let name = &body.name;
        let message = format!(
            "network {name} exists already: choose another name, or delete it first with yun network rm {name}"
        );
        return Err(Refusal::conflict("Exists", message));
    }
    if c.networks.cache.all(&[project.as_str()]).len() >= MOST {
        let message =
            format!("project {project} has {MOST} networks, which is the most: delete one that is not needed");
        return Err(Refusal::conflict("TooManyNetworks", message));
    }
    let id = Uuid::new_v4();
    let cidr = match asked {
        Some(cidr) => free(c, project, cidr)?,
        None => crate::project::ops::free_range(c, id)?,
    };
    let metadata = Metadata {
        id,
        name: body.name.clone(),
        project: Some(project.clone()),
        labels: body.labels,
        created: c.clock.now(),
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let network =
        Network { metadata, spec: NetworkSpec { cidr, mtu, isolated: body.isolated }, status: Default::default() };
    let mut txn = Txn::new()
        .when(Table::<NetworkRow>::cmp_absent(&at))
        .when(Table::<ProjectRow>::cmp_rev(&[project.as_str()], owner.rev))
        .then(Table::<NetworkRow>::op_put(&at, &NetworkRow(network))?);
    if let Some(once) = &caller.once {
        txn = once.add_to(txn, id)?;
    }
    let out = commit(&*c.store, txn).await?;
    c.networks.cache.wait_for(out.rev).await?;
    find(c, project, &NameOrId::Id(id))
}

/// Refuses a range that overlaps one that is used: by another network, or around a node.
fn free(c: &Control, project: &Name, cidr: Ipv4Net) -> Result<Ipv4Net, Refusal> {
    let overlaps = |other: &Ipv4Net| other.contains(&cidr) || cidr.contains(other);
    let networks = c.networks.cache.all(&[]);
    if let Some(other) = networks.iter().find(|row| overlaps(&row.value.0.spec.cidr)) {
        let other = &other.value.0;
        // Who asks may not know the other project, so its names are not told.
        let what = match other.metadata.project.as_ref() {
            Some(owner) if owner == project => format!("network {} ({})", other.metadata.name, other.spec.cidr),
            _ => "a network of another project".to_owned(),
        };
        let message = format!("range {cidr} overlaps {what}: choose another, or leave it out for a free one");
        return Err(Refusal::conflict("RangeTaken", message));
    }
    for node in c.nodes.cache.all(&[]) {
        let node = &node.value.0;
        let own = networks.iter().map(|row| row.value.0.spec.cidr).collect::<Vec<_>>();
        let taken = node.status.facts.taken_ranges.iter().filter(|range| !own.contains(range));
        if let Some(range) = taken.into_iter().find(|range| overlaps(range)) {
            let message = format!(
                "range {cidr} overlaps {range}, which node {} has a route to: choose another, or leave it out for a free one",
                node.metadata.name
            );
            return Err(Refusal::conflict("RangeTaken", message));
        }
    }
    Ok(cidr)
}

/// Deletes a network that nobody is in.
pub async fn delete(c: &Arc<Control>, project: &Name, network: &NameOrId) -> Result<(), Refusal> {
    // Nobody joins it meanwhile.
    let _alone = c.holdings.write().await;
    let row = find(c, project, network)?;
    let name = &row.value.0.metadata.name;
    if name.as_str() == interface::DEFAULT {
        return Err(Refusal::conflict(
            "NetworkNeeded",
            "network default cannot be deleted: it is the one that instances are in if they name none; it goes with its project",
        ));
    }
    let users = {
        let pool = Pool::lock(c);
        users(&row.value.0, project, pool.instances())
    };
    if let Some(first) = users.first() {
        let who: Vec<&str> = users.iter().take(10).map(|user| user.instance.as_str()).collect();
        let message = format!(
            "network {name} cannot be deleted: {}{} in it; let them leave first (yun network detach {name} {})",
            who.join(", "),
            match users.len() {
                1 => " is",
                2..=10 => " are",
                _ => " and more are",
            },
            first.instance
        );
        return Err(Refusal::conflict("NetworkInUse", message));
    }
    match c.networks.table.delete(&[project.as_str(), name.as_str()], row.rev).await {
        Ok(rev) => Ok(c.networks.cache.wait_for(rev).await?),
        Err(e) if e.is_conflict() => Err(Refusal::conflict(
            "Conflict",
            format!("network {name} was changed meanwhile: look again, and try again"),
        )),
        Err(e) => Err(e.into()),
    }
}

/// Lets an instance join a network.
pub async fn attach(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    network: &NameOrId,
    body: NetworkAttach,
) -> Result<Operation, Refusal> {
    let name = find(c, project, network)?.value.0.metadata.name.clone();
    let NetworkAttach { instance, address, aliases, egress, ingress } = body;
    let membership = NetworkMembership { network: name.clone(), address, aliases, egress, ingress };
    change_instance(c, caller, project, &instance, |instance| {
        let mut all = interface::memberships(&instance.spec);
        if all.iter().any(|membership| membership.network == name) {
            let who = &instance.metadata.name;
            return Err(Refusal::conflict("Attached", format!("instance {who} is in network {name} already")));
        }
        all.push(membership.clone());
        instance.spec.networks = all;
        Ok(())
    })
    .await
}

/// Lets an instance leave a network.
pub async fn detach(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    network: &NameOrId,
    instance: &NameOrId,
) -> Result<Operation, Refusal> {
    let name = find(c, project, network)?.value.0.metadata.name.clone();
    change_instance(c, caller, project, instance, |instance| {
        let mut all = interface::memberships(&instance.spec);
        let (who, before) = (&instance.metadata.name, all.len());
        all.retain(|membership| membership.network != name);
        if all.len() == before {
            let message = format!("instance {who} is not in network {name}: see who is with yun network show {name}");
            return Err(Refusal::conflict("NotAttached", message));
        }
        if all.is_empty() {
            let message = format!(
                "network {name} is the only one of instance {who}, and every instance is in one: let it join another first (yun network attach)"
            );
            return Err(Refusal::conflict("LastNetwork", message));
        }
        instance.spec.networks = all;
        Ok(())
    })
    .await
}

/// The networks that an instance's spec names, in that order.
pub(crate) fn wanted_by(c: &Control, instance: &Instance) -> Result<Vec<Arc<Row<NetworkRow>>>, Refusal> {
    let Some(project) = &instance.metadata.project else { return Ok(Vec::new()) };
    let wanted = interface::memberships(&instance.spec);
    let rows: Vec<_> = wanted
        .iter()
        .map(|membership| find(c, project, &NameOrId::Name(membership.network.clone())))
        .collect::<Result<_, _>>()?;
    if let Some(first) = rows.first().filter(|row| row.value.0.spec.isolated && !instance.spec.publish.is_empty()) {
        let name = &first.value.0.metadata.name;
        let message = format!(
            "ports cannot be published in network {name}: it is isolated, and ports lead into an instance's first network; name another network first, or publish none"
        );
        return Err(Refusal::bad_request("Isolated", message));
    }
    Ok(rows)
}

/// Refuses another first network for an instance that runs: its way out and its ports hang on it.
pub(crate) fn check_first(before: &Instance, after: &Instance) -> Result<(), Refusal> {
    let first = |instance: &Instance| interface::memberships(&instance.spec).into_iter().next().map(|m| m.network);
    let runs = !matches!(before.status.state, InstanceState::Pending | InstanceState::Stopped | InstanceState::Failed);
    let (was, is) = (first(before), first(after));
    if was == is || !runs {
        return Ok(());
    }
    let (name, was) = (&before.metadata.name, was.map_or_else(String::new, |network| network.to_string()));
    let message = format!(
        "cannot take the first network of instance {name} ({was}) away while it runs: its way out and its ports hang on it; stop it first (yun stop {name})"
    );
    Err(Refusal::conflict("FirstNetwork", message))
}
