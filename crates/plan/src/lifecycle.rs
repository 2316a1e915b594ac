//! What may be asked of an instance in each state, and what a request changes.
//!
//! The same request twice is no error: what is so already succeeds, and what is on its way is followed.

use crate::Refused;
use std::fmt;
use yun_types::{Instance, InstanceKind, InstanceState as State, Power};

/// What people ask of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Run it.
    Start,
    /// End it; its disk stays.
    Stop,
    /// End it and run it again.
    Restart,
    /// Freeze it in memory.
    Pause,
    /// Let it go on.
    Resume,
    /// Save it to disk with its memory, and end it.
    Hibernate,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Start, Self::Stop, Self::Restart, Self::Pause, Self::Resume, Self::Hibernate];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Hibernate => "hibernate",
        })
    }
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is so already.
    Nothing(String),
    /// It was asked for before and is on its way.
    Follow,
    /// The spec changes.
    Change {
        /// What it should be doing.
        power: Power,
        /// Whether `restart_count` grows by one: the node ends it if it runs, and runs it again.
        again: bool,
    },
}

/// What `action` leads to for this instance as it is.
pub fn decide(instance: &Instance, action: Action) -> Result<Step, Refused> {
    let name = &instance.metadata.name;
    if instance.metadata.deleting.is_some() {
        return Err(Refused::new("Deleting", format!("cannot {action} instance {name}: it is being deleted")));
    }
    match instance.status.state {
        State::Lost => {
            let node = instance.status.node_name.as_ref().map_or("its node", |node| node.as_str());
            return Err(Refused::new(
                "NodeLost",
                format!("cannot {action} instance {name}: node {node} is silent; bring the node back, then try again"),
            ));
        }
        State::Pending if action != Action::Start => {
            let why = instance.status.message.as_deref().unwrap_or("it waits for a place");
            return Err(Refused::new(
                "NotPlaced",
                format!(
                    "cannot {action} instance {name}: it is not placed yet ({why}); see yun explain instance {name}, or delete it"
                ),
            ));
        }
        _ => {}
    }
    match action {
        Action::Start => start(instance),
        Action::Stop => Ok(stop(instance)),
        Action::Restart if instance.spec.power == Power::Hibernated => Err(Refused::new(
            "Hibernated",
            format!(
                "cannot restart instance {name}: it is hibernated; let it go on with yun start {name}, or drop its memory with yun stop {name}"
            ),
        )),
        Action::Restart => Ok(Step::Change { power: Power::Running, again: true }),
        Action::Pause => pause(instance),
        Action::Resume => resume(instance),
        Action::Hibernate => hibernate(instance),
    }
}

fn change(power: Power) -> Step {
    Step::Change { power, again: false }
}

fn ended(state: State) -> bool {
    matches!(state, State::Stopped | State::Failed)
}

fn start(instance: &Instance) -> Result<Step, Refused> {
    let name = &instance.metadata.name;
    Ok(match (instance.spec.power, instance.status.state) {
        (Power::Paused, _) => {
            return Err(Refused::new(
                "Paused",
                format!("cannot start instance {name}: it is paused, not stopped; let it go on with yun resume {name}"),
            ));
        }
        (Power::Running, State::Running) => Step::Nothing(format!("instance {name} runs already")),
        // It has ended by itself: the wish to have it running is old, so it takes a new one.
        (Power::Running, state) if ended(state) => Step::Change { power: Power::Running, again: true },
        (Power::Running, _) => Step::Follow,
        (Power::Stopped | Power::Hibernated, _) => change(Power::Running),
    })
}

fn stop(instance: &Instance) -> Step {
    match (instance.spec.power, instance.status.state) {
        (Power::Stopped, state) if ended(state) => {
            Step::Nothing(format!("instance {} is stopped already", instance.metadata.name))
        }
        (Power::Stopped, _) => Step::Follow,
        _ => change(Power::Stopped),
    }
}

fn pause(instance: &Instance) -> Result<Step, Refused> {
    let name = &instance.metadata.name;
    match (instance.spec.power, instance.status.state) {
        (Power::Paused, State::Paused) => Ok(Step::Nothing(format!("instance {name} is paused already"))),
        (Power::Paused, State::Running) => Ok(Step::Follow),
        (Power::Running, State::Running) => Ok(change(Power::Paused)),
        (_, state) => {
            let hint = if ended(state) {
                format!("; start it with yun start {name}")
            } else {
                "; wait until it runs".to_owned()
            };
            Err(Refused::new(
                "NotRunning",
                format!("cannot pause instance {name}: it is {state}, and only a running instance can be paused{hint}"),
            ))
        }
    }
}

fn resume(instance: &Instance) -> Result<Step, Refused> {
    let name = &instance.metadata.name;
    match (instance.spec.power, instance.status.state) {
        (Power::Running, State::Running) => Ok(Step::Nothing(format!("instance {name} runs already"))),
        (Power::Running, State::Paused) => Ok(Step::Follow),
        (Power::Paused, State::Paused | State::Running) => Ok(change(Power::Running)),
        (_, state) => {
            let hint = if ended(state) { format!("; start it with yun start {name}") } else { String::new() };
            Err(Refused::new("NotPaused", format!("cannot resume instance {name}: it is {state}, not paused{hint}")))
        }
    }
}

fn hibernate(instance: &Instance) -> Result<Step, Refused> {
    let name = &instance.metadata.name;
    if instance.spec.kind == Some(InstanceKind::Container) {
        let message = format!(
            "cannot hibernate instance {name}: it is a container, and its processes live in the host's memory; use yun pause {name} or yun stop {name}"
        );
        return Err(Refused::new("WrongKind", message));
    }
    match (instance.spec.power, instance.status.state) {
        (Power::Hibernated, State::Hibernated) => Ok(Step::Nothing(format!("instance {name} is hibernated already"))),
        (Power::Hibernated, state) if !ended(state) => Ok(Step::Follow),
        (Power::Running | Power::Paused, State::Running | State::Paused) => Ok(change(Power::Hibernated)),
        (_, state) => {
            let hint = if ended(state) {
                format!("; start it with yun start {name}")
            } else {
                "; wait until it runs".to_owned()
            };
            let message = format!(
                "cannot hibernate instance {name}: it is {state}, and only a running instance has a memory to keep{hint}"
            );
            Err(Refused::new("NotRunning", message))
        }
    }
}

/// Why nobody can talk to what runs in the instance now, if so: for sessions, and for connections to its ports.
pub fn reachable(instance: &Instance, operation: &str) -> Result<(), Refused> {
    let name = &instance.metadata.name;
    let hint = match instance.status.state {
        State::Running => return Ok(()),
        State::Paused => format!("let it go on with yun resume {name}"),
        State::Stopped | State::Failed | State::Hibernated => format!("start it with yun start {name}"),
        State::Lost => format!(
            "node {} is silent; bring the node back",
            instance.status.node_name.as_ref().map_or("its", |n| n.as_str())
        ),
        State::Pending => format!("see yun explain instance {name}"),
        State::Deleting => "it will be gone soon".to_owned(),
        _ => "wait until it runs".to_owned(),
    };
    Err(Refused::new(
        "NotRunning",
        format!("cannot {operation} instance {name}: it is {}; {hint}", instance.status.state),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use proptest::prelude::*;

    const STATES: [State; 13] = [
        State::Pending,
        State::Scheduled,
        State::Preparing,
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Stopped,
        State::Failed,
        State::Deleting,
        State::Hibernated,
        State::Migrating,
        State::Lost,
    ];

    fn web(power: Power, state: State) -> Instance {
        let mut web = samples::instance("web");
        web.spec.power = power;
        web.status.state = state;
        web
    }

    fn refusal(power: Power, state: State, action: Action) -> String {
        decide(&web(power, state), action).unwrap_err().message
    }

    #[test]
    fn only_machines_that_run_are_hibernated_and_only_a_start_wakes_them() {
        let vm = |power, state| {
            let mut vm = web(power, state);
            vm.spec.kind = Some(InstanceKind::Vm);
            vm
        };
        let text = decide(&web(Power::Running, State::Running), Action::Hibernate).unwrap_err().message;
        assert!(text.contains("is a container") && text.contains("yun pause web"), "{text}");
        let asleep = vm(Power::Hibernated, State::Hibernated);
        assert_eq!(
            decide(&vm(Power::Running, State::Running), Action::Hibernate),
            Ok(Step::Change { power: Power::Hibernated, again: false })
        );
        assert!(matches!(decide(&asleep, Action::Hibernate), Ok(Step::Nothing(_))));
        assert_eq!(decide(&asleep, Action::Start), Ok(Step::Change { power: Power::Running, again: false }));
        assert_eq!(decide(&asleep, Action::Stop), Ok(Step::Change { power: Power::Stopped, again: false }));
        let text = decide(&asleep, Action::Restart).unwrap_err().message;
        assert!(text.contains("yun start web") && text.contains("yun stop web"), "{text}");
        let text = decide(&vm(Power::Stopped, State::Stopped), Action::Hibernate).unwrap_err().message;
        assert!(text.contains("it is stopped") && text.contains("yun start web"), "{text}");
        assert!(reachable(&asleep, "log in to").unwrap_err().message.contains("yun start web"));
    }

    #[test]
    fn asking_for_what_is_so_already_is_fine() {
        for (power, state, action) in [
            (Power::Running, State::Running, Action::Start),
            (Power::Running, State::Running, Action::Resume),
            (Power::Paused, State::Paused, Action::Pause),
            (Power::Stopped, State::Stopped, Action::Stop),
            (Power::Stopped, State::Failed, Action::Stop),
        ] {
            assert!(
                matches!(decide(&web(power, state), action), Ok(Step::Nothing(text)) if text.contains("web") && text.contains("already")),
                "{state} {action}"
            );
        }
    }

    #[test]
    fn what_is_on_its_way_is_followed() {
        for (power, state, action) in [
            (Power::Running, State::Starting, Action::Start),
            (Power::Running, State::Pending, Action::Start),
            (Power::Stopped, State::Stopping, Action::Stop),
            (Power::Paused, State::Running, Action::Pause),
            (Power::Running, State::Paused, Action::Resume),
        ] {
            assert_eq!(decide(&web(power, state), action), Ok(Step::Follow), "{state} {action}");
        }
    }

    #[test]
    fn changes_say_what_the_spec_becomes() {
        let to = |power, again| Ok(Step::Change { power, again });
        assert_eq!(decide(&web(Power::Stopped, State::Stopped), Action::Start), to(Power::Running, false));
        assert_eq!(
            decide(&web(Power::Running, State::Stopped), Action::Start),
            to(Power::Running, true),
            "it ended by itself"
        );
        assert_eq!(decide(&web(Power::Running, State::Failed), Action::Start), to(Power::Running, true));
        assert_eq!(decide(&web(Power::Running, State::Running), Action::Stop), to(Power::Stopped, false));
        assert_eq!(decide(&web(Power::Paused, State::Paused), Action::Stop), to(Power::Stopped, false));
        assert_eq!(decide(&web(Power::Running, State::Running), Action::Restart), to(Power::Running, true));
        assert_eq!(decide(&web(Power::Running, State::Running), Action::Pause), to(Power::Paused, false));
        assert_eq!(decide(&web(Power::Paused, State::Paused), Action::Resume), to(Power::Running, false));
    }

    #[test]
    fn refusals_name_the_state_and_the_way_out() {
        let text = refusal(Power::Stopped, State::Stopped, Action::Pause);
        assert_eq!(
            text,
            "cannot pause instance web: it is stopped, and only a running instance can be paused; start it with yun start web"
        );
        assert!(refusal(Power::Paused, State::Paused, Action::Start).contains("yun resume web"));
        assert!(
            refusal(Power::Stopped, State::Stopped, Action::Resume)
                .contains("it is stopped, not paused; start it with yun start web")
        );
        assert!(refusal(Power::Running, State::Starting, Action::Pause).contains("wait until it runs"));
        assert!(refusal(Power::Running, State::Lost, Action::Stop).contains("node a is silent"));
        assert!(refusal(Power::Running, State::Pending, Action::Stop).contains("yun explain instance web"));
        let mut leaving = web(Power::Running, State::Running);
        leaving.metadata.deleting = Some(samples::at(1));
        assert!(decide(&leaving, Action::Start).unwrap_err().message.contains("is being deleted"));
    }

    #[test]
    fn only_what_runs_can_be_reached() {
        assert!(reachable(&web(Power::Running, State::Running), "open a session in").is_ok());
        for state in STATES.into_iter().filter(|s| *s != State::Running) {
            let error = reachable(&web(Power::Running, state), "open a session in").unwrap_err().message;
            assert!(error.contains("web") && error.contains(&state.to_string()) && error.contains(';'), "{error}");
        }
    }

    proptest! {
        /// Carrying a change out and asking again leads to no second change, whatever the kind.
        #[test]
        fn a_second_request_changes_nothing(power in 0usize..4, state in 0usize..13, action in 0usize..6, vm: bool) {
            let power = [Power::Running, Power::Paused, Power::Stopped, Power::Hibernated][power];
            let mut instance = web(power, STATES[state]);
            instance.spec.kind = Some(if vm { InstanceKind::Vm } else { InstanceKind::Container });
            let action = Action::ALL[action];
            if let Ok(Step::Change { power, .. }) = decide(&instance, action) && action != Action::Restart {
                instance.spec.power = power;
                instance.status.state = match power {
                    Power::Running => State::Running,
                    Power::Paused => State::Paused,
                    Power::Stopped => State::Stopped,
                    Power::Hibernated => State::Hibernated,
                };
                prop_assert!(matches!(decide(&instance, action), Ok(Step::Nothing(_))));
            }
        }

        #[test]
        fn every_refusal_names_the_instance_and_the_action(power in 0usize..4, state in 0usize..13, action in 0usize..6) {
            let power = [Power::Running, Power::Paused, Power::Stopped, Power::Hibernated][power];
            let action = Action::ALL[action];
            if let Err(refused) = decide(&web(power, STATES[state]), action) {
                prop_assert!(refused.message.starts_with(&format!("cannot {action} instance web: ")), "{}", refused.message);
            }
        }
    }
}
