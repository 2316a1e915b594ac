//! Pure decisions with their explanations: placement, quotas, addresses, networks, what may be done to an instance, the ends of operations,
//! orders to nodes.
//!
//! Every function here is told what there is and answers what should be, with the reason. Nothing here waits, reads a clock, does I/O or
//! draws random numbers: time and seeds are arguments, so that a test can run a thousand hours in a second and a decision can be replayed.

pub mod address;
pub mod amount;
pub mod fair;
pub mod forecast;
pub mod gpu;
pub mod group;
pub mod interface;
pub mod lifecycle;
#[cfg(test)]
mod model;
pub mod names;
pub mod network;
pub mod observe;
pub mod operation;
pub mod orders;
pub mod place;
pub mod pool;
pub mod ports;
pub mod quota;
pub mod rebalance;
#[cfg(test)]
mod samples;
pub mod spec;
pub mod update;
pub mod volume;

/// A refusal by a rule: a word for programs and a sentence for people, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// One word for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refused {
    /// From its parts.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Spreads the bits of a number (the finalizer of splitmix64, Steele, Lea and Flood 2014): equal in, equal out, and neighbours far apart.
pub(crate) const fn mix(bits: u64) -> u64 {
    let z = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
