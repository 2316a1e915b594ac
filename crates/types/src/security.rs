//! How a container is set apart from its host. The default is the strictest that ordinary programs run in; each part can be relaxed by name.

use crate::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Capabilities that root inside has if nothing else is said: what container engines commonly leave it.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All others (capabilities(7)).
const MORE_CAPABILITIES: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// A capability, or all of them. Written as in `NET_ADMIN`; `CAP_NET_ADMIN` and `net_admin` are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(&'static str);

impl Capability {
    /// Every capability.
    pub const ALL: Self = Self("ALL");

    /// Its name, as in `NET_ADMIN`, or `ALL`.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// True if containers have it anyway.
    pub fn is_default(self) -> bool {
        DEFAULT_CAPABILITIES.contains(&self.0)
    }

    /// Each single one.
    pub fn each() -> impl Iterator<Item = Self> {
        DEFAULT_CAPABILITIES.into_iter().chain(MORE_CAPABILITIES).map(Self)
    }
}

impl FromStr for Capability {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(Self::ALL);
        }
        Self::each()
            .find(|known| known.0 == name)
            .ok_or_else(|| Invalid(format!("capability {text:?} is unknown: write it as in NET_ADMIN, or ALL")))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

crate::string_serde!(Capability, "Capability", "A capability as in NET_ADMIN, or ALL.");

/// How a container is set apart from its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// All that follows is off, and it gets every capability and device of the host. Only for administrators of the cloud.
    #[serde(skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Root inside is nobody outside: its users are mapped to a range of ids that belongs to it alone.
    #[serde(skip_serializing_if = "is_true")]
    pub userns: bool,
    /// System calls that no ordinary program needs, and that have been ways out, are refused.
    #[serde(skip_serializing_if = "is_true")]
    pub seccomp: bool,
    /// Parts of `/proc` and `/sys` that tell about the host or change it are hidden or read-only.
    #[serde(skip_serializing_if = "is_true")]
    pub masks: bool,
    /// No program gains rights by being executed, as `su` and `sudo` would.
    #[serde(skip_serializing_if = "is_true")]
    pub no_new_privileges: bool,
    /// The image's file tree cannot be written.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Capabilities beside the usual ones.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cap_add: BTreeSet<Capability>,
    /// Capabilities that it does not get.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cap_drop: BTreeSet<Capability>,
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Default for Security {
    fn default() -> Self {
        Self {
            privileged: false,
            userns: true,
            seccomp: true,
            masks: true,
            no_new_privileges: true,
            read_only: false,
            cap_add: BTreeSet::new(),
            cap_drop: BTreeSet::new(),
        }
    }
}

impl Security {
    /// True if nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Capabilities that root inside has, in their order.
    pub fn capabilities(&self) -> Vec<Capability> {
        let all = self.privileged || self.cap_add.contains(&Capability::ALL);
        let none = self.cap_drop.contains(&Capability::ALL);
        let mut held: Vec<_> = Capability::each()
            .filter(|one| {
                let added = self.cap_add.contains(one) || all;
                (added || (one.is_default() && !none)) && !self.cap_drop.contains(one)
            })
            .collect();
        held.sort_unstable();
        held
    }

    /// Changes one part by its name, as in `userns=off` or `seccomp=unconfined`.
    pub fn set(&mut self, word: &str) -> Result<(), Invalid> {
        let (name, value) = word.split_once(['=', ':']).unwrap_or((word, "on"));
        let off = match value {
            "on" | "true" | "default" => false,
            "off" | "false" | "unconfined" => true,
            _ => return Err(Invalid(format!("security {word:?} is neither on nor off: write it as in userns=off"))),
        };
        match name {
            "userns" => self.userns = !off,
            "seccomp" => self.seccomp = !off,
            "masks" => self.masks = !off,
            "no-new-privileges" => self.no_new_privileges = !off,
            "read-only" => self.read_only = !off,
            _ => {
                return Err(Invalid(format!(
                    "security {name:?} is unknown: the parts are userns, seccomp, masks, no-new-privileges and read-only, as in userns=off"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(security: &Security) -> Vec<&'static str> {
        security.capabilities().into_iter().map(Capability::name).collect()
    }

    #[test]
    fn everything_is_on_by_default_and_left_out_when_written() {
        let strict = Security::default();
        assert_eq!(serde_json::to_string(&strict).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Security>("{}").unwrap(), strict);
        let relaxed: Security = serde_json::from_str(r#"{"userns":false,"cap_add":["cap_net_admin"]}"#).unwrap();
        assert!(!relaxed.userns && relaxed.seccomp);
        assert_eq!(serde_json::from_str::<Security>(&serde_json::to_string(&relaxed).unwrap()).unwrap(), relaxed);
        assert!(serde_json::from_str::<Security>(r#"{"usernss":false}"#).is_err());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let mut security = Security::default();
        assert_eq!(names(&security), DEFAULT_CAPABILITIES);
        security.cap_drop.insert(Capability::ALL);
        assert!(names(&security).is_empty());
        security.cap_add.insert("net_bind_service".parse().unwrap());
        assert_eq!(names(&security), ["NET_BIND_SERVICE"]);
        security.cap_add.insert(Capability::ALL);
        security.cap_drop = BTreeSet::from(["CAP_SYS_MODULE".parse().unwrap()]);
        assert_eq!(names(&security).len(), 40);
        assert!("NET_ADMINN".parse::<Capability>().unwrap_err().0.contains("as in NET_ADMIN"));
    }

    #[test]
    fn each_part_is_relaxed_by_its_name() {
        let mut security = Security::default();
        for word in ["userns=off", "seccomp=unconfined", "masks:off", "no-new-privileges=false", "read-only"] {
            security.set(word).unwrap();
        }
        assert!(!security.userns && !security.seccomp && !security.masks && !security.no_new_privileges);
        assert!(security.read_only);
        assert!(security.set("apparmor=off").unwrap_err().0.contains("the parts are userns"));
        assert!(security.set("userns=maybe").unwrap_err().0.contains("userns=off"));
    }
}
