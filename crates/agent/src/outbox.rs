//! Reports on their way to the control plane: only the newest of each instance, sent until it is accepted.
//!
//! States that pass by themselves (preparing, starting, stopping) wait a moment before they are sent: on the way of a quick launch the next
//! one replaces them, and each report that is sent costs the control plane a durable write.

use crate::status::passing;
use fail::fail_point;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use yun_api::node::{ControlLink, LinkError};
use yun_engine::{
    backoff::{Backoff, Tries},
    clock::Clock,
    reconcile::Signal,
    tasks::Task,
};
use yun_types::{InstanceId, InstanceReport, NodeId, ObservedInstance};

/// How long a passing state waits to be replaced.
const PASSING: Duration = Duration::from_millis(200);

/// The pauses while the control plane cannot be reached.
const RETRY: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5), jitter: 30 };

/// What is to be sent, and what was sent last.
#[derive(Debug)]
pub(crate) struct Outbox {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    signal: Signal,
    /// Wakes registration: the control plane does not know this node.
    unknown: Signal,
}

#[derive(Debug, Default)]
struct Inner {
    pending: BTreeMap<InstanceId, Pending>,
    latest: BTreeMap<InstanceId, InstanceReport>,
}

#[derive(Debug, Clone)]
struct Pending {
    report: InstanceReport,
    /// On the monotonic clock.
    due: Duration,
}

impl Outbox {
    /// An empty one. `unknown` is woken when the control plane does not know this node.
    pub(crate) fn new(clock: Arc<dyn Clock>, unknown: Signal) -> Self {
        Self { clock, inner: Mutex::default(), signal: Signal::default(), unknown }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report, if it says anything new.
    pub(crate) fn push(&self, report: InstanceReport) {
        let mut inner = self.lock();
        if inner.latest.get(&report.id) == Some(&report) {
            return;
        }
        let wait = if passing(&report) { PASSING } else { Duration::ZERO };
        let due = self.clock.monotonic() + wait;
        inner.latest.insert(report.id, report.clone());
        inner.pending.insert(report.id, Pending { report, due });
        drop(inner);
        self.signal.wake();
    }

    /// Sends the newest report of every instance again: the control plane may have forgotten them.
    pub(crate) fn repeat(&self) {
        let due = self.clock.monotonic();
        let mut inner = self.lock();
        let all: Vec<_> = inner.latest.values().cloned().collect();
        for report in all {
            inner.pending.entry(report.id).or_insert(Pending { report, due });
        }
        drop(inner);
        self.signal.wake();
    }

    /// Everything, if anything is due; else how long until something is.
    fn take(&self) -> Result<Vec<InstanceReport>, Option<Duration>> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let first = inner.pending.values().map(|pending| pending.due).min();
        if first.is_none_or(|due| due > now) {
            return Err(first.map(|due| due - now));
        }
        let due = |pending: &Pending| pending.due <= now;
        let (taken, left) = std::mem::take(&mut inner.pending).into_iter().partition(|(_, pending)| due(pending));
        inner.pending = left;
        let taken: BTreeMap<InstanceId, Pending> = taken;
        Ok(taken.into_values().map(|pending| pending.report).collect())
    }

    /// These could not be sent: what was not replaced in the meantime waits for the next try.
    fn put_back(&self, reports: Vec<InstanceReport>) {
        let due = self.clock.monotonic();
        let mut inner = self.lock();
        for report in reports {
            inner.pending.entry(report.id).or_insert(Pending { report, due });
        }
    }

    /// These were accepted: what is gone need not be remembered any more.
    fn accepted(&self, reports: &[InstanceReport]) {
        let mut inner = self.lock();
        for report in reports.iter().filter(|report| report.observed == ObservedInstance::Gone) {
            if inner.latest.get(&report.id) == Some(report) {
                inner.latest.remove(&report.id);
            }
        }
    }

    /// Sends, until it is told to stop.
    pub(crate) async fn carry(
        &self,
        link: Arc<dyn ControlLink>,
        mut node: watch::Receiver<Option<NodeId>>,
        seed: u64,
        task: Task,
    ) {
        let mut tries = Tries::new(RETRY, seed);
        let work = async {
            loop {
                let Ok(id) = node.wait_for(Option::is_some).await.map(|id| *id) else { return };
                let Some(id) = id else { return };
                match self.take() {
                    Err(None) => self.signal.woken().await,
                    Err(Some(wait)) => tokio::select! {
                        () = self.signal.woken() => {}
                        () = self.clock.sleep(wait) => {}
                    },
                    Ok(reports) => self.send(&*link, id, reports, &mut tries, &task).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = task.stopping().cancelled() => {}
            () = work => {}
        }
    }

    async fn send(
        &self,
        link: &dyn ControlLink,
        node: NodeId,
        reports: Vec<InstanceReport>,
        tries: &mut Tries,
        task: &Task,
    ) {
        task.working(format!("{} reports", reports.len()));
        fail_point!("agent::before_report");
        // A stop or an error must not lose what is on its way.
        let mut parcel = Parcel { outbox: self, reports };
        match link.report(node, parcel.reports.clone()).await {
            Ok(()) => {
                self.accepted(&parcel.reports);
                parcel.reports.clear();
                tries.succeeded();
                task.idle("sent", None);
            }
            Err(LinkError::Refused(failure)) => {
                let refused = std::mem::take(&mut parcel.reports);
                drop(parcel);
                self.refused(link, node, refused, &failure.message).await;
            }
            Err(error) => {
                drop(parcel);
                if matches!(error, LinkError::NotFound(_)) {
                    self.unknown.wake();
                }
                let pause = tries.failed();
                task.failed(error.to_string(), None);
                self.clock.sleep(pause).await;
            }
        }
    }

    /// One bad report must not hold up the others: each is tried alone, and dropped if it is refused again.
    async fn refused(&self, link: &dyn ControlLink, node: NodeId, reports: Vec<InstanceReport>, why: &str) {
        if let [report] = &reports[..] {
            tracing::warn!(instance = %report.id, why, "the control plane refuses this report; it is dropped");
            self.lock().latest.remove(&report.id);
            return;
        }
        for report in reports {
            match link.report(node, vec![report.clone()]).await {
                Ok(()) => self.accepted(&[report]),
                Err(LinkError::Refused(failure)) => {
                    tracing::warn!(instance = %report.id, why = failure.message, "the control plane refuses this report; it is dropped");
                    self.lock().latest.remove(&report.id);
                }
                Err(_) => self.put_back(vec![report]),
            }
        }
    }
}

/// Reports on their way. What is left in it goes back when it is dropped.
struct Parcel<'a> {
    outbox: &'a Outbox,
    reports: Vec<InstanceReport>,
}

impl Drop for Parcel<'_> {
    fn drop(&mut self) {
        self.outbox.put_back(std::mem::take(&mut self.reports));
    }
}
