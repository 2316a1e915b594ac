//! The writer: one thread that turns queued jobs into commits. It alone changes the database, the leases and the ring.
//!
//! All jobs of a batch share one transaction and one sync. Refused jobs drop out alone. When the database fails before the commit, every job
//! runs again in a transaction of its own, so one that cannot be written (a full disk) does not take the others with it. When the commit
//! itself fails, all its jobs get `Unknown`; after a failed sync the writer stops for good, since a later sync may hide the loss.

use super::apply::{Stop, Work};
use super::lease::LeaseBook;
use super::ring::Revision;
use super::schema::Meta;
use super::sweep::Sweep;
use super::{Options, Published, Shared, read};
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::lease::{Lease, LeaseId, LeaseLeft};
use crate::rev::Rev;
use crate::txn::{Txn, TxnOut};
use rusqlite::{Connection, ErrorCode, ffi};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Most jobs of one commit.
const BATCH_JOBS: usize = 512;
/// KiB of values after which a batch closes, so that one commit stays a bounded piece of work.
const BATCH_KIB: usize = 8 * 1024;
/// Shortest pause before leases are looked at again, also when ending them fails.
const LEASE_PAUSE: Duration = Duration::from_millis(50);

/// Where the answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// One request.
pub(super) enum Job {
    Txn(Txn, Reply<TxnOut>),
    Grant(Duration, Reply<Lease>),
    KeepAlive(LeaseId, Reply<Lease>),
    Revoke(LeaseId, Reply<()>),
    Remaining(LeaseId, Reply<LeaseLeft>),
    Compact(Rev, Reply<()>),
    Expire(Reply<()>),
}

/// A request with the room that it holds in the queue.
pub(super) struct Queued {
    pub(super) job: Job,
    pub(super) permit: OwnedSemaphorePermit,
}

/// What a job gives, before the commit.
enum Answer {
    Txn(TxnOut),
    Lease(Lease),
    Left(LeaseLeft),
    Done,
    /// Answered when the rows up to this revision are removed.
    Swept(u64),
}

/// Why a batch failed as a whole.
#[derive(Clone, Debug)]
enum Failure {
    /// Nothing of it happened.
    Definite(StoreError),
    /// It may or may not have happened.
    Unknown(String),
}

/// The writer itself.
pub(super) struct Writer {
    conn: Connection,
    meta: Meta,
    leases: LeaseBook,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    keep_revisions: u64,
    sweep: Sweep,
    /// Set after a failed sync: nothing more is written.
    dead: Option<String>,
}

impl Writer {
    pub(super) fn new(conn: Connection, meta: Meta, shared: Arc<Shared>, options: &Options) -> rusqlite::Result<Self> {
        let clock = Arc::clone(&options.clock);
        let leases = LeaseBook::load(&conn, clock.now(), &LeaseBook::default())?;
        shared.leases.store(leases.len(), Ordering::Relaxed);
        let sweep = Sweep::new(meta);
        Ok(Writer { conn, meta, leases, shared, clock, keep_revisions: options.keep_revisions, sweep, dead: None })
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Receiver<Queued>) {
        let mut batch = Vec::with_capacity(BATCH_JOBS);
        while self.fill(queue, &mut batch) {
            self.end_leases();
            self.run_batch(&mut batch);
            self.sweep();
        }
    }

    /// Waits for jobs and takes all that are there. `false` when no job can come any more; no job when other work is due.
    fn fill(&mut self, queue: &Receiver<Queued>, batch: &mut Vec<Queued>) -> bool {
        let wait = if self.sweep.is_due() {
            Some(Duration::ZERO)
        } else {
            self.leases.wait(self.clock.now()).map(|wait| wait.max(LEASE_PAUSE))
        };
        let first = match wait {
            Some(wait) => queue.recv_timeout(wait),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(job) => batch.push(job),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        let mut kib = batch.iter().map(|queued| queued.permit.num_permits()).sum::<usize>();
        while batch.len() < BATCH_JOBS && kib < BATCH_KIB {
            let Ok(job) = queue.try_recv() else { break };
            kib += job.permit.num_permits();
            batch.push(job);
        }
        true
    }

    fn run_batch(&mut self, batch: &mut Vec<Queued>) {
        if batch.is_empty() {
            return;
        }
        match self.attempt(batch) {
            Ok(outcomes) => {
                for (queued, outcome) in batch.drain(..).zip(outcomes) {
                    self.answer(queued, outcome);
                }
            }
            Err(Failure::Definite(_)) if batch.len() > 1 => {
                for queued in batch.drain(..) {
                    let outcome = self.attempt(std::slice::from_ref(&queued));
                    let outcome = outcome.map_or_else(|failure| Err(failure.answer()), |mut one| one.remove(0));
                    self.answer(queued, outcome);
                }
            }
            Err(failure) => {
                for queued in batch.drain(..) {
                    self.answer(queued, Err(failure.answer()));
                }
            }
        }
    }

    /// Runs jobs in one transaction. `Ok` means that they are durable and published.
    fn attempt(&mut self, jobs: &[Queued]) -> Result<Vec<Result<Answer>>, Failure> {
        self.transact(|work| {
            let mut outcomes = Vec::with_capacity(jobs.len());
            for queued in jobs {
                outcomes.push(match queued.job.apply(work) {
                    Ok(answer) => Ok(answer),
                    Err(Stop::Refused(e)) => Err(e),
                    Err(Stop::Broken(e)) => return Err(e),
                });
            }
            Ok(outcomes)
        })
    }

    /// Ends the leases whose time is over. A failure is tried again with the next batch or pause.
    fn end_leases(&mut self) {
        let due = self.leases.due(self.clock.now());
        if due.is_empty() || self.dead.is_some() {
            return;
        }
        let ended = self.transact(|work| {
            for id in due {
                match work.revoke(id) {
                    Ok(()) | Err(Stop::Refused(_)) => {}
                    Err(Stop::Broken(e)) => return Err(e),
                }
            }
            Ok(())
        });
        if let Err(failure) = ended {
            tracing::warn!(error = %failure.answer(), "leases that are over cannot be ended now");
        }
    }

    fn transact<T>(&mut self, body: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T>) -> Result<T, Failure> {
        if let Some(cause) = &self.dead {
            return Err(Failure::Definite(StoreError::Closed { op: "write", cause: cause.clone() }));
        }
        let (out, meta, revisions) = match self.transact_inner(body) {
            Ok(done) => done,
            Err((e, committing)) => return Err(self.failed(&e, committing)),
        };
        self.publish(meta, revisions);
        Ok(out)
    }

    /// The error says whether the commit itself failed.
    fn transact_inner<T>(
        &mut self,
        body: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T>,
    ) -> Result<(T, Meta, Vec<Revision>), (rusqlite::Error, bool)> {
        let early = |e| (e, false);
        execute(&self.conn, "BEGIN IMMEDIATE").map_err(early)?;
        let full = self.full().map_err(early)?;
        let mut work = Work {
            conn: &self.conn,
            leases: &mut self.leases,
            meta: self.meta,
            full,
            revisions: Vec::new(),
            now: self.clock.now(),
        };
        let out = body(&mut work).map_err(early)?;
        let head = work.meta.head;
        // In steps of a quarter, so that the start of history does not move with every commit.
        if head.saturating_sub(work.meta.compacted) > self.keep_revisions.saturating_add(self.keep_revisions / 4) {
            work.compact(head - self.keep_revisions).map_err(|stop| match stop {
                Stop::Broken(e) => early(e),
                Stop::Refused(_) => early(rusqlite::Error::InvalidQuery),
            })?;
        }
        work.seal().map_err(early)?;
        let (meta, revisions) = (work.meta, work.revisions);
        commit(&self.conn).map_err(|e| (e, true))?;
        Ok((out, meta, revisions))
    }

    /// Why puts are refused now, if they are.
    fn full(&self) -> rusqlite::Result<Option<StoreError>> {
        let size = read::size(&self.conn)?;
        let full = || {
            let cause = format!("it uses {} MiB of at most {} MiB", size >> 20, self.shared.hard >> 20);
            StoreError::NoSpace { cause, place: self.shared.dir.display().to_string() }
        };
        Ok((size >= self.shared.hard).then(full))
    }

    /// Shows a commit to readers and watchers, before its callers hear of it.
    fn publish(&mut self, meta: Meta, revisions: Vec<Revision>) {
        fail::fail_point!("store::publish");
        self.meta = Meta { swept: self.meta.swept, ..meta };
        self.sweep.until(meta.compacted);
        self.sweep.retry();
        self.shared.compacted.store(meta.compacted, Ordering::Release);
        self.shared.leases.store(self.leases.len(), Ordering::Relaxed);
        if revisions.is_empty() {
            return;
        }
        let mut ring = self.shared.ring();
        for revision in revisions {
            ring.push(revision);
        }
        drop(ring);
        *self.shared.trouble() = None;
        self.shared.published.send_replace(Published { head: meta.head, closed: false });
    }

    /// Rolls back and says what the failure means.
    fn failed(&mut self, e: &rusqlite::Error, committing: bool) -> Failure {
        // Fails when SQLite rolled back by itself; then there is nothing left to do.
        let _ = execute(&self.conn, "ROLLBACK");
        if let Err(e) = self.reload() {
            self.dead = Some(format!("it cannot be read after a failure: {e}"));
        }
        let place = self.shared.dir.display().to_string();
        let failure = if e.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            Failure::Definite(StoreError::NoSpace { cause: "the disk or the database file has no room".into(), place })
        } else if committing {
            if e.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_FSYNC) {
                self.dead = Some(format!("the disk below {place} failed to sync"));
            }
            Failure::Unknown(e.to_string())
        } else {
            Failure::Definite(StoreError::Io { op: "write", object: place, source: Arc::new(SqlText(e.to_string())) })
        };
        tracing::error!(error = %e, committing, "the state cannot be written");
        *self.shared.trouble() = Some(self.dead.clone().unwrap_or_else(|| failure.answer().to_string()));
        failure
    }

    /// Takes over what the database really holds. A commit that reported a failure may have happened after all.
    fn reload(&mut self) -> rusqlite::Result<()> {
        self.leases = LeaseBook::load(&self.conn, self.clock.now(), &self.leases)?;
        let meta = Meta::load(&self.conn)?;
        if meta.head != self.meta.head {
            self.shared.ring().skip_to(meta.head);
            self.shared.published.send_replace(Published { head: meta.head, closed: false });
        }
        self.shared.compacted.store(meta.compacted, Ordering::Release);
        self.shared.leases.store(self.leases.len(), Ordering::Relaxed);
        self.sweep.until(meta.compacted);
        self.meta = meta;
        Ok(())
    }

    fn answer(&mut self, queued: Queued, outcome: Result<Answer>) {
        // A caller that went away does not want its answer; what it asked for stays done.
        match (queued.job, outcome) {
            (Job::Txn(_, reply), Ok(Answer::Txn(out))) => drop(reply.send(Ok(out))),
            (Job::Grant(_, reply) | Job::KeepAlive(_, reply), Ok(Answer::Lease(lease))) => drop(reply.send(Ok(lease))),
            (Job::Remaining(_, reply), Ok(Answer::Left(left))) => drop(reply.send(Ok(left))),
            (Job::Compact(_, reply), Ok(Answer::Swept(to))) => self.sweep.answer_at(to, reply),
            (Job::Revoke(_, reply) | Job::Expire(reply) | Job::Compact(_, reply), Ok(_)) => drop(reply.send(Ok(()))),
            (Job::Txn(_, reply), outcome) => drop(reply.send(Err(error(outcome)))),
            (Job::Grant(_, reply) | Job::KeepAlive(_, reply), outcome) => drop(reply.send(Err(error(outcome)))),
            (Job::Remaining(_, reply), outcome) => drop(reply.send(Err(error(outcome)))),
            (Job::Revoke(_, reply) | Job::Expire(reply) | Job::Compact(_, reply), Err(e)) => drop(reply.send(Err(e))),
        }
    }

    fn sweep(&mut self) {
        if self.dead.is_none() && self.sweep.is_due() {
            self.sweep.step(&self.conn, &self.shared.dir);
        }
    }
}

/// The error of an outcome; an answer of another kind cannot come, and is told as lost.
fn error(outcome: Result<Answer>) -> StoreError {
    match outcome {
        Err(e) => e,
        Ok(_) => StoreError::Unknown { op: "the request", cause: "the writer mixed up its answers".into() },
    }
}

impl Failure {
    fn answer(&self) -> StoreError {
        match self {
            Failure::Definite(e) => e.clone(),
            Failure::Unknown(cause) => StoreError::Unknown { op: "the write", cause: cause.clone() },
        }
    }
}

impl Job {
    fn apply(&self, work: &mut Work<'_>) -> Result<Answer, Stop> {
        match self {
            Job::Txn(txn, _) => work.txn(txn).map(Answer::Txn),
            Job::Grant(ttl, _) => work.grant(*ttl).map(Answer::Lease),
            Job::Revoke(id, _) => work.revoke(*id).map(|()| Answer::Done),
            Job::KeepAlive(id, _) => {
                let ttl = work.leases.keep_alive(*id, work.now).ok_or(StoreError::LeaseGone { id: *id })?;
                Ok(Answer::Lease(Lease { id: *id, ttl }))
            }
            Job::Remaining(id, _) => {
                let living = work.leases.get(*id).ok_or(StoreError::LeaseGone { id: *id })?;
                let remaining = living.deadline.saturating_sub(work.now);
                Ok(Answer::Left(LeaseLeft { id: *id, ttl: living.ttl, remaining, keys: living.keys.len() }))
            }
            // Leases that are due are ended before every batch.
            Job::Expire(_) => Ok(Answer::Done),
            Job::Compact(rev, _) => {
                if rev.epoch > work.meta.epoch || (rev.epoch == work.meta.epoch && rev.n > work.meta.head) {
                    let reason = format!(
                        "the newest revision is {}; choose one up to it",
                        Rev::new(work.meta.epoch, work.meta.head)
                    );
                    return Err(StoreError::Invalid { object: format!("revision {rev}"), reason }.into());
                }
                // Of an older epoch nothing is left to forget.
                let to = if rev.epoch == work.meta.epoch { rev.n } else { 0 };
                work.compact(to)?;
                Ok(Answer::Swept(to))
            }
        }
    }
}

/// The text of a failure of SQLite, whose own type cannot be shared between the callers that it answers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SqlText(String);

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// The commit with its fail points: die before or after it, or fail in it as a disk does.
fn commit(conn: &Connection) -> rusqlite::Result<()> {
    fail::fail_point!("store::commit", |code| Err(injected(code.as_deref())));
    execute(conn, "COMMIT")?;
    fail::fail_point!("store::committed", |code| Err(injected(code.as_deref())));
    Ok(())
}

/// The failure of SQLite with this extended code.
#[allow(dead_code, reason = "only fail points make it, which normal builds leave out")]
fn injected(code: Option<&str>) -> rusqlite::Error {
    let code = code.and_then(|code| code.parse().ok()).unwrap_or(ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}
