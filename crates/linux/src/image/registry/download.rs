//! Bringing layers in: `downloads/HEX` is whole, `downloads/HEX.part` is not and is gone on with by the next pull (RFC 9110, "Range").
//!
//! One pull at a time works on a layer. A download that nobody came back for is removed after some days.

use super::{FETCHED, client::Registry, progress::Progress};
use crate::image::{
    fault,
    job::Job,
    store::{sync_dir, sync_file},
};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};
use tokio::{io::AsyncWriteExt, sync::OwnedMutexGuard, time::Instant};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{Bytes, Digest};

/// How many layers come at once.
const AT_ONCE: usize = 3;
/// How often a connection may break without a byte in between.
const BARREN: u32 = 3;
/// What must arrive in the time that a registry may say nothing.
const TRICKLE: u64 = 4 << 10;
/// How long a part waits for the next pull.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

type Turn = tokio::sync::Mutex<()>;

/// Layers on their way to this node. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::image) struct Downloads {
    dir: Arc<PathBuf>,
    turns: Arc<Mutex<HashMap<Digest, Weak<Turn>>>>,
}

/// The right to work on some layers.
#[derive(Debug)]
pub(in crate::image) struct Held {
    downloads: Downloads,
    digests: BTreeSet<Digest>,
    _turns: Vec<OwnedMutexGuard<()>>,
}

impl Downloads {
    pub(in crate::image) fn new(dir: PathBuf) -> Self {
        Self { dir: Arc::new(dir), turns: Arc::default() }
    }

    /// Where a whole download is.
    pub(super) fn whole(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.part", digest.hex()))
    }

    /// Removes what nobody came back for.
    pub(in crate::image) fn sweep(&self) -> Result<()> {
        let listed = match fs::read_dir(&*self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(|e| DriverError::io(format!("list {}", self.dir.display()), e))?,
        };
        let oldest = SystemTime::now().checked_sub(KEPT).unwrap_or(SystemTime::UNIX_EPOCH);
        for entry in listed.flatten() {
            if entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < oldest) {
                tracing::info!(path = %entry.path().display(), "removing a download that nobody came back for");
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Waits until nobody else works on these layers.
    pub(super) async fn hold(&self, digests: BTreeSet<Digest>, job: &Job) -> Result<Held> {
        fs::create_dir_all(&*self.dir)
            .map_err(|e| DriverError::io(format!("make the directory {}", self.dir.display()), e))?;
        let mut held = Vec::new();
        for digest in &digests {
            let turn = self.turn(digest);
            let guard = match turn.clone().try_lock_owned() {
                Ok(guard) => guard,
                Err(_) => {
                    job.work.report(None, format!("waiting for another pull of the layer {}", digest.short()));
                    tokio::select! {
                        guard = turn.lock_owned() => guard,
                        () = job.work.cancelled() => return Err(fault::cancelled()),
                    }
                }
            };
            held.push(guard);
        }
        Ok(Held { downloads: self.clone(), digests, _turns: held })
    }

    fn turn(&self, digest: &Digest) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }
}

impl Held {
    /// Fetches what is missing; `shared` layers are here already.
    pub(super) async fn fetch(
        &self,
        registry: &Registry,
        missing: Vec<Wanted>,
        shared: usize,
        job: &Job,
    ) -> Result<()> {
        let mut unique: Vec<Wanted> = Vec::new();
        for wanted in missing {
            if !unique.contains(&wanted) {
                unique.push(wanted);
            }
        }
        let sizes = || unique.iter().map(|wanted| (&wanted.digest, wanted.size));
        let here: u64 = unique.iter().map(|w| self.downloads.length(&w.digest)).sum();
        let more = sizes().map(|(_, size)| size).sum::<u64>().saturating_sub(here);
        job.room(&self.downloads.dir, more, "take the image in")?;
        let progress = Progress::new(job, FETCHED, shared, sizes());
        let work: Vec<_> =
            unique.iter().enumerate().map(|(at, wanted)| self.one(registry, wanted, &progress, at, job)).collect();
        let fetched = stream::iter(work).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await;
        if fetched.as_ref().is_err_and(|e| e.kind == ErrorKind::NoSpace) {
            // Half an image is of less use than room.
            self.discard();
        }
        fetched.map(drop)
    }

    /// The image has appeared: the downloads are of no more use.
    pub(in crate::image) fn discard(&self) {
        for digest in &self.digests {
            for path in [self.downloads.whole(digest), self.downloads.part(digest)] {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), error = %e, "cannot remove a download; a later start does");
                    }
                    _ => {}
                }
            }
        }
    }

    async fn one(&self, registry: &Registry, wanted: &Wanted, progress: &Progress, at: usize, job: &Job) -> Result<()> {
        let whole = self.downloads.whole(&wanted.digest);
        if fs::metadata(&whole).is_ok_and(|meta| meta.len() == wanted.size) {
            progress.set(at, wanted.size, 0);
            return Ok(());
        }
        let part = self.downloads.part(&wanted.digest);
        let mut barren = 0;
        let mut arrived = Arrived::resume(&part, wanted, job).await?;
        while arrived.size < wanted.size {
            progress.set(at, arrived.size, 0);
            let before = arrived.size;
            let Err(broken) = arrived.go_on(registry, wanted, progress, at, job).await else { continue };
            if broken.reason != "SourceTruncated" {
                if broken.kind == ErrorKind::Damaged {
                    // Damaged bytes are not gone on with.
                    let _ = fs::remove_file(&part);
                }
                return Err(broken);
            }
            barren = if arrived.size > before { 0 } else { barren + 1 };
            if barren == BARREN {
                return Err(broken);
            }
            tracing::info!(layer = %wanted.digest, at = arrived.size, error = %broken, "the download broke off; going on");
        }
        let actual = Digest::from_sha256(arrived.hasher.clone().finalize().into());
        if actual != wanted.digest {
            let _ = fs::remove_file(&part);
            return Err(fault::checksum(
                &format!("the layer {} that {} gives", wanted.digest.short(), registry.name()),
                &wanted.digest,
                &actual,
            ));
        }
        drop(arrived);
        let dir = self.downloads.dir.clone();
        job.blocking(move |_| {
            sync_file(&part)?;
            fs::rename(&part, &whole)
                .map_err(|e| DriverError::io(format!("keep the download {}", whole.display()), e))?;
            sync_dir(&dir)
        })
        .await
    }
}

impl Downloads {
    /// How much of a layer has arrived.
    fn length(&self, digest: &Digest) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map(|meta| meta.len()).ok();
        length(self.whole(digest)).or_else(|| length(self.part(digest))).unwrap_or(0)
    }
}

/// A layer as far as it has arrived.
struct Arrived {
    file: tokio::fs::File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
}

impl Arrived {
    /// Takes up what an earlier pull left.
    async fn resume(part: &Path, wanted: &Wanted, job: &Job) -> Result<Self> {
        let (path, most) = (part.to_owned(), wanted.size);
        let (hasher, size) = job.blocking(move |job| hashed(&path, most, job)).await?;
        let failed = |e| DriverError::io(format!("write the download {}", part.display()), e);
        let file = tokio::fs::OpenOptions::new().append(true).create(true).open(part).await.map_err(failed)?;
        if size > 0 {
            tracing::info!(layer = %wanted.digest, from = size, "going on with a download");
        }
        Ok(Self { file, path: part.to_owned(), hasher, size })
    }

    /// Forgets it all: the registry begins again at the first byte.
    async fn begin_again(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .await
            .map_err(|e| DriverError::io(format!("write the download {}", self.path.display()), e))?;
        (self.hasher, self.size) = (Sha256::new(), 0);
        Ok(())
    }

    /// One connection's worth of bytes. `SourceTruncated` if it broke.
    async fn go_on(
        &mut self,
        registry: &Registry,
        wanted: &Wanted,
        progress: &Progress,
        at: usize,
        job: &Job,
    ) -> Result<()> {
        let (answer, partial) = registry.blob(&wanted.digest, self.size, job).await?;
        if !partial && self.size > 0 {
            self.begin_again().await?;
        }
        let failed = |path: &Path, e| DriverError::io(format!("write the download {}", path.display()), e);
        let mut chunks = answer.bytes_stream();
        let (mut deadline, mut mark, mut next_room) = (Instant::now() + job.limits.stall, self.size, self.size);
        while self.size < wanted.size {
            let next = tokio::select! {
                next = tokio::time::timeout_at(deadline, chunks.next()) => next.map_err(|_| registry.silent())?,
                () = job.work.cancelled() => return Err(fault::cancelled()),
            };
            let chunk = match next {
                Some(Ok(chunk)) => chunk,
                Some(Err(e)) if e.is_timeout() => return Err(registry.silent()),
                Some(Err(e)) => return Err(broke(registry, wanted, self.size, &e.to_string())),
                None => return Err(broke(registry, wanted, self.size, "it ended")),
            };
            if self.size + chunk.len() as u64 > wanted.size {
                return Err(fault::damaged(format!(
                    "the layer {} that {} gives is longer than its manifest says; push it again",
                    wanted.digest.short(),
                    registry.name()
                )));
            }
            if self.size >= next_room {
                next_room = self.size + (64 << 20);
                job.room(self.path.parent().unwrap_or(&self.path), 0, "take the image in")?;
            }
            self.file.write_all(&chunk).await.map_err(|e| failed(&self.path, e))?;
            self.hasher.update(&chunk);
            self.size += chunk.len() as u64;
            if self.size - mark >= TRICKLE {
                (mark, deadline) = (self.size, Instant::now() + job.limits.stall);
            }
            progress.set(at, self.size, chunk.len() as u64);
        }
        self.file.flush().await.map_err(|e| failed(&self.path, e))
    }
}

fn broke(registry: &Registry, wanted: &Wanted, at: u64, why: &str) -> DriverError {
    let message = format!(
        "cannot pull {}: the layer {} broke off after {} of {} ({why}); what has arrived is kept, and the next pull goes on from there",
        registry.reference(),
        wanted.digest.short(),
        Bytes(at).human(),
        Bytes(wanted.size).human()
    );
    DriverError::new(ErrorKind::Damaged, "SourceTruncated", message)
}

/// The hash of what an earlier pull left; more than there may be is nothing.
fn hashed(path: &Path, most: u64, job: &Job) -> Result<(Sha256, u64)> {
    let failed = |e| DriverError::io(format!("read the download {}", path.display()), e);
    let mut hasher = Sha256::new();
    let mut file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((hasher, 0)),
        file => file.map_err(failed)?,
    };
    if file.metadata().map_err(failed)?.len() > most {
        fs::remove_file(path).map_err(failed)?;
        return Ok((hasher, 0));
    }
    let (mut chunk, mut size) = (vec![0; 1 << 17], 0);
    loop {
        job.check()?;
        match io::Read::read(&mut file, &mut chunk).map_err(failed)? {
            0 => return Ok((hasher, size)),
            read => {
                hasher.update(&chunk[..read]);
                size += read as u64;
            }
        }
    }
}
