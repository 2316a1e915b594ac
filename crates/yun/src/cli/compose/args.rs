//! The command line of Compose.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use yun_types::Name;

/// Which file, and what of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ComposeArgs {
    /// The file [default: compose.yaml, compose.yml, docker-compose.yaml or docker-compose.yml here]
    #[arg(long, short = 'f', value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The Compose project's name, a prefix of all names [default: that of the file, or of its directory]
    #[arg(long, short = 'n', env = "COMPOSE_PROJECT_NAME")]
    pub(crate) name: Option<Name>,
    /// Turn a profile on
    #[arg(long, value_name = "PROFILE", env = "COMPOSE_PROFILES", value_delimiter = ',')]
    pub(crate) profile: Vec<String>,
    /// Variables from this file instead of .env
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: ComposeCommand,
}

/// What can be done with a Compose file.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ComposeCommand {
    /// Create and start services
    #[command(
        after_help = "Examples:\n  yun compose up -d\n  yun compose -f shop/compose.yaml --profile debug up -d web"
    )]
    Up {
        /// Return when they run, and leave them running; otherwise their logs follow, and Ctrl-C stops them
        #[arg(long, short = 'd')]
        detach: bool,
        /// Also remove what is no longer in the file
        #[arg(long)]
        remove_orphans: bool,
        /// Seconds to wait at most for each service
        #[arg(long, default_value = "300", value_name = "SECONDS")]
        wait: u64,
        /// Only these, and what they depend on
        services: Vec<String>,
    },
    /// Stop and remove services and their networks; volumes stay
    #[command(
        after_help = "Examples:\n  yun compose down\n  yun compose down -v      with the volumes and all that is in them"
    )]
    Down {
        /// Also remove the volumes with their data
        #[arg(long, short = 'v')]
        volumes: bool,
    },
    /// List the instances
    Ps,
    /// Print what services wrote
    Logs {
        /// Go on with new lines
        #[arg(long, short = 'f')]
        follow: bool,
        /// Only the last so many lines of each
        #[arg(long, short = 't')]
        tail: Option<u64>,
        /// Only these
        services: Vec<String>,
    },
    /// Check the file, and print it with its variables replaced
    Config,
}
