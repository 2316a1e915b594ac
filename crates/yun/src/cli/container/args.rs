//! Flags that only containers have: health, limits, isolation.

use super::super::complete;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use yun_types::{Capability, IoLimits, Name, Span, WhenUnhealthy};

#[derive(Debug, Clone, Args)]
pub(crate) struct CommitArgs {
    /// The container
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// The name of the new image
    pub(crate) image: Name,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CopyArgs {
    /// A path of this machine, NAME:PATH, or - for a tar stream from standard input
    pub(crate) from: String,
    /// A path of this machine, NAME:PATH, or - for a tar stream to standard output
    pub(crate) to: String,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Health of containers")]
pub(crate) struct HealthArgs {
    /// Healthy if this command ends well inside (run by /bin/sh)
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Healthy if this answers with a code from 200 to 399: PORT or PORT/PATH
    #[arg(long, value_name = "PORT/PATH")]
    pub(crate) health_http: Option<String>,
    /// Healthy if this port accepts connections
    #[arg(long, value_name = "PORT")]
    pub(crate) health_tcp: Option<u16>,
    /// The pause between two checks [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub(crate) health_interval: Option<Span>,
    /// How long an answer may take [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub(crate) health_timeout: Option<Span>,
    /// So many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "COUNT")]
    pub(crate) health_retries: Option<u32>,
    /// For so long after the start failures do not count [default: 0s]
    #[arg(long, value_name = "TIME")]
    pub(crate) health_start_period: Option<Span>,
    /// What follows when it becomes unhealthy: report, restart [default: report]
    #[arg(long, value_name = "WHAT")]
    pub(crate) when_unhealthy: Option<WhenUnhealthy>,
    /// Without a health check
    #[arg(long, conflicts_with_all = ["health_cmd", "health_http", "health_tcp"])]
    pub(crate) no_health: bool,
}

impl HealthArgs {
    /// True if something beside the question was given.
    pub(crate) fn times(&self) -> bool {
        self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.when_unhealthy.is_some()
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Isolation and limits of containers")]
pub(crate) struct IsolationArgs {
    /// Switch one part of the isolation: userns, seccomp, masks, no-new-privileges, read-only, as in userns=off
    #[arg(long, value_name = "PART=on|off")]
    pub(crate) security: Vec<String>,
    /// A capability beside the usual ones, as in NET_ADMIN
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<Capability>,
    /// A capability that it does not get, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<Capability>,
    /// Without isolation: every capability and device of the host (administrators of the cloud only)
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Its main process is an init, such as systemd, that runs a whole system inside
    #[arg(long)]
    pub(crate) system: bool,
    /// Its file tree cannot be written
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What it may read and write each second, as in read=50M,write=20M,read-iops=1000,write-iops=500, or none
    #[arg(long, value_name = "LIMITS")]
    pub(crate) io: Option<IoLimits>,
}
