//! The scheduler's core, one thread, without API, log and network: `cargo xtask bench sched`.
//!
//! The same measures without building anything else: `cargo run --release -p yun-plan --example sched`.
//! Rates are told by wall time and by processor time of this thread: on a shared machine the second is the fairer one.

mod rules;
mod speed;
mod work;

use crate::measure::Measure;

/// Peers' numbers that were measured on such a machine with the same work, or that they publish.
mod peers {
    /// kube-scheduler 1.35, 5,000 nodes, 10,000 pods, a CPU second.
    pub(super) const KUBE: f64 = 795.0;
    /// Nomad 1.1, 5,000 nodes, a CPU second.
    pub(super) const NOMAD: f64 = 2755.0;
}

/// All measures.
pub(crate) fn run() -> Vec<Measure> {
    let mut all = Vec::new();
    all.extend(speed::run());
    all.extend(rules::run());
    all
}
