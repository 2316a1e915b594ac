//! One column of a block: numbers that belong to one metric, compressed. Most columns of an idle machine hold one number over and over;
//! those cost a few bytes. The rest is given to `pco`, which is made for numbers.

use crate::trail::{ABSENT, put, take};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, standalone};

const CONSTANT: u8 = 0;
const PACKED: u8 = 1;
const PLAIN: u8 = 2;
/// Below this `pco`'s own header costs more than it saves.
const SHORT: usize = 24;

/// Writes a column: its kind, its length in bytes, its bytes. `grows` if each number is near the one before.
pub(crate) fn encode(numbers: &[i64], grows: bool, into: &mut Vec<u8>) {
    let first = numbers.first().copied().unwrap_or(ABSENT);
    let mut bytes = Vec::new();
    let kind = if numbers.iter().all(|number| *number == first) {
        put(&mut bytes, first);
        CONSTANT
    } else {
        match (numbers.len() >= SHORT).then(|| pack(numbers, grows)).flatten() {
            Some(packed) => {
                bytes = packed;
                PACKED
            }
            None => {
                let mut last = 0i64;
                for number in numbers {
                    put(&mut bytes, number.wrapping_sub(last));
                    last = *number;
                }
                PLAIN
            }
        }
    };
    into.push(kind);
    put(into, i64::try_from(bytes.len()).unwrap_or(0));
    into.extend(bytes);
}

fn pack(numbers: &[i64], grows: bool) -> Option<Vec<u8>> {
    let delta = if grows { DeltaSpec::TryConsecutive(1) } else { DeltaSpec::NoOp };
    let config =
        ChunkConfig::default().with_compression_level(4).with_mode_spec(ModeSpec::Classic).with_delta_spec(delta);
    standalone::simple_compress(numbers, &config).ok()
}

/// Steps over a column.
pub(crate) fn skip(bytes: &mut &[u8]) -> Option<()> {
    part(bytes).map(drop)
}

fn part<'b>(bytes: &mut &'b [u8]) -> Option<(u8, &'b [u8])> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    let length = usize::try_from(take(bytes)?).ok()?;
    let (column, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((*kind, column))
}

/// Reads a column of `count` numbers; `None` if it is damaged.
pub(crate) fn decode(bytes: &mut &[u8], count: usize) -> Option<Vec<i64>> {
    let (kind, mut column) = part(bytes)?;
    let numbers = match kind {
        CONSTANT => vec![take(&mut column)?; count],
        PLAIN => {
            let mut last = 0i64;
            let next = || {
                last = last.wrapping_add(take(&mut column)?);
                Some(last)
            };
            std::iter::repeat_with(next).take(count).collect::<Option<_>>()?
        }
        PACKED => standalone::simple_decompress::<i64>(column).ok()?,
        _ => return None,
    };
    (numbers.len() == count).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(numbers in prop::collection::vec(prop_oneof![Just(ABSENT), 0..9i64, 0..=i64::MAX], 0..300), grows: bool) {
            let mut bytes = Vec::new();
            encode(&numbers, grows, &mut bytes);
            encode(&[7, 8], true, &mut bytes);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(decode(&mut rest, numbers.len()), Some(numbers));
            let mut after = rest;
            prop_assert_eq!(decode(&mut after, 2), Some(vec![7, 8]));
            prop_assert_eq!(skip(&mut rest), Some(()));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn damage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&mut bytes.as_slice(), 30);
        }
    }

    #[test]
    fn sizes_are_small() {
        let size = |numbers: Vec<i64>, grows| {
            let mut bytes = Vec::new();
            encode(&numbers, grows, &mut bytes);
            bytes.len()
        };
        assert!(size(vec![5; 180], false) < 6);
        // A busy core, read every 5 s with a jitter of some milliseconds.
        let busy = (0..180).map(|n| n * 5000 + (n * 7919) % 13).collect();
        assert!(size(busy, true) < 180, "a byte a sample");
    }
}
