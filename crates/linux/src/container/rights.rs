//! Capabilities as the kernel numbers them, and those that this process has to give.

use yun_types::Capability;

/// In the order of their numbers (linux/capability.h).
const NUMBERS: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights(u64);

impl Rights {
    /// All of them: what a user namespace begins with.
    pub(super) const ALL: Self = Self(u64::MAX);

    /// Those that this process can give to a container that shares its user namespace.
    pub(super) fn own() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let bits = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        Self(bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX))
    }

    /// True if one is among them.
    pub(super) fn has(self, one: Capability) -> bool {
        NUMBERS.iter().position(|name| *name == one.name()).is_some_and(|number| self.0 >> number & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_number() {
        assert!(Capability::each().all(|one| Rights::ALL.has(one)));
        assert_eq!(Capability::each().count(), NUMBERS.len());
        let some = Rights(1 << 21);
        assert!(some.has("SYS_ADMIN".parse().unwrap()) && !some.has("SYS_BOOT".parse().unwrap()));
    }
}
