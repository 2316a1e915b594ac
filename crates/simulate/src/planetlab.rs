//! Dynamic allocation on the PlanetLab traces: 11,746 days of virtual machines, their CPU use in per cent every five minutes (CloudSim).
//!
//! Every instance may use one core. By reservation a node holds as many as it has cores. Here each node takes one more as long as the predicted p99 of
//! all its instances with the newcomer at its maximum stays below what it has; what counts is how often the true sum is more than there is.

use crate::{Progress, TraceError, chance, mean, table};
use rand::seq::SliceRandom as _;
use serde::Serialize;
use std::path::Path;
use yun_plan::forecast::{NodeUse, Usage};

/// The most that an instance may use, in per cent of a core.
const MOST: u64 = 100;
/// Days that are played.
const DAYS: usize = 2;

/// CPU use in per cent, by instance and step.
#[derive(Debug, Clone)]
pub struct Planetlab {
    series: Vec<Vec<u8>>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Instances that a node holds by reservation.
    pub static_per_node: u64,
    /// Instances that a node holds in the mean of the last day.
    pub dynamic_per_node: f64,
    /// The second divided by the first.
    pub ratio: f64,
    /// Steps of nodes in which more was used than there is.
    pub over_capacity_percent: f64,
    /// How much of the nodes was used in the mean of the last day.
    pub mean_use_percent: f64,
    /// Steps of nodes that were played.
    pub node_steps: u64,
    /// By step: the mean number of instances of a node.
    #[serde(skip)]
    pub instances: Vec<f64>,
    /// By step: the mean use in per cent.
    #[serde(skip)]
    pub used: Vec<f64>,
}

/// Reads the trace: day, vm, s0, s1 …
pub fn read(path: &Path) -> Result<Planetlab, TraceError> {
    let series = table::rows(path, |row| {
        let samples: Vec<u8> = row.numbers_from("s0", "per cent of a core")?;
        match samples.iter().position(|sample| *sample > 100) {
            Some(at) => Err(row.wrong(&format!("s{at}"), &format!("{} per cent of a core", samples[at]))),
            None => Ok(samples),
        }
    })?;
    Ok(Planetlab { series })
}

/// Plays two days on these nodes.
pub fn play(trace: &Planetlab, nodes: usize, capacity: u64, seed: u64, progress: Progress<'_>) -> Outcome {
    let mut order: Vec<usize> = (0..trace.series.len()).collect();
    order.shuffle(&mut chance(seed));
    let mut next = order.into_iter().cycle();
    let mut all: Vec<Vec<(usize, Usage)>> = vec![Vec::new(); nodes];
    let day = trace.series.first().map_or(1, Vec::len).max(1);
    let (mut over, mut outcome_instances, mut outcome_used) = (0u64, Vec::new(), Vec::new());
    for step in 0..DAYS * day {
        let (mut count, mut used_by_all) = (0, 0);
        for node in &mut all {
            let sum = NodeUse::of(node.iter().map(|(_, usage)| usage));
            if sum.admits(MOST, capacity).is_ok()
                && let Some(vm) = next.next()
            {
                node.push((vm, Usage::new(MOST)));
            }
            let mut used = 0;
            for (vm, usage) in node.iter_mut() {
                let series = &trace.series[*vm];
                let sample = u64::from(series[step % series.len()]);
                usage.saw(sample);
                used += sample;
            }
            over += u64::from(used > capacity);
            count += node.len();
            used_by_all += used;
        }
        outcome_instances.push(count as f64 / nodes as f64);
        outcome_used.push(used_by_all as f64 * 100.0 / (capacity * nodes as u64) as f64);
        progress(step as u64 + 1, (DAYS * day) as u64);
    }
    let last = (DAYS - 1) * day;
    let dynamic_per_node = mean(outcome_instances.iter().skip(last).copied());
    let static_per_node = capacity / MOST;
    let node_steps = (DAYS * day * nodes) as u64;
    Outcome {
        static_per_node,
        dynamic_per_node,
        ratio: dynamic_per_node / static_per_node.max(1) as f64,
        over_capacity_percent: over as f64 * 100.0 / node_steps as f64,
        mean_use_percent: mean(outcome_used.iter().skip(last).copied()),
        node_steps,
        instances: outcome_instances,
        used: outcome_used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn trace(rows: &[String]) -> Result<Planetlab, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cpu.csv");
        fs::write(&path, format!("day,vm,s0,s1,s2,s3\n{}\n", rows.join("\n"))).unwrap();
        read(&path).map_err(|e| e.to_string().replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn idle_instances_are_packed_and_busy_ones_are_not() {
        let play = |row: &str| {
            let rows: Vec<String> = (0..200).map(|n| format!("d,vm{n},{row}")).collect();
            play(
                &Planetlab { series: trace(&rows).unwrap().series.into_iter().map(|s| s.repeat(72)).collect() },
                2,
                1600,
                1,
                &|_, _| (),
            )
        };
        let (idle, busy) = (play("5,5,5,5"), play("100,100,100,100"));
        assert_eq!((idle.static_per_node, busy.over_capacity_percent, idle.over_capacity_percent), (16, 0.0, 0.0));
        assert!(idle.ratio > 5.0, "{}", idle.ratio);
        assert!(busy.dynamic_per_node <= 16.0, "{}", busy.dynamic_per_node);
    }

    #[test]
    fn impossible_use_is_named() {
        assert_eq!(
            trace(&["d,a,1,2,3,4".into(), "d,b,1,2,130,4".into()]).unwrap_err(),
            "/cpu.csv:3:5: s2: 130 per cent of a core"
        );
        assert_eq!(trace(&["d,a,1,x,3,4".into()]).unwrap_err(), "/cpu.csv:2:4: s1: \"x\" is not per cent of a core");
    }
}
