//! The words of `yun backup`.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use yun_types::Name;

use crate::cli::args::RootArgs;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum BackupCommand {
    /// Back up the state and the instances of this machine, or only those that are named
    #[command(
        after_help = "Examples:\n  yun backup create --to /srv/backup\n  yun backup create web db --to s3://bucket/yun --password-file /root/backup-password\n  yun backup create --state --to /srv/backup\n\nOnly what changed is stored. An instance that runs is held still while its data is read, so that its backup is of one moment.\nFor S3, the server and the keys come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION."
    )]
    Create(CreateArgs),
    /// List backups
    Ls(WhereArgs),
    /// Show a backup in full
    Show(OneArgs),
    /// Make an instance from a backup, or bring the state back
    #[command(
        after_help = "Examples:\n  yun backup restore web --as web-2\n  yun backup restore 20261124T101500-9f3a --as web\n  yun down; yun backup restore state; yun up\n\nA name means the newest backup of it. The state is brought back while the server is down; instances that were made since are then unknown to it."
    )]
    Restore(RestoreArgs),
    /// Prove that backups can be restored: read everything and compare; with --restore, into a scratch place
    #[command(after_help = "Examples:\n  yun backup verify\n  yun backup verify web --restore")]
    Verify(VerifyArgs),
    /// Remove backups; yun backup prune gives their room back
    Rm(ManyArgs),
    /// Remove backups that no rule keeps, and chunks that no backup needs
    #[command(
        after_help = "Examples:\n  yun backup prune --keep-last 3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run\n  yun backup prune        only chunks that no backup needs"
    )]
    Prune(PruneArgs),
    /// Back up by the clock
    #[command(subcommand)]
    Schedule(ScheduleCommand),
}

/// Which repository.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhereArgs {
    /// A directory, or s3://BUCKET/PREFIX [default: that of the schedule]
    #[arg(long = "to", visible_alias = "from", value_name = "TARGET", env = "YUN_BACKUP_TARGET")]
    pub(crate) target: Option<String>,
    /// The file with the repository's password; without one it is not encrypted
    #[arg(long, value_name = "FILE", env = "YUN_BACKUP_PASSWORD_FILE")]
    pub(crate) password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// Instances of the project [default: all of all projects, and the state]
    #[arg(add = clap_complete::engine::ArgValueCompleter::new(crate::cli::complete::instances))]
    pub(crate) instances: Vec<String>,
    /// The state, also beside instances that are named
    #[arg(long)]
    pub(crate) state: bool,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OneArgs {
    /// A backup's id or the start of it, or an instance or `state`, which means the newest
    pub(crate) backup: String,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ManyArgs {
    /// Ids of backups, or starts of them
    #[arg(required = true)]
    pub(crate) backups: Vec<String>,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// A backup's id or the start of it, or an instance or `state`, which means the newest
    pub(crate) backup: String,
    /// The name of the new instance [default: the name that it had]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Do not start it
    #[arg(long)]
    pub(crate) stopped: bool,
    /// Publish no ports: the instance that it was made of may still have them
    #[arg(long)]
    pub(crate) no_publish: bool,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct VerifyArgs {
    /// Ids of backups, or names that mean the newest [default: all]
    pub(crate) backups: Vec<String>,
    /// Restore each into a scratch directory, too, and look whether it is whole
    #[arg(long)]
    pub(crate) restore: bool,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

/// What is kept.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct KeepArgs {
    /// Keep the newest so many of each instance and of the state
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) keep_last: u32,
    /// Keep the newest of each of so many days
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) keep_daily: u32,
    /// Of so many weeks
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) keep_weekly: u32,
    /// Of so many months
    #[arg(long, value_name = "N", default_value_t)]
    pub(crate) keep_monthly: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Show the schedule, and how the last run went
    Show(RootArgs),
    /// Back up everything every so often, by the server of this machine
    #[command(
        after_help = "Examples:\n  yun backup schedule set --every 24h --to /srv/backup --keep-daily 7 --keep-weekly 4"
    )]
    Set(SetArgs),
    /// Back up no more by the clock
    Off(RootArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SetArgs {
    /// How often, as in 30m, 6h or 7d
    #[arg(long)]
    pub(crate) every: String,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) place: WhereArgs,
}
