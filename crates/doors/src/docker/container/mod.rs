//! Containers: instances of kind container, in Docker's words.

mod archive;
mod attach;
mod change;
mod create;
mod exec;
mod host_config;
mod inspect;
mod life;
mod list;
mod logs;
mod membership;
mod origin;
mod request;
mod state;
mod top;
mod wait;
mod walls;

pub(super) use archive::{read, write};
pub(super) use attach::{Readers, attach};
pub(super) use change::{rename, update};
pub(super) use create::create;
pub(super) use exec::{Execs, exec_create, exec_inspect, exec_resize, exec_start};
pub(super) use inspect::inspect;
pub(super) use life::{act, kill, remove, remove_ended, resize};
pub(super) use list::{list, prune};
pub(super) use logs::logs;
pub(super) use membership::{is_usual, member};
pub(super) use origin::Origins;
pub(super) use request::Endpoint;
#[cfg(test)]
pub(super) use state::tests;
pub(super) use state::{Status, exit_code};
pub(super) use top::top;
pub(super) use wait::wait;

use super::{
    fault::{Answer, Fault},
    names,
    server::Ask,
};
use std::sync::Arc;
use uuid::Uuid;
use yun_types::Instance;

/// The container that a client means, as it is now: by its whole id, its name, or the beginning of its id.
pub(super) async fn find(ask: &Ask, text: &str) -> Answer<Instance> {
    let text = text.strip_prefix('/').unwrap_or(text);
    let missing = || Fault::missing(format!("No such container: {text}"));
    if let Some(uuid) = names::uuid_of(text) {
        return get(ask, uuid, text).await;
    }
    // What was seen a moment ago tells which one it is, and the cloud tells how it is now.
    if let Some(uuid) = which(text, &ask.door.follower.seen())? {
        match get(ask, uuid, text).await {
            Ok(instance) if fits(text, &instance) => return Ok(instance),
            Ok(_) => {}
            Err(fault) if fault.status == http::StatusCode::NOT_FOUND => {}
            Err(fault) => return Err(fault),
        }
    }
    let all: Vec<_> = ask.cloud.containers().await?.into_iter().map(Arc::new).collect();
    let uuid = which(text, &all)?.ok_or_else(missing)?;
    all.iter().find(|i| i.metadata.id == uuid).map(|i| Instance::clone(i)).ok_or_else(missing)
}

/// The same from what was seen a moment ago, if it ran then: for who asks the cloud next anyway, which knows better.
fn seen_running(ask: &Ask, text: &str) -> Option<Arc<Instance>> {
    let seen = ask.door.follower.seen();
    let text = text.strip_prefix('/').unwrap_or(text);
    let uuid = names::uuid_of(text).or_else(|| which(text, &seen).ok().flatten())?;
    seen.into_iter().find(|i| i.metadata.id == uuid && Status::of(i) == Status::Running)
}

async fn get(ask: &Ask, uuid: Uuid, text: &str) -> Answer<Instance> {
    ask.cloud.container(uuid).await.map_err(|fault| match fault.status {
        http::StatusCode::NOT_FOUND => Fault::missing(format!("No such container: {text}")),
        _ => fault,
    })
}

fn fits(text: &str, instance: &Instance) -> bool {
    names::of(instance) == text
        || instance.metadata.name.as_str() == text
        || names::id(instance.metadata.id).starts_with(text)
        || instance.metadata.id.to_string() == text
}

/// Which of these is meant: a name goes before the beginning of an id.
fn which(text: &str, all: &[Arc<Instance>]) -> Answer<Option<Uuid>> {
    let by = |fits: &dyn Fn(&Instance) -> bool| all.iter().find(|i| fits(i)).map(|i| i.metadata.id);
    let exact = by(&|i| names::of(i) == text)
        .or_else(|| by(&|i| i.metadata.name.as_str() == text))
        .or_else(|| by(&|i| i.metadata.id.to_string() == text));
    if exact.is_some() || !names::is_prefix(text) {
        return Ok(exact);
    }
    let found: Vec<Uuid> =
        all.iter().map(|i| i.metadata.id).filter(|id| names::id(*id).starts_with(text)).take(2).collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(Fault::bad(format!("Multiple IDs found with provided prefix: {text}: give more digits"))),
    }
}
