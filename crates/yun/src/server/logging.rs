//! What the server writes about itself, to standard error: the journal or the log file behind it keeps it.

use super::config::{Log, LogFormat};
use anyhow::{Context as _, Result};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging for the whole process.
pub(crate) fn start(config: &Log) -> Result<()> {
    let filter = EnvFilter::builder().parse(&config.level).with_context(|| {
        format!("log.level {:?} is not a filter: write info, debug or info,yun_agent=debug", config.level)
    })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match config.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))
}
