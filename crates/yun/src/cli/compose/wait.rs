//! Waiting for an instance to be so or so, by the stream of changes.

use anyhow::Result;
use futures::TryStreamExt;
use std::time::Duration;
use yun_api::cloud::{AnyObject, Change, WatchEvent};
use yun_types::{Instance, Name, ObjectKind};

use crate::cli::{
    connect::{Cloud, ExitCode, Refused, explain},
    events::lines,
    line,
};

/// Waits until `done` answers.
pub(super) async fn until(
    cloud: &Cloud,
    name: &Name,
    limit: Duration,
    mut done: impl FnMut(&Instance) -> Option<Result<()>>,
) -> Result<()> {
    let bar = line(cloud.quiet);
    bar.set_message(format!("waiting for {name}"));
    let look = async {
        loop {
            let request = cloud.client.watch().kind(ObjectKind::Instance).project(cloud.project.clone());
            let body = request.send().await.map_err(explain)?.into_inner();
            let mut events = std::pin::pin!(lines::<WatchEvent>(body.into_inner()));
            while let Some(event) = events.try_next().await? {
                if let Some(AnyObject::Instance(now)) = event.object
                    && now.metadata.name == *name
                    && event.change != Change::Deleted
                    && let Some(answer) = done(&now)
                {
                    return answer;
                }
            }
        }
    };
    let result = tokio::time::timeout(limit, look).await;
    bar.finish_and_clear();
    result.unwrap_or_else(|_| {
        let message = format!(
            "instance {name} is not so far after {}s: see yun show {name} and yun logs {name}",
            limit.as_secs()
        );
        Err(Refused { exit: ExitCode::Timeout, message, code: Some("Timeout".into()) }.into())
    })
}
