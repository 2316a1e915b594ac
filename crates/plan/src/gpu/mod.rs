//! GPUs that are shared: which node, and which of its GPUs.
//!
//! Room on GPUs is not a number: eight halves do not make four wholes. So each GPU's own rest counts, and the measure of a placement is how much
//! of the idle GPU room it makes useless for what is typically asked for (the *fragmentation gradient* of Weng et al., "Beware of Fragmentation",
//! USENIX ATC 2023). Nodes have a fixed order, and equal scores go to the first in it. All policies of that paper are here for comparison, and the
//! one that yun uses, [`GpuPolicy::Window`].
//!
//! Owns the state of a fleet of GPU nodes and the choice. Never draws chance: `Random` is given a seeded series.

mod fragment;
mod policy;
#[cfg(test)]
mod tests;

pub use policy::GpuPolicy;

use crate::pool::hash::Map;
use fragment::Typical;
use std::collections::BTreeMap;

/// The most GPUs of a node.
pub const MOST_GPUS: usize = 8;
/// A whole GPU.
pub const WHOLE: u16 = 1000;

/// A GPU node when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuNode {
    /// Thousandths of a core.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// How many GPUs.
    pub gpus: u8,
    /// Their model, as a number below 64 that the caller gives.
    pub model: u8,
}

/// What a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuShape {
    /// Thousandths of a core.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// How many GPUs.
    pub gpus: u8,
    /// Thousandths of each of them.
    pub milli: u16,
    /// One bit for each model that will do; 0: any.
    pub models: u64,
}

/// A node or a shape that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGpu {
    /// More GPUs than a node may have.
    #[error("{0} GPUs on one node, and {MOST_GPUS} is the most")]
    TooMany(u8),
    /// More than a whole GPU, or nothing of one.
    #[error("{0} thousandths of a GPU are asked for: ask for 1 to 1000")]
    Share(u16),
    /// A model beyond the 64th.
    #[error("GPU model number {0}, and 63 is the last")]
    Model(u8),
}

impl GpuShape {
    /// Checked: 1 to 1000 thousandths of at most eight GPUs, or no GPU.
    pub fn new(cpu: u32, memory: u32, gpus: u8, milli: u16, models: u64) -> Result<Self, BadGpu> {
        if usize::from(gpus) > MOST_GPUS {
            return Err(BadGpu::TooMany(gpus));
        }
        if gpus > 0 && !(1..=WHOLE).contains(&milli) {
            return Err(BadGpu::Share(milli));
        }
        Ok(Self { cpu, memory, gpus, milli: if gpus == 0 { 0 } else { milli }, models })
    }

    /// Thousandths of GPUs in all.
    pub fn total(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.milli)
    }
}

/// A shape that the fleet knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShapeId(u32);

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuPlace {
    /// The node, by its number in the fleet.
    pub node: u32,
    /// One bit for each of its GPUs.
    pub gpus: u8,
    /// What was placed.
    pub shape: ShapeId,
}

#[derive(Debug, Clone, Copy)]
struct State {
    cpu: u32,
    memory: u32,
    left: [u16; MOST_GPUS],
    gpus: u8,
    model: u8,
    /// Tasks on it.
    tasks: u32,
    /// Grows with each change.
    stamp: u32,
    /// Its fragmentation now.
    fragments: i64,
}

impl State {
    fn holds(&self, shape: &GpuShape) -> bool {
        if self.cpu < shape.cpu || self.memory < shape.memory {
            return false;
        }
        if shape.gpus == 0 {
            return true;
        }
        (shape.models == 0 || shape.models >> self.model & 1 == 1) && self.with(shape.milli) >= shape.gpus
    }

    /// How many GPUs have so much left.
    fn with(&self, milli: u16) -> u8 {
        self.left.iter().map(|left| u8::from(*left >= milli)).sum()
    }

    fn idle(&self) -> u32 {
        self.left.iter().map(|left| u32::from(*left)).sum()
    }

    /// The GPUs of a shape that takes several: the first that have room.
    fn first(&self, shape: &GpuShape) -> u8 {
        let mut mask = 0;
        let mut need = shape.gpus;
        for (gpu, left) in self.left.iter().enumerate() {
            if need > 0 && *left >= shape.milli {
                mask |= 1 << gpu;
                need -= 1;
            }
        }
        mask
    }
}

/// A shape with what it remembers of each node.
#[derive(Debug, Clone)]
struct Row {
    shape: GpuShape,
    /// By node: the stamp, the score and the GPUs that were best.
    known: Vec<(u32, i64, u8)>,
}

/// GPU nodes and what is on them.
#[derive(Debug, Clone)]
pub struct GpuFleet {
    nodes: Vec<State>,
    /// Nodes in their fixed order.
    order: Vec<u32>,
    rows: Vec<Row>,
    index: Map<GpuShape, u32>,
    typical: Typical,
    policy: GpuPolicy,
    /// Shapes of tasks on each node, for the policy that puts like to like.
    alike: Vec<BTreeMap<(u8, bool), u32>>,
    scores: Vec<(u32, i64, u8)>,
}

impl GpuFleet {
    /// An empty fleet. `rank` decides the order of nodes; `typical` says what is asked for, and how often.
    pub fn new(
        nodes: &[GpuNode],
        rank: impl Fn(u32) -> u64,
        typical: &[(GpuShape, u64)],
        policy: GpuPolicy,
    ) -> Result<Self, BadGpu> {
        let typical = Typical::new(typical);
        let mut states = Vec::with_capacity(nodes.len());
        for node in nodes {
            if usize::from(node.gpus) > MOST_GPUS {
                return Err(BadGpu::TooMany(node.gpus));
            }
            if node.model > 63 {
                return Err(BadGpu::Model(node.model));
            }
            let mut left = [0; MOST_GPUS];
            left.iter_mut().take(usize::from(node.gpus)).for_each(|gpu| *gpu = WHOLE);
            let GpuNode { cpu, memory, gpus, model } = *node;
            let mut state = State { cpu, memory, left, gpus, model, tasks: 0, stamp: 1, fragments: 0 };
            state.fragments = typical.of(state.cpu, state.model, &state.left);
            states.push(state);
        }
        let mut order: Vec<u32> = (0..crate::pool::small(states.len())).collect();
        order.sort_by_key(|node| (rank(*node), *node));
        Ok(Self {
            nodes: states,
            order,
            rows: Vec::new(),
            index: Map::default(),
            typical,
            policy,
            alike: vec![BTreeMap::new(); nodes.len()],
            scores: Vec::new(),
        })
    }

    /// The number of a shape.
    pub fn shape(&mut self, shape: &GpuShape) -> ShapeId {
        if let Some(known) = self.index.get(shape) {
            return ShapeId(*known);
        }
        let number = crate::pool::small(self.rows.len());
        self.rows.push(Row { shape: *shape, known: vec![(0, 0, 0); self.nodes.len()] });
        self.index.insert(*shape, number);
        ShapeId(number)
    }

    /// Chooses a node and GPUs and takes them. `chance` is only asked by [`GpuPolicy::Random`].
    pub fn place(&mut self, shape: ShapeId, chance: &mut impl FnMut() -> u64) -> Option<GpuPlace> {
        let (node, gpus) = self.choose(shape, chance)?;
        let place = GpuPlace { node, gpus, shape };
        self.change(&place, true);
        Some(place)
    }

    /// A task is gone.
    pub fn release(&mut self, place: &GpuPlace) {
        self.change(place, false);
    }

    fn change(&mut self, place: &GpuPlace, take: bool) {
        let shape = self.rows[place.shape.0 as usize].shape;
        let node = &mut self.nodes[place.node as usize];
        for (gpu, left) in node.left.iter_mut().enumerate().filter(|(gpu, _)| place.gpus >> gpu & 1 == 1) {
            debug_assert!(gpu < usize::from(node.gpus));
            *left = if take { left.saturating_sub(shape.milli) } else { (*left + shape.milli).min(WHOLE) };
        }
        if take {
            node.cpu -= shape.cpu;
            node.memory -= shape.memory;
            node.tasks += 1;
        } else {
            node.cpu += shape.cpu;
            node.memory += shape.memory;
            node.tasks -= 1;
        }
        node.stamp += 1;
        node.fragments = self.typical.of(node.cpu, node.model, &node.left);
        if self.policy == GpuPolicy::Clustering && shape.gpus > 0 {
            let kinds = &mut self.alike[place.node as usize];
            let count = kinds.entry(policy::kind(&shape)).or_default();
            *count = if take { *count + 1 } else { count.saturating_sub(1) };
            kinds.retain(|_, count| *count > 0);
        }
    }

    /// Thousandths of GPUs that are idle.
    pub fn idle(&self) -> u64 {
        self.nodes.iter().map(|node| u64::from(node.idle())).sum()
    }

    /// Thousandths of idle GPUs that are of no use to what is typically asked for, in the mean.
    pub fn fragments(&self) -> u64 {
        let sum: i64 = self.nodes.iter().map(|node| node.fragments).sum();
        sum.max(0).unsigned_abs() / self.typical.weight().max(1)
    }

    /// What is left on a node: cpu, memory, and of each GPU.
    pub fn left(&self, node: u32) -> (u32, u32, Vec<u16>) {
        let state = &self.nodes[node as usize];
        (state.cpu, state.memory, state.left[..usize::from(state.gpus)].to_vec())
    }
}
