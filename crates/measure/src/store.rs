//! The measurements as a whole: what is added, what becomes of it with age, and what is asked for.

use crate::{
    MeasureError, Millis, block, coarse,
    file::{File, Grain, Kept},
    subject::Subject,
    trail::{Row, Trail, put, take},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;
use yun_types::Sample;

/// How long the head may become: then blocks are written, at the same times on every clock.
const SEAL: Millis = 15 * 60_000;
/// Fine blocks are thinned out this much at a time.
const THINNED_AT_ONCE: Millis = 6 * 3_600_000;
/// The most samples of one subject in the head, if the file cannot be written.
const MOST_IN_HEAD: usize = 1000;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fine samples stay at least so long.
    pub fine: Millis,
    /// Coarse ones stay so long.
    pub coarse: Millis,
    /// The file holds no more than this: what is oldest goes earlier.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fine: 24 * 3_600_000, coarse: 31 * 24 * 3_600_000, bytes: 192 << 20 }
    }
}

/// What measurements cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Bytes of the file that hold something.
    pub disk: u64,
    /// Bytes of the head in memory.
    pub head: usize,
    /// Subjects that something is known of.
    pub subjects: usize,
}

/// What was measured. All calls block for as long as the disk takes.
#[derive(Debug)]
pub struct Measurements {
    inner: Mutex<Inner>,
    limits: Limits,
}

#[derive(Debug)]
struct Inner {
    file: File,
    known: HashMap<Uuid, Known>,
    /// When the head began.
    head_since: Option<Millis>,
}

#[derive(Debug)]
struct Known {
    key: i64,
    subject: Subject,
    trail: Trail,
    seen: Millis,
    /// The last sample and the one before: a rate needs two.
    recent: [Option<Row>; 2],
}

/// What one question reads of one subject: raw blocks and the newest samples.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) coarse: Vec<Kept>,
    pub(crate) fine: Vec<Kept>,
    pub(crate) head: Vec<Row>,
}

impl Measurements {
    /// Opens or makes the file at `path`. If it was damaged it is set aside, and its new name is told.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, Option<PathBuf>), MeasureError> {
        let (file, aside) = File::open(path)?;
        let mut known = HashMap::new();
        let mut ids = HashMap::new();
        for (key, subject, seen) in file.subjects()? {
            ids.insert(key, subject.id);
            known.insert(subject.id, Known { key, subject, trail: Trail::default(), seen, recent: [None; 2] });
        }
        let mut inner = Inner { file, known, head_since: None };
        for frame in inner.file.frames()? {
            let mut rest = frame.as_slice();
            while let Some(key) = take(&mut rest) {
                let entry = ids.get(&key).and_then(|id| inner.known.get_mut(id));
                let mut stranger = Trail::default();
                let Some(known) = entry else {
                    if stranger.replay(&mut rest).is_none() {
                        break;
                    }
                    continue;
                };
                if known.trail.replay(&mut rest).is_none() {
                    break;
                }
                if let Some(row) = known.trail.last().copied() {
                    known.note(row);
                    inner.head_since.get_or_insert(row.at);
                }
            }
        }
        Ok((Self { inner: Mutex::new(inner), limits }, aside))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was measured at one time. What is not newer than what is known of its subject is left out, unless the clock went back.
    pub fn add(&self, at: Millis, samples: &[(Subject, Sample)]) -> Result<(), MeasureError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.head_since.is_some_and(|since| since.div_euclid(SEAL) != at.div_euclid(SEAL)) {
            inner.seal()?;
            inner.age(at, &self.limits)?;
        }
        let mut frame = Vec::with_capacity(samples.len() * 12);
        for (subject, sample) in samples {
            let known = match inner.known.get_mut(&subject.id) {
                Some(known) => known,
                None => {
                    let key = inner.file.put_subject(subject, at)?;
                    let fresh =
                        Known { key, subject: subject.clone(), trail: Trail::default(), seen: at, recent: [None; 2] };
                    inner.known.entry(subject.id).or_insert(fresh)
                }
            };
            if known.subject != *subject {
                inner.file.put_subject(subject, at)?;
                known.subject = subject.clone();
            }
            if known.trail.last().is_some_and(|last| last.at >= at) || known.trail.len() >= MOST_IN_HEAD {
                continue;
            }
            put(&mut frame, known.key);
            let row = Row::new(at, sample);
            known.trail.push(row, &mut frame);
            known.note(row);
        }
        inner.head_since.get_or_insert(at);
        inner.file.log(&frame)
    }

    /// What was measured since this time, and maybe before.
    pub fn subjects(&self, from: Millis) -> Vec<Subject> {
        let inner = self.lock();
        let mut all: Vec<Subject> =
            inner.known.values().filter(|known| known.seen >= from).map(|known| known.subject.clone()).collect();
        all.sort_by(|a, b| (&a.project, &a.name, a.id).cmp(&(&b.project, &b.name, b.id)));
        all
    }

    /// The two newest samples of a subject: a rate needs two.
    pub fn newest(&self, subject: Uuid) -> Option<Latest> {
        let inner = self.lock();
        let [before, row] = inner.known.get(&subject)?.recent;
        row.map(|row| Latest { row, before })
    }

    /// What is kept of a subject in a span of time.
    pub(crate) fn raw(&self, subject: Uuid, from: Millis, to: Millis) -> Result<Raw, MeasureError> {
        let inner = self.lock();
        let mut raw = Raw { coarse: Vec::new(), fine: Vec::new(), head: Vec::new() };
        let Some(known) = inner.known.get(&subject) else { return Ok(raw) };
        raw.coarse = inner.file.blocks(Grain::Coarse, known.key, from, to)?;
        raw.fine = inner.file.blocks(Grain::Fine, known.key, from, to)?;
        raw.head = known.trail.rows().filter(|row| row.at >= from && row.at <= to).collect();
        Ok(raw)
    }

    /// What all of it costs.
    pub fn footprint(&self) -> Result<Footprint, MeasureError> {
        let inner = self.lock();
        let head = inner.known.values().map(|known| known.trail.size()).sum();
        Ok(Footprint { disk: inner.file.used()?, head, subjects: inner.known.len() })
    }

    /// Writes the head into blocks: before an orderly end, so that the next start has less to read.
    pub fn close(&self) -> Result<(), MeasureError> {
        self.lock().seal()
    }
}

/// What was measured last.
#[derive(Debug, Clone, Copy)]
pub struct Latest {
    pub(crate) row: Row,
    pub(crate) before: Option<Row>,
}

impl Known {
    fn note(&mut self, row: Row) {
        self.seen = row.at;
        self.recent = [self.recent[1], Some(row)];
    }
}

impl Inner {
    fn seal(&mut self) -> Result<(), MeasureError> {
        let mut blocks = Vec::new();
        for known in self.known.values().filter(|known| known.trail.len() > 0) {
            let rows: Vec<Row> = known.trail.rows().collect();
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
            blocks.push((known.key, Kept { start: first.at, end: last.at, block: block::encode(&rows) }));
        }
        self.file.seal(&blocks)?;
        self.known.values_mut().for_each(|known| known.trail = Trail::default());
        self.head_since = None;
        Ok(())
    }

    /// Thins out what is older than a day, forgets what is older than a month, and more if the file is too large.
    fn age(&mut self, now: Millis, limits: &Limits) -> Result<(), MeasureError> {
        for key in self.file.older(now - limits.fine - THINNED_AT_ONCE)? {
            self.thin(key, now - limits.fine)?;
        }
        self.file.forget(Grain::Coarse, now - limits.coarse)?;
        // Each round takes the older half of what is oldest, so it ends soon.
        for _ in 0..64 {
            if self.file.used()? <= limits.bytes {
                break;
            }
            let half = |oldest: Millis| oldest + ((now - oldest) / 8).max(SEAL);
            if let Some(oldest) = self.file.oldest(Grain::Coarse)? {
                self.file.forget(Grain::Coarse, half(oldest))?;
            } else if let Some(oldest) = self.file.oldest(Grain::Fine)? {
                self.file.forget(Grain::Fine, half(oldest))?;
            } else {
                break;
            }
        }
        let gone = self.file.forget_subjects(now - limits.fine)?;
        self.known.retain(|_, known| !gone.contains(&known.key));
        Ok(())
    }

    fn thin(&mut self, key: i64, until: Millis) -> Result<(), MeasureError> {
        let blocks = self.file.blocks(Grain::Fine, key, Millis::MIN, until)?;
        // A damaged block is worth less than the ones behind it.
        let rows: Vec<Row> = blocks
            .iter()
            .filter(|kept| kept.start < until)
            .filter_map(|kept| block::decode(&kept.block))
            .flatten()
            .collect();
        let stretches = coarse::thin(&rows);
        let kept = stretches.first().zip(stretches.last()).map(|(first, last)| Kept {
            start: first.at - coarse::GRAIN,
            end: last.at,
            block: coarse::encode(&stretches),
        });
        self.file.thin(key, until, kept.as_ref())
    }
}

#[cfg(test)]
mod tests;
