//! When an operation on an instance has ended, and how far it is until then.
//!
//! Decides from the instance alone, so that the answer is the same after a restart. Operations on images end with the work itself and are
//! none of this module's business.
//!
//! Words: an instance has *caught up* if its node has carried out everything that was asked for until now. An operation was *taken over* if
//! a later request asks for something else.

use yun_types::{
    Failure, Instance, InstanceState as State, Operation, OperationKind as Kind, OperationState, OperationStatus,
    Power, Progress, Timestamp,
};

/// An instance that failed this often in a row is not waited for any more, even if its policy goes on.
pub const PATIENCE: u32 = 3;

/// How the operation has ended, or `None` while it runs. `instance` is its target; `None` if that is gone.
pub fn settle(operation: &Operation, instance: Option<&Instance>, now: Timestamp) -> Option<OperationStatus> {
    if operation.status.state.ended() {
        return None;
    }
    if by_work(operation.spec.kind) {
        return None;
    }
    let end = match instance {
        None => gone(operation),
        Some(instance) if instance.metadata.deleting.is_some() => {
            // Who asked for a cancellation waits until nothing is left.
            if operation.spec.kind == Kind::InstanceDelete || operation.spec.cancel {
                return None;
            }
            Some(End::Cancelled(format!("{} is being deleted", operation.spec.target)))
        }
        Some(instance) => by_kind(operation, instance),
    }?;
    Some(end.status(now))
}

enum End {
    Succeeded(String),
    Failed(Failure),
    Cancelled(String),
}

impl End {
    fn status(self, now: Timestamp) -> OperationStatus {
        let (state, percent, message, error) = match self {
            Self::Succeeded(message) => (OperationState::Succeeded, Some(100), message, None),
            Self::Failed(failure) => (OperationState::Failed, None, failure.message.clone(), Some(failure)),
            Self::Cancelled(message) => (OperationState::Cancelled, None, message, None),
        };
        OperationStatus { state, progress: Progress { percent, message }, error, ended: Some(now), cancellable: false }
    }
}

fn gone(operation: &Operation) -> Option<End> {
    let target = &operation.spec.target;
    Some(match operation.spec.kind {
        Kind::InstanceDelete => End::Succeeded(format!("{target} is deleted")),
        _ if operation.spec.cancel => End::Cancelled(format!("taken back; {target} is deleted")),
        _ => End::Cancelled(format!("{target} was deleted")),
    })
}

fn by_kind(operation: &Operation, instance: &Instance) -> Option<End> {
    let (spec, status) = (&instance.spec, &instance.status);
    let caught_up = status.observed_generation >= instance.metadata.generation;
    let name = format!("instance {}", instance.metadata.name);
    let taken_over = || Some(End::Cancelled(format!("a later request asked for something else of {name}")));
    match operation.spec.kind {
        Kind::InstanceLaunch => match (status.state, spec.power) {
            (State::Running | State::Paused, _) => Some(End::Succeeded(running_text(instance))),
            // Short work may have ended before anybody looked.
            (State::Stopped, _) => Some(End::Succeeded(ended_text(instance))),
            _ => failure(instance, &name),
        },
        Kind::InstanceStart | Kind::InstanceResume if spec.power != Power::Running => taken_over(),
        Kind::InstanceStart | Kind::InstanceResume if caught_up => match status.state {
            State::Running => Some(End::Succeeded(running_text(instance))),
            State::Stopped => Some(End::Succeeded(ended_text(instance))),
            _ => failure(instance, &name),
        },
        Kind::InstanceRestart if spec.power != Power::Running => taken_over(),
        Kind::InstanceRestart if caught_up && status.restart_count >= spec.restart_count => match status.state {
            State::Running => Some(End::Succeeded(running_text(instance))),
            State::Stopped => Some(End::Succeeded(ended_text(instance))),
            _ => failure(instance, &name),
        },
        Kind::InstanceStop if spec.power != Power::Stopped => taken_over(),
        Kind::InstanceStop if caught_up => {
            matches!(status.state, State::Stopped | State::Failed).then(|| End::Succeeded(format!("{name} is stopped")))
        }
        Kind::InstancePause if spec.power != Power::Paused => taken_over(),
        Kind::InstancePause if caught_up => match status.state {
            State::Paused => Some(End::Succeeded(format!("{name} is paused"))),
            State::Stopped => Some(End::Failed(Failure {
                code: "Ended".into(),
                message: format!(
                    "{name} ended before it could be paused; start it with yun start {}",
                    instance.metadata.name
                ),
            })),
            _ => failure(instance, &name),
        },
        Kind::InstanceHibernate if spec.power != Power::Hibernated => taken_over(),
        Kind::InstanceHibernate if caught_up => match status.state {
            State::Hibernated => Some(End::Succeeded(format!("{name} is hibernated"))),
            State::Stopped => Some(End::Failed(Failure {
                code: "Ended".into(),
                message: format!(
                    "{name} ended before its memory could be kept; start it with yun start {}",
                    instance.metadata.name
                ),
            })),
            _ => failure(instance, &name),
        },
        // It goes on, and the node tries again.
        Kind::InstanceHibernate => status
            .message
            .clone()
            .filter(|_| status.state == State::Running && troubled(status.reason.as_deref()))
            .map(|message| End::Failed(Failure { code: status.reason.clone().unwrap_or_default(), message })),
        Kind::InstanceRestore if caught_up && status.restores >= status.origin.restores() => match status.state {
            State::Running | State::Paused => Some(End::Succeeded(running_text(instance))),
            State::Stopped | State::Hibernated => {
                Some(End::Succeeded(format!("{name} is as it was, and {}", status.state)))
            }
            _ => failure(instance, &name),
        },
        Kind::InstanceUpdate if caught_up || status.node.is_none() => {
            // Who asked for the change may have left a word about when it counts.
            let said = &operation.status.progress.message;
            let later = status.message.clone().filter(|_| status.reason.as_deref() == Some("RestartNeeded"));
            Some(End::Succeeded(match later {
                Some(later) if said.is_empty() => format!("{name} is changed; {later}"),
                _ if said.is_empty() => format!("{name} is changed"),
                _ => said.clone(),
            }))
        }
        _ => None,
    }
}

/// Whether a remark about an instance that runs is that of a step that failed.
fn troubled(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| !matches!(reason, "RestartNeeded" | "Booting"))
}

/// The failure of an instance that will not get better by itself.
fn failure(instance: &Instance, name: &str) -> Option<End> {
    let status = &instance.status;
    let tried_again = status.next_restart.is_some() && status.restarts < PATIENCE;
    if status.state != State::Failed || tried_again {
        return None;
    }
    let why = status.message.clone().unwrap_or_else(|| match &status.exit {
        Some(exit) => format!("its process ended with code {}; see yun logs {}", exit.code, instance.metadata.name),
        None => format!("see yun logs {}", instance.metadata.name),
    });
    let code = status.reason.clone().unwrap_or_else(|| "Failed".into());
    Some(End::Failed(Failure { code, message: format!("{name} failed: {why}") }))
}

fn running_text(instance: &Instance) -> String {
    let place = instance.status.node_name.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    let address = instance.status.address.map(|address| format!(" at {address}")).unwrap_or_default();
    format!("instance {} runs{place}{address}", instance.metadata.name)
}

fn ended_text(instance: &Instance) -> String {
    match &instance.status.exit {
        Some(exit) => format!("instance {} ran and ended with code {}", instance.metadata.name, exit.code),
        None => format!("instance {} is ready and stopped", instance.metadata.name),
    }
}

/// How far a running operation is.
pub fn progress(operation: &Operation, instance: Option<&Instance>) -> Progress {
    let Some(instance) = instance else { return operation.status.progress.clone() };
    let status = &instance.status;
    let place = status.node_name.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
    let (percent, what) = match (operation.spec.kind, status.state) {
        (_, State::Lost) => (None, format!("waits{place}, which is silent")),
        (Kind::InstanceDelete, _) => (None, format!("removing what it owns{place}")),
        (_, State::Pending) => (Some(0), "waiting for a place".to_owned()),
        (_, State::Scheduled) => (Some(10), format!("placed{place}")),
        (_, State::Preparing) => (Some(30), format!("preparing{place}")),
        (_, State::Starting) => (Some(60), format!("starting{place}")),
        (_, State::Stopping) => (Some(50), "stopping".to_owned()),
        (_, State::Failed) => (Some(60), format!("failed, tried {} times", status.restarts + 1)),
        (Kind::InstanceStop | Kind::InstanceRestart, _) => (Some(10), "asking it to end".to_owned()),
        (_, state) => (Some(80), format!("{state}{place}")),
    };
    let message = match &status.message {
        // What it waits for says that it waits.
        Some(detail) if status.state == State::Pending && !detail.is_empty() => detail.clone(),
        Some(detail) if !detail.is_empty() => format!("{what}: {detail}"),
        _ => what,
    };
    Progress { percent, message }
}

/// Whether such an operation is ended by the work that it stands for, and not by what is seen of an instance.
pub const fn by_work(kind: Kind) -> bool {
    matches!(kind, Kind::ImageImport | Kind::ImageBuild | Kind::ImagePull | Kind::SnapshotCreate | Kind::SnapshotDelete)
}

/// Whether such an operation can be taken back while it runs.
pub const fn cancellable(kind: Kind) -> bool {
    matches!(kind, Kind::InstanceLaunch | Kind::ImageImport | Kind::ImageBuild | Kind::ImagePull | Kind::SnapshotCreate)
}

#[cfg(test)]
mod tests;
