//! `docker events`: what happens to containers, in Docker's words, and what happened before as far as the cloud's journal tells.

use super::{
    body::{Body, line, streamed},
    cloud::lines,
    container::{Status, exit_code},
    fault::{Answer, Fault},
    filters::Filters,
    follow::Happening,
    names,
    server::Ask,
    words::parse_moment,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Response;
use serde_json::{Map, Value, json};
use std::{io, sync::Arc};
use tokio::sync::broadcast::error::RecvError;
use yun_types::{Event, Instance, ObjectKind, Timestamp};

const WORDS: [&str; 8] = ["container", "daemon", "event", "image", "label", "network", "type", "volume"];

/// Streams events: those since a moment, then those that come, until a moment if one is named.
pub(super) async fn events(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &[&WORDS[..], &["scope"]].concat())?;
    let at = |word: &str| match ask.query.get(word) {
        None => Ok(None),
        Some(text) => {
            parse_moment(text).map(Some).ok_or_else(|| Fault::bad(format!("invalid value for \"{word}\": {text}")))
        }
    };
    let (since, until) = (at("since")?, at("until")?);
    let clock = Arc::clone(&ask.door.config.clock);
    let changes = ask.door.follower.subscribe();
    let past = match since {
        Some(since) => past(&ask, &filters, since, until).await?,
        None => Vec::new(),
    };
    let past = stream::iter(past.into_iter().map(Ok::<Bytes, io::Error>));
    let end: futures::future::BoxFuture<'static, ()> = match until {
        Some(until) => clock.sleep(yun_engine::clock::until(&*clock, until)),
        None => Box::pin(std::future::pending()),
    };
    let coming = stream::unfold((changes, filters, clock), |(mut changes, filters, clock)| async move {
        loop {
            match changes.recv().await {
                Ok(change) => {
                    let now = clock.now();
                    let mut all = Vec::new();
                    for value in between(&change, now).into_iter().filter(|value| wanted(&filters, value)) {
                        all.extend_from_slice(&line(&value));
                    }
                    if !all.is_empty() {
                        return Some((Ok(Bytes::from(all)), (changes, filters, clock)));
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Ok(streamed("application/json", past.chain(coming.take_until(end))))
}

/// What the cloud's journal tells of containers that are still there, or were.
async fn past(ask: &Ask, filters: &Filters, since: Timestamp, until: Option<Timestamp>) -> Answer<Vec<Bytes>> {
    let request = ask.cloud.client.event_stream().project(ask.cloud.project.clone()).tail(10_000_u32);
    let body = request.send().await?.into_inner();
    let events: Vec<io::Result<Event>> = lines(body).collect().await;
    let seen = ask.door.follower.seen();
    let mut all = Vec::new();
    for event in events.into_iter().flatten() {
        let timely = event.at >= since && until.is_none_or(|until| event.at <= until);
        if event.object.kind != ObjectKind::Instance || !timely {
            continue;
        }
        let action = match event.reason.as_str() {
            "Created" => "create",
            "Started" => "start",
            "Paused" => "pause",
            "Resumed" => "unpause",
            "Deleted" => "destroy",
            "Completed" | "Exited" | "Killed" | "OutOfMemory" | "Stopped" => "die",
            _ => continue,
        };
        let known = seen.iter().find(|i| i.metadata.id == event.object.id);
        let mut attributes = Map::from_iter([("name".to_owned(), Value::from(event.object.name.clone()))]);
        if let Some(instance) = known {
            attributes = of(instance);
        }
        let value = told(action, &names::id(event.object.id), attributes, event.at);
        if wanted(filters, &value) {
            all.push(line(&value));
        }
    }
    Ok(all)
}

fn wanted(filters: &Filters, value: &Value) -> bool {
    let actor = &value["Actor"];
    let attributes = &actor["Attributes"];
    let action = value["Action"].as_str().unwrap_or_default();
    let labels = attributes.as_object().into_iter().flatten();
    let labels = labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
    filters.any("type", |kind| kind == "container")
        && filters.any("event", |event| event == action)
        && filters.any("container", |text| {
            attributes["name"] == *text || actor["ID"].as_str().is_some_and(|id| id.starts_with(text))
        })
        && filters.any("image", |image| attributes["image"] == *image)
        && filters.of("network").is_empty()
        && filters.of("volume").is_empty()
        && filters.labels(&labels)
}

fn of(instance: &Instance) -> Map<String, Value> {
    let mut attributes: Map<String, Value> =
        names::users(&instance.metadata.labels).into_iter().map(|(k, v)| (k, v.into())).collect();
    let image = instance.status.image.as_ref().map_or_else(String::new, |pin| pin.name.clone());
    attributes.insert("image".into(), image.into());
    attributes.insert("name".into(), names::of(instance).into());
    attributes
}

fn told(action: &str, id: &str, attributes: Map<String, Value>, at: Timestamp) -> Value {
    let from = attributes.get("image").cloned().unwrap_or_default();
    json!({
        "status": action, "id": id, "from": from,
        "Type": "container", "Action": action, "Actor": { "ID": id, "Attributes": attributes },
        "scope": "local", "time": at.timestamp(), "timeNano": at.timestamp_nanos_opt().unwrap_or_default(),
    })
}

/// What a change means in Docker's words, in the order in which Docker would have said it.
fn between(change: &Happening, now: Timestamp) -> Vec<Value> {
    let (before, after) = (change.before.as_deref(), change.after.as_deref());
    let Some(instance) = after.or(before) else { return Vec::new() };
    let id = names::id(instance.metadata.id);
    let mut all = Vec::new();
    let mut tell = |action: &str, more: Option<(&str, String)>, at: Timestamp| {
        let mut attributes = of(instance);
        attributes.extend(more.map(|(k, v)| (k.to_owned(), v.into())));
        all.push(told(action, &id, attributes, at));
    };
    let Some(after) = after else {
        tell("destroy", None, now);
        return all;
    };
    if before.is_none() {
        tell("create", None, after.metadata.created);
    }
    let was = before.map(Status::of);
    let is = Status::of(after);
    let started = after.status.started.filter(|at| before.is_some_and(|b| b.status.started != Some(*at)));
    if let Some(at) = started {
        tell("start", None, at);
    }
    let ended = after.status.exit.filter(|exit| before.is_some_and(|b| b.status.exit != Some(*exit)));
    if let Some(exit) = ended {
        if exit.out_of_memory {
            tell("oom", None, exit.at);
        }
        tell("die", Some(("exitCode", exit_code(after).to_string())), exit.at);
        if after.spec.power == yun_types::Power::Stopped {
            tell("stop", None, exit.at);
        }
    }
    match (was, is) {
        (Some(Status::Running), Status::Paused) => tell("pause", None, now),
        (Some(Status::Paused), Status::Running) => tell("unpause", None, now),
        _ => {}
    }
    let health = |instance: &Instance| instance.status.health.as_ref().map(|health| health.state);
    if let Some(state) = health(after).filter(|state| before.is_some_and(|b| health(b) != Some(*state))) {
        tell(&format!("health_status: {state}"), None, now);
    }
    if let Some(before) = before
        && names::of(before) != names::of(after)
    {
        tell("rename", Some(("oldName", format!("/{}", names::of(before)))), now);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::container::tests::sample;
    use yun_types::{Exit, InstanceState as State};

    #[test]
    fn a_life_is_told_in_dockers_words() {
        let now = chrono::DateTime::UNIX_EPOCH;
        let said = |before: Option<&Instance>, after: Option<&Instance>| {
            let change = Happening { before: before.cloned().map(Arc::new), after: after.cloned().map(Arc::new) };
            between(&change, now).iter().map(|v| v["Action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let created = sample("web", State::Stopped);
        let mut running = sample("web", State::Running);
        running.status.started = Some(now);
        let mut ended = running.clone();
        ended.status.state = State::Stopped;
        ended.status.exit = Some(Exit { code: 0, signal: None, out_of_memory: false, at: now });
        assert_eq!(said(None, Some(&created)), ["create"]);
        assert_eq!(said(Some(&created), Some(&running)), ["start"]);
        assert_eq!(said(Some(&running), Some(&ended)), ["die"]);
        // Both between two looks.
        assert_eq!(said(Some(&created), Some(&ended)), ["start", "die"]);
        assert_eq!(said(Some(&ended), None), ["destroy"]);
        let mut renamed = running.clone();
        renamed.metadata.labels.insert(names::NAME.into(), "Other".into());
        assert_eq!(said(Some(&running), Some(&renamed)), ["rename"]);
    }
}
