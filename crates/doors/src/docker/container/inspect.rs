//! `docker inspect`: everything about one container. What the cloud has no word for comes from the request that made it, which a label keeps.

use super::{
    super::{
        body::{Body, ok},
        fault::Answer,
        names,
        server::Ask,
        words::moment,
    },
    find, state,
};
use http::Response;
use serde_json::{Map, Value, json};
use yun_types::{Bytes, Instance, Mount, RestartPolicy};

/// Shows a container.
pub(crate) async fn inspect(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    Ok(ok(&detailed(&instance)))
}

/// The request that made it, without what was empty.
fn request(instance: &Instance) -> Value {
    instance
        .metadata
        .labels
        .get(names::REQUEST)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_else(|| json!({}))
}

/// The image as its user wrote it.
pub(super) fn image_shown(instance: &Instance) -> String {
    match request(instance)["Image"].as_str() {
        Some(image) => image.to_owned(),
        None => instance.spec.image.clone(),
    }
}

/// What it runs, as far as its user said.
pub(super) fn command_line(instance: &Instance) -> String {
    let options = &instance.spec.container;
    options.entrypoint.iter().chain(&options.command).flatten().cloned().collect::<Vec<_>>().join(" ")
}

fn detailed(instance: &Instance) -> Value {
    let (spec, status, options) = (&instance.spec, &instance.status, &instance.spec.container);
    let request = request(instance);
    let words: Vec<String> = options.entrypoint.iter().chain(&options.command).flatten().cloned().collect();
    let environment: Vec<String> = options.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let id = names::id(instance.metadata.id);
    let list = |value: &Value| if value.is_null() { json!([]) } else { value.clone() };
    json!({
        "Id": id,
        "Created": moment(Some(instance.metadata.created)),
        "Path": words.first().cloned().unwrap_or_default(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state::detailed(instance),
        "Image": status.image.as_ref().map_or_else(String::new, |pin| pin.digest.to_string()),
        "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "", "LogPath": "",
        "Name": format!("/{}", names::of(instance)),
        "RestartCount": status.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(instance, &request),
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "Mounts": mounts(instance),
        "Config": {
            "Hostname": instance.metadata.name,
            "Domainname": "",
            "User": options.user.clone().unwrap_or_default(),
            "AttachStdin": request["AttachStdin"] == true,
            "AttachStdout": request["AttachStdout"] == true,
            "AttachStderr": request["AttachStderr"] == true,
            "ExposedPorts": request["ExposedPorts"],
            "Tty": options.tty,
            "OpenStdin": request["OpenStdin"] == true,
            "StdinOnce": request["StdinOnce"] == true,
            "Env": environment,
            "Cmd": options.command,
            "Healthcheck": request["Healthcheck"],
            "Image": image_shown(instance),
            "Volumes": request["Volumes"],
            "WorkingDir": options.workdir.clone().unwrap_or_default(),
            "Entrypoint": options.entrypoint,
            "OnBuild": null,
            "Labels": names::users(&instance.metadata.labels),
            "StopSignal": options.stop_signal.clone().unwrap_or_else(|| "SIGTERM".into()),
            "StopTimeout": spec.stop_timeout,
        },
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "", "SandboxKey": "", "HairpinMode": false,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "Ports": port_map(instance, state::Status::of(instance).live()),
            "IPAddress": status.address.map(|a| a.to_string()).unwrap_or_default(),
            "MacAddress": status.mac.clone().unwrap_or_default(),
            "Gateway": "", "IPPrefixLen": 24, "EndpointID": "",
            "SecondaryIPAddresses": list(&Value::Null),
            "Networks": networks(instance),
        },
    })
}

fn host_config(instance: &Instance, request: &Value) -> Value {
    let (spec, options) = (&instance.spec, &instance.spec.container);
    let (name, most) = match spec.restart {
        RestartPolicy::Never => ("no", 0),
        RestartPolicy::OnFailure { max } => ("on-failure", max.unwrap_or(0)),
        RestartPolicy::Always => ("always", 0),
    };
    let asked = &request["HostConfig"];
    let name = asked["RestartPolicy"]["Name"].as_str().filter(|_| name == "always").unwrap_or(name);
    let binds: Vec<String> = options
        .mounts
        .iter()
        .filter_map(|mount| match mount {
            Mount::Bind { source, target, read_only } => {
                Some(format!("{source}:{target}:{}", if *read_only { "ro" } else { "rw" }))
            }
            _ => None,
        })
        .collect();
    let tmpfs: Map<String, Value> = options
        .mounts
        .iter()
        .filter_map(|mount| match mount {
            Mount::Tmpfs { target, size } => {
                Some((target.clone(), size.map_or_else(String::new, |Bytes(n)| format!("size={n}")).into()))
            }
            _ => None,
        })
        .collect();
    let mut value = json!({
        "Binds": binds,
        "Tmpfs": tmpfs,
        "NetworkMode": asked["NetworkMode"].as_str().unwrap_or("default"),
        "PortBindings": port_map(instance, true),
        "RestartPolicy": { "Name": name, "MaximumRetryCount": most },
        "AutoRemove": instance.metadata.labels.contains_key(names::AUTO_REMOVE),
        "LogConfig": { "Type": "json-file", "Config": {} },
        "Memory": spec.size.memory.0,
        "NanoCpus": u64::from(spec.size.cpu.0) * 1_000_000,
        "PidsLimit": options.pids,
        "Privileged": options.security.privileged,
        "CapAdd": asked["CapAdd"], "CapDrop": asked["CapDrop"],
        "ReadonlyRootfs": options.security.read_only,
        "SecurityOpt": asked["SecurityOpt"],
        "Mounts": asked["Mounts"],
        "IpcMode": "private", "CgroupnsMode": "private", "PidMode": "", "UTSMode": "", "UsernsMode": "", "Runtime": "crun",
        "ShmSize": 64 << 20,
        "Isolation": "",
        "VolumesFrom": null, "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "Links": null,
        "Devices": [], "Ulimits": null, "VolumeDriver": "", "ConsoleSize": [0, 0],
        "CpuShares": 0, "CpuPeriod": 0, "CpuQuota": 0, "MemorySwap": 0, "MemoryReservation": 0, "OomKillDisable": false,
    });
    if let Some(init) = asked.get("Init") {
        value["Init"] = init.clone();
    }
    value
}

/// Its ports as a map from the inner one to those of the host.
fn port_map(instance: &Instance, open: bool) -> Map<String, Value> {
    let mut map = Map::new();
    if let Some(exposed) = request(instance)["ExposedPorts"].as_object() {
        map.extend(exposed.keys().map(|port| (port.clone(), Value::Null)));
    }
    for port in instance.spec.publish.iter().filter(|_| open) {
        let entry = map.entry(format!("{}/{}", port.guest, port.protocol)).or_insert(Value::Null);
        let binding = json!({
            "HostIp": port.host_address.map_or_else(|| "0.0.0.0".to_owned(), |a| a.to_string()),
            "HostPort": port.host.to_string(),
        });
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    map
}

/// The networks it is on, by name.
pub(super) fn networks(instance: &Instance) -> Value {
    let status = &instance.status;
    let live = state::Status::of(instance).live();
    json!({ "default": {
        "IPAMConfig": null, "Links": null, "Aliases": [instance.metadata.name], "DNSNames": [instance.metadata.name],
        "NetworkID": "", "EndpointID": names::id(instance.metadata.id), "Gateway": "",
        "IPAddress": status.address.filter(|_| live).map(|a| a.to_string()).unwrap_or_default(),
        "IPPrefixLen": 24, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "MacAddress": status.mac.clone().unwrap_or_default(), "DriverOpts": null,
    } })
}

/// What is mounted in it.
pub(super) fn mounts(instance: &Instance) -> Vec<Value> {
    let one = |mount: &Mount| match mount {
        Mount::Bind { source, target, read_only } => json!({
            "Type": "bind", "Source": source, "Destination": target, "Mode": if *read_only { "ro" } else { "" },
            "RW": !read_only, "Propagation": "rprivate",
        }),
        other => {
            json!({ "Type": "tmpfs", "Source": "", "Destination": other.target(), "Mode": "", "RW": true, "Propagation": "" })
        }
    };
    instance.spec.container.mounts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::state::tests::sample, *};
    use yun_types::InstanceState;

    #[test]
    fn a_container_of_the_cloud_is_shown_whole() {
        let mut instance = sample("web", InstanceState::Running);
        instance.spec.publish = vec!["8080:80".parse().unwrap(), "127.0.0.1:8081:80".parse().unwrap()];
        instance.spec.container.command = Some(vec!["sleep".into(), "9".into()]);
        let shown = detailed(&instance);
        assert_eq!(shown["Name"], "/web");
        assert_eq!(shown["Config"]["Image"], "box");
        assert_eq!(shown["NetworkSettings"]["Ports"]["80/tcp"][1]["HostIp"], "127.0.0.1");
        assert_eq!((&shown["Path"], &shown["Args"][0]), (&json!("sleep"), &json!("9")));
        assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "always");
    }
}
