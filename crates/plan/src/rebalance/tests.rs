//! What the search says is what a count from the beginning says, and no rule is ever broken.

use super::*;
use proptest::prelude::*;

/// A made-up pool of machines with services over them; the first assignment keeps all rules.
fn made_up(seed: u64, machines: usize, services: usize) -> (Problem, Vec<u32>) {
    let mut seed = seed;
    let mut below = |n: u64| {
        seed = crate::mix(seed);
        i64::try_from(seed % n).unwrap()
    };
    let mut processes = Vec::new();
    let mut initial = Vec::new();
    for service in 0..services {
        let n = usize::try_from(1 + below(3)).unwrap().min(machines);
        let first = usize::try_from(below(machines as u64)).unwrap();
        for k in 0..n {
            let needs = vec![1 + below(9), 1 + below(9)];
            processes.push(Process { service: u32::try_from(service).unwrap(), needs, move_cost: below(5) });
            initial.push(u32::try_from((first + k) % machines).unwrap());
        }
    }
    let mut held = vec![[0i64; 2]; machines];
    for (process, at) in processes.iter().zip(&initial) {
        for (held, need) in held[*at as usize].iter_mut().zip(&process.needs) {
            *held += need;
        }
    }
    let all: Vec<Machine> = (0..machines)
        .map(|m| Machine {
            neighborhood: u32::try_from(m % 3).unwrap(),
            location: u32::try_from(m % 2).unwrap(),
            capacity: held[m].iter().map(|h| h + 5 + below(30)).collect(),
            safety: vec![10, 10],
            move_cost: (0..machines).map(|to| if to == m { 0 } else { 1 + below(4) }).collect(),
        })
        .collect();
    let of = |service: usize| {
        processes.iter().zip(&initial).filter(move |(p, _)| p.service as usize == service).map(|(_, at)| *at as usize)
    };
    let around = |service: usize| of(service).map(|m| all[m].neighborhood).collect::<std::collections::BTreeSet<_>>();
    let rules = (0..services).map(|service| Service {
        spread: u32::try_from(
            of(service).map(|m| all[m].location).collect::<std::collections::BTreeSet<_>>().len().min(2),
        )
        .unwrap(),
        depends: (0..services)
            .filter(|other| *other != service && around(service).is_subset(&around(*other)))
            .take(1)
            .map(|o| u32::try_from(o).unwrap())
            .collect(),
    });
    let services = rules.collect();
    let problem = Problem {
        transient: vec![true, false],
        load_weight: vec![10, 3],
        machines: all,
        services,
        processes,
        balances: vec![Balance { first: 0, second: 1, target: 2, weight: 5 }],
        process_weight: 1,
        service_weight: 7,
        machine_weight: 2,
    };
    (problem, initial)
}

fn search(problem: &Problem, initial: &[u32], seed: u64, rounds: u64) -> Found {
    let mut round = 0;
    improve(problem, initial, seed, &mut |_, _| {
        round += 1;
        (round <= rounds).then_some(round as f64 / rounds as f64)
    })
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_found_keeps_all_rules_and_costs_what_is_said(seed in any::<u64>(), machines in 2..9usize, services in 1..14usize) {
        let (problem, initial) = made_up(seed, machines, services);
        let found = search(&problem, &initial, seed, 8);
        prop_assert_eq!(cost(&problem, &initial, &initial), Ok(found.before));
        prop_assert_eq!(cost(&problem, &initial, &found.at), Ok(found.cost));
        prop_assert!(found.cost <= found.before);
        prop_assert_eq!(search(&problem, &initial, seed, 8), found, "the same seed finds the same");
    }
}

#[test]
fn an_overloaded_machine_is_relieved_and_the_move_pays() {
    let machine = |move_cost: Vec<i64>| Machine {
        neighborhood: 0,
        location: 0,
        capacity: vec![100],
        safety: vec![50],
        move_cost,
    };
    let process = |service, need| Process { service, needs: vec![need], move_cost: 1 };
    let mut problem = Problem {
        transient: vec![false],
        load_weight: vec![10],
        machines: vec![machine(vec![0, 1]), machine(vec![1, 0])],
        services: (0..3).map(|_| Service { spread: 1, depends: Vec::new() }).collect(),
        processes: vec![process(0, 30), process(1, 30), process(2, 20)],
        process_weight: 1,
        service_weight: 1,
        machine_weight: 1,
        ..Problem::default()
    };
    let found = search(&problem, &[0, 0, 0], 1, 40);
    assert_eq!((found.before, found.cost), (300, 3), "one move of 30 relieves it");
    problem.process_weight = 1000;
    let found = search(&problem, &[0, 0, 0], 1, 40);
    assert_eq!(found.cost, 300, "a move that costs more than it gains is not made");
}

#[test]
fn senseless_problems_are_named() {
    let (problem, initial) = made_up(1, 3, 3);
    assert!(matches!(cost(&problem, &initial[1..], &initial), Err(Broken::Senseless(_))));
    let far = vec![9; initial.len()];
    assert_eq!(cost(&problem, &initial, &far).unwrap_err().to_string(), "a process is on machine 9, and there are 3");
    let mut tight = problem.clone();
    tight.machines.iter_mut().for_each(|m| m.capacity = vec![0, 0]);
    assert!(matches!(cost(&tight, &initial, &initial), Err(Broken::Capacity { .. })));
}
