//! `docker volume`.

use super::{
    body::{Body, ok},
    fault::{Answer, Fault},
    server::Ask,
};
use http::Response;
use serde_json::{Value, json};

fn refused() -> Fault {
    Fault::unsupported("this yun has no named volumes: mount a directory of the host, as in -v /srv/data:/data")
}

/// Every volume of the project.
pub(super) async fn all(_ask: &Ask) -> Answer<Vec<Value>> {
    Ok(Vec::new())
}

/// Lists volumes.
pub(super) async fn list(ask: Ask) -> Answer<Response<Body>> {
    Ok(ok(&json!({ "Volumes": all(&ask).await?, "Warnings": [] })))
}

/// Makes a volume.
pub(super) async fn create(_ask: Ask) -> Answer<Response<Body>> {
    Err(refused())
}

/// Removes volumes that nobody uses.
pub(super) async fn prune(_ask: Ask) -> Answer<Response<Body>> {
    Ok(ok(&json!({ "VolumesDeleted": [], "SpaceReclaimed": 0 })))
}

/// Shows a volume.
pub(super) async fn inspect(_ask: Ask, name: &str) -> Answer<Response<Body>> {
    Err(Fault::missing(format!("get {name}: no such volume")))
}

/// Removes a volume.
pub(super) async fn remove(_ask: Ask, name: &str) -> Answer<Response<Body>> {
    Err(Fault::missing(format!("get {name}: no such volume")))
}
