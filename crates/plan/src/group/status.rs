//! What is said of a group: its counts, its state, and whether a revision has proved itself.

use super::{Aim, Decision, Member, Standing, Step, count};
use chrono::TimeDelta;
use yun_types::{Group, GroupState, GroupStatus, Timestamp};

/// The decision about a group that is being deleted.
pub(super) fn leaving(group: &Group, members: &[Member]) -> Decision {
    let mut status = group.status.clone();
    status.observed_generation = group.metadata.generation;
    status.state = GroupState::Deleting;
    status.rollout = None;
    let here = |member: &&Member| !member.leaves();
    let steps: Vec<Step> =
        members.iter().filter(here).map(|member| Step::Remove { id: member.id, name: member.name.clone() }).collect();
    let why = match members.len() {
        0 => vec!["nothing of it is left".to_owned()],
        _ => members.iter().map(|member| format!("removes {}", member.name)).collect(),
    };
    (status.instances, status.updated, status.ready, status.available) = (0, 0, 0, 0);
    status.message = (!members.is_empty()).then(|| format!("{} instances are being removed", members.len()));
    Decision { status, steps, why, again: None }
}

/// What may be said of why the group is not as it is wanted.
#[derive(Debug)]
pub(super) struct Said {
    /// An instance that could not be created.
    pub(super) trouble: Option<String>,
    /// The first thing that is done or waited for.
    pub(super) first: Option<String>,
}

/// Counts, and says where the group is.
pub(super) fn settle(
    group: &Group,
    status: &mut GroupStatus,
    members: &[Member],
    aim: Aim,
    at_rest: bool,
    said: Said,
    now: Timestamp,
) {
    let wait = TimeDelta::seconds(i64::from(group.spec.update.min_ready_seconds));
    let here = || members.iter().filter(|member| !member.leaves());
    status.instances = count(here());
    status.updated = count(here().filter(|member| member.revision == aim.wanted));
    status.ready = count(here().filter(|member| matches!(member.standing, Standing::Ready { .. })));
    status.available = count(here().filter(|member| member.available(wait, now)));
    let replicas = group.spec.replicas;
    let outdated = here().any(|member| member.revision != aim.revision);
    // A slot whose instance leaves is empty until its successor is there.
    let held = (1..=replicas).all(|slot| members.iter().any(|m| m.slot == slot && m.standing != Standing::Leaving));
    let complete = !outdated && held && at_rest && status.instances == replicas && status.available == replicas;
    if complete && replicas > 0 && !aim.frozen && aim.revision == aim.wanted {
        prove(status, aim.wanted);
    }
    // Who is told that a change is done finds nothing of what was before. What a silent node still has to remove is not waited for.
    let leaving = members.iter().filter(|member| member.standing == Standing::Leaving).count();
    let failure = status.revisions.iter().find(|revision| revision.number == aim.wanted).and_then(|r| r.failed.clone());
    let name = &group.metadata.name;
    let (state, message) = match failure {
        Some(failure) if aim.revision != aim.wanted => {
            let state = if complete && leaving == 0 { GroupState::RolledBack } else { GroupState::RollingBack };
            let text = format!(
                "revision {} failed ({failure}): back at revision {}; change the group (yun group set {name}), or try it again (yun group restart {name})",
                aim.wanted, aim.revision
            );
            (state, Some(text))
        }
        Some(failure) => {
            let way_out = match status.stable {
                0 => format!("look with yun explain group {name} and change the group (yun group set {name})"),
                stable => format!("go back with yun group rollout undo {name} --to {stable}, or change the group"),
            };
            (GroupState::Failed, Some(format!("revision {} failed: {failure}; {way_out}", aim.wanted)))
        }
        None if complete && leaving == 0 => (GroupState::Ready, None),
        None if complete => (
            GroupState::Scaling,
            Some(format!("all are there; {leaving} that are not needed any more are being removed")),
        ),
        None if group.spec.paused && (outdated || status.stable != aim.wanted) => {
            (GroupState::Paused, Some(format!("the rollout is paused: go on with yun group rollout resume {name}")))
        }
        None if status.stable != aim.wanted || outdated => (GroupState::Updating, said.first),
        None if status.instances != replicas => (GroupState::Scaling, said.first),
        None => (GroupState::Degraded, said.first),
    };
    status.state = state;
    status.message = if matches!(state, GroupState::Ready) { None } else { said.trouble.or(message) };
}

/// The wanted revision has shown that it works.
fn prove(status: &mut GroupStatus, wanted: u64) {
    status.stable = wanted;
    status.rollout = None;
    for revision in status.revisions.iter_mut().filter(|revision| revision.number == wanted) {
        revision.good = true;
        revision.failed = None;
    }
}
