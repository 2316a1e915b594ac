//! System calls that no container needs, and that have been ways out of one: refused, although most of them would fail anyway without the
//! capabilities that containers do not get. What is refused is what Docker's and Podman's default profiles leave out; a capability that
//! somebody adds brings back the calls that it is for, as there. Everything else is allowed: a list of what is allowed costs every start
//! several milliseconds to compile, and breaks programs that are newer than the list.

use serde_json::{Value, json};
use yun_types::Capability;

/// Refused, unless the container has this capability. Without one: refused to everybody.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "_sysctl",
            "add_key",
            "create_module",
            "get_kernel_syms",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "nfsservctl",
            "query_module",
            "request_key",
            "swapoff",
            "swapon",
            "sysfs",
            "uselib",
            "userfaultfd",
            "ustat",
            "vm86",
            "vm86old",
        ],
    ),
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYS_ADMIN", ADMINISTRATION),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    (
        "SYS_NICE",
        &["get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYSLOG", &["syslog"]),
];

/// Mounts, namespaces and names of the host. Host names are needed by an init inside, and then belong to its own namespace.
const ADMINISTRATION: &[&str] = &[
    "fanotify_init",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "pivot_root",
    "quotactl",
    "quotactl_fd",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// The `CLONE_NEW*` flags of clone(2): namespaces of one's own are the usual first step out.
const NEW_NAMESPACES: &[u64] =
    &[0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// Sockets that reach the host past its network: the kernel's ciphers (`AF_ALG`), and the machine under a VM (`AF_VSOCK`).
const OUTSIDE: &[u64] = &[38, 40];

/// The profile, as the OCI runtime specification writes it, for a container with these capabilities.
pub(super) fn profile(held: &[Capability]) -> Value {
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;
    const EAFNOSUPPORT: u32 = 97;
    let has = |name: &str| held.iter().any(|one| one.name() == name);
    let refused: Vec<&str> = REFUSED
        .iter()
        .filter(|(capability, _)| !has(capability))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let mut rules = vec![json!({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM})];
    if !has("SYS_ADMIN") {
        // Its flags are in memory, where a filter cannot look: C libraries fall back to clone(2) when it does not exist.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
        for flag in NEW_NAMESPACES {
            let argument = json!({"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"});
            rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM, "args": [argument]}));
        }
    }
    for family in OUTSIDE {
        let argument = json!({"index": 0, "value": family, "op": "SCMP_CMP_EQ"});
        rules.push(
            json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EAFNOSUPPORT, "args": [argument]}),
        );
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules})
}

/// The system call tables that a process on this host can use.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Security;

    fn refused(security: &Security) -> Vec<String> {
        let profile = profile(&security.capabilities());
        let names = profile["syscalls"].as_array().unwrap().iter().filter(|rule| rule["args"].is_null());
        names.flat_map(|rule| rule["names"].as_array().unwrap().clone()).map(|n| n.as_str().unwrap().into()).collect()
    }

    /// What Docker 27's and Podman 5's default profiles refuse a container with the default capabilities, on kernels from 6.1 on.
    #[test]
    fn what_others_refuse_is_refused() {
        let refused = refused(&Security::default());
        for name in [
            "acct",
            "add_key",
            "bpf",
            "clock_adjtime",
            "clock_settime",
            "delete_module",
            "fanotify_init",
            "finit_module",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "init_module",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kcmp",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "lookup_dcookie",
            "mbind",
            "mount",
            "mount_setattr",
            "move_mount",
            "move_pages",
            "nfsservctl",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "reboot",
            "request_key",
            "set_mempolicy",
            "setdomainname",
            "sethostname",
            "setns",
            "settimeofday",
            "stime",
            "swapoff",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
            "vhangup",
            "clone3",
        ] {
            assert!(refused.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn an_added_capability_brings_its_calls_back() {
        let mut security = Security::default();
        security.cap_add.insert("SYS_TIME".parse().unwrap());
        let some = refused(&security);
        assert!(!some.contains(&"settimeofday".to_owned()) && some.contains(&"mount".to_owned()));
        security.cap_add.insert(Capability::ALL);
        let few = refused(&security);
        assert!(!few.contains(&"mount".to_owned()) && few.contains(&"kexec_load".to_owned()));
    }
}
