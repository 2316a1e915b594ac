//! `docker rename` and `docker update`.

use super::{
    super::{
        body::{self, Body, empty, ok},
        fault::{Answer, Fault},
        names,
        server::Ask,
    },
    find, host_config,
    request::{Host, Restart},
};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use yun_api::cloud::InstanceUpdate;
use yun_types::Bytes;

/// Gives a container another name. The cloud's own name of it, by which its DNS knows it, stays.
pub(crate) async fn rename(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let name = ask.query.get("name").map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default();
    if name.is_empty() {
        return Err(Fault::bad("Neither old nor new names may be empty"));
    }
    if !names::is_valid(&name) {
        return Err(Fault::bad(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")));
    }
    let instance = find(&ask, text).await?;
    let all = ask.cloud.containers().await?;
    if let Some(other) = all.iter().find(|i| names::of(i) == name && i.metadata.id != instance.metadata.id) {
        return Err(Fault::conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            names::id(other.metadata.id)
        )));
    }
    if names::of(&instance) == name {
        return Err(Fault::bad("Renaming a container with the same name as its current name"));
    }
    let mut labels = instance.metadata.labels.clone();
    if instance.metadata.name.as_str() == name {
        labels.remove(names::NAME);
    } else {
        labels.insert(names::NAME.into(), name);
    }
    ask.cloud.update(&instance, InstanceUpdate { labels, spec: instance.spec.clone() }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Update {
    restart_policy: Option<Restart>,
    pids_limit: Option<i64>,
    #[serde(flatten)]
    host: Host,
}

/// Changes limits and the restart policy.
pub(crate) async fn update(mut ask: Ask, text: &str) -> Answer<Response<Body>> {
    let update: Update = body::read(&mut ask.body).await?;
    host_config::check(&update.host)?;
    let instance = find(&ask, text).await?;
    let mut spec = instance.spec.clone();
    spec.size = host_config::size(&update.host, spec.size, Bytes(0))?;
    if let Some(policy) = update.restart_policy.filter(|policy| !policy.name.is_empty()) {
        spec.restart = host_config::restart(&policy)?;
    }
    if let Some(pids) = update.pids_limit.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
        spec.container.pids = Some(pids);
    }
    let labels = instance.metadata.labels.clone();
    ask.cloud.update(&instance, InstanceUpdate { labels, spec }).await?;
    Ok(ok(&json!({ "Warnings": [] })))
}
