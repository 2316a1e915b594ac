//! `docker create`, and the first half of `docker run`: an instance that does not run yet.

use super::{
    super::{
        body::{self, Body, json},
        cloud::Cloud,
        fault::{Answer, Fault},
        names, network,
        server::Ask,
        volume,
    },
    host_config::{self, Named},
    membership,
    request::{Request, slim},
    walls,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use yun_api::cloud::InstanceCreate;
use yun_types::{ContainerOptions, Image, InstanceSpec, Labels, Mount, NetworkMembership, Power, PublishedPort, Stdin};

/// How often another name is invented, or other ports are chosen, when those were taken.
const TRIES: usize = 5;

/// Makes a container.
pub(crate) async fn create(ask: Ask) -> Answer<Response<Body>> {
    let Ask { door, cloud, query, mut body, .. } = ask;
    let raw: Value = body::read(&mut body).await?;
    let asked: Request = serde_json::from_value(raw.clone())
        .map_err(|e| Fault::bad(format!("the request is not the JSON that was expected: {e}")))?;
    let given = query.get("name").map(|name| name.trim_start_matches('/').to_owned());
    if let Some(name) = given.as_ref().filter(|name| !names::is_valid(name)) {
        return Err(Fault::bad(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")));
    }
    if let Some(platform) = query.get("platform").filter(|p| !p.starts_with("linux")) {
        return Err(Fault::bad(format!(
            "platform {platform} is not supported by yun: use linux, or leave --platform out"
        )));
    }
    host_config::check(&asked.host_config)?;
    if !asked.mac_address.is_empty() {
        return Err(Fault::bad("--mac-address is not supported by yun: leave it out"));
    }
    let image = cloud.image(&asked.image).await?;
    let (mounts, named) = host_config::mounts(&asked)?;
    let (networks, mut warnings) = networks(&cloud, &asked).await?;
    if !asked.hostname.is_empty() && given.as_ref().is_none_or(|name| *name != asked.hostname) {
        warnings.push(format!("--hostname {} has no effect: the name inside is that of the container", asked.hostname));
    }
    let ask = Wanted { asked: &asked, image: &image, usual: door.config.size, mounts, named, networks };
    let seen = door.follower.seen();
    if let Some(name) = &given
        && let Some(other) = seen.iter().find(|i| names::of(i) == name && i.metadata.deleting.is_none())
        // It may be gone since.
        && let Ok(other) = cloud.container(other.metadata.id).await
        && names::of(&other) == name
    {
        return Err(taken(name, &names::id(other.metadata.id)));
    }
    // Everything else that can be refused is refused before a volume is made.
    ask.spec(&[])?;
    for volume in ask.named.iter().filter(|named| !named.volume.is_empty()) {
        volume::ensure(&cloud, &volume.volume).await?;
    }
    let mut published: Vec<PublishedPort> = seen.iter().flat_map(|i| i.spec.publish.clone()).collect();
    let mut last = Fault::broken("no name was free");
    for attempt in 0..TRIES {
        let shown = given.clone().unwrap_or_else(|| names::invented(|most| rand::random_range(0..most)));
        let (name, other) = match attempt {
            0 => names::cloud_name(&shown),
            // A container that was renamed away from this name still has it in the cloud.
            _ => (names::slug(&format!("{shown} {}", rand::random::<u64>())), true),
        };
        let mut labels = ask.labels(&raw);
        if other {
            labels.insert(names::NAME.into(), shown.clone());
        }
        let spec = ask.spec(&published)?;
        let chosen = spec.publish.clone();
        let body = InstanceCreate { name: name.clone(), labels, spec };
        match cloud.create(body).await {
            Ok(operation) => {
                let id = names::id(operation.spec.target.id);
                return Ok(json(StatusCode::CREATED, &json!({ "Id": id, "Warnings": warnings })));
            }
            Err(fault) if fault.status == StatusCode::CONFLICT && fault.message.contains("exists in project") => {
                if let Some(other) = holder(&cloud, &shown).await? {
                    return Err(taken(&shown, &other));
                }
                last = fault;
            }
            // Ports that this door chose itself, and somebody else has.
            Err(fault)
                if fault.status == StatusCode::CONFLICT && ask.chooses_ports() && fault.message.contains("port") =>
            {
                published.extend(chosen);
                last = fault;
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(last)
}

/// The networks that a request names, and what its sender should know.
async fn networks(cloud: &Cloud, asked: &Request) -> Answer<(Vec<NetworkMembership>, Vec<String>)> {
    let named = membership::named(asked)?;
    if named.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let all = network::networks(cloud).await?;
    let known: Answer<Vec<_>> =
        // Clients take "not found" for the image's word here, and would pull it.
        named
            .iter()
            .map(|text| {
                let found = network::which(text, &all).map_err(|fault| Fault::bad(fault.message))?;
                Ok((text.clone(), found.metadata.name.clone()))
            })
            .collect();
    membership::networks(asked, &known?)
}

async fn holder(cloud: &Cloud, shown: &str) -> Answer<Option<String>> {
    let all = cloud.containers().await?;
    Ok(all.iter().find(|i| names::of(i) == shown).map(|i| names::id(i.metadata.id)))
}

fn taken(name: &str, id: &str) -> Fault {
    Fault::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    ))
}

/// A container that was asked for.
struct Wanted<'a> {
    asked: &'a Request,
    image: &'a Image,
    usual: yun_types::Size,
    mounts: Vec<Mount>,
    named: Vec<Named>,
    networks: Vec<NetworkMembership>,
}

impl Wanted<'_> {
    fn labels(&self, raw: &Value) -> Labels {
        let config = self.image.status.facts.config.as_ref();
        let mut labels: Labels = config.map(|c| c.labels.clone()).unwrap_or_default();
        labels.extend(self.asked.labels.clone());
        labels.retain(|key, _| !key.starts_with(names::OWN));
        let mut kept = raw.clone();
        if let Some(map) = kept.as_object_mut() {
            for shown_elsewhere in ["Labels", "Env", "Cmd", "Entrypoint"] {
                map.remove(shown_elsewhere);
            }
        }
        if let Some(kept) = slim(kept) {
            labels.insert(names::REQUEST.into(), kept.to_string());
        }
        if self.asked.host_config.auto_remove {
            labels.insert(names::AUTO_REMOVE.into(), "true".into());
        }
        labels
    }

    fn chooses_ports(&self) -> bool {
        let host = &self.asked.host_config;
        let open = |b: &super::request::Binding| matches!(b.host_port.as_str(), "" | "0");
        host.publish_all_ports || host.port_bindings.values().flatten().flatten().any(open)
    }

    fn spec(&self, taken: &[PublishedPort]) -> Answer<InstanceSpec> {
        let (asked, host) = (self.asked, &self.asked.host_config);
        if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
            return Err(Fault::bad("can't create 'AutoRemove' container with restart policy"));
        }
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let positive = |n: i64| u32::try_from(n).ok().filter(|n| *n > 0);
        let mut spec = plain(&self.image.metadata.id.to_string());
        spec.size = host_config::size(host, self.usual, self.image.status.facts.min_disk)?;
        spec.power = Power::Stopped;
        spec.restart = host_config::restart(&host.restart_policy)?;
        spec.publish = host_config::ports(asked, || host_config::free_port(taken, rand::random))?;
        spec.networks.clone_from(&self.networks);
        spec.volumes = membership::volumes(&self.named);
        spec.stop_timeout = asked.stop_timeout.and_then(|n| u32::try_from(n).ok());
        spec.container = ContainerOptions {
            // Docker's way to say "none" is one empty word.
            entrypoint: asked.entrypoint.clone().filter(|words| !words.is_empty()).map(|mut words| {
                words.retain(|word| !word.is_empty() || words_matter(&asked.entrypoint));
                words
            }),
            command: asked.cmd.clone(),
            env: environment(&asked.env),
            user: text(&asked.user),
            workdir: text(&asked.working_dir),
            stop_signal: text(&asked.stop_signal),
            pids: host.pids_limit.and_then(positive),
            tty: asked.tty,
            stdin: match (asked.open_stdin, asked.stdin_once) {
                (false, _) => Stdin::Closed,
                (true, false) => Stdin::Open,
                (true, true) => Stdin::Once,
            },
            mounts: self.mounts.clone(),
            health: walls::health(asked.healthcheck.as_ref())?,
            security: walls::security(host)?,
            ..ContainerOptions::default()
        };
        Ok(spec)
    }
}

/// The spec of an image about which nothing else was said.
fn plain(image: &str) -> InstanceSpec {
    serde_json::from_value(json!({ "image": image })).expect("every other field has a default")
}

/// Whether an entrypoint has more than one empty word: then empty words are arguments.
fn words_matter(entrypoint: &Option<Vec<String>>) -> bool {
    entrypoint.as_ref().is_some_and(|words| words.len() > 1)
}

/// `NAME=value` lines as a map. A name alone has nothing to say here: the client has put in what it knew.
fn environment(lines: &[String]) -> BTreeMap<String, String> {
    lines.iter().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_lines_become_a_map() {
        let map = environment(&["A=1=2".into(), "B".into(), "C=".into()]);
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("A".into(), "1=2".into()), ("C".into(), String::new())]);
    }
}
