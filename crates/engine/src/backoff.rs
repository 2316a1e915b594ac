//! Growing pauses between tries.
//!
//! This module owns the arithmetic: how long to wait after the n-th failure in a row. It never waits and never draws random numbers of its
//! own: the generator is the caller's, seeded in tests.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::Duration;

/// Pauses that double from `first` up to `most`; each may be shortened at random by up to `jitter` percent, so that many who failed
/// together do not try again together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
    /// How many percent of a pause may be taken off; at most 100.
    pub jitter: u8,
}

impl Backoff {
    /// For calls to another program: 100 ms to 10 s.
    pub const CALLS: Self = Self { first: Duration::from_millis(100), most: Duration::from_secs(10), jitter: 30 };

    /// The pause after the `failures`-th failure in a row (1 for the first), before jitter.
    pub fn steady(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }

    /// The pause after the `failures`-th failure in a row.
    pub fn pause(&self, failures: u32, random: &mut impl Rng) -> Duration {
        let whole = self.steady(failures);
        let most_off = whole * u32::from(self.jitter.min(100)) / 100;
        whole - most_off.mul_f64(random.random_range(0.0..=1.0))
    }
}

/// Counts the failures in a row of one loop.
#[derive(Debug)]
pub struct Tries {
    backoff: Backoff,
    random: StdRng,
    failures: u32,
}

impl Tries {
    /// None failed so far. Loops with different seeds drift apart.
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        Self { backoff, random: StdRng::seed_from_u64(seed), failures: 0 }
    }
    /// One more failed: how long to wait now.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.pause(self.failures, &mut self.random)
    }
    /// One succeeded: the next pause is the first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
    /// How many failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESTARTS: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60), jitter: 0 };

    #[test]
    fn pauses_double_up_to_the_most() {
        let pauses: Vec<u64> = (1..=9).map(|n| RESTARTS.steady(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(RESTARTS.steady(u32::MAX).as_secs(), 60);
        assert_eq!(RESTARTS.steady(0).as_secs(), 1);
    }

    #[test]
    fn a_success_begins_anew() {
        let mut tries = Tries::new(RESTARTS, 1);
        assert_eq!([tries.failed(), tries.failed()].map(|p| p.as_secs()), [1, 2]);
        tries.succeeded();
        assert_eq!(tries.failures(), 0);
        assert_eq!(tries.failed().as_secs(), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_and_others_differ() {
        let pauses = |seed| {
            let mut tries = Tries::new(Backoff::CALLS, seed);
            (0..5).map(|_| tries.failed()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }

    proptest! {
        #[test]
        fn jitter_only_shortens_and_only_by_its_share(failures in 0u32..100, jitter in 0u8..=100, seed: u64) {
            let backoff = Backoff { jitter, ..Backoff::CALLS };
            let (steady, pause) = (backoff.steady(failures), backoff.pause(failures, &mut StdRng::seed_from_u64(seed)));
            prop_assert!(pause <= steady);
            prop_assert!(pause + Duration::from_micros(1) >= steady * u32::from(100 - jitter) / 100);
            prop_assert!(steady <= backoff.most);
        }
    }
}
