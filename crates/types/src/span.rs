//! A length of time as people and Compose files write it: `30s`, `1m30s`, `500ms`. Kept in whole milliseconds.

use crate::Invalid;
use std::{fmt, str::FromStr, time::Duration};

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(u64);

/// The longest one: a day. Whoever waits longer wants a schedule.
const MOST: u64 = 86_400_000;

/// Units and their milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Span {
    /// So many seconds, at most a day.
    pub const fn seconds(seconds: u32) -> Self {
        let all = seconds as u64 * 1000;
        Self(if all > MOST { MOST } else { all })
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// True if no time passes.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<Duration> for Span {
    type Error = Invalid;
    fn try_from(value: Duration) -> Result<Self, Invalid> {
        let all = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        if all > MOST {
            return Err(Invalid(format!("a time of {} s is too long: use at most 24h", value.as_secs())));
        }
        Ok(Self(all))
    }
}

impl FromStr for Span {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = || {
            Invalid(format!("time {text:?} is not understood: write a number and its unit, as in 30s, 1m30s or 500ms"))
        };
        let (mut rest, mut all) = (text.trim(), 0u64);
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let unit = &rest[..end];
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
            rest = &rest[end..];
            all = number.checked_mul(*factor).and_then(|part| all.checked_add(part)).unwrap_or(u64::MAX);
        }
        if all > MOST {
            return Err(Invalid(format!("time {text:?} is too long: use at most 24h")));
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.pad("0s");
        }
        let mut text = String::new();
        for (unit, factor) in UNITS {
            if rest >= factor {
                text.push_str(&format!("{}{unit}", rest / factor));
                rest %= factor;
            }
        }
        f.pad(&text)
    }
}

crate::string_serde!(Span, "Span", "A length of time, as in 30s, 1m30s or 500ms; at most 24h.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_and_compose_files_write_it_alike() {
        for (text, millis) in
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("1h5m30s20ms", 3_930_020), ("0", 0), ("0s", 0)]
        {
            assert_eq!(text.parse::<Span>().unwrap().duration(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "30", "s", "-1s", "1.5s", "1d", "30 s", "1s2", "ten"] {
            assert!(bad.parse::<Span>().unwrap_err().0.contains("as in 30s"), "{bad}");
        }
        assert!("25h".parse::<Span>().unwrap_err().0.contains("at most 24h"));
        assert!("99999999999999999999h".parse::<Span>().is_err());
        assert!("9999999999999999h".parse::<Span>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(millis in 0..=MOST) {
            let span = Span(millis);
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }
}
