//! `docker network`: the networks of the project.

use super::{
    body::{self, Body, empty, json as answer, ok},
    cloud::{Cloud, all},
    container::{Endpoint, find, is_usual, member},
    fault::{Answer, Fault},
    filters::Filters,
    names,
    server::Ask,
    words::moment,
};
use http::{Response, StatusCode};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use yun_api::cloud::{Detach, NetworkAttach, NetworkCreate};
use yun_types::{Name, NameOrId, Network, NetworkSpec};

/// Every network of the project.
pub(super) async fn networks(cloud: &Cloud) -> Answer<Vec<Network>> {
    Ok(all!(cloud.client.network_list().project(cloud.project.clone())))
}

fn shown(network: &Network) -> Value {
    let mut containers = Map::new();
    for user in &network.status.users {
        let Some(address) = user.address else { continue };
        containers.insert(
            names::id(user.id),
            json!({
                "Name": user.instance, "EndpointID": names::id(user.id), "MacAddress": user.mac.clone().unwrap_or_default(),
                "IPv4Address": format!("{address}/{}", network.spec.cidr.prefix_len()), "IPv6Address": "",
            }),
        );
    }
    json!({
        "Name": names::shown(&network.metadata), "Id": names::id(network.metadata.id),
        "Created": moment(Some(network.metadata.created)),
        "Scope": "local", "Driver": "bridge", "EnableIPv6": false, "EnableIPv4": true,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [{ "Subnet": network.spec.cidr, "Gateway": network.spec.gateway() }] },
        "Internal": network.spec.isolated, "Attachable": true, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": containers, "Options": {}, "Labels": names::users(&network.metadata.labels),
    })
}

/// Lists networks.
pub(super) async fn list(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let own = |n: &Network| n.metadata.name == Name::default_project();
    let wanted = |n: &&Network| {
        filters.labels(&names::users(&n.metadata.labels))
            && filters.name(names::shown(&n.metadata))
            && filters.any("id", |id| names::id(n.metadata.id).starts_with(id))
            && filters.any("driver", |driver| driver == "bridge")
            && filters.any("scope", |scope| scope == "local")
            && filters.any("type", |kind| (kind == "builtin") == own(n))
            && filters.any("dangling", |only| (only == "true" || only == "1") == (n.status.users.is_empty() && !own(n)))
    };
    let all = networks(&ask.cloud).await?;
    Ok(ok(&all.iter().filter(wanted).map(shown).collect::<Vec<_>>()))
}

async fn one(ask: &Ask, text: &str) -> Answer<Network> {
    let all = networks(&ask.cloud).await?;
    which(text, &all).cloned()
}

/// The network that a client means: by its name, or the beginning of its id.
pub(super) fn which<'a>(text: &str, all: &'a [Network]) -> Answer<&'a Network> {
    let usual = |n: &Network| is_usual(text) && n.metadata.name == Name::default_project();
    let exact = all.iter().find(|n| names::shown(&n.metadata) == text || n.metadata.name.as_str() == text || usual(n));
    let found =
        exact.or_else(|| all.iter().find(|n| names::is_prefix(text) && names::id(n.metadata.id).starts_with(text)));
    found.ok_or_else(|| Fault::missing(format!("network {text} not found")))
}

/// Shows a network.
pub(super) async fn inspect(ask: Ask, text: &str) -> Answer<Response<Body>> {
    Ok(ok(&shown(&one(&ask, text).await?)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: Option<String>,
    scope: Option<String>,
    internal: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<From>,
    #[serde(rename = "EnableIPv6")]
    ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct From {
    network: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<Range>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Range {
    subnet: Option<String>,
    gateway: Option<String>,
    #[serde(rename = "IPRange")]
    range: Option<String>,
    #[serde(alias = "AuxAddress", rename = "AuxiliaryAddresses")]
    reserved: Option<BTreeMap<String, String>>,
}

/// The option of a network's largest packet.
const MTU: &str = "com.docker.network.driver.mtu";

/// From Docker's words to the cloud's.
fn wanted(asked: Create) -> Answer<NetworkCreate> {
    if matches!(asked.name.as_str(), "bridge" | "host" | "none") {
        return Err(Fault::new(
            StatusCode::FORBIDDEN,
            format!("operation is not permitted on predefined {} network", asked.name),
        ));
    }
    if !names::is_valid(&asked.name) {
        return Err(Fault::bad(format!(
            "invalid network name {:?}: use letters, digits, '_', '.' and '-'",
            asked.name
        )));
    }
    if let Some(driver) = asked.driver.filter(|d| !matches!(d.as_str(), "" | "bridge" | "default")) {
        return Err(Fault::bad(format!(
            "--driver {driver} is not supported by yun: leave it out; every network reaches all of the cloud's nodes"
        )));
    }
    let refused = |flag: &str, instead: &str| Err(Fault::bad(format!("{flag} is not supported by yun: {instead}")));
    if asked.ipv6 == Some(true) {
        return refused("--ipv6", "leave it out: networks have IPv4 only");
    }
    if asked.ingress == Some(true) {
        return refused("--ingress", "publish ports with -p");
    }
    if asked.config_only == Some(true)
        || asked.config_from.is_some_and(|from| from.network.is_some_and(|n| !n.is_empty()))
    {
        return refused("--config-only and --config-from", "write the options at each network");
    }
    if let Some(scope) = asked.scope.filter(|scope| !matches!(scope.as_str(), "" | "local")) {
        return refused(&format!("--scope {scope}"), "leave it out; every network reaches all of the cloud's nodes");
    }
    let ipam = asked.ipam.unwrap_or_default();
    if let Some(driver) = ipam.driver.filter(|driver| !matches!(driver.as_str(), "" | "default")) {
        return refused(&format!("--ipam-driver {driver}"), "leave it out");
    }
    if let Some(option) = ipam.options.unwrap_or_default().keys().next() {
        return refused(&format!("--ipam-opt {option}"), "leave it out");
    }
    let mut mtu = None;
    for (option, value) in asked.options.unwrap_or_default() {
        match option.as_str() {
            MTU => {
                let number = value.parse();
                mtu = Some(number.map_err(|_| {
                    Fault::bad(format!("the MTU {value:?} is no number: write it as in --opt {MTU}=1500"))
                })?);
            }
            other => return refused(&format!("--opt {other}"), &format!("the only option is {MTU}")),
        }
    }
    let mut ranges = ipam.config.unwrap_or_default();
    if ranges.len() > 1 {
        return refused("several --subnet", "give one, or none for a free range");
    }
    let range = ranges.pop().unwrap_or_default();
    if range.range.is_some_and(|text| !text.is_empty()) {
        return refused("--ip-range", "leave it out: addresses are given out from the lowest");
    }
    if range.reserved.is_some_and(|all| !all.is_empty()) {
        return refused("--aux-address", "leave it out, or choose addresses with --ip");
    }
    let cidr = range.subnet.filter(|text| !text.is_empty());
    if let Some(gateway) = range.gateway.filter(|text| !text.is_empty()) {
        let ours = cidr
            .as_deref()
            .and_then(|cidr| cidr.parse::<Ipv4Net>().ok())
            .map(|cidr| NetworkSpec::new(cidr.trunc()).gateway());
        if ours.is_none_or(|ours| ours.to_string() != gateway) {
            let is = ours.map_or_else(|| "the first address of the range".to_owned(), |ours| ours.to_string());
            return refused(&format!("--gateway {gateway}"), &format!("leave it out: the gateway is {is}"));
        }
    }
    let (name, other) = names::cloud_name(&asked.name);
    let mut labels = asked.labels.unwrap_or_default();
    labels.retain(|key, _| !key.starts_with(names::OWN));
    if other {
        labels.insert(names::NAME.into(), asked.name);
    }
    Ok(NetworkCreate { name, labels, cidr, mtu, isolated: asked.internal == Some(true) })
}

/// Makes a network.
pub(super) async fn create(mut ask: Ask) -> Answer<Response<Body>> {
    let asked: Create = body::read(&mut ask.body).await?;
    let shown = asked.name.clone();
    let body = wanted(asked)?;
    let request = ask.cloud.client.network_create().project(ask.cloud.project.clone()).body(body);
    let network = request.send().await.map_err(|error| match Fault::from(error) {
        fault if fault.status == StatusCode::CONFLICT && fault.message.contains("exists") => {
            Fault::conflict(format!("network with name {shown} already exists"))
        }
        fault => fault,
    })?;
    Ok(answer(StatusCode::CREATED, &json!({ "Id": names::id(network.metadata.id), "Warning": "" })))
}

/// Removes a network.
pub(super) async fn remove(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let network = one(&ask, text).await?;
    delete(&ask, &network).await.map_err(|fault| match fault.status {
        StatusCode::CONFLICT => {
            Fault::new(StatusCode::FORBIDDEN, format!("error while removing network: {}", fault.message))
        }
        _ => fault,
    })?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn delete(ask: &Ask, network: &Network) -> Answer<()> {
    let request = ask.cloud.client.network_delete().project(ask.cloud.project.clone());
    request.network(NameOrId::Id(network.metadata.id)).send().await?;
    Ok(())
}

/// Removes networks that nobody uses.
pub(super) async fn prune(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["label", "until"])?;
    let mut removed = Vec::new();
    for network in networks(&ask.cloud).await? {
        let own = network.metadata.name == Name::default_project();
        if own || !network.status.users.is_empty() || !filters.labels(&names::users(&network.metadata.labels)) {
            continue;
        }
        // Somebody may have come in meanwhile.
        if delete(&ask, &network).await.is_ok() {
            removed.push(names::shown(&network.metadata).to_owned());
        }
    }
    Ok(ok(&json!({ "NetworksDeleted": removed })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Link {
    container: String,
    endpoint_config: Option<Endpoint>,
}

/// Lets a container join a network.
pub(super) async fn connect(mut ask: Ask, text: &str) -> Answer<Response<Body>> {
    let link: Link = body::read(&mut ask.body).await?;
    let network = one(&ask, text).await?;
    let instance = find(&ask, &link.container).await?;
    let (member, unheard) = member(network.metadata.name.clone(), &link.endpoint_config.unwrap_or_default())?;
    if let Some(alias) = unheard.first() {
        return Err(Fault::bad(format!("the alias {alias} is no name in DNS: use letters, digits and hyphens")));
    }
    let body = NetworkAttach {
        instance: NameOrId::Id(instance.metadata.id),
        address: member.address,
        aliases: member.aliases,
        egress: None,
        ingress: None,
    };
    let request = ask.cloud.client.network_attach().project(ask.cloud.project.clone());
    let operation = request.network(NameOrId::Id(network.metadata.id)).body(body).send().await?.into_inner();
    ask.cloud.finished(operation).await?;
    Ok(empty(StatusCode::OK))
}

/// Lets a container leave a network.
pub(super) async fn disconnect(mut ask: Ask, text: &str) -> Answer<Response<Body>> {
    let link: Link = body::read(&mut ask.body).await?;
    let network = one(&ask, text).await?;
    let instance = find(&ask, &link.container).await?;
    let body = Detach { instance: NameOrId::Id(instance.metadata.id) };
    let request = ask.cloud.client.network_detach().project(ask.cloud.project.clone());
    let operation = request.network(NameOrId::Id(network.metadata.id)).body(body).send().await?.into_inner();
    ask.cloud.finished(operation).await?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_asked_for_in_the_clouds_words() {
        let of = |value: Value| wanted(serde_json::from_value(value).unwrap());
        let network = of(json!({ "Name": "shop_default", "Driver": "bridge", "Internal": true,
            "IPAM": { "Driver": "default", "Config": [{ "Subnet": "10.9.0.0/24" }] }, "Options": { "com.docker.network.driver.mtu": "1400" } })).unwrap();
        assert_eq!(network.labels[names::NAME], "shop_default");
        assert_eq!((network.cidr.as_deref(), network.mtu, network.isolated), (Some("10.9.0.0/24"), Some(1400), true));
        assert_eq!(of(json!({ "Name": "back" })).unwrap().name.as_str(), "back");
        for (bad, said) in [
            (json!({ "Name": "" }), "invalid network name"),
            (json!({ "Name": "ab", "Driver": "overlay" }), "--driver overlay"),
            (json!({ "Name": "ab", "EnableIPv6": true }), "--ipv6"),
            (json!({ "Name": "ab", "IPAM": { "Config": [{}, {}] } }), "several --subnet"),
            (json!({ "Name": "ab", "IPAM": { "Driver": "dhcp" } }), "--ipam-driver dhcp"),
            (
                json!({ "Name": "ab", "IPAM": { "Config": [{ "Subnet": "10.9.0.0/24", "IPRange": "10.9.0.0/25" }] } }),
                "--ip-range",
            ),
            (
                json!({ "Name": "ab", "IPAM": { "Config": [{ "Subnet": "10.9.0.0/24", "Gateway": "10.9.0.9" }] } }),
                "the gateway is 10.9.0.1",
            ),
            (json!({ "Name": "ab", "Options": { "com.docker.network.driver.mtu": "x" } }), "mtu=1500"),
            (json!({ "Name": "ab", "Options": { "encrypted": "" } }), "--opt encrypted"),
            (json!({ "Name": "ab", "ConfigOnly": true }), "--config-only"),
            (json!({ "Name": "ab", "Ingress": true }), "publish ports with -p"),
            (json!({ "Name": "host" }), "predefined host network"),
        ] {
            assert!(of(bad).unwrap_err().message.contains(said), "{said}");
        }
    }
}
