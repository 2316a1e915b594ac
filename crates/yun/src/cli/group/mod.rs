//! Commands on groups: create, list, scale, change, follow a rollout, remove.

pub(crate) mod args;
mod follow;

use anyhow::Result;
use std::time::Duration;
use yun_api::cloud::{GroupCreate, GroupUpdate};
use yun_types::{Group, GroupSpec, InstanceSpec, InstanceTemplate, NameOrId, Timestamp, UpdatePolicy};

use super::{
    Code,
    apply::{self, manifest::Kind},
    args::Format,
    connect::{Cloud, Explained},
    launch, output, words,
};
use args::{CreateArgs, GroupCommand, LsArgs, RolloutCommand, SetArgs, UpdateArgs, WaitArgs};
pub(crate) use follow::{gone, settled};

/// Groups.
pub(crate) async fn run(cloud: &Cloud, command: GroupCommand) -> Result<Code> {
    match command {
        GroupCommand::Create(args) => create(cloud, *args).await,
        GroupCommand::Ls(args) => ls(cloud, args).await,
        GroupCommand::Show(one) => {
            let group = get(cloud, &one.group).await?;
            apply::show(Kind::Group, &group, cloud.output, group.metadata.name.as_str())?;
            Ok(0)
        }
        GroupCommand::Scale { group, replicas, wait } => {
            changed(cloud, &group, &wait, |spec| {
                spec.replicas = replicas;
                Ok(())
            })
            .await
        }
        GroupCommand::Set(args) => set(cloud, *args).await,
        GroupCommand::Restart { group, wait } => {
            changed(cloud, &group, &wait, |spec| {
                spec.round += 1;
                Ok(())
            })
            .await
        }
        GroupCommand::Rollout(command) => rollout(cloud, command).await,
        GroupCommand::Rm { groups, wait } => {
            for word in &groups {
                rm(cloud, word, &wait).await?;
            }
            Ok(0)
        }
    }
}

async fn rollout(cloud: &Cloud, command: RolloutCommand) -> Result<Code> {
    match command {
        RolloutCommand::Status { group, wait } => {
            let group = get(cloud, &group).await?;
            told(cloud, group, &wait).await
        }
        RolloutCommand::History(one) => {
            let group = get(cloud, &one.group).await?;
            let all: Vec<Revision> = group.status.revisions.iter().map(|r| Revision::of(&group, r)).collect();
            output::list(&all, cloud.output, "no revisions yet")?;
            Ok(0)
        }
        RolloutCommand::Undo { group, to, wait } => {
            let name: NameOrId = group.parse()?;
            let mut request = cloud.client.group_undo().project(cloud.project.clone()).group(name);
            if let Some(to) = to {
                request = request.to(to);
            }
            told(cloud, request.send().await.explained()?, &wait).await
        }
        RolloutCommand::Pause(one) => {
            let detach = WaitArgs { detach: true, wait: 0 };
            changed(cloud, &one.group, &detach, |spec| {
                spec.paused = true;
                Ok(())
            })
            .await
        }
        RolloutCommand::Resume { group, wait } => {
            changed(cloud, &group, &wait, |spec| {
                spec.paused = false;
                Ok(())
            })
            .await
        }
    }
}

/// The group that a word means.
pub(crate) async fn get(cloud: &Cloud, word: &str) -> Result<Group> {
    let name: NameOrId = word.parse()?;
    cloud.client.group_get().project(cloud.project.clone()).group(name).send().await.explained()
}

async fn create(cloud: &Cloud, args: CreateArgs) -> Result<Code> {
    anyhow::ensure!(
        !args.container.interactive && !args.container.tty,
        "instances of a group are alike and nobody is attached to one: leave -i and -t out, or use yun launch -it"
    );
    let labels = words::labels(&args.label)?;
    let vm = launch::vm_options(&args.vm, launch::makes_vms(cloud, &args.image).await).await?;
    let spec = InstanceSpec {
        size: args.size.unwrap_or_default(),
        restart: args.restart.unwrap_or_default(),
        publish: args.publish,
        container: launch::container_options(args.container)?,
        vm,
        ..launch::of_image(&args.image)
    };
    let mut update = UpdatePolicy::default();
    updated(&mut update, &args.update);
    let spec = GroupSpec {
        replicas: args.replicas,
        template: InstanceTemplate { labels: labels.clone(), spec },
        update,
        paused: false,
        round: 0,
    };
    let key = format!("group-{}", uuid::Uuid::new_v4());
    let body = GroupCreate { name: args.name, labels, spec };
    let request = cloud.client.group_create().project(cloud.project.clone()).idempotency_key(key).body(body);
    told(cloud, request.send().await.explained()?, &args.wait).await
}

fn updated(policy: &mut UpdatePolicy, args: &UpdateArgs) {
    policy.max_unavailable = args.max_unavailable.unwrap_or(policy.max_unavailable);
    policy.max_surge = args.max_surge.unwrap_or(policy.max_surge);
    policy.min_ready_seconds = args.min_ready.unwrap_or(policy.min_ready_seconds);
    policy.deadline_seconds = args.deadline.unwrap_or(policy.deadline_seconds);
    policy.rollback = args.rollback.unwrap_or(policy.rollback);
}

async fn set(cloud: &Cloud, args: SetArgs) -> Result<Code> {
    changed(cloud, &args.group, &args.wait, |spec| {
        updated(&mut spec.update, &args.update);
        spec.replicas = args.replicas.unwrap_or(spec.replicas);
        let template = &mut spec.template.spec;
        if let Some(image) = &args.image {
            template.image.clone_from(image);
            template.kind = None;
        }
        if let Some(change) = &args.size {
            template.size = template.size.with(change)?;
        }
        template.restart = args.restart.unwrap_or(template.restart);
        words::change_environment(&mut template.container.env, &args.env)?;
        if !args.command.is_empty() {
            template.container.command = Some(args.command.clone());
        }
        Ok(())
    })
    .await
}

/// Changes the spec of a group, and waits for what comes of it.
async fn changed(
    cloud: &Cloud,
    word: &str,
    wait: &WaitArgs,
    change: impl FnOnce(&mut GroupSpec) -> Result<()>,
) -> Result<Code> {
    let Group { metadata, mut spec, .. } = get(cloud, word).await?;
    change(&mut spec)?;
    let request = cloud
        .client
        .group_update()
        .project(cloud.project.clone())
        .group(metadata.name.clone())
        .if_match(metadata.revision);
    let group = request.body(GroupUpdate { labels: metadata.labels, spec }).send().await.explained()?;
    told(cloud, group, wait).await
}

/// Waits until the group is as it is wanted, and says so.
async fn told(cloud: &Cloud, group: Group, wait: &WaitArgs) -> Result<Code> {
    let name = group.metadata.name.clone();
    let group = match wait.detach {
        true => group,
        false => settled(cloud, group, Duration::from_secs(wait.wait)).await?,
    };
    if !matches!(cloud.output, Format::Table | Format::Wide) {
        output::object(&group, cloud.output, name.as_str())?;
        return Ok(0);
    }
    if cloud.quiet || wait.detach {
        output::print_line(name.as_str())?;
        return Ok(0);
    }
    let status = &group.status;
    output::print_line(&format!(
        "group {name} {}: {} of {} available, revision {}",
        status.state, status.available, group.spec.replicas, status.revision
    ))?;
    Ok(0)
}

async fn ls(cloud: &Cloud, args: LsArgs) -> Result<Code> {
    let groups = all(cloud, args.all_projects, args.label.as_deref()).await?;
    let format = if args.all_projects && cloud.output == Format::Table { Format::Wide } else { cloud.output };
    output::list(&groups, format, "no groups: make one with yun group create NAME --image IMAGE --replicas 3")?;
    Ok(0)
}

/// All groups of the project, or of all projects.
pub(crate) async fn all(cloud: &Cloud, all_projects: bool, label: Option<&str>) -> Result<Vec<Group>> {
    let (mut all, mut token): (Vec<Group>, Option<String>) = (Vec::new(), None);
    loop {
        let mut request =
            cloud.client.group_list().project(cloud.project.clone()).all_projects(all_projects).limit(500);
        if let Some(label) = label {
            request = request.label(label.to_owned());
        }
        if let Some(token) = token.take() {
            request = request.page_token(token);
        }
        let page = request.send().await.explained()?;
        all.extend(page.items);
        token = page.next_page;
        if token.is_none() {
            return Ok(all);
        }
    }
}

async fn rm(cloud: &Cloud, word: &str, wait: &WaitArgs) -> Result<()> {
    let name: NameOrId = word.parse()?;
    let group = cloud.client.group_delete().project(cloud.project.clone()).group(name).send().await.explained()?;
    if !wait.detach {
        gone(cloud, &group, Duration::from_secs(wait.wait)).await?;
    }
    if cloud.quiet { Ok(()) } else { output::print_line(word) }
}

/// Says why a group is as it is.
pub(crate) async fn explain(cloud: &Cloud, word: &str) -> Result<Code> {
    let name: NameOrId = word.parse()?;
    let why = cloud.client.group_explain().project(cloud.project.clone()).group(name).send().await.explained()?;
    if !matches!(cloud.output, Format::Table | Format::Wide) {
        output::object(&why, cloud.output, word)?;
        return Ok(0);
    }
    output::print_line(&why.summary)?;
    for member in &why.members {
        let node = member.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        output::print_line(&format!("  {}  revision {}  {}{node}", member.name, member.revision, member.standing))?;
    }
    for step in &why.steps {
        output::print_line(&format!("  next: {step}"))?;
    }
    Ok(0)
}

/// A revision in a list.
#[derive(Debug, serde::Serialize)]
struct Revision {
    number: u64,
    created: Timestamp,
    state: String,
    image: String,
    command: String,
}

impl Revision {
    fn of(group: &Group, revision: &yun_types::GroupRevision) -> Self {
        let status = &group.status;
        let mut words = Vec::new();
        if revision.number == status.revision {
            words.push("wanted".to_owned());
        }
        match &revision.failed {
            Some(why) => words.push(format!("failed: {why}")),
            None if revision.good => words.push("good".to_owned()),
            None => words.push("not proven".to_owned()),
        }
        let spec = &revision.template.spec;
        let command = spec.container.command.as_ref().map_or_else(|| "-".to_owned(), |words| words.join(" "));
        Self {
            number: revision.number,
            created: revision.created,
            state: words.join(", "),
            image: spec.image.clone(),
            command,
        }
    }
}

impl output::Listed for Revision {
    const COLUMNS: &'static [&'static str] = &["REVISION", "AGE", "IMAGE", "COMMAND", "STATE"];
    const NARROW: usize = 5;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![self.name(), output::age(self.created, now), self.image.clone(), self.command.clone(), self.state.clone()]
    }
    fn name(&self) -> String {
        self.number.to_string()
    }
}

impl output::Listed for Group {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "STATE", "AVAILABLE", "UPDATED", "REVISION", "IMAGE", "AGE", "PROJECT", "MESSAGE"];
    const NARROW: usize = 7;
    const STATE: Option<usize> = Some(1);
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = &self.status;
        vec![
            self.name(),
            status.state.to_string(),
            format!("{}/{}", status.available, self.spec.replicas),
            status.updated.to_string(),
            status.revision.to_string(),
            self.spec.template.spec.image.clone(),
            output::age(self.metadata.created, now),
            self.metadata.project.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            status.message.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}
