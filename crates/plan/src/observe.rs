//! What a node's report changes in the status of an instance.

use yun_types::{Instance, InstanceReport, InstanceState, NodeId, ObservedInstance, ObservedState};

/// What a report leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It is about another placement than the present one, or says nothing new.
    Nothing,
    /// The instance is like this now.
    Changed(Box<Instance>),
    /// The instance was to be deleted, and nothing of it is left.
    Removed,
}

/// Applies a report of `node`.
pub fn apply(instance: &Instance, node: NodeId, report: &InstanceReport) -> Observed {
    if instance.status.node != Some(node) || instance.status.fence != report.fence {
        return Observed::Nothing;
    }
    let mut after = instance.clone();
    match &report.observed {
        ObservedInstance::Gone if instance.metadata.deleting.is_some() => return Observed::Removed,
        ObservedInstance::Gone => lose(&mut after),
        // A report from the past, come late or twice.
        ObservedInstance::State(_) if report.generation < instance.status.observed_generation => {
            return Observed::Nothing;
        }
        ObservedInstance::State(state) => {
            take(&mut after, state);
            after.status.observed_generation = after.status.observed_generation.max(report.generation);
        }
    }
    if after == *instance { Observed::Nothing } else { Observed::Changed(Box::new(after)) }
}

/// The node has nothing of an instance that it should have.
fn lose(after: &mut Instance) {
    let name = &after.metadata.name;
    let node = after.status.node_name.as_ref().map_or("its node", |node| node.as_str());
    after.status.state = InstanceState::Failed;
    after.status.reason = Some("Gone".into());
    after.status.message =
        Some(format!("node {node} has nothing left of instance {name}: delete it and create it again"));
    after.status.before_lost = None;
}

fn take(after: &mut Instance, seen: &ObservedState) {
    let deleting = after.metadata.deleting.is_some();
    let status = &mut after.status;
    status.state = match seen.state {
        _ if deleting => InstanceState::Deleting,
        // A node knows of no pending instances: it has not begun.
        InstanceState::Pending => InstanceState::Scheduled,
        state => state,
    };
    status.reason.clone_from(&seen.reason);
    status.message.clone_from(&seen.message);
    if seen.accel.is_some() {
        status.accel.clone_from(&seen.accel);
    }
    // The last start and the last end stay known while the next ones are under way.
    status.started = seen.started.or(status.started);
    status.exit = seen.exit.or(status.exit);
    status.health.clone_from(&seen.health);
    status.restarts = seen.restarts;
    status.next_restart = seen.next_restart;
    status.restart_count = status.restart_count.max(seen.restart_count);
    status.restores = status.restores.max(seen.restores);
    status.before_lost = None;
}

/// The instance when its node has fallen silent; `None` if that changes nothing.
pub fn node_lost(instance: &Instance) -> Option<Instance> {
    if instance.status.state == InstanceState::Lost || instance.metadata.deleting.is_some() {
        return None;
    }
    let mut after = instance.clone();
    let node = after.status.node_name.as_ref().map_or("its node", |node| node.as_str());
    let message = format!(
        "node {node} is silent; the instance was {} when it was last heard of, and may still be",
        after.status.state
    );
    after.status.before_lost = Some(after.status.state);
    after.status.state = InstanceState::Lost;
    after.status.reason = Some("NodeLost".into());
    after.status.message = Some(message);
    Some(after)
}

/// The instance when its node answers again: as it was last seen, until the node reports. `None` if that changes nothing.
pub fn node_back(instance: &Instance) -> Option<Instance> {
    if instance.status.state != InstanceState::Lost {
        return None;
    }
    let mut after = instance.clone();
    after.status.state = after.status.before_lost.take().unwrap_or(InstanceState::Scheduled);
    after.status.reason = None;
    after.status.message = None;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use proptest::prelude::*;
    use yun_types::{Exit, Generation, InstanceId};

    fn node() -> NodeId {
        NodeId(samples::id("a"))
    }

    fn report(state: InstanceState) -> InstanceReport {
        let seen = ObservedState { state, ..ObservedState::default() };
        InstanceReport {
            id: InstanceId(samples::id("web")),
            fence: 1,
            generation: Generation(1),
            observed: ObservedInstance::State(seen),
        }
    }

    fn changed(observed: Observed) -> Instance {
        match observed {
            Observed::Changed(instance) => *instance,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_moves_the_state_and_keeps_what_it_does_not_say() {
        let web = samples::instance("web");
        let after = changed(apply(&web, node(), &report(InstanceState::Stopping)));
        assert_eq!((after.status.state, after.status.started), (InstanceState::Stopping, web.status.started));
        assert_eq!(
            apply(&after, node(), &report(InstanceState::Stopping)),
            Observed::Nothing,
            "the same again says nothing new"
        );
    }

    #[test]
    fn reports_of_the_past_and_of_others_are_dropped() {
        let web = samples::instance("web");
        let old = InstanceReport { fence: 0, ..report(InstanceState::Failed) };
        assert_eq!(apply(&web, node(), &old), Observed::Nothing);
        assert_eq!(apply(&web, NodeId(samples::id("b")), &report(InstanceState::Failed)), Observed::Nothing);
        let mut waiting = web.clone();
        waiting.status.node = None;
        assert_eq!(apply(&waiting, node(), &report(InstanceState::Failed)), Observed::Nothing);
    }

    #[test]
    fn generations_and_restarts_never_go_back() {
        let mut web = samples::instance("web");
        web.status.observed_generation = Generation(5);
        web.status.restart_count = 3;
        assert_eq!(
            apply(&web, node(), &report(InstanceState::Failed)),
            Observed::Nothing,
            "it tells of an older generation"
        );
        let now = InstanceReport { generation: Generation(5), ..report(InstanceState::Starting) };
        let after = changed(apply(&web, node(), &now));
        assert_eq!((after.status.observed_generation, after.status.restart_count), (Generation(5), 3));
    }

    #[test]
    fn what_is_being_deleted_stays_so_until_it_is_gone() {
        let mut web = samples::instance("web");
        web.metadata.deleting = Some(samples::at(1));
        assert_eq!(changed(apply(&web, node(), &report(InstanceState::Running))).status.state, InstanceState::Deleting);
        let gone = InstanceReport { observed: ObservedInstance::Gone, ..report(InstanceState::Running) };
        assert_eq!(apply(&web, node(), &gone), Observed::Removed);
        web.metadata.deleting = None;
        let after = changed(apply(&web, node(), &gone));
        assert_eq!(after.status.state, InstanceState::Failed);
        assert!(after.status.message.unwrap().contains("delete it and create it again"));
    }

    #[test]
    fn an_end_is_remembered_through_the_next_start() {
        let mut web = samples::instance("web");
        web.status.exit = Some(Exit { code: 1, signal: None, out_of_memory: true, at: samples::at(3) });
        let after = changed(apply(&web, node(), &report(InstanceState::Starting)));
        assert_eq!(after.status.exit, web.status.exit);
        assert_eq!(
            changed(apply(&web, node(), &report(InstanceState::Pending))).status.state,
            InstanceState::Scheduled
        );
    }

    proptest! {
        #[test]
        fn a_node_that_comes_back_leaves_things_as_they_were(at in 0usize..7) {
            let states = [InstanceState::Scheduled, InstanceState::Preparing, InstanceState::Starting, InstanceState::Running,
                InstanceState::Paused, InstanceState::Stopped, InstanceState::Failed];
            let mut web = samples::instance("web");
            web.status.state = states[at];
            let lost = node_lost(&web).unwrap();
            prop_assert_eq!(lost.status.state, InstanceState::Lost);
            prop_assert_eq!(node_lost(&lost), None);
            prop_assert_eq!(node_back(&lost), Some(web.clone()));
            prop_assert_eq!(node_back(&web), None);
            let seen = changed(apply(&lost, node(), &report(InstanceState::Running)));
            prop_assert!(seen.status.state == InstanceState::Running && seen.status.before_lost.is_none());
        }
    }
}
