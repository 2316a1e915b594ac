//! The policies: how a node that holds a task is scored, and which of its GPUs is taken.

use super::{GpuFleet, GpuShape, MOST_GPUS, ShapeId, State, WHOLE};
use std::fmt;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuPolicy {
    /// Any node that holds it.
    Random,
    /// The node whose rest is least like the request.
    DotProduct,
    /// Where tasks of the same shape are.
    Clustering,
    /// On GPUs in use, else on idle GPUs of nodes in use, else on idle nodes.
    Packing,
    /// Where least is left.
    BestFit,
    /// The smallest growth of fragments, of all nodes.
    Fgd,
    /// The smallest growth of fragments, of the first nodes of a fixed order that hold it.
    Window(u16),
    /// The first node of the fixed order that holds it.
    FirstFit,
}

impl GpuPolicy {
    /// What yun uses.
    pub const DEFAULT: Self = Self::Window(32);

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "random" => Self::Random,
            "dot-product" => Self::DotProduct,
            "gpu-clustering" => Self::Clustering,
            "gpu-packing" => Self::Packing,
            "best-fit" => Self::BestFit,
            "fgd" => Self::Fgd,
            "first-fit" => Self::FirstFit,
            "yun" => Self::DEFAULT,
            other => Self::Window(other.strip_prefix("window")?.parse().ok().filter(|k| *k > 0)?),
        })
    }

    /// All names, for help and for refusals.
    pub const NAMES: [&'static str; 8] =
        ["yun", "random", "dot-product", "gpu-clustering", "gpu-packing", "best-fit", "fgd", "first-fit"];
}

impl fmt::Display for GpuPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::DotProduct => "dot-product",
            Self::Clustering => "gpu-clustering",
            Self::Packing => "gpu-packing",
            Self::BestFit => "best-fit",
            Self::Fgd => "fgd",
            Self::FirstFit => "first-fit",
            Self::Window(k) => return write!(f, "window{k}"),
        })
    }
}

/// Hundredths of `1 / (1 + e^-x)`, cut off: as many thresholds as are passed.
fn sigmoid(milli: f64) -> i64 {
    let value = 100.0 / (1.0 + (-milli / 1000.0).exp());
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
    let whole = value as i64;
    whole
}

impl GpuFleet {
    pub(super) fn choose(&mut self, shape: ShapeId, chance: &mut impl FnMut() -> u64) -> Option<(u32, u8)> {
        let asked = self.rows[shape.0 as usize].shape;
        let mut scores = std::mem::take(&mut self.scores);
        scores.clear();
        let most = match self.policy {
            GpuPolicy::Window(k) => usize::from(k),
            GpuPolicy::FirstFit => 1,
            _ => usize::MAX,
        };
        for at in 0..self.order.len() {
            let node = self.order[at];
            if self.nodes[node as usize].holds(&asked) {
                let (score, gpus) = self.score(shape, &asked, node);
                scores.push((node, score, gpus));
                if scores.len() >= most {
                    break;
                }
            }
        }
        let chosen = match self.policy {
            GpuPolicy::Random if !scores.is_empty() => {
                let at = usize::try_from(chance() % scores.len() as u64).unwrap_or(0);
                let node = scores[at].0;
                Some((node, random_gpu(&self.nodes[node as usize], &asked, chance)))
            }
            GpuPolicy::BestFit => first_best(scaled(&scores)),
            _ => first_best(scores.iter().copied()),
        };
        self.scores = scores;
        chosen
    }

    /// The score of a node that holds the shape, and its GPUs. Remembered until the node changes.
    fn score(&mut self, id: ShapeId, shape: &GpuShape, node: u32) -> (i64, u8) {
        let state = &self.nodes[node as usize];
        let known = self.rows[id.0 as usize].known[node as usize];
        if known.0 == state.stamp {
            return (known.1, known.2);
        }
        let (score, gpus) = match self.policy {
            GpuPolicy::Random | GpuPolicy::FirstFit => (0, tightest(state, shape)),
            GpuPolicy::DotProduct => (dot_product(state, shape), tightest(state, shape)),
            GpuPolicy::BestFit => (best_fit(state, shape), tightest(state, shape)),
            GpuPolicy::Packing => packing(state, shape),
            GpuPolicy::Clustering => self.clustering(node, shape),
            GpuPolicy::Fgd | GpuPolicy::Window(_) => self.gradient(state, shape),
        };
        self.rows[id.0 as usize].known[node as usize] = (self.nodes[node as usize].stamp, score, gpus);
        (score, gpus)
    }

    fn gradient(&self, state: &State, shape: &GpuShape) -> (i64, u8) {
        let after = |mask: u8| {
            let mut left = state.left;
            for (gpu, left) in left.iter_mut().enumerate() {
                if mask >> gpu & 1 == 1 {
                    *left -= shape.milli;
                }
            }
            self.typical.of(state.cpu - shape.cpu, state.model, &left)
        };
        let score = |mask: u8| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let milli = (state.fragments - after(mask)) as f64 / self.typical.weight().max(1) as f64;
            sigmoid(milli)
        };
        if shape.gpus != 1 {
            let mask = state.first(shape);
            return (score(mask), mask);
        }
        let mut best = (i64::MIN, 0);
        let mut seen = [0u16; MOST_GPUS];
        for (gpu, left) in state.left.iter().enumerate() {
            if *left >= shape.milli && !seen[..gpu].contains(left) {
                let mask = 1 << gpu;
                let value = score(mask);
                if value > best.0 {
                    best = (value, mask);
                }
            }
            seen[gpu] = *left;
        }
        best
    }

    /// Nodes that have only tasks of the same GPU shape, then those that have some, then those without any, then the others; of each the fullest.
    fn clustering(&self, node: u32, shape: &GpuShape) -> (i64, u8) {
        let state = &self.nodes[node as usize];
        let gpus = tightest(state, shape);
        if shape.gpus == 0 {
            return (0, gpus);
        }
        let kinds = &self.alike[node as usize];
        let same = kinds.contains_key(&kind(shape));
        let class = match (same, kinds.len()) {
            (true, 1) => 75,
            (true, _) => 50,
            (false, 0) => 25,
            (false, _) => 0,
        };
        (class + 25 * (GPU - i64::from(state.idle())) / GPU, gpus)
    }
}

/// What makes tasks alike: how many GPUs, or a part of one.
pub(super) fn kind(shape: &GpuShape) -> (u8, bool) {
    (shape.gpus, shape.milli < WHOLE)
}

fn first_best(scores: impl Iterator<Item = (u32, i64, u8)>) -> Option<(u32, u8)> {
    let mut best: Option<(u32, i64, u8)> = None;
    for one in scores {
        if best.is_none_or(|best| one.1 > best.1) {
            best = Some(one);
        }
    }
    best.map(|(node, _, gpus)| (node, gpus))
}

/// Scores stretched to 0..=100.
fn scaled(scores: &[(u32, i64, u8)]) -> impl Iterator<Item = (u32, i64, u8)> + '_ {
    let least = scores.iter().map(|s| s.1).min().unwrap_or_default();
    let most = scores.iter().map(|s| s.1).max().unwrap_or_default();
    scores.iter().map(move |(node, score, gpus)| (*node, (score - least) * 100 / (most - least).max(1), *gpus))
}

/// The fullest GPU that holds a share; the first ones for whole GPUs.
fn tightest(state: &State, shape: &GpuShape) -> u8 {
    if shape.gpus != 1 {
        return state.first(shape);
    }
    let fits = state.left.iter().enumerate().filter(|(_, left)| **left >= shape.milli);
    fits.min_by_key(|(_, left)| **left).map_or(0, |(gpu, _)| 1 << gpu)
}

fn random_gpu(state: &State, shape: &GpuShape, chance: &mut impl FnMut() -> u64) -> u8 {
    if shape.gpus != 1 {
        return state.first(shape);
    }
    let fits: Vec<usize> = (0..MOST_GPUS).filter(|gpu| state.left[*gpu] >= shape.milli).collect();
    let at = usize::try_from(chance() % fits.len().max(1) as u64).unwrap_or(0);
    fits.get(at).map_or(0, |gpu| 1 << gpu)
}

/// The largest node of the published cluster: what amounts are divided by.
const CPU: i64 = 128_000;
const GPU: i64 = 8000;

fn best_fit(state: &State, shape: &GpuShape) -> i64 {
    let cpu = i64::from(state.cpu - shape.cpu);
    let gpu = i64::from(state.idle()) - i64::try_from(shape.total()).unwrap_or(0);
    100 - (50 * cpu * GPU + 50 * gpu * CPU) / (CPU * GPU)
}

fn dot_product(state: &State, shape: &GpuShape) -> i64 {
    let cpu = i64::from(state.cpu) * i64::from(shape.cpu) * GPU * GPU;
    let gpu = i64::from(state.idle()) * i64::try_from(shape.total()).unwrap_or(0) * CPU * CPU;
    100 - 50 * (cpu / 1000 + gpu / 1000) / (CPU * CPU / 1000 * GPU * GPU)
}

/// On a GPU in use, the fuller the better; else on idle GPUs of a node in use, the fewer the better; else on the smallest idle node. Tasks without
/// a GPU go to the first node.
fn packing(state: &State, shape: &GpuShape) -> (i64, u8) {
    let gpus = tightest(state, shape);
    if shape.gpus == 0 {
        return (0, gpus);
    }
    let taken =
        || state.left.iter().enumerate().filter(|(gpu, _)| gpus >> gpu & 1 == 1).map(|(_, left)| i64::from(*left));
    let (idle, whole) = (i64::from(state.with(WHOLE)), i64::from(WHOLE));
    let score = if idle == i64::from(state.gpus) {
        (33 - idle).max(idle)
    } else {
        match taken().filter(|left| *left == whole).count() {
            0 => (100 - taken().map(|left| left * 100 / whole).sum::<i64>() / 10).max(50),
            fresh => (50 - i64::try_from(fresh).unwrap_or(0)).max(33),
        }
    };
    (score, gpus)
}
