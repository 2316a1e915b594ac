//! How fast, how tight and how small.

use super::{
    peers,
    work::{FLAVOURS, Series, Watch, basic, flavour, hosts, median, pod, resident, vector},
};
use crate::measure::{Measure, Must};
use std::time::Instant;
use yun_plan::pool::{Pool, Request, RequestId, Ticket};

const RUNS: usize = 5;

pub(super) fn run() -> Vec<Measure> {
    let mut all = Vec::new();
    for nodes in [5_000, 100_000] {
        let rate = median((0..RUNS).map(|_| basic_rate(nodes)).collect());
        let name = format!("basic 10k pods on {nodes} nodes, a CPU second");
        let measure = Measure::new(name, rate, "1/s").must(Must::AtLeast(500_000.0));
        all.push(if nodes == 5_000 {
            measure.against("kube-scheduler", peers::KUBE, None).against("Nomad", peers::NOMAD, None)
        } else {
            measure
        });
    }
    for nodes in [1_000u64, 5_000, 10_000, 100_000] {
        let runs: Vec<Churn> = (0..RUNS as u64).map(|seed| churn(nodes, seed)).collect();
        let of = |f: fn(&Churn) -> f64| median(runs.iter().map(f).collect());
        let rate = Measure::new(format!("VM mix, {nodes} nodes filled to 90 %, a CPU second"), of(|c| c.fill), "1/s");
        all.push(if nodes >= 5_000 { rate.must(Must::AtLeast(500_000.0)) } else { rate });
        let both = format!("VM mix, {nodes} nodes at 90 %, a placement and a release");
        all.push(Measure::new(both, 1e6 / of(|c| c.churn), "us"));
        all.push(Measure::new(format!("VM mix, {nodes} nodes, decision p50"), of(|c| c.p50), "us"));
        all.push(
            Measure::new(format!("VM mix, {nodes} nodes, decision p99"), of(|c| c.p99), "us").must(Must::AtMost(50.0)),
        );
        all.push(Measure::new(format!("VM mix, {nodes} nodes, cells"), of(|c| c.cells), "cells"));
    }
    let over = median((0..RUNS as u64).map(fill).collect());
    all.push(Measure::new("VM mix, nodes over the lower bound", over, "%").must(Must::AtMost(0.5)));
    all.extend(ten_million());
    all.extend(replay());
    all
}

/// 10,000 pods as kube's benchmark has them.
fn basic_rate(nodes: u64) -> f64 {
    let mut pool = basic(nodes);
    let request = pool.request(&pod());
    let watch = Watch::start();
    let placed = pool.place_many(request, 10_000, |_, _| {});
    placed as f64 / watch.stop().1
}

fn flavours(pool: &mut Pool) -> Vec<RequestId> {
    FLAVOURS.iter().map(|(cores, gib, _)| pool.request(&Request::of(vector(&[cores * 1000, gib << 10, 1])))).collect()
}

struct Churn {
    fill: f64,
    churn: f64,
    p50: f64,
    p99: f64,
    cells: f64,
}

/// Fills to 90 % of the cores, then replaces instances one by one.
fn churn(nodes: u64, seed: u64) -> Churn {
    let mut pool = hosts(nodes);
    let kinds = flavours(&mut pool);
    let mut series = Series(seed);
    let mut live: Vec<Ticket> = Vec::new();
    let watch = Watch::start();
    while pool.totals().1[0] * 10 < pool.totals().0[0] * 9 {
        let Some((_, ticket)) = pool.place(kinds[flavour(&mut series)]) else { break };
        live.push(ticket);
    }
    let fill = live.len() as f64 / watch.stop().1;
    let mut round = |pool: &mut Pool, series: &mut Series| {
        let gone = series.below(live.len());
        pool.release(live.swap_remove(gone));
        let kind = kinds[flavour(series)];
        let start = Instant::now();
        let placed = pool.place(kind);
        let took = start.elapsed();
        live.extend(placed.map(|(_, ticket)| ticket));
        took
    };
    for _ in 0..50_000 {
        round(&mut pool, &mut series);
    }
    let watch = Watch::start();
    const ROUNDS: usize = 200_000;
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round(&mut pool, &mut series).as_secs_f64() * 1e6).collect();
    let cpu = watch.stop().1;
    times.sort_by(f64::total_cmp);
    Churn {
        fill,
        churn: ROUNDS as f64 / cpu,
        p50: times[ROUNDS / 2],
        p99: times[ROUNDS * 99 / 100],
        cells: pool.cells() as f64,
    }
}

/// The work that fills 700 of 1,000 hosts at best: how many more are used.
fn fill(seed: u64) -> f64 {
    let mut pool = hosts(1000);
    let kinds = flavours(&mut pool);
    let mut series = Series(seed + 77);
    while pool.totals().1[0] * 10 < pool.totals().0[0] * 7 {
        if pool.place(kinds[flavour(&mut series)]).is_none() {
            break;
        }
    }
    let (all, held) = pool.totals();
    let bound = (0..3).map(|d| (held[d] as f64 * 1000.0 / all[d] as f64).ceil()).fold(0.0, f64::max);
    (pool.occupied() as f64 / bound - 1.0) * 100.0
}

/// Ten million small instances on 100,000 nodes.
fn ten_million() -> Vec<Measure> {
    let before = resident();
    let mut pool = hosts(100_000);
    let kinds: Vec<RequestId> = FLAVOURS
        .iter()
        .map(|(cores, gib, _)| pool.request(&Request::of(vector(&[cores * 170, gib * 150, 1]))))
        .collect();
    let mut series = Series(5);
    let watch = Watch::start();
    let mut placed = 0usize;
    while placed < 10_000_000 && pool.place(kinds[flavour(&mut series)]).is_some() {
        placed += 1;
    }
    let (wall, cpu) = watch.stop();
    vec![
        Measure::new("instances on 100,000 nodes", placed as f64, "instances").must(Must::AtLeast(10_000_000.0)),
        Measure::new("10M instances on 100,000 nodes, a CPU second", placed as f64 / cpu, "1/s")
            .must(Must::AtLeast(500_000.0)),
        Measure::new("10M instances on 100,000 nodes, by the wall", placed as f64 / wall, "1/s"),
        Measure::new("10M instances on 100,000 nodes, memory", resident() - before, "MiB").must(Must::AtMost(8192.0)),
    ]
}

/// A million decisions twice: the same hash.
fn replay() -> Vec<Measure> {
    let once = || {
        let mut pool = hosts(5_000);
        let kinds = flavours(&mut pool);
        let (mut series, mut live, mut hash) = (Series(9), Vec::new(), 0u64);
        for _ in 0..1_000_000 {
            let fullness = pool.totals().1[0] as f64 / pool.totals().0[0] as f64;
            if live.is_empty() || fullness < 0.9 && series.below(10) < 7 {
                let placed = pool.place(kinds[flavour(&mut series)]);
                hash = Series(hash ^ placed.map_or(0, |(node, _)| u64::from(node.0) + 1)).next();
                live.extend(placed.map(|(_, ticket)| ticket));
            } else {
                let gone = series.below(live.len());
                pool.release(live.swap_remove(gone));
            }
        }
        hash
    };
    let (first, second) = (once(), once());
    vec![
        Measure::new(format!("1M decisions twice, hash {first:016x}: equal"), f64::from(u8::from(first == second)), "")
            .must(Must::AtLeast(1.0)),
    ]
}
