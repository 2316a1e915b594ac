//! What a server takes that has everything on and nothing to do.

use crate::{
    cloud::Cloud,
    measure::{Measure, Must},
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
    let (before, begun) = (cpu(pid)?, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let share = (cpu(pid)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    Ok(vec![
        Measure::new("idle server: resident memory", resident(pid)?, "MB").must(Must::AtMost(60.0)),
        Measure::new("idle server: share of one core", share, "%").must(Must::AtMost(0.5)),
    ])
}

fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// CPU seconds of a process so far: user and system, in ticks of a hundredth.
fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a strange stat file")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
