//! The command line of `apply`, `diff` and `schema`.

use clap::Args;
use yun_types::Name;

/// Which files.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileArgs {
    /// A file, a directory of *.yaml and *.yml, or - for standard input
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE|DIR|-")]
    pub(crate) files: Vec<String>,
    /// Belongs to a set of this name: a label says so, and --prune goes by it
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<Name>,
    /// Also remove what is in the set and in no file any more
    #[arg(long, requires = "set")]
    pub(crate) prune: bool,
}

/// `apply`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) what: FileArgs,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not wait until what was changed works
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// Seconds to wait at most for each
    #[arg(long, default_value = "900", value_name = "SECONDS")]
    pub(crate) wait: u64,
}
