//! `yun snapshot`: what instances were at one moment.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use std::time::Duration;
use yun_api::cloud::SnapshotCreate;
use yun_types::{Instance, Name, NameOrId, Snapshot, SnapshotName, Timestamp};

use super::{
    Code, complete,
    connect::{Cloud, Explained},
    follow::follow,
    instance, output,
    output::Listed,
    words,
};

/// How long a command waits for what a node does.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot of an instance
    #[command(
        after_help = "Examples:\n  yun snapshot create web                  its disk, named by the time\n  yun snapshot create vm1 warm --memory    with the memory of a running VM: a template that is up at once"
    )]
    Create(CreateArgs),
    /// List snapshots: those of an instance, or all of the project
    Ls {
        /// The instance
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: Option<String>,
    },
    /// Show a snapshot in full
    Show {
        /// INSTANCE/SNAPSHOT
        #[arg(add = ArgValueCompleter::new(complete::snapshots))]
        snapshot: SnapshotName,
    },
    /// Bring an instance back to a snapshot: what was written since is lost
    #[command(
        after_help = "Examples:\n  yun snapshot restore web/before\n  yun snapshot restore vm1/warm --disk-only    boots from its disk"
    )]
    Restore(RestoreArgs),
    /// Remove snapshots
    Rm {
        /// INSTANCE/SNAPSHOT, several if need be
        #[arg(required = true, add = ArgValueCompleter::new(complete::snapshots))]
        snapshots: Vec<SnapshotName>,
        /// Return at once with the operations' ids
        #[arg(long, short = 'd')]
        detach: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// The instance
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    instance: String,
    /// The snapshot's name [default: the time]
    name: Option<Name>,
    /// Keep the memory of a running VM too
    #[arg(long, short = 'm')]
    memory: bool,
    /// Free words, as in tier=web
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    detach: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// INSTANCE/SNAPSHOT
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    snapshot: SnapshotName,
    /// Leave the snapshot's memory alone: the instance boots from the snapshot's disk
    #[arg(long)]
    disk_only: bool,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    detach: bool,
}

impl Listed for Snapshot {
    const COLUMNS: &'static [&'static str] =
        &["INSTANCE", "NAME", "STATE", "MEMORY", "SIZE", "AGE", "CONSISTENT", "INSTANCE SIZE", "ID"];
    const NARROW: usize = 6;
    const STATE: Option<usize> = Some(2);
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let facts = self.status.facts.as_ref();
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        vec![
            self.spec.instance.to_string(),
            self.metadata.name.to_string(),
            self.status.state.to_string(),
            yes(facts.map_or(self.spec.memory, |facts| facts.memory)),
            or_dash(facts.map(|facts| facts.size.human())),
            output::age(facts.map_or(self.metadata.created, |facts| facts.taken), now),
            or_dash(facts.map(|facts| yes(facts.consistent))),
            or_dash(self.status.instance_size.map(|size| size.to_string())),
            self.metadata.id.to_string(),
        ]
    }
    fn name(&self) -> String {
        format!("{}/{}", self.spec.instance, self.metadata.name)
    }
}

/// Carries out a command about snapshots.
pub(crate) async fn run(cloud: &Cloud, command: SnapshotCommand) -> Result<Code> {
    match command {
        SnapshotCommand::Create(args) => create(cloud, args).await,
        SnapshotCommand::Ls { instance } => ls(cloud, instance).await,
        SnapshotCommand::Show { snapshot } => {
            let found = find(cloud, &snapshot).await?;
            output::object(&found, cloud.output, &found.name())?;
            Ok(0)
        }
        SnapshotCommand::Restore(args) => restore(cloud, args).await,
        SnapshotCommand::Rm { snapshots, detach } => rm(cloud, &snapshots, detach).await,
    }
}

async fn create(cloud: &Cloud, args: CreateArgs) -> Result<Code> {
    let name = match args.name {
        Some(name) => name,
        None => output::now().format("at-%Y%m%d-%H%M%S").to_string().parse()?,
    };
    let body = SnapshotCreate { name: name.clone(), labels: words::labels(&args.label)?, memory: args.memory };
    let target: NameOrId = args.instance.parse()?;
    let key = format!("snapshot-{}", uuid::Uuid::new_v4());
    let request = cloud.client.snapshot_create().project(cloud.project.clone()).instance(target).idempotency_key(key);
    let operation = request.body(body).send().await.explained()?;
    if args.detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    let ended = follow(cloud, operation, PATIENCE).await?;
    output::print_line(&if cloud.quiet { ended.spec.target.name } else { ended.status.progress.message })?;
    Ok(0)
}

/// All snapshots of the project, or of one instance.
async fn all(cloud: &Cloud, instance: Option<String>) -> Result<Vec<Snapshot>> {
    let mut found: Vec<Snapshot> = Vec::new();
    let mut token: Option<String> = None;
    let target = instance.map(|word| word.parse::<NameOrId>()).transpose()?;
    loop {
        let page = match &target {
            Some(target) => {
                let mut request = cloud.client.instance_snapshot_list().project(cloud.project.clone());
                request = request.instance(target.clone()).limit(500);
                if let Some(token) = token.take() {
                    request = request.page_token(token);
                }
                request.send().await.explained()?
            }
            None => {
                let mut request = cloud.client.snapshot_list().project(cloud.project.clone()).limit(500);
                if let Some(token) = token.take() {
                    request = request.page_token(token);
                }
                request.send().await.explained()?
            }
        };
        found.extend(page.items);
        token = page.next_page;
        if token.is_none() {
            return Ok(found);
        }
    }
}

async fn ls(cloud: &Cloud, instance: Option<String>) -> Result<Code> {
    let mut found = all(cloud, instance).await?;
    found.sort_by(|a, b| (&a.spec.instance, a.metadata.created).cmp(&(&b.spec.instance, b.metadata.created)));
    output::list(&found, cloud.output, "no snapshots: take one with yun snapshot create INSTANCE")?;
    Ok(0)
}

/// The instance and the snapshot that a word means.
async fn resolve(cloud: &Cloud, word: &SnapshotName) -> Result<(NameOrId, NameOrId)> {
    if let Some(instance) = &word.instance {
        return Ok((NameOrId::Name(instance.clone()), NameOrId::Name(word.snapshot.clone())));
    }
    let mut found = all(cloud, None).await?;
    found.retain(|snapshot| snapshot.metadata.name == word.snapshot);
    match &found[..] {
        [one] => Ok((NameOrId::Id(one.spec.instance_id.0), NameOrId::Id(one.metadata.id))),
        [] => bail!("no instance has a snapshot {}: list what there is with: yun snapshot ls", word.snapshot),
        several => {
            let names: Vec<String> = several.iter().map(Listed::name).collect();
            bail!("several instances have a snapshot {}: say which, as in {}", word.snapshot, names.join(" or "))
        }
    }
}

async fn find(cloud: &Cloud, word: &SnapshotName) -> Result<Snapshot> {
    let (instance, snapshot) = resolve(cloud, word).await?;
    let request = cloud.client.snapshot_get().project(cloud.project.clone()).instance(instance).snapshot(snapshot);
    request.send().await.explained()
}

/// The instance that a snapshot was taken of.
pub(crate) async fn source(cloud: &Cloud, word: &SnapshotName) -> Result<Instance> {
    let found = find(cloud, word).await?;
    instance::get(cloud, &found.spec.instance_id.to_string())
        .await
        .with_context(|| format!("the instance of snapshot {word} cannot be found"))
}

async fn restore(cloud: &Cloud, args: RestoreArgs) -> Result<Code> {
    let (instance, snapshot) = resolve(cloud, &args.snapshot).await?;
    let key = format!("restore-{}", uuid::Uuid::new_v4());
    let request = cloud.client.snapshot_restore().project(cloud.project.clone()).instance(instance).snapshot(snapshot);
    let operation = request.disk_only(args.disk_only).idempotency_key(key).send().await.explained()?;
    if args.detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    let ended = follow(cloud, operation, PATIENCE).await?;
    output::print_line(&if cloud.quiet { ended.spec.target.name } else { ended.status.progress.message })?;
    Ok(0)
}

async fn rm(cloud: &Cloud, snapshots: &[SnapshotName], detach: bool) -> Result<Code> {
    for word in snapshots {
        let (instance, snapshot) = resolve(cloud, word).await?;
        let request =
            cloud.client.snapshot_delete().project(cloud.project.clone()).instance(instance).snapshot(snapshot);
        let operation = request.send().await.explained()?;
        if detach {
            output::print_line(&operation.metadata.id.to_string())?;
            continue;
        }
        follow(cloud, operation, PATIENCE).await?;
        if !cloud.quiet {
            output::print_line(&word.to_string())?;
        }
    }
    Ok(0)
}
