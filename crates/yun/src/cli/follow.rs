//! Following operations to their end, with a line of progress on a terminal and silence elsewhere.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};
use yun_types::{Operation, OperationState};

use super::connect::{Cloud, ExitCode, Explained, Refused};

/// Seconds that one request waits for news.
const POLL: u32 = 20;

/// Waits for the end of an operation, at most `limit`. An operation that failed or was cancelled is an error.
pub(crate) async fn follow(cloud: &Cloud, operation: Operation, limit: Duration) -> Result<Operation> {
    let bar = line(cloud.quiet);
    let result = follow_on(cloud, operation, limit, &bar).await;
    bar.finish_and_clear();
    result
}

/// A line that shows what goes on, on a terminal.
pub(crate) fn line(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

async fn follow_on(cloud: &Cloud, mut operation: Operation, limit: Duration, bar: &ProgressBar) -> Result<Operation> {
    let begun = Instant::now();
    loop {
        show(bar, &operation);
        match operation.status.state {
            OperationState::Running => {}
            OperationState::Succeeded => return Ok(operation),
            OperationState::Cancelled => {
                let message = format!("{} of {} was cancelled", operation.spec.kind, operation.spec.target);
                return Err(Refused { exit: ExitCode::Failure, message, code: Some("Cancelled".into()) }.into());
            }
            OperationState::Failed => {
                let error = operation.status.error.clone();
                let (message, code) = error
                    .map_or_else(|| ("it failed without saying why".to_owned(), None), |e| (e.message, Some(e.code)));
                return Err(Refused { exit: ExitCode::Failure, message, code }.into());
            }
        }
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let (kind, target, id) = (operation.spec.kind, &operation.spec.target, operation.metadata.id);
            let progress = &operation.status.progress.message;
            let what = if progress.is_empty() { String::new() } else { format!(" ({progress})") };
            let message = format!(
                "{kind} of {target} goes on after {}s{what}: follow it with yun operation wait {id}",
                limit.as_secs()
            );
            return Err(Refused { exit: ExitCode::Timeout, message, code: Some("Timeout".into()) }.into());
        }
        let wait = u32::try_from(left.as_secs()).unwrap_or(POLL).clamp(1, POLL);
        let request = cloud
            .client
            .operation_get()
            .operation(operation.metadata.id)
            .wait(wait)
            .seen(operation.metadata.revision.clone());
        operation = request.send().await.explained()?;
    }
}

fn show(bar: &ProgressBar, operation: &Operation) {
    let progress = &operation.status.progress;
    let percent = progress.percent.map(|p| format!(" {p}%")).unwrap_or_default();
    let what = if progress.message.is_empty() { String::new() } else { format!(": {}", progress.message) };
    bar.set_message(format!("{} {}{percent}{what}", operation.spec.kind, operation.spec.target.name));
}
