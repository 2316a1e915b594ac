//! Limits of reading from and writing to a disk.

use crate::{Bytes, Invalid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How much an instance may read from and write to its disk each second. What is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IoLimits {
    /// Bytes read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Bytes>,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Bytes>,
    /// Reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u32>,
    /// Writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u32>,
}

impl IoLimits {
    /// True if nothing is limited.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for IoLimits {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut limits = Self::default();
        if text == "none" {
            return Ok(limits);
        }
        for part in text.split(',') {
            let bad = || {
                Invalid(format!(
                    "io limit {part:?} is not understood: the parts are read, write (bytes a second), read-iops and write-iops, as in read=50M,write-iops=200, or none"
                ))
            };
            let (name, value) = part.trim().split_once(['=', ':']).ok_or_else(bad)?;
            let count = || value.parse::<u32>().map_err(|_| bad());
            match name {
                "read" => limits.read = Some(value.parse()?),
                "write" => limits.write = Some(value.parse()?),
                "read-iops" => limits.read_iops = Some(count()?),
                "write-iops" => limits.write_iops = Some(count()?),
                _ => return Err(bad()),
            }
        }
        Ok(limits)
    }
}

impl fmt::Display for IoLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.read.map(|value| format!("read={value}")),
            self.write.map(|value| format!("write={value}")),
            self.read_iops.map(|value| format!("read-iops={value}")),
            self.write_iops.map(|value| format!("write-iops={value}")),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(",");
        f.pad(if text.is_empty() { "none" } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_parts() {
        let limits: IoLimits = "read=50M,write-iops=200".parse().unwrap();
        assert_eq!((limits.read, limits.write, limits.write_iops), (Some("50M".parse().unwrap()), None, Some(200)));
        assert_eq!(limits.to_string().parse::<IoLimits>().unwrap(), limits);
        assert_eq!("none".parse::<IoLimits>().unwrap(), IoLimits::default());
        assert_eq!(IoLimits::default().to_string(), "none");
        for bad in ["", "read", "reads=1M", "read-iops=many"] {
            assert!(bad.parse::<IoLimits>().unwrap_err().0.contains("as in read=50M"), "{bad}");
        }
        assert!("read=lots".parse::<IoLimits>().is_err());
    }
}
