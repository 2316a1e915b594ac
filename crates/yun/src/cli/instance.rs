//! Commands on instances: list, show, act, change, remove, explain.

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::time::Duration;
use yun_api::cloud::{AnyObject, InstanceAction, InstanceUpdate, WatchEvent};
use yun_types::{Explanation, Instance, InstanceState, NameOrId, ObjectKind, Operation};

use super::{
    Code,
    apply::{self, manifest::Kind},
    args::{Format, LsArgs, ManyInstances, RmArgs, SetArgs},
    connect::{Cloud, Explained},
    container,
    events::lines,
    follow::follow,
    output, words,
};

/// How many requests run side by side when many instances are named.
const TOGETHER: usize = 16;

/// Lists instances.
pub(crate) async fn ls(cloud: &Cloud, args: LsArgs) -> Result<Code> {
    let (all, revision) = all(cloud, args.all_projects, args.label.as_deref()).await?;
    let format = if args.all_projects && cloud.output == Format::Table { Format::Wide } else { cloud.output };
    output::list(&all, format, "no instances: start one with yun launch IMAGE NAME (yun image ls shows images)")?;
    if args.watch { watch(cloud, revision).await } else { Ok(0) }
}

/// All instances of the project, or of all projects, with the revision of the list.
pub(crate) async fn all(cloud: &Cloud, all_projects: bool, label: Option<&str>) -> Result<(Vec<Instance>, String)> {
    let mut all: Vec<Instance> = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut request =
            cloud.client.instance_list().project(cloud.project.clone()).all_projects(all_projects).limit(500);
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
            return Ok((all, page.revision));
        }
    }
}

async fn watch(cloud: &Cloud, after: String) -> Result<Code> {
    let request = cloud.client.watch().kind(ObjectKind::Instance).project(cloud.project.clone()).after(after);
    let body = request.send().await.map_err(super::connect::explain)?.into_inner();
    let mut events = std::pin::pin!(lines::<WatchEvent>(body.into_inner()));
    while let Some(event) = events.try_next().await? {
        if let Some(AnyObject::Instance(instance)) = event.object {
            let change = format!("{:?}", event.change).to_lowercase();
            let state = output::state_and_reason(instance.status.state, instance.status.reason.as_deref());
            match cloud.output {
                Format::Json => output::print_line(&serde_json::to_string(&instance)?)?,
                _ => output::print_line(&format!("{change:9} {:20} {state}", instance.metadata.name))?,
            }
        }
    }
    Ok(0)
}

/// The instance that a word means.
pub(crate) async fn get(cloud: &Cloud, word: &str) -> Result<Instance> {
    let name: NameOrId = word.parse()?;
    cloud.client.instance_get().project(cloud.project.clone()).instance(name).send().await.explained()
}

/// Shows an instance in full.
pub(crate) async fn show(cloud: &Cloud, word: &str) -> Result<Code> {
    let instance = get(cloud, word).await?;
    apply::show(Kind::Instance, &instance, cloud.output, instance.metadata.name.as_str())?;
    Ok(0)
}

/// Does one thing to many instances, side by side; every one is tried, and all failures are told.
pub(crate) async fn act(
    cloud: &Cloud,
    many: ManyInstances,
    action: InstanceAction,
    timeout: Option<u32>,
) -> Result<Code> {
    on_each(cloud, &many, async |name| {
        let mut request = cloud.client.instance_action().project(cloud.project.clone()).instance(name).action(action);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        request.send().await.explained()
    })
    .await
}

async fn on_each(
    cloud: &Cloud,
    many: &ManyInstances,
    ask: impl AsyncFn(NameOrId) -> Result<Operation>,
) -> Result<Code> {
    let one = async |word: &String| -> Result<()> {
        let operation = ask(word.parse::<NameOrId>()?).await?;
        if many.detach {
            return output::print_line(&operation.metadata.id.to_string());
        }
        follow(cloud, operation, Duration::from_secs(300)).await?;
        if cloud.quiet { Ok(()) } else { output::print_line(word) }
    };
    let results: Vec<Result<()>> = stream::iter(&many.instances).map(one).buffered(TOGETHER).collect().await;
    let mut errors: Vec<anyhow::Error> = results.into_iter().filter_map(Result::err).collect();
    match errors.len() {
        0 => Ok(0),
        1 => Err(errors.remove(0)),
        _ => bail!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// Removes instances.
pub(crate) async fn rm(cloud: &Cloud, args: RmArgs) -> Result<Code> {
    on_each(cloud, &args.many, async |name| {
        if !args.force {
            let found = cloud.client.instance_get().project(cloud.project.clone()).instance(name.clone()).send().await.explained()?;
            if matches!(found.status.state, InstanceState::Running | InstanceState::Paused | InstanceState::Starting) {
                let name = &found.metadata.name;
                bail!("instance {name} is {}: stop it first (yun stop {name}), or remove it all the same (yun rm -f {name})", found.status.state);
            }
        }
        cloud.client.instance_delete().project(cloud.project.clone()).instance(name).send().await.explained()
    })
    .await
}

/// Changes an instance.
pub(crate) async fn set(cloud: &Cloud, args: SetArgs) -> Result<Code> {
    let Instance { metadata, mut spec, .. } = get(cloud, &args.instance).await?;
    let mut labels = metadata.labels;
    for word in &args.label {
        match word.strip_suffix('-') {
            Some(key) if !word.contains('=') => drop(labels.remove(key)),
            _ => labels.extend([words::pair("label", word)?]),
        }
    }
    words::change_environment(&mut spec.container.env, &args.env)?;
    if let Some(change) = &args.size {
        spec.size = spec.size.with(change)?;
    }
    spec.container.health = container::health(&args.health, spec.container.health.as_ref())?;
    spec.container.system |= args.isolation.system;
    spec.container.security = container::security(&args.isolation, spec.container.security)?;
    spec.container.io = container::io(&args.isolation, spec.container.io);
    spec.restart = args.restart.unwrap_or(spec.restart);
    if !args.publish.is_empty() {
        spec.publish = args.publish.iter().filter(|p| *p != "none").map(|p| p.parse()).collect::<Result<_, _>>()?;
    }
    let request = cloud
        .client
        .instance_update()
        .project(cloud.project.clone())
        .instance(metadata.name.clone())
        .if_match(metadata.revision);
    let operation = request.body(InstanceUpdate { labels, spec }).send().await.explained()?;
    if args.detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    let ended = follow(cloud, operation, Duration::from_secs(300)).await?;
    let said = &ended.status.progress.message;
    output::print_line(&if said.is_empty() {
        metadata.name.to_string()
    } else {
        format!("{}: {said}", metadata.name)
    })?;
    Ok(0)
}

/// Says why an instance is where it is.
pub(crate) async fn explain(cloud: &Cloud, word: &str) -> Result<Code> {
    let name: NameOrId = word.parse()?;
    let why = cloud.client.instance_explain().project(cloud.project.clone()).instance(name).send().await.explained()?;
    match cloud.output {
        Format::Table | Format::Wide => told(&why).iter().try_for_each(|line| output::print_line(line))?,
        format => output::object(&why, format, word)?,
    }
    Ok(0)
}

fn told(why: &Explanation) -> Vec<String> {
    let mut lines = vec![why.summary.clone()];
    for (place, node) in why.candidates.iter().enumerate() {
        let terms: Vec<String> = node.terms.iter().map(|t| format!("{} {}", t.name, t.value)).collect();
        let role = if place == 0 { "chosen   " } else { "runner-up" };
        lines.push(format!("  {role}  {}  score {}  ({})", node.node, node.score, terms.join(", ")));
    }
    for rule in &why.filtered {
        lines.push(format!("  {} of {} nodes ruled out by {}: {}", rule.nodes, why.nodes, rule.rule, rule.detail));
    }
    lines.extend(why.nearest.iter().map(|n| format!("  nearest: {n}")));
    lines.extend(why.unblock.iter().map(|u| format!("  would help: {u}")));
    lines
}

/// The type of streams that the client answers with.
pub(crate) trait ByteLines: Stream<Item = reqwest::Result<Bytes>> + Send {}
impl<T: Stream<Item = reqwest::Result<Bytes>> + Send> ByteLines for T {}
