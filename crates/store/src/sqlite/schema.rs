//! The files of a state: tables, format number, and the lock that keeps a second process out.

use super::Options;
use crate::error::{Result, StoreError};
use rusqlite::{Connection, OpenFlags, params};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The newest format that this code reads and writes. Raise it with every change that older code must not touch.
pub(super) const FORMAT: u32 = 1;

/// Pages of the log between two copies into the database file. A copy costs two syncs, so it should not come often.
const CHECKPOINT_PAGES: u32 = 2000;
/// What SQLite may cache for the writer, in KiB; the operating system caches the file once more.
const WRITER_CACHE_KIB: u32 = 4096;

const TABLES: &str = "
    CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
    CREATE TABLE log(
        id INTEGER PRIMARY KEY,      -- revision << 16 | place in the transaction
        prev INTEGER NOT NULL,       -- id of the row that this one replaces, 0 when the key did not exist
        create_rev INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER,
        key BLOB NOT NULL,           -- UTF-8; a blob, so that the order is that of bytes
        value BLOB                   -- NULL: deleted
    ) STRICT;
    CREATE TABLE head(
        key BLOB PRIMARY KEY,
        id INTEGER NOT NULL,         -- its row in log
        create_rev INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT;
";

/// The database file of a state directory.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join("state.db")
}

/// Makes `dir` ours alone until the file is dropped. The lock dies with the process, so a crash leaves nothing to clean.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let io = |e| StoreError::io("lock the state directory", dir.display(), e);
    fs::create_dir_all(dir).map_err(io)?;
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(dir.join("lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked { dir: dir.to_path_buf(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    // The number only helps the message of a second process: a full disk must not stop us from opening.
    let note = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(e) = note {
        tracing::warn!(error = %e, "the lock file does not name this process");
    }
    Ok(file)
}

/// Opens the database for writing; makes the tables of a new one.
pub(super) fn open(dir: &Path, options: &Options) -> Result<Connection> {
    let path = file(dir);
    let io = |e| StoreError::io("open", path.display(), e);
    let conn = Connection::open(&path).map_err(io)?;
    // Only has an effect before the first table, and cannot be turned on later without copying everything.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(io)?;
    conn.pragma_update(None, "journal_mode", "WAL").map_err(io)?;
    conn.pragma_update(None, "synchronous", "FULL").map_err(io)?;
    conn.pragma_update(None, "cache_size", -i64::from(WRITER_CACHE_KIB)).map_err(io)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(io)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(io)?;
    conn.set_prepared_statement_cache_capacity(32);
    let page_size: u64 = conn.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(io)?;
    // Above the limit for puts, so that deletions and compaction still find room.
    let room = options.hard / 16 + (1 << 20);
    let pages = (options.hard + room) / page_size.max(1);
    conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(())).map_err(io)?;
    create(&conn).map_err(io)?;
    let found: u32 = conn.query_row("SELECT value FROM meta WHERE name='format'", [], |row| row.get(0)).map_err(io)?;
    if found > FORMAT {
        return Err(StoreError::StateNewer { dir: dir.to_path_buf(), found, known: FORMAT });
    }
    Ok(conn)
}

fn create(conn: &Connection) -> rusqlite::Result<()> {
    let tables: u32 = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name='meta'", [], |row| row.get(0))?;
    if tables > 0 {
        return Ok(());
    }
    let txn = conn.unchecked_transaction()?;
    txn.execute_batch(TABLES)?;
    for (name, value) in
        [("format", i64::from(FORMAT)), ("epoch", 1), ("head", 0), ("compacted", 0), ("swept", 0), ("lease", 0)]
    {
        txn.execute("INSERT INTO meta(name, value) VALUES(?1, ?2)", params![name, value])?;
    }
    txn.commit()
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "cache_size", -512)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(conn)
}

/// The numbers of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: u32,
    /// Last revision. Kept apart from the log, whose newest row may be a tombstone that compaction removes.
    pub(super) head: u64,
    /// History starts here.
    pub(super) compacted: u64,
    /// Up to this log id, rows that history does not need are removed.
    pub(super) swept: i64,
    /// Last lease number.
    pub(super) lease: u64,
}

impl Meta {
    /// Reads them all in one statement.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Meta> {
        let mut meta = Meta { epoch: 1, head: 0, compacted: 0, swept: 0, lease: 0 };
        let mut statement = conn.prepare_cached("SELECT name, value FROM meta")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match row.get_ref(0)?.as_str()? {
                "epoch" => meta.epoch = row.get(1)?,
                "head" => meta.head = row.get(1)?,
                "compacted" => meta.compacted = row.get(1)?,
                "swept" => meta.swept = row.get(1)?,
                "lease" => meta.lease = row.get(1)?,
                _ => {}
            }
        }
        Ok(meta)
    }

    /// Writes one of them.
    pub(super) fn set(conn: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
        conn.prepare_cached("UPDATE meta SET value=?2 WHERE name=?1")?.execute(params![name, value])?;
        Ok(())
    }
}

/// Place of an event in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogId(pub(super) i64);

impl LogId {
    const SUB_BITS: u32 = 16;

    /// The id of event `sub` of revision `n`. A revision has fewer than 65,536 events by the limits of a transaction.
    pub(super) fn new(n: u64, sub: u16) -> Self {
        LogId((n as i64) << Self::SUB_BITS | i64::from(sub))
    }

    /// The greatest id that revision `n` can have.
    pub(super) fn last_of(n: u64) -> Self {
        LogId::new(n, u16::MAX)
    }

    /// Its revision.
    pub(super) fn n(self) -> u64 {
        (self.0 >> Self::SUB_BITS).cast_unsigned()
    }
}
