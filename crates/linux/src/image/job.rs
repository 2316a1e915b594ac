//! One piece of image work while it runs: whether it is still wanted, how far it is, and how much room it may take.

use super::{ImageLimits, fault};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use yun_drivers::{DriverError, Result};
use yun_engine::work::Followed;
use yun_types::Bytes;

/// Shared between the future that somebody waits for and the threads that do its work. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) work: Followed,
    pub(super) limits: ImageLimits,
    dropped: Arc<AtomicBool>,
}

/// Held by the future: when it is dropped, the threads learn that nobody waits for them any more.
#[derive(Debug)]
pub(super) struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Job {
    pub(super) fn new(work: &Followed, limits: ImageLimits) -> (Self, Waiting) {
        let dropped = Arc::new(AtomicBool::new(false));
        (Self { work: work.clone(), limits, dropped: dropped.clone() }, Waiting(dropped))
    }

    /// Fails once the work is no longer wanted. Loops call it for every chunk.
    pub(super) fn check(&self) -> Result<()> {
        if self.dropped.load(Ordering::Relaxed) || self.work.is_cancelled() {
            return Err(fault::cancelled());
        }
        Ok(())
    }

    /// Runs blocking work on its own thread. The thread keeps everything that it was given until it notices that it should stop.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let job = self.clone();
        let ran = tokio::task::spawn_blocking(move || work(&job)).await;
        ran.unwrap_or_else(|e| Err(DriverError::io("finish the image work", std::io::Error::other(e))))
    }

    /// Fails unless the file system keeps its reserve after `more` bytes.
    pub(super) fn room(&self, path: &Path, more: u64, what: &str) -> Result<()> {
        let stat = nix::sys::statvfs::statvfs(path)
            .map_err(|e| DriverError::io(format!("measure the free disk under {}", path.display()), e.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < more.saturating_add(self.limits.keep_free.0) {
            return Err(fault::no_space(what, Bytes(free)));
        }
        Ok(())
    }
}

/// Reports how far a step is, in percent and in bytes a second, a few times a second at most.
#[derive(Debug)]
pub(super) struct Meter {
    job: Job,
    what: String,
    /// The part of the whole that this step is, in percent.
    span: (u8, u8),
    total: Option<u64>,
    done: u64,
    began: Instant,
    next: Instant,
}

const REPORT_EVERY: Duration = Duration::from_millis(200);

impl Meter {
    pub(super) fn new(job: &Job, what: impl Into<String>, span: (u8, u8), total: Option<u64>) -> Self {
        let began = Instant::now();
        let meter = Self { job: job.clone(), what: what.into(), span, total, done: 0, began, next: began };
        meter.job.work.report(total.map(|_| span.0), meter.what.clone());
        meter
    }

    /// Counts bytes, reports now and then, and fails once the work is no longer wanted.
    pub(super) fn add(&mut self, bytes: usize) -> Result<()> {
        self.job.check()?;
        self.done += bytes as u64;
        let now = Instant::now();
        if now >= self.next {
            self.next = now + REPORT_EVERY;
            self.report(now);
        }
        Ok(())
    }

    fn report(&self, now: Instant) {
        let rate = u64::try_from(u128::from(self.done) * 1000 / now.duration_since(self.began).as_millis().max(1))
            .unwrap_or(u64::MAX);
        let (done, speed) = (Bytes(self.done).human(), rate / 1_000_000);
        let message = match self.total {
            Some(total) => format!("{}: {done} of {} ({speed} MB/s)", self.what, Bytes(total).human()),
            None => format!("{}: {done} ({speed} MB/s)", self.what),
        };
        self.job.work.report(self.total.map(|total| percent(self.span, self.done, total)), message);
    }
}

/// The percent of the whole after `done` of `total` of a step that spans a part of it.
fn percent((from, to): (u8, u8), done: u64, total: u64) -> u8 {
    let part = u128::from(to.saturating_sub(from)) * u128::from(done.min(total)) / u128::from(total.max(1));
    from.saturating_add(u8::try_from(part).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_stay_in_their_span() {
        assert_eq!(percent((0, 60), 0, 10), 0);
        assert_eq!(percent((0, 60), 5, 10), 30);
        assert_eq!(percent((60, 95), 99, 10), 95);
        assert_eq!(percent((60, 95), 0, 0), 60);
    }

    #[test]
    fn dropping_the_waiter_stops_the_work() {
        let (job, waiting) = Job::new(&Followed::default(), ImageLimits::default());
        assert!(job.check().is_ok());
        drop(waiting);
        assert_eq!(job.check().unwrap_err().reason, "Cancelled");
    }
}
