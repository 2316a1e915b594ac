//! `docker images`: the images of the project's catalogue that containers start from.

mod load;
mod pull;
mod show;

pub(super) use load::load;
pub(super) use pull::pull;
pub(super) use show::{history, inspect, list, summaries};

use super::{
    body::{Body, ok},
    fault::{Answer, Fault},
    reference,
    server::Ask,
};
use http::Response;
use serde_json::json;

/// Packs images.
pub(super) async fn save(_ask: Ask) -> Answer<Response<Body>> {
    Err(Fault::unsupported("docker save is not supported by this yun: keep the archive that the image was loaded from"))
}

/// Gives an image another name.
pub(super) async fn tag(_ask: Ask, _text: &str) -> Answer<Response<Body>> {
    Err(Fault::unsupported("docker tag is not supported by this yun: load the archive again under the other name"))
}

/// Removes an image.
pub(super) async fn remove(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let image = ask.cloud.image(text).await?;
    let request =
        ask.cloud.client.image_delete().project(ask.cloud.project.clone()).image(image.metadata.id.to_string());
    if let Err(error) = request.send().await {
        let fault = Fault::from(error);
        let message = format!("conflict: unable to remove repository reference \"{text}\": {}", fault.message);
        return Err(if fault.status == http::StatusCode::CONFLICT { Fault::conflict(message) } else { fault });
    }
    Ok(ok(&json!([{ "Untagged": reference::of(&image) }, { "Deleted": image.status.facts.digest }])))
}

/// Removes images that nobody uses: none, since each image here has a name and may be wanted.
pub(super) async fn prune(ask: Ask) -> Answer<Response<Body>> {
    let filters = super::filters::Filters::read(&ask.query, &["dangling", "label", "until"])?;
    if !filters.any("dangling", |only| only != "false" && only != "0") {
        return Err(Fault::unsupported(
            "docker image prune -a is not supported by yun: remove images by name, with docker rmi",
        ));
    }
    Ok(ok(&json!({ "ImagesDeleted": [], "SpaceReclaimed": 0 })))
}
