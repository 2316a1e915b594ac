//! Owned tasks: every task has a name, an owner, a way to stop, and a line in a list that people can look at.
//!
//! This module owns the life of tasks. A panic in one is caught, logged and kept on the list; it never takes the process along. Nothing else
//! in the product starts tasks.
//!
//! Words: a *scope* is the set of tasks of one part of the program; it stops as a whole, and stops when the scope above it does.

use crate::clock::{Clock, within};
use futures::FutureExt;
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::AbortHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use yun_types::Timestamp;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskState {
    /// At work.
    Working,
    /// Waits for the next reason to work.
    Idle,
    /// It panicked and is gone; `reason` has the text.
    Panicked,
}

/// One line of the list of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its name, with the names of its scopes before it: `agent/instance/web`.
    pub name: String,
    /// Where it is.
    pub state: TaskState,
    /// When it began.
    pub since: Timestamp,
    /// When it last began to work.
    pub last_run: Option<Timestamp>,
    /// Why it worked, or what came of it.
    pub reason: String,
    /// When it will work again without any other reason.
    pub next_run: Option<Timestamp>,
    /// How often it worked.
    pub runs: u64,
    /// How often in a row it failed.
    pub failures: u32,
}

/// The registry of tasks. Clones share it.
#[derive(Clone)]
pub struct Tasks {
    registry: Arc<Registry>,
    prefix: String,
    stop: CancellationToken,
    tracker: TaskTracker,
    /// The scopes above, so that their shutdown waits for the tasks of this one.
    above: Vec<TaskTracker>,
}

struct Registry {
    clock: Arc<dyn Clock>,
    list: Mutex<List>,
    /// Changes with each change of the list.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct List {
    next: u64,
    lines: BTreeMap<u64, Line>,
}

struct Line {
    view: TaskView,
    abort: Option<AbortHandle>,
}

/// How many panicked tasks stay on the list.
const PANICS_KEPT: usize = 100;

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("prefix", &self.prefix).field("tasks", &self.tracker.len()).finish()
    }
}

impl Tasks {
    /// An empty registry.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let registry = Registry { clock, list: Mutex::default(), changed: watch::channel(0).0 };
        Self {
            registry: Arc::new(registry),
            prefix: String::new(),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            above: Vec::new(),
        }
    }

    /// A part of this registry with a name of its own, which can be stopped alone and is stopped with this one.
    pub fn scope(&self, name: &str) -> Self {
        let mut above = self.above.clone();
        above.push(self.tracker.clone());
        Self {
            registry: self.registry.clone(),
            prefix: format!("{}{name}/", self.prefix),
            stop: self.stop.child_token(),
            tracker: TaskTracker::new(),
            above,
        }
    }

    /// Cancelled when this scope should stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. `work` gets its [`Task`]: it ends soon after [`Task::stopping`] is cancelled.
    pub fn spawn<F, W>(&self, name: impl fmt::Display, work: F) -> TaskHandle
    where
        F: FnOnce(Task) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let name = format!("{}{name}", self.prefix);
        let stop = self.stop.child_token();
        let number = self.registry.add(name.clone());
        let task = Task { registry: self.registry.clone(), number, stop: stop.clone() };
        let work = AssertUnwindSafe(work(task)).catch_unwind();
        // An abort drops the future without running its end: the guard takes the line off the list also then.
        let line = LineGuard { registry: self.registry.clone(), number };
        let tokens: Vec<_> = self.above.iter().chain([&self.tracker]).map(TaskTracker::token).collect();
        let span = tracing::info_span!("task", name = %name);
        let future = async move {
            let _tokens = tokens;
            if let Err(panic) = work.await {
                line.panicked(&panic_text(&*panic));
            }
            drop(line);
        };
        let join = tokio::spawn(future.instrument(span));
        let abort = join.abort_handle();
        if let Some(line) = self.registry.lock().lines.get_mut(&number) {
            line.abort = Some(abort.clone());
        }
        TaskHandle { stop, abort, ended: Arc::new(tokio::sync::Mutex::new(Some(join))) }
    }

    /// All tasks of the registry, by name.
    pub fn list(&self) -> Vec<TaskView> {
        let mut views: Vec<TaskView> = self.registry.lock().lines.values().map(|line| line.view.clone()).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Changes with each change of the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.registry.changed.subscribe()
    }

    /// Asks the scope's tasks to stop, waits for them up to `limit`, then drops what is left and returns its names.
    pub async fn shutdown(&self, limit: Duration) -> Vec<String> {
        self.stop.cancel();
        self.tracker.close();
        if within(&*self.registry.clock, limit, self.tracker.wait()).await.is_some() {
            return Vec::new();
        }
        let left = self.abort();
        tracing::warn!(tasks = ?left, "these tasks did not stop in time and were dropped");
        self.tracker.wait().await;
        left
    }

    /// Drops the scope's tasks where they stand, as a crash would, and returns their names.
    pub fn abort(&self) -> Vec<String> {
        self.stop.cancel();
        self.tracker.close();
        let list = self.registry.lock();
        let mut names = Vec::new();
        for line in list.lines.values().filter(|line| line.view.name.starts_with(&self.prefix)) {
            if let Some(abort) = line.abort.as_ref().filter(|abort| !abort.is_finished()) {
                abort.abort();
                names.push(line.view.name.clone());
            }
        }
        names
    }

    /// Resolves once no task of the scope is left.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: String) -> u64 {
        let mut list = self.lock();
        let number = list.next;
        list.next += 1;
        let view = TaskView {
            name,
            state: TaskState::Working,
            since: self.clock.now(),
            last_run: None,
            reason: String::new(),
            next_run: None,
            runs: 0,
            failures: 0,
        };
        list.lines.insert(number, Line { view, abort: None });
        drop(list);
        self.tell();
        number
    }

    fn update(&self, number: u64, change: impl FnOnce(&mut TaskView)) {
        if let Some(line) = self.lock().lines.get_mut(&number) {
            change(&mut line.view);
        }
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// Takes a task's line off the list when the task is gone, unless it panicked.
struct LineGuard {
    registry: Arc<Registry>,
    number: u64,
}

impl LineGuard {
    fn panicked(&self, text: &str) {
        tracing::error!(panic = text, "a task panicked; this is a defect: please report it with this log");
        self.registry.update(self.number, |view| {
            view.state = TaskState::Panicked;
            view.reason = text.to_owned();
            view.next_run = None;
        });
        let mut list = self.registry.lock();
        let panicked: Vec<u64> = list
            .lines
            .iter()
            .filter(|(_, line)| line.view.state == TaskState::Panicked)
            .map(|(number, _)| *number)
            .collect();
        for number in panicked.iter().rev().skip(PANICS_KEPT) {
            list.lines.remove(number);
        }
    }
}

impl Drop for LineGuard {
    fn drop(&mut self) {
        let mut list = self.registry.lock();
        if list.lines.get(&self.number).is_some_and(|line| line.view.state != TaskState::Panicked) {
            list.lines.remove(&self.number);
        }
        drop(list);
        self.registry.tell();
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

/// A task's own view of itself.
#[derive(Clone)]
pub struct Task {
    registry: Arc<Registry>,
    number: u64,
    stop: CancellationToken,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("number", &self.number).finish()
    }
}

impl Task {
    /// Cancelled when the task should end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
    /// Says that work begins, and why.
    pub fn working(&self, reason: impl Into<String>) {
        let (now, reason) = (self.registry.clock.now(), reason.into());
        self.registry.update(self.number, |view| {
            view.state = TaskState::Working;
            view.last_run = Some(now);
            view.reason = reason;
            view.next_run = None;
            view.runs += 1;
        });
    }
    /// Says that work has ended well, with what result, and when it goes on at the latest.
    pub fn idle(&self, outcome: impl Into<String>, next_run: Option<Timestamp>) {
        self.rest(outcome.into(), next_run, false);
    }
    /// Says that work has failed, how, and when it is tried again.
    pub fn failed(&self, error: impl Into<String>, next_run: Option<Timestamp>) {
        self.rest(error.into(), next_run, true);
    }
    fn rest(&self, reason: String, next_run: Option<Timestamp>, failed: bool) {
        self.registry.update(self.number, |view| {
            view.state = TaskState::Idle;
            view.reason = reason;
            view.next_run = next_run;
            view.failures = if failed { view.failures.saturating_add(1) } else { 0 };
        });
    }
}

/// Somebody else's hold on a task. Dropping it changes nothing: the registry owns the task.
#[derive(Debug, Clone)]
pub struct TaskHandle {
    stop: CancellationToken,
    abort: AbortHandle,
    ended: Arc<tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl TaskHandle {
    /// Asks it to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }
    /// Drops it where it stands.
    pub fn abort(&self) {
        self.abort.abort();
    }
    /// True once it is gone.
    pub fn is_finished(&self) -> bool {
        self.abort.is_finished()
    }
    /// Resolves once it is gone.
    pub async fn ended(&self) {
        let mut slot = self.ended.lock().await;
        if let Some(join) = slot.as_mut() {
            let _ = join.await;
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn tasks() -> (TestClock, Tasks) {
        let clock = TestClock::default();
        (clock.clone(), Tasks::new(Arc::new(clock)))
    }

    fn names(tasks: &Tasks) -> Vec<String> {
        tasks.list().into_iter().map(|view| view.name).collect()
    }

    #[tokio::test]
    async fn a_task_is_on_the_list_while_it_lives() {
        let (_, tasks) = tasks();
        let scope = tasks.scope("agent").scope("instance");
        let handle = scope.spawn("web", |task| async move { task.stopping().cancelled().await });
        assert_eq!(names(&tasks), ["agent/instance/web"]);
        handle.stop();
        handle.ended().await;
        assert!(handle.is_finished());
        assert_eq!(names(&tasks), [""; 0]);
    }

    #[tokio::test]
    async fn a_panic_is_kept_and_others_go_on() {
        let (_, tasks) = tasks();
        let other = tasks.spawn("other", |task| async move { task.stopping().cancelled().await });
        tasks.spawn("bad", |_| async { panic!("no {}", "luck") }).ended().await;
        let bad = tasks.list().into_iter().find(|view| view.name == "bad").unwrap();
        assert_eq!((bad.state, bad.reason.as_str()), (TaskState::Panicked, "no luck"));
        assert!(!other.is_finished());
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, [""; 0]);
    }

    #[tokio::test]
    async fn only_the_last_panics_are_kept() {
        let (_, tasks) = tasks();
        for n in 0..PANICS_KEPT + 3 {
            tasks.spawn(n, |_| async { panic!("again") }).ended().await;
        }
        let left = names(&tasks);
        assert_eq!(left.len(), PANICS_KEPT);
        assert!(!left.contains(&"0".to_owned()) && left.contains(&"102".to_owned()));
    }

    #[tokio::test]
    async fn shutdown_waits_for_the_polite_and_drops_the_stubborn() {
        let (clock, tasks) = tasks();
        let polite = Arc::new(AtomicBool::new(false));
        let flag = polite.clone();
        let slow = clock.clone();
        tasks.spawn("polite", |task| async move {
            task.stopping().cancelled().await;
            slow.sleep(Duration::from_secs(2)).await;
            flag.store(true, Ordering::SeqCst);
        });
        tasks.scope("deep").spawn("stubborn", |_| std::future::pending());
        let (left, ()) = tokio::join!(tasks.shutdown(Duration::from_secs(5)), clock.advance(Duration::from_secs(5)));
        assert_eq!(left, ["deep/stubborn"]);
        assert!(polite.load(Ordering::SeqCst));
        assert_eq!(names(&tasks), [""; 0]);
    }

    #[tokio::test]
    async fn a_scope_stops_alone() {
        let (_, tasks) = tasks();
        let (one, two) = (tasks.scope("one"), tasks.scope("two"));
        for scope in [&one, &two] {
            scope.spawn("task", |task| async move { task.stopping().cancelled().await });
        }
        one.shutdown(Duration::from_secs(1)).await;
        assert_eq!(names(&tasks), ["two/task"]);
        assert!(!tasks.stopping().is_cancelled() && !two.stopping().is_cancelled());
        tasks.shutdown(Duration::from_secs(1)).await;
        assert!(two.stopping().is_cancelled());
    }

    #[tokio::test]
    async fn an_abort_is_a_crash_of_the_scope_only() {
        let (_, tasks) = tasks();
        let scope = tasks.scope("agent");
        scope.spawn("a", |_| std::future::pending());
        tasks.spawn("b", |_| std::future::pending());
        assert_eq!(scope.abort(), ["agent/a"]);
        scope.ended().await;
        assert_eq!(names(&tasks), ["b"]);
    }

    #[tokio::test]
    async fn the_list_shows_runs_reasons_and_failures() {
        let (clock, tasks) = tasks();
        let next = clock.now() + chrono::TimeDelta::seconds(9);
        tasks.spawn("loop", move |task| async move {
            for _ in 0..2 {
                task.working("signal");
                task.failed("no route", Some(next));
            }
            std::future::pending().await
        });
        let mut changes = tasks.changes();
        changes.wait_for(|_| tasks.list()[0].runs == 2 && tasks.list()[0].failures == 2).await.unwrap();
        let view = tasks.list().remove(0);
        assert_eq!((view.state, view.reason.as_str(), view.next_run), (TaskState::Idle, "no route", Some(next)));
        assert_eq!(view.last_run, Some(clock.now()));
    }
}
