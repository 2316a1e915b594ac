//! A measured number, what it must be, and its ratio to peers in the same run.

use anyhow::{Context as _, Result};
use serde::Serialize;
use std::time::Duration;

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measure {
    /// What was measured.
    pub(crate) name: String,
    /// The number: a median where several were taken.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) must: Option<Must>,
    /// Peers measured in the same run, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) peers: Vec<Peer>,
}

/// A bound.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Must {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// A peer's number for the same thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    /// The peer.
    pub(crate) name: String,
    /// Its number, in the measure's unit.
    pub(crate) value: f64,
    /// Ours divided by it.
    pub(crate) ratio: f64,
    /// What the ratio must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) must: Option<Must>,
}

impl Must {
    /// Whether a number keeps the bound.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
        }
    }
}

impl Measure {
    /// A number without a bound.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, must: None, peers: Vec::new() }
    }

    /// Adds a bound.
    pub(crate) fn must(mut self, must: Must) -> Self {
        self.must = Some(must);
        self
    }

    /// Adds a peer.
    pub(crate) fn against(mut self, name: impl Into<String>, value: f64, must: Option<Must>) -> Self {
        self.peers.push(Peer { name: name.into(), value, ratio: self.value / value, must });
        self
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let mark = |holds: bool| if holds { "ok" } else { "MISSED" };
        let must =
            self.must.map(|m| format!("  (must be {}: {})", m.shown(), mark(m.holds(self.value)))).unwrap_or_default();
        let peers = self.peers.iter().map(|p| {
            let must =
                p.must.map(|m| format!(", must be {}: {}", m.shown(), mark(m.holds(p.ratio)))).unwrap_or_default();
            format!("\n    {:.2}x of {} ({:.2} {}{must})", p.ratio, p.name, p.value, self.unit)
        });
        format!("{:64} {:>12.2} {}{must}{}", self.name, self.value, self.unit, peers.collect::<String>())
    }
}

/// The sample below which this share of all lies.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort_unstable();
    let place = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
    samples.get(place).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

/// CPU seconds of a process so far: user and system, in ticks of a hundredth.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a strange stat file")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
