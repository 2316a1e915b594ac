//! Proof that backups can be restored.

use anyhow::{Context as _, Result, bail};
use yun_backup::{Backup, Repository};
use yun_linux::backup::{check_disk, unpack_into};
use yun_store::{Existing, SqliteStore};
use yun_types::{Instance, InstanceKind};

use super::{human, restore};
use crate::cli::{Code, output};

/// Reads everything and compares it; with `restore`, into a scratch directory as well.
pub(super) async fn verify(repository: &Repository, words: &[String], restoring: bool) -> Result<Code> {
    let mut backups = Vec::new();
    for word in words {
        backups.push(repository.find(word).await?);
    }
    if words.is_empty() {
        backups = repository.backups().await?;
    }
    if backups.is_empty() {
        bail!("there is no backup to verify at {}", repository.target());
    }
    let verified = repository.verify(&backups).await?;
    if !verified.damage.is_empty() {
        let lines: Vec<String> = verified
            .damage
            .iter()
            .map(|d| format!("{} (needed by {})", d.message, d.backups.iter().cloned().collect::<Vec<_>>().join(", ")))
            .collect();
        bail!("{} of {} chunks are damaged:\n{}", verified.damage.len(), verified.chunks, lines.join("\n"));
    }
    output::print_line(&format!(
        "{} backups, {} chunks, {}: all is what its name says",
        backups.len(),
        verified.chunks,
        human(verified.bytes)
    ))?;
    if restoring {
        for backup in &backups {
            let proof = prove(repository, backup)
                .await
                .with_context(|| format!("backup {} ({}) cannot be restored", backup.id, backup.subject))?;
            output::print_line(&format!("{} ({}): restored into a scratch place, {proof}", backup.id, backup.subject))?;
        }
    }
    Ok(0)
}

async fn prove(repository: &Repository, backup: &Backup) -> Result<String> {
    let scratch = Scratch::new()?;
    if backup.series == "state" {
        let bytes = restore::whole(repository, backup).await?;
        let directory = scratch.0.clone();
        let rev = tokio::task::spawn_blocking(move || SqliteStore::restore(&directory, &bytes[..], Existing::Refuse))
            .await??;
        return Ok(format!("a whole state at revision {rev}"));
    }
    let instance: Instance = serde_json::from_value(backup.about.clone())?;
    let kind = instance.spec.kind.unwrap_or(InstanceKind::Container);
    let directory = scratch.0.clone();
    let unpacking = tokio::task::spawn_blocking(move || unpack_into(&directory, kind)).await??;
    let unpacking = restore::pour(repository, backup, unpacking).await?;
    let place = tokio::task::spawn_blocking(move || unpacking.finish(None)).await??;
    Ok(match (kind, place) {
        (_, None) => "it never wrote anything".to_owned(),
        (InstanceKind::Vm, Some(disk)) => {
            tokio::task::spawn_blocking(move || check_disk(&disk)).await??;
            "its disk is whole".to_owned()
        }
        (InstanceKind::Container, Some(_)) => "its files are whole".to_owned(),
    })
}

/// A directory that goes when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::path::Path::new("/var/tmp").join(format!("yun-verify-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
