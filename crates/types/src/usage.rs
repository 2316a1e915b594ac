//! What is measured of instances and nodes: the list of metrics, and one reading of all of them.
//!
//! Words: a *counter* only grows while its subject runs and begins again at 0 when it is started anew; a *gauge* says how much there is
//! now; a *sample* holds what all metrics of one subject were at one moment, as far as the kernel tells.

use crate::{InstanceId, Invalid};
use schemars::{
    JsonSchema,
    r#gen::SchemaGenerator,
    schema::{InstanceType, Schema, SchemaObject},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is measured. The order is that of stored rows: new ones come at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Metric {
    /// CPU time in microseconds (counter).
    Cpu,
    /// Memory that cannot be taken back, in bytes.
    Memory,
    /// Processes and threads.
    Processes,
    /// Bytes on disk that belong to it.
    DiskUsed,
    /// Bytes read from disks (counter).
    DiskRead,
    /// Bytes written to disks (counter).
    DiskWritten,
    /// Read operations of disks (counter).
    DiskReads,
    /// Write operations of disks (counter).
    DiskWrites,
    /// Bytes received (counter).
    NetIn,
    /// Bytes sent (counter).
    NetOut,
    /// Packets received (counter).
    PacketsIn,
    /// Packets sent (counter).
    PacketsOut,
    /// Microseconds in which something waited for a processor (counter).
    CpuPressure,
    /// Microseconds in which something waited for memory (counter).
    MemoryPressure,
    /// Microseconds in which something waited for a disk (counter).
    IoPressure,
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = 15;

    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Cpu,
        Self::Memory,
        Self::Processes,
        Self::DiskUsed,
        Self::DiskRead,
        Self::DiskWritten,
        Self::DiskReads,
        Self::DiskWrites,
        Self::NetIn,
        Self::NetOut,
        Self::PacketsIn,
        Self::PacketsOut,
        Self::CpuPressure,
        Self::MemoryPressure,
        Self::IoPressure,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::DiskUsed => "disk-used",
            Self::DiskRead => "disk-read",
            Self::DiskWritten => "disk-written",
            Self::DiskReads => "disk-reads",
            Self::DiskWrites => "disk-writes",
            Self::NetIn => "net-in",
            Self::NetOut => "net-out",
            Self::PacketsIn => "packets-in",
            Self::PacketsOut => "packets-out",
            Self::CpuPressure => "cpu-pressure",
            Self::MemoryPressure => "memory-pressure",
            Self::IoPressure => "io-pressure",
        }
    }

    /// True if it grows: its rate is what people look at.
    pub fn is_counter(self) -> bool {
        !matches!(self, Self::Memory | Self::Processes | Self::DiskUsed)
    }

    /// True if it counts microseconds: its rate is a share of the time.
    pub fn is_time(self) -> bool {
        matches!(self, Self::Cpu | Self::CpuPressure | Self::MemoryPressure | Self::IoPressure)
    }

    /// What its values are, as people read them: that of the rate for counters.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "cores",
            Self::Memory | Self::DiskUsed => "bytes",
            Self::Processes => "processes",
            Self::DiskRead | Self::DiskWritten | Self::NetIn | Self::NetOut => "bytes/s",
            Self::DiskReads | Self::DiskWrites => "operations/s",
            Self::PacketsIn | Self::PacketsOut => "packets/s",
            Self::CpuPressure | Self::MemoryPressure | Self::IoPressure => "share of the time",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Metric {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|metric| metric.word() == text).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|metric| metric.word()).collect();
            Invalid(format!("metric {text:?} is unknown: use one of {}", words.join(", ")))
        })
    }
}

crate::string_serde!(Metric, "Metric", "What is measured: cpu, memory, net-in …");

/// What all metrics of one subject were at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample([Option<u64>; Metric::COUNT]);

impl Sample {
    /// One metric; `None` if the kernel does not tell.
    pub fn get(&self, metric: Metric) -> Option<u64> {
        self.0[metric as usize]
    }

    /// Notes one metric.
    pub fn set(&mut self, metric: Metric, value: impl Into<Option<u64>>) {
        self.0[metric as usize] = value.into();
    }

    /// With one metric more.
    #[must_use]
    pub fn with(mut self, metric: Metric, value: impl Into<Option<u64>>) -> Self {
        self.set(metric, value);
        self
    }

    /// What is known.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, u64)> + '_ {
        Metric::ALL.into_iter().filter_map(|metric| Some((metric, self.get(metric)?)))
    }
}

impl Serialize for Sample {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut sample = Self::default();
        for (word, value) in map {
            // A node of a newer version may measure more than we know.
            if let Ok(metric) = word.parse::<Metric>() {
                sample.set(metric, value);
            }
        }
        Ok(sample)
    }
}

impl JsonSchema for Sample {
    fn schema_name() -> String {
        "Sample".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        SchemaObject { instance_type: Some(InstanceType::Object.into()), ..SchemaObject::default() }.into()
    }
}

/// What a node measured in one round.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The machine as a whole.
    pub node: Sample,
    /// The instances that run on it.
    pub instances: Vec<(InstanceId, Sample)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_in_order() {
        for (place, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, place);
            assert_eq!(metric.word().parse::<Metric>().unwrap(), metric);
        }
        assert!("cpus".parse::<Metric>().unwrap_err().0.contains("use one of cpu, memory"));
    }

    #[test]
    fn a_sample_says_only_what_is_known() {
        let sample = Sample::default().with(Metric::Cpu, 7).with(Metric::DiskUsed, None);
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(text, r#"{"cpu":7}"#);
        assert_eq!(serde_json::from_str::<Sample>(r#"{"cpu":7,"quarks":3}"#).unwrap(), sample);
    }
}
