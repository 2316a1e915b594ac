//! The openb protocol: GPU sharing on the published cluster of "Beware of Fragmentation" (USENIX ATC 2023).
//!
//! The task list arrives in random order, then tasks are drawn from it with replacement, until what was asked for reaches 130 % of all GPUs. One at
//! a time, nobody leaves, nobody asks again. What counts is how much of the GPUs is allocated when x % have been asked for.

use crate::{Progress, TraceError, chance, table};
use rand::{Rng as _, RngCore as _, seq::SliceRandom as _};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};
use yun_plan::gpu::{GpuFleet, GpuNode, GpuPolicy, GpuShape};

/// Up to how many per cent of the cluster is asked for.
pub const UNTIL: usize = 130;

/// A cluster and a list of tasks.
#[derive(Debug, Clone)]
pub struct Openb {
    /// Nodes.
    pub nodes: Vec<GpuNode>,
    /// Tasks.
    pub tasks: Vec<GpuShape>,
}

/// What came of one seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The seed.
    pub seed: u64,
    /// Per cent of all GPUs that are allocated when as many per cent as the index have been asked for.
    pub allocation: Vec<f64>,
    /// Tasks that arrived.
    pub tasks: usize,
    /// Tasks for which nothing had room.
    pub refused: usize,
    /// Seconds that the decisions took.
    #[serde(skip)]
    pub seconds: f64,
}

impl Curve {
    /// The allocation at so many per cent.
    pub fn at(&self, percent: usize) -> f64 {
        self.allocation.get(percent).copied().unwrap_or(f64::NAN)
    }
}

/// Reads both files; columns are found by name.
pub fn read(nodes: &Path, tasks: &Path) -> Result<Openb, TraceError> {
    let mut models: BTreeMap<String, u8> = BTreeMap::new();
    let mut model = |name: &str| {
        let next = u8::try_from(models.len()).unwrap_or(u8::MAX);
        *models.entry(name.to_owned()).or_insert(next)
    };
    let nodes_path = nodes;
    let nodes = table::rows(nodes, |row| {
        let gpus: u8 = row.get("gpu", "a number of GPUs")?;
        if usize::from(gpus) > yun_plan::gpu::MOST_GPUS {
            return Err(row.wrong("gpu", &format!("{gpus} GPUs, and {} is the most", yun_plan::gpu::MOST_GPUS)));
        }
        Ok(GpuNode {
            cpu: row.get("cpu_milli", "thousandths of a core")?,
            memory: row.get("memory_mib", "MiB")?,
            gpus,
            model: model(row.text("model").unwrap_or_default()),
        })
    })?;
    let tasks = table::rows(tasks, |row| {
        let specs = row.text("gpu_spec").unwrap_or_default().split('|').filter(|spec| !spec.is_empty());
        let models = specs.map(&mut model).fold(0, |bits, model| bits | 1 << model.min(63));
        let gpus = row.get("num_gpu", "a number of GPUs")?;
        let milli = row.get("gpu_milli", "thousandths of a GPU")?;
        GpuShape::new(
            row.get("cpu_milli", "thousandths of a core")?,
            row.get("memory_mib", "MiB")?,
            gpus,
            milli,
            models,
        )
        .map_err(|e| row.wrong(if gpus > 0 { "gpu_milli" } else { "num_gpu" }, &e.to_string()))
    })?;
    if models.len() > 63 {
        return Err(TraceError::senseless(nodes_path, format!("{} GPU models, and 63 is the most", models.len())));
    }
    if nodes.iter().all(|node| node.gpus == 0) || tasks.iter().all(|task| task.gpus == 0) {
        return Err(TraceError::senseless(nodes_path, "no node has a GPU, or no task asks for one"));
    }
    Ok(Openb { nodes, tasks })
}

impl Openb {
    /// Thousandths of GPUs in all.
    pub fn capacity(&self) -> u64 {
        self.nodes.iter().map(|node| u64::from(node.gpus) * 1000).sum()
    }

    /// Plays one seed.
    pub fn play(&self, policy: GpuPolicy, seed: u64, progress: Progress<'_>) -> Result<Curve, yun_plan::gpu::BadGpu> {
        let mut series = chance(seed);
        let mut ranks: Vec<u64> = (0..self.nodes.len() as u64).collect();
        ranks.shuffle(&mut series);
        let typical: Vec<(GpuShape, u64)> = self.tasks.iter().map(|task| (*task, 1)).collect();
        let mut fleet = GpuFleet::new(&self.nodes, |node| ranks[node as usize], &typical, policy)?;
        let ids: Vec<_> = self.tasks.iter().map(|task| fleet.shape(task)).collect();
        let mut order: Vec<usize> = (0..self.tasks.len()).collect();
        order.shuffle(&mut series);
        let (capacity, until) = (self.capacity(), self.capacity() * UNTIL as u64 / 100);
        let (mut arrived, mut allocated, mut refused, mut count) = (0u64, 0u64, 0, 0);
        let mut allocation = Vec::with_capacity(UNTIL + 1);
        let mut listed = order.into_iter();
        let mut drawn = chance(seed ^ 0x5eed);
        let start = std::time::Instant::now();
        while arrived < until {
            let task = listed.next().unwrap_or_else(|| series.random_range(0..self.tasks.len()));
            count += 1;
            arrived += self.tasks[task].total();
            match fleet.place(ids[task], &mut || drawn.next_u64()) {
                Some(_) => allocated += self.tasks[task].total(),
                None => refused += 1,
            }
            while allocation.len() <= UNTIL && arrived * 100 >= capacity * allocation.len() as u64 {
                allocation.push(percent(allocated, capacity));
                progress(allocation.len() as u64, UNTIL as u64 + 1);
            }
        }
        Ok(Curve { seed, allocation, tasks: count, refused, seconds: start.elapsed().as_secs_f64() })
    }
}

/// Plays several seeds, on all processors.
pub fn play_all(
    trace: &Openb,
    policy: GpuPolicy,
    seeds: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<Curve>, yun_plan::gpu::BadGpu> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(seeds.len()).max(1);
    let mut curves: Vec<Curve> = std::thread::scope(|scope| {
        let play = |first: usize| {
            let mine = seeds.iter().skip(first).step_by(threads);
            mine.map(|seed| trace.play(policy, *seed, progress)).collect::<Result<Vec<Curve>, _>>()
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || play(first))).collect();
        let done = running.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect::<Result<Vec<Vec<Curve>>, _>>()
    })?
    .concat();
    curves.sort_by_key(|curve| curve.seed);
    Ok(curves)
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

#[cfg(test)]
mod tests;
