//! A block: a stretch of one subject's samples, a column each metric, readable one metric at a time.

use crate::{
    Millis, column,
    trail::{COLUMNS, Row},
};
use yun_types::Metric;

/// What the first byte of a block says.
const VERSION: u8 = 1;

/// Writes samples, the oldest first.
pub(crate) fn encode(rows: &[Row]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    crate::trail::put(&mut bytes, i64::try_from(rows.len()).unwrap_or(0));
    let mut numbers: Vec<i64> = rows.iter().map(|row| row.at).collect();
    column::encode(&numbers, true, &mut bytes);
    for metric in Metric::ALL {
        numbers.clear();
        numbers.extend(rows.iter().map(|row| row.values[metric as usize]));
        column::encode(&numbers, metric.is_counter(), &mut bytes);
    }
    bytes
}

fn open(bytes: &[u8]) -> Option<(Vec<Millis>, &[u8])> {
    let (version, mut rest) = bytes.split_first()?;
    let count = usize::try_from(crate::trail::take(&mut rest)?).ok()?;
    if *version != VERSION || count > 1 << 20 {
        return None;
    }
    let times = column::decode(&mut rest, count)?;
    Some((times, rest))
}

/// The times and the numbers of one metric; `None` if the block is damaged.
pub(crate) fn one(bytes: &[u8], metric: Metric) -> Option<(Vec<Millis>, Vec<i64>)> {
    let (times, mut rest) = open(bytes)?;
    for _ in 0..metric as usize {
        // Blocks of an older version end before the metrics that came later.
        column::skip(&mut rest)?;
    }
    let numbers = column::decode(&mut rest, times.len())?;
    Some((times, numbers))
}

/// All samples; `None` if the block is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Row>> {
    let (times, mut rest) = open(bytes)?;
    let mut rows: Vec<Row> = times.iter().map(|at| Row { at: *at, values: [crate::trail::ABSENT; COLUMNS] }).collect();
    for column in 0..COLUMNS {
        if rest.is_empty() {
            break;
        }
        for (row, number) in rows.iter_mut().zip(column::decode(&mut rest, times.len())?) {
            row.values[column] = number;
        }
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Sample;

    #[test]
    fn metrics_are_read_one_by_one_or_all() {
        let sample = |n: u64| Sample::default().with(Metric::Cpu, n * 1_000_000).with(Metric::IoPressure, n * 7000);
        let rows: Vec<Row> = (0..180).map(|n| Row::new(i64::try_from(n).unwrap() * 5000, &sample(n))).collect();
        let bytes = encode(&rows);
        assert!(bytes.len() < 400, "{}", bytes.len());
        assert_eq!(decode(&bytes).unwrap(), rows);
        let (times, pressure) = one(&bytes, Metric::IoPressure).unwrap();
        assert_eq!((times[2], pressure[2], times.len()), (10_000, 14, 180));
        assert_eq!(one(&bytes, Metric::Memory).unwrap().1, vec![-1; 180]);
        assert_eq!(decode(&bytes[..bytes.len() / 2]), None);
        assert_eq!(one(&[9, 0], Metric::Cpu), None);
    }
}
