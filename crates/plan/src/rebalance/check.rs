//! The cost of an assignment and its rules, from the beginning: what the search must agree with.

use super::Problem;
use std::collections::{BTreeMap, BTreeSet};

/// A rule that an assignment breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The numbers of processes, machines, services or resources do not go together.
    #[error("{0}")]
    Senseless(String),
    /// A machine holds too much.
    #[error("machine {machine} holds {used} of resource {resource}, and {capacity} is the most")]
    Capacity {
        /// The machine.
        machine: usize,
        /// The resource.
        resource: usize,
        /// What it holds, moves included.
        used: i64,
        /// The most.
        capacity: i64,
    },
    /// Two processes of a service are on one machine.
    #[error("two processes of service {service} are on machine {machine}")]
    Conflict {
        /// The service.
        service: u32,
        /// The machine.
        machine: u32,
    },
    /// A service is in too few locations.
    #[error("service {service} is in {locations} locations, and {least} is the least")]
    Spread {
        /// The service.
        service: usize,
        /// In how many it is.
        locations: usize,
        /// In how many it must be.
        least: u32,
    },
    /// A service has no process where another needs it.
    #[error("service {service} needs service {needs} in neighborhood {neighborhood}")]
    Dependency {
        /// Who needs it.
        service: usize,
        /// Who is missing.
        needs: u32,
        /// Where.
        neighborhood: u32,
    },
}

/// The cost of an assignment, or the first rule that it breaks.
pub fn cost(problem: &Problem, initial: &[u32], at: &[u32]) -> Result<i64, Broken> {
    let (machines, resources) = (problem.machines.len(), problem.load_weight.len());
    sense(problem, initial, at)?;
    let mut used = vec![vec![0i64; resources]; machines];
    let mut extra = vec![vec![0i64; resources]; machines];
    let mut sum = 0;
    let mut moved: BTreeMap<u32, i64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut locations = vec![BTreeSet::new(); problem.services.len()];
    let mut neighborhoods = vec![BTreeSet::new(); problem.services.len()];
    for ((process, from), to) in problem.processes.iter().zip(initial).zip(at) {
        let (source, target) = (*from as usize, *to as usize);
        for (r, need) in process.needs.iter().enumerate() {
            used[target][r] += need;
            if source != target && problem.transient[r] {
                extra[source][r] += need;
            }
        }
        if source != target {
            sum += problem.process_weight * process.move_cost;
            sum += problem.machine_weight * problem.machines[source].move_cost[target];
            *moved.entry(process.service).or_default() += 1;
        }
        if !seen.insert((process.service, *to)) {
            return Err(Broken::Conflict { service: process.service, machine: *to });
        }
        locations[process.service as usize].insert(problem.machines[target].location);
        neighborhoods[process.service as usize].insert(problem.machines[target].neighborhood);
    }
    sum += problem.service_weight * moved.values().max().copied().unwrap_or_default();
    for machine in 0..machines {
        for resource in 0..resources {
            let (used, capacity) =
                (used[machine][resource] + extra[machine][resource], problem.machines[machine].capacity[resource]);
            if used > capacity {
                return Err(Broken::Capacity { machine, resource, used, capacity });
            }
        }
        sum += problem.machine_cost(machine, &used[machine]);
    }
    for (service, rules) in problem.services.iter().enumerate() {
        if locations[service].len() < rules.spread as usize {
            return Err(Broken::Spread { service, locations: locations[service].len(), least: rules.spread });
        }
        for needs in &rules.depends {
            let missing = neighborhoods[service].iter().find(|n| !neighborhoods[*needs as usize].contains(n));
            if let Some(neighborhood) = missing {
                return Err(Broken::Dependency { service, needs: *needs, neighborhood: *neighborhood });
            }
        }
    }
    Ok(sum)
}

fn sense(problem: &Problem, initial: &[u32], at: &[u32]) -> Result<(), Broken> {
    let (machines, resources) = (problem.machines.len(), problem.load_weight.len());
    let wrong = |what: String| Err(Broken::Senseless(what));
    if initial.len() != problem.processes.len() || at.len() != problem.processes.len() {
        return wrong(format!("{} processes have {} and {} places", problem.processes.len(), initial.len(), at.len()));
    }
    if let Some(place) = initial.iter().chain(at).find(|place| **place as usize >= machines) {
        return wrong(format!("a process is on machine {place}, and there are {machines}"));
    }
    let rows = problem
        .machines
        .iter()
        .flat_map(|m| [m.capacity.len(), m.safety.len()])
        .chain(problem.processes.iter().map(|p| p.needs.len()));
    if rows.into_iter().any(|n| n != resources) || problem.transient.len() != resources {
        return wrong(format!("not everything has {resources} resources"));
    }
    if problem.machines.iter().any(|m| m.move_cost.len() != machines) {
        return wrong(format!("not every machine has {machines} costs of moves"));
    }
    let services = problem.services.len();
    let named = problem
        .processes
        .iter()
        .map(|p| p.service)
        .chain(problem.services.iter().flat_map(|s| s.depends.iter().copied()));
    if let Some(service) = named.into_iter().find(|service| *service as usize >= services) {
        return wrong(format!("service {service} is named, and there are {services}"));
    }
    if problem.balances.iter().any(|b| b.first >= resources || b.second >= resources) {
        return wrong(format!("a balance is between more than {resources} resources"));
    }
    Ok(())
}
