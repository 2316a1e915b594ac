//! Units: bytes and CPU. `K M G T P` are powers of 1000, `Ki Mi Gi Ti Pi` powers of 1024, as in Kubernetes quantities.

use crate::{Invalid, string_serde};
use std::{fmt, iter::Sum, str::FromStr};

/// A number of bytes. Reads `512M`, `2Gi`, `1.5G`, `1048576`; prints the shortest exact form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 11] = [
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1_000),
    ("B", 1),
];

/// The most that any size may be: one exbibyte, far above any machine, far below overflow when sizes are added.
const MAX_BYTES: u64 = 1 << 60;

impl Bytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// Whole mebibytes, rounded up: what hypervisors and partitions count in.
    pub const fn ceil_mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
    /// Difference, at least zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    /// Three significant digits, for people: `1.5 GiB`; a round decimal size stays what somebody wrote: `64 MB`.
    pub fn human(self) -> String {
        let decimal = UNITS[5..10].iter().find(|(_, factor)| self.0 >= *factor);
        let binary_is_exact = self.0.is_multiple_of(1 << 20) || self.0 < 1000;
        if let Some((unit, factor)) = decimal.filter(|(_, factor)| self.0.is_multiple_of(*factor) && !binary_is_exact) {
            return format!("{} {unit}B", self.0 / factor);
        }
        for (unit, factor) in &UNITS[..5] {
            if self.0 >= *factor {
                #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
                let value = self.0 as f64 / *factor as f64;
                return if value >= 100.0 {
                    format!("{value:.0} {unit}B")
                } else {
                    format!("{value:.1} {unit}B").replace(".0 ", " ")
                };
            }
        }
        format!("{} B", self.0)
    }
}

impl FromStr for Bytes {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| {
            Invalid(format!("size {text:?} {why}: write a number with K, M, G, T or Ki, Mi, Gi, Ti, as in 512M or 4Gi"))
        };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let factor = match unit {
            "" => 1,
            _ => {
                let unit = unit.strip_suffix('B').filter(|u| !u.is_empty()).unwrap_or(unit);
                UNITS.iter().find(|(u, _)| u.eq_ignore_ascii_case(unit)).map(|(_, f)| *f).ok_or_else(|| {
                    if number.is_empty() {
                        bad("is not a number")
                    } else {
                        bad(&format!("has the unknown unit {unit:?}"))
                    }
                })?
            }
        };
        let value = scaled(number, factor).ok_or_else(|| bad("is not a number"))?;
        if value > u128::from(MAX_BYTES) {
            return Err(bad("is more than 1024 Pi"));
        }
        u64::try_from(value).map(Bytes).map_err(|_| bad("is too large"))
    }
}

/// `number × factor` without floating point; `None` if `number` is not a plain decimal. Saturates instead of overflowing.
fn scaled(number: &str, factor: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let whole: u128 = match whole {
        "" => 0,
        digits if digits.len() > 30 => return Some(u128::MAX),
        digits => digits.parse().ok()?,
    };
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole.saturating_mul(u128::from(factor)).saturating_add(part * u128::from(factor) / scale))
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS
            .iter()
            .filter(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .min_by_key(|(_, factor)| self.0 / factor);
        match exact {
            Some((unit, factor)) if *factor > 1 => f.pad(&format!("{}{unit}", self.0 / factor)),
            _ => f.pad(&self.0.to_string()),
        }
    }
}

impl std::ops::Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self(0), |a, b| a + b)
    }
}

string_serde!(
    Bytes,
    "Bytes",
    "A size: a number with K, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti (powers of 1024), as in 512M or 4Gi."
);

/// CPU in thousandths of a core. Reads `2`, `0.5`, `500m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cpu(pub u32);

impl Cpu {
    /// The most cores that one request may name.
    pub const MAX_CORES: u32 = 4096;

    /// `n` whole cores.
    pub const fn cores(n: u32) -> Self {
        Self(n * 1000)
    }
    /// Whole cores, rounded up: the number of virtual CPUs of a VM.
    pub const fn ceil_cores(self) -> u32 {
        self.0.div_ceil(1000)
    }
    /// Difference, at least zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl FromStr for Cpu {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid(format!("cpu {text:?} {why}: write cores or thousandths, as in 2, 0.5 or 500m"));
        let trimmed = text.trim();
        let (number, factor) = trimmed.strip_suffix('m').map_or((trimmed, 1000), |n| (n, 1));
        if factor == 1 && number.contains('.') {
            return Err(bad("has a fraction of a thousandth"));
        }
        let milli = scaled(number, factor).ok_or_else(|| bad("is not a number"))?;
        if milli > u128::from(Self::MAX_CORES) * 1000 {
            return Err(bad("is more than 4096 cores"));
        }
        u32::try_from(milli).map(Cpu).map_err(|_| bad("is too large"))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1000, self.0 % 1000) {
            (cores, 0) => f.pad(&cores.to_string()),
            (cores, milli) => f.pad(format!("{cores}.{milli:03}").trim_end_matches('0')),
        }
    }
}

impl std::ops::Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self(0), |a, b| a + b)
    }
}

string_serde!(Cpu, "Cpu", "CPU in cores, as in 2 or 0.5, or in thousandths, as in 500m.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("4G", 4_000_000_000),
            ("4Gi", 4 << 30),
            ("1.5K", 1500),
            ("0", 0),
            ("512MiB", 512 << 20),
            ("10MB", 10_000_000),
            ("2g", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "x", "-1", "5x", "1e99", "1.2.3", "G", "99999999999999999999999999999999999999999G", "2000000P"]
        {
            let error = bad.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.contains("as in 512M or 4Gi"), "{bad}: {error}");
        }
    }

    #[test]
    fn cpu_reads_cores_and_thousandths() {
        assert_eq!("2".parse(), Ok(Cpu(2000)));
        assert_eq!("0.5".parse(), Ok(Cpu(500)));
        assert_eq!("250m".parse(), Ok(Cpu(250)));
        for bad in ["-1", "5x", "1e99", "", "4097", "0.5m", "99999999999999999999999"] {
            assert!(bad.parse::<Cpu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn people_get_three_digits() {
        assert_eq!(Bytes(1536 << 20).human(), "1.5 GiB");
        assert_eq!(Bytes(2 << 30).human(), "2 GiB");
        assert_eq!(Bytes(12).human(), "12 B");
        assert_eq!(Bytes(64_000_000).human(), "64 MB");
        assert_eq!(Bytes(2_000_000_000_000).human(), "2 TB");
        assert_eq!(Bytes(64_000_001).human(), "61 MiB");
        assert_eq!(Bytes(4096).human(), "4 KiB");
    }

    proptest! {
        #[test]
        fn bytes_print_and_read_back(n in 0u64..MAX_BYTES) {
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
        #[test]
        fn cpu_prints_and_reads_back(n in 0u32..4_096_000) {
            prop_assert_eq!(Cpu(n).to_string().parse(), Ok(Cpu(n)));
        }
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Cpu>();
        }
    }
}
