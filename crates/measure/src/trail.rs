//! The newest samples of one subject, as a trail of bytes: each sample says only what differs from the one before. An idle container adds
//! four bytes a sample. The same bytes go into the file's log, so that nothing is lost with the process.

use crate::Millis;
use yun_types::{Metric, Sample};

/// Metrics in a row.
pub(crate) const COLUMNS: usize = Metric::COUNT;
/// What stands for a metric that was not measured; all others are not negative.
pub(crate) const ABSENT: i64 = -1;

/// One sample in the units that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) at: Millis,
    pub(crate) values: [i64; COLUMNS],
}

impl Row {
    const NONE: Self = Self { at: 0, values: [ABSENT; COLUMNS] };

    /// A sample in the units that are kept: milliseconds, pages of 4 KiB, bytes, counts.
    pub(crate) fn new(at: Millis, sample: &Sample) -> Self {
        let mut values = [ABSENT; COLUMNS];
        for (metric, value) in sample.iter() {
            values[metric as usize] = i64::try_from(value / divisor(metric)).unwrap_or(i64::MAX);
        }
        Self { at, values }
    }
}

fn divisor(metric: Metric) -> u64 {
    match metric {
        Metric::Memory | Metric::DiskUsed => 4096,
        metric if metric.is_time() => 1000,
        _ => 1,
    }
}

/// A kept number as seconds, bytes or a count.
pub(crate) fn real(metric: Metric, kept: i64) -> f64 {
    match metric {
        Metric::Memory | Metric::DiskUsed => kept as f64 * 4096.0,
        metric if metric.is_time() => kept as f64 / 1000.0,
        _ => kept as f64,
    }
}

/// The trail.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    bytes: Vec<u8>,
    last: Row,
    count: usize,
}

impl Default for Trail {
    fn default() -> Self {
        Self { bytes: Vec::new(), last: Row::NONE, count: 0 }
    }
}

impl Trail {
    /// How many samples it has.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The newest sample.
    pub(crate) fn last(&self) -> Option<&Row> {
        (self.count > 0).then_some(&self.last)
    }

    /// Bytes in memory.
    pub(crate) fn size(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds a sample; its bytes are added to `log` too.
    pub(crate) fn push(&mut self, row: Row, log: &mut Vec<u8>) {
        let begin = self.bytes.len();
        let mut changed = 0u16;
        for column in 0..COLUMNS {
            changed |= u16::from(row.values[column] != self.last.values[column]) << column;
        }
        self.bytes.extend(changed.to_le_bytes());
        put(&mut self.bytes, row.at.wrapping_sub(self.last.at));
        for column in (0..COLUMNS).filter(|column| changed >> column & 1 == 1) {
            put(&mut self.bytes, row.values[column].wrapping_sub(self.last.values[column]));
        }
        log.extend(&self.bytes[begin..]);
        self.last = row;
        self.count += 1;
    }

    /// Takes up one sample from a log, and leaves the rest of it. `None` if the log ends in the middle.
    pub(crate) fn replay(&mut self, log: &mut &[u8]) -> Option<()> {
        let begin = *log;
        self.last = step(&self.last, log)?;
        self.bytes.extend(&begin[..begin.len() - log.len()]);
        self.count += 1;
        Some(())
    }

    /// All samples, the oldest first.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let (mut rest, mut last) = (self.bytes.as_slice(), Row::NONE);
        std::iter::from_fn(move || {
            last = step(&last, &mut rest)?;
            Some(last)
        })
    }
}

fn step(last: &Row, bytes: &mut &[u8]) -> Option<Row> {
    let (mask, rest) = bytes.split_first_chunk::<2>()?;
    let changed = u16::from_le_bytes(*mask);
    *bytes = rest;
    let mut row = *last;
    row.at = row.at.wrapping_add(take(bytes)?);
    for column in (0..COLUMNS).filter(|column| changed >> column & 1 == 1) {
        row.values[column] = row.values[column].wrapping_add(take(bytes)?);
    }
    Some(row)
}

/// Writes a number of any sign in as few bytes as it needs (LEB128 of its zigzag form).
pub(crate) fn put(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let low = rest.to_le_bytes()[0] & 0x7f;
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads what [`put`] wrote.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<i64> {
    let (mut value, mut shift) = (0u64, 0u32);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        let value = prop_oneof![Just(ABSENT), 0..100i64, 0..=i64::MAX];
        (any::<i64>(), prop::array::uniform15(value)).prop_map(|(at, values)| Row { at, values })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(rows in prop::collection::vec(row(), 0..20)) {
            let (mut trail, mut log) = (Trail::default(), Vec::new());
            rows.iter().for_each(|row| trail.push(*row, &mut log));
            prop_assert_eq!(trail.rows().collect::<Vec<_>>(), rows.clone());
            let (mut again, mut rest) = (Trail::default(), log.as_slice());
            while again.replay(&mut rest).is_some() {}
            prop_assert!(rest.is_empty());
            prop_assert_eq!((again.rows().collect::<Vec<_>>(), again.len()), (rows.clone(), rows.len()));
        }

        #[test]
        fn a_log_that_ends_early_is_read_as_far_as_it_goes(rows in prop::collection::vec(row(), 1..5), cut in 1usize..30) {
            let (mut trail, mut log) = (Trail::default(), Vec::new());
            rows.iter().for_each(|row| trail.push(*row, &mut log));
            log.truncate(log.len().saturating_sub(cut));
            let (mut again, mut rest) = (Trail::default(), log.as_slice());
            while again.replay(&mut rest).is_some() {}
            prop_assert!(again.len() < rows.len() && again.rows().eq(rows.iter().copied().take(again.len())));
        }
    }

    #[test]
    fn an_idle_subject_costs_four_bytes() {
        let (mut trail, mut log) = (Trail::default(), Vec::new());
        let sample = Sample::default().with(Metric::Cpu, 1_234_567_890).with(Metric::Memory, 40 << 20);
        trail.push(Row::new(1_700_000_000_000, &sample), &mut log);
        log.clear();
        trail.push(Row::new(1_700_000_005_000, &sample), &mut log);
        assert_eq!(log.len(), 4);
    }
}
