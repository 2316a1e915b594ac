//! `yun apply`, `yun diff` and `yun schema`: what is wanted stands in files, and this makes it so.
//!
//! The server checks and decides as for every other command; here is only the order (what others need comes first), the comparison, and the
//! words. Asked twice, the second time changes nothing.

pub(crate) mod args;
mod change;
mod difference;
pub(crate) mod manifest;

use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, time::Duration};
use yun_types::Name;

use super::{Code, args::Format, connect::Cloud, output};
use args::{ApplyArgs, FileArgs};
use change::{Change, Live};
use manifest::{Kind, Manifest};

/// The label that says to which set an object belongs.
const SET: &str = "yun.apply";

/// Makes it so.
pub(crate) async fn apply(cloud: &Cloud, args: ApplyArgs) -> Result<Code> {
    let changes = changes(cloud, &args.what).await?;
    let limit = (!args.detach).then(|| Duration::from_secs(args.wait));
    let mut told = Told::default();
    for change in &changes {
        let what = change.what();
        if !args.dry_run {
            change.carry_out(cloud, limit).await.with_context(|| match change.place() {
                Some(place) => format!("{place}: {} {}", change.kind(), change.name()),
                None => format!("{} {}", change.kind(), change.name()),
            })?;
        }
        told.tell(cloud, change, what, args.dry_run)?;
    }
    told.end(cloud)?;
    Ok(0)
}

/// Shows what `apply` would change. Ends with 1 if there is something.
pub(crate) async fn diff(cloud: &Cloud, what: &FileArgs) -> Result<Code> {
    let changes = changes(cloud, what).await?;
    let mut differs = false;
    for change in changes.iter().filter(|change| change.changes()) {
        differs = true;
        let project = change.project();
        output::print_line(&format!("--- {} {} (project {project}): {}", change.kind(), change.name(), change.what()))?;
        let (before, after) = change.texts()?;
        for line in difference::lines(&before, &after) {
            output::print_line(&line)?;
        }
    }
    Ok(u8::from(differs))
}

/// Prints the JSON schema of the files.
pub(crate) fn schema() -> Result<Code> {
    output::print_line(&serde_json::to_string_pretty(&manifest::schema())?)?;
    Ok(0)
}

/// Everything that is to be done, in order: what is wanted first, then what is not wanted any more, in reverse.
async fn changes(cloud: &Cloud, what: &FileArgs) -> Result<Vec<Change>> {
    let manifests = manifest::read(&what.files)?;
    let mut changes = Vec::new();
    for manifest in manifests.iter().cloned() {
        let place = manifest.place.clone();
        let change = Change::of(cloud, manifest, what.set.as_ref()).await.with_context(|| place)?;
        changes.push(change);
    }
    if let (true, Some(set)) = (what.prune, &what.set) {
        changes.extend(pruned(cloud, &manifests, set).await?);
    }
    Ok(changes)
}

async fn pruned(cloud: &Cloud, manifests: &[Manifest], set: &Name) -> Result<Vec<Change>> {
    let mut projects: Vec<Name> = manifests.iter().filter_map(|manifest| manifest.project.clone()).collect();
    projects.push(cloud.project.clone());
    projects.sort();
    projects.dedup();
    let mut goes = Vec::new();
    for project in projects {
        let there = Cloud { project: project.clone(), ..cloud.clone() };
        for (kind, name) in Live::labelled(&there, &format!("{SET}={set}")).await? {
            let kept = manifests.iter().any(|manifest| {
                manifest.kind == kind
                    && manifest.name == name
                    && manifest.project.as_ref().unwrap_or(&cloud.project) == &project
            });
            if !kept {
                goes.push(Change::removal(kind, name, project.clone()));
            }
        }
    }
    goes.sort_by_key(|change| std::cmp::Reverse(change.kind()));
    Ok(goes)
}

/// What was said until now.
#[derive(Debug, Default)]
struct Told {
    all: Vec<BTreeMap<&'static str, String>>,
}

impl Told {
    fn tell(&mut self, cloud: &Cloud, change: &Change, what: &'static str, dry_run: bool) -> Result<()> {
        let (kind, name) = (change.kind(), change.name());
        let would = if dry_run { " (dry run)" } else { "" };
        match cloud.output {
            Format::Table | Format::Wide if cloud.quiet && !change.changes() => Ok(()),
            Format::Table | Format::Wide => output::print_line(&format!("{kind} {name} {what}{would}")),
            Format::Name => output::print_line(&format!("{kind}/{name}")),
            Format::Json | Format::Yaml => {
                let entry = [("kind", kind.to_string()), ("name", name.to_string()), ("result", what.to_owned())];
                self.all.push(BTreeMap::from(entry));
                Ok(())
            }
        }
    }

    fn end(&self, cloud: &Cloud) -> Result<()> {
        match cloud.output {
            Format::Json | Format::Yaml => output::object(&self.all, cloud.output, ""),
            _ => Ok(()),
        }
    }
}

/// The kind of an object in front of it, so that what is shown can be applied.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Shown<'a, T> {
    kind: Kind,
    #[serde(flatten)]
    object: &'a T,
}

/// Prints an object in full, in a form that `apply` reads.
pub(crate) fn show<T: serde::Serialize>(kind: Kind, object: &T, format: Format, name: &str) -> Result<()> {
    match format {
        // Programs get what the API has.
        Format::Json | Format::Name => output::object(object, format, name),
        _ => output::object(&Shown { kind, object }, format, name),
    }
}
