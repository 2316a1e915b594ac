//! Start, stop, restart, pause, unpause, kill, remove, resize.

use super::{
    super::{
        body::{Body, empty},
        fault::{Answer, Fault},
        names,
        server::{Ask, Door},
    },
    find,
    state::Status,
};
use http::{Response, StatusCode};
use std::sync::Arc;
use yun_api::cloud::InstanceAction as Action;
use yun_types::{Instance, InstanceState, OperationState};

/// Carries out an action of the cloud's, with Docker's answers.
pub(crate) async fn act(ask: Ask, text: &str, action: Action) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let timeout = match ask.query.number("t")? {
        Some(seconds) if seconds < 0 => Some(3600),
        seconds => seconds.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
    };
    let (id, now) = (names::id(instance.metadata.id), Status::of(&instance));
    let is = |status| now == status;
    match action {
        Action::Start if is(Status::Running) => return Ok(empty(StatusCode::NOT_MODIFIED)),
        Action::Start if is(Status::Paused) => {
            return Err(Fault::conflict("cannot start a paused container, try unpause instead"));
        }
        Action::Stop if !now.live() => return Ok(empty(StatusCode::NOT_MODIFIED)),
        Action::Pause if is(Status::Paused) => {
            return Err(Fault::conflict(format!("Container {id} is already paused")));
        }
        Action::Resume if !is(Status::Paused) => return Err(Fault::conflict(format!("Container {id} is not paused"))),
        Action::Pause if !now.live() => return Err(Fault::conflict(format!("Container {id} is not running"))),
        _ => {}
    }
    let timeout = timeout.filter(|_| matches!(action, Action::Stop | Action::Restart));
    let operation = ask.cloud.act(instance.metadata.id, action, timeout).await?;
    match operation.status.state {
        OperationState::Succeeded => {}
        // A program that ran and ended with a code has been started; Docker counts only what could not be run.
        OperationState::Failed if starts(action) && ran(&ask, &instance).await => {}
        // Removed as soon as it had ended.
        OperationState::Cancelled if starts(action) && instance.metadata.labels.contains_key(names::AUTO_REMOVE) => {}
        _ => {
            let fault = super::super::cloud::failure(&operation);
            return Err(Fault::bad(format!("failed to {action} container {id}: {}", words(&fault.message))));
        }
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

fn starts(action: Action) -> bool {
    matches!(action, Action::Start | Action::Restart)
}

async fn ran(ask: &Ask, before: &Instance) -> bool {
    ask.cloud.container(before.metadata.id).await.is_ok_and(|now| {
        now.status.state != InstanceState::Failed || now.status.exit.is_some_and(|e| Some(e) != before.status.exit)
    })
}

/// Clients tell by Docker's words which exit code a failed start has: 127 for a program that is not there.
fn words(message: &str) -> String {
    let lower = message.to_ascii_lowercase();
    let known = ["executable file not found", "no such file or directory", "permission denied"];
    let absent = ["not found", "has no program"].iter().any(|word| lower.contains(word));
    if absent && !known.iter().any(|known| lower.contains(known)) {
        return format!("{message} (executable file not found)");
    }
    message.to_owned()
}

/// Ends a container by a signal: at once for KILL, politely for those that ask for an end.
pub(crate) async fn kill(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    if !Status::of(&instance).live() {
        let id = names::id(instance.metadata.id);
        return Err(Fault::conflict(format!("Cannot kill container: {text}: Container {id} is not running")));
    }
    let signal = ask.query.get("signal").unwrap_or("KILL").to_ascii_uppercase();
    let signal = signal.strip_prefix("SIG").unwrap_or(&signal).to_owned();
    let polite = instance.spec.container.stop_signal.as_deref().unwrap_or("SIGTERM");
    let polite = polite.strip_prefix("SIG").unwrap_or(polite);
    match signal.as_str() {
        "KILL" | "9" => {
            ask.cloud.act(instance.metadata.id, Action::Stop, Some(0)).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        other if other == polite || (other == "15" && polite == "TERM") => {
            let (cloud, id) = (ask.cloud.clone(), instance.metadata.id);
            // The signal does not wait for the end.
            ask.door.spawn(async move {
                let _ = cloud.act(id, Action::Stop, Some(3600)).await;
            });
            Ok(empty(StatusCode::NO_CONTENT))
        }
        other => {
            // The container's own kill reaches its first process.
            super::exec::run_quietly(&ask, &instance, &["kill", &format!("-{other}"), "1"]).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
    }
}

/// Removes a container.
pub(crate) async fn remove(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let (status, id) = (Status::of(&instance), names::id(instance.metadata.id));
    if ask.query.on("link") {
        return Err(Fault::bad("links are not supported by yun: leave --link out"));
    }
    if status.live() && !ask.query.on("force") {
        return Err(Fault::conflict(format!(
            "You cannot remove a {} container {id}. Stop the container before attempting removal or force remove",
            status.word()
        )));
    }
    if status.live() {
        // Who forces does not wait for a polite end.
        ask.cloud.act(instance.metadata.id, Action::Stop, Some(0)).await?;
    }
    match ask.cloud.delete(instance.metadata.id).await {
        Err(fault) if fault.status != StatusCode::NOT_FOUND => Err(fault),
        _ => Ok(empty(StatusCode::NO_CONTENT)),
    }
}

/// Says that the terminal of a container has another size.
pub(crate) async fn resize(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let size = super::exec::window(&ask.query)?;
    ask.door.readers.resize(instance.metadata.id, size).await;
    Ok(empty(StatusCode::OK))
}

/// Removes containers with `--rm` when they have ended and nobody reads them any more. The label makes it hold also over a restart.
pub(crate) async fn remove_ended(door: &Arc<Door>) {
    let mut changes = door.follower.subscribe();
    for instance in door.follower.seen() {
        remove_if_ended(door, &instance);
    }
    loop {
        match changes.recv().await {
            Ok(change) => {
                if let Some(instance) = &change.after {
                    remove_if_ended(door, instance);
                }
            }
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                for instance in door.follower.seen() {
                    remove_if_ended(door, &instance);
                }
            }
            Err(_) => return,
        }
    }
}

fn remove_if_ended(door: &Arc<Door>, instance: &Arc<Instance>) {
    let wanted = instance.metadata.labels.contains_key(names::AUTO_REMOVE) && instance.metadata.deleting.is_none();
    if !wanted || Status::of(instance) != Status::Exited {
        return;
    }
    let (door, id) = (Arc::clone(door), instance.metadata.id);
    let cloud = door.cloud(true);
    Arc::clone(&door).spawn(async move {
        door.readers.gone(id).await;
        // It may have been started again meanwhile.
        if cloud.container(id).await.is_ok_and(|now| Status::of(&now) == Status::Exited)
            && let Err(fault) = cloud.delete(id).await
            && fault.status != StatusCode::NOT_FOUND
        {
            tracing::warn!(container = names::id(id), %fault, "a container with --rm could not be removed");
        }
    });
}
