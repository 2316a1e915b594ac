//! Questions about one subject: what it uses now, and how that was over a span of time.

use crate::{
    MeasureError, Measurements, Millis, block, coarse,
    coarse::{looked_at, shown},
    store::Latest,
    trail::{ABSENT, Row, real},
};
use std::collections::BTreeMap;
use uuid::Uuid;
use yun_types::Metric;

/// One stretch of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Its beginning.
    pub at: Millis,
    /// The average.
    pub avg: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// One metric over time: rates of counters, values of gauges, in the metric's unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which.
    pub metric: Metric,
    /// Stretches in which something was measured.
    pub buckets: Vec<Bucket>,
}

impl Latest {
    /// When it was measured.
    pub fn at(&self) -> Millis {
        self.row.at
    }

    /// A metric as it was read, in seconds, bytes or a count: what Prometheus scrapes.
    pub fn read(&self, metric: Metric) -> Option<f64> {
        let kept = self.row.values[metric as usize];
        (kept != ABSENT).then(|| real(metric, kept))
    }

    /// What is used: rates of counters since the measurement before, values of gauges.
    pub fn values(&self) -> BTreeMap<Metric, f64> {
        let value = |metric| Some((metric, shown(metric, looked_at(metric, self.before.as_ref(), &self.row)? as f64)));
        Metric::ALL.into_iter().filter_map(value).collect()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
}

impl Sum {
    fn add(&mut self, avg: f64, min: f64, max: f64) {
        self.min = if self.count == 0 { min } else { self.min.min(min) };
        self.max = if self.count == 0 { max } else { self.max.max(max) };
        self.count += 1;
        self.sum += avg;
    }
}

impl Measurements {
    /// How a subject's metrics were from `from` to `to`, in stretches of `step`. Metrics that were never measured are left out.
    pub fn range(
        &self,
        subject: Uuid,
        metrics: &[Metric],
        from: Millis,
        to: Millis,
        step: Millis,
    ) -> Result<Vec<Line>, MeasureError> {
        let step = step.max(1);
        // The first rate needs the sample before.
        let raw = self.raw(subject, from - coarse::GAP, to)?;
        let mut sums: BTreeMap<(Metric, Millis), Sum> = BTreeMap::new();
        let mut note = |metric, at: Millis, avg: f64, min: f64, max: f64| {
            if at >= from && at <= to {
                let bucket = from + (at - from) / step * step;
                sums.entry((metric, bucket)).or_default().add(avg, min, max);
            }
        };
        for kept in &raw.coarse {
            for metric in metrics {
                for (at, point) in coarse::one(&kept.block, *metric).unwrap_or_default() {
                    if point.avg >= 0 {
                        let of = |number: i64| shown(*metric, number as f64);
                        // A stretch is named by its end, and what it tells was before.
                        note(*metric, at - coarse::GRAIN / 2, of(point.avg), of(point.min), of(point.max));
                    }
                }
            }
        }
        let mut before: Option<Row> = None;
        let blocks = raw.fine.iter().filter_map(|kept| block::decode(&kept.block)).flatten();
        for row in blocks.chain(raw.head) {
            for metric in metrics {
                if let Some(value) = looked_at(*metric, before.as_ref(), &row) {
                    let value = shown(*metric, value as f64);
                    note(*metric, row.at, value, value, value);
                }
            }
            before = Some(row);
        }
        let mut lines: BTreeMap<Metric, Line> = BTreeMap::new();
        for ((metric, at), sum) in sums {
            let line = lines.entry(metric).or_insert_with(|| Line { metric, buckets: Vec::new() });
            let avg = sum.sum / f64::from(sum.count);
            line.buckets.push(Bucket { at, avg, min: sum.min, max: sum.max });
        }
        Ok(lines.into_values().collect())
    }
}
