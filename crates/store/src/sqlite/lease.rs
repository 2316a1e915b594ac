//! The leases in memory: deadlines on the monotonic clock, and which keys die with which lease.
//!
//! Keep-alives are not written to disk: after a restart every lease has its full time again, as in etcd.

use crate::kv::Key;
use crate::lease::LeaseId;
use rusqlite::Connection;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// One living lease.
#[derive(Debug)]
pub(super) struct Living {
    pub(super) ttl: Duration,
    /// It may end from here on.
    pub(super) deadline: Duration,
    pub(super) keys: BTreeSet<Key>,
}

/// All living leases.
#[derive(Debug, Default)]
pub(super) struct LeaseBook {
    leases: HashMap<LeaseId, Living>,
    /// No deadline is earlier than this one.
    earliest: Option<Duration>,
}

impl LeaseBook {
    /// Reads the leases; one that `before` knows keeps its deadline, others get their full time.
    pub(super) fn load(conn: &Connection, now: Duration, before: &LeaseBook) -> rusqlite::Result<LeaseBook> {
        let mut book = LeaseBook::default();
        let mut statement = conn.prepare_cached("SELECT id, ttl_ms FROM lease")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = LeaseId(row.get(0)?);
            let ttl = Duration::from_millis(row.get(1)?);
            let deadline = before.leases.get(&id).map_or(now + ttl, |living| living.deadline);
            book.insert(id, ttl, deadline);
        }
        let mut statement = conn.prepare_cached("SELECT key, lease FROM head WHERE lease IS NOT NULL")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            book.attach(LeaseId(row.get(1)?), &super::read::key(row, 0)?);
        }
        Ok(book)
    }

    fn insert(&mut self, id: LeaseId, ttl: Duration, deadline: Duration) {
        self.leases.insert(id, Living { ttl, deadline, keys: BTreeSet::new() });
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        self.insert(id, ttl, now + ttl);
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Living> {
        self.leases.get(&id)
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Option<Duration> {
        let living = self.leases.get_mut(&id)?;
        living.deadline = now + living.ttl;
        Some(living.ttl)
    }

    /// Takes a lease out, with its keys.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Living> {
        self.leases.remove(&id)
    }

    pub(super) fn attach(&mut self, id: LeaseId, key: &Key) {
        if let Some(living) = self.leases.get_mut(&id) {
            living.keys.insert(key.clone());
        }
    }

    pub(super) fn detach(&mut self, id: LeaseId, key: &Key) {
        if let Some(living) = self.leases.get_mut(&id) {
            living.keys.remove(key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Time until a deadline can come; `None` without leases.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.earliest.map(|earliest| earliest.saturating_sub(now))
    }

    /// The leases whose time is over.
    pub(super) fn due(&mut self, now: Duration) -> Vec<LeaseId> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        // Keep-alives only move deadlines away, so the bound may be too early: find the true one now.
        self.earliest = self.leases.values().map(|living| living.deadline).min();
        self.leases.iter().filter(|(_, living)| living.deadline <= now).map(|(id, _)| *id).collect()
    }
}
