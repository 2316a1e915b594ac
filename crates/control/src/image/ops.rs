//! What the API asks of images.

use super::{locate, locate_own, work};
use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    instance::{catch_up, ops::link_failed},
    operation::reference,
    rows::ImageRow,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{io, sync::Arc};
use yun_api::{
    cloud::{ImageCreate, ImageOrigin, UploadQuery},
    node::{ImageInput, ImportRequest, LinkError},
};
use yun_store::{Row, Table, Txn, commit};
use yun_types::{
    ContainerConfig, Event, ExportFormat, Image, Labels, Name, ObjectKind, Operation, OperationKind, RegistryPull,
    Severity,
};

/// How often a change is tried again when others were faster.
const ATTEMPTS: usize = 16;
/// How many instances a refusal names.
const NAMED: usize = 5;

/// Makes an image from packages or from a URL.
pub async fn create(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    body: ImageCreate,
) -> Result<Operation, Refusal> {
    let ImageCreate { name, labels, source } = body;
    let (kind, source, what) = match source {
        ImageOrigin::Build { recipe } => {
            (OperationKind::ImageBuild, format!("recipe {}", recipe.base), work::Task::Build(recipe))
        }
        ImageOrigin::Url { url, format, checksum } => {
            check_url(&url)?;
            let request = ImportRequest { format, checksum, config: None };
            (OperationKind::ImageImport, url.clone(), work::Task::Import(ImageInput::Url(url), request))
        }
        ImageOrigin::Registry { pull } => {
            check_pull(&pull)?;
            let source = pull.reference.to_string();
            let task = work::Task::Import(ImageInput::Registry(Box::new(pull)), ImportRequest::default());
            (OperationKind::ImagePull, source, task)
        }
    };
    let replaces = kind == OperationKind::ImagePull;
    let draft = work::Draft { project: project.clone(), name, labels, source, replaces };
    let started = work::start(c, caller, kind, draft, what).await?;
    // It goes on whether or not anybody waits.
    Ok(started.detach())
}

/// Takes an image in from a request's body. Answers when it is done; if the request is given up, so is the import.
pub async fn upload(
    c: &Arc<Control>,
    caller: &Caller,
    project: &Name,
    query: UploadQuery,
    bytes: BoxStream<'static, io::Result<Bytes>>,
) -> Result<Operation, Refusal> {
    let (entrypoint, command) =
        (words("entrypoint", query.entrypoint.as_deref())?, words("command", query.command.as_deref())?);
    let whole: Option<ContainerConfig> = query.config.as_deref().map(config_text).transpose()?;
    let parts = (entrypoint.is_some() || command.is_some()).then(|| ContainerConfig {
        entrypoint: entrypoint.unwrap_or_default(),
        command: command.unwrap_or_default(),
        ..ContainerConfig::default()
    });
    let config = whole.or(parts);
    let request = ImportRequest { format: query.format, checksum: query.checksum, config };
    let source = query.source.unwrap_or_else(|| "upload".into());
    let draft =
        work::Draft { project: project.clone(), name: query.name, labels: Labels::new(), source, replaces: false };
    let started = work::start(
        c,
        caller,
        OperationKind::ImageImport,
        draft,
        work::Task::Import(ImageInput::Upload(bytes), request),
    )
    .await?;
    let id = started.id();
    started.finished().await;
    crate::operation::ops::find(c, caller, id).await
}

fn config_text(json: &str) -> Result<ContainerConfig, Refusal> {
    serde_json::from_str(json).map_err(|e| {
        let text = format!("config is no container configuration: {e}; write an object, as in {{\"command\":[\"sh\"],\"env\":[\"A=1\"]}}");
        Refusal::bad_request("Invalid", text)
    })
}

fn check_url(url: &str) -> Result<(), Refusal> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && !url.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Ok(());
    }
    let shown: String = url.chars().take(120).collect();
    Err(Refusal::bad_request(
        "Invalid",
        format!("url {shown:?} is not usable: write it whole, as in https://example.org/image.qcow2"),
    ))
}

/// Passwords go where nobody reads them on the way, unless that is said.
fn check_pull(pull: &RegistryPull) -> Result<(), Refusal> {
    let Some(credentials) = &pull.credentials else { return Ok(()) };
    let odd = |text: &str| text.is_empty() || text.len() > 8192 || text.chars().any(char::is_control);
    if odd(&credentials.user) || credentials.user.contains(':') || odd(credentials.password.reveal()) {
        return Err(Refusal::bad_request(
            "Invalid",
            format!(
                "the credentials for {} are not usable: a user without a colon and a password, both of one line",
                pull.reference.registry()
            ),
        ));
    }
    Ok(())
}

fn words(field: &str, json: Option<&str>) -> Result<Option<Vec<String>>, Refusal> {
    let Some(json) = json else { return Ok(None) };
    serde_json::from_str(json).map(Some).map_err(|_| {
        Refusal::bad_request(
            "Invalid",
            format!("{field} {json:?} is not a JSON list of words: write it as in [\"/bin/sh\",\"-c\",\"date\"]"),
        )
    })
}

/// Finds an image by name, id or the start of its digest.
pub async fn find(c: &Arc<Control>, project: &Name, image: &str) -> Result<Arc<Row<ImageRow>>, Refusal> {
    locate(c, project, image)
}

/// Reads an image's content again and compares it with its digest.
pub async fn verify(c: &Arc<Control>, _caller: &Caller, project: &Name, image: &str) -> Result<Image, Refusal> {
    let row = locate(c, project, image)?;
    let (name, digest) = (row.value.0.metadata.name.clone(), row.value.0.status.facts.digest.clone());
    let owner = row.value.0.metadata.project.clone().unwrap_or_else(|| project.clone());
    let (_, link) = work::image_node(c)?;
    link.verify_image(digest).await.map_err(|e| match e {
        LinkError::Refused(failure) => {
            Refusal::conflict(failure.code, format!("image {name} is not as it was: {}", failure.message))
        }
        e => link_failed(e, &format!("verify image {name}")),
    })?;
    let at = [owner.as_str(), name.as_str()];
    let now = c.clock.now();
    let written = c.images.table.modify(&at, |row| {
        row.0.status.verified = Some(now);
        true
    });
    let row = written.await?;
    c.images.cache.wait_for(row.rev).await?;
    let mut shown = row.value.0;
    shown.metadata.revision = row.rev.to_string();
    Ok(shown)
}

/// Gives an image out.
pub async fn export(
    c: &Arc<Control>,
    project: &Name,
    image: &str,
    format: Option<ExportFormat>,
) -> Result<BoxStream<'static, io::Result<Bytes>>, Refusal> {
    let row = locate(c, project, image)?;
    let (name, digest) = (row.value.0.metadata.name.to_string(), row.value.0.status.facts.digest.clone());
    let (_, link) = work::image_node(c)?;
    link.export_image(digest, format, name.clone()).await.map_err(|e| match e {
        LinkError::Refused(failure) => {
            Refusal::conflict(failure.code, format!("cannot export image {name}: {}", failure.message))
        }
        e => link_failed(e, &format!("export image {name}")),
    })
}

/// Removes an image that no instance uses.
pub async fn delete(c: &Arc<Control>, _caller: &Caller, project: &Name, image: &str) -> Result<(), Refusal> {
    for _ in 0..ATTEMPTS {
        let row = locate_own(c, project, image)?;
        refuse_if_used(c, project, &row.value.0)?;
        let at = [project.as_str(), row.value.0.metadata.name.as_str()];
        // Who creates an instance compares the image's revision: after this nobody can.
        let txn = Txn::new().when(Table::<ImageRow>::cmp_rev(&at, row.rev)).then(Table::<ImageRow>::op_del(&at));
        match commit(&*c.store, txn).await {
            Ok(out) => {
                c.images.cache.wait_for(out.rev).await?;
                let object = reference(ObjectKind::Image, &row.value.0.metadata);
                c.events.record(|sequence, at| Event {
                    sequence,
                    at,
                    object,
                    severity: Severity::Normal,
                    reason: "Deleted".into(),
                    message: "nothing of it is left in the catalogue".into(),
                });
                return Ok(());
            }
            Err(e) if e.is_conflict() => catch_up(c, &e).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("Conflict", format!("image {image} changes all the time: try again")))
}

fn refuse_if_used(c: &Control, project: &Name, image: &Image) -> Result<(), Refusal> {
    let digest = &image.status.facts.digest;
    // Another name keeps the content; then only those made from this very entry count.
    let kept = c
        .images
        .cache
        .all(&[])
        .iter()
        .any(|row| row.value.0.metadata.id != image.metadata.id && row.value.0.status.facts.digest == *digest);
    let users: Vec<_> = c
        .instances
        .cache
        .all(&[])
        .into_iter()
        .filter(|row| {
            row.value
                .0
                .status
                .image
                .as_ref()
                .is_some_and(|pin| pin.id.0 == image.metadata.id || (!kept && pin.digest == *digest))
        })
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    let (ours, others): (Vec<_>, Vec<_>) =
        users.iter().partition(|row| row.value.0.metadata.project.as_ref() == Some(project));
    let mut names: Vec<String> = ours.iter().take(NAMED).map(|row| row.value.0.metadata.name.to_string()).collect();
    if ours.len() > NAMED {
        names.push(format!("{} more", ours.len() - NAMED));
    }
    let of_others = match others.len() {
        0 => String::new(),
        // Whoever deletes may not know the other projects.
        n if names.is_empty() => format!("{n} of other projects"),
        n => format!(" and {n} of other projects"),
    };
    let (plural, pronoun) = if users.len() == 1 { ("", "it") } else { ("s", "them") };
    Err(Refusal::conflict(
        "ImageInUse",
        format!(
            "image {} is used by instance{plural} {}{of_others}: delete {pronoun} first",
            image.metadata.name,
            names.join(", ")
        ),
    ))
}
