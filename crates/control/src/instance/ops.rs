//! What the API asks of instances. Who may ask was checked before.

mod change;
mod create;
mod session;
mod template;

pub use change::{action, delete, update};
pub(crate) use create::{check_ever, check_image, create_member};
pub use create::{clone, create};
pub(super) use create::{put_on, waiting_text};
pub(crate) use session::link_failed;
pub use session::{attach, console, dial, exec, logs, read_files, sftp, write_files};

use super::{Pool, locate};
use crate::{core::Control, error::Refusal, rows::InstanceRow};
use std::{collections::BTreeMap, sync::Arc};
use yun_plan::{
    Refused,
    place::{Ask, place},
};
use yun_store::Row;
use yun_types::{Arch, Explanation, Instance, InstanceId, InstanceKind, Name, NameOrId, NodeId, Power, PublishedPort};

/// How often a request is tried again when others were faster.
const ATTEMPTS: usize = 16;

/// Finds an instance.
pub async fn find(c: &Arc<Control>, project: &Name, instance: &NameOrId) -> Result<Arc<Row<InstanceRow>>, Refusal> {
    locate(c, project, instance)
}

/// Says why an instance is where it is, or why it waits.
pub async fn explain(c: &Arc<Control>, project: &Name, instance: &NameOrId) -> Result<Explanation, Refusal> {
    let row = locate(c, project, instance)?;
    let instance = &row.value.0;
    let Some(node) = &instance.status.node_name else {
        let ask = ask(c, instance);
        let mut decided = place(&Pool::lock(c).nodes(), &[ask]);
        let explanation = decided.pop().map(|decision| decision.explanation);
        return explanation.ok_or_else(|| Refusal::internal("explain the placement", "no decision was made"));
    };
    let kept = c.explanations.get(&[&instance.metadata.id.to_string()]).await?;
    let mut explanation = kept.map_or_else(|| bare(node), |row| row.value.0);
    explanation.state = instance.status.state;
    Ok(explanation)
}

/// What is left to say when the reasons were not kept.
fn bare(node: &Name) -> Explanation {
    Explanation {
        state: Default::default(),
        summary: format!("on node {node}; the reasons were not kept"),
        nodes: 0,
        filtered: Vec::new(),
        candidates: Vec::new(),
        nearest: None,
        unblock: Vec::new(),
    }
}

/// What the scheduler is asked for an instance.
pub(super) fn ask(c: &Control, instance: &Instance) -> Ask {
    let pin = instance.status.image.as_ref();
    // The catalogue knows the image's processor; instances of images that have left it run where the first node can.
    let arch = pin
        .and_then(|pin| c.images.cache.all(&[]).into_iter().find(|row| row.value.0.status.facts.digest == pin.digest))
        .map_or_else(|| first_arch(c), |row| row.value.0.status.facts.arch);
    Ask {
        instance: InstanceId(instance.metadata.id),
        name: instance.metadata.name.clone(),
        kind: instance.spec.kind.unwrap_or(InstanceKind::Container),
        arch,
        size: instance.spec.size,
        node: crate::volume::ops::node_of(c, instance).or_else(|| instance.spec.node.clone()),
        kin: kin(c, instance),
    }
}

/// How many instances of the same group each node has.
fn kin(c: &Control, instance: &Instance) -> BTreeMap<NodeId, u32> {
    let mut kin = BTreeMap::new();
    let (Some(tie), Some(project)) = (&instance.status.group, &instance.metadata.project) else { return kin };
    for row in c.instances.cache.all(&[project.as_str()]) {
        let other = &row.value.0;
        let same = other.status.group.as_ref().is_some_and(|other| other.id == tie.id);
        if same
            && other.metadata.id != instance.metadata.id
            && other.metadata.deleting.is_none()
            && let Some(node) = other.status.node
        {
            *kin.entry(node).or_default() += 1;
        }
    }
    kin
}

fn first_arch(c: &Control) -> Arch {
    c.nodes.cache.all(&[]).first().map_or(Arch::host(), |node| node.value.0.status.facts.arch)
}

/// A rule's refusal as the API's.
pub(crate) fn refuse(refused: Refused) -> Refusal {
    match refused.code {
        "Invalid" => Refusal::bad_request(refused.code, refused.message),
        "Forbidden" => Refusal::forbidden(refused.message),
        code => Refusal::conflict(code, refused.message),
    }
}

/// Refuses ports that another instance of the cloud has.
pub(crate) fn check_ports(pool: &Pool<'_>, wanted: &Instance) -> Result<(), Refusal> {
    if matches!(wanted.spec.power, Power::Stopped | Power::Hibernated) {
        return Ok(());
    }
    let Some(taken) = yun_plan::ports::taken(&wanted.spec.publish, pool.others(wanted.metadata.id)) else {
        return Ok(());
    };
    Err(Refusal::conflict("PortTaken", port_taken(taken.port, taken.holder, wanted)))
}

fn port_taken(port: PublishedPort, holder: &Instance, wanted: &Instance) -> String {
    // Who asks may not know the other project, so its names are not told.
    match (&holder.metadata.project, &wanted.metadata.project) {
        (Some(theirs), ours) if Some(theirs) != ours.as_ref() => {
            format!("port {} is taken by an instance of another project; choose another", port.host)
        }
        (project, _) => {
            let project = project.as_ref().map_or("default", |project| project.as_str());
            format!(
                "port {} is taken by instance {} of project {project}; choose another or stop it",
                port.host, holder.metadata.name
            )
        }
    }
}
