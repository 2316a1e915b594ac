//! `docker version`, `info`, `system df`, `login`.

use super::{
    API_VERSION, OLDEST_API_VERSION,
    body::{Body, ok},
    container::Status,
    fault::{Answer, Fault},
    image, names,
    server::Ask,
    words::moment,
};
use http::Response;
use serde_json::{Value, json};
use yun_types::{Instance, Node};

async fn node(ask: &Ask) -> Option<Node> {
    let page = ask.cloud.client.node_list().limit(1).send().await.ok()?;
    page.into_inner().items.into_iter().next()
}

/// Says what this is.
pub(super) async fn version(ask: Ask) -> Answer<Response<Body>> {
    let node = node(&ask).await;
    let kernel = node.as_ref().map(|n| n.status.facts.kernel.clone()).unwrap_or_default();
    let arch = node.map_or_else(|| "amd64".to_owned(), |n| n.status.facts.arch.to_string());
    let version = &ask.door.config.version;
    Ok(ok(&json!({
        "Platform": { "Name": "yun" },
        "Components": [{ "Name": "Engine", "Version": version, "Details": {
            "ApiVersion": API_VERSION, "MinAPIVersion": OLDEST_API_VERSION, "Arch": arch, "Os": "linux", "KernelVersion": kernel,
            "Experimental": "false", "GitCommit": "", "GoVersion": "", "BuildTime": "",
        } }],
        "Version": version, "ApiVersion": API_VERSION, "MinAPIVersion": OLDEST_API_VERSION,
        "GitCommit": "", "GoVersion": "", "Os": "linux", "Arch": arch, "KernelVersion": kernel, "BuildTime": "",
    })))
}

/// Says what there is.
pub(super) async fn info(ask: Ask) -> Answer<Response<Body>> {
    let node = node(&ask).await;
    let facts = node.as_ref().map(|n| &n.status.facts);
    let containers = ask.cloud.containers().await?;
    let images = ask.cloud.images().await?;
    let count = |wanted: &[Status]| containers.iter().filter(|i| wanted.contains(&Status::of(i))).count();
    let config = &ask.door.config;
    Ok(ok(&json!({
        "ID": names::id(node.as_ref().map_or_else(uuid::Uuid::nil, |n| n.metadata.id)),
        "Name": facts.map(|f| f.hostname.clone()).unwrap_or_default(),
        "ServerVersion": config.version,
        "Containers": containers.len(),
        "ContainersRunning": count(&[Status::Running, Status::Restarting]),
        "ContainersPaused": count(&[Status::Paused]),
        "ContainersStopped": count(&[Status::Created, Status::Exited, Status::Dead]),
        "Images": images.len(),
        "Driver": "overlay2", "DriverStatus": [["yun project", config.project]],
        "DockerRootDir": "/var/lib/yun",
        "Plugins": { "Volume": ["local"], "Network": ["bridge"], "Authorization": null, "Log": ["json-file"] },
        "MemoryLimit": true, "SwapLimit": false, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true, "CPUSet": false,
        "PidsLimit": true, "IPv4Forwarding": true, "BridgeNfIptables": true, "BridgeNfIp6tables": true, "OomKillDisable": false,
        "Debug": false, "NFd": 0, "NGoroutines": 0, "NEventsListener": 0,
        "SystemTime": moment(Some(config.clock.now())),
        "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs",
        "CgroupVersion": facts.map_or("2", |f| if f.cgroup == yun_types::CgroupVersion::V1 { "1" } else { "2" }),
        "KernelVersion": facts.map(|f| f.kernel.clone()).unwrap_or_default(),
        "OperatingSystem": facts.map(|f| f.os.clone()).unwrap_or_default(),
        "OSVersion": "", "OSType": "linux",
        "Architecture": facts.map_or("x86_64", |f| match f.arch { yun_types::Arch::Arm64 => "aarch64", yun_types::Arch::Riscv64 => "riscv64", yun_types::Arch::Amd64 => "x86_64" }),
        "NCPU": facts.map_or(0, |f| f.total.cpu.ceil_cores()),
        "MemTotal": facts.map_or(0, |f| f.total.memory.0),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": { "InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": null },
        "GenericResources": null, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Labels": [], "ExperimentalBuild": false,
        "Runtimes": { "crun": { "path": "crun" } }, "DefaultRuntime": "crun",
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "",
        "ContainerdCommit": { "ID": "" }, "RuncCommit": { "ID": "" }, "InitCommit": { "ID": "" },
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": Value::Null,
    })))
}

/// Says how much disk is used.
pub(super) async fn df(ask: Ask) -> Answer<Response<Body>> {
    let containers = ask.cloud.containers().await?;
    let images = image::summaries(&ask.cloud.images().await?, &containers);
    let layers: u64 = images.iter().filter_map(|i| i["Size"].as_u64()).sum();
    let container = |i: &Instance| {
        json!({
            "Id": names::id(i.metadata.id), "Names": [format!("/{}", names::of(i))],
            "Image": i.spec.image, "State": Status::of(i).word(), "Status": Status::of(i).word(),
            "SizeRw": 0, "SizeRootFs": i.spec.size.disk.0, "Created": i.metadata.created.timestamp(),
            "Mounts": [], "Labels": names::users(&i.metadata.labels), "Command": "", "ImageID": "", "Ports": [],
        })
    };
    Ok(ok(&json!({
        "LayersSize": layers,
        "Images": images,
        "Containers": containers.iter().map(container).collect::<Vec<_>>(),
        "Volumes": super::volume::all(&ask).await?,
        "BuildCache": [],
        "BuilderSize": 0,
    })))
}

/// Refuses to keep passwords.
pub(super) async fn auth(_ask: Ask) -> Answer<Response<Body>> {
    Err(Fault::unsupported(
        "docker login is not supported by yun: registries that need a password are pulled from with yun image pull",
    ))
}
