//! The search. Costs are kept by machine, so that a move looks at two of them.

use super::{Broken, Machine, Problem, cost};

/// The best that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where each process should be.
    pub at: Vec<u32>,
    /// What that costs.
    pub cost: i64,
    /// What it costs to leave all as it is.
    pub before: i64,
    /// How many moves were looked at.
    pub tried: u64,
}

/// How many moves are looked at between two questions about the budget.
const BETWEEN: u64 = 512;

/// Looks for a better assignment. `used` is told how many moves were tried and the best cost, and answers what part of the budget is used, from 0 to 1;
/// `None` ends the search.
pub fn improve(
    problem: &Problem,
    initial: &[u32],
    seed: u64,
    used: &mut dyn FnMut(u64, i64) -> Option<f64>,
) -> Result<Found, Broken> {
    let before = cost(problem, initial, initial)?;
    let mut state = State::new(problem, initial, before, seed);
    let hot = state.typical_loss().max(1.0);
    let mut best = Found { at: initial.to_vec(), cost: before, before, tried: 0 };
    if problem.machines.len() < 2 || problem.processes.is_empty() {
        return Ok(best);
    }
    while let Some(part) = used(best.tried, best.cost) {
        let temperature = hot * 0.3 * 1e-6f64.powf(part.clamp(0.0, 1.0));
        for _ in 0..BETWEEN {
            state.turn(temperature);
            if state.cost < best.cost {
                best.cost = state.cost;
                state.remember(&mut best.at);
            }
        }
        best.tried += BETWEEN;
    }
    Ok(best)
}

struct State<'a> {
    problem: &'a Problem,
    initial: &'a [u32],
    at: Vec<u32>,
    cost: i64,
    resources: usize,
    used: Vec<i64>,
    extra: Vec<i64>,
    capacity: Vec<i64>,
    needs: Vec<i64>,
    machine_cost: Vec<i64>,
    on: Vec<Vec<u32>>,
    place: Vec<u32>,
    /// By service: one bit for each machine.
    taken: Vec<u64>,
    words: usize,
    locations: usize,
    in_location: Vec<u32>,
    spread: Vec<u32>,
    neighborhoods: usize,
    in_neighborhood: Vec<u32>,
    needed_by: Vec<Vec<u32>>,
    moved: Vec<u32>,
    /// How many services have so many moves.
    with_moves: Vec<u32>,
    most_moves: usize,
    seed: u64,
    /// Moved since the best was remembered.
    changed: Vec<u32>,
}

impl<'a> State<'a> {
    fn new(problem: &'a Problem, initial: &'a [u32], cost: i64, seed: u64) -> Self {
        let (machines, services, resources) =
            (problem.machines.len(), problem.services.len(), problem.load_weight.len());
        let most = |of: fn(&super::Machine) -> u32| problem.machines.iter().map(of).max().map_or(1, |n| n as usize + 1);
        let (locations, neighborhoods, words) = (most(|m| m.location), most(|m| m.neighborhood), machines.div_ceil(64));
        let mut needed_by = vec![Vec::new(); services];
        for (service, rules) in (0u32..).zip(&problem.services) {
            rules.depends.iter().for_each(|needs| needed_by[*needs as usize].push(service));
        }
        let mut state = Self {
            problem,
            initial,
            at: initial.to_vec(),
            cost,
            resources,
            used: vec![0; machines * resources],
            extra: vec![0; machines * resources],
            capacity: problem.machines.iter().flat_map(|m| m.capacity.iter().copied()).collect(),
            needs: problem.processes.iter().flat_map(|p| p.needs.iter().copied()).collect(),
            machine_cost: vec![0; machines],
            on: vec![Vec::new(); machines],
            place: vec![0; initial.len()],
            taken: vec![0; services * words],
            words,
            locations,
            in_location: vec![0; services * locations],
            spread: vec![0; services],
            neighborhoods,
            in_neighborhood: vec![0; services * neighborhoods],
            needed_by,
            moved: vec![0; services],
            with_moves: vec![0; initial.len() + 2],
            most_moves: 0,
            seed: crate::mix(seed),
            changed: Vec::new(),
        };
        state.with_moves[0] = crate::pool::small(services);
        for (process, machine) in initial.iter().enumerate() {
            state.enter(process, *machine as usize);
        }
        for machine in 0..machines {
            state.machine_cost[machine] =
                problem.machine_cost(machine, &state.used[machine * resources..][..resources]);
        }
        state
    }

    fn chance(&mut self, below: usize) -> usize {
        self.seed = crate::mix(self.seed);
        usize::try_from((u128::from(self.seed) * below as u128) >> 64).unwrap_or(0)
    }

    fn enter(&mut self, process: usize, machine: usize) {
        let service = self.problem.processes[process].service as usize;
        let Machine { location, neighborhood, .. } = &self.problem.machines[machine];
        for r in 0..self.resources {
            self.used[machine * self.resources + r] += self.needs[process * self.resources + r];
        }
        self.place[process] = crate::pool::small(self.on[machine].len());
        self.on[machine].push(crate::pool::small(process));
        self.taken[service * self.words + machine / 64] |= 1 << (machine % 64);
        let here = &mut self.in_location[service * self.locations + *location as usize];
        *here += 1;
        self.spread[service] += u32::from(*here == 1);
        self.in_neighborhood[service * self.neighborhoods + *neighborhood as usize] += 1;
    }

    fn leave(&mut self, process: usize, machine: usize) {
        let service = self.problem.processes[process].service as usize;
        let Machine { location, neighborhood, .. } = &self.problem.machines[machine];
        for r in 0..self.resources {
            self.used[machine * self.resources + r] -= self.needs[process * self.resources + r];
        }
        let place = self.place[process] as usize;
        self.on[machine].swap_remove(place);
        if let Some(other) = self.on[machine].get(place) {
            self.place[*other as usize] = crate::pool::small(place);
        }
        self.taken[service * self.words + machine / 64] &= !(1 << (machine % 64));
        let here = &mut self.in_location[service * self.locations + *location as usize];
        *here -= 1;
        self.spread[service] -= u32::from(*here == 0);
        self.in_neighborhood[service * self.neighborhoods + *neighborhood as usize] -= 1;
    }

    fn takes(&self, process: usize, machine: usize) -> bool {
        let service = self.problem.processes[process].service as usize;
        self.taken[service * self.words + machine / 64] >> (machine % 64) & 1 == 0
    }

    /// Whether there is room for a process beside what is on a machine, less what leaves it at the same time.
    fn fits(&self, process: usize, machine: usize, leaving: Option<usize>) -> bool {
        let home = self.initial[process] as usize == machine;
        (0..self.resources).all(|r| {
            let at = machine * self.resources + r;
            let transient = self.problem.transient[r];
            let mut total = self.used[at] + self.extra[at];
            if !(home && transient) {
                total += self.needs[process * self.resources + r];
            }
            if let Some(other) = leaving
                && !(transient && self.initial[other] as usize == machine)
            {
                total -= self.needs[other * self.resources + r];
            }
            total <= self.capacity[at]
        })
    }

    /// Carries a move out, whatever it breaks. Answers by how much the cost changes.
    fn shift(&mut self, process: usize, to: usize) -> i64 {
        let from = self.at[process] as usize;
        let home = self.initial[process] as usize;
        let (problem, resources) = (self.problem, self.resources);
        let mut delta = -self.machine_cost[from] - self.machine_cost[to];
        self.leave(process, from);
        self.enter(process, to);
        for machine in [from, to] {
            self.machine_cost[machine] = problem.machine_cost(machine, &self.used[machine * resources..][..resources]);
            delta += self.machine_cost[machine];
        }
        let what = &problem.processes[process];
        let moves = &problem.machines[home].move_cost;
        delta += problem.machine_weight
            * (if to == home { 0 } else { moves[to] } - if from == home { 0 } else { moves[from] });
        if (from == home) != (to == home) {
            let away = from == home;
            for r in (0..resources).filter(|r| problem.transient[*r]) {
                let need = self.needs[process * resources + r];
                self.extra[home * resources + r] += if away { need } else { -need };
            }
            delta += problem.process_weight * if away { what.move_cost } else { -what.move_cost };
            delta += problem.service_weight * self.count_move(what.service as usize, away);
        }
        self.at[process] = crate::pool::small(to);
        self.cost += delta;
        delta
    }

    /// By how much the most moves of a service change.
    fn count_move(&mut self, service: usize, away: bool) -> i64 {
        let before = self.moved[service];
        let after = if away { before + 1 } else { before - 1 };
        self.with_moves[before as usize] -= 1;
        self.with_moves[after as usize] += 1;
        self.moved[service] = after;
        let was = self.most_moves;
        if away {
            self.most_moves = was.max(after as usize);
        } else {
            while self.most_moves > 0 && self.with_moves[self.most_moves] == 0 {
                self.most_moves -= 1;
            }
        }
        if self.most_moves > was { 1 } else { -i64::from(self.most_moves < was) }
    }

    /// Whether a service keeps its spread, and finds and is found by others, after a move between these machines.
    fn service_holds(&self, process: usize, from: usize, to: usize) -> bool {
        let service = self.problem.processes[process].service as usize;
        let rules = &self.problem.services[service];
        if self.spread[service] < rules.spread {
            return false;
        }
        let (left, entered) =
            (self.problem.machines[from].neighborhood as usize, self.problem.machines[to].neighborhood as usize);
        if left == entered {
            return true;
        }
        let has = |service: u32, neighborhood: usize| {
            self.in_neighborhood[service as usize * self.neighborhoods + neighborhood] > 0
        };
        rules.depends.iter().all(|needs| has(*needs, entered))
            && (self.in_neighborhood[service * self.neighborhoods + left] > 0
                || self.needed_by[service].iter().all(|other| !has(*other, left)))
    }

    fn accepts(&mut self, delta: i64, temperature: f64) -> bool {
        if delta <= 0 {
            return true;
        }
        let chance = self.chance(1 << 30) as f64 / f64::from(1 << 30);
        chance < (-(delta as f64) / temperature).exp()
    }

    /// Tries one move at random.
    fn turn(&mut self, temperature: f64) {
        let process = self.chance(self.at.len());
        let from = self.at[process] as usize;
        match self.chance(16) {
            0..8 => {
                // Half of the shifts go back home, if that is elsewhere: a move that is not needed costs.
                let home = self.initial[process] as usize;
                let to = if home != from && self.chance(8) == 0 { home } else { self.chance(self.on.len()) };
                if to != from && self.takes(process, to) && self.fits(process, to, None) {
                    self.try_moves(&[(process, from, to)], temperature);
                }
            }
            8..14 => {
                let other = self.chance(self.at.len());
                let to = self.at[other] as usize;
                let alike = self.problem.processes[process].service == self.problem.processes[other].service;
                if to != from
                    && !alike
                    && self.takes(process, to)
                    && self.takes(other, from)
                    && self.fits(process, to, Some(other))
                    && self.fits(other, from, Some(process))
                {
                    self.try_moves(&[(process, from, to), (other, to, from)], temperature);
                }
            }
            _ => {
                let other = self.chance(self.at.len());
                let (middle, to) = (self.at[other] as usize, self.chance(self.on.len()));
                let alike = self.problem.processes[process].service == self.problem.processes[other].service;
                if middle != from
                    && to != middle
                    && to != from
                    && !alike
                    && self.takes(process, middle)
                    && self.takes(other, to)
                    && self.fits(other, to, None)
                    && self.fits(process, middle, Some(other))
                {
                    self.try_moves(&[(other, middle, to), (process, from, middle)], temperature);
                }
            }
        }
    }

    /// Carries moves out, and takes them back if a rule does not hold or chance is against it.
    fn try_moves(&mut self, moves: &[(usize, usize, usize)], temperature: f64) {
        let delta: i64 = moves.iter().map(|(process, _, to)| self.shift(*process, *to)).sum();
        let holds = moves.iter().all(|(process, from, to)| self.service_holds(*process, *from, *to));
        if holds && self.accepts(delta, temperature) {
            self.changed.extend(moves.iter().map(|(process, ..)| crate::pool::small(*process)));
            if self.changed.len() > 4 * self.at.len() + 64 {
                self.changed.sort_unstable();
                self.changed.dedup();
            }
        } else {
            moves.iter().rev().for_each(|(process, from, _)| {
                self.shift(*process, *from);
            });
        }
    }

    /// What a bad move typically costs.
    fn typical_loss(&mut self) -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        if self.on.len() < 2 || self.at.is_empty() {
            return 0.0;
        }
        for _ in 0..4000 {
            let process = self.chance(self.at.len());
            let (from, to) = (self.at[process] as usize, self.chance(self.on.len()));
            if from != to && self.takes(process, to) && self.fits(process, to, None) {
                let delta = self.shift(process, to);
                self.shift(process, from);
                if delta > 0 {
                    sum += delta as f64;
                    count += 1;
                }
            }
        }
        if count == 0 { 0.0 } else { sum / f64::from(count) }
    }

    /// Copies what has changed into the best.
    fn remember(&mut self, best: &mut [u32]) {
        for process in self.changed.drain(..) {
            best[process as usize] = self.at[process as usize];
        }
    }
}
