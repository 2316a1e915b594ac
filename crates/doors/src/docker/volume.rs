//! `docker volume`: the volumes of the project that containers can mount.

use super::{
    body::{self, Body, empty, json as answer, ok},
    cloud::{Cloud, all as pages},
    fault::{Answer, Fault},
    filters::Filters,
    names,
    server::Ask,
    words::moment,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;
use yun_api::cloud::VolumeCreate;
use yun_types::{Bytes, NameOrId, Volume, VolumeKind, VolumeSpec, VolumeState};

/// The label with the size as it was written.
const SIZE: &str = "docker.yun/size";
/// Docker's label of volumes that were given no name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

async fn volumes(ask: &Ask) -> Answer<Vec<Volume>> {
    let mut all: Vec<Volume> = pages!(ask.cloud.client.volume_list().project(ask.cloud.project.clone()));
    all.retain(|volume| volume.spec.kind == VolumeKind::Directory);
    Ok(all)
}

fn shown(volume: &Volume) -> Value {
    json!({
        "Name": names::shown(&volume.metadata), "Driver": "local", "Scope": "local", "Mountpoint": "",
        "CreatedAt": moment(Some(volume.metadata.created)), "Labels": names::users(&volume.metadata.labels),
        // As they were written: Compose compares them.
        "Options": volume.metadata.labels.get(SIZE).map(|size| json!({ "size": size })), "Status": { "state": volume.status.state },
        "UsageData": { "Size": volume.status.used.map_or(-1, |Bytes(n)| i64::try_from(n).unwrap_or(i64::MAX)), "RefCount": volume.status.users.len() },
    })
}

/// Every volume of the project.
pub(super) async fn all(ask: &Ask) -> Answer<Vec<Value>> {
    Ok(volumes(ask).await?.iter().map(shown).collect())
}

/// Lists volumes.
pub(super) async fn list(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["dangling", "driver", "label", "name"])?;
    let mut all = volumes(&ask).await?;
    all.retain(|volume| {
        filters.labels(&names::users(&volume.metadata.labels))
            && filters.name(names::shown(&volume.metadata))
            && filters.any("driver", |driver| driver == "local")
            && filters.any("dangling", |only| (only == "true" || only == "1") == volume.status.users.is_empty())
    });
    Ok(ok(&json!({ "Volumes": all.iter().map(shown).collect::<Vec<_>>(), "Warnings": [] })))
}

async fn one(ask: &Ask, name: &str) -> Answer<Volume> {
    let all = volumes(ask).await?;
    let by = |fits: &dyn Fn(&Volume) -> bool| all.iter().find(|volume| fits(volume)).cloned();
    by(&|volume| names::shown(&volume.metadata) == name)
        .or_else(|| by(&|volume| volume.metadata.name.as_str() == name))
        .ok_or_else(|| Fault::missing(format!("get {name}: no such volume")))
}

/// Shows a volume.
pub(super) async fn inspect(ask: Ask, name: &str) -> Answer<Response<Body>> {
    Ok(ok(&shown(&one(&ask, name).await?)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

fn wanted(asked: Create) -> Answer<VolumeCreate> {
    let given = asked.name.filter(|name| !name.is_empty());
    let anonymous = given.is_none();
    let shown = given.unwrap_or_else(|| format!("v{}", Uuid::new_v4().simple()));
    if !names::is_valid(&shown) {
        return Err(Fault::bad(format!("invalid volume name {shown:?}: use letters, digits, '_', '.' and '-'")));
    }
    if let Some(driver) = asked.driver.filter(|driver| !matches!(driver.as_str(), "" | "local" | "default")) {
        return Err(Fault::bad(format!("--driver {driver} is not supported by yun: leave it out")));
    }
    let (mut spec, mut size) = (VolumeSpec::default(), None);
    for (option, value) in asked.driver_opts.unwrap_or_default() {
        match option.as_str() {
            "size" => {
                size = Some(value.clone());
                spec.size =
                    value.parse().map_err(|e: yun_types::Invalid| Fault::bad(format!("--opt size={value}: {e}")))?;
            }
            other => {
                return Err(Fault::bad(format!(
                    "--opt {other} is not supported by yun: the only option is size, as in --opt size=5G; mount paths of the host with -v /path:/path"
                )));
            }
        }
    }
    let (name, other) = names::cloud_name(&shown);
    let mut labels = asked.labels.unwrap_or_default();
    labels.retain(|key, _| !key.starts_with(names::OWN));
    labels.extend(size.map(|size| (SIZE.to_owned(), size)));
    if anonymous {
        labels.insert(ANONYMOUS.into(), String::new());
    }
    if other {
        labels.insert(names::NAME.into(), shown);
    }
    Ok(VolumeCreate { name, labels, spec })
}

/// Makes a volume, or finds it: as Docker does, whatever else was asked for.
pub(super) async fn create(mut ask: Ask) -> Answer<Response<Body>> {
    let asked: Create = body::read(&mut ask.body).await?;
    if let Some(name) = asked.name.as_deref().filter(|name| !name.is_empty())
        && let Ok(there) = one(&ask, name).await
    {
        return Ok(answer(StatusCode::CREATED, &shown(&there)));
    }
    let request = ask.cloud.client.volume_create().project(ask.cloud.project.clone()).body(wanted(asked)?);
    let volume = request.send().await?.into_inner();
    if volume.status.state == VolumeState::Failed {
        let why = volume.status.message.clone().unwrap_or_default();
        return Err(Fault::broken(format!("create {}: {why}", names::shown(&volume.metadata))));
    }
    Ok(answer(StatusCode::CREATED, &shown(&volume)))
}

/// Makes a volume that a container names and nobody has made.
pub(super) async fn ensure(cloud: &Cloud, name: &str) -> Answer<()> {
    let body = wanted(Create { name: Some(name.to_owned()), ..Create::default() })?;
    let there = cloud.client.volume_get().project(cloud.project.clone()).volume(NameOrId::Name(body.name.clone()));
    if there.send().await.is_ok() {
        return Ok(());
    }
    match cloud.client.volume_create().project(cloud.project.clone()).body(body).send().await.map_err(Fault::from) {
        Err(fault) if fault.status != StatusCode::CONFLICT => Err(fault),
        _ => Ok(()),
    }
}

async fn delete(ask: &Ask, volume: &Volume) -> Answer<()> {
    let request = ask.cloud.client.volume_delete().project(ask.cloud.project.clone());
    request.volume(NameOrId::Id(volume.metadata.id)).send().await?;
    Ok(())
}

/// Removes a volume.
pub(super) async fn remove(ask: Ask, name: &str) -> Answer<Response<Body>> {
    let volume = match one(&ask, name).await {
        Err(_) if ask.query.on("force") => return Ok(empty(StatusCode::NO_CONTENT)),
        found => found?,
    };
    delete(&ask, &volume).await.map_err(|fault| match fault.status {
        StatusCode::CONFLICT => Fault::conflict(format!("remove {name}: volume is in use: {}", fault.message)),
        _ => fault,
    })?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Removes volumes that nobody uses.
pub(super) async fn prune(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["all", "label"])?;
    // Since this version those with names are kept unless all are meant.
    let every = ask.version < (1, 42) || filters.of("all").iter().any(|all| all == "true" || all == "1");
    let (mut removed, mut space) = (Vec::new(), 0);
    for volume in volumes(&ask).await? {
        let meant = every || volume.metadata.labels.contains_key(ANONYMOUS);
        let unused = meant && volume.status.users.is_empty() && filters.labels(&names::users(&volume.metadata.labels));
        if unused && delete(&ask, &volume).await.is_ok() {
            removed.push(names::shown(&volume.metadata).to_owned());
            space += volume.status.used.map_or(0, |Bytes(n)| n);
        }
    }
    Ok(ok(&json!({ "VolumesDeleted": removed, "SpaceReclaimed": space })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_asked_for_in_the_clouds_words() {
        let of = |value: Value| wanted(serde_json::from_value(value).unwrap());
        let volume = of(json!({ "Name": "shop_data", "Driver": "local", "DriverOpts": { "size": "5G" } })).unwrap();
        assert_eq!((volume.labels[names::NAME].as_str(), volume.spec.size), ("shop_data", Bytes(5_000_000_000)));
        assert!(of(json!({})).unwrap().name.as_str().starts_with('v'));
        assert!(of(json!({ "Driver": "nfs" })).unwrap_err().message.contains("--driver nfs"));
        assert!(of(json!({ "DriverOpts": { "type": "nfs" } })).unwrap_err().message.contains("--opt size=5G"));
        assert!(of(json!({ "Name": "/x" })).unwrap_err().message.contains("invalid volume name"));
    }
}
