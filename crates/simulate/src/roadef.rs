//! The ROADEF/EURO challenge 2012 (machine reassignment, Google): reads its files, searches for a while, and says how far from the best known it is.

use crate::{Progress, TraceError, table};
use serde::Serialize;
use std::{
    path::Path,
    str::FromStr,
    sync::Mutex,
    time::{Duration, Instant},
};
use yun_plan::rebalance::{Balance, Broken, Machine, Problem, Process, Service, cost, improve};

/// A model and where each process is.
#[derive(Debug, Clone)]
pub struct Roadef {
    problem: Problem,
    initial: Vec<u32>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Machines.
    pub machines: usize,
    /// Processes.
    pub processes: usize,
    /// What leaving all as it is costs.
    pub cost_before: i64,
    /// What the best found costs, counted from the beginning.
    pub cost_after: i64,
    /// How many processes it moves.
    pub moved: usize,
    /// How far it is above the best known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_percent: Option<f64>,
    /// Moves that were looked at.
    pub tried: u64,
    /// The best by seconds.
    #[serde(skip)]
    pub history: Vec<(f64, i64)>,
}

/// The most of anything that a file may name: beyond it the file is broken, not large.
const MOST: usize = 1_000_000;

fn count(words: &mut table::Words<'_>, what: &str) -> Result<usize, TraceError> {
    let n: usize = words.next(what)?;
    if n > MOST { Err(words.wrong(format!("{n} is too many: {what}"))) } else { Ok(n) }
}

fn many<T: FromStr>(words: &mut table::Words<'_>, n: usize, what: &str) -> Result<Vec<T>, TraceError> {
    (0..n).map(|_| words.next(what)).collect()
}

/// Reads a model and an assignment.
pub fn read(model: &Path, assignment: &Path) -> Result<Roadef, TraceError> {
    let text = table::text(model)?;
    let mut words = table::Words::new(model, &text);
    let w = &mut words;
    let mut problem = Problem::default();
    let resources = count(w, "the number of resources")?;
    for _ in 0..resources {
        problem.transient.push(w.next::<u8>("0 or 1 (transient)")? == 1);
        problem.load_weight.push(w.next("a weight of load")?);
    }
    let machines = count(w, "the number of machines")?;
    for _ in 0..machines {
        problem.machines.push(Machine {
            neighborhood: w.next("a neighborhood")?,
            location: w.next("a location")?,
            capacity: many(w, resources, "a capacity")?,
            safety: many(w, resources, "a safety capacity")?,
            move_cost: many(w, machines, "a cost of moving between machines")?,
        });
    }
    let services = count(w, "the number of services")?;
    for _ in 0..services {
        let spread = w.next("a least spread")?;
        let n = count(w, "the number of dependencies")?;
        problem.services.push(Service { spread, depends: many(w, n, "a service that is depended on")? });
    }
    let processes = count(w, "the number of processes")?;
    for _ in 0..processes {
        problem.processes.push(Process {
            service: w.next("a service")?,
            needs: many(w, resources, "what a process needs")?,
            move_cost: w.next("a cost of moving a process")?,
        });
    }
    for _ in 0..count(w, "the number of balances")? {
        let (first, second) = (count(w, "a resource")?, count(w, "a resource")?);
        problem.balances.push(Balance {
            first,
            second,
            target: w.next("a target")?,
            weight: w.next("a weight of balance")?,
        });
    }
    problem.process_weight = w.next("the weight of moved processes")?;
    problem.service_weight = w.next("the weight of moves in a service")?;
    problem.machine_weight = w.next("the weight of moves between machines")?;
    words.end()?;
    let text = table::text(assignment)?;
    let mut words = table::Words::new(assignment, &text);
    let initial = many(&mut words, processes, "a machine")?;
    words.end()?;
    cost(&problem, &initial, &initial).map_err(|broken| TraceError::senseless(assignment, broken.to_string()))?;
    Ok(Roadef { problem, initial })
}

/// Searches for some seconds, with several seeds at the same time.
pub fn play(
    trace: &Roadef,
    seconds: u64,
    threads: u64,
    seed: u64,
    best_known: Option<u64>,
    progress: Progress<'_>,
) -> Outcome {
    let start = Instant::now();
    let budget = Duration::from_secs(seconds);
    let history = Mutex::new(Vec::new());
    let one = |number: u64| {
        let mut last = i64::MAX;
        improve(&trace.problem, &trace.initial, seed.wrapping_add(number), &mut |_, best| {
            let used = start.elapsed();
            if best < last {
                last = best;
                if let Ok(mut history) = history.lock() {
                    history.push((used.as_secs_f64(), best));
                }
            }
            if number == 0 {
                progress(used.as_secs().min(seconds), seconds);
            }
            (used < budget).then(|| used.as_secs_f64() / budget.as_secs_f64())
        })
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|number| scope.spawn(move || one(number))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).filter_map(Result::ok).collect()
    });
    let before = cost(&trace.problem, &trace.initial, &trace.initial).unwrap_or_default();
    let (tried, best) = (found.iter().map(|f| f.tried).sum(), found.into_iter().min_by_key(|f| f.cost));
    let at = best.map_or_else(|| trace.initial.clone(), |best| best.at);
    let checked: Result<i64, Broken> = cost(&trace.problem, &trace.initial, &at);
    let (at, after) = checked.map_or_else(|_| (trace.initial.clone(), before), |after| (at, after));
    let mut history = history.into_inner().unwrap_or_default();
    history.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut least = before;
    history.retain(|(_, cost)| {
        let better = *cost < least;
        least = least.min(*cost);
        better
    });
    Outcome {
        machines: trace.problem.machines.len(),
        processes: trace.problem.processes.len(),
        cost_before: before,
        cost_after: after,
        moved: at.iter().zip(&trace.initial).filter(|(now, then)| now != then).count(),
        gap_percent: best_known.filter(|best| *best > 0).map(|best| (after as f64 / best as f64 - 1.0) * 100.0),
        tried,
        history,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// One resource, two machines, three services, three processes, no balance.
    const MODEL: &str =
        "1\n0 10\n2\n0 0 100 50 0 1\n0 0 100 50 1 0\n3\n1 0\n1 0\n1 0\n3\n0 30 1\n1 30 1\n2 20 1\n0\n1 1 1\n";

    fn files(model: &str, assignment: &str) -> Result<Roadef, String> {
        let folder = tempfile::tempdir().unwrap();
        let (m, a) = (folder.path().join("model"), folder.path().join("assignment"));
        fs::write(&m, model).unwrap();
        fs::write(&a, assignment).unwrap();
        read(&m, &a).map_err(|e| e.to_string().replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn a_small_instance_is_solved() {
        let trace = files(MODEL, "0 0 0").unwrap();
        let outcome = play(&trace, 1, 1, 1, Some(3), &|_, _| ());
        assert_eq!(
            (outcome.cost_before, outcome.cost_after, outcome.moved, outcome.gap_percent),
            (300, 3, 1, Some(0.0))
        );
        assert_eq!(outcome.history.last().map(|h| h.1), Some(3));
    }

    #[test]
    fn broken_files_are_named_by_place() {
        assert_eq!(
            files(&MODEL.replace("100 50 0 1", "100 x 0 1"), "0 0 0").unwrap_err(),
            "/model:4:4: \"x\" is not a safety capacity"
        );
        assert_eq!(files(MODEL, "0 0").unwrap_err(), "/assignment:1:1: the file ends where a machine should be");
        assert_eq!(files(MODEL, "0 0 0 1").unwrap_err(), "/assignment:1:4: \"1\" is left over");
        assert_eq!(files(MODEL, "0 0 5").unwrap_err(), "/assignment: a process is on machine 5, and there are 2");
        assert_eq!(
            files("9999999999\n", "0").unwrap_err(),
            "/model:1:1: 9999999999 is too many: the number of resources"
        );
    }
}
