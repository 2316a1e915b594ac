//! Proving that backups can be given back: every chunk is read, opened and compared with its name, every stream with its hash.

use crate::{
    error::{BackupError, Result},
    repository::{Backup, Chunk, Repository},
};
use futures::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};

/// How many chunks are read at once.
const AT_ONCE: usize = 4;

/// A chunk that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The chunk's name.
    pub chunk: String,
    /// What is wrong, and what helps.
    pub message: String,
    /// The backups that need it.
    pub backups: BTreeSet<String>,
}

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Chunks that were read.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is not right.
    pub damage: Vec<Damage>,
}

impl Repository {
    /// Reads every chunk of these backups, each once. A target that does not answer is an error; damage is a finding.
    pub async fn verify(&self, backups: &[Backup]) -> Result<Verified> {
        let mut wanted: BTreeMap<String, (u32, BTreeSet<String>)> = BTreeMap::new();
        for backup in backups {
            for chunk in backup.streams.iter().flat_map(|s| &s.chunks) {
                wanted
                    .entry(chunk.id.clone())
                    .or_insert_with(|| (chunk.length, BTreeSet::new()))
                    .1
                    .insert(backup.id.clone());
            }
        }
        let mut verified = Verified::default();
        let mut read = stream::iter(wanted)
            .map(|(id, (length, backups))| async move {
                let chunk = Chunk { id, length };
                let read = self.chunk(&chunk).await;
                (chunk.id, backups, read)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((chunk, backups, read)) = read.next().await {
            verified.chunks += 1;
            match read {
                Ok(bytes) => verified.bytes += bytes.len() as u64,
                Err(e @ BackupError::Damaged { .. }) => {
                    verified.damage.push(Damage { chunk, message: e.to_string(), backups })
                }
                Err(e) => return Err(e),
            }
        }
        Ok(verified)
    }
}
