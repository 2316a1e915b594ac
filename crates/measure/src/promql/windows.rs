//! Points in windows of time.

use crate::{Millis, coarse};
use std::ops::Range;

/// How far back selectors read.
pub(super) const LOOKBACK: Millis = 2 * coarse::GRAIN;
/// How long a fine sample stands for its series.
const FRESH: Millis = 60_000;

/// The places of the points after `from` and up to `to`.
pub(super) fn over(points: &[(Millis, f64)], from: Millis, to: Millis) -> Range<usize> {
    let begin = points.partition_point(|(at, _)| *at <= from);
    let end = points.partition_point(|(at, _)| *at <= to);
    begin..end.max(begin)
}

/// The point that stands for a series at a time, if one is near enough: a minute among fine ones, ten among coarse ones.
pub(super) fn newest(points: &[(Millis, f64)], at: Millis) -> Option<(Millis, f64)> {
    let end = points.partition_point(|(time, _)| *time <= at);
    let newest = *points.get(end.checked_sub(1)?)?;
    // What is five minutes from its neighbours is coarse.
    let is_coarse =
        end >= 2 && newest.0 - points[end - 2].0 >= coarse::GRAIN || end == 1 && newest.0 % coarse::GRAIN == 0;
    let most = if is_coarse { LOOKBACK } else { FRESH };
    (at - newest.0 < most).then_some(newest)
}
