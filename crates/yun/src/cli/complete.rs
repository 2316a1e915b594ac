//! Completion with live names: asks the server, quickly or not at all.

use clap::Parser;
use clap_complete::CompletionCandidate;
use std::{ffi::OsStr, time::Duration};

use super::{args::Global, connect::Cloud};

/// How long a person who pressed Tab is willing to wait.
const PATIENCE: Duration = Duration::from_millis(800);

#[derive(Debug, Parser)]
struct Bare {
    #[command(flatten)]
    global: Global,
}

fn names(current: &OsStr, ask: impl AsyncFnOnce(Cloud) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    let Some(prefix) = current.to_str() else { return Vec::new() };
    // Flags on the half-written line are not known here; the environment and the context are.
    let Ok(bare) = Bare::try_parse_from(["yun"]) else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let found = runtime.block_on(async {
        let cloud = Cloud::connect(&bare.global).ok()?;
        tokio::time::timeout(PATIENCE, ask(cloud)).await.ok()?
    });
    found
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .map(CompletionCandidate::new)
        .collect()
}

/// Names of the project's instances.
pub(crate) fn instances(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page =
            cloud.client.instance_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of groups.
pub(crate) fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page = cloud.client.group_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of images.
pub(crate) fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page = cloud.client.image_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of nodes.
pub(crate) fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page = cloud.client.node_list().limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of projects.
pub(crate) fn projects(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page = cloud.client.project_list().limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of the project's networks.
pub(crate) fn networks(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page =
            cloud.client.network_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of snapshots, as `INSTANCE/SNAPSHOT`.
pub(crate) fn snapshots(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page =
            cloud.client.snapshot_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|s| format!("{}/{}", s.spec.instance, s.metadata.name)).collect())
    })
}

/// Names of the project's SSH keys.
pub(crate) fn ssh_keys(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page =
            cloud.client.ssh_key_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}

/// Names of the project's volumes.
pub(crate) fn volumes(current: &OsStr) -> Vec<CompletionCandidate> {
    names(current, async |cloud| {
        let page =
            cloud.client.volume_list().project(cloud.project.clone()).limit(1000).send().await.ok()?.into_inner();
        Some(page.items.into_iter().map(|i| i.metadata.name.to_string()).collect())
    })
}
