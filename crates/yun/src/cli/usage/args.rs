//! What `top` and `stats` take.

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::super::complete;

/// By what `top` sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// The busiest first
    Cpu,
    /// The largest first
    Memory,
    /// Who reads and writes most
    Disk,
    /// Who sends and receives most
    Net,
    /// By project and name
    Name,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TopArgs {
    /// Those of all projects
    #[arg(long, short = 'A')]
    pub(crate) all_projects: bool,
    /// Print once and end (also when the output is no terminal)
    #[arg(long)]
    pub(crate) once: bool,
    /// By what to sort (live: c m d n a)
    #[arg(long, short = 's', value_enum, default_value = "cpu")]
    pub(crate) sort: Sort,
    /// Nodes instead of instances
    #[arg(long)]
    pub(crate) nodes: bool,
    /// Seconds between two looks
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatsArgs {
    /// The instance's name or id
    #[arg(add = ArgValueCompleter::new(complete::instances), required_unless_present = "node")]
    pub(crate) instance: Option<String>,
    /// A node instead of an instance
    #[arg(long, conflicts_with = "instance", add = ArgValueCompleter::new(complete::nodes))]
    pub(crate) node: Option<String>,
    /// The beginning: 10m, 2h, 1d, or a time as in 2026-01-31T12:00:00Z
    #[arg(long, default_value = "1h")]
    pub(crate) since: String,
    /// The end, in the same words [default: now]
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// Seconds in one point [default: a hundredth of the time]
    #[arg(long)]
    pub(crate) step: Option<u32>,
    /// Only these, as in cpu,memory,net-in
    #[arg(long, short = 'm')]
    pub(crate) metrics: Option<String>,
}
