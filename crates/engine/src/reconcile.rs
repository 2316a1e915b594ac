//! The loop that keeps something as it is wanted.
//!
//! This module owns *when* a pass runs; the pass owns what it does. A pass takes no input: a signal only wakes it, it reads the state itself,
//! and so a lost, doubled or late signal cannot do harm. A pass must be idempotent. A pass that failed is tried again with growing pauses;
//! a pass that panicked counts as failed.
//!
//! ```text
//!  period ─┐
//!  signal ─┼──▶ pass ──▶ nothing to do / changed ──▶ wait for the period (or what the pass asked for)
//!  retry ──┘      └────▶ failed ──▶ wait for the backoff; a signal cuts it short, but not under its first pause
//! ```

use crate::{
    backoff::{Backoff, Tries},
    clock::{Clock, after},
    tasks::{Task, TaskHandle, Tasks, panic_text},
};
use async_trait::async_trait;
use futures::FutureExt;
use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Wakes a reconciler. Clones wake the same one; signals that arrive during a pass lead to one more pass.
#[derive(Debug, Clone, Default)]
pub struct Signal(Arc<Notify>);

impl Signal {
    /// Asks for a pass soon. Cheap; may be called at any time and any number of times.
    pub fn wake(&self) {
        self.0.notify_one();
    }
    /// Resolves when a pass is asked for. For loops that are no reconcilers; one waiter at a time.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

/// What came of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassOutcome {
    /// All was as wanted.
    Nothing,
    /// Something was done.
    Changed,
    /// Something could not be done: try again.
    Failed,
}

/// What a pass did, for the loop and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassReport {
    /// What came of it.
    pub outcome: PassOutcome,
    /// For people: `placed 3, 1 waits for memory`.
    pub message: String,
    /// When to run again at the latest, if that is before the period.
    pub again: Option<Duration>,
}

impl PassReport {
    /// All was as wanted.
    pub fn nothing() -> Self {
        Self { outcome: PassOutcome::Nothing, message: "nothing to do".into(), again: None }
    }
    /// Something was done.
    pub fn changed(message: impl Into<String>) -> Self {
        Self { outcome: PassOutcome::Changed, message: message.into(), again: None }
    }
    /// Something could not be done.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self { outcome: PassOutcome::Failed, message: error.to_string(), again: None }
    }
    /// Asks for the next pass within `span`.
    pub fn again_in(mut self, span: Duration) -> Self {
        self.again = Some(self.again.map_or(span, |before| before.min(span)));
        self
    }
}

/// Keeps something as it is wanted.
#[async_trait]
pub trait Reconcile: Send + 'static {
    /// Reads what is wanted and what is, and acts. No input by design. Never dropped half way, except when the program is told to end
    /// and this takes too long.
    async fn pass(&mut self) -> PassReport;
}

/// When a reconciler runs.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The longest time between two passes.
    pub period: Duration,
    /// The pauses after failures.
    pub backoff: Backoff,
    /// Seeds the jitter of the pauses.
    pub seed: u64,
}

impl Schedule {
    /// A pass every `period`, and failures tried again after 100 ms to 10 s.
    pub fn every(period: Duration) -> Self {
        Self { period, backoff: Backoff::CALLS, seed: 0 }
    }
}

/// Starts the loop of one reconciler as a task of that name. The first pass runs at once.
pub fn run(
    tasks: &Tasks,
    clock: Arc<dyn Clock>,
    name: impl fmt::Display,
    schedule: Schedule,
    signal: Signal,
    reconciler: impl Reconcile,
) -> TaskHandle {
    let tries = Tries::new(schedule.backoff, schedule.seed);
    tasks.spawn(name, move |task| Loop { clock, schedule, signal, tries, task, reconciler }.run())
}

struct Loop<R> {
    clock: Arc<dyn Clock>,
    schedule: Schedule,
    signal: Signal,
    tries: Tries,
    task: Task,
    reconciler: R,
}

impl<R: Reconcile> Loop<R> {
    async fn run(mut self) {
        let stop = self.task.stopping().clone();
        let mut reason = "start";
        while !stop.is_cancelled() {
            self.task.working(reason);
            // What was signalled until now will be seen by this pass.
            let _ = self.signal.woken().now_or_never();
            let report = match AssertUnwindSafe(self.reconciler.pass()).catch_unwind().await {
                Ok(report) => report,
                Err(panic) => {
                    let text = panic_text(&*panic);
                    tracing::error!(panic = text, "a pass panicked; this is a defect: please report it with this log");
                    PassReport::failed(format!("panicked: {text}"))
                }
            };
            let wait = self.record(&report);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.wait(wait) => reason = next,
            }
        }
    }

    /// Shows the report, and says how long to wait: at least, and at most.
    fn record(&mut self, report: &PassReport) -> (Duration, Duration) {
        let now = self.clock.now();
        if report.outcome == PassOutcome::Failed {
            let pause = self.tries.failed();
            tracing::warn!(error = report.message, ?pause, "a pass failed and will be tried again");
            self.task.failed(report.message.clone(), Some(after(now, pause)));
            return (pause.min(self.schedule.backoff.first), pause);
        }
        self.tries.succeeded();
        let pause = report.again.unwrap_or(self.schedule.period).min(self.schedule.period);
        self.task.idle(report.message.clone(), Some(after(now, pause)));
        (Duration::ZERO, pause)
    }

    async fn wait(&mut self, (least, most): (Duration, Duration)) -> &'static str {
        if !least.is_zero() {
            self.clock.sleep(least).await;
        }
        tokio::select! {
            biased;
            () = self.signal.woken() => "signal",
            () = self.clock.sleep(most.saturating_sub(least)) => if least.is_zero() { "period" } else { "retry" },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::TestClock, tasks::TaskState};
    use tokio::sync::mpsc;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers what the test says; tells the test at what second each pass ran.
    struct Scripted {
        clock: TestClock,
        script: Vec<PassReport>,
        ran: mpsc::UnboundedSender<u64>,
    }

    #[async_trait]
    impl Reconcile for Scripted {
        async fn pass(&mut self) -> PassReport {
            self.ran.send(self.clock.monotonic().as_secs()).unwrap();
            if self.script.is_empty() { PassReport::nothing() } else { self.script.remove(0) }
        }
    }

    struct Bench {
        clock: TestClock,
        tasks: Tasks,
        signal: Signal,
        ran: mpsc::UnboundedReceiver<u64>,
    }

    fn bench(script: Vec<PassReport>) -> Bench {
        let clock = TestClock::default();
        let tasks = Tasks::new(Arc::new(clock.clone()));
        let (sender, ran) = mpsc::unbounded_channel();
        let signal = Signal::default();
        let backoff = Backoff { first: SECOND, most: 60 * SECOND, jitter: 0 };
        let schedule = Schedule { backoff, ..Schedule::every(10 * SECOND) };
        let scripted = Scripted { clock: clock.clone(), script, ran: sender };
        run(&tasks, Arc::new(clock.clone()), "scripted", schedule, signal.clone(), scripted);
        Bench { clock, tasks, signal, ran }
    }

    impl Bench {
        async fn passes(&mut self, span: Duration) -> Vec<u64> {
            self.clock.advance(span).await;
            std::iter::from_fn(|| self.ran.try_recv().ok()).collect()
        }
    }

    #[tokio::test]
    async fn it_runs_at_once_and_then_by_period() {
        let mut bench = bench(vec![]);
        assert_eq!(bench.passes(35 * SECOND).await, [0, 10, 20, 30]);
        assert_eq!(bench.tasks.list()[0].state, TaskState::Idle);
        assert_eq!(bench.tasks.list()[0].reason, "nothing to do");
    }

    #[tokio::test]
    async fn a_signal_wakes_it_and_many_signals_are_one() {
        let mut bench = bench(vec![]);
        assert_eq!(bench.passes(3 * SECOND).await, [0]);
        for _ in 0..5 {
            bench.signal.wake();
        }
        assert_eq!(bench.passes(SECOND).await, [3]);
        assert_eq!(bench.passes(10 * SECOND).await, [13], "the period counts from the last pass");
    }

    #[tokio::test]
    async fn a_pass_may_ask_to_run_again_sooner() {
        let mut bench = bench(vec![
            PassReport::changed("half").again_in(4 * SECOND).again_in(2 * SECOND),
            PassReport::nothing().again_in(99 * SECOND),
        ]);
        assert_eq!(bench.passes(15 * SECOND).await, [0, 2, 12]);
    }

    #[tokio::test]
    async fn failures_back_off_and_show() {
        let mut bench = bench(vec![PassReport::failed("no disk"); 4]);
        assert_eq!(bench.passes(6 * SECOND).await, [0, 1, 3]);
        let view = bench.tasks.list().remove(0);
        assert_eq!((view.failures, view.reason.as_str()), (3, "no disk"));
        assert_eq!(bench.passes(20 * SECOND).await, [7, 15, 25], "4 s, 8 s, then the period again");
        assert_eq!(bench.tasks.list()[0].failures, 0);
    }

    #[tokio::test]
    async fn a_signal_cuts_the_backoff_but_never_spins() {
        let mut bench = bench(vec![PassReport::failed("no disk"); 50]);
        bench.passes(7 * SECOND).await;
        assert_eq!(bench.passes(SECOND).await, [] as [u64; 0], "the pause is 8 s now");
        for _ in 0..3 {
            bench.signal.wake();
            let passes = bench.passes(SECOND).await;
            assert!(passes.len() <= 1, "{passes:?}");
        }
        assert!(bench.tasks.list()[0].runs >= 6);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        struct Panics(u32);
        #[async_trait]
        impl Reconcile for Panics {
            async fn pass(&mut self) -> PassReport {
                self.0 += 1;
                assert!(self.0 > 1, "first pass");
                PassReport::changed("recovered")
            }
        }
        let clock = TestClock::default();
        let tasks = Tasks::new(Arc::new(clock.clone()));
        run(&tasks, Arc::new(clock.clone()), "panics", Schedule::every(10 * SECOND), Signal::default(), Panics(0));
        clock.advance(Duration::from_millis(10)).await;
        assert_eq!(tasks.list()[0].reason, "panicked: first pass");
        clock.advance(SECOND).await;
        assert_eq!(tasks.list()[0].reason, "recovered");
    }

    #[tokio::test]
    async fn it_ends_when_told() {
        let mut bench = bench(vec![]);
        bench.passes(SECOND).await;
        assert_eq!(bench.tasks.shutdown(SECOND).await, [""; 0]);
        assert!(bench.ran.recv().await.is_none());
    }
}
