//! What a server takes that has everything on and nothing to do.

use crate::{
    cloud::Cloud,
    measure::{Measure, Must, cpu_seconds},
};
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);

/// Measures memory and CPU of the idle server.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let cloud = Cloud::start(async |_| Ok(())).await?;
    let pid = cloud.pid()?;
    tokio::time::sleep(SETTLE).await;
    let (before, begun) = (cpu_seconds(pid)?, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let share = (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    Ok(vec![
        Measure::new("idle server: resident memory", resident(pid)?, "MB").must(Must::AtMost(60.0)),
        Measure::new("idle server: share of one core", share, "%").must(Must::AtMost(0.5)),
    ])
}

/// Resident memory of a process, in MB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
