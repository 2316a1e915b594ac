//! Thinning out: what a day of fine samples becomes. For each metric and each stretch of five minutes it keeps the last value of counters (for
//! rates over longer times), and the average, least and greatest of what people look at: the value of gauges, the rate of counters.

use crate::{
    Millis, column,
    trail::{ABSENT, COLUMNS, Row, put, take},
};
use yun_types::Metric;

/// The length of a stretch.
pub(crate) const GRAIN: Millis = 300_000;
/// Two samples further apart than this have no rate between them: the subject did not run, or nobody measured.
pub(crate) const GAP: Millis = 120_000;
/// What the first byte of a coarse block says.
const VERSION: u8 = 1;
/// Rates are kept in thousandths.
const RATE: i64 = 1000;

/// One stretch of one metric. Rates are in thousandths of the kept unit a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// The counter at the end; absent for gauges.
    pub(crate) last: i64,
    pub(crate) avg: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

const NOTHING: Point = Point { last: ABSENT, avg: ABSENT, min: ABSENT, max: ABSENT };

/// One stretch of all metrics; `at` is its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) at: Millis,
    pub(crate) points: [Point; COLUMNS],
}

/// The value that people look at between two samples: the rate of a counter in thousandths a second, the value of a gauge. `None` where
/// there is none: a gap, a counter that began again, a metric that was not measured.
pub(crate) fn looked_at(metric: Metric, before: Option<&Row>, row: &Row) -> Option<i64> {
    let now = row.values[metric as usize];
    if now == ABSENT {
        return None;
    }
    if !metric.is_counter() {
        return Some(now);
    }
    let before = before.filter(|before| row.at > before.at && row.at - before.at <= GAP)?;
    let then = before.values[metric as usize];
    if then == ABSENT || now < then {
        return None;
    }
    let rate = i128::from(now - then) * 1000 * i128::from(RATE) / i128::from(row.at - before.at);
    i64::try_from(rate).ok()
}

/// A kept number that [`looked_at`] gave, as cores, bytes a second, bytes …
pub(crate) fn shown(metric: Metric, number: f64) -> f64 {
    let unit = crate::trail::real(metric, 1);
    if metric.is_counter() { number * unit / 1000.0 } else { number * unit }
}

/// Thins samples out. They are in order; stretches without a sample are left out.
pub(crate) fn thin(rows: &[Row]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    let mut counts = [0i64; COLUMNS];
    let mut sums = [0i128; COLUMNS];
    let mut before: Option<&Row> = None;
    for row in rows {
        let end = (row.at.div_euclid(GRAIN) + 1) * GRAIN;
        if all.last().is_none_or(|stretch| stretch.at != end) {
            all.push(Stretch { at: end, points: [NOTHING; COLUMNS] });
            (counts, sums) = ([0; COLUMNS], [0; COLUMNS]);
        }
        let Some(stretch) = all.last_mut() else { continue };
        for metric in Metric::ALL {
            let place = metric as usize;
            let point = &mut stretch.points[place];
            if metric.is_counter() && row.values[place] != ABSENT {
                point.last = row.values[place];
            }
            if let Some(value) = looked_at(metric, before, row) {
                counts[place] += 1;
                sums[place] += i128::from(value);
                point.min = if counts[place] == 1 { value } else { point.min.min(value) };
                point.max = point.max.max(value);
                point.avg = i64::try_from(sums[place] / i128::from(counts[place])).unwrap_or(i64::MAX);
            }
        }
        before = Some(row);
    }
    all
}

/// Keeps the eight highest bits of what only shows the breadth of a stretch: a quarter of a percent is enough for that, and half the bytes.
fn rounded(value: i64) -> i64 {
    let bits = 64 - value.max(0).leading_zeros();
    let drop = bits.saturating_sub(8);
    if value < 0 { value } else { value >> drop << drop }
}

/// Writes stretches, the oldest first.
pub(crate) fn encode(stretches: &[Stretch]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put(&mut bytes, i64::try_from(stretches.len()).unwrap_or(0));
    let times: Vec<i64> = stretches.iter().map(|stretch| stretch.at / GRAIN).collect();
    column::encode(&times, true, &mut bytes);
    for place in 0..COLUMNS {
        let mut write = |grows, of: &dyn Fn(&Point) -> i64| {
            let numbers: Vec<i64> = stretches.iter().map(|stretch| of(&stretch.points[place])).collect();
            column::encode(&numbers, grows, &mut bytes);
        };
        write(true, &|point| point.last);
        write(false, &|point| rounded(point.avg));
        write(false, &|point| rounded(point.min));
        write(false, &|point| rounded(point.max));
    }
    bytes
}

/// The times and points of one metric; `None` if the block is damaged.
pub(crate) fn one(bytes: &[u8], metric: Metric) -> Option<Vec<(Millis, Point)>> {
    let (version, mut rest) = bytes.split_first()?;
    let count = usize::try_from(take(&mut rest)?).ok()?;
    if *version != VERSION || count > 1 << 20 {
        return None;
    }
    let times = column::decode(&mut rest, count)?;
    for _ in 0..4 * (metric as usize) {
        column::skip(&mut rest)?;
    }
    let mut next = || column::decode(&mut rest, count);
    let (last, avg, min, max) = (next()?, next()?, next()?, next()?);
    let point = |n: usize| Point { last: last[n], avg: avg[n], min: min[n], max: max[n] };
    Some(times.iter().enumerate().map(|(n, at)| (at * GRAIN, point(n))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Sample;

    #[test]
    fn rates_and_values_keep_their_breadth() {
        // A core that is half busy, then fully; memory that grows by a page a sample.
        let mut cpu = 0;
        let rows: Vec<Row> = (0..120u64)
            .map(|n| {
                cpu += if n < 60 { 2_500_000 } else { 5_000_000 };
                let sample = Sample::default().with(Metric::Cpu, cpu).with(Metric::Memory, n * 4096);
                Row::new(i64::try_from(n).unwrap() * 5000, &sample)
            })
            .collect();
        let stretches = thin(&rows);
        assert_eq!(stretches.len(), 2);
        let bytes = encode(&stretches);
        let cpu = one(&bytes, Metric::Cpu).unwrap();
        assert_eq!((cpu[0].0, cpu[1].0), (GRAIN, 2 * GRAIN));
        let near = |number: i64, cores: f64| (shown(Metric::Cpu, number as f64) - cores).abs() < 0.01 * cores;
        assert!(near(cpu[0].1.min, 0.5) && near(cpu[0].1.max, 0.5) && near(cpu[1].1.max, 1.0), "{cpu:?}");
        assert_eq!(cpu[1].1.last, rows[119].values[0]);
        let memory = one(&bytes, Metric::Memory).unwrap();
        assert_eq!((memory[0].1.min, memory[0].1.max, memory[0].1.last), (0, 59, ABSENT));
        assert_eq!(one(&bytes, Metric::NetIn).unwrap()[0].1, NOTHING);
    }

    #[test]
    fn no_rate_over_a_gap_or_a_new_beginning() {
        let row = |at, cpu| Row::new(at, &Sample::default().with(Metric::Cpu, cpu));
        let rate = |a: (i64, u64), b: (i64, u64)| looked_at(Metric::Cpu, Some(&row(a.0, a.1)), &row(b.0, b.1));
        assert_eq!(rate((0, 0), (1000, 1_000_000)), Some(1_000_000));
        assert_eq!(rate((0, 0), (GAP + 1, 1_000_000)), None);
        assert_eq!(rate((0, 5_000_000), (1000, 1_000_000)), None);
        assert_eq!(rate((1000, 0), (1000, 1_000_000)), None);
        assert_eq!(looked_at(Metric::Cpu, None, &row(0, 1)), None);
    }

    #[test]
    fn rounding_costs_less_than_a_percent() {
        for value in [0, 1, 255, 256, 1000, 123_456_789, i64::MAX] {
            let kept = rounded(value);
            assert!(kept <= value && (value - kept) as f64 <= 0.008 * value as f64, "{value} {kept}");
        }
        assert_eq!(rounded(ABSENT), ABSENT);
    }
}
