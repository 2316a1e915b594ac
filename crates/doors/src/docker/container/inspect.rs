//! `docker inspect`: everything about one container. What the cloud has no word for comes from the request that made it, which a label keeps.

use super::{
    super::{
        body::{Body, ok},
        fault::Answer,
        names, network,
        server::Ask,
        words::moment,
    },
    find,
    membership::{USUAL, written},
    origin::merged,
    state,
};
use http::Response;
use serde_json::{Map, Value, json};
use yun_types::{
    Bytes, ContainerConfig, Instance, Mount, Network, NetworkMembership, RestartPolicy, Stdin, VolumeMount,
};

/// Shows a container.
pub(crate) async fn inspect(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let known = network::networks(&ask.cloud).await?;
    let origin = ask.door.origins.of(&ask.cloud, std::slice::from_ref(&instance)).await;
    Ok(ok(&detailed(&instance, &known, &origin.into_iter().next().unwrap_or_default())))
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

/// What it runs.
pub(super) fn command_line(instance: &Instance, origin: &ContainerConfig) -> String {
    let merged = merged(origin, &instance.spec.container);
    merged.entrypoint.iter().chain(&merged.command).cloned().collect::<Vec<_>>().join(" ")
}

fn detailed(instance: &Instance, known: &[Network], origin: &ContainerConfig) -> Value {
    let (spec, status, options) = (&instance.spec, &instance.status, &instance.spec.container);
    let request = request(instance);
    let merged = merged(origin, options);
    let words: Vec<String> = merged.entrypoint.iter().chain(&merged.command).cloned().collect();
    // Docker has nothing where nothing is.
    let some = |words: Vec<String>| Some(words).filter(|words| !words.is_empty());
    let id = names::id(instance.metadata.id);
    let networks = networks(instance, known);
    // Docker repeats here how it is in the usual network.
    let first = networks.as_object().and_then(|all| all.values().next()).cloned().unwrap_or_default();
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
            "User": merged.user,
            "AttachStdin": request["AttachStdin"] == true,
            "AttachStdout": request["AttachStdout"] == true,
            "AttachStderr": request["AttachStderr"] == true,
            "ExposedPorts": request["ExposedPorts"],
            "Tty": options.tty,
            "OpenStdin": !options.stdin.is_closed(),
            "StdinOnce": options.stdin == Stdin::Once,
            "Env": merged.env,
            "Cmd": some(merged.command),
            "Healthcheck": request["Healthcheck"],
            "Image": image_shown(instance),
            "Volumes": request["Volumes"],
            "WorkingDir": merged.workdir,
            "Entrypoint": some(merged.entrypoint),
            "OnBuild": null,
            "Labels": names::users(&instance.metadata.labels),
            "StopSignal": Some(merged.stop_signal).filter(|signal| !signal.is_empty()).unwrap_or_else(|| "SIGTERM".into()),
            "StopTimeout": spec.stop_timeout,
        },
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "", "SandboxKey": "", "HairpinMode": false,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "Ports": port_map(instance, state::Status::of(instance).live()),
            "IPAddress": first["IPAddress"], "MacAddress": first["MacAddress"],
            "Gateway": first["Gateway"], "IPPrefixLen": first["IPPrefixLen"], "EndpointID": first["EndpointID"],
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "",
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
            "Networks": networks,
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
    let mode = |read_only: bool| if read_only { "ro" } else { "rw" };
    let bind = |mount: &Mount| match mount {
        Mount::Bind { source, target, read_only } => Some(format!("{source}:{target}:{}", mode(*read_only))),
        Mount::Tmpfs { .. } => None,
    };
    let volume = |mount: &VolumeMount| {
        let name = written(request, mount.volume.as_ref()?);
        Some(format!("{name}:{}:{}", mount.target.as_deref()?, mode(mount.read_only)))
    };
    // What was asked for by --mount is shown as that.
    let shown = |target: &str| !asked["Mounts"].as_array().into_iter().flatten().any(|mount| mount["Target"] == target);
    let binds: Vec<String> = options.mounts.iter().filter(|mount| shown(mount.target())).filter_map(bind).collect();
    let volumes = spec.volumes.iter().filter(|mount| mount.target.as_deref().is_some_and(shown)).filter_map(volume);
    let binds: Vec<String> = binds.into_iter().chain(volumes).collect();
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

/// The networks it is in, by name. What only the network knows (its id, its range) is there if it is among those that are known.
pub(super) fn networks(instance: &Instance, known: &[Network]) -> Value {
    let (status, id) = (&instance.status, instance.metadata.id);
    let live = state::Status::of(instance).live();
    let request = request(instance);
    let usual: Vec<NetworkMembership> = USUAL.parse().map(NetworkMembership::of).into_iter().collect();
    let members = if instance.spec.networks.is_empty() { &usual } else { &instance.spec.networks };
    let mut all = Map::new();
    for (at, member) in members.iter().enumerate() {
        let interface = status.interfaces.iter().find(|interface| interface.network == member.network);
        let address =
            interface.map(|i| i.address).or(status.address.filter(|_| at == 0 && status.interfaces.is_empty()));
        let mac = interface.map(|i| i.mac.clone()).or_else(|| status.mac.clone().filter(|_| at == 0));
        let network = known.iter().find(|network| network.metadata.name == member.network);
        let shown =
            network.map_or_else(|| written(&request, &member.network), |n| names::shown(&n.metadata).to_owned());
        let range = network.filter(|_| live).map(|network| &network.spec);
        // Clients look for the digits of the id among the aliases to see that it is in the network as they want it.
        let aliases: Vec<String> = std::iter::once(instance.metadata.name.to_string())
            .chain(member.aliases.iter().map(ToString::to_string))
            .chain([names::short(id)])
            .collect();
        all.insert(
            shown,
            json!({
                "IPAMConfig": member.address.map(|address| json!({ "IPv4Address": address })),
                "Links": null, "Aliases": aliases, "DNSNames": aliases, "DriverOpts": null,
                "NetworkID": network.map_or_else(String::new, |network| names::id(network.metadata.id)),
                "EndpointID": if live { names::id(id) } else { String::new() },
                "Gateway": range.map_or_else(String::new, |range| range.gateway().to_string()),
                "IPAddress": address.filter(|_| live).map(|a| a.to_string()).unwrap_or_default(),
                "IPPrefixLen": range.map_or(0, |range| range.cidr.prefix_len()),
                "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
                "MacAddress": mac.filter(|_| live).unwrap_or_default(),
            }),
        );
    }
    Value::Object(all)
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
    let request = request(instance);
    // One without a name has none by which another container could have it.
    let volume = |mount: &VolumeMount| {
        let name = mount.volume.as_ref().map(|name| written(&request, name)).unwrap_or_default();
        json!({
            "Type": "volume", "Name": name, "Source": "", "Destination": mount.target, "Driver": "local",
            "Mode": if mount.read_only { "ro" } else { "" }, "RW": !mount.read_only, "Propagation": "",
        })
    };
    let volumes = instance.spec.volumes.iter().map(volume);
    instance.spec.container.mounts.iter().map(one).chain(volumes).collect()
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
        instance.spec.volumes = vec!["data:/data".parse().unwrap(), "/cache".parse().unwrap()];
        instance.spec.networks = vec![NetworkMembership::of("back".parse().unwrap())];
        let shown =
            detailed(&instance, &[], &ContainerConfig { env: vec!["A=1".into()], ..ContainerConfig::default() });
        assert_eq!(shown["Name"], "/web");
        assert_eq!((&shown["Config"]["Image"], &shown["Config"]["Env"]), (&json!("box"), &json!(["A=1"])));
        assert_eq!(shown["NetworkSettings"]["Ports"]["80/tcp"][1]["HostIp"], "127.0.0.1");
        assert_eq!((&shown["Path"], &shown["Args"][0]), (&json!("sleep"), &json!("9")));
        assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "always");
        assert_eq!(
            (&shown["Mounts"][0]["Name"], &shown["Mounts"][1]["Destination"]),
            (&json!("data"), &json!("/cache"))
        );
        assert_eq!(shown["HostConfig"]["Binds"], json!(["data:/data:rw"]));
        assert_eq!(shown["NetworkSettings"]["Networks"]["back"]["Aliases"], json!(["web", "000000000000"]));
    }
}
