//! Rebalancing: which instances to move so that the pool becomes better by more than the moves cost.
//!
//! The problem is the machine reassignment of the ROADEF/EURO challenge 2012 (Google): load above a safety mark, resources that are left over in the
//! wrong proportion, and the moves themselves cost; capacities, transient use on both ends of a move, conflicts in a service, its spread over locations
//! and its dependencies on neighbours are hard. The search is anytime: it shifts, swaps and chains at random, accepts what is worse with a chance that
//! falls as the budget is used up (simulated annealing), and keeps the best.
//!
//! Never reads a clock: the caller is asked how much of the budget is used. The same seed and the same answers give the same moves.

mod check;
mod search;
#[cfg(test)]
mod tests;

pub use check::{Broken, cost};
pub use search::{Found, improve};

/// A machine that holds processes. Vectors are by resource, but for the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Where services must find each other.
    pub neighborhood: u32,
    /// Where services are spread over.
    pub location: u32,
    /// The most that it holds.
    pub capacity: Vec<i64>,
    /// What it should not hold more than.
    pub safety: Vec<i64>,
    /// What a move to each machine costs.
    pub move_cost: Vec<i64>,
}

/// Processes that belong together and run on different machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Over how many locations at least.
    pub spread: u32,
    /// Services that must have a process in each neighborhood where this one has.
    pub depends: Vec<u32>,
}

/// What is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its service.
    pub service: u32,
    /// What it needs, by resource.
    pub needs: Vec<i64>,
    /// What moving it costs.
    pub move_cost: i64,
}

/// What is left of one resource should be so many times what is left of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// The one.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// How many times.
    pub target: i64,
    /// What a unit too little costs.
    pub weight: i64,
}

/// What is to be made better.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// By resource: whether a moved process uses it on both machines.
    pub transient: Vec<bool>,
    /// By resource: what a unit above the safety mark costs.
    pub load_weight: Vec<i64>,
    /// Machines.
    pub machines: Vec<Machine>,
    /// Services.
    pub services: Vec<Service>,
    /// Processes.
    pub processes: Vec<Process>,
    /// Proportions.
    pub balances: Vec<Balance>,
    /// Weight of the costs of moved processes.
    pub process_weight: i64,
    /// Weight of the most moves in one service.
    pub service_weight: i64,
    /// Weight of the costs between machines.
    pub machine_weight: i64,
}

impl Problem {
    pub(crate) fn machine_cost(&self, machine: usize, used: &[i64]) -> i64 {
        let Machine { capacity, safety, .. } = &self.machines[machine];
        let mut sum = 0;
        for (r, used) in used.iter().enumerate() {
            sum += self.load_weight[r] * (used - safety[r]).max(0);
        }
        for b in &self.balances {
            let left = |r: usize| capacity[r] - used[r];
            sum += b.weight * (b.target * left(b.first) - left(b.second)).max(0);
        }
        sum
    }
}
