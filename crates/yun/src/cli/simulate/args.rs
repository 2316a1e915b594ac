//! The arguments of `yun simulate`.

use clap::{Args, Subcommand};
use std::{ops::RangeInclusive, path::PathBuf};

/// What to replay.
#[derive(Debug, Subcommand)]
pub(crate) enum SimulateCommand {
    /// Shares of GPUs on the openb cluster: how much of it is allocated when 90, 100 and 130 % of it have been asked for
    #[command(
        after_help = "Examples:\n  yun simulate openb --nodes nodes.csv --tasks tasks.csv\n  yun simulate openb --nodes nodes.csv --tasks tasks.csv.gz --policy fgd --seeds 42-51 -o json\n  yun simulate openb --nodes nodes.csv --tasks tasks.csv --csv curve.csv --svg curve.svg"
    )]
    Openb(OpenbArgs),
    /// Dynamic allocation on measured CPU use: how many more instances a node carries than by reservation, and how often it is too much
    #[command(
        after_help = "Examples:\n  yun simulate planetlab --trace planetlab_cpu.csv.gz\n  yun simulate planetlab --trace planetlab_cpu.csv.gz --cores 32 -o json"
    )]
    Planetlab(PlanetlabArgs),
    /// Rebalancing on an instance of the ROADEF 2012 challenge: what moves would make better within a budget of time
    #[command(
        after_help = "Examples:\n  yun simulate roadef --model model_a1_2.txt --assignment assignment_a1_2.txt --seconds 60\n  yun simulate roadef --model model_a1_2.txt.xz --assignment assignment_a1_2.txt.xz --best-known 777532896 -o json"
    )]
    Roadef(RoadefArgs),
    /// Jobs of a batch cluster (SURF as CSV): waiting times and use, first come first served with backfill
    #[command(
        after_help = "Examples:\n  yun simulate surf --trace surf.csv --nodes 300 --cores 16 --memory 64\n\nThe trace has the columns submission_time and duration (ms), cpu_count, and mem_capacity (MB). A parquet file is converted with, for example:\n  python3 -c \"import pandas; pandas.read_parquet('tasks.parquet').to_csv('surf.csv', index=False)\""
    )]
    Surf(SurfArgs),
    /// A pool and requests of your own, as JSON: what would be placed, and why the rest waits
    #[command(
        after_help = "Examples:\n  yun simulate json --input pool.json\n\npool.json:\n  {\"dimensions\": [\"cpu\", \"memory\"],\n   \"nodes\": [{\"count\": 3, \"capacity\": [8000, 32768], \"zone\": \"a\"}],\n   \"requests\": [{\"name\": \"web\", \"count\": 10, \"shape\": [1000, 4096], \"policy\": \"spread\"}]}"
    )]
    Json(JsonArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OpenbArgs {
    /// Nodes: sn, cpu_milli, memory_mib, gpu, model (CSV, may be packed)
    #[arg(long, value_name = "FILE")]
    pub(crate) nodes: PathBuf,
    /// Tasks: cpu_milli, memory_mib, num_gpu, gpu_milli and, if there is one, gpu_spec (CSV, may be packed)
    #[arg(long, value_name = "FILE")]
    pub(crate) tasks: PathBuf,
    /// How nodes are chosen: yun, random, dot-product, gpu-clustering, gpu-packing, best-fit, fgd, first-fit, or windowN
    #[arg(long, default_value = "yun", value_name = "NAME")]
    pub(crate) policy: String,
    /// Seeds of the order of arrival: one, or the first and the last
    #[arg(long, default_value = "42-51", value_parser = seeds, value_name = "A-B")]
    pub(crate) seeds: RangeInclusive<u64>,
    #[command(flatten)]
    pub(crate) files: Files,
}

/// Where to write what was simulated.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Write all numbers as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Draw a chart
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanetlabArgs {
    /// CPU use in per cent: day, vm, s0 … (CSV, may be packed)
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,
    /// Cores of a node; an instance may use one
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) cores: u32,
    /// How many nodes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) nodes: u32,
    /// Seed of the order of arrival
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct RoadefArgs {
    /// The model
    #[arg(long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// Where each process is now
    #[arg(long, value_name = "FILE")]
    pub(crate) assignment: PathBuf,
    /// For how long to search
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Searches at the same time; the best one counts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,
    /// Seed of the search
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// The best cost that anybody has found, for the gap
    #[arg(long, value_name = "COST")]
    pub(crate) best_known: Option<u64>,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct SurfArgs {
    /// Jobs: submission_time, duration, cpu_count, mem_capacity (CSV, may be packed)
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,
    /// How many nodes
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) nodes: u32,
    /// Cores of a node
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) cores: u32,
    /// GiB of a node
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) memory: u32,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// The pool and the requests
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) files: Files,
}

/// `42`, or `42-51`.
fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .map_err(|_| format!("{text:?} is not a number; write one seed (42) or a range (42-51)"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("the range {first}-{last} is empty: write {last}-{first}"));
    }
    if last - first >= 1000 {
        return Err(format!("{} seeds, and 1000 is the most at once", last - first + 1));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_a_range() {
        assert_eq!(seeds("42"), Ok(42..=42));
        assert_eq!(seeds("42-51"), Ok(42..=51));
        assert!(seeds("51-42").unwrap_err().contains("write 42-51"));
        assert!(seeds("x").is_err() && seeds("-1").is_err() && seeds("1-").is_err() && seeds("0-1000").is_err());
    }
}
