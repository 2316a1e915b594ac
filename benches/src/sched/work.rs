//! The work: nodes, shapes and a seeded order, and a stopwatch with processor time.

use std::time::Instant;
use yun_plan::pool::{Attributes, Pool, Request, Vector};

/// A seeded series (splitmix64).
pub(super) struct Series(pub(super) u64);

impl Series {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }
}

pub(super) fn vector(parts: &[i64]) -> Vector {
    Vector::new(parts).unwrap_or_default()
}

/// Nodes of kube's basic benchmark: 4 cores, 32 GiB, 110 slots; three zones, ten racks in each.
pub(super) fn basic(nodes: u64) -> Pool {
    pool(nodes, &[4000, 32 << 10, 110])
}

/// Large hosts for VMs: 64 cores, 256 GiB.
pub(super) fn hosts(nodes: u64) -> Pool {
    pool(nodes, &[64_000, 256 << 10, 1000])
}

fn pool(nodes: u64, capacity: &[i64]) -> Pool {
    let mut pool = Pool::new(["cpu", "memory", "slots"]);
    for n in 0..nodes {
        let attributes =
            Attributes { zone: format!("z{}", n % 3), rack: format!("r{}", n / 3 % 10), ..Attributes::default() };
        pool.add_node(n, vector(capacity), &attributes);
    }
    pool
}

/// kube's basic pod: 0.1 core, 500 MiB.
pub(super) fn pod() -> Request {
    Request::of(vector(&[100, 500, 1]))
}

/// Ten flavours of VM: cores, GiB, and how many of a hundred are of it.
pub(super) const FLAVOURS: [(i64, i64, usize); 10] = [
    (1, 1, 10),
    (1, 2, 10),
    (2, 2, 12),
    (2, 4, 18),
    (2, 8, 10),
    (4, 8, 14),
    (4, 16, 10),
    (8, 16, 6),
    (8, 32, 7),
    (16, 64, 3),
];

pub(super) fn flavour(series: &mut Series) -> usize {
    let mut at = series.below(100);
    FLAVOURS
        .iter()
        .position(|(_, _, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        })
        .unwrap_or(0)
}

/// Wall and processor time of this thread.
pub(super) struct Watch(Instant, f64);

impl Watch {
    pub(super) fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    /// Seconds by the wall and by the processor.
    pub(super) fn stop(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), cpu() - self.1)
    }
}

/// Seconds that this thread has run.
fn cpu() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(f64::NAN, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Resident memory in MiB.
pub(super) fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(f64::NAN) * 4096.0 / 1048576.0
}

/// The middle of several.
pub(super) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
