//! Amounts in up to eight dimensions, as small integers in units that the caller chooses (cpu in thousandths, memory in MiB …).
//!
//! A [`Vector`] that a caller can build is never negative and never large enough to overflow when millions are added on one node.

use std::fmt;

/// The most dimensions that a pool has.
pub const DIMENSIONS: usize = 8;
/// The largest part of a vector that can be asked for or lent.
pub const MOST: i64 = 1 << 30;

/// An amount in each dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Vector(pub(crate) [i32; DIMENSIONS]);

/// A part of a vector that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadVector {
    /// Less than nothing.
    #[error("dimension {dimension} of an amount is {value}: an amount is zero or more")]
    Negative {
        /// Which part.
        dimension: usize,
        /// Its value.
        value: i64,
    },
    /// More than [`MOST`].
    #[error("dimension {dimension} of an amount is {value}, and {MOST} is the most: use a larger unit")]
    TooLarge {
        /// Which part.
        dimension: usize,
        /// Its value.
        value: i64,
    },
    /// More parts than [`DIMENSIONS`].
    #[error("an amount has {parts} parts, and {DIMENSIONS} is the most")]
    TooMany {
        /// How many.
        parts: usize,
    },
    /// All parts are zero.
    #[error("an amount asks for nothing: at least one part must be more than zero")]
    Nothing,
}

impl Vector {
    /// Nothing of everything.
    pub const ZERO: Self = Self([0; DIMENSIONS]);

    /// From its parts; those that are not named are zero.
    pub fn new(parts: &[i64]) -> Result<Self, BadVector> {
        if parts.len() > DIMENSIONS {
            return Err(BadVector::TooMany { parts: parts.len() });
        }
        let mut vector = Self::ZERO;
        for (dimension, (into, value)) in vector.0.iter_mut().zip(parts.iter().copied()).enumerate() {
            *into = match i32::try_from(value) {
                Ok(part) if part >= 0 && value <= MOST => part,
                _ if value < 0 => return Err(BadVector::Negative { dimension, value }),
                _ => return Err(BadVector::TooLarge { dimension, value }),
            };
        }
        Ok(vector)
    }

    /// From its parts, of which at least one must be more than zero: what somebody asks for.
    pub fn asked(parts: &[i64]) -> Result<Self, BadVector> {
        let vector = Self::new(parts)?;
        if vector == Self::ZERO { Err(BadVector::Nothing) } else { Ok(vector) }
    }

    /// Its parts.
    pub const fn parts(self) -> [i32; DIMENSIONS] {
        self.0
    }

    /// Whether there is room for this in `room`.
    #[inline]
    pub fn fits(&self, room: &Self) -> bool {
        self.0.iter().zip(&room.0).fold(true, |fits, (want, have)| fits & (want <= have))
    }

    /// How often this fits in `room`.
    pub fn times_in(&self, room: &Self) -> u32 {
        let times =
            self.0.iter().zip(&room.0).filter(|(want, _)| **want > 0).map(|(want, have)| (have / want).max(0)).min();
        times.unwrap_or(i32::MAX).unsigned_abs()
    }

    /// What is missing in `room`, zero where there is enough.
    pub fn missing_in(&self, room: &Self) -> Self {
        self.zip(room, |want, have| if want > have { want.saturating_sub(have) } else { 0 })
    }

    #[inline]
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.zip(other, i32::saturating_add)
    }

    #[inline]
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.zip(other, i32::saturating_sub)
    }

    /// `part` of every dimension.
    #[inline]
    fn zip(&self, other: &Self, f: impl Fn(i32, i32) -> i32) -> Self {
        let mut out = [0; DIMENSIONS];
        for (into, (a, b)) in out.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *into = f(*a, *b);
        }
        Self(out)
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.iter().rposition(|part| *part != 0).map_or(1, |last| last + 1);
        let parts: Vec<String> = self.0.iter().take(used).map(i32::to_string).collect();
        write!(f, "<{}>", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_amounts_are_refused() {
        assert_eq!(Vector::new(&[1, -1]), Err(BadVector::Negative { dimension: 1, value: -1 }));
        assert_eq!(Vector::new(&[MOST + 1]), Err(BadVector::TooLarge { dimension: 0, value: MOST + 1 }));
        assert_eq!(Vector::new(&[i64::MAX]), Err(BadVector::TooLarge { dimension: 0, value: i64::MAX }));
        assert_eq!(Vector::new(&[i64::MIN]), Err(BadVector::Negative { dimension: 0, value: i64::MIN }));
        assert_eq!(Vector::new(&[1; 9]), Err(BadVector::TooMany { parts: 9 }));
        assert_eq!(Vector::asked(&[0, 0]), Err(BadVector::Nothing));
        assert_eq!(Vector::asked(&[0, 3]).unwrap().to_string(), "<0, 3>");
    }

    #[test]
    fn room_is_counted_in_whole_pieces() {
        let v = |parts: &[i64]| Vector::new(parts).unwrap();
        assert_eq!(v(&[2, 3]).times_in(&v(&[9, 9])), 3);
        assert_eq!(v(&[2, 0]).times_in(&v(&[9, 0])), 4);
        assert_eq!(v(&[2, 3]).times_in(&v(&[1, 9])), 0);
        assert_eq!(v(&[2, 3]).missing_in(&v(&[1, 9])), v(&[1, 0]));
        assert!(v(&[2, 3]).fits(&v(&[2, 3])) && !v(&[2, 3]).fits(&v(&[2, 2])));
    }
}
