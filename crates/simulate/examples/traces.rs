//! Rebalancing and dynamic allocation without the command line: `traces roadef SECONDS MODEL ASSIGNMENT [BEST]`, `traces planetlab CORES FILE`.

use std::{path::Path, process::ExitCode};
use yun_simulate::{planetlab, roadef};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &words[..] {
        ["roadef", seconds, model, assignment, best @ ..] => {
            match roadef::read(Path::new(model), Path::new(assignment)) {
                Ok(trace) => {
                    let best = best.first().and_then(|b| b.parse().ok());
                    let o = roadef::play(&trace, seconds.parse().unwrap_or(30), 2, 42, best, &|_, _| ());
                    println!(
                        "{model} {} -> {} moved {} gap {:?} % tried {}",
                        o.cost_before, o.cost_after, o.moved, o.gap_percent, o.tried
                    );
                }
                Err(error) => eprintln!("{error}"),
            }
        }
        ["planetlab", cores, file] => match planetlab::read(Path::new(file)) {
            Ok(trace) => {
                let o = planetlab::play(&trace, 20, cores.parse().unwrap_or(16) * 100, 42, &|_, _| ());
                println!(
                    "{cores} cores: {} -> {:.1} ({:.2}x), over {:.4} % of {} node steps, use {:.1} %",
                    o.static_per_node,
                    o.dynamic_per_node,
                    o.ratio,
                    o.over_capacity_percent,
                    o.node_steps,
                    o.mean_use_percent
                );
            }
            Err(error) => eprintln!("{error}"),
        },
        _ => eprintln!("traces roadef SECONDS MODEL ASSIGNMENT [BEST], or traces planetlab CORES FILE"),
    }
    ExitCode::SUCCESS
}
