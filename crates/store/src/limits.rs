//! The limits of the state, equal for every engine so that moving from one to another never meets a new refusal.
//!
//! The numbers are those that etcd has by default or advises (request size, max-txn-ops, one put per key, quota).

use crate::error::{Result, StoreError};
use crate::kv::{Key, KeyRange};
use crate::txn::{Op, Txn};
use std::collections::HashSet;
use std::time::Duration;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// Largest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// Largest transaction: bytes of all its keys and values, with some for each step. A little above a value, so that the largest one fits.
pub const MAX_TXN: usize = MAX_VALUE + 64 * 1024;
/// Most conditions, and most steps in each of the two lists.
pub const MAX_OPS: usize = 128;
/// Most keys that one transaction may delete by ranges, so that one revision stays a bounded piece of work.
pub const MAX_DELETED: usize = 10_000;
/// Most keys of one lease: revoking a large one would stall everybody.
pub const MAX_LEASE_KEYS: usize = 1_000;
/// Shortest lease.
pub const MIN_LEASE: Duration = Duration::from_secs(1);
/// Longest lease: 30 years.
pub const MAX_LEASE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Most pairs in one page.
pub const MAX_PAGE: usize = 10_000;
/// Bytes of values after which a page ends early.
pub const MAX_PAGE_BYTES: usize = 4 << 20;
/// Size of the database from which `health` warns.
pub const SOFT_SIZE: u64 = 2 << 30;
/// Size of the database from which puts are refused.
pub const HARD_SIZE: u64 = 8 << 30;

/// A transaction that keeps all limits; engines accept nothing else.
#[derive(Debug, Clone)]
pub struct CheckedTxn(Txn);

impl CheckedTxn {
    /// Checks `txn`.
    pub fn new(txn: Txn) -> Result<Self> {
        for (what, count) in [
            ("the number of conditions", txn.cmps.len()),
            ("the number of steps", txn.then.len()),
            ("the number of steps for the other case", txn.or_else.len()),
        ] {
            if count > MAX_OPS {
                let hint = "split it into several transactions";
                return Err(StoreError::TooLarge { what, size: count, limit: MAX_OPS, hint });
            }
        }
        let mut bytes = 0;
        for cmp in &txn.cmps {
            check_key(cmp.key())?;
            bytes += cmp.key().len() + 16;
        }
        for ops in [&txn.then, &txn.or_else] {
            bytes += check_ops(ops)?;
        }
        if bytes > MAX_TXN {
            let hint = "split it, and keep large data in a volume or bucket";
            return Err(StoreError::TooLarge { what: "the number of bytes", size: bytes, limit: MAX_TXN, hint });
        }
        Ok(CheckedTxn(txn))
    }

    /// Room that it takes in a queue, in KiB, at least one.
    pub fn kib(&self) -> u32 {
        let puts = self.0.then.iter().chain(&self.0.or_else);
        let bytes: usize = puts.map(|op| if let Op::Put { value, .. } = op { value.len() } else { 0 }).sum();
        u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The transaction.
    pub fn into_inner(self) -> Txn {
        self.0
    }
}

/// Checks the time to live of a lease.
pub fn check_ttl(ttl: Duration) -> Result<()> {
    if (MIN_LEASE..=MAX_LEASE).contains(&ttl) {
        return Ok(());
    }
    let reason =
        format!("a lease lives from {} s to {} s; choose a time between", MIN_LEASE.as_secs(), MAX_LEASE.as_secs());
    Err(StoreError::Invalid { object: format!("a lease of {ttl:?}"), reason })
}

fn check_key(key: &Key) -> Result<()> {
    if key.is_empty() {
        return Err(StoreError::Invalid {
            object: "the empty key".into(),
            reason: "a key needs at least one character".into(),
        });
    }
    if key.len() > MAX_KEY {
        let hint = "use shorter names";
        return Err(StoreError::TooLarge { what: "the length of a key", size: key.len(), limit: MAX_KEY, hint });
    }
    Ok(())
}

/// Bytes of one list of steps, if all its steps are allowed together.
fn check_ops(ops: &[Op]) -> Result<usize> {
    let mut bytes = 0;
    let mut written: HashSet<&Key> = HashSet::new();
    let mut ranges: Vec<&KeyRange> = Vec::new();
    for op in ops {
        bytes += 16;
        match op {
            Op::Put { value, .. } => {
                if value.len() > MAX_VALUE {
                    let hint = "keep large data in a volume or bucket";
                    return Err(StoreError::TooLarge {
                        what: "the length of a value",
                        size: value.len(),
                        limit: MAX_VALUE,
                        hint,
                    });
                }
                bytes += value.len();
            }
            Op::DelRange(range) => {
                bytes += range.from().len();
                ranges.push(range);
                continue;
            }
            Op::Del(_) | Op::Get(_) => {}
        }
        let (Op::Put { key, .. } | Op::Del(key) | Op::Get(key)) = op else { continue };
        check_key(key)?;
        bytes += key.len();
        if !matches!(op, Op::Get(_)) && !written.insert(key) {
            return Err(twice(key));
        }
    }
    for (at, range) in ranges.iter().enumerate() {
        if let Some(key) = written.iter().find(|key| range.contains(key)) {
            return Err(twice(key));
        }
        if ranges.iter().skip(at + 1).any(|other| range.overlaps(other)) {
            return Err(twice(range.from()));
        }
    }
    Ok(bytes)
}

fn twice(key: &Key) -> StoreError {
    let reason = "one transaction may write a key only once; keep the last write or use two transactions".into();
    StoreError::Invalid { object: key.to_string(), reason }
}
