//! Time as a parameter.
//!
//! This module owns the only reading of the real time. Everything that waits or stamps takes a [`Clock`], so that a test runs a thousand
//! hours in a second and always in the same order. It never decides what a moment means.
//!
//! Words: *now* is the calendar's time (it may jump when an administrator sets it) and goes into objects; *monotonic* is the time since the
//! clock was made (it never jumps) and measures spans.

use chrono::{TimeDelta, Utc};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use yun_types::Timestamp;

/// Tells the time, and wakes sleepers.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The calendar's time.
    fn now(&self) -> Timestamp;
    /// The time since this clock was made. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Resolves after `span`. Dropping it is free.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;
}

/// The span from now until `moment`; zero if that is past.
pub fn until(clock: &dyn Clock, moment: Timestamp) -> Duration {
    (moment - clock.now()).to_std().unwrap_or_default()
}

/// `moment` plus `span`, at most the end of time.
pub fn after(moment: Timestamp, span: Duration) -> Timestamp {
    TimeDelta::from_std(span).ok().and_then(|delta| moment.checked_add_signed(delta)).unwrap_or(Timestamp::MAX_UTC)
}

/// Runs `work` for at most `span`. `None` if it took longer: it was dropped then.
pub async fn within<T>(clock: &dyn Clock, span: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(span) => None,
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Utc::now()
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// A clock that stands still until [`TestClock::advance`] moves it. Clones share the time.
#[derive(Clone)]
pub struct TestClock {
    inner: Arc<Mutex<Virtual>>,
    /// How many sleep now.
    sleeping: watch::Sender<usize>,
}

struct Virtual {
    start: Timestamp,
    passed: Duration,
    next_ticket: u64,
    sleepers: BTreeMap<(Duration, u64), Option<Waker>>,
}

/// Where test clocks begin: a round moment, so that goldens are easy to read.
const TEST_START_SECONDS: i64 = 1_800_000_000;

/// How often `advance` lets other tasks run after each sleeper it wakes. A woken task takes one turn for each channel on its way.
const TURNS: usize = 64;

impl Default for TestClock {
    fn default() -> Self {
        let start = Timestamp::from_timestamp(TEST_START_SECONDS, 0).unwrap_or_default();
        let inner = Virtual { start, passed: Duration::ZERO, next_ticket: 0, sleepers: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), sleeping: watch::channel(0).0 }
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("TestClock").field("passed", &inner.passed).field("sleepers", &inner.sleepers.len()).finish()
    }
}

impl TestClock {
    /// A clock that begins at this moment: for what is also checked by clocks outside, as certificates are.
    pub fn starting_at(start: Timestamp) -> Self {
        let clock = Self::default();
        clock.lock().start = start;
        clock
    }

    fn lock(&self) -> MutexGuard<'_, Virtual> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the time by `span`. Sleepers wake in the order of their moments, each at its own moment, and the tasks that they wake get to
    /// run (and may sleep again within `span`) before the next one does.
    pub async fn advance(&self, span: Duration) {
        let goal = self.lock().passed + span;
        loop {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            if !self.wake_next(goal) {
                return;
            }
        }
    }

    /// Wakes the first sleeper that is due until `goal`; if there is none, moves to `goal` and says so by `false`.
    fn wake_next(&self, goal: Duration) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.sleepers.first_entry().filter(|e| e.key().0 <= goal) else {
            inner.passed = inner.passed.max(goal);
            return false;
        };
        let ((moment, _), waker) = entry.remove_entry();
        inner.passed = inner.passed.max(moment);
        let left = inner.sleepers.len();
        drop(inner);
        self.sleeping.send_replace(left);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Moves to the moment of the next sleeper and wakes it. `false` if nobody sleeps.
    pub async fn advance_to_next(&self) -> bool {
        let Some(span) = self.next_in() else { return false };
        self.advance(span).await;
        true
    }

    /// How long until the next sleeper wakes.
    pub fn next_in(&self) -> Option<Duration> {
        let inner = self.lock();
        inner.sleepers.first_key_value().map(|((moment, _), _)| moment.saturating_sub(inner.passed))
    }

    /// How many sleep now.
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    /// Resolves once at least `count` sleep.
    pub async fn wait_for_sleepers(&self, count: usize) {
        // The sender lives in `self`, so the wait cannot end with an error.
        let _ = self.sleeping.subscribe().wait_for(|now| *now >= count).await;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let inner = self.lock();
        after(inner.start, inner.passed)
    }
    fn monotonic(&self) -> Duration {
        self.lock().passed
    }
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(VirtualSleep { clock: self.clone(), span, ticket: None })
    }
}

/// One sleeper. It is on the clock's list from its first poll until it wakes or is dropped.
struct VirtualSleep {
    clock: TestClock,
    span: Duration,
    ticket: Option<(Duration, u64)>,
}

impl Future for VirtualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut inner = clock.lock();
        if let Some(ticket) = self.ticket {
            return match inner.sleepers.get_mut(&ticket) {
                Some(waker) => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
                None => {
                    self.ticket = None;
                    Poll::Ready(())
                }
            };
        }
        if self.span.is_zero() {
            return Poll::Ready(());
        }
        let ticket = (inner.passed + self.span, inner.next_ticket);
        inner.next_ticket += 1;
        inner.sleepers.insert(ticket, Some(context.waker().clone()));
        self.ticket = Some(ticket);
        let count = inner.sleepers.len();
        drop(inner);
        clock.sleeping.send_replace(count);
        Poll::Pending
    }
}

impl Drop for VirtualSleep {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut inner = self.clock.lock();
        inner.sleepers.remove(&ticket);
        let count = inner.sleepers.len();
        drop(inner);
        self.clock.sleeping.send_replace(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn the_time_moves_only_when_told() {
        let clock = TestClock::default();
        let (start, passed) = (clock.now(), clock.monotonic());
        tokio::task::yield_now().await;
        assert_eq!((clock.now(), clock.monotonic()), (start, passed));
        clock.advance(90 * SECOND).await;
        assert_eq!(clock.now() - start, TimeDelta::seconds(90));
        assert_eq!(clock.monotonic(), 90 * SECOND);
    }

    #[tokio::test]
    async fn sleepers_wake_at_their_own_moment_and_may_sleep_again() {
        let clock = TestClock::default();
        let (seen, seconds) = (Arc::new(Mutex::new(Vec::new())), [3u32, 1, 2]);
        for first in seconds {
            let (clock, seen) = (clock.clone(), seen.clone());
            tokio::spawn(async move {
                for _ in 0..2 {
                    clock.sleep(first * SECOND).await;
                    seen.lock().unwrap().push((first, clock.monotonic().as_secs()));
                }
            });
        }
        clock.wait_for_sleepers(3).await;
        clock.advance(5 * SECOND).await;
        assert_eq!(*seen.lock().unwrap(), [(1, 1), (2, 2), (1, 2), (3, 3), (2, 4)]);
    }

    #[tokio::test]
    async fn a_dropped_sleeper_leaves_the_list() {
        let clock = TestClock::default();
        let mut sleep = clock.sleep(SECOND);
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!(clock.sleepers(), 1);
        drop(sleep);
        assert_eq!(clock.sleepers(), 0);
        assert!(!clock.advance_to_next().await);
    }

    #[tokio::test]
    async fn work_is_dropped_when_its_time_is_up() {
        let clock = TestClock::default();
        let dropped = Arc::new(AtomicUsize::new(0));
        struct Guard(Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let guard = Guard(dropped.clone());
        let work = async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        let (outcome, ()) = tokio::join!(within(&clock, SECOND, work), clock.advance(SECOND));
        assert_eq!(outcome, None);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        assert_eq!(within(&clock, SECOND, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn the_system_clock_goes_on() {
        let clock = SystemClock::default();
        let before = clock.monotonic();
        clock.sleep(Duration::from_millis(2)).await;
        assert!(clock.monotonic() - before >= Duration::from_millis(2));
        assert_eq!(until(&clock, clock.now() - TimeDelta::seconds(5)), Duration::ZERO);
        assert!(until(&clock, clock.now() + TimeDelta::seconds(60)) > 50 * SECOND);
    }

    #[test]
    fn moments_do_not_overflow() {
        assert_eq!(after(Timestamp::MAX_UTC, SECOND), Timestamp::MAX_UTC);
        assert_eq!(after(Timestamp::default(), Duration::MAX), Timestamp::MAX_UTC);
    }

    proptest! {
        #[test]
        fn all_due_sleepers_wake_in_order(spans in proptest::collection::vec(1u64..50, 1..20), goal in 0u64..60) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let woken = runtime.block_on(async {
                let clock = TestClock::default();
                let woken = Arc::new(Mutex::new(Vec::new()));
                for span in spans.clone() {
                    let (clock, woken) = (clock.clone(), woken.clone());
                    tokio::spawn(async move {
                        clock.sleep(Duration::from_millis(span)).await;
                        woken.lock().unwrap().push(span);
                    });
                }
                clock.wait_for_sleepers(spans.len()).await;
                clock.advance(Duration::from_millis(goal)).await;
                let woken = woken.lock().unwrap().clone();
                prop_assert_eq!(clock.sleepers(), spans.len() - woken.len());
                Ok(woken)
            })?;
            let mut due: Vec<u64> = spans.into_iter().filter(|s| *s <= goal).collect();
            due.sort_unstable();
            prop_assert_eq!(woken, due);
        }
    }
}
