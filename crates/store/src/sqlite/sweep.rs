//! Compaction: removes what history no longer needs, a few rows at a time between commits, and gives pages back to the file system.
//!
//! A row is not needed when a later row with a revision up to the start of history replaced it, or when it is a tombstone up to there. Each
//! row of the log is visited once in its life, so the work keeps pace with the writes.

use super::schema::{LogId, Meta};
use super::writer::Reply;
use crate::error::StoreError;
use rusqlite::{Connection, params};
use std::path::Path;

/// Rows of one step: below the time of a sync, so that writers hardly notice.
const STEP_ROWS: usize = 256;
/// Free pages that stay for the next writes.
const SLACK_PAGES: u64 = 512;
/// Pages given back in one step.
const STEP_PAGES: u64 = 128;

/// How far the removal is.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Rows up to this id are visited.
    done: i64,
    /// Rows up to this id are to be visited.
    until: i64,
    /// A step failed: wait until a commit works again.
    stuck: bool,
    waiting: Vec<(i64, Reply<()>)>,
}

impl Sweep {
    pub(super) fn new(meta: Meta) -> Self {
        Sweep { done: meta.swept, until: LogId::last_of(meta.compacted).0, stuck: false, waiting: Vec::new() }
    }

    /// History now starts at revision `n`.
    pub(super) fn until(&mut self, n: u64) {
        self.until = self.until.max(LogId::last_of(n).0);
    }

    /// A commit worked: so may the next step.
    pub(super) fn retry(&mut self) {
        self.stuck = false;
    }

    pub(super) fn is_due(&self) -> bool {
        self.done < self.until && !self.stuck
    }

    /// Answers `reply` when everything up to revision `n` is removed.
    pub(super) fn answer_at(&mut self, n: u64, reply: Reply<()>) {
        self.waiting.push((LogId::last_of(n).0, reply));
        self.answer();
    }

    fn answer(&mut self) {
        let done = self.done;
        for (_, reply) in self.waiting.extract_if(.., |(at, _)| *at <= done) {
            // Whoever went away does not need to know.
            let _ = reply.send(Ok(()));
        }
    }

    /// One step in a transaction of its own.
    pub(super) fn step(&mut self, conn: &Connection, dir: &Path) {
        match step(conn, self.done, self.until) {
            Ok(done) => {
                self.done = done;
                self.answer();
            }
            Err(e) => {
                tracing::warn!(error = %e, "compaction failed; it goes on after the next write");
                self.stuck = true;
                let text = e.to_string();
                for (_, reply) in self.waiting.drain(..) {
                    let source = std::io::Error::other(text.clone());
                    let _ = reply.send(Err(StoreError::io("compact", dir.display(), source)));
                }
            }
        }
    }
}

fn step(conn: &Connection, done: i64, until: i64) -> rusqlite::Result<i64> {
    let txn = conn.unchecked_transaction()?;
    let mut visited = Vec::with_capacity(STEP_ROWS);
    {
        let sql = "SELECT id, prev, value IS NULL FROM log WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3";
        let mut statement = txn.prepare_cached(sql)?;
        let mut rows = statement.query(params![done, until, STEP_ROWS as i64])?;
        while let Some(row) = rows.next()? {
            visited.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?));
        }
    }
    let reached = if visited.len() < STEP_ROWS { until } else { visited.last().map_or(until, |(id, ..)| *id) };
    {
        let mut delete = txn.prepare_cached("DELETE FROM log WHERE id=?1")?;
        for (id, prev, tombstone) in visited {
            if prev != 0 {
                delete.execute(params![prev])?;
            }
            if tombstone {
                delete.execute(params![id])?;
            }
        }
    }
    Meta::set(&txn, "swept", reached)?;
    give_back(&txn)?;
    fail::fail_point!("store::sweep", |_| Err(rusqlite::Error::InvalidQuery));
    txn.commit()?;
    Ok(reached)
}

/// Shrinks the file when much of it is free.
fn give_back(conn: &Connection) -> rusqlite::Result<()> {
    let number = |sql: &str| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let (free, pages) = (number("PRAGMA freelist_count")?, number("PRAGMA page_count")?);
    if free > SLACK_PAGES.max(pages / 8) {
        // Works page by page while it is stepped.
        let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
