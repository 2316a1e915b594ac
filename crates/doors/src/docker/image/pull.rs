//! `docker pull`: the cloud fetches, and its progress is told in Docker's words.

use super::super::{
    body::{Body, line, streamed},
    cloud::{Cloud, failure},
    fault::{Answer, Fault},
    reference,
    server::Ask,
};
use base64::{Engine, engine::general_purpose};
use bytes::Bytes;
use futures::{SinkExt, channel::mpsc};
use http::{HeaderMap, Response};
use serde::Deserialize;
use serde_json::json;
use yun_api::cloud::{ImageCreate, ImageOrigin};
use yun_types::{OperationState, Password, Reference, RegistryCredentials, RegistryPull};

/// Seconds that one look at the progress waits for news.
const LOOK: u32 = 20;

/// Fetches an image.
pub(crate) async fn pull(ask: Ask) -> Answer<Response<Body>> {
    if ask.query.get("fromSrc").is_some() {
        return Err(Fault::unsupported("docker import is not supported by yun: use yun image import NAME FILE"));
    }
    let name = ask.query.get("fromImage").unwrap_or_default();
    let text = match ask.query.get("tag") {
        Some(tag) if tag.starts_with("sha256:") => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let wanted: Reference = text.parse().map_err(|e: yun_types::Invalid| Fault::bad(e.to_string()))?;
    if let Some(platform) = ask.query.get("platform").filter(|p| !p.starts_with("linux")) {
        return Err(Fault::bad(format!("platform {platform} is not supported by yun: leave --platform out")));
    }
    let credentials = credentials(ask.request.headers())?;
    let shown = reference::familiar(&wanted);
    let pull = RegistryPull { reference: wanted, credentials, insecure: false };
    let (cloud, door) = (ask.cloud.clone(), ask.door.clone());
    let (mut lines, answer) = mpsc::channel(16);
    door.spawn(async move {
        if let Err(fault) = fetch(&cloud, pull, &shown, &mut lines).await {
            let text = line(&json!({ "error": fault.message, "errorDetail": { "message": fault.message } }));
            let _ = lines.send(Ok(text)).await;
        }
    });
    Ok(streamed("application/json", answer))
}

type Lines = mpsc::Sender<std::io::Result<Bytes>>;

async fn fetch(cloud: &Cloud, pull: RegistryPull, shown: &str, lines: &mut Lines) -> Answer<()> {
    let version = pull.reference.version();
    let said = json!({ "status": format!("Pulling from {}", pull.reference.repository()), "id": version });
    let _ = lines.send(Ok(line(&said))).await;
    let here = cloud.image(shown).await.ok();
    // What came from elsewhere under this reference makes room, as in Docker.
    let stranger = here.as_ref().filter(|image| image.spec.source != pull.reference.to_string());
    let name = match (&here, stranger) {
        (Some(image), None) => image.metadata.name.clone(),
        _ => reference::image_name(&pull.reference, &cloud.images().await?),
    };
    if let Some(image) = stranger {
        let request = cloud.client.image_delete().project(cloud.project.clone()).image(image.metadata.id.to_string());
        request.send().await?;
    }
    let body = ImageCreate { name, labels: Default::default(), source: ImageOrigin::Registry { pull } };
    let request = cloud.client.image_create().project(cloud.project.clone()).body(body);
    let mut operation = request.send().await?.into_inner();
    let mut last = String::new();
    while !operation.status.state.ended() {
        let progress = &operation.status.progress;
        if !progress.message.is_empty() && progress.message != last {
            last.clone_from(&progress.message);
            let percent = progress.percent.map(|p| format!(" ({p}%)")).unwrap_or_default();
            let _ = lines.send(Ok(line(&json!({ "status": format!("{last}{percent}") })))).await;
        }
        let request = cloud
            .client
            .operation_get()
            .operation(operation.metadata.id)
            .wait(LOOK)
            .seen(operation.metadata.revision.clone());
        operation = request.send().await?.into_inner();
    }
    if operation.status.state != OperationState::Succeeded {
        return Err(failure(&operation));
    }
    let image = cloud.image(shown).await?;
    let new = here.is_none_or(|before| before.status.facts.digest != image.status.facts.digest);
    let word = if new { "Downloaded newer image for" } else { "Image is up to date for" };
    for said in [format!("Digest: {}", image.status.facts.digest), format!("Status: {word} {shown}")] {
        let _ = lines.send(Ok(line(&json!({ "status": said })))).await;
    }
    Ok(())
}

/// Who asks, as clients send it: JSON in base64.
fn credentials(headers: &HeaderMap) -> Answer<Option<RegistryCredentials>> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Auth {
        username: String,
        password: String,
        identitytoken: String,
    }
    let Some(text) = headers.get("x-registry-auth").and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let bad = || Fault::bad("the header X-Registry-Auth is not understood: clients make it from docker login");
    let text = text.trim_end_matches('=');
    let bytes = general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| general_purpose::STANDARD_NO_PAD.decode(text))
        .map_err(|_| bad())?;
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let auth: Auth = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if !auth.identitytoken.is_empty() {
        return Err(Fault::bad("identity tokens are not supported by yun: log in with a user and a password"));
    }
    let known = !auth.username.is_empty();
    Ok(known.then(|| RegistryCredentials { user: auth.username, password: Password::new(auth.password) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_in_each_form_of_base64() {
        let headers =
            |text: String| HeaderMap::from_iter([("x-registry-auth".parse().unwrap(), text.parse().unwrap())]);
        let json = r#"{"username":"ann","password":"s?>~"}"#;
        for text in [general_purpose::URL_SAFE.encode(json), general_purpose::STANDARD.encode(json)] {
            let who = credentials(&headers(text)).unwrap().unwrap();
            assert_eq!((who.user.as_str(), who.password.reveal()), ("ann", "s?>~"));
        }
        assert_eq!(credentials(&HeaderMap::new()).unwrap(), None);
        assert_eq!(credentials(&headers(general_purpose::URL_SAFE.encode("{}"))).unwrap(), None);
        assert!(credentials(&headers("!".into())).unwrap_err().message.contains("docker login"));
    }
}
