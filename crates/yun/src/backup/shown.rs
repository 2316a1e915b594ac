//! How backups look.

use anyhow::Result;
use serde::Serialize;
use yun_backup::Backup;
use yun_types::Timestamp;

use super::human;
use crate::cli::{
    args::Format,
    output::{self, Listed, age},
};

/// A row of the list.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: String,
    subject: String,
    created: Timestamp,
    size: u64,
    added: u64,
    held_ms: u64,
    host: String,
}

impl Listed for Row {
    const COLUMNS: &'static [&'static str] = &["ID", "OF", "SIZE", "ADDED", "HELD", "AGE", "HOST"];
    const NARROW: usize = 6;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.id.clone(),
            self.subject.clone(),
            human(self.size),
            human(self.added),
            if self.held_ms == 0 {
                "-".to_owned()
            } else {
                format!("{:.1}s", std::time::Duration::from_millis(self.held_ms).as_secs_f64())
            },
            age(self.created, now),
            self.host.clone(),
        ]
    }
    fn name(&self) -> String {
        self.id.clone()
    }
}

/// Prints backups.
pub(super) fn list(backups: &[Backup], format: Format) -> Result<()> {
    let rows: Vec<Row> = backups.iter().map(row).collect();
    output::list(&rows, format, "no backups: make one with yun backup create --to TARGET")
}

fn row(b: &Backup) -> Row {
    let (id, subject, created) = (b.id.clone(), b.subject.clone(), b.created);
    Row { id, subject, created, size: b.size(), added: b.added, held_ms: b.held_ms, host: b.host.clone() }
}

/// A backup in full, without its thousands of chunks.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    row: Row,
    streams: Vec<Stream>,
    about: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Stream {
    name: String,
    size: u64,
    hash: String,
    chunks: usize,
}

impl Whole {
    pub(super) fn of(backup: &Backup) -> Self {
        let stream = |s: &yun_backup::Stream| Stream {
            name: s.name.clone(),
            size: s.size,
            hash: format!("blake3:{}", s.hash),
            chunks: s.chunks.len(),
        };
        Self { row: row(backup), streams: backup.streams.iter().map(stream).collect(), about: backup.about.clone() }
    }
}
