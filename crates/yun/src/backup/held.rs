//! Instances that are held still for a backup. Written down before one is paused, so that it goes on even if the backup is killed: the next
//! backup, and the server within seconds, set free what a dead process held.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf, time::Duration};
use yun_api::cloud::InstanceAction;
use yun_linux::{daemon::ProcessId, host::Host};
use yun_types::{Instance, InstanceState, Name, NameOrId};

use crate::cli::{Cloud, Explained as _, follow};

/// How long a pause or a resume may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    by: ProcessId,
    project: Name,
    id: NameOrId,
}

fn directory(host: &Host) -> PathBuf {
    host.state().join("backup/held")
}

/// An instance that is paused, and since when.
#[derive(Debug)]
pub(super) struct Held {
    note: PathBuf,
    project: Name,
    id: NameOrId,
    since: std::time::Instant,
}

/// Holds an instance still if it runs.
pub(super) async fn hold(cloud: &Cloud, host: &Host, instance: &Instance) -> Result<Option<Held>> {
    if instance.status.state != InstanceState::Running {
        return Ok(None);
    }
    let project = instance.metadata.project.clone().unwrap_or_else(Name::default_project);
    let id: NameOrId = instance.metadata.id.to_string().parse()?;
    let note = directory(host).join(instance.metadata.id.to_string());
    let by = ProcessId::current().context("cannot read /proc/self: is /proc mounted?")?;
    fs::create_dir_all(directory(host))
        .and_then(|()| fs::write(&note, serde_json::to_vec(&Note { by, project: project.clone(), id: id.clone() })?))
        .with_context(|| format!("cannot write {}", note.display()))?;
    let held = Held { note, project, id, since: std::time::Instant::now() };
    match act(cloud, &held.project, &held.id, InstanceAction::Pause).await {
        Ok(()) => Ok(Some(held)),
        Err(e) => {
            // It may be paused all the same.
            held.release(cloud).await.ok();
            Err(e)
        }
    }
}

impl Held {
    /// Lets it go on; how long it stood still.
    pub(super) async fn release(self, cloud: &Cloud) -> Result<Duration> {
        act(cloud, &self.project, &self.id, InstanceAction::Resume).await?;
        let stood = self.since.elapsed();
        fs::remove_file(&self.note).with_context(|| format!("cannot remove {}", self.note.display()))?;
        Ok(stood)
    }
}

async fn act(cloud: &Cloud, project: &Name, id: &NameOrId, action: InstanceAction) -> Result<()> {
    let request = cloud.client.instance_action().project(project.clone()).instance(id.clone()).action(action);
    let operation = request.send().await.explained()?;
    follow(cloud, operation, PATIENCE).await.map(drop)
}

/// Sets free what a dead process held. Says how many.
pub(super) async fn set_free(cloud: &Cloud, host: &Host) -> Result<usize> {
    let mut freed = 0;
    for entry in fs::read_dir(directory(host)).into_iter().flatten().flatten() {
        let Some(note) = fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok())
        else {
            // A note that is not whole was written before anything was paused.
            fs::remove_file(entry.path()).ok();
            continue;
        };
        if note.by.lives() {
            continue;
        }
        let found = cloud.client.instance_get().project(note.project.clone()).instance(note.id.clone()).send().await;
        if found.is_ok_and(|instance| instance.status.state == InstanceState::Paused) {
            act(cloud, &note.project, &note.id, InstanceAction::Resume).await?;
            freed += 1;
        }
        fs::remove_file(entry.path()).ok();
    }
    Ok(freed)
}
