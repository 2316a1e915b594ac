//! `yun simulate`: replays traces against the scheduler, on this machine and without a server.

pub(crate) mod args;

use anyhow::{Context as _, Result, anyhow};
use args::{Files, JsonArgs, OpenbArgs, PlanetlabArgs, RoadefArgs, SimulateCommand, SurfArgs};
use comfy_table::{Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{fmt::Write as _, fs};
use yun_plan::gpu::GpuPolicy;
use yun_simulate::{chart, json, openb, planetlab, roadef, surf};

use super::{
    Code,
    args::{Format, Global},
    output,
};

/// Replays a trace and prints what came of it.
pub(crate) fn run(global: &Global, command: SimulateCommand) -> Result<Code> {
    match command {
        SimulateCommand::Openb(args) => gpus(global, &args),
        SimulateCommand::Planetlab(args) => dynamic(global, &args),
        SimulateCommand::Roadef(args) => rebalance(global, &args),
        SimulateCommand::Surf(args) => jobs(global, &args),
        SimulateCommand::Json(args) => own(global, &args),
    }?;
    Ok(0)
}

fn bar(global: &Global, what: &str) -> ProgressBar {
    if global.quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(100);
    bar.set_style(
        ProgressStyle::with_template("{msg} [{bar:30}] {percent}% {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(what.to_owned());
    bar
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn files(files: &Files, title: &str, x: &str, y: &str, lines: &[chart::Line]) -> Result<()> {
    if let Some(path) = &files.svg {
        write(path, &chart::svg(title, x, y, lines)?)?;
    }
    if let Some(path) = &files.csv {
        let mut text = format!("series,{x},{y}\n");
        for line in lines {
            for (x, y) in &line.points {
                let _ = writeln!(text, "{},{x},{y}", line.name);
            }
        }
        write(path, &text)?;
    }
    Ok(())
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.force_no_tty();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().try_for_each(|line| output::print_line(line.trim_end()))
}

/// Prints an object for programs; `false` if people are to read it.
fn for_programs<T: Serialize>(global: &Global, item: &T) -> Result<bool> {
    match global.output {
        Format::Json => output::print_line(&serde_json::to_string_pretty(item)?)?,
        Format::Yaml => output::print_line(serde_yaml_ng::to_string(item)?.trim_end())?,
        Format::Table | Format::Wide | Format::Name => return Ok(false),
    }
    Ok(true)
}

#[derive(Serialize)]
struct Allocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    allocation_at_90: f64,
    allocation_at_100: f64,
    allocation_at_130: f64,
}

#[derive(Serialize)]
struct Openb {
    policy: String,
    nodes: usize,
    gpus: u64,
    tasks: usize,
    decisions_per_second: f64,
    seeds: Vec<Allocation>,
    mean: Allocation,
}

fn gpus(global: &Global, args: &OpenbArgs) -> Result<()> {
    let policy = GpuPolicy::named(&args.policy).ok_or_else(|| {
        anyhow!("there is no policy {}: the policies are {}, and windowN", args.policy, GpuPolicy::NAMES.join(", "))
    })?;
    let trace = openb::read(&args.nodes, &args.tasks)?;
    let seeds: Vec<u64> = args.seeds.clone().collect();
    let bar = bar(global, "openb");
    bar.set_length(seeds.len() as u64 * (openb::UNTIL as u64 + 1));
    let curves = openb::play_all(&trace, policy, &seeds, &|_, _| bar.inc(1))?;
    bar.finish_and_clear();
    let round = |x: f64| (x * 10_000.0).round() / 10_000.0;
    let at = |x: usize| round(yun_simulate::mean(curves.iter().map(|c| c.at(x))));
    let of = |seed, at: &dyn Fn(usize) -> f64| Allocation {
        seed,
        allocation_at_90: at(90),
        allocation_at_100: at(100),
        allocation_at_130: at(130),
    };
    let seconds: f64 = curves.iter().map(|c| c.seconds).sum();
    let result = Openb {
        policy: args.policy.clone(),
        nodes: trace.nodes.len(),
        gpus: trace.capacity() / 1000,
        tasks: trace.tasks.len(),
        decisions_per_second: (curves.iter().map(|c| c.tasks as f64).sum::<f64>() / seconds.max(1e-9)).round(),
        seeds: curves.iter().map(|c| of(Some(c.seed), &|x| round(c.at(x)))).collect(),
        mean: of(None, &at),
    };
    let line = |curve: &openb::Curve| chart::Line {
        name: format!("{} seed {}", args.policy, curve.seed),
        points: curve.allocation.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect(),
    };
    let lines: Vec<chart::Line> = curves.iter().map(line).collect();
    files(&args.files, "openb", "arrived %", "allocated %", &lines)?;
    if for_programs(global, &result)? {
        return Ok(());
    }
    let row = |name: String, a: &Allocation| {
        vec![
            name,
            format!("{:.2}", a.allocation_at_90),
            format!("{:.2}", a.allocation_at_100),
            format!("{:.2}", a.allocation_at_130),
        ]
    };
    let rows = result.seeds.iter().map(|a| row(a.seed.unwrap_or_default().to_string(), a));
    table(&["SEED", "AT 90 %", "AT 100 %", "AT 130 %"], rows.chain([row("mean".into(), &result.mean)]))?;
    output::print_line(&format!(
        "{} on {} nodes with {} GPUs, {} tasks: {:.0} decisions a second",
        result.policy, result.nodes, result.gpus, result.tasks, result.decisions_per_second
    ))
}

fn dynamic(global: &Global, args: &PlanetlabArgs) -> Result<()> {
    let trace = planetlab::read(&args.trace)?;
    let bar = bar(global, "planetlab");
    let outcome = planetlab::play(&trace, args.nodes as usize, u64::from(args.cores) * 100, args.seed, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let line = |name: &str, points: &[f64]| chart::Line {
        name: name.into(),
        points: points.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect(),
    };
    let lines = [line("instances a node", &outcome.instances), line("use %", &outcome.used)];
    files(&args.files, "planetlab", "step", "mean over nodes", &lines)?;
    if for_programs(global, &outcome)? {
        return Ok(());
    }
    table(
        &["ALLOCATION", "INSTANCES A NODE", "STEPS OVER CAPACITY", "USE"],
        [
            vec!["static".into(), outcome.static_per_node.to_string(), "0 %".into(), String::new()],
            vec![
                "dynamic".into(),
                format!("{:.1} ({:.2}x)", outcome.dynamic_per_node, outcome.ratio),
                format!("{:.4} %", outcome.over_capacity_percent),
                format!("{:.1} %", outcome.mean_use_percent),
            ],
        ],
    )
}

fn rebalance(global: &Global, args: &RoadefArgs) -> Result<()> {
    let trace = roadef::read(&args.model, &args.assignment)?;
    let bar = bar(global, "roadef");
    let outcome = roadef::play(&trace, args.seconds, args.threads, args.seed, args.best_known, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let points = outcome.history.iter().map(|(seconds, cost)| (*seconds, *cost as f64)).collect();
    files(&args.files, "roadef", "seconds", "cost", &[chart::Line { name: "cost".into(), points }])?;
    if for_programs(global, &outcome)? {
        return Ok(());
    }
    let gap = outcome.gap_percent.map_or_else(|| "-".into(), |gap| format!("{gap:.3} %"));
    table(
        &["MACHINES", "PROCESSES", "COST BEFORE", "COST AFTER", "MOVED", "OVER BEST KNOWN"],
        [vec![
            outcome.machines.to_string(),
            outcome.processes.to_string(),
            outcome.cost_before.to_string(),
            outcome.cost_after.to_string(),
            outcome.moved.to_string(),
            gap,
        ]],
    )
}

fn jobs(global: &Global, args: &SurfArgs) -> Result<()> {
    let trace = surf::read(&args.trace)?;
    let bar = bar(global, "surf");
    let cluster = surf::Cluster { nodes: args.nodes, cores: args.cores, memory_mib: u64::from(args.memory) << 10 };
    let outcome = surf::play(&trace, cluster, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let points = outcome.waits.iter().map(|(percent, seconds)| (f64::from(*percent), *seconds)).collect();
    files(
        &args.files,
        "surf",
        "percentile of jobs",
        "seconds of waiting",
        &[chart::Line { name: "waiting".into(), points }],
    )?;
    if for_programs(global, &outcome)? {
        return Ok(());
    }
    table(
        &["JOBS", "TOO LARGE", "MEAN WAIT", "P99 WAIT", "MEAN USE", "MAKESPAN"],
        [vec![
            outcome.jobs.to_string(),
            outcome.never.to_string(),
            format!("{:.0} s", outcome.mean_wait_seconds),
            format!("{:.0} s", outcome.p99_wait_seconds),
            format!("{:.1} %", outcome.mean_use_percent),
            format!("{:.1} h", outcome.makespan_hours),
        ]],
    )
}

fn own(global: &Global, args: &JsonArgs) -> Result<()> {
    let input = json::read(&args.input)?;
    let bar = bar(global, "json");
    let outcome = json::play(&args.input, &input, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let points = |of: fn(&json::Answer) -> usize| {
        outcome.requests.iter().enumerate().map(|(x, a)| (x as f64, of(a) as f64)).collect()
    };
    let lines = [
        chart::Line { name: "asked".into(), points: points(|a| a.asked) },
        chart::Line { name: "placed".into(), points: points(|a| a.placed) },
    ];
    files(&args.files, "json", "request", "instances", &lines)?;
    if for_programs(global, &outcome)? {
        return Ok(());
    }
    let row = |a: &json::Answer| {
        vec![
            a.name.clone(),
            a.asked.to_string(),
            a.placed.to_string(),
            a.nodes.to_string(),
            a.why.clone().unwrap_or_default(),
        ]
    };
    table(&["REQUEST", "ASKED", "PLACED", "NODES", "WHY NOT MORE"], outcome.requests.iter().map(row))
}
