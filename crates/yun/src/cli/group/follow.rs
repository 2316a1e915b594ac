//! Following a group until it is as it is wanted, or will not be.

use anyhow::Result;
use futures::TryStreamExt;
use std::time::Duration;
use yun_api::cloud::{AnyObject, Change, WatchEvent};
use yun_types::{Group, GroupState, ObjectKind};

use crate::cli::{
    connect::{Cloud, ExitCode, Refused, explain},
    events::lines,
    line,
};

/// Waits until the group is as it is wanted. One that failed or was rolled back is an error.
pub(crate) async fn settled(cloud: &Cloud, group: Group, limit: Duration) -> Result<Group> {
    let (name, generation) = (group.metadata.name.clone(), group.metadata.generation);
    let last = until(cloud, group, limit, |group| {
        let status = &group.status;
        // What is said is about the change that is waited for.
        if status.observed_generation < generation {
            return None;
        }
        match status.state {
            GroupState::Ready => Some(Ok(())),
            GroupState::RolledBack => Some(Err(("RolledBack", status.message.clone().unwrap_or_default()))),
            GroupState::Failed => Some(Err(("Failed", status.message.clone().unwrap_or_default()))),
            GroupState::Paused => Some(Err(("Paused", status.message.clone().unwrap_or_default()))),
            _ => None,
        }
    })
    .await?;
    match last {
        Some((group, Ok(()))) => Ok(group),
        Some((_, Err((code, message)))) => {
            let message = format!("group {name}: {message}");
            Err(Refused { exit: ExitCode::Failure, message, code: Some(code.into()) }.into())
        }
        None => {
            let message = format!("group {name} was deleted meanwhile");
            Err(Refused { exit: ExitCode::NotFound, message, code: None }.into())
        }
    }
}

/// Waits until nothing is left of the group.
pub(crate) async fn gone(cloud: &Cloud, group: &Group, limit: Duration) -> Result<()> {
    until(cloud, group.clone(), limit, |_| None::<()>).await.map(drop)
}

/// Looks at the group again and again until `done` answers; `None` if it is gone.
async fn until<T>(
    cloud: &Cloud,
    mut group: Group,
    limit: Duration,
    mut done: impl FnMut(&Group) -> Option<T>,
) -> Result<Option<(Group, T)>> {
    let bar = line(cloud.quiet);
    let name = group.metadata.name.clone();
    let look = async {
        loop {
            let request = cloud.client.watch().kind(ObjectKind::Group).project(cloud.project.clone());
            let body = request.send().await.map_err(explain)?.into_inner();
            let mut events = std::pin::pin!(lines::<WatchEvent>(body.into_inner()));
            let mut seen = false;
            while let Some(event) = events.try_next().await? {
                match (event.change, event.object) {
                    // Everything there is was said, and this one was not in it.
                    (Change::Bookmark, _) if !seen => return Ok(None),
                    (change, Some(AnyObject::Group(now))) if now.metadata.id == group.metadata.id => {
                        seen = true;
                        if change == Change::Deleted {
                            return Ok(None);
                        }
                        bar.set_message(said(&now));
                        if let Some(answer) = done(&now) {
                            return Ok(Some((now, answer)));
                        }
                        group = now;
                    }
                    _ => {}
                }
            }
        }
    };
    let result = tokio::time::timeout(limit, look).await;
    bar.finish_and_clear();
    result.unwrap_or_else(|_| {
        let message = format!(
            "group {name} is not there yet after {}s: follow it with yun group rollout status {name}, and see why with yun explain group {name}",
            limit.as_secs()
        );
        Err(Refused { exit: ExitCode::Timeout, message, code: Some("Timeout".into()) }.into())
    })
}

fn said(group: &Group) -> String {
    let status = &group.status;
    let counts = format!(
        "group {} {}: {} of {} available, {} of revision {}",
        group.metadata.name, status.state, status.available, group.spec.replicas, status.updated, status.revision
    );
    match &status.message {
        Some(message) => format!("{counts}: {message}"),
        None => counts,
    }
}
