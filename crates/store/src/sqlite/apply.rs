//! What the jobs of one batch do to the tables, inside the transaction that the writer has open.
//!
//! A job is checked whole before it writes anything: a refused one leaves no trace, so the batch goes on without it.

use super::lease::LeaseBook;
use super::read;
use super::ring::Revision;
use super::schema::{LogId, Meta};
use crate::error::StoreError;
use crate::kv::{Event, Key, KeyRange, Kv};
use crate::lease::{Lease, LeaseId};
use crate::limits;
use crate::rev::Rev;
use crate::txn::{Op, OpResult, Txn, TxnOut};
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::time::Duration;

/// Why a job stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The job is refused; nothing was written for it.
    Refused(StoreError),
    /// The database failed; the whole batch must be rolled back.
    Broken(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(e: rusqlite::Error) -> Self {
        Stop::Broken(e)
    }
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Stop::Refused(e)
    }
}

type Step<T> = Result<T, Stop>;

/// The batch under way.
pub(super) struct Work<'a> {
    pub(super) conn: &'a Connection,
    pub(super) leases: &'a mut LeaseBook,
    /// The numbers of the state, with what this batch changed.
    pub(super) meta: Meta,
    /// Why puts are refused, if they are.
    pub(super) full: Option<StoreError>,
    /// Finished revisions.
    pub(super) revisions: Vec<Revision>,
    pub(super) now: Duration,
}

/// A live key as the batch sees it; `kv` has no value.
struct Current {
    id: i64,
    kv: Kv,
}

/// The revision that one job makes.
struct Change {
    n: u64,
    sub: u16,
    events: Vec<Event>,
}

impl Change {
    fn next_id(&mut self) -> LogId {
        let id = LogId::new(self.n, self.sub);
        self.sub += 1;
        id
    }
}

impl Work<'_> {
    fn rev(&self, n: u64) -> Rev {
        Rev::new(self.meta.epoch, n)
    }

    fn begin(&self) -> Change {
        Change { n: self.meta.head + 1, sub: 0, events: Vec::new() }
    }

    /// Makes a revision of what happened; nothing happened, no revision.
    fn finish(&mut self, change: Change) -> Rev {
        if !change.events.is_empty() {
            self.meta.head = change.n;
            self.revisions.push(Revision { n: change.n, events: change.events });
        }
        self.rev(self.meta.head)
    }

    pub(super) fn txn(&mut self, txn: &Txn) -> Step<TxnOut> {
        // What the comparisons looked up serves the puts of the same keys.
        let mut seen: HashMap<&Key, Option<Current>> = HashMap::new();
        let mut succeeded = true;
        for cmp in &txn.cmps {
            if !seen.contains_key(cmp.key()) {
                seen.insert(cmp.key(), self.current(cmp.key())?);
            }
            let found = seen.get(cmp.key()).and_then(Option::as_ref);
            if !cmp.holds(found.map(|current| &current.kv)) {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { &txn.then } else { &txn.or_else };
        self.check(ops)?;
        let mut change = self.begin();
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(match op {
                Op::Put { key, value, lease } => {
                    let old = seen.remove(key).map_or_else(|| self.current(key), Ok)?;
                    self.put(&mut change, key, value, *lease, old)?;
                    OpResult::Put
                }
                Op::Del(key) => {
                    let old = seen.remove(key).map_or_else(|| self.current(key), Ok)?;
                    OpResult::Del(self.del(&mut change, old)?)
                }
                Op::DelRange(range) => OpResult::Del(self.del_range(&mut change, range)?),
                Op::Get(key) => OpResult::Get(self.get(key)?),
            });
        }
        let rev = self.finish(change);
        Ok(TxnOut { rev, succeeded, results })
    }

    /// Refuses what must not start: full state, ended or crowded leases, too much to delete at once.
    fn check(&self, ops: &[Op]) -> Step<()> {
        let mut attached: HashMap<LeaseId, usize> = HashMap::new();
        let mut deleted = 0;
        for op in ops {
            match op {
                Op::Put { lease, key, .. } => {
                    if let Some(full) = &self.full {
                        return Err(full.clone().into());
                    }
                    let Some(id) = lease else { continue };
                    let living = self.leases.get(*id).ok_or(StoreError::LeaseGone { id: *id })?;
                    let count = attached.entry(*id).or_insert(living.keys.len());
                    *count += usize::from(!living.keys.contains(key));
                    too_large(
                        "the number of keys on one lease",
                        *count,
                        limits::MAX_LEASE_KEYS,
                        "spread the keys over several leases",
                    )?;
                }
                Op::DelRange(range) => deleted += self.count(range, limits::MAX_DELETED + 1)?,
                Op::Del(_) | Op::Get(_) => {}
            }
        }
        too_large(
            "the number of keys to delete",
            deleted,
            limits::MAX_DELETED,
            "delete smaller ranges one after the other",
        )
    }

    fn put(
        &mut self,
        change: &mut Change,
        key: &Key,
        value: &Bytes,
        lease: Option<LeaseId>,
        old: Option<Current>,
    ) -> Step<()> {
        let id = change.next_id();
        let rev = self.rev(change.n);
        let prev = old.as_ref().map_or(0, |old| old.id);
        let (create_rev, version) = old.as_ref().map_or((rev, 1), |old| (old.kv.create_rev, old.kv.version + 1));
        let lease_id = lease.map(|lease| lease.0);
        self.log(id, prev, create_rev.n, version, lease_id, key, Some(value))?;
        let bytes = key.as_bytes();
        if let Some(old) = old {
            let sql = "UPDATE head SET id=?2, version=?3, lease=?4 WHERE key=?1";
            self.conn.prepare_cached(sql)?.execute(params![bytes, id.0, version, lease_id])?;
            if let Some(before) = old.kv.lease.filter(|before| lease != Some(*before)) {
                self.leases.detach(before, key);
            }
        } else {
            let sql = "INSERT INTO head(key, id, create_rev, version, lease) VALUES(?1, ?2, ?3, ?4, ?5)";
            self.conn.prepare_cached(sql)?.execute(params![bytes, id.0, create_rev.n, version, lease_id])?;
        }
        if let Some(lease) = lease {
            self.leases.attach(lease, key);
        }
        let kv = Kv { key: key.clone(), value: value.clone(), create_rev, mod_rev: rev, version, lease };
        change.events.push(Event::Put(kv));
        Ok(())
    }

    fn del(&mut self, change: &mut Change, old: Option<Current>) -> Step<usize> {
        let Some(Current { id: prev, kv }) = old else { return Ok(0) };
        let id = change.next_id();
        self.log(id, prev, 0, 0, None, &kv.key, None)?;
        self.conn.prepare_cached("DELETE FROM head WHERE key=?1")?.execute(params![kv.key.as_bytes()])?;
        if let Some(lease) = kv.lease {
            self.leases.detach(lease, &kv.key);
        }
        change.events.push(Event::Delete(kv.key));
        Ok(1)
    }

    fn del_range(&mut self, change: &mut Change, range: &KeyRange) -> Step<usize> {
        let mut found = Vec::new();
        {
            let sql = "SELECT key FROM head WHERE key >= ?1 AND key < ?2 ORDER BY key";
            let mut statement = self.conn.prepare_cached(sql)?;
            let mut rows = statement.query(params![range.from().as_bytes(), read::upper(range)])?;
            while let Some(row) = rows.next()? {
                found.push(read::key(row, 0)?);
            }
        }
        for key in &found {
            let old = self.current(key)?;
            self.del(change, old)?;
        }
        Ok(found.len())
    }

    #[allow(clippy::too_many_arguments, reason = "the columns of one row")]
    fn log(
        &self,
        id: LogId,
        prev: i64,
        create: u64,
        version: u64,
        lease: Option<i64>,
        key: &Key,
        value: Option<&Bytes>,
    ) -> Step<()> {
        let sql =
            "INSERT INTO log(id, prev, create_rev, version, lease, key, value) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let value = value.map(|value| &value[..]);
        self.conn.prepare_cached(sql)?.execute(params![id.0, prev, create, version, lease, key.as_bytes(), value])?;
        Ok(())
    }

    fn current(&self, key: &Key) -> Step<Option<Current>> {
        let sql = "SELECT id, create_rev, version, lease FROM head WHERE key=?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![key.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let id = row.get(0)?;
        let kv = Kv {
            key: key.clone(),
            value: Bytes::new(),
            create_rev: self.rev(row.get(1)?),
            mod_rev: self.rev(LogId(id).n()),
            version: row.get(2)?,
            lease: row.get::<_, Option<i64>>(3)?.map(LeaseId),
        };
        Ok(Some(Current { id, kv }))
    }

    fn get(&self, key: &Key) -> Step<Option<Kv>> {
        let Some(Current { id, mut kv }) = self.current(key)? else { return Ok(None) };
        let mut statement = self.conn.prepare_cached("SELECT value FROM log WHERE id=?1")?;
        kv.value = statement.query_row(params![id], |row| row.get::<_, Vec<u8>>(0))?.into();
        Ok(Some(kv))
    }

    fn count(&self, range: &KeyRange, limit: usize) -> Step<usize> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM head WHERE key >= ?1 AND key < ?2 LIMIT ?3)";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row(params![range.from().as_bytes(), read::upper(range), limit as i64], |row| row.get(0))?)
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Step<Lease> {
        self.meta.lease += 1;
        // The epoch in front keeps ids of before a restore from naming leases of after it.
        let id = LeaseId(i64::from(self.meta.epoch) << 40 | self.meta.lease as i64);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Meta::set(self.conn, "lease", self.meta.lease as i64)?;
        self.conn.prepare_cached("INSERT INTO lease(id, ttl_ms) VALUES(?1, ?2)")?.execute(params![id.0, ttl_ms])?;
        self.leases.grant(id, ttl, self.now);
        Ok(Lease { id, ttl })
    }

    /// Ends a lease and deletes its keys in one revision.
    pub(super) fn revoke(&mut self, id: LeaseId) -> Step<()> {
        let living = self.leases.remove(id).ok_or(StoreError::LeaseGone { id })?;
        let mut change = self.begin();
        for key in &living.keys {
            let old = self.current(key)?;
            self.del(&mut change, old)?;
        }
        self.conn.prepare_cached("DELETE FROM lease WHERE id=?1")?.execute(params![id.0])?;
        self.finish(change);
        Ok(())
    }

    /// Moves the start of history; the rows go later, little by little.
    pub(super) fn compact(&mut self, to: u64) -> Step<()> {
        if to > self.meta.compacted {
            Meta::set(self.conn, "compacted", to as i64)?;
            self.meta.compacted = to;
        }
        Ok(())
    }

    /// Puts the numbers into the database; the last step before the commit.
    pub(super) fn seal(&self) -> rusqlite::Result<()> {
        if self.revisions.is_empty() { Ok(()) } else { Meta::set(self.conn, "head", self.meta.head as i64) }
    }
}

fn too_large(what: &'static str, size: usize, limit: usize, hint: &'static str) -> Step<()> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit, hint }.into()) } else { Ok(()) }
}
