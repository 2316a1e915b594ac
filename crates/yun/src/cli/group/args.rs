//! The command line of groups.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use yun_types::{Name, RestartPolicy, Size};

use crate::cli::{
    args::{ContainerArgs, VmArgs},
    complete,
};

/// What can be done with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group of like instances
    #[command(
        after_help = "Examples:\n  yun group create web --image nginx --replicas 3\n  yun group create web --image box --replicas 3 --max-surge 2 --min-ready 5 -- httpd -f -p 80\n  yun group create one --image box --publish 8080:80 --max-surge 0 --max-unavailable 1"
    )]
    Create(Box<CreateArgs>),
    /// List groups
    Ls(LsArgs),
    /// Show a group in full
    Show(OneGroup),
    /// Have more or fewer instances
    #[command(
        after_help = "Examples:\n  yun group scale web 5\n  yun group scale web 0      the group stays, its instances go"
    )]
    Scale {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::groups))]
        group: String,
        /// How many
        replicas: u32,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Change what the instances are, a few at a time
    #[command(
        after_help = "Examples:\n  yun group set web --image nginx-2\n  yun group set web -e COLOUR=blue --size cpu:0.5\n  yun group set web -- httpd -f -p 8080"
    )]
    Set(Box<SetArgs>),
    /// Replace every instance by a new one, a few at a time; also tries a revision again that was rolled back
    Restart {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::groups))]
        group: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Rollouts: follow, look back, undo, pause, resume
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Remove groups with their instances
    #[command(visible_alias = "delete")]
    Rm {
        /// Names or ids
        #[arg(required = true, add = ArgValueCompleter::new(complete::groups))]
        groups: Vec<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// What can be done with rollouts.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Follow a rollout to its end; fails if it fails or is taken back
    Status {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::groups))]
        group: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List the revisions that are kept
    History(OneGroup),
    /// Go back to an earlier revision
    #[command(after_help = "Examples:\n  yun group rollout undo web\n  yun group rollout undo web --to 3")]
    Undo {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::groups))]
        group: String,
        /// The revision [default: the last good one before]
        #[arg(long)]
        to: Option<u64>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Stop a rollout where it is
    Pause(OneGroup),
    /// Let a rollout go on
    Resume {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::groups))]
        group: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OneGroup {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LsArgs {
    /// Those of all projects
    #[arg(long, short = 'A')]
    pub(crate) all_projects: bool,
    /// Only with these labels
    #[arg(long, short = 'l')]
    pub(crate) label: Option<String>,
}

/// Whether and how long to wait.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Return at once
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// Seconds to wait at most
    #[arg(long, default_value = "900", value_name = "SECONDS")]
    pub(crate) wait: u64,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Updates")]
pub(crate) struct UpdateArgs {
    /// So many may be missing while they are replaced
    #[arg(long, value_name = "N")]
    pub(crate) max_unavailable: Option<u32>,
    /// So many more may be there while they are replaced
    #[arg(long, value_name = "N")]
    pub(crate) max_surge: Option<u32>,
    /// An instance counts once it has been running for so long
    #[arg(long, value_name = "SECONDS")]
    pub(crate) min_ready: Option<u32>,
    /// A rollout that does not get on for so long has failed
    #[arg(long, value_name = "SECONDS")]
    pub(crate) deadline: Option<u32>,
    /// Whether a rollout that failed is taken back by itself
    #[arg(long, value_name = "YES", action = clap::ArgAction::Set)]
    pub(crate) rollback: Option<bool>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// The group's name; its instances are NAME-1, NAME-2 …
    pub(crate) name: Name,
    /// The image (yun image ls)
    #[arg(long, add = ArgValueCompleter::new(complete::images))]
    pub(crate) image: String,
    /// How many instances
    #[arg(long, short = 'n', default_value = "1")]
    pub(crate) replicas: u32,
    /// What each of them gets
    #[arg(long, short = 's')]
    pub(crate) size: Option<Size>,
    /// Lead a port of the host to it (one instance only): HOST:GUEST, also ADDRESS:HOST:GUEST and /udp
    #[arg(long, value_name = "PORT")]
    pub(crate) publish: Vec<yun_types::PublishedPort>,
    /// What happens when one ends by itself: never, on-failure, on-failure:N, always
    #[arg(long)]
    pub(crate) restart: Option<RestartPolicy>,
    /// Free words for the group and its instances, as in tier=web
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    #[command(flatten)]
    pub(crate) update: UpdateArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SetArgs {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
    /// Another image
    #[arg(long, short = 'i', add = ArgValueCompleter::new(complete::images))]
    pub(crate) image: Option<String>,
    /// How many instances
    #[arg(long, short = 'n')]
    pub(crate) replicas: Option<u32>,
    /// What each of them gets; parts that are left out stay as they are
    #[arg(long, short = 's', value_parser = crate::cli::args::parse_change)]
    pub(crate) size: Option<String>,
    /// What happens when one ends by itself
    #[arg(long)]
    pub(crate) restart: Option<RestartPolicy>,
    /// Adds or replaces environment variables (NAME- removes one)
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) update: UpdateArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// What to run instead
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}
