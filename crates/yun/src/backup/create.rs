//! Making backups: the state as the store gives it, then one instance after the other, each held still while it is read.

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use std::{collections::HashSet, io::Cursor, time::Duration};
use yun_backup::{Added, Backup, Progress, Repository, Stream};
use yun_linux::{backup::pack, host::Host};
use yun_store::snapshot::Decoder;
use yun_types::{Instance, InstanceId, InstanceKind, Timestamp};

use super::{held, human};
use crate::cli::{Cloud, Explained as _, explain, output};

/// What to back up.
#[derive(Debug, Clone, Default)]
pub(super) struct What {
    /// These; all if empty and `state` is not set.
    pub(super) instances: Vec<String>,
    /// The state.
    pub(super) state: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) made: Vec<Backup>,
    /// Why others were not made.
    pub(super) failed: Vec<String>,
}

/// Makes backups. An instance that cannot be backed up does not keep the others from it.
pub(super) async fn create(
    cloud: &Cloud,
    host: &Host,
    repository: &Repository,
    what: &What,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Done> {
    let lock = repository.lock("create").await?;
    let result = all(cloud, host, repository, what, say).await;
    lock.release().await?;
    result
}

async fn all(
    cloud: &Cloud,
    host: &Host,
    repository: &Repository,
    what: &What,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Done> {
    let freed = held::set_free(cloud, host).await?;
    if freed > 0 {
        eprintln!("{freed} instances that an earlier backup held still go on");
    }
    let instances = chosen(cloud, what).await?;
    let mut known = repository.known().await?;
    let mut done = Done::default();
    if what.state || what.instances.is_empty() {
        say("reading the state");
        done.made.push(state(cloud, repository, &mut known).await?);
    }
    for instance in &instances {
        let subject = subject(instance);
        match one(cloud, host, repository, instance, &mut known, say).await {
            Ok(backup) => done.made.push(backup),
            Err(e) => {
                done.failed.push(format!("cannot back up {subject}: {e:#}"));
                // A target that fails takes its memory of what is there with it.
                known = repository.known().await?;
            }
        }
    }
    Ok(done)
}

fn subject(instance: &Instance) -> String {
    let project = instance.metadata.project.as_ref().map_or("default", |p| p.as_str());
    format!("instance {project}/{}", instance.metadata.name)
}

async fn chosen(cloud: &Cloud, what: &What) -> Result<Vec<Instance>> {
    if what.instances.is_empty() && what.state {
        return Ok(Vec::new());
    }
    if what.instances.is_empty() {
        let (mut all, mut page) = (Vec::new(), None::<String>);
        loop {
            let mut request = cloud.client.instance_list().all_projects(true).limit(500);
            if let Some(token) = page {
                request = request.page_token(token);
            }
            let answer = request.send().await.explained()?;
            all.extend(answer.items);
            page = answer.next_page;
            if page.is_none() {
                return Ok(all);
            }
        }
    }
    let mut chosen = Vec::new();
    for word in &what.instances {
        let name: yun_types::NameOrId = word.parse()?;
        chosen
            .push(cloud.client.instance_get().project(cloud.project.clone()).instance(name).send().await.explained()?);
    }
    Ok(chosen)
}

/// The newest state, proved to be whole before it counts as a backup.
async fn state(cloud: &Cloud, repository: &Repository, known: &mut HashSet<String>) -> Result<Backup> {
    let body = cloud.client.state_snapshot().send().await.map_err(explain)?.into_inner().into_inner();
    let pieces: Vec<bytes::Bytes> = body.try_collect().await.context("the state did not arrive whole")?;
    let bytes = pieces.concat();
    let mut decoder = Decoder::new(&bytes[..])?;
    let mut records = 0_u64;
    while decoder.next()?.is_some() {
        records += 1;
    }
    let (epoch, revision) = (decoder.header().rev.epoch, decoder.header().rev.n);
    let (stream, added) = repository.store("state", Cursor::new(bytes), known, &Progress::default()).await?;
    let about = serde_json::json!({ "epoch": epoch, "revision": revision, "records": records });
    record(repository, "state".into(), "state".into(), stream, added, Duration::ZERO, about).await
}

async fn one(
    cloud: &Cloud,
    host: &Host,
    repository: &Repository,
    instance: &Instance,
    known: &mut HashSet<String>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Backup> {
    let id = InstanceId(instance.metadata.id);
    let kind = instance.spec.kind.unwrap_or(InstanceKind::Container);
    if !host.instance_dir(id).exists() && instance.status.state == yun_types::InstanceState::Running {
        bail!("it does not run on this machine: back it up on the node that it runs on");
    }
    let held = held::hold(cloud, host, instance).await?;
    let reading = async {
        let data = pack(host, id, kind).context("cannot read its data")?;
        let progress = Progress::default();
        let storing = repository.store("data", data, known, &progress);
        let mut storing = std::pin::pin!(storing);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                stored = &mut storing => return anyhow::Ok(stored?),
                _ = tick.tick() => say(&format!("{}: {} read, {} new", subject(instance), human(progress.read()), human(progress.added()))),
            }
        }
    };
    // Whatever came of the reading: it must go on.
    let read = reading.await;
    let stood = match held {
        Some(held) => held.release(cloud).await.context("it is paused and cannot be resumed: yun resume it")?,
        None => Duration::ZERO,
    };
    let (stream, added) = read?;
    let about = serde_json::to_value(instance)?;
    record(repository, subject(instance), instance.metadata.id.to_string(), stream, added, stood, about).await
}

async fn record(
    repository: &Repository,
    subject: String,
    series: String,
    stream: Stream,
    added: Added,
    stood: Duration,
    about: serde_json::Value,
) -> Result<Backup> {
    let created: Timestamp = output::now();
    let backup = Backup {
        id: format!("{}-{:04x}", created.format("%Y%m%dT%H%M%S"), rand::random::<u16>()),
        created,
        subject,
        series,
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        added: added.bytes,
        held_ms: u64::try_from(stood.as_millis()).unwrap_or(u64::MAX),
        about,
        streams: vec![stream],
    };
    repository.record(&backup).await?;
    Ok(backup)
}
