//! The one task that may change one instance: it asks `decide` for the next step, does it, and asks again.
//!
//! While there is nothing to do it waits for whatever comes first: a newer order, the end of the process, the guest's first answer, the time
//! of a restart. A newer order that makes the step under way pointless (a deletion, a stop during a start) drops that step: drivers allow
//! that at any point, and `Look` then finds out how far it went.

use crate::{
    decide::{Seen, Step, View, could_not_start, decide},
    health::{self, Answer, Asker},
    images,
    ledger::{Ending, Entry, Phase},
    node::{Node, Order},
    status::{Around, report},
};
use futures::{FutureExt, future::BoxFuture};
use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::watch;
use yun_drivers::{DriverError, InstanceDriver, InstanceHandle, LocalImage, Result};
use yun_engine::{
    backoff::{Backoff, Tries},
    clock::{after, until},
    tasks::{Task, panic_text},
};
use yun_types::{
    DesiredInstance, Exit, HealthCheck, HealthState, InstanceKind, InstanceReport, Power, Severity, Timestamp,
};

/// The pauses after steps that failed, other than starts: those follow the restart policy.
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10), jitter: 20 };

/// Seconds that a guest has to answer, if its spec does not say.
const BOOT_TIMEOUT: u32 = 300;

/// The pause between two questions to a guest whose driver could not tell.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The longest pause between questions about the health of what is still starting.
const FIRST_QUESTIONS: Duration = Duration::from_secs(1);

/// What others may know of an instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// The newest handle.
    pub(crate) handle: Option<InstanceHandle>,
    /// A process is there.
    pub(crate) live: bool,
    /// The newest report.
    pub(crate) report: Option<InstanceReport>,
}

/// Owns one instance.
pub(crate) struct Owner {
    pub(crate) node: Arc<Node>,
    pub(crate) driver: Arc<dyn InstanceDriver>,
    pub(crate) entry: Entry,
    pub(crate) seen: Seen,
    /// The image, open for a preparation.
    pub(crate) image: Option<LocalImage>,
    pub(crate) boot_failure: Option<Ending>,
    exit: Option<BoxFuture<'static, Result<Option<Exit>>>>,
    boot: Option<BoxFuture<'static, Result<()>>>,
    /// The question about its health that is under way or planned, and the check that it belongs to.
    health: Option<BoxFuture<'static, Answer>>,
    asks: Option<HealthCheck>,
    trouble: Option<Trouble>,
    tries: Tries,
    shown: watch::Sender<Shown>,
}

/// A step failed; it is tried again then.
struct Trouble {
    what: Ending,
    until: Timestamp,
}

impl Owner {
    pub(crate) fn new(node: Arc<Node>, entry: Entry, shown: watch::Sender<Shown>) -> Self {
        let seed = node.config.seed ^ entry.id().0.as_u64_pair().1;
        let driver = node.drivers.of(entry.desired.kind).clone();
        Self {
            node,
            driver,
            entry,
            seen: Seen::Unknown,
            image: None,
            boot_failure: None,
            exit: None,
            boot: None,
            health: None,
            asks: None,
            trouble: None,
            tries: Tries::new(RETRY, seed),
            shown,
        }
    }

    /// Owns the instance until nothing is left of it, or until the agent stops.
    pub(crate) async fn run(mut self, mut mailbox: watch::Receiver<Order>, task: Task) {
        let stop = task.stopping().clone();
        loop {
            self.accept(&mut mailbox);
            match self.next() {
                Step::Rest { until } => {
                    self.settled();
                    self.show();
                    task.idle(self.line(), until);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = self.rest(until, &mut mailbox) => {}
                    }
                }
                Step::Forget => {
                    if self.forget(&mailbox) {
                        return;
                    }
                }
                step => {
                    self.show();
                    task.working(format!("{step:?}"));
                    let outcome = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = pointless(mailbox.clone(), &step) => None,
                        result = self.act(&step) => Some(result),
                    };
                    self.after(&step, outcome);
                }
            }
        }
    }

    /// Takes the newest order.
    fn accept(&mut self, mailbox: &mut watch::Receiver<Order>) {
        if !mailbox.has_changed().unwrap_or(false) {
            return;
        }
        let order = mailbox.borrow_and_update().clone();
        if matches!(self.entry.phase, Phase::Removing | Phase::Removed) {
            // What has begun is finished; `forget` looks at the order again.
            return;
        }
        match order {
            Order::Keep(desired) => self.entry.desired = (*desired).clone(),
            Order::Orphan => self.entry.desired.deleting = true,
        }
        self.trouble = None;
        self.tries.succeeded();
        if self.entry.phase != Phase::New
            && let Err(error) = self.save()
        {
            tracing::warn!(instance = %self.entry.id(), %error, "an order could not be written down; the next step tries again");
        }
    }

    fn next(&self) -> Step {
        let now = self.node.clock.now();
        if let Some(trouble) = self.trouble.as_ref().filter(|trouble| trouble.until > now) {
            return Step::Rest { until: Some(trouble.until) };
        }
        decide(View {
            entry: &self.entry,
            seen: &self.seen,
            gathered: self.image.is_some(),
            boot_failure: self.boot_failure.as_ref(),
            boot_id: self.node.boot(),
            now,
        })
    }

    /// There is nothing to do: what was wanted is carried out, unless a step only waits to be tried again.
    fn settled(&mut self) {
        let now = self.node.clock.now();
        self.trouble = self.trouble.take().filter(|trouble| trouble.until > now);
        if self.trouble.is_none() {
            self.entry.caught_up = self.entry.desired.generation;
        }
    }

    /// What came of a step; `None` if it was dropped.
    fn after(&mut self, step: &Step, outcome: Option<Result<()>>) {
        match outcome {
            None => self.seen = Seen::Unknown,
            Some(Ok(())) => {
                self.trouble = None;
                // Looking always works when nothing else does: it must not shorten the pauses.
                if *step != Step::Look {
                    self.tries.succeeded();
                }
            }
            Some(Err(error)) if matches!(step, Step::Gather | Step::Prepare | Step::Start) && !self.seen.live() => {
                self.image = None;
                self.seen = Seen::Unknown;
                let settled =
                    could_not_start(&self.entry, error.kind, error.reason, error.message, self.node.clock.now());
                if let Err(error) = self.settle(&settled) {
                    self.stumble(error);
                }
            }
            // What was seen is still true as far as anybody knows: the watcher of the process goes on.
            Some(Err(error)) => self.stumble(error),
        }
    }

    /// A step failed: it is tried again after a pause.
    fn stumble(&mut self, error: DriverError) {
        let pause = self.tries.failed();
        tracing::warn!(instance = %self.entry.id(), %error, ?pause, "a step failed and will be tried again");
        let what = Ending { failed: true, ran: true, reason: error.reason.to_owned(), message: error.message };
        self.trouble = Some(Trouble { what, until: after(self.node.clock.now(), pause) });
    }

    /// Waits for the first thing that happens.
    async fn rest(&mut self, moment: Option<Timestamp>, mailbox: &mut watch::Receiver<Order>) {
        self.watch();
        let clock = self.node.clock.clone();
        let alarm = async {
            match moment {
                Some(moment) => clock.sleep(until(&*clock, moment)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            // The registry holds the sender for as long as the owner lives.
            _ = mailbox.changed() => mailbox.mark_changed(),
            exit = first(&mut self.exit) => self.ended(exit),
            answer = first(&mut self.boot) => self.answered(answer),
            answer = first(&mut self.health) => self.asked(answer),
            () = alarm => {}
        }
    }

    /// Begins to watch what should be watched.
    fn watch(&mut self) {
        let Some(handle) = self.entry.handle.clone().filter(|_| self.seen.live() && self.entry.phase == Phase::Running)
        else {
            self.unwatch();
            return;
        };
        if self.exit.is_none() {
            let (driver, handle) = (self.driver.clone(), handle.clone());
            self.exit = Some(Box::pin(async move { driver.wait(&handle).await }));
        }
        if self.boot.is_none() && !self.entry.answered && self.boot_failure.is_none() && self.seen == Seen::Running {
            self.boot = Some(self.ask_guest(handle.clone(), Duration::ZERO));
        }
        self.watch_health(handle);
    }

    /// Plans the next question about its health. A frozen one cannot answer.
    fn watch_health(&mut self, handle: InstanceHandle) {
        let check = self.entry.desired.spec.container.health.clone().filter(|_| self.seen == Seen::Running);
        if check != self.asks {
            self.health = None;
            if check.is_none() && self.seen == Seen::Running {
                self.entry.health = None;
            }
            self.asks.clone_from(&check);
        }
        let Some(check) = check.filter(|_| self.health.is_none()) else { return };
        // The first one comes soon: most programs are ready at once, and whoever waits for health waits for that.
        let starting = self.entry.health.as_ref().is_none_or(|health| health.state == HealthState::Starting);
        let pause = check.interval.duration().min(if starting { FIRST_QUESTIONS } else { Duration::MAX });
        let asker = Asker {
            node: self.node.clone(),
            driver: self.driver.clone(),
            handle,
            check,
            host: self.entry.desired.domain(),
        };
        self.health = Some(Box::pin(asker.ask(pause)));
    }

    /// An answer about its health came. Only what changes something for anybody is told.
    fn asked(&mut self, answer: Answer) {
        let Some(check) = self.asks.clone() else { return };
        let before = self.entry.health.clone().unwrap_or_default();
        let now = health::judge(&check, &before, self.entry.started, answer, self.node.clock.now());
        let told = (before.state, before.failures, &before.output) != (now.state, now.failures, &now.output);
        if now.state != before.state {
            let output = now.output.as_deref().unwrap_or_default();
            let (severity, reason) = match now.state {
                HealthState::Unhealthy => (Severity::Warning, "Unhealthy"),
                _ => (Severity::Normal, "Healthy"),
            };
            self.node.events.tell(self.entry.id(), severity, reason, format!("its health check says: {output}"));
        }
        if told || before.checked.is_none() {
            let changed = now.state != before.state;
            self.entry.health = Some(now);
            if changed && let Err(error) = self.save() {
                self.stumble(error);
            }
        }
    }

    /// Drops the watchers: what they watched is not there any more.
    pub(crate) fn unwatch(&mut self) {
        self.exit = None;
        self.boot = None;
        self.health = None;
        self.asks = None;
    }

    fn ask_guest(&self, handle: InstanceHandle, pause: Duration) -> BoxFuture<'static, Result<()>> {
        let timeout = Duration::from_secs(u64::from(self.entry.desired.spec.vm.boot_timeout.unwrap_or(BOOT_TIMEOUT)));
        let end = after(self.entry.started.unwrap_or_else(|| self.node.clock.now()), timeout);
        let (driver, clock) = (self.driver.clone(), self.node.clock.clone());
        Box::pin(async move {
            clock.sleep(pause).await;
            driver.ready(&handle, until(&*clock, end).max(ASK_AGAIN)).await
        })
    }

    fn ended(&mut self, exit: Result<Option<Exit>>) {
        self.unwatch();
        match exit {
            Ok(exit) => self.seen = Seen::Ended(exit),
            Err(error) => {
                self.seen = Seen::Unknown;
                self.stumble(error);
            }
        }
    }

    fn answered(&mut self, answer: Result<()>) {
        match answer {
            Ok(()) => {
                self.entry.answered = true;
                if let Err(error) = self.save() {
                    self.stumble(error);
                }
            }
            Err(error) if error.reason == "BootTimeout" => {
                self.boot_failure =
                    Some(Ending { failed: true, ran: true, reason: "BootTimeout".into(), message: error.message });
            }
            Err(error) => {
                tracing::debug!(instance = %self.entry.id(), %error, "cannot tell whether the guest answers; asking again");
                self.boot = self.entry.handle.clone().map(|handle| self.ask_guest(handle, ASK_AGAIN));
            }
        }
    }

    /// Writes the entry down.
    pub(crate) fn save(&self) -> Result<()> {
        let write = self.node.ledger.write(&self.entry);
        write.map_err(|error| {
            DriverError::io(format!("write the ledger entry of instance {}", self.entry.desired.name), error)
        })
    }

    /// Tells the control plane and the sessions what is true now.
    pub(crate) fn show(&self) {
        let trouble = self.trouble.as_ref().map(|trouble| &trouble.what);
        let report = report(&self.entry, Around { seen: &self.seen, trouble, accel: self.node.accel() });
        if let Some(report) = &report {
            self.node.outbox.push(report.clone());
        }
        self.shown.send_replace(Shown { handle: self.entry.handle.clone(), live: self.seen.live(), report });
    }

    fn line(&self) -> String {
        let trouble = self.trouble.as_ref().map(|trouble| trouble.what.message.as_str());
        format!("{:?}{}", self.entry.phase, trouble.map(|why| format!(": {why}")).unwrap_or_default())
    }

    /// The last step. `true` if the owner has nothing to own any more.
    fn forget(&mut self, mailbox: &watch::Receiver<Order>) -> bool {
        let id = self.entry.id();
        if let Err(error) = self.node.ledger.forget(id) {
            tracing::error!(instance = %id, %error, "the ledger entry of a removed instance stays; the next start of the agent removes it");
        }
        self.show();
        if self.node.leave(id, mailbox) {
            images::released(&self.node, &self.entry.desired.image.digest);
            return true;
        }
        let Order::Keep(desired) = mailbox.borrow().clone() else { return true };
        self.unwatch();
        self.entry = Entry::new((*desired).clone());
        (self.seen, self.image, self.boot_failure) = (Seen::Unknown, None, None);
        false
    }

    /// True if it is a machine whose guest has to answer.
    pub(crate) fn has_guest(&self) -> bool {
        self.entry.desired.kind == InstanceKind::Vm
    }
}

/// Keeps an instance owned: an owner that panics is replaced by one that goes on from the ledger, as after a crash of the whole agent.
pub(crate) async fn supervise(
    node: Arc<Node>,
    entry: Entry,
    mailbox: watch::Receiver<Order>,
    shown: watch::Sender<Shown>,
    task: Task,
) {
    let (id, last) = (entry.id(), entry.desired.clone());
    let mut entry = entry;
    loop {
        let owner = Owner::new(node.clone(), entry, shown.clone());
        let Err(panic) = AssertUnwindSafe(owner.run(mailbox.clone(), task.clone())).catch_unwind().await else {
            return;
        };
        let text = panic_text(&*panic);
        tracing::error!(instance = %id, panic = text, "the owner of an instance panicked and is replaced; this is a defect: please report it with this log");
        task.failed(format!("panicked: {text}"), Some(after(node.clock.now(), ASK_AGAIN)));
        tokio::select! {
            biased;
            () = task.stopping().cancelled() => return,
            () = node.clock.sleep(ASK_AGAIN) => {}
        }
        // Without an entry its removal was done but for the last word: removing it again does no harm.
        let order = mailbox.borrow().clone();
        entry = node.ledger.read(id).unwrap_or_else(|| match order {
            Order::Keep(desired) => Entry::new((*desired).clone()),
            Order::Orphan => Entry::new(DesiredInstance { deleting: true, ..last.clone() }),
        });
    }
}

/// Resolves when the order makes this step pointless.
async fn pointless(mut mailbox: watch::Receiver<Order>, step: &Step) {
    let starts = matches!(step, Step::Gather | Step::Prepare | Step::Start);
    let removes = matches!(step, Step::Remove);
    let void = |order: &Order| match order {
        order if order.goes() => !removes,
        Order::Keep(desired) => starts && desired.spec.power == Power::Stopped,
        Order::Orphan => false,
    };
    if mailbox.wait_for(void).await.is_err() {
        pending().await
    }
}

/// The result of a watcher, once; never if there is none.
async fn first<T>(watcher: &mut Option<BoxFuture<'static, T>>) -> T {
    match watcher {
        Some(future) => {
            let result = future.await;
            *watcher = None;
            result
        }
        None => pending().await,
    }
}
