//! Times and sizes, as Docker writes them.

use chrono::{DateTime, SecondsFormat, TimeDelta};
use yun_types::Timestamp;

/// What Docker says of a moment that never was.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// A moment, or the one that stands for none.
pub(super) fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Nanos, true))
}

/// How long something is, in words: `About a minute`.
pub(super) fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Reads a moment as clients write it: seconds and a fraction since 1970, or RFC 3339.
pub(super) fn parse_moment(text: &str) -> Option<Timestamp> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    DateTime::from_timestamp(seconds.parse().ok()?, digits.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_like_dockers() {
        let said = |seconds: i64| span(TimeDelta::seconds(seconds));
        assert_eq!(said(-5), "Less than a second");
        assert_eq!(said(59), "59 seconds");
        assert_eq!(said(61), "About a minute");
        assert_eq!(said(150), "2 minutes");
        assert_eq!(said(3700), "About an hour");
        assert_eq!(said(86_400), "24 hours");
        assert_eq!(said(86_400 * 5), "5 days");
        assert_eq!(said(86_400 * 900), "2 years");
    }

    #[test]
    fn moments_are_read_in_both_forms() {
        let at = parse_moment("1700000000.500000000").unwrap();
        assert_eq!(at.to_rfc3339_opts(SecondsFormat::Millis, true), "2023-11-14T22:13:20.500Z");
        assert_eq!(parse_moment("2023-11-14T22:13:20.5Z"), Some(at));
        assert_eq!(parse_moment("1700000000").unwrap().timestamp(), 1_700_000_000);
        assert!(parse_moment("yesterday").is_none());
        assert_eq!(moment(None), NEVER);
    }
}
