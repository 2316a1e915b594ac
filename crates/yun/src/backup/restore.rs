//! Bringing things back: an instance as a new one with the old one's data, the state while the server is down.

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use std::{io::Write, time::Duration};
use yun_api::cloud::{InstanceAction, InstanceCreate};
use yun_backup::{Backup, Repository};
use yun_drivers::ImageDriver as _;
use yun_linux::{backup::Unpacking, host::Host, image::LinuxImages};
use yun_store::{Existing, SqliteStore};
use yun_types::{Instance, InstanceId, InstanceKind, Name, Power};

use super::{args::RestoreArgs, human};
use crate::{
    cli::{Cloud, Code, Explained as _, args::Global, follow, output},
    server::Marker,
};

/// How long the pieces may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Brings a backup back.
pub(super) async fn restore(global: &Global, host: &Host, repository: &Repository, args: RestoreArgs) -> Result<Code> {
    let backup = repository.find(&args.backup).await?;
    if backup.series == "state" {
        anyhow::ensure!(args.name.is_none(), "the state has no name: leave --as out");
        return state(host, repository, &backup).await;
    }
    instance(&Cloud::connect(global)?, host, repository, &backup, args).await
}

async fn state(host: &Host, repository: &Repository, backup: &Backup) -> Result<Code> {
    if let Some(marker) = Marker::find(host) {
        bail!(
            "the server runs (pid {}): the state is brought back while it is down (yun down, then this again)",
            marker.process.pid
        );
    }
    let bytes = whole(repository, backup).await?;
    let directory = host.state().join("state");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let rev =
        tokio::task::spawn_blocking(move || SqliteStore::restore(&directory, &bytes[..], Existing::Replace)).await??;
    output::print_line(&format!(
        "the state is that of {} ({}, revision {rev}); start the server with yun up",
        backup.created.format("%Y-%m-%d %H:%M:%S UTC"),
        backup.id
    ))?;
    Ok(0)
}

/// The only stream of a backup, in memory, compared with its hash.
pub(super) async fn whole(repository: &Repository, backup: &Backup) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for stream in &backup.streams {
        let pieces: Vec<bytes::Bytes> = repository.read(stream).try_collect().await?;
        bytes = pieces.concat();
        anyhow::ensure!(
            bytes.len() as u64 == stream.size,
            "backup {} is not whole: {} of {} bytes came",
            backup.id,
            bytes.len(),
            stream.size
        );
    }
    Ok(bytes)
}

/// Gives the data of a backup to a directory.
pub(super) async fn pour(repository: &Repository, backup: &Backup, mut into: Unpacking) -> Result<Unpacking> {
    for stream in &backup.streams {
        let mut pieces = std::pin::pin!(repository.read(stream));
        while let Some(piece) = pieces.try_next().await? {
            into = tokio::task::spawn_blocking(move || into.write_all(&piece).map(|()| into))
                .await?
                .context("cannot unpack the data")?;
        }
    }
    Ok(into)
}

async fn instance(
    cloud: &Cloud,
    host: &Host,
    repository: &Repository,
    backup: &Backup,
    args: RestoreArgs,
) -> Result<Code> {
    let old: Instance = serde_json::from_value(backup.about.clone())
        .with_context(|| format!("backup {} is of a version of yun that this one does not know", backup.id))?;
    let name = args.name.clone().unwrap_or_else(|| old.metadata.name.clone());
    let project = old.metadata.project.clone().unwrap_or_else(Name::default_project);
    let pin = old
        .status
        .image
        .clone()
        .with_context(|| format!("backup {} names no image: its instance never had one", backup.id))?;
    let digest = pin.digest.to_string();
    let image = cloud
        .client
        .image_get()
        .project(project.clone())
        .image(digest.clone())
        .send()
        .await
        .explained()
        .with_context(|| {
            format!(
                "backup {} stands on image {} ({}), which is not here: import, pull or build the same content first",
                backup.id,
                pin.name,
                pin.digest.short()
            )
        })?;
    let kind = old.spec.kind.unwrap_or(InstanceKind::Container);
    let mut spec = old.spec.clone();
    (spec.power, spec.image, spec.node) = (Power::Stopped, image.metadata.name.to_string(), None);
    if args.no_publish {
        spec.publish.clear();
    }
    let body = InstanceCreate { name: name.clone(), labels: old.metadata.labels.clone(), spec };
    let key = format!("restore-{}", uuid::Uuid::new_v4());
    let request = cloud.client.instance_create().project(project.clone()).idempotency_key(key).body(body);
    let operation = request.send().await.explained()?;
    let id = InstanceId(operation.spec.target.id);
    follow(cloud, operation, PATIENCE).await?;
    let put = put_back(host, repository, backup, id, kind, &pin.digest).await;
    if let Err(e) = put {
        // Half an instance is none.
        let gone = cloud
            .client
            .instance_delete()
            .project(project.clone())
            .instance(yun_types::NameOrId::Name(name.clone()))
            .send()
            .await;
        let left = if gone.is_ok() { "" } else { "; remove the instance with yun rm" };
        return Err(e.context(format!("cannot bring instance {name} back from {}{left}", backup.id)));
    }
    if !args.stopped {
        let request =
            cloud.client.instance_action().project(project.clone()).instance(yun_types::NameOrId::Name(name.clone()));
        let operation = request.action(InstanceAction::Start).send().await.explained()?;
        follow(cloud, operation, PATIENCE).await?;
    }
    let how = if args.stopped { "is there, stopped" } else { "runs" };
    output::print_line(&format!(
        "instance {name} {how}: the data of {} ({}, {})",
        backup.created.format("%Y-%m-%d %H:%M:%S UTC"),
        backup.id,
        human(backup.size())
    ))?;
    Ok(0)
}

async fn put_back(
    host: &Host,
    repository: &Repository,
    backup: &Backup,
    id: InstanceId,
    kind: InstanceKind,
    image: &yun_types::Digest,
) -> Result<()> {
    let base = LinuxImages::new(host, Default::default()).open(image).await?.disk;
    let unpacking = yun_linux::backup::unpack(host, id, kind).context("cannot unpack the data")?;
    let unpacking = pour(repository, backup, unpacking).await?;
    tokio::task::spawn_blocking(move || unpacking.finish(base.as_deref()))
        .await?
        .context("cannot put the data in its place")?;
    Ok(())
}
