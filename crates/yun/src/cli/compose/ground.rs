//! What services stand on: the networks and volumes of a file, as they are read, made before the services, and removed after them.
//!
//! Each is named with the project's name in front, unless the file gives a name or says that it is *external*: made by somebody else, and
//! neither made nor removed here.

use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use yun_api::{
    client::{Error, ResponseValue, types},
    cloud::{NetworkCreate, VolumeCreate},
};
use yun_types::{Bytes, Labels, Name, NameOrId, Network, Volume, VolumeKind, VolumeSpec, VolumeState};

use super::{
    convert::{self, PROJECT},
    model::{Compose, named},
    node::Node,
    service::{Source, bytes},
};
use crate::cli::{
    connect::{Cloud, Explained},
    output,
};

/// The network that services are in that name none.
pub(crate) const USUAL: &str = "default";
/// The option of a network's largest packet, by Docker's name.
const MTU: &str = "com.docker.network.driver.mtu";

/// A network of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Net {
    pub(crate) name: Name,
    pub(crate) external: bool,
    pub(crate) internal: bool,
    pub(crate) cidr: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) labels: Labels,
}

/// A volume of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) name: Name,
    pub(crate) external: bool,
    pub(crate) size: Option<Bytes>,
    pub(crate) labels: Labels,
}

/// The name of an object, and whether it is somebody else's.
fn identity(key: &str, node: &Node<'_>, project: &Name) -> Result<(Name, bool)> {
    let mut given = node.get("name").map(|node| node.text()).transpose()?;
    let external = match node.get("external") {
        None => false,
        // The old form.
        Some(external) if external.value().is_mapping() => {
            external.check(&["name"], &[], &[])?;
            given = external.get("name").map(|node| node.text()).transpose()?.or(given);
            true
        }
        Some(external) => external.flag()?,
    };
    if external {
        node.check(&["external", "name"], &["labels", "driver"], &[])?;
    }
    let text = match given {
        Some(text) => text,
        None if external => key.to_owned(),
        None => format!("{project}-{key}"),
    };
    let name = named(&text).ok_or_else(|| node.bad(format!("{text:?} makes no name: give one with name:")))?;
    Ok((name, external))
}

fn labels(node: &Node<'_>) -> Result<Labels> {
    let pairs = node.get("labels").map(|node| node.pairs()).transpose()?.unwrap_or_default();
    Ok(pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

fn driver(node: &Node<'_>, known: &[&str], instead: &str) -> Result<()> {
    let Some(driver) = node.get("driver") else { return Ok(()) };
    let text = driver.text()?;
    if known.contains(&text.as_str()) {
        return Ok(());
    }
    Err(driver.bad(format!("driver {text} is not supported: {instead}")))
}

/// The networks that the file declares, and the usual one.
pub(crate) fn networks(top: &Node<'_>, project: &Name) -> Result<BTreeMap<String, Net>> {
    let mut all = BTreeMap::new();
    if let Some(section) = top.get("networks") {
        for (key, node) in section.entries()? {
            let net = network(&key, &node, project)?;
            all.insert(key, net);
        }
    }
    if !all.contains_key(USUAL) {
        let name = named(&format!("{project}-{USUAL}"));
        let name = name.with_context(|| format!("project name {project} is too long: choose a shorter one with -n"))?;
        all.insert(
            USUAL.to_owned(),
            Net { name, external: false, internal: false, cidr: None, mtu: None, labels: Labels::new() },
        );
    }
    Ok(all)
}

fn network(key: &str, node: &Node<'_>, project: &Name) -> Result<Net> {
    if node.value().is_null() {
        let name = named(&format!("{project}-{key}")).ok_or_else(|| node.bad(format!("{key:?} makes no name")))?;
        return Ok(Net { name, external: false, internal: false, cidr: None, mtu: None, labels: Labels::new() });
    }
    node.check(
        &["internal", "name", "labels", "external", "driver", "driver_opts", "ipam", "enable_ipv6"],
        &["attachable", "enable_ipv4"],
        &[],
    )?;
    let (name, external) = identity(key, node, project)?;
    driver(node, &["bridge", "default"], "leave it out: every network reaches all of the cloud's nodes")?;
    let flag = |key: &str| node.get(key).map(|node| node.flag()).transpose().map(Option::unwrap_or_default);
    if flag("enable_ipv6")? {
        return Err(node.bad("enable_ipv6 is not supported: leave it out, networks have IPv4 only"));
    }
    let mut mtu = None;
    if let Some(options) = node.get("driver_opts") {
        for (option, value) in options.entries()? {
            match option.as_str() {
                MTU => mtu = Some(value.parse()?),
                other => return Err(value.bad(format!("driver_opts.{other} is not supported: the only one is {MTU}"))),
            }
        }
    }
    Ok(Net { name, external, internal: flag("internal")?, cidr: range(node)?, mtu, labels: labels(node)? })
}

fn range(node: &Node<'_>) -> Result<Option<String>> {
    let Some(ipam) = node.get("ipam") else { return Ok(None) };
    ipam.check(&["driver", "config"], &[], &[("options", "leave it out")])?;
    driver(&ipam, &["default"], "leave it out")?;
    let Some(config) = ipam.get("config") else { return Ok(None) };
    let items = config.items()?;
    if items.len() > 1 {
        return Err(config.bad("a network has one range: write one subnet, or leave ipam out for a free one"));
    }
    let Some(item) = items.first() else { return Ok(None) };
    let lowest = "leave it out: the gateway has the first address, and others are given out from the lowest";
    item.check(&["subnet"], &[], &[("gateway", lowest), ("ip_range", lowest), ("aux_addresses", lowest)])?;
    item.get("subnet").map(|node| node.text()).transpose()
}

/// The volumes that the file declares.
pub(crate) fn volumes(top: &Node<'_>, project: &Name) -> Result<BTreeMap<String, Store>> {
    let Some(section) = top.get("volumes") else { return Ok(BTreeMap::new()) };
    let mut all = BTreeMap::new();
    for (key, node) in section.entries()? {
        if !node.value().is_null() {
            node.check(&["name", "external", "labels", "driver", "driver_opts"], &[], &[])?;
        }
        let (name, external) = identity(&key, &node, project)?;
        driver(&node, &["local", "default"], "leave it out: volumes are kept on the cloud's nodes")?;
        let mut size = None;
        if let Some(options) = node.get("driver_opts") {
            for (option, value) in options.entries()? {
                match option.as_str() {
                    "size" => size = Some(bytes(&value)?),
                    other => {
                        return Err(value.bad(format!(
                            "driver_opts.{other} is not supported: the only one is size, as in size: 10g; directories of the host are mounted by their path, as in /srv/data:/data"
                        )));
                    }
                }
            }
        }
        all.insert(key, Store { name, external, size, labels: labels(&node)? });
    }
    Ok(all)
}

/// The answer, or `None` if there is no such object.
pub(crate) fn found<T>(answer: Result<ResponseValue<T>, Error<types::Error>>) -> Result<Option<T>> {
    match answer {
        Err(Error::ErrorResponse(refused)) if refused.status().as_u16() == 404 => Ok(None),
        other => other.explained().map(Some),
    }
}

/// What is there already of what services need, looked at before anything is made.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    networks: Vec<&'a Net>,
    volumes: Vec<&'a Store>,
}

fn theirs(what: &str, name: &Name, labels: &Labels, compose: &Compose) -> Result<()> {
    if labels.get(PROJECT).map(String::as_str) == Some(compose.name.as_str()) {
        return Ok(());
    }
    bail!(
        "{what} {name} exists and is not of Compose project {}: say external: true if it is meant, or give another name with name:",
        compose.name
    )
}

fn missing(what: &str, name: &Name) -> anyhow::Error {
    anyhow::anyhow!("{what} {name} is external and does not exist: create it first (yun {what} create {name})")
}

/// What the services with these keys need and is not there yet. Refuses what can be refused.
pub(crate) async fn needs<'a>(cloud: &Cloud, compose: &'a Compose, services: &BTreeSet<&str>) -> Result<Needs<'a>> {
    let used = || compose.services.iter().filter(|service| services.contains(service.key.as_str()));
    let networks: BTreeSet<&str> =
        used().flat_map(|service| service.networks.iter().map(|net| net.key.as_str())).collect();
    let volumes: BTreeSet<&str> = used()
        .flat_map(|service| service.volumes.iter())
        .filter_map(|mount| match &mount.source {
            Source::Named(key) => Some(key.as_str()),
            Source::Anonymous => None,
        })
        .collect();
    let mut needs = Needs::default();
    let (client, project) = (&cloud.client, &cloud.project);
    for net in networks.iter().filter_map(|key| compose.networks.get(*key)) {
        let request = client.network_get().project(project.clone()).network(NameOrId::Name(net.name.clone()));
        match found(request.send().await)? {
            Some(_) if net.external => {}
            Some(there) => same_network(net, &there, compose)?,
            None if net.external => return Err(missing("network", &net.name)),
            None => needs.networks.push(net),
        }
    }
    for store in volumes.iter().filter_map(|key| compose.volumes.get(*key)) {
        let request = client.volume_get().project(project.clone()).volume(NameOrId::Name(store.name.clone()));
        match found(request.send().await)? {
            Some(_) if store.external => {}
            Some(there) => theirs("volume", &store.name, &there.metadata.labels, compose)?,
            None if store.external => return Err(missing("volume", &store.name)),
            None => needs.volumes.push(store),
        }
    }
    Ok(needs)
}

fn same_network(net: &Net, there: &Network, compose: &Compose) -> Result<()> {
    theirs("network", &net.name, &there.metadata.labels, compose)?;
    let same = net.internal == there.spec.isolated
        && net.mtu.is_none_or(|mtu| mtu == there.spec.mtu)
        && net.cidr.as_ref().is_none_or(|cidr| *cidr == there.spec.cidr.to_string());
    if same {
        return Ok(());
    }
    bail!(
        "network {} is there with other settings than the file's: take everything down first (yun compose down)",
        net.name
    )
}

/// Makes what services need. What exists by now, because somebody else was faster, is as good.
pub(crate) async fn make(cloud: &Cloud, compose: &Compose, needs: Needs<'_>) -> Result<()> {
    let own = |labels: &Labels| {
        let mut all = labels.clone();
        all.extend(convert::labels(compose));
        all
    };
    for net in needs.networks {
        let body = NetworkCreate {
            name: net.name.clone(),
            labels: own(&net.labels),
            cidr: net.cidr.clone(),
            mtu: net.mtu,
            isolated: net.internal,
        };
        let request = cloud.client.network_create().project(cloud.project.clone()).body(body);
        request.send().await.explained().with_context(|| format!("network {}", net.name))?;
        say(cloud, &format!("network {} created", net.name))?;
    }
    for store in needs.volumes {
        let mut spec = VolumeSpec { kind: VolumeKind::Directory, ..VolumeSpec::default() };
        spec.size = store.size.unwrap_or(spec.size);
        let body = VolumeCreate { name: store.name.clone(), labels: own(&store.labels), spec };
        let request = cloud.client.volume_create().project(cloud.project.clone()).body(body);
        let volume: Volume = request.send().await.explained().with_context(|| format!("volume {}", store.name))?;
        if volume.status.state == VolumeState::Failed {
            bail!("volume {} was not made: {}", store.name, volume.status.message.unwrap_or_default());
        }
        say(cloud, &format!("volume {} created", store.name))?;
    }
    Ok(())
}

fn say(cloud: &Cloud, line: &str) -> Result<()> {
    if cloud.quiet { Ok(()) } else { output::print_line(line) }
}

/// Removes the project's networks, and its volumes if that is wanted. What others still use stays, and that is said.
pub(crate) async fn remove(cloud: &Cloud, compose: &Compose, volumes: bool) -> Result<()> {
    let label = format!("{PROJECT}={}", compose.name);
    let (client, project) = (&cloud.client, &cloud.project);
    let mut kept = Vec::new();
    let request = client.network_list().project(project.clone()).label(label.clone()).limit(1000);
    for network in request.send().await.explained()?.items {
        let name = network.metadata.name;
        let request = client.network_delete().project(project.clone()).network(name.clone());
        match request.send().await.explained() {
            Ok(()) => say(cloud, &format!("network {name} removed"))?,
            Err(why) => kept.push(format!("{why:#}")),
        }
    }
    let request = client.volume_list().project(project.clone()).label(label).limit(1000);
    for volume in request.send().await.explained()?.items {
        let name = volume.metadata.name;
        if !volumes {
            say(cloud, &format!("volume {name} kept: yun compose down -v removes it with its data"))?;
            continue;
        }
        let request = client.volume_delete().project(project.clone()).volume(name.clone());
        match request.send().await.explained() {
            Ok(()) => say(cloud, &format!("volume {name} removed"))?,
            Err(why) => kept.push(format!("{why:#}")),
        }
    }
    if kept.is_empty() { Ok(()) } else { bail!("{}", kept.join("; ")) }
}
