//! How far each layer is, in one line for people: `2 of 5 layers, 41 MB of 120 MB (12 MB/s); now a1b2c3 8/40 MB, d4e5f6 3/9 MB`.

use crate::image::job::Job;
use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use yun_types::{Bytes, Digest};

const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How many layers are named.
const NAMED: usize = 3;

/// The layers on their way.
#[derive(Debug)]
pub(super) struct Progress {
    job: Job,
    /// How far the whole is when all have arrived, in percent.
    until: u8,
    shared: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    layers: Vec<Line>,
    began: Instant,
    /// Bytes that arrived now, not in an earlier pull.
    arrived: u64,
    next: Instant,
}

#[derive(Debug)]
struct Line {
    name: String,
    done: u64,
    size: u64,
}

impl Progress {
    pub(super) fn new<'a>(
        job: &Job,
        until: u8,
        shared: usize,
        layers: impl Iterator<Item = (&'a Digest, u64)>,
    ) -> Self {
        let layers =
            layers.map(|(digest, size)| Line { name: digest.short()[..6].to_owned(), done: 0, size }).collect();
        let began = Instant::now();
        let inner = Inner { layers, began, arrived: 0, next: began };
        Self { job: job.clone(), until, shared, inner: Mutex::new(inner) }
    }

    /// Layer `at` has so many bytes now; `new` of them arrived since the last call.
    pub(super) fn set(&self, at: usize, done: u64, new: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = inner.layers.get_mut(at) {
            line.done = done;
        }
        inner.arrived += new;
        let now = Instant::now();
        if now < inner.next {
            return;
        }
        inner.next = now + REPORT_EVERY;
        let (percent, text) = inner.shown(self.until, self.shared, now);
        self.job.work.report(Some(percent), text);
    }
}

impl Inner {
    fn shown(&self, until: u8, shared: usize, now: Instant) -> (u8, String) {
        let (done, size) = self.layers.iter().fold((0, 0), |(d, s), line| (d + line.done, s + line.size));
        let whole = self.layers.iter().filter(|line| line.done >= line.size).count();
        let millis = now.duration_since(self.began).as_millis().max(1);
        let speed = u128::from(self.arrived) / 1000 / millis;
        let mut text = format!(
            "{} of {} layers, {} of {} ({speed} MB/s)",
            whole + shared,
            self.layers.len() + shared,
            Bytes(done).human(),
            Bytes(size).human()
        );
        if shared > 0 {
            let _ = write!(text, ", {shared} here already");
        }
        let moving: Vec<String> = self
            .layers
            .iter()
            .filter(|line| line.done > 0 && line.done < line.size)
            .take(NAMED)
            .map(|line| format!("{} {} of {}", line.name, Bytes(line.done).human(), Bytes(line.size).human()))
            .collect();
        if !moving.is_empty() {
            let _ = write!(text, "; now {}", moving.join(", "));
        }
        let percent = u128::from(until) * u128::from(done) / u128::from(size.max(1));
        (u8::try_from(percent).unwrap_or(until).min(until), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_on_its_way_is_named() {
        let began = Instant::now();
        let line = |name: &str, done, size| Line { name: name.into(), done, size };
        let layers =
            vec![line("aaaaaa", 10 << 20, 10 << 20), line("bbbbbb", 4 << 20, 8 << 20), line("cccccc", 0, 2 << 20)];
        let inner = Inner { layers, began, arrived: 14 << 20, next: began };
        let (percent, text) = inner.shown(70, 2, began + Duration::from_secs(1));
        assert_eq!(percent, 49);
        assert_eq!(text, "3 of 5 layers, 14 MiB of 20 MiB (14 MB/s), 2 here already; now bbbbbb 4 MiB of 8 MiB");
    }
}
