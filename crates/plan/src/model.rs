//! The decisions about one instance played together: people ask, a node obeys or fails, reports come late, twice or not at all, the node
//! falls silent and comes back. Whatever happens, once all is quiet every operation has ended and the instance is as it is wanted.

use crate::{
    lifecycle::{Action, Step, decide},
    observe::{self, Observed},
    operation::settle,
    samples,
};
use proptest::prelude::*;
use yun_types::{
    Generation, Instance, InstanceId, InstanceReport, InstanceState as State, NodeId, ObservedInstance, ObservedState,
    Operation, OperationKind, OperationState, Power,
};

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Asks(Action),
    Deletes,
    /// The node looks at its orders and does what they say.
    NodeWorks,
    /// What runs ends by itself.
    EndsAlone {
        failed: bool,
    },
    /// The newest report arrives; or an older one does, again.
    Report {
        old: bool,
    },
    NodeSilent,
    NodeBack,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0usize..5).prop_map(|at| Happening::Asks(Action::ALL[at])),
        1 => Just(Happening::Deletes),
        4 => Just(Happening::NodeWorks),
        1 => any::<bool>().prop_map(|failed| Happening::EndsAlone { failed }),
        4 => any::<bool>().prop_map(|old| Happening::Report { old }),
        1 => Just(Happening::NodeSilent),
        1 => Just(Happening::NodeBack),
    ]
}

/// The node's own idea of the instance.
#[derive(Debug, Clone)]
struct Node {
    alive: bool,
    frozen: bool,
    failed: bool,
    /// It was told to run, and has not ended by itself since.
    wanted: bool,
    generation: Generation,
    restart_count: u64,
    gone: bool,
}

struct World {
    /// `None` once nothing is left.
    stored: Option<Instance>,
    node: Node,
    sent: Vec<InstanceReport>,
    operations: Vec<Operation>,
    ended: Vec<OperationState>,
}

fn node_id() -> NodeId {
    NodeId(samples::id("a"))
}

impl World {
    fn new() -> Self {
        let mut web = samples::instance("web");
        web.status.state = State::Scheduled;
        web.status.observed_generation = Generation(0);
        let launch = samples::operation(OperationKind::InstanceLaunch, &web);
        let node = Node {
            alive: false,
            frozen: false,
            failed: false,
            wanted: false,
            generation: Generation(0),
            restart_count: 0,
            gone: false,
        };
        Self { stored: Some(web), node, sent: vec![], operations: vec![launch], ended: vec![] }
    }

    fn store(&mut self, after: Option<Instance>) {
        let ended = &mut self.ended;
        self.operations.retain(|operation| match settle(operation, after.as_ref(), samples::at(1)) {
            Some(status) => {
                assert!(status.state.ended());
                ended.push(status.state);
                false
            }
            None => true,
        });
        self.stored = after;
    }

    fn asks(&mut self, action: Action) {
        let Some(web) = self.stored.clone() else { return };
        let kind = match action {
            Action::Start => OperationKind::InstanceStart,
            Action::Stop => OperationKind::InstanceStop,
            Action::Restart => OperationKind::InstanceRestart,
            Action::Pause => OperationKind::InstancePause,
            Action::Resume => OperationKind::InstanceResume,
            Action::Hibernate => OperationKind::InstanceHibernate,
        };
        match decide(&web, action) {
            Err(_) | Ok(Step::Nothing(_)) => {}
            Ok(Step::Follow) => self.operations.push(samples::operation(kind, &web)),
            Ok(Step::Change { power, again }) => {
                let mut after = web.clone();
                after.spec.power = power;
                after.spec.restart_count += u64::from(again);
                after.metadata.generation = after.metadata.generation.next();
                self.operations.push(samples::operation(kind, &web));
                self.store(Some(after));
            }
        }
    }

    fn deletes(&mut self) {
        let Some(mut web) = self.stored.clone() else { return };
        self.operations.push(samples::operation(OperationKind::InstanceDelete, &web));
        web.metadata.deleting.get_or_insert(samples::at(1));
        web.metadata.generation = web.metadata.generation.next();
        web.status.state = State::Deleting;
        self.store(Some(web));
    }

    fn node_works(&mut self) {
        let Some(web) = &self.stored else { return };
        let node = &mut self.node;
        let anew = web.spec.restart_count > node.restart_count || !node.wanted && node.generation == Generation(0);
        if web.metadata.deleting.is_some() {
            (node.gone, node.alive) = (true, false);
        } else if web.spec.power == Power::Stopped {
            (node.alive, node.wanted, node.failed) = (false, false, false);
        } else {
            if anew || !node.wanted {
                (node.alive, node.wanted, node.failed) = (true, true, false);
            }
            node.frozen = node.alive && web.spec.power == Power::Paused;
        }
        node.generation = web.metadata.generation;
        node.restart_count = node.restart_count.max(web.spec.restart_count);
        self.sends();
    }

    fn sends(&mut self) {
        let node = &self.node;
        let state = match (node.alive, node.frozen) {
            (true, true) => State::Paused,
            (true, false) => State::Running,
            _ if node.failed => State::Failed,
            _ => State::Stopped,
        };
        let seen = ObservedState { state, restart_count: node.restart_count, ..ObservedState::default() };
        let observed = if node.gone { ObservedInstance::Gone } else { ObservedInstance::State(seen) };
        let id = InstanceId(samples::id("web"));
        self.sent.push(InstanceReport { id, fence: 1, generation: node.generation, observed });
    }

    fn arrives(&mut self, old: bool) {
        let at = if old { self.sent.len() / 2 } else { self.sent.len().saturating_sub(1) };
        let (Some(web), Some(report)) = (&self.stored, self.sent.get(at)) else { return };
        match observe::apply(web, node_id(), report) {
            Observed::Nothing => {}
            Observed::Changed(after) => self.store(Some(*after)),
            Observed::Removed => self.store(None),
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Asks(action) => self.asks(action),
            Happening::Deletes => self.deletes(),
            Happening::NodeWorks => self.node_works(),
            Happening::EndsAlone { failed } if self.node.alive && !self.node.frozen => {
                (self.node.alive, self.node.failed) = (false, failed);
                self.sends();
            }
            Happening::EndsAlone { .. } => {}
            Happening::Report { old } => self.arrives(old),
            Happening::NodeSilent => self.follow(observe::node_lost),
            Happening::NodeBack => self.follow(observe::node_back),
        }
    }

    fn follow(&mut self, change: fn(&Instance) -> Option<Instance>) {
        if let Some(after) = self.stored.as_ref().and_then(change) {
            self.store(Some(after));
        }
    }

    /// The node answers again, does what it is told, and everything it says arrives.
    fn quiet(&mut self) {
        self.happens(Happening::NodeBack);
        for _ in 0..3 {
            self.node_works();
            self.arrives(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn when_all_is_quiet_every_operation_has_ended(happenings in proptest::collection::vec(happening(), 0..40)) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
        }
        world.quiet();
        prop_assert!(world.operations.is_empty(), "{:?} of {:?}", world.operations, world.stored);
        let Some(web) = world.stored else { return Ok(()) };
        prop_assert_eq!(web.metadata.deleting, None, "what was to go is gone");
        prop_assert_eq!(web.status.observed_generation, web.metadata.generation);
        match web.spec.power {
            Power::Stopped => prop_assert_eq!(web.status.state, State::Stopped),
            Power::Hibernated => prop_assert!(false, "a container was hibernated"),
            // It may have ended by itself.
            Power::Running => prop_assert!(matches!(web.status.state, State::Running | State::Stopped | State::Failed)),
            Power::Paused => prop_assert!(matches!(web.status.state, State::Paused | State::Stopped | State::Failed)),
        }
    }

    #[test]
    fn generations_and_counts_only_grow(happenings in proptest::collection::vec(happening(), 0..40)) {
        let mut world = World::new();
        let mut before = (Generation(0), Generation(0), 0);
        for happening in happenings {
            world.happens(happening);
            let Some(web) = &world.stored else { break };
            let now = (web.metadata.generation, web.status.observed_generation, web.status.restart_count);
            prop_assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2);
            prop_assert!(web.status.observed_generation <= web.metadata.generation);
            before = now;
        }
    }
}
