//! `docker ps`.

use super::{
    super::{
        body::{Body, ok},
        fault::{Answer, Fault},
        filters::Filters,
        names, network, reference,
        server::Ask,
        words::span,
    },
    inspect::{image_shown, mounts, networks},
    membership::{USUAL, is_usual},
    state::{Status, exit_code, health, sentence},
};
use http::Response;
use serde_json::{Value, json};
use yun_types::{ContainerConfig, Instance, Network, PublishedPort, Timestamp};

const WORDS: [&str; 14] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
];
const STATES: [&str; 7] = ["created", "dead", "exited", "paused", "removing", "restarting", "running"];

/// Lists containers, the newest first.
pub(crate) async fn list(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &[&WORDS[..], &["volume"]].concat())?;
    let limit = ask.query.number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    for state in filters.of("status") {
        if !STATES.contains(&state.as_str()) {
            return Err(Fault::bad(format!("invalid filter 'status={state}': use one of {}", STATES.join(", "))));
        }
    }
    let mut all = ask.cloud.containers().await?;
    all.sort_by_key(|i| std::cmp::Reverse((i.metadata.created, i.metadata.id)));
    let ended_too =
        ask.query.on("all") || limit.is_some() || !filters.of("status").is_empty() || !filters.of("exited").is_empty();
    let edge = |word: &str| -> Answer<Option<Timestamp>> {
        let Some(wanted) = filters.of(word).first() else { return Ok(None) };
        let found =
            all.iter().find(|i| names::of(i) == wanted || names::id(i.metadata.id).starts_with(wanted.as_str()));
        let found = found.ok_or_else(|| Fault::missing(format!("No such container: {wanted}")))?;
        Ok(Some(found.metadata.created))
    };
    let (before, since) = (edge("before")?, edge("since")?);
    let now = ask.door.config.clock.now();
    // Who is in the project's own network only needs no look at networks.
    let known = match all.iter().any(|i| !i.spec.networks.is_empty()) || !filters.of("network").is_empty() {
        true => network::networks(&ask.cloud).await?,
        false => Vec::new(),
    };
    let chosen: Vec<Instance> = all
        .iter()
        .filter(|i| ended_too || Status::of(i).live())
        .filter(|i| before.is_none_or(|at| i.metadata.created < at) && since.is_none_or(|at| i.metadata.created > at))
        .filter(|i| wanted(&filters, i, &known))
        .take(limit.unwrap_or(usize::MAX))
        .cloned()
        .collect();
    let origins = ask.door.origins.of(&ask.cloud, &chosen).await;
    let shown: Vec<Value> = chosen.iter().zip(&origins).map(|(i, origin)| summary(i, now, &known, origin)).collect();
    Ok(ok(&shown))
}

fn wanted(filters: &Filters, instance: &Instance, known: &[Network]) -> bool {
    let id = names::id(instance.metadata.id);
    let port = |wanted: &str, of: &dyn Fn(&PublishedPort) -> u16| {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        instance.spec.publish.iter().any(|p| of(p).to_string() == number && p.protocol.to_string() == protocol)
    };
    filters.labels(&names::users(&instance.metadata.labels))
        && filters.name(names::of(instance))
        && filters.any("id", |wanted| id.starts_with(wanted))
        && filters.any("status", |wanted| Status::of(instance).word() == wanted)
        && filters
            .any("exited", |code| Status::of(instance) == Status::Exited && exit_code(instance).to_string() == code)
        && filters.any("ancestor", |image| is_of(instance, image))
        && filters.any("health", |wanted| health(instance).as_deref().unwrap_or("none") == wanted)
        && filters.any("publish", |wanted| port(wanted, &|p| p.host.get()))
        && filters.any("expose", |wanted| port(wanted, &|p| p.guest.get()))
        && filters.any("network", |wanted| {
            let wanted = if is_usual(wanted) { USUAL } else { wanted };
            networks(instance, known).as_object().is_some_and(|all| {
                let by_id = |network: &Value| network["NetworkID"].as_str().is_some_and(|id| id.starts_with(wanted));
                all.contains_key(wanted) || names::is_prefix(wanted) && all.values().any(by_id)
            })
        })
        && filters.any("volume", |wanted| {
            mounts(instance)
                .iter()
                .any(|m| m["Name"] == *wanted || m["Destination"] == *wanted || m["Source"] == *wanted)
        })
        && filters.any("is-task", |wanted| wanted == "false")
        && filters.any("isolation", |wanted| wanted == "default")
}

/// Whether it was made from this image.
fn is_of(instance: &Instance, image: &str) -> bool {
    let digest = instance.status.image.as_ref().map(|pin| pin.digest.hex());
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    reference::shown(image) == reference::shown(&image_shown(instance))
        || (digits.len() >= 4 && names::is_prefix(digits) && digest.is_some_and(|digest| digest.starts_with(digits)))
}

fn summary(instance: &Instance, now: Timestamp, known: &[Network], origin: &ContainerConfig) -> Value {
    let pin = instance.status.image.as_ref();
    json!({
        "Id": names::id(instance.metadata.id),
        "Names": [format!("/{}", names::of(instance))],
        "Image": image_shown(instance),
        "ImageID": pin.map_or_else(String::new, |pin| pin.digest.to_string()),
        "Command": super::inspect::command_line(instance, origin),
        "Created": instance.metadata.created.timestamp(),
        "Ports": ports(instance),
        "Labels": names::users(&instance.metadata.labels),
        "State": Status::of(instance).word(),
        "Status": sentence(instance, now),
        "HostConfig": { "NetworkMode": "default" },
        "NetworkSettings": { "Networks": networks(instance, known) },
        "Mounts": mounts(instance),
    })
}

fn ports(instance: &Instance) -> Vec<Value> {
    let one = |port: &PublishedPort| {
        json!({
            "IP": port.host_address.map_or_else(|| "0.0.0.0".to_owned(), |a| a.to_string()),
            "PrivatePort": port.guest,
            "PublicPort": port.host,
            "Type": port.protocol,
        })
    };
    // Who has ended has no ports.
    if Status::of(instance).live() { instance.spec.publish.iter().map(one).collect() } else { Vec::new() }
}

/// Removes what has ended.
pub(crate) async fn prune(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["until", "label"])?;
    let now = ask.door.config.clock.now();
    let until =
        match filters.of("until").first() {
            Some(text) => Some(super::super::words::parse_moment(text).ok_or_else(|| {
                Fault::bad(format!("until {text:?} is no moment: write it as in 2026-01-31T12:00:00Z"))
            })?),
            None => None,
        };
    let mut removed = Vec::new();
    for instance in ask.cloud.containers().await? {
        let ended = matches!(Status::of(&instance), Status::Created | Status::Exited | Status::Dead);
        let old = until.is_none_or(|until| instance.metadata.created < until);
        if ended && old && filters.labels(&names::users(&instance.metadata.labels)) {
            ask.cloud.delete(instance.metadata.id).await?;
            removed.push(names::id(instance.metadata.id));
        }
    }
    tracing::debug!(removed = removed.len(), age = span(now - until.unwrap_or(now)), "pruned containers");
    Ok(ok(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": 0 })))
}
