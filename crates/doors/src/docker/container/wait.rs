//! `docker wait`, and how `docker run` learns the exit code.

use super::{
    super::{
        body::{Body, line, streamed},
        fault::{Answer, Fault},
        names,
        server::Ask,
    },
    find,
    state::{Status, exit_code},
};
use futures::stream;
use http::Response;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use yun_types::Instance;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

/// Answers when it is so. The head of the answer comes at once: clients wait for it before they start the container.
pub(crate) async fn wait(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let condition = match ask.query.get("condition") {
        None | Some("not-running") => Condition::NotRunning,
        Some("next-exit") => Condition::NextExit,
        Some("removed") => Condition::Removed,
        Some(other) => {
            return Err(Fault::bad(format!("invalid condition: {other:?}: use not-running, next-exit or removed")));
        }
    };
    let mut changes = ask.door.follower.subscribe();
    let before = find(&ask, text).await?;
    let id = before.metadata.id;
    let shown = names::id(id);
    let waited = async move {
        let mut last = before.clone();
        if reached(condition, &before, &before) {
            return exit_code(&before);
        }
        loop {
            match changes.recv().await {
                Ok(change) if change.id() == id => match &change.after {
                    None => return exit_code(&last),
                    Some(now) => {
                        last = Instance::clone(now);
                        if reached(condition, &before, now) {
                            return exit_code(now);
                        }
                    }
                },
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => match ask.cloud.container(id).await {
                    Ok(now) if reached(condition, &before, &now) => return exit_code(&now),
                    Ok(now) => last = now,
                    Err(_) => return exit_code(&last),
                },
                Err(RecvError::Closed) => return exit_code(&last),
            }
        }
    };
    let answer = stream::once(async move {
        let code = waited.await;
        tracing::debug!(container = shown, code, "a wait is over");
        Ok(line(&json!({ "StatusCode": code })))
    });
    Ok(streamed("application/json", answer))
}

fn reached(condition: Condition, before: &Instance, now: &Instance) -> bool {
    let ended = !matches!(Status::of(now), Status::Running | Status::Paused | Status::Restarting | Status::Removing);
    match condition {
        // On its way up counts as running: who started it waits for its end.
        Condition::NotRunning => ended && settled(now),
        Condition::NextExit => {
            now.status.exit.is_some() && now.status.exit != before.status.exit || never_ran(before, now)
        }
        Condition::Removed => false,
    }
}

/// The cloud has carried out what was asked of it.
fn settled(now: &Instance) -> bool {
    now.status.observed_generation >= now.metadata.generation || now.status.exit.is_some()
}

/// It could not be started at all.
fn never_ran(before: &Instance, now: &Instance) -> bool {
    use yun_types::InstanceState::Failed;
    now.status.state == Failed && now.status.next_restart.is_none() && before.status.state != Failed
}

#[cfg(test)]
mod tests {
    use super::{super::state::tests::sample, *};
    use yun_types::{Exit, InstanceState as State};

    #[test]
    fn an_exit_counts_once_and_only_if_it_is_new() {
        let created = sample("web", State::Stopped);
        let mut ended = sample("web", State::Stopped);
        assert!(reached(Condition::NotRunning, &created, &created));
        assert!(!reached(Condition::NextExit, &created, &created));
        ended.status.exit =
            Some(Exit { code: 0, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH });
        assert!(reached(Condition::NextExit, &created, &ended));
        assert!(!reached(Condition::NextExit, &ended, &ended));
        assert!(!reached(Condition::Removed, &created, &ended));
        assert!(reached(Condition::NextExit, &created, &sample("web", State::Failed)));
        assert!(!reached(Condition::NotRunning, &created, &sample("web", State::Running)));
    }
}
