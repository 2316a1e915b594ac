//! The size of an instance, written `cpu:2,memory:4G,disk:50G`.

use crate::{Bytes, Cpu, Invalid};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::{fmt, str::FromStr};

/// What one instance asks of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct Size {
    /// CPU; a VM gets whole virtual CPUs, rounded up, and is limited to this share.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Disk: the virtual disk of a VM, the writable layer of a container.
    pub disk: Bytes,
}

impl Size {
    /// The least memory that anything starts with.
    pub const MIN_MEMORY: Bytes = Bytes::mib(4);
    /// The least disk.
    pub const MIN_DISK: Bytes = Bytes::mib(1);

    /// Checks each part; the message names the part and shows a right one.
    pub fn new(cpu: Cpu, memory: Bytes, disk: Bytes) -> Result<Self, Invalid> {
        let too_small = |field: &str, value: String, least: String| {
            Invalid(format!(
                "size {field}:{value} is too small: the least is {field}:{least}, as in cpu:1,memory:512M,disk:2G"
            ))
        };
        if cpu.0 < 10 {
            return Err(too_small("cpu", cpu.to_string(), "10m".into()));
        }
        if memory < Self::MIN_MEMORY {
            return Err(too_small("memory", memory.to_string(), Self::MIN_MEMORY.to_string()));
        }
        if disk < Self::MIN_DISK {
            return Err(too_small("disk", disk.to_string(), Self::MIN_DISK.to_string()));
        }
        Ok(Self { cpu, memory, disk })
    }
}

impl Default for Size {
    fn default() -> Self {
        Self { cpu: Cpu::cores(1), memory: Bytes::mib(512), disk: Bytes::gib(2) }
    }
}

impl Size {
    /// This size with the parts that `text` names, as in `memory:4G`.
    pub fn with(self, text: &str) -> Result<Self, Invalid> {
        let mut size = self;
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',') {
            let (field, value) = part.trim().split_once([':', '=']).ok_or_else(|| {
                Invalid(format!(
                    "size {text:?} has {part:?}, which is not field:value: write it as in cpu:2,memory:4G,disk:50G"
                ))
            })?;
            let named = |e: Invalid| Invalid(format!("size field {field}: {e}"));
            match field {
                "cpu" => size.cpu = value.parse().map_err(named)?,
                "memory" | "mem" => size.memory = value.parse().map_err(named)?,
                "disk" => size.disk = value.parse().map_err(named)?,
                _ => {
                    return Err(Invalid(format!(
                        "size {text:?} has the unknown field {field:?}: the fields are cpu, memory and disk, as in cpu:2,memory:4G,disk:50G"
                    )));
                }
            }
            if seen.contains(&field) {
                return Err(Invalid(format!(
                    "size {text:?} names {field} twice: name each field once, as in cpu:2,memory:4G,disk:50G"
                )));
            }
            seen.push(field);
        }
        Self::new(size.cpu, size.memory, size.disk)
    }
}

impl FromStr for Size {
    type Err = Invalid;

    /// Parts that are left out keep their default (`cpu:1,memory:512Mi,disk:2Gi`).
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::default().with(text)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("cpu:{},memory:{},disk:{}", self.cpu, self.memory, self.disk))
    }
}

/// Accepts the text form and the object form, so that `"cpu:2,memory:4G"` works wherever `{"cpu": "2", ...}` does.
impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            cpu: Option<Cpu>,
            memory: Option<Bytes>,
            disk: Option<Bytes>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Fields(Fields),
        }
        let size = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse(),
            Form::Fields(f) => {
                let default = Self::default();
                Self::new(
                    f.cpu.unwrap_or(default.cpu),
                    f.memory.unwrap_or(default.memory),
                    f.disk.unwrap_or(default.disk),
                )
            }
        };
        size.map_err(serde::de::Error::custom)
    }
}

/// Reads what a machine has or lends, which may be nothing: only what is asked for has a least size.
pub(crate) fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    #[derive(Deserialize)]
    struct Fields {
        cpu: Cpu,
        memory: Bytes,
        disk: Bytes,
    }
    Fields::deserialize(deserializer).map(|Fields { cpu, memory, disk }| Size { cpu, memory, disk })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_text_form() {
        let size: Size = "cpu:2,memory:4G,disk:50G".parse().unwrap();
        assert_eq!(size, Size { cpu: Cpu(2000), memory: Bytes(4_000_000_000), disk: Bytes(50_000_000_000) });
        assert_eq!(size.to_string(), "cpu:2,memory:4G,disk:50G");
        assert_eq!("memory:1Gi".parse::<Size>().unwrap().cpu, Cpu(1000));
        assert_eq!(size.with("cpu:1").unwrap().to_string(), "cpu:1,memory:4G,disk:50G");
    }

    #[test]
    fn refusals_name_the_field_and_show_a_right_one() {
        for bad in [
            "cpu:0",
            "cpu:-1",
            "cpu:5x",
            "memory:1e99",
            "memory:0",
            "disk:0",
            "gpu:1",
            "cpu",
            "",
            "cpu:1,cpu:2",
            "memory:99999999999999999999T",
        ] {
            let error = bad.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(" as in "), "{bad}: {error}");
        }
    }

    #[test]
    fn json_takes_both_forms_and_checks_both() {
        let text: Size = serde_json::from_str("\"cpu:2,memory:1Gi\"").unwrap();
        let fields: Size = serde_json::from_str(r#"{"cpu":"2","memory":"1Gi"}"#).unwrap();
        assert_eq!(text, fields);
        assert!(serde_json::from_str::<Size>(r#"{"cpu":"0"}"#).unwrap_err().to_string().contains("too small"));
    }
}
