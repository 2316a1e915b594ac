//! The server's background work, as the API shows it.

use yun_api::cloud::BackgroundTask;
use yun_engine::tasks::{TaskState, TaskView};

/// One piece of work.
pub(super) fn view(task: TaskView) -> BackgroundTask {
    let state = match task.state {
        TaskState::Panicked => "failed",
        TaskState::Idle if task.failures > 0 => "waiting",
        TaskState::Idle => "idle",
        TaskState::Working => "running",
    };
    BackgroundTask {
        name: task.name,
        state: state.to_owned(),
        runs: task.runs,
        last_run: task.last_run,
        last_result: Some(task.reason).filter(|reason| !reason.is_empty()),
        next_run: task.next_run,
    }
}
