//! The OCI runtime configuration of a container (opencontainers/runtime-spec, `config.json`): isolation that is safe by default. Pure.

use super::{
    cgroup::Limits,
    nest::{self, Nest},
    rights::Rights,
    rootfs, seccomp,
    users::Identity,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use yun_types::{Bytes, Mount, Security};

/// Parts of `/proc` and `/sys` that tell about the host, or change it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// When the whole host runs out of memory, the kernel looks among containers first, and at yun last (proc_pid_oom_score_adj(5)).
const FIRST_TO_GO: i32 = 300;

/// The most open files, where the host allows as many: enough for servers, few enough for programs that close every possible one.
const OPEN_FILES: (u64, u64) = (65_536, 524_288);

/// A process: the main one, or one that is added later.
#[derive(Debug, Clone)]
pub(super) struct ProcessSpec<'a> {
    pub(super) arguments: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) workdir: &'a str,
    pub(super) identity: &'a Identity,
    pub(super) tty: bool,
    pub(super) security: &'a Security,
    /// The capabilities that can be given at all.
    pub(super) rights: Rights,
    /// The most open files that this host lets anybody have.
    pub(super) open_files: u64,
}

/// Everything that a configuration depends on.
#[derive(Debug, Clone)]
pub(super) struct Bundle<'a> {
    pub(super) process: ProcessSpec<'a>,
    pub(super) rootfs: &'a Path,
    pub(super) hostname: &'a str,
    pub(super) cgroup: &'a str,
    pub(super) limits: Limits,
    /// Whether the host counts swap; without, a limit of it is an error.
    pub(super) counts_swap: bool,
    /// The network namespace to join; without one, the container has a network of its own with nothing in it.
    pub(super) network: Option<&'a Path>,
    /// Files of the host that stand in for files of the image.
    pub(super) files: &'a [(&'static str, PathBuf)],
    pub(super) mounts: &'a [Mount],
    /// Whether its main process is an init.
    pub(super) system: bool,
    /// Its user namespace, if it has one of its own.
    pub(super) nest: Option<&'a Nest>,
}

/// The `process` part.
pub(super) fn process(spec: &ProcessSpec<'_>) -> Value {
    let Identity { uid, gid, additional, .. } = spec.identity;
    // With the first group among the others, a program that changes the first does not get around a file that denies it something.
    let groups: std::collections::BTreeSet<u32> = additional.iter().copied().chain([*gid]).collect();
    let env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // Another user than root starts with none, and can get none but through files: those are in the bounding set.
    let bounding: Vec<String> = spec
        .security
        .capabilities()
        .iter()
        .filter(|one| spec.rights.has(**one))
        .map(|one| format!("CAP_{one}"))
        .collect();
    let held: &[String] = if *uid == 0 { &bounding } else { &[] };
    let (soft, hard) = (OPEN_FILES.0.min(spec.open_files), OPEN_FILES.1.min(spec.open_files));
    json!({
        "terminal": spec.tty,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups},
        "args": spec.arguments,
        "env": env,
        "cwd": spec.workdir,
        "capabilities": {"bounding": bounding, "effective": held, "permitted": held, "inheritable": [], "ambient": []},
        "oomScoreAdj": FIRST_TO_GO,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        "noNewPrivileges": spec.security.no_new_privileges && !spec.security.privileged,
    })
}

/// The whole configuration.
pub(super) fn config(bundle: &Bundle<'_>) -> Value {
    let mut network = json!({"type": "network"});
    if let Some(path) = bundle.network {
        network["path"] = json!(path);
    }
    let security = bundle.process.security;
    let masks = security.masks && !security.privileged;
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": process(&bundle.process),
        "root": {"path": bundle.rootfs, "readonly": security.read_only},
        "hostname": bundle.hostname,
        "mounts": mounts(bundle),
        "linux": {
            "cgroupsPath": bundle.cgroup,
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, network],
            "resources": resources(&bundle.limits, bundle.counts_swap, security.privileged),
            // Root inside owns the whole network namespace, so there is nobody to keep low ports for.
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "maskedPaths": if masks { MASKED } else { &[] },
            "readonlyPaths": if masks { READ_ONLY } else { &[] },
        },
    });
    if let (Some(nest), Some(all)) = (bundle.nest, config["linux"]["namespaces"].as_array_mut()) {
        all.push(json!({"type": "user", "path": nest.user}));
        let ids = json!([{"containerID": 0, "hostID": nest.base, "size": nest::SIZE}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
    }
    if security.seccomp && !security.privileged {
        config["linux"]["seccomp"] = seccomp::profile(&security.capabilities());
    }
    config
}

fn resources(limits: &Limits, counts_swap: bool, all_devices: bool) -> Value {
    let mut memory = json!({"limit": limits.memory.0});
    if counts_swap {
        // Memory and swap together: equal means that there is no swap.
        memory["swap"] = json!(limits.memory.0);
    }
    let mut resources = json!({
        // crun adds the few devices that every container has.
        "devices": [{"allow": all_devices, "access": "rwm"}],
        "memory": memory,
        "cpu": {"quota": limits.cpu_quota(), "period": Limits::CPU_PERIOD, "shares": limits.cpu_shares()},
        "pids": {"limit": limits.pids},
    });
    if let Some((disk, io)) = limits.io.filter(|(_, io)| !io.is_default()) {
        let one = |rate: u64| json!([{"major": disk.major, "minor": disk.minor, "rate": rate}]);
        let rates = [
            ("throttleReadBpsDevice", io.read.map(|rate| rate.0)),
            ("throttleWriteBpsDevice", io.write.map(|rate| rate.0)),
            ("throttleReadIOPSDevice", io.read_iops.map(u64::from)),
            ("throttleWriteIOPSDevice", io.write_iops.map(u64::from)),
        ];
        for (name, rate) in rates {
            if let Some(rate) = rate {
                resources["blockIO"][name] = one(rate);
            }
        }
    }
    resources
}

fn mounts(bundle: &Bundle<'_>) -> Vec<Value> {
    let system = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        system("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        system(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", if bundle.system { "rw" } else { "ro" }],
        ),
    ];
    if bundle.system {
        // Where an init keeps what ends with it (systemd's container interface).
        for (target, mode) in [("/run", "mode=755"), ("/run/lock", "mode=1777"), ("/tmp", "mode=1777")] {
            mounts.push(system(target, "tmpfs", &["nosuid", "nodev", mode, "size=50%"]));
        }
    }
    // A user's mount of the same place comes later and so lies on top.
    let own = bundle.files.iter().map(|(target, source)| bind(target, &source.to_string_lossy(), false, false));
    mounts.extend(own);
    mounts.extend(bundle.mounts.iter().map(|mount| match mount {
        Mount::Bind { source, target, read_only } => {
            bind(target, source, *read_only, bundle.nest.is_some_and(|nest| nest.can_map(Path::new(source))))
        }
        Mount::Tmpfs { target, size } => tmpfs(target, size.unwrap_or(Bytes(bundle.limits.memory.0 / 2))),
    }));
    mounts
}

/// `mapped`: its files are owned inside by the users that own them outside.
fn bind(target: &str, source: &str, read_only: bool, mapped: bool) -> Value {
    let mut options = vec!["rbind", "rprivate", if read_only { "ro" } else { "rw" }];
    if mapped {
        options.push("idmap");
    }
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

fn tmpfs(target: &str, size: Bytes) -> Value {
    json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", format!("size={}", size.0)]})
}

/// Why a mount cannot be made, judged by its text alone.
pub(super) fn mount_fault(mount: &Mount) -> Option<String> {
    let target = mount.target();
    if !rootfs::is_plain_absolute(target) {
        return Some(format!("its target {target:?} is not an absolute path below / without .."));
    }
    match mount {
        Mount::Bind { source, .. } if !Path::new(source).is_absolute() => {
            Some(format!("its source {source:?} is not an absolute path"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Cpu;

    fn bundle(uid: u32, check: impl FnOnce(Value)) {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let identity = Identity { uid, gid: 7, additional: vec![8], home: "/".into() };
        let arguments = ["/bin/x".to_owned()];
        let process = ProcessSpec {
            arguments: &arguments,
            env: &env,
            workdir: "/w",
            identity: &identity,
            tty: false,
            security: &Security::default(),
            rights: Rights::ALL,
            open_files: 20_000,
        };
        let mounts = [
            Mount::Bind { source: "/srv".into(), target: "/data".into(), read_only: true },
            Mount::Tmpfs { target: "/cache".into(), size: None },
        ];
        check(config(&Bundle {
            process,
            rootfs: Path::new("/r"),
            hostname: "web",
            cgroup: "/yun-1/x",
            limits: Limits { cpu: Cpu(500), memory: Bytes::mib(64), pids: 9, io: None },
            counts_swap: true,
            network: Some(Path::new("/run/netns/x")),
            files: &[("/etc/hosts", PathBuf::from("/d/hosts"))],
            mounts: &mounts,
            system: false,
            nest: None,
        }));
    }

    #[test]
    fn limits_follow_the_size_and_the_host() {
        bundle(0, |config| {
            let resources = &config["linux"]["resources"];
            assert_eq!(resources["cpu"], json!({"quota": 50_000, "period": 100_000, "shares": 512}));
            assert_eq!(resources["memory"], json!({"limit": 64 << 20, "swap": 64 << 20}));
            assert_eq!(
                config["process"]["rlimits"][0],
                json!({"type": "RLIMIT_NOFILE", "soft": 20_000, "hard": 20_000})
            );
            assert_eq!(config["linux"]["namespaces"][5], json!({"type": "network", "path": "/run/netns/x"}));
        });
    }

    #[test]
    fn another_user_than_root_holds_no_capability() {
        bundle(1000, |config| {
            let capabilities = &config["process"]["capabilities"];
            assert_eq!((&capabilities["effective"], &capabilities["permitted"]), (&json!([]), &json!([])));
            assert!(!capabilities["bounding"].to_string().contains("CAP_SYS_ADMIN"));
        });
        bundle(0, |config| {
            let capabilities = &config["process"]["capabilities"];
            assert_eq!(capabilities["effective"], capabilities["bounding"]);
            assert_eq!(capabilities["effective"].as_array().unwrap().len(), 14);
        });
    }

    #[test]
    fn the_users_mounts_come_last_with_safe_options() {
        bundle(0, |config| {
            let mounts = config["mounts"].as_array().unwrap();
            let [data, cache] = &mounts[mounts.len() - 2..] else { panic!("two mounts") };
            assert_eq!(data["options"], json!(["rbind", "rprivate", "ro"]));
            assert_eq!(cache["options"], json!(["nosuid", "nodev", "mode=1777", format!("size={}", 32 << 20)]));
        });
    }

    #[test]
    fn mounts_that_cannot_work_are_named() {
        let bind =
            |source: &str, target: &str| Mount::Bind { source: source.into(), target: target.into(), read_only: false };
        assert_eq!(mount_fault(&bind("/a", "/b")), None);
        assert!(mount_fault(&bind("a", "/b")).unwrap().contains("source"));
        assert!(mount_fault(&bind("/a", "/b/../..")).unwrap().contains("target"));
    }
}
