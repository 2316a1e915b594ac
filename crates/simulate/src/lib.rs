//! Traces of real clusters, replayed against the decisions of `plan`.
//!
//! Owns reading (CSV, text and JSON, plain or packed with gzip or xz) and the protocols by which results are compared with published ones. Never
//! decides anything itself: every placement is `plan`'s. A file is read whole and checked before anything is simulated: a broken row names its
//! file, line and column, and nothing is half loaded.
//!
//! Chance comes from a seeded ChaCha8: the same seed gives the same series on every machine.

pub mod chart;
pub mod json;
pub mod openb;
pub mod planetlab;
pub mod roadef;
pub mod surf;
pub mod table;

pub use table::TraceError;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

/// How far a simulation is: done and all, in steps of its own.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A seeded series.
pub(crate) fn chance(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// The mean of some numbers; zero of none.
pub fn mean(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = numbers.into_iter().fold((0.0, 0u32), |(sum, n), x| (sum + x, n + 1));
    if n == 0 { 0.0 } else { sum / f64::from(n) }
}
