//! Fragmentation: how much of a node's idle GPU room is of no use to what is typically asked for.

use super::{GpuShape, MOST_GPUS};
use std::collections::{BTreeMap, BTreeSet};

/// The most different shares that are told apart.
const LEVELS: usize = 256;

/// A typical shape.
#[derive(Debug, Clone, Copy)]
struct Demand {
    cpu: u32,
    models: u64,
    gpus: u8,
    /// Which of the thresholds its share of a GPU is.
    level: u8,
    weight: i64,
}

/// What is typically asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Typical {
    demands: Vec<Demand>,
    /// Different shares of a GPU, ascending.
    levels: Vec<u16>,
    /// Weight of those that need no GPU: to them all idle GPU room is useless.
    without: i64,
    weight: u64,
}

impl Typical {
    /// The most frequent shapes that make up 95 % of all.
    pub(super) fn new(asked: &[(GpuShape, u64)]) -> Self {
        let different: BTreeSet<u16> = asked.iter().map(|(shape, _)| shape.milli).collect();
        let many = different.len() > LEVELS / 2;
        let mut counts: BTreeMap<GpuShape, u64> = BTreeMap::new();
        for (shape, n) in asked {
            // Memory does not count: it is hardly ever what is short on a GPU node. Where shares are all different, they are told apart by
            // hundredths only.
            let milli = if many { shape.milli.div_ceil(10) * 10 } else { shape.milli };
            *counts.entry(GpuShape { memory: 0, milli, ..*shape }).or_default() += n;
        }
        let all: u64 = counts.values().sum();
        let mut frequent: Vec<(GpuShape, u64)> = counts.into_iter().collect();
        frequent.sort_by_key(|(shape, n)| (std::cmp::Reverse(*n), *shape));
        let mut typical = Self::default();
        let mut sum = 0;
        frequent.retain(|(_, n)| {
            let more = sum * 100 < all * 95;
            sum += if more { *n } else { 0 };
            more
        });
        typical.levels = frequent.iter().filter(|(s, _)| s.gpus > 0).map(|(s, _)| s.milli).collect();
        typical.levels.sort_unstable();
        typical.levels.dedup();
        for (shape, n) in frequent {
            let weight = i64::try_from(n).unwrap_or(i64::MAX);
            typical.weight += n;
            if shape.gpus == 0 {
                typical.without += weight;
                continue;
            }
            let level = typical.levels.binary_search(&shape.milli).map_or(0, |at| u8::try_from(at).unwrap_or(u8::MAX));
            typical.demands.push(Demand { cpu: shape.cpu, models: shape.models, gpus: shape.gpus, level, weight });
        }
        typical
    }

    /// The sum of weights.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// Useless idle thousandths of GPUs, times the weight of those to whom they are useless.
    pub(super) fn of(&self, cpu: u32, model: u8, left: &[u16; MOST_GPUS]) -> i64 {
        let mut levels = [(0u8, 0i64); LEVELS];
        for (at, milli) in levels.iter_mut().zip(&self.levels) {
            for left in left {
                let enough = *left >= *milli;
                at.0 += u8::from(enough);
                at.1 += if enough { 0 } else { i64::from(*left) };
            }
        }
        let idle: i64 = left.iter().map(|left| i64::from(*left)).sum();
        let mut sum = self.without * idle;
        for demand in &self.demands {
            let (enough, small) = levels[usize::from(demand.level)];
            let model = demand.models == 0 || demand.models >> model & 1 == 1;
            let can = model & (demand.cpu <= cpu) & (demand.gpus <= enough);
            sum += demand.weight * if can { small } else { idle };
        }
        sum
    }
}
