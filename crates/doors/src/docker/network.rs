//! `docker network`: the networks of the project.

use super::{
    body::{Body, ok},
    cloud::all,
    container::Status,
    fault::{Answer, Fault},
    filters::Filters,
    names,
    server::Ask,
    words::moment,
};
use http::Response;
use serde_json::{Map, Value, json};
use yun_types::{Instance, Network};

async fn networks(ask: &Ask) -> Answer<Vec<Network>> {
    Ok(all!(ask.cloud.client.network_list().project(ask.cloud.project.clone())))
}

fn shown(network: &Network, members: &[Instance]) -> Value {
    let containers: Map<String, Value> = members
        .iter()
        .filter(|i| Status::of(i).live())
        .filter_map(|i| {
            let address = i.status.address.filter(|a| network.spec.cidr.contains(a))?;
            let member = json!({
                "Name": names::of(i), "EndpointID": names::id(i.metadata.id),
                "MacAddress": i.status.mac.clone().unwrap_or_default(),
                "IPv4Address": format!("{address}/{}", network.spec.cidr.prefix_len()), "IPv6Address": "",
            });
            Some((names::id(i.metadata.id), member))
        })
        .collect();
    json!({
        "Name": network.metadata.name, "Id": names::id(network.metadata.id), "Created": moment(Some(network.metadata.created)),
        "Scope": "local", "Driver": "bridge", "EnableIPv6": false, "EnableIPv4": true,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [{ "Subnet": network.spec.cidr, "Gateway": network.spec.gateway() }] },
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": containers, "Options": {}, "Labels": names::users(&network.metadata.labels),
    })
}

/// Lists networks.
pub(super) async fn list(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let wanted = |n: &&Network| {
        filters.labels(&names::users(&n.metadata.labels))
            && filters.name(n.metadata.name.as_str())
            && filters.any("id", |id| names::id(n.metadata.id).starts_with(id))
            && filters.any("driver", |driver| driver == "bridge")
            && filters.any("scope", |scope| scope == "local")
    };
    let all = networks(&ask).await?;
    Ok(ok(&all.iter().filter(wanted).map(|n| shown(n, &[])).collect::<Vec<_>>()))
}

async fn one(ask: &Ask, text: &str) -> Answer<Network> {
    let mut all = networks(ask).await?;
    // Docker's own network is the project's.
    let text = if text == "bridge" { "default" } else { text };
    let exact = all.iter().position(|n| n.metadata.name.as_str() == text);
    let found =
        exact.or_else(|| all.iter().position(|n| names::is_prefix(text) && names::id(n.metadata.id).starts_with(text)));
    found.map(|at| all.swap_remove(at)).ok_or_else(|| Fault::missing(format!("network {text} not found")))
}

/// Shows a network.
pub(super) async fn inspect(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let network = one(&ask, text).await?;
    Ok(ok(&shown(&network, &ask.cloud.containers().await?)))
}

fn refused() -> Fault {
    Fault::unsupported(
        "this yun has one network for each project: leave --network out; containers of the project find each other by name",
    )
}

/// Makes a network.
pub(super) async fn create(_ask: Ask) -> Answer<Response<Body>> {
    Err(refused())
}

/// Removes a network.
pub(super) async fn remove(ask: Ask, text: &str) -> Answer<Response<Body>> {
    one(&ask, text).await?;
    Err(Fault::new(http::StatusCode::FORBIDDEN, format!("network {text} is the project's own and cannot be removed")))
}

/// Removes networks that nobody uses.
pub(super) async fn prune(_ask: Ask) -> Answer<Response<Body>> {
    Ok(ok(&json!({ "NetworksDeleted": [] })))
}

/// Connects a container.
pub(super) async fn connect(_ask: Ask, _text: &str) -> Answer<Response<Body>> {
    Err(refused())
}

/// Disconnects a container.
pub(super) async fn disconnect(_ask: Ask, _text: &str) -> Answer<Response<Body>> {
    Err(refused())
}
