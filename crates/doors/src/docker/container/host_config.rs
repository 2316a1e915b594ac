//! From Docker's flags to the cloud's spec, purely. What the cloud cannot do is refused by the flag's name, with the way out: a container that
//! silently lacks what was asked for would be worse than none.

use super::{
    super::fault::{Answer, Fault},
    request::{Host, MountRequest, Request, Restart},
};
use serde_json::Value;
use yun_types::{Bytes, Cpu, Mount, Protocol, PublishedPort, RestartPolicy, Size};

/// Flags that have no meaning here: by their field, their name, and what to do instead.
const REFUSED: &[(&str, &str, &str)] = &[
    ("BlkioDeviceReadBps", "--device-read-bps", "leave it out"),
    ("BlkioDeviceReadIOps", "--device-read-iops", "leave it out"),
    ("BlkioDeviceWriteBps", "--device-write-bps", "leave it out"),
    ("BlkioDeviceWriteIOps", "--device-write-iops", "leave it out"),
    ("BlkioWeight", "--blkio-weight", "leave it out"),
    ("BlkioWeightDevice", "--blkio-weight-device", "leave it out"),
    ("CgroupParent", "--cgroup-parent", "leave it out: each container has a group of its own"),
    ("CpuRealtimePeriod", "--cpu-rt-period", "leave it out"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime", "leave it out"),
    ("CpusetCpus", "--cpuset-cpus", "use --cpus"),
    ("CpusetMems", "--cpuset-mems", "leave it out"),
    ("DeviceCgroupRules", "--device-cgroup-rule", "leave it out"),
    ("DeviceRequests", "--gpus", "leave it out: containers get no devices of the host"),
    ("Devices", "--device", "leave it out: containers get no devices of the host"),
    ("Dns", "--dns", "leave it out: the cloud's own DNS answers, and asks the host's for the rest"),
    ("DnsOptions", "--dns-option", "leave it out"),
    ("DnsSearch", "--dns-search", "leave it out"),
    ("ExtraHosts", "--add-host", "use names of containers, which the cloud's DNS knows"),
    ("GroupAdd", "--group-add", "use --user USER:GROUP"),
    ("KernelMemory", "--kernel-memory", "use --memory"),
    ("Links", "--link", "use the other container's name, which the cloud's DNS knows"),
    ("OomKillDisable", "--oom-kill-disable", "leave it out"),
    ("OomScoreAdj", "--oom-score-adj", "leave it out"),
    ("Sysctls", "--sysctl", "leave it out"),
    ("Ulimits", "--ulimit", "leave it out"),
    ("UTSMode", "--uts", "leave it out"),
    ("VolumeDriver", "--volume-driver", "leave it out"),
    ("VolumesFrom", "--volumes-from", "name each volume with -v"),
];

/// Flags that only have one value here.
const ONLY: &[(&str, &str, &[&str])] = &[
    ("CgroupnsMode", "--cgroupns", &["private"]),
    ("IpcMode", "--ipc", &["private", "shareable"]),
    ("Isolation", "--isolation", &["default"]),
    ("PidMode", "--pid", &[]),
    ("UsernsMode", "--userns", &["host"]),
    ("Runtime", "--runtime", &["crun", "runc", "io.containerd.runc.v2"]),
];

/// Refuses what the cloud cannot do.
pub(super) fn check(host: &Host) -> Answer<()> {
    for (field, flag, instead) in REFUSED {
        if host.rest.get(*field).is_some_and(|value| !is_empty(value)) {
            return Err(Fault::bad(format!("{flag} is not supported by yun: {instead}")));
        }
    }
    for (field, flag, values) in ONLY {
        let value = host.rest.get(*field).and_then(Value::as_str).unwrap_or_default();
        if !value.is_empty() && !values.contains(&value) {
            return Err(Fault::bad(format!(
                "{flag} {value} is not supported by yun: leave it out; containers share nothing with the host"
            )));
        }
    }
    let log = host.rest.get("LogConfig").and_then(|log| log["Type"].as_str()).unwrap_or_default();
    if !matches!(log, "" | "json-file" | "local" | "journald") {
        return Err(Fault::bad(format!(
            "--log-driver {log} is not supported by yun: leave it out; the cloud keeps what containers write and rotates it"
        )));
    }
    if let Some(option) = host.storage_opt.keys().find(|option| *option != "size") {
        return Err(Fault::bad(format!("--storage-opt {option} is not supported by yun: use --storage-opt size=2G")));
    }
    Ok(())
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// The size: what was asked for, over the usual one.
pub(super) fn size(host: &Host, usual: Size, least_disk: Bytes) -> Answer<Size> {
    let mut size = usual;
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let millis = match (positive(host.nano_cpus), positive(host.cpu_quota)) {
        (Some(nano), _) => Some(nano / 1_000_000),
        (None, Some(quota)) => Some(quota * 1000 / positive(host.cpu_period).unwrap_or(100_000)),
        _ => None,
    };
    if let Some(millis) = millis {
        size.cpu = Cpu(u32::try_from(millis).unwrap_or(u32::MAX));
    }
    if let Some(memory) = positive(host.memory) {
        size.memory = Bytes(memory);
    }
    if let Some(disk) = host.storage_opt.get("size") {
        size.disk = disk.parse().map_err(|e| Fault::bad(format!("--storage-opt size={disk}: {e}")))?;
    } else if size.disk < least_disk {
        size.disk = Bytes(least_disk.ceil_mib() << 20);
    }
    Size::new(size.cpu, size.memory, size.disk).map_err(|e| Fault::bad(e.to_string()))
}

/// `--restart`
pub(super) fn restart(asked: &Restart) -> Answer<RestartPolicy> {
    Ok(match asked.name.as_str() {
        "" | "no" => RestartPolicy::Never,
        "always" | "unless-stopped" => RestartPolicy::Always,
        "on-failure" => RestartPolicy::OnFailure { max: Some(asked.maximum_retry_count).filter(|most| *most > 0) },
        other => {
            return Err(Fault::bad(format!(
                "invalid restart policy '{other}': use no, always, unless-stopped, on-failure or on-failure:5"
            )));
        }
    })
}

/// `-p` and `-P`. A port of the host that was left open is chosen by `pick`.
pub(super) fn ports(request: &Request, mut pick: impl FnMut() -> u16) -> Answer<Vec<PublishedPort>> {
    let host = &request.host_config;
    let mut all = Vec::new();
    for (inner, bindings) in &host.port_bindings {
        for binding in bindings.iter().flatten() {
            let address = match binding.host_ip.as_str() {
                "" | "0.0.0.0" | "::" => String::new(),
                text if text.contains(':') => {
                    return Err(Fault::bad(format!("cannot publish on {text}: ports are published on IPv4 addresses")));
                }
                text => format!("{text}:"),
            };
            let port = if matches!(binding.host_port.as_str(), "" | "0") {
                pick().to_string()
            } else {
                binding.host_port.clone()
            };
            all.push(published(&format!("{address}{port}:{inner}"))?);
        }
    }
    if host.publish_all_ports {
        for inner in request.exposed_ports.keys().filter(|inner| !host.port_bindings.contains_key(*inner)) {
            all.push(published(&format!("{}:{inner}", pick()))?);
        }
    }
    Ok(all)
}

fn published(text: &str) -> Answer<PublishedPort> {
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    text.parse().map_err(|e: yun_types::Invalid| Fault::bad(e.to_string()))
}

/// Ports among those that nobody uses by agreement, from random numbers, without those that are taken.
pub(super) fn free_port(taken: &[PublishedPort], mut random: impl FnMut() -> u16) -> u16 {
    loop {
        let port = 49_152 + random() % 16_000;
        if !taken.iter().any(|used| used.host.get() == port && used.protocol == Protocol::Tcp) {
            return port;
        }
    }
}

/// A volume that a container wants; without a name it lives as long as the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) volume: String,
    pub(super) target: String,
    pub(super) read_only: bool,
    /// It is not filled with what the image has there.
    pub(super) no_copy: bool,
}

/// What `-v` may say behind a path. There is nothing here that shares labels or caches, so these change nothing.
const HARMLESS: &[&str] = &["rw", "z", "Z", "cached", "delegated", "consistent", "private", "rprivate"];

/// `-v`, `--mount` and `--tmpfs`: what is mounted, and which volumes are to be mounted.
pub(super) fn mounts(request: &Request) -> Answer<(Vec<Mount>, Vec<Named>)> {
    let host = &request.host_config;
    let (mut mounts, mut named) = (Vec::new(), Vec::new());
    for bind in &host.binds {
        let parts: Vec<&str> = bind.split(':').collect();
        let (source, target, options) = match parts[..] {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            _ => {
                return Err(Fault::bad(format!(
                    "invalid volume specification: '{bind}': write it as in /srv:/data:ro"
                )));
            }
        };
        let (mut read_only, mut no_copy) = (false, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "nocopy" => no_copy = true,
                other if HARMLESS.contains(&other) => {}
                other => {
                    return Err(Fault::bad(format!(
                        "invalid volume specification: '{bind}': the mode {other} is not supported by yun: use ro, rw or nocopy"
                    )));
                }
            }
        }
        if source.starts_with('/') {
            mounts.push(Mount::Bind { source: source.into(), target: target.into(), read_only });
        } else {
            named.push(Named { volume: source.into(), target: target.into(), read_only, no_copy });
        }
    }
    for (target, options) in &host.tmpfs {
        mounts.push(Mount::Tmpfs { target: target.clone(), size: tmpfs_size(options)? });
    }
    for mount in &host.mounts {
        let MountRequest { kind, source, target, read_only, tmpfs_options, volume_options, bind_options } =
            mount.clone();
        match kind.as_str() {
            "bind" => {
                let spread = bind_options.propagation;
                if !matches!(spread.as_str(), "" | "private" | "rprivate") {
                    return Err(Fault::bad(format!(
                        "--mount bind-propagation={spread} is not supported by yun: leave it out"
                    )));
                }
                mounts.push(Mount::Bind { source, target, read_only });
            }
            "tmpfs" => {
                let size = Some(Bytes(tmpfs_options.size_bytes)).filter(|size| size.0 > 0);
                mounts.push(Mount::Tmpfs { target, size });
            }
            "volume" => {
                let driver = &volume_options.driver_config;
                if !matches!(driver.name.as_str(), "" | "local") {
                    return Err(Fault::bad(format!(
                        "--mount volume-driver={} is not supported by yun: leave it out",
                        driver.name
                    )));
                }
                if let Some(option) = driver.options.keys().next() {
                    return Err(Fault::bad(format!(
                        "--mount volume-opt={option} is not supported by yun: make the volume first, as in docker volume create --opt size=5G {source}"
                    )));
                }
                if !volume_options.subpath.is_empty() {
                    return Err(Fault::bad("--mount volume-subpath is not supported by yun: mount the whole volume"));
                }
                named.push(Named { volume: source, target, read_only, no_copy: volume_options.no_copy });
            }
            other => return Err(Fault::bad(format!("invalid mount type '{other}': use bind, volume or tmpfs"))),
        }
    }
    // What the image or the client declares without a name gets a volume of its own.
    for target in request.volumes.keys() {
        if !mounts.iter().any(|m| m.target() == target) && !named.iter().any(|n| n.target == *target) {
            named.push(Named { volume: String::new(), target: target.clone(), read_only: false, no_copy: false });
        }
    }
    Ok((mounts, named))
}

fn tmpfs_size(options: &str) -> Answer<Option<Bytes>> {
    let Some(text) = options.split(',').find_map(|option| option.strip_prefix("size=")) else { return Ok(None) };
    // Docker's k, m and g are powers of 1024.
    let text = match text.to_ascii_lowercase() {
        t if t.ends_with(['k', 'm', 'g']) => format!("{}i", t.to_ascii_uppercase()),
        t => t,
    };
    text.parse().map(Some).map_err(|e: yun_types::Invalid| Fault::bad(format!("--tmpfs {options}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(host: Value) -> Request {
        serde_json::from_value(json!({ "Image": "box", "HostConfig": host, "ExposedPorts": { "53/udp": {} } })).unwrap()
    }

    #[test]
    fn what_is_not_there_is_refused_by_its_flag_with_the_way_out() {
        for (host, said) in [
            (json!({ "Devices": [{ "PathOnHost": "/dev/kvm" }] }), "--device is not supported"),
            (json!({ "PidMode": "host" }), "--pid host"),
            (json!({ "IpcMode": "host" }), "--ipc host"),
            (json!({ "Links": ["db:db"] }), "the other container's name"),
            (json!({ "LogConfig": { "Type": "syslog" } }), "--log-driver syslog"),
            (json!({ "StorageOpt": { "dm.x": "1" } }), "--storage-opt size=2G"),
        ] {
            let fault = check(&request(host).host_config).unwrap_err();
            assert!(fault.message.contains(said), "{fault}");
        }
        let usual = json!({ "Links": null, "Dns": [], "IpcMode": "private", "OomScoreAdj": 0, "MemorySwappiness": -1, "LogConfig": { "Type": "" } });
        check(&request(usual).host_config).unwrap();
    }

    #[test]
    fn sizes_come_from_the_flags_and_else_from_the_usual() {
        let usual: Size = "cpu:0.25,memory:256Mi,disk:2Gi".parse().unwrap();
        let of = |host: Value| size(&request(host).host_config, usual, Bytes(0)).map(|s| s.to_string());
        assert_eq!(of(json!({})).unwrap(), usual.to_string());
        assert_eq!(
            of(json!({ "NanoCpus": 1_500_000_000, "Memory": 64 << 20 })).unwrap(),
            "cpu:1.5,memory:64Mi,disk:2Gi"
        );
        assert_eq!(of(json!({ "CpuQuota": 50_000 })).unwrap(), "cpu:0.5,memory:256Mi,disk:2Gi");
        assert_eq!(of(json!({ "StorageOpt": { "size": "5G" } })).unwrap(), "cpu:0.25,memory:256Mi,disk:5G");
        assert!(of(json!({ "Memory": 1000 })).unwrap_err().message.contains("too small"));
        assert_eq!(size(&Host::default(), usual, Bytes::gib(3)).unwrap().disk, Bytes::gib(3));
    }

    #[test]
    fn ports_are_published_and_open_ones_chosen() {
        let all = |host: Value| {
            ports(&request(host), || 50_000).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let host = json!({ "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }, { "HostPort": "" }] } });
        assert_eq!(all(host).unwrap(), ["127.0.0.1:8080:80", "50000:80"]);
        assert_eq!(all(json!({ "PublishAllPorts": true })).unwrap(), ["50000:53/udp"]);
        assert!(all(json!({ "PortBindings": { "80/tcp": [{ "HostIp": "::1", "HostPort": "1" }] } })).is_err());
        let taken = vec!["49153:80".parse().unwrap()];
        let mut n = 0;
        assert_eq!(
            free_port(&taken, || {
                n += 1;
                n
            }),
            49_154
        );
    }

    #[test]
    fn mounts_are_told_apart() {
        let host = json!({ "Binds": ["/srv:/data:ro", "cache:/cache"], "Tmpfs": { "/t": "size=4m,mode=755" },
            "Mounts": [{ "Type": "tmpfs", "Target": "/u", "TmpfsOptions": { "SizeBytes": 99 } }, { "Type": "volume", "Source": "v", "Target": "/v" }] });
        let (mounts, named) = mounts(&request(host)).unwrap();
        assert_eq!(mounts[0], Mount::Bind { source: "/srv".into(), target: "/data".into(), read_only: true });
        assert_eq!(mounts[1], Mount::Tmpfs { target: "/t".into(), size: Some(Bytes::mib(4)) });
        assert_eq!(mounts[2], Mount::Tmpfs { target: "/u".into(), size: Some(Bytes(99)) });
        assert_eq!(named.iter().map(|n| n.volume.as_str()).collect::<Vec<_>>(), ["cache", "v"]);
        for (bad, said) in [
            (json!({ "Binds": ["x"] }), "/srv:/data:ro"),
            (json!({ "Binds": ["x:/y:shared"] }), "the mode shared"),
            (json!({ "Mounts": [{ "Type": "npipe", "Target": "/x" }] }), "use bind, volume or tmpfs"),
            (json!({ "Mounts": [{ "Type": "bind", "BindOptions": { "Propagation": "shared" } }] }), "bind-propagation"),
            (
                json!({ "Mounts": [{ "Type": "volume", "VolumeOptions": { "DriverConfig": { "Name": "nfs" } } }] }),
                "volume-driver=nfs",
            ),
            (
                json!({ "Mounts": [{ "Type": "volume", "Source": "v", "VolumeOptions": { "DriverConfig": { "Options": { "o": "x" } } } }] }),
                "volume-opt=o",
            ),
        ] {
            let fault = super::mounts(&request(bad)).unwrap_err();
            assert!(fault.message.contains(said), "{fault}");
        }
    }

    #[test]
    fn restart_policies_are_read() {
        let of = |name: &str, most| {
            restart(&Restart { name: name.into(), maximum_retry_count: most }).map(|p| p.to_string())
        };
        assert_eq!(of("", 0).unwrap(), "never");
        assert_eq!(of("unless-stopped", 0).unwrap(), "always");
        assert_eq!(of("on-failure", 3).unwrap(), "on-failure:3");
        assert!(of("sometimes", 0).unwrap_err().message.contains("on-failure:5"));
    }
}
