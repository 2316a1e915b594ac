//! What Docker says of an instance's state.

use super::super::words::{moment, span};
use serde_json::{Value, json};
use yun_types::{Instance, InstanceState as State, Timestamp};

/// Docker's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    /// The state of an instance.
    pub(crate) fn of(instance: &Instance) -> Self {
        let status = &instance.status;
        if instance.metadata.deleting.is_some() {
            return Self::Removing;
        }
        match status.state {
            State::Running | State::Stopping | State::Migrating => Self::Running,
            State::Paused => Self::Paused,
            State::Deleting => Self::Removing,
            State::Lost => Self::Dead,
            _ if status.next_restart.is_some() => Self::Restarting,
            State::Failed => Self::Exited,
            State::Stopped | State::Hibernated if status.started.is_some() || status.exit.is_some() => Self::Exited,
            // On its way to its first start, or to the next one.
            _ => Self::Created,
        }
    }

    /// Whether a process is there.
    pub(crate) fn live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// The code that the last process ended with; 127 for one that could not be started.
pub(crate) fn exit_code(instance: &Instance) -> i32 {
    match instance.status.exit {
        Some(exit) => exit.code,
        None if instance.status.state == State::Failed => 127,
        None => 0,
    }
}

/// The sentence in `docker ps`.
pub(super) fn sentence(instance: &Instance, now: Timestamp) -> String {
    let status = &instance.status;
    let ago = |at: Option<Timestamp>| at.map_or_else(String::new, |at| format!(" {} ago", span(now - at)));
    let up = || status.started.map_or_else(|| "Up".to_owned(), |at| format!("Up {}", span(now - at)));
    let ended = status.exit.map(|exit| exit.at);
    match Status::of(instance) {
        Status::Created => "Created".into(),
        Status::Running => format!(
            "{}{}",
            up(),
            health(instance).map_or_else(String::new, |health| match health.as_str() {
                "starting" => " (health: starting)".to_owned(),
                word => format!(" ({word})"),
            })
        ),
        Status::Paused => format!("{} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}){}", exit_code(instance), ago(ended)),
        Status::Removing => "Removal In Progress".into(),
        Status::Exited => format!("Exited ({}){}", exit_code(instance), ago(ended)),
        Status::Dead => "Dead".into(),
    }
}

/// The word for its health, if it is checked.
pub(super) fn health(instance: &Instance) -> Option<String> {
    instance.spec.container.health.as_ref()?;
    Some(instance.status.health.as_ref().map_or_else(|| "starting".to_owned(), |health| health.state.to_string()))
}

/// The state in `docker inspect`.
pub(super) fn detailed(instance: &Instance) -> Value {
    let (status, now) = (&instance.status, Status::of(instance));
    // What a program did is no error of the container's.
    let error = status.message.clone().filter(|_| status.state == State::Failed && status.exit.is_none());
    let mut value = json!({
        "Status": now.word(),
        "Running": now.live(),
        "Paused": now == Status::Paused,
        "Restarting": now == Status::Restarting,
        "OOMKilled": status.exit.is_some_and(|exit| exit.out_of_memory),
        "Dead": now == Status::Dead,
        "Pid": 0,
        "ExitCode": if now.live() && now != Status::Restarting { 0 } else { exit_code(instance) },
        "Error": error.unwrap_or_default(),
        "StartedAt": moment(status.started),
        "FinishedAt": moment(status.exit.map(|exit| exit.at)),
    });
    if let Some(health) = health(instance) {
        let status = instance.status.health.clone().unwrap_or_default();
        let log = status.checked.map(|at| {
            let code = i32::from(status.failures > 0);
            json!({ "Start": moment(Some(at)), "End": moment(Some(at)), "ExitCode": code, "Output": status.output })
        });
        let log: Vec<Value> = log.into_iter().collect();
        value["Health"] = json!({ "Status": health, "FailingStreak": status.failures, "Log": log });
    }
    value
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta};
    use yun_types::Exit;

    /// A container in a state.
    pub(crate) fn sample(name: &str, state: State) -> Instance {
        let value = json!({
            "metadata": { "id": uuid::Uuid::from_u128(7), "name": name, "project": "default", "created": DateTime::UNIX_EPOCH, "generation": 1 },
            "spec": { "kind": "container", "image": "box" },
            "status": { "observed_generation": 1, "state": state },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn states_read_like_dockers() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(5);
        let started = Some(DateTime::UNIX_EPOCH + TimeDelta::minutes(1));
        let exit =
            Exit { code: 3, signal: None, out_of_memory: false, at: DateTime::UNIX_EPOCH + TimeDelta::minutes(3) };
        let mut instance = sample("web", State::Stopped);
        assert_eq!(sentence(&instance, now), "Created");
        instance.status.started = started;
        instance.status.state = State::Running;
        assert_eq!(sentence(&instance, now), "Up 4 minutes");
        instance.status.state = State::Paused;
        assert_eq!(sentence(&instance, now), "Up 4 minutes (Paused)");
        instance.status.state = State::Failed;
        instance.status.exit = Some(exit);
        assert_eq!(sentence(&instance, now), "Exited (3) 2 minutes ago");
        assert_eq!(detailed(&instance)["ExitCode"], 3);
        instance.status.next_restart = Some(now);
        assert_eq!(sentence(&instance, now), "Restarting (3) 2 minutes ago");
        instance.metadata.deleting = Some(now);
        assert_eq!(Status::of(&instance), Status::Removing);
    }
}
