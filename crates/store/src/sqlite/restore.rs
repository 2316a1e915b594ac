//! Restore: builds a state from a snapshot beside the old one, then puts it in its place in one rename.
//!
//! The restored state starts a new epoch: revisions go back, so no token of before may be taken for one of after.

use super::schema::{self, LogId, Meta};
use super::{Options, SqliteStore};
use crate::error::{Result, StoreError};
use crate::kv::Kv;
use crate::rev::Rev;
use crate::snapshot::{Decoder, Record};
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// What to do with a state that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to restore.
    Refuse,
    /// Replace it; it is lost.
    Replace,
}

impl SqliteStore {
    /// Makes the state in `dir` from a snapshot and gives its revision. The directory must not be open. Either the old or the new state is
    /// there afterwards, whenever this is cut off.
    pub fn restore(dir: &Path, from: impl Read, existing: Existing) -> Result<Rev> {
        let io = |op: &'static str| move |e: std::io::Error| StoreError::io(op, dir.display(), e);
        let _lock = schema::lock(dir)?;
        let old_epoch = if schema::file(dir).exists() { Some(retire(dir, existing)?) } else { None };
        let fresh = dir.join("restore");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(io("clean up in"))?;
        }
        fs::create_dir(&fresh).map_err(io("make a directory in"))?;
        let rev = build(&fresh, from, old_epoch)?;
        File::open(schema::file(&fresh)).and_then(|file| file.sync_all()).map_err(io("sync"))?;
        fs::rename(schema::file(&fresh), schema::file(dir)).map_err(io("put the restored state into"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync"))?;
        fs::remove_dir_all(&fresh).map_err(io("clean up in"))?;
        Ok(rev)
    }
}

/// Gives the epoch of the present state, and folds its write-ahead log into it: the log must not be there when the file is replaced.
fn retire(dir: &Path, existing: Existing) -> Result<u32> {
    if existing == Existing::Refuse {
        let reason = "a state is there already; restore into an empty directory, or ask to replace it".into();
        return Err(StoreError::Invalid { object: dir.display().to_string(), reason });
    }
    let conn = schema::open(dir, &Options::default())?;
    let meta = Meta::load(&conn).map_err(|e| StoreError::io("read the old state in", dir.display(), e))?;
    conn.close().map_err(|(_, e)| StoreError::io("close the old state in", dir.display(), e))?;
    for suffix in ["-wal", "-shm"] {
        let mut path = schema::file(dir).into_os_string();
        path.push(suffix);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove the old log in", dir.display(), e));
            }
            _ => {}
        }
    }
    Ok(meta.epoch)
}

/// Writes the snapshot into a new database in `dir`.
fn build(dir: &Path, from: impl Read, old_epoch: Option<u32>) -> Result<Rev> {
    let io = |e| StoreError::io("restore into", dir.display(), e);
    let mut decoder = Decoder::new(from)?;
    let header = decoder.header();
    // Greater than both: the old state may itself come from a later snapshot than this one.
    let epoch = header.rev.epoch.max(old_epoch.unwrap_or(0)) + 1;
    let conn = schema::open(dir, &Options::default())?;
    let txn = conn.unchecked_transaction().map_err(io)?;
    let mut subs = HashMap::new();
    while let Some(record) = decoder.next()? {
        match record {
            Record::Lease(id, ttl) => {
                let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                txn.execute("INSERT INTO lease(id, ttl_ms) VALUES(?1, ?2)", params![id.0, ttl]).map_err(io)?;
            }
            Record::Pair(kv) => {
                let sub = subs.entry(kv.mod_rev.n).or_insert(0_u16);
                pair(&txn, &kv, *sub).map_err(io)?;
                *sub += 1;
            }
        }
    }
    let n = header.rev.n;
    let numbers = [
        ("epoch", i64::from(epoch)),
        ("head", n as i64),
        ("compacted", n as i64),
        ("swept", LogId::last_of(n).0),
        ("lease", header.last_lease as i64),
    ];
    for (name, value) in numbers {
        Meta::set(&txn, name, value).map_err(io)?;
    }
    txn.commit().map_err(io)?;
    conn.close().map_err(|(_, e)| io(e))?;
    Ok(Rev::new(epoch, n))
}

fn pair(conn: &Connection, kv: &Kv, sub: u16) -> rusqlite::Result<()> {
    let id = LogId::new(kv.mod_rev.n, sub).0;
    let lease = kv.lease.map(|lease| lease.0);
    let sql = "INSERT INTO log(id, prev, create_rev, version, lease, key, value) VALUES(?1, 0, ?2, ?3, ?4, ?5, ?6)";
    conn.prepare_cached(sql)?.execute(params![
        id,
        kv.create_rev.n,
        kv.version,
        lease,
        kv.key.as_bytes(),
        &kv.value[..]
    ])?;
    let sql = "INSERT INTO head(key, id, create_rev, version, lease) VALUES(?1, ?2, ?3, ?4, ?5)";
    conn.prepare_cached(sql)?.execute(params![kv.key.as_bytes(), id, kv.create_rev.n, kv.version, lease])?;
    Ok(())
}
