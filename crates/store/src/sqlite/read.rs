//! Reading: a few connections of their own, each read in one transaction, so that a page is one revision and always the last commit.

use super::Shared;
use super::ring::Revision;
use super::schema::{self, LogId, Meta};
use crate::error::{Result, StoreError};
use crate::kv::{Event, Key, KeyRange, Kv, Page};
use crate::lease::LeaseId;
use crate::limits;
use crate::rev::Rev;
use crate::snapshot::{Encoder, Header};
use crate::store::Health;
use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most reads at the same time; more wait.
const PARALLEL: usize = 4;
/// Idle connections that are kept.
const KEEP: usize = 2;
/// Rows and bytes after which a slice of the log ends.
const LOG_ROWS: usize = 1000;
const LOG_BYTES: usize = 1 << 20;
/// Greater than every UTF-8 text.
const BEHIND_ALL: &[u8] = &[0xff];
/// Bytes of a snapshot that travel together.
const CHUNK: usize = 256 * 1024;

/// The connections.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    room: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Readers { path, idle: Mutex::default(), room: Arc::new(Semaphore::new(PARALLEL)) }
    }

    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Runs `work` in one read transaction.
    pub(super) fn with<T>(
        &self,
        shared: &Shared,
        op: &'static str,
        work: impl FnOnce(&Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let io = |e| StoreError::io(op, shared.dir.display(), e);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = idle.map_or_else(|| schema::open_reader(&self.path), Ok).map_err(io)?;
        let out = {
            let _txn = conn.unchecked_transaction().map_err(io)?;
            let meta = Meta::load(&conn).map_err(io)?;
            work(&Reader { conn: &conn, meta, shared, op })?
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEEP {
            idle.push(conn);
        }
        Ok(out)
    }
}

/// One read transaction.
pub(super) struct Reader<'a> {
    conn: &'a Connection,
    meta: Meta,
    shared: &'a Shared,
    op: &'static str,
}

/// A part of the log.
#[derive(Debug)]
pub(super) struct LogSlice {
    /// Whole revisions, with the events of the range only; those without are left out.
    pub(super) revisions: Vec<Revision>,
    /// Everything up to here is covered.
    pub(super) upto: u64,
}

impl Reader<'_> {
    fn io(&self, e: rusqlite::Error) -> StoreError {
        StoreError::io(self.op, self.shared.dir.display(), e)
    }

    /// The last committed revision.
    pub(super) fn head(&self) -> u64 {
        self.meta.head
    }

    fn check_kept(&self, asked: Rev) -> Result<()> {
        let kept = asked.epoch == self.meta.epoch && (self.meta.compacted..=self.meta.head).contains(&asked.n);
        if kept { Ok(()) } else { Err(StoreError::Compacted { asked, min: self.shared.rev(self.meta.compacted) }) }
    }

    pub(super) fn range(&self, range: &KeyRange, at: Option<Rev>, limit: usize) -> Result<Page> {
        if let Some(at) = at {
            self.check_kept(at)?;
        }
        let at = at.map_or(self.meta.head, |at| at.n);
        let limit = limit.clamp(1, limits::MAX_PAGE);
        let (kvs, more) = self.rows(range, at, limit).map_err(|e| self.io(e))?;
        Ok(Page { rev: self.shared.rev(at), kvs, more })
    }

    /// Live rows that are old enough, merged with the rows that live ones replaced since: the row of a key at `at` is the `prev` of its
    /// first change after `at`.
    fn rows(&self, range: &KeyRange, at: u64, limit: usize) -> rusqlite::Result<(Vec<Kv>, bool)> {
        let bound = LogId::last_of(at).0;
        let from = range.from().as_bytes();
        let to = upper(range);
        let fetch = (limit + 1) as i64;
        let mut replaced = Vec::new();
        if at < self.meta.head {
            let sql = "SELECT n.key, l.value, l.create_rev, l.id, l.version, l.lease FROM log n JOIN log l ON l.id = n.prev
                       WHERE n.id > ?3 AND n.prev BETWEEN 1 AND ?3 AND n.key >= ?1 AND n.key < ?2 ORDER BY n.key LIMIT ?4";
            let mut statement = self.conn.prepare_cached(sql)?;
            let mut rows = statement.query(params![from, to, bound, fetch])?;
            while let Some(row) = rows.next()? {
                replaced.push(self.kv(row)?);
            }
        }
        let mut replaced = replaced.into_iter().peekable();
        let sql = "SELECT h.key, l.value, h.create_rev, h.id, h.version, h.lease FROM head h JOIN log l ON l.id = h.id
                   WHERE h.key >= ?1 AND h.key < ?2 AND h.id <= ?3 ORDER BY h.key LIMIT ?4";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![from, to, bound, fetch])?;
        let mut page = PageBuilder { kvs: Vec::new(), bytes: 0, limit };
        while let Some(row) = rows.next()? {
            let live = self.kv(row)?;
            while let Some(old) = replaced.next_if(|old| old.key < live.key) {
                if !page.push(old) {
                    return Ok((page.kvs, true));
                }
            }
            if !page.push(live) {
                return Ok((page.kvs, true));
            }
        }
        for old in replaced {
            if !page.push(old) {
                return Ok((page.kvs, true));
            }
        }
        Ok((page.kvs, false))
    }

    fn kv(&self, row: &Row<'_>) -> rusqlite::Result<Kv> {
        Ok(Kv {
            key: key(row, 0)?,
            value: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
            create_rev: self.shared.rev(row.get(2)?),
            mod_rev: self.shared.rev(LogId(row.get(3)?).n()),
            version: row.get(4)?,
            lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
        })
    }

    /// The changes of `range` behind `after`, up to a bounded amount.
    pub(super) fn log(&self, range: &KeyRange, after: u64) -> Result<LogSlice> {
        self.check_kept(self.shared.rev(after))?;
        self.log_rows(range, after).map_err(|e| self.io(e))
    }

    fn log_rows(&self, range: &KeyRange, after: u64) -> rusqlite::Result<LogSlice> {
        let sql = "SELECT key, value, create_rev, id, version, lease FROM log WHERE id > ?1 ORDER BY id";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![LogId::last_of(after).0])?;
        let (mut revisions, mut upto, mut count, mut bytes) = (Vec::<Revision>::new(), after, 0, 0);
        while let Some(row) = rows.next()? {
            let n = LogId(row.get(3)?).n();
            // Only stop between revisions: all events of one come together.
            if n != upto && (count >= LOG_ROWS || bytes >= LOG_BYTES) {
                return Ok(LogSlice { revisions, upto });
            }
            upto = n;
            count += 1;
            let key = key(row, 0)?;
            if !range.contains(&key) {
                continue;
            }
            let event = if row.get_ref(1)? == rusqlite::types::ValueRef::Null {
                Event::Delete(key)
            } else {
                Event::Put(self.kv(row)?)
            };
            if let Event::Put(kv) = &event {
                bytes += kv.value.len();
            }
            match revisions.last_mut() {
                Some(last) if last.n == n => last.events.push(event),
                _ => revisions.push(Revision { n, events: vec![event] }),
            }
        }
        Ok(LogSlice { revisions, upto: self.meta.head })
    }

    pub(super) fn health(&self) -> Result<Health> {
        let size = size(self.conn).map_err(|e| self.io(e))?;
        let full = (size >= self.shared.hard).then(|| "it is full: delete objects that you do not need".to_owned());
        Ok(Health {
            engine: "sqlite",
            head: self.shared.rev(self.meta.head),
            compacted: self.shared.rev(self.meta.compacted),
            size,
            soft: self.shared.soft,
            hard: self.shared.hard,
            leases: self.shared.leases.load(std::sync::atomic::Ordering::Relaxed),
            trouble: self.shared.trouble().clone().or(full),
        })
    }

    /// Sends the state, chunk by chunk. Stops quietly when nobody listens any more: the listener knows why.
    pub(super) fn snapshot(&self, to: &tokio::sync::mpsc::Sender<Vec<u8>>) -> Result<Rev> {
        self.snapshot_rows(to).map_err(|e| self.io(e))?;
        Ok(self.shared.rev(self.meta.head))
    }

    fn snapshot_rows(&self, to: &tokio::sync::mpsc::Sender<Vec<u8>>) -> rusqlite::Result<()> {
        let mut encoder = Encoder::new(Header { rev: self.shared.rev(self.meta.head), last_lease: self.meta.lease });
        let mut statement = self.conn.prepare("SELECT id, ttl_ms FROM lease ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            encoder.lease(LeaseId(row.get(0)?), Duration::from_millis(row.get(1)?));
        }
        let sql = "SELECT h.key, l.value, h.create_rev, h.id, h.version, h.lease FROM head h JOIN log l ON l.id = h.id ORDER BY h.key";
        let mut statement = self.conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            encoder.pair(&self.kv(row)?);
            if encoder.len() >= CHUNK && to.blocking_send(encoder.take()).is_err() {
                return Ok(());
            }
        }
        let _ = to.blocking_send(encoder.finish());
        Ok(())
    }
}

/// Fills a page up to its limits.
struct PageBuilder {
    kvs: Vec<Kv>,
    bytes: usize,
    limit: usize,
}

impl PageBuilder {
    /// `false` when the page is full and `kv` belongs to the next one.
    fn push(&mut self, kv: Kv) -> bool {
        let full = self.kvs.len() >= self.limit
            || (self.bytes + kv.value.len() > limits::MAX_PAGE_BYTES && !self.kvs.is_empty());
        if !full {
            self.bytes += kv.value.len();
            self.kvs.push(kv);
        }
        !full
    }
}

/// First key behind `range`, as the tables compare it.
pub(super) fn upper(range: &KeyRange) -> &[u8] {
    range.to().map_or(BEHIND_ALL, |to| to.as_bytes())
}

/// The key in column `at`.
pub(super) fn key(row: &Row<'_>, at: usize) -> rusqlite::Result<Key> {
    let bytes = row.get_ref(at)?.as_blob()?;
    std::str::from_utf8(bytes).map(Key::from).map_err(rusqlite::Error::from)
}

/// Bytes in use.
pub(super) fn size(conn: &Connection) -> rusqlite::Result<u64> {
    let number = |sql: &str| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let used = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(used * number("PRAGMA page_size")?)
}
