//! The file of measurements: its tables, and nothing about what is in the blocks.

use crate::{MeasureError, Millis, subject::Subject};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// Raised when the tables change.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS subjects (key INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, text TEXT NOT NULL, seen INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS head (number INTEGER PRIMARY KEY, frame BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS fine (key INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, block BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS fine_by_key ON fine (key, start);
    CREATE INDEX IF NOT EXISTS fine_by_start ON fine (start);
    CREATE TABLE IF NOT EXISTS coarse (key INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, block BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS coarse_by_key ON coarse (key, start);
    CREATE INDEX IF NOT EXISTS coarse_by_start ON coarse (start);
";

/// The two grains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grain {
    Fine,
    Coarse,
}

impl Grain {
    fn table(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Coarse => "coarse",
        }
    }
}

/// A block as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) start: Millis,
    pub(crate) end: Millis,
    pub(crate) block: Vec<u8>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct File {
    db: Connection,
    path: PathBuf,
}

type Done<T> = Result<T, rusqlite::Error>;

impl File {
    /// Opens or makes it. A file that is damaged, or that a newer yun made, is set aside, and its new name is told.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<PathBuf>), MeasureError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|source| MeasureError::Directory {
                operation: "make the directory",
                path: directory.to_owned(),
                source,
            })?;
        }
        let wrap = |source| MeasureError::File { operation: "open", path: path.to_owned(), source };
        let ending = match Self::connect(path) {
            Ok(file) if file.version().map_err(wrap)? <= VERSION => {
                file.lay_out().map_err(wrap)?;
                return Ok((file, None));
            }
            Ok(_) => "newer",
            Err(rusqlite::Error::SqliteFailure(e, _))
                if matches!(e.code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) =>
            {
                "damaged"
            }
            Err(e) => return Err(wrap(e)),
        };
        let aside = path.with_extension(ending);
        std::fs::rename(path, &aside).map_err(|source| MeasureError::Directory {
            operation: "set this file of measurements aside:",
            path: path.to_owned(),
            source,
        })?;
        for tail in ["-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(tail);
            let _ = std::fs::remove_file(name);
        }
        let fresh = Self::connect(path).map_err(wrap)?;
        fresh.lay_out().map_err(wrap)?;
        Ok((fresh, Some(aside)))
    }

    fn lay_out(&self) -> Done<()> {
        self.db.execute_batch(TABLES)?;
        self.db.pragma_update(None, "user_version", VERSION)
    }

    fn version(&self) -> Done<i64> {
        self.db.pragma_query_value(None, "user_version", |row| row.get(0))
    }

    fn connect(path: &Path) -> Done<Self> {
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // What a power cut takes is the last seconds of measurements: no commit waits for the disk.
        db.pragma_update(None, "synchronous", "normal")?;
        db.pragma_update(None, "cache_size", -1024)?;
        db.pragma_update(None, "wal_autocheckpoint", 500)?;
        Ok(Self { db, path: path.to_owned() })
    }

    fn wrap<T>(&self, operation: &'static str, result: Done<T>) -> Result<T, MeasureError> {
        result.map_err(|source| MeasureError::File { operation, path: self.path.clone(), source })
    }

    /// All subjects, with their keys and when they were last measured.
    pub(crate) fn subjects(&self) -> Result<Vec<(i64, Subject, Millis)>, MeasureError> {
        let read = || {
            let mut query = self.db.prepare("SELECT key, text, seen FROM subjects")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?)))?;
            rows.collect::<Done<Vec<_>>>()
        };
        let rows = self.wrap("read", read())?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, text, seen)| Some((key, serde_json::from_str(&text).ok()?, seen)))
            .collect())
    }

    /// Writes a subject down; the key that it has from now on.
    pub(crate) fn put_subject(&self, subject: &Subject, seen: Millis) -> Result<i64, MeasureError> {
        let text = serde_json::to_string(subject).unwrap_or_default();
        let id = subject.id.as_bytes().as_slice();
        let write = || {
            self.db.execute(
                "INSERT INTO subjects (id, text, seen) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET text = ?2, seen = ?3",
                params![id, text, seen],
            )?;
            self.db.query_row("SELECT key FROM subjects WHERE id = ?1", [id], |row| row.get(0))
        };
        self.wrap("write", write())
    }

    /// The log of the head, in order.
    pub(crate) fn frames(&self) -> Result<Vec<Vec<u8>>, MeasureError> {
        let read = || {
            let mut query = self.db.prepare("SELECT frame FROM head ORDER BY number")?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        self.wrap("read", read())
    }

    /// Adds to the log of the head.
    pub(crate) fn log(&self, frame: &[u8]) -> Result<(), MeasureError> {
        let write = || self.db.prepare_cached("INSERT INTO head (frame) VALUES (?1)")?.execute([frame]);
        self.wrap("write", write()).map(drop)
    }

    /// Turns the head into blocks: they are written and the log is emptied, both or neither.
    pub(crate) fn seal(&mut self, blocks: &[(i64, Kept)]) -> Result<(), MeasureError> {
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            {
                let mut insert =
                    transaction.prepare("INSERT INTO fine (key, start, end, block) VALUES (?1, ?2, ?3, ?4)")?;
                let mut seen = transaction.prepare("UPDATE subjects SET seen = MAX(seen, ?2) WHERE key = ?1")?;
                for (key, kept) in blocks {
                    insert.execute(params![key, kept.start, kept.end, kept.block])?;
                    seen.execute(params![key, kept.end])?;
                }
            }
            transaction.execute("DELETE FROM head", [])?;
            transaction.commit()
        };
        let written = write(&mut self.db);
        self.wrap("write", written)
    }

    /// Blocks of a subject that reach into a span of time, the oldest first.
    pub(crate) fn blocks(&self, grain: Grain, key: i64, from: Millis, to: Millis) -> Result<Vec<Kept>, MeasureError> {
        let read = || {
            let table = grain.table();
            let mut query = self.db.prepare_cached(&format!(
                "SELECT start, end, block FROM {table} WHERE key = ?1 AND start <= ?3 AND end >= ?2 ORDER BY start"
            ))?;
            let rows = query.query_map(params![key, from, to], |row| {
                Ok(Kept { start: row.get(0)?, end: row.get(1)?, block: row.get(2)? })
            })?;
            rows.collect()
        };
        self.wrap("read", read())
    }

    /// Subjects that have fine blocks that begin before this time.
    pub(crate) fn older(&self, than: Millis) -> Result<Vec<i64>, MeasureError> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT DISTINCT key FROM fine WHERE start < ?1")?;
            let rows = query.query_map([than], |row| row.get(0))?;
            rows.collect()
        };
        self.wrap("read", read())
    }

    /// Replaces a subject's fine blocks that begin before `until` by a coarse one, both or neither.
    pub(crate) fn thin(&mut self, key: i64, until: Millis, coarse: Option<&Kept>) -> Result<(), MeasureError> {
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            if let Some(kept) = coarse {
                transaction.execute(
                    "INSERT INTO coarse (key, start, end, block) VALUES (?1, ?2, ?3, ?4)",
                    params![key, kept.start, kept.end, kept.block],
                )?;
            }
            transaction.execute("DELETE FROM fine WHERE key = ?1 AND start < ?2", params![key, until])?;
            transaction.commit()
        };
        let written = write(&mut self.db);
        self.wrap("thin out", written)
    }

    /// Forgets blocks that begin before this time.
    pub(crate) fn forget(&self, grain: Grain, before: Millis) -> Result<usize, MeasureError> {
        let forget = self.db.execute(&format!("DELETE FROM {} WHERE start < ?1", grain.table()), [before]);
        self.wrap("thin out", forget)
    }

    /// Forgets subjects of which no block is left and that were not measured since `before`. Their keys.
    pub(crate) fn forget_subjects(&self, before: Millis) -> Result<Vec<i64>, MeasureError> {
        let forget = || {
            let mut query = self.db.prepare_cached(
                "DELETE FROM subjects WHERE seen < ?1 AND NOT EXISTS (SELECT 1 FROM fine WHERE fine.key = subjects.key)
                 AND NOT EXISTS (SELECT 1 FROM coarse WHERE coarse.key = subjects.key) RETURNING key",
            )?;
            let rows = query.query_map([before], |row| row.get(0))?;
            rows.collect()
        };
        self.wrap("thin out", forget())
    }

    /// When the oldest block of a grain begins.
    pub(crate) fn oldest(&self, grain: Grain) -> Result<Option<Millis>, MeasureError> {
        let query = format!("SELECT start FROM {} ORDER BY start LIMIT 1", grain.table());
        let oldest = self.db.query_row(&query, [], |row| row.get(0)).optional();
        self.wrap("read", oldest)
    }

    /// Bytes of the file that hold something.
    pub(crate) fn used(&self) -> Result<u64, MeasureError> {
        let number = |name: &str| self.db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let read = || Ok((number("page_count")? - number("freelist_count")?) * number("page_size")?);
        self.wrap("read", read()).map(|bytes| u64::try_from(bytes).unwrap_or(0))
    }
}
