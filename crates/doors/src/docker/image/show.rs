//! Images as lists and pages.

use super::super::{
    body::{Body, ok},
    fault::{Answer, Fault},
    filters::Filters,
    reference,
    server::Ask,
    words::moment,
};
use http::Response;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use yun_types::{ContainerConfig, Image, Instance};

/// Lists images.
pub(crate) async fn list(ask: Ask) -> Answer<Response<Body>> {
    let filters = Filters::read(&ask.query, &["before", "dangling", "label", "reference", "since", "until"])?;
    if !filters.of("before").is_empty() || !filters.of("since").is_empty() || !filters.of("until").is_empty() {
        return Err(Fault::bad(
            "filters before, since and until of images are not supported by yun: use label or reference",
        ));
    }
    let mut images = ask.cloud.images().await?;
    images.retain(|image| {
        let shown = reference::of(image);
        let repository = shown.rsplit_once(':').map_or(shown.as_str(), |(repository, _)| repository);
        let labels = image.status.facts.config.as_ref().map(|c| c.labels.clone()).unwrap_or_default();
        filters.any("reference", |wanted| glob(wanted, &shown) || glob(wanted, repository))
            && filters.any("dangling", |wanted| wanted == "false")
            && filters.labels(&labels)
    });
    let containers = ask.cloud.containers().await?;
    Ok(ok(&summaries(&images, &containers)))
}

/// Whether a text is like a pattern with stars.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    let mut rest = rest;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Images as `docker images` has them: the names of one content together, the newest first.
pub(crate) fn summaries(images: &[Image], containers: &[Instance]) -> Vec<Value> {
    let mut by_digest: BTreeMap<&str, Vec<&Image>> = BTreeMap::new();
    for image in images {
        by_digest.entry(image.status.facts.digest.hex()).or_default().push(image);
    }
    let mut all: Vec<(i64, Value)> = by_digest
        .values()
        .map(|same| {
            let (first, created) = (same[0], same.iter().map(|i| i.metadata.created.timestamp()).max().unwrap_or(0));
            let facts = &first.status.facts;
            let used =
                containers.iter().filter(|c| c.status.image.as_ref().is_some_and(|p| p.digest == facts.digest)).count();
            let value = json!({
                "Id": facts.digest,
                "ParentId": "",
                "RepoTags": same.iter().map(|i| reference::of(i)).collect::<Vec<_>>(),
                "RepoDigests": [],
                "Created": created,
                "Size": facts.size.0, "VirtualSize": facts.size.0, "SharedSize": 0,
                "Labels": facts.config.as_ref().map(|c| c.labels.clone()).unwrap_or_default(),
                "Containers": used,
            });
            (created, value)
        })
        .collect();
    all.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    all.into_iter().map(|(_, value)| value).collect()
}

/// Shows an image.
pub(crate) async fn inspect(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let image = ask.cloud.image(text).await?;
    let all = ask.cloud.images().await?;
    let facts = &image.status.facts;
    let tags: Vec<String> = all.iter().filter(|i| i.status.facts.digest == facts.digest).map(reference::of).collect();
    let none = ContainerConfig::default();
    let config = facts.config.as_ref().unwrap_or(&none);
    let created = moment(Some(image.metadata.created));
    Ok(ok(&json!({
        "Id": facts.digest,
        "RepoTags": tags,
        "RepoDigests": [],
        "Parent": "", "Comment": image.spec.source, "DockerVersion": "", "Author": "",
        "Created": created,
        "Config": configuration(config),
        // By its old name: docker-compose 1 asks for it.
        "ContainerConfig": configuration(config),
        "Architecture": facts.arch, "Os": "linux",
        "Size": facts.size.0, "VirtualSize": facts.size.0,
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "RootFS": { "Type": "layers", "Layers": [facts.digest] },
        "Metadata": { "LastTagTime": created },
    })))
}

fn configuration(config: &ContainerConfig) -> Value {
    let words = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    json!({
        "Hostname": "", "Domainname": "", "User": config.user.clone().unwrap_or_default(),
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": config.env, "Cmd": words(&config.command), "Image": "", "Volumes": Map::new(),
        "WorkingDir": config.workdir.clone().unwrap_or_default(), "Entrypoint": words(&config.entrypoint), "OnBuild": null,
        "Labels": config.labels, "StopSignal": config.stop_signal,
    })
}

/// Says what an image was made of: as far as the cloud knows, of one thing.
pub(crate) async fn history(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let image = ask.cloud.image(text).await?;
    Ok(ok(&json!([{
        "Id": image.status.facts.digest, "Created": image.metadata.created.timestamp(), "CreatedBy": image.spec.source,
        "Tags": [reference::of(&image)], "Size": image.status.facts.size.0, "Comment": "",
    }])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        assert!(
            glob("web", "web")
                && glob("we*", "web:latest")
                && glob("*:latest", "web:latest")
                && glob("w*:l*t", "web:latest")
        );
        assert!(!glob("web", "web2") && !glob("*:old", "web:latest") && !glob("a*", "web"));
    }
}
