//! The repository: making and opening it, storing streams, giving them back, forgetting backups.

use crate::{
    error::{BackupError, Result},
    lock::Lock,
    seal::{LARGEST, Locked, Seal},
    target::{Objects, Target},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The form of the repository; others are refused.
const FORM: u32 = 1;
/// Where chunks are cut (FastCDC, USENIX ATC 2016): at least, on average.
const SMALLEST: u32 = 256 << 10;
const USUAL: u32 = 1 << 20;
/// How many chunks are on their way at once.
const AT_ONCE: usize = 4;
/// The most that the description of a backup may take.
const LONGEST: usize = 256 << 20;
/// How many digits of an id are enough.
const FEWEST: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
struct Config {
    form: u32,
    id: String,
    #[serde(default)]
    locked: Option<Locked>,
}

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its name.
    pub id: String,
    /// Its length in the stream.
    pub length: u32,
}

/// A stream that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// What it holds: `state`, `data`.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// The BLAKE3 hash of all of it, hexadecimal.
    pub hash: String,
    /// Its pieces, in order.
    pub chunks: Vec<Chunk>,
}

/// What a stream added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// Chunks that were not there yet.
    pub chunks: u64,
    /// What they take in the repository.
    pub bytes: u64,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// Its name, which begins with the time.
    pub id: String,
    /// When it was begun.
    pub created: DateTime<Utc>,
    /// What it is of: `state`, `instance default/web`.
    pub subject: String,
    /// The series that it belongs to: `state`, or the instance's id.
    pub series: String,
    /// The machine that made it.
    pub host: String,
    /// What its chunks took that were not there yet.
    pub added: u64,
    /// How long the instance was held still, in milliseconds.
    #[serde(default)]
    pub held_ms: u64,
    /// What is needed to make the subject again.
    pub about: serde_json::Value,
    /// What it consists of.
    pub streams: Vec<Stream>,
}

impl Backup {
    /// The length of everything in it.
    pub fn size(&self) -> u64 {
        self.streams.iter().map(|s| s.size).sum()
    }
}

/// How far a stream is: bytes read, bytes added to the repository. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    read: Arc<AtomicU64>,
    added: Arc<AtomicU64>,
}

impl Progress {
    /// Bytes that were read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
    /// Bytes that were added so far.
    pub fn added(&self) -> u64 {
        self.added.load(Ordering::Relaxed)
    }
}

/// What `prune` removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Chunks that nothing names.
    pub chunks: u64,
    /// What they took.
    pub bytes: u64,
}

/// A repository that was opened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) objects: Objects,
    pub(crate) seal: Seal,
}

impl Repository {
    /// Opens the repository at a target; with `make`, makes one where none is.
    pub async fn open(target: &Target, password: Option<&str>, make: bool) -> Result<Self> {
        let objects = target.open(make)?;
        let at = Path::from("config");
        let Some(bytes) = objects.get(&at).await? else {
            if !make {
                return Err(BackupError::NoRepository(target.to_string()));
            }
            if !objects.list("chunks").await?.is_empty() || !objects.list("backups").await?.is_empty() {
                return Err(damaged(
                    &objects,
                    "the configuration (config)",
                    "it is gone, and chunks are there",
                    "bring it back, or name another target",
                ));
            }
            return Self::make(objects, password, &at).await;
        };
        let config: Config = serde_json::from_slice(&bytes).map_err(|e| {
            damaged(
                &objects,
                "the configuration (config)",
                &e.to_string(),
                "bring it back from a copy of the repository",
            )
        })?;
        if config.form != FORM {
            return Err(BackupError::Newer { target: target.to_string(), found: config.form, known: FORM });
        }
        let seal = match (config.locked, password) {
            (None, None) => Seal::Plain,
            (None, Some(_)) => return Err(BackupError::NoPassword(target.to_string())),
            (Some(_), None) => return Err(BackupError::PasswordNeeded(target.to_string())),
            (Some(locked), Some(password)) => {
                Seal::unlock(&locked, password)?.ok_or_else(|| BackupError::WrongPassword(target.to_string()))?
            }
        };
        Ok(Self { objects, seal })
    }

    async fn make(objects: Objects, password: Option<&str>, at: &Path) -> Result<Self> {
        let (seal, locked) = match password {
            Some(password) => Seal::new(password).map(|(seal, locked)| (seal, Some(locked)))?,
            None => (Seal::Plain, None),
        };
        let config = Config { form: FORM, id: hex::encode(rand::random::<[u8; 8]>()), locked };
        let bytes = serde_json::to_vec_pretty(&config).map_err(|e| BackupError::CutOff(e.to_string()))?;
        objects.put(at, bytes).await?;
        Ok(Self { objects, seal })
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.objects.target
    }

    /// Takes the right to write.
    pub async fn lock(&self, what: &str) -> Result<Lock> {
        Lock::take(&self.objects, what).await
    }

    /// The names of the chunks that are there, to be given to `store`.
    pub async fn known(&self) -> Result<HashSet<String>> {
        Ok(self
            .objects
            .list("chunks")
            .await?
            .into_iter()
            .filter_map(|(path, _)| path.filename().map(str::to_owned))
            .collect())
    }

    /// Stores a stream: what is there already is not stored again. The reader is read on a thread of its own.
    pub async fn store(
        &self,
        name: &str,
        reader: impl Read + Send + 'static,
        known: &mut HashSet<String>,
        progress: &Progress,
    ) -> Result<(Stream, Added)> {
        let (sender, arriving) = tokio::sync::mpsc::channel::<(String, Vec<u8>)>(AT_ONCE);
        let (seal, what, counted) = (self.seal.clone(), name.to_owned(), progress.clone());
        let mut seen = std::mem::take(known);
        let cutting = tokio::task::spawn_blocking(move || {
            let cut =
                cut(reader, &what, &seal, &mut seen, &counted, |id, bytes| sender.blocking_send((id, bytes)).is_ok());
            cut.map(|stream| (stream, seen))
        });
        let arriving = stream::unfold(arriving, async |mut from| Some((from.recv().await?, from)));
        let (chunks, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let storing = arriving.map(Ok::<_, BackupError>).try_for_each_concurrent(AT_ONCE, |(id, stored)| {
            let (chunks, bytes) = (&chunks, &bytes);
            async move {
                let size = stored.len() as u64;
                self.objects.put(&chunk_path(&id), stored).await?;
                chunks.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(size, Ordering::Relaxed);
                progress.added.fetch_add(size, Ordering::Relaxed);
                Ok(())
            }
        });
        // If storing fails its receiver is dropped, and the cutting ends at the next chunk.
        storing.await?;
        let (stream, seen) = cutting.await.map_err(|e| BackupError::CutOff(e.to_string()))??;
        *known = seen;
        Ok((stream, Added { chunks: chunks.into_inner(), bytes: bytes.into_inner() }))
    }

    /// Gives a stream back, piece by piece, each compared with its name.
    pub fn read<'a>(&'a self, stream: &'a Stream) -> impl futures::Stream<Item = Result<Bytes>> + Send + 'a {
        stream::iter(stream.chunks.clone()).map(move |chunk| async move { self.chunk(&chunk).await }).buffered(AT_ONCE)
    }

    /// A chunk's content, compared with its name.
    pub(crate) async fn chunk(&self, chunk: &Chunk) -> Result<Bytes> {
        let path = chunk_path(&chunk.id);
        let bad = |why: &str| {
            let short = chunk.id.get(..12).unwrap_or(&chunk.id);
            let hint = "remove its file, and the next backup of what still has these bytes stores it again; other backups are not touched";
            damaged(&self.objects, &format!("chunk {short} ({path})"), why, hint)
        };
        let stored = self.objects.get(&path).await?.ok_or_else(|| bad("it is missing"))?;
        let (seal, length, id) = (self.seal.clone(), chunk.length as usize, chunk.id.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let content = seal.open(&stored, LARGEST as usize)?;
            if content.len() != length || seal.name(&content).to_hex().as_str() != id {
                return Err("its content is not what its name says".to_owned());
            }
            Ok(content)
        });
        opened.await.map_err(|e| BackupError::CutOff(e.to_string()))?.map(Bytes::from).map_err(|why| bad(&why))
    }

    /// Writes a backup down: from here on it is there.
    pub async fn record(&self, backup: &Backup) -> Result<()> {
        let bytes = serde_json::to_vec(backup).map_err(|e| BackupError::CutOff(e.to_string()))?;
        let seal = self.seal.clone();
        let closed = tokio::task::spawn_blocking(move || seal.close(&bytes)).await;
        self.objects.put(&backup_path(&backup.id), closed.map_err(|e| BackupError::CutOff(e.to_string()))??).await
    }

    /// Every backup, oldest first.
    pub async fn backups(&self) -> Result<Vec<Backup>> {
        let names: Vec<Path> = self.objects.list("backups").await?.into_iter().map(|(path, _)| path).collect();
        let mut all: Vec<Backup> =
            stream::iter(names).map(|path| self.description(path)).buffer_unordered(AT_ONCE).try_collect().await?;
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(all)
    }

    async fn description(&self, path: Path) -> Result<Backup> {
        let bad = |why: &str| {
            damaged(&self.objects, &format!("the description {path}"), why, "remove its file to do without this backup")
        };
        let stored = self.objects.get(&path).await?.ok_or_else(|| bad("it is missing"))?;
        let content = self.seal.open(&stored, LONGEST).map_err(|why| bad(&why))?;
        serde_json::from_slice(&content).map_err(|e| bad(&e.to_string()))
    }

    /// The backup that a word names: its id, the start of it, or what it is of, which means the newest.
    pub async fn find(&self, word: &str) -> Result<Backup> {
        let all = self.backups().await?;
        let newest = |so: &dyn Fn(&Backup) -> bool| all.iter().rev().find(|b| so(b)).cloned();
        let named = newest(&|b| b.id == word)
            .or_else(|| {
                (word.len() >= FEWEST && all.iter().filter(|b| b.id.starts_with(word)).count() == 1)
                    .then(|| newest(&|b| b.id.starts_with(word)))
                    .flatten()
            })
            .or_else(|| {
                newest(&|b| {
                    b.subject == word
                        || b.subject
                            .strip_prefix("instance ")
                            .is_some_and(|s| s == word || s.split_once('/').is_some_and(|(_, name)| name == word))
                })
            });
        named.ok_or_else(|| {
            let last: Vec<&str> = all.iter().rev().take(3).map(|b| b.id.as_str()).collect();
            let near = if last.is_empty() {
                format!(": there is none at {}", self.target())
            } else {
                format!(": the newest are {}", last.join(", "))
            };
            BackupError::NotFound { id: word.to_owned(), near }
        })
    }

    /// Forgets a backup. Its chunks go with the next `prune`.
    pub async fn forget(&self, id: &str) -> Result<()> {
        self.objects.delete(&backup_path(id)).await
    }

    /// Removes the chunks that no backup names. Needs the lock: a backup that is being made counts on chunks that nothing names yet.
    pub async fn prune(&self, _lock: &Lock) -> Result<Pruned> {
        let backups = self.backups().await?;
        let named: HashSet<&str> =
            backups.iter().flat_map(|b| &b.streams).flat_map(|s| &s.chunks).map(|chunk| chunk.id.as_str()).collect();
        let mut pruned = Pruned::default();
        for (path, size) in self.objects.list("chunks").await? {
            if path.filename().is_some_and(|name| !named.contains(name)) {
                self.objects.delete(&path).await?;
                pruned.chunks += 1;
                pruned.bytes += size;
            }
        }
        Ok(pruned)
    }

    /// What everything takes, and how often each chunk is named.
    pub async fn usage(&self) -> Result<(u64, BTreeMap<String, u64>)> {
        let sizes: BTreeMap<String, u64> = self
            .objects
            .list("chunks")
            .await?
            .into_iter()
            .filter_map(|(path, size)| Some((path.filename()?.to_owned(), size)))
            .collect();
        Ok((sizes.values().sum(), sizes))
    }
}

/// Cuts a stream, hands out what is new, and says what it consists of.
fn cut(
    reader: impl Read,
    name: &str,
    seal: &Seal,
    seen: &mut HashSet<String>,
    progress: &Progress,
    mut give: impl FnMut(String, Vec<u8>) -> bool,
) -> Result<Stream> {
    let (mut chunks, mut size, mut whole) = (Vec::new(), 0, blake3::Hasher::new());
    for piece in fastcdc::v2020::StreamCDC::new(reader, SMALLEST, USUAL, LARGEST) {
        let piece = piece.map_err(|e| BackupError::Source { what: name.to_owned(), source: e.into() })?;
        whole.update(&piece.data);
        let (id, length) = (seal.name(&piece.data).to_hex().to_string(), piece.data.len());
        size += length as u64;
        if seen.insert(id.clone()) && !give(id.clone(), seal.close(&piece.data)?) {
            return Err(BackupError::CutOff("the storing ended".into()));
        }
        progress.read.store(size, Ordering::Relaxed);
        chunks.push(Chunk { id, length: u32::try_from(length).unwrap_or(LARGEST) });
    }
    Ok(Stream { name: name.to_owned(), size, hash: whole.finalize().to_hex().to_string(), chunks })
}

pub(crate) fn damaged(objects: &Objects, object: &str, why: &str, hint: &'static str) -> BackupError {
    BackupError::Damaged { object: object.into(), target: objects.target.to_string(), why: why.into(), hint }
}

fn chunk_path(id: &str) -> Path {
    Path::from(format!("chunks/{}/{id}", id.get(..2).unwrap_or("00")))
}

fn backup_path(id: &str) -> Path {
    Path::from(format!("backups/{id}"))
}
