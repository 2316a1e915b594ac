//! Commands on the rest: nodes, networks, projects, tokens, operations, contexts, completion.

use anyhow::{Context as _, Result, bail};
use std::{io::Read, time::Duration};
use yun_api::cloud::{ProjectCreate, TokenCreate};
use yun_types::{Name, NameOrId, NodeSpec, Project, ProjectSpec, Quota, TokenSpec};

use super::{
    Code,
    apply::{self, manifest::Kind},
    args::{ConfigCommand, Format, Global, NodeCommand, OperationCommand, ProjectCommand, Shell, TokenCommand},
    connect::{Cloud, Explained},
    context::{Contexts, file},
    follow::follow,
    output, words,
};

/// Nodes.
pub(crate) async fn node(cloud: &Cloud, command: NodeCommand) -> Result<Code> {
    match command {
        NodeCommand::Ls => {
            let page = cloud.client.node_list().limit(1000).send().await.explained()?;
            output::list(&page.items, cloud.output, "no nodes: the server's own agent has not registered yet")?;
        }
        NodeCommand::Show { node } => {
            let name = match node {
                Some(word) => word.parse()?,
                None => the_only_node(cloud).await?,
            };
            let node = cloud.client.node_get().node(name).send().await.explained()?;
            output::object(&node, cloud.output, node.metadata.name.as_str())?;
        }
        NodeCommand::Cordon { node } => cordon(cloud, &node, true).await?,
        NodeCommand::Uncordon { node } => cordon(cloud, &node, false).await?,
    }
    Ok(0)
}

async fn the_only_node(cloud: &Cloud) -> Result<NameOrId> {
    let nodes = cloud.client.node_list().limit(2).send().await.explained()?.items;
    match &nodes[..] {
        [only] => Ok(only.metadata.name.clone().into()),
        [] => bail!("there is no node yet"),
        _ => bail!("there are several nodes: name one (yun node ls)"),
    }
}

async fn cordon(cloud: &Cloud, word: &str, cordoned: bool) -> Result<()> {
    let name: NameOrId = word.parse()?;
    let node = cloud.client.node_update().node(name).body(NodeSpec { cordoned }).send().await.explained()?;
    output::print_line(&format!(
        "{} is {}",
        node.metadata.name,
        if cordoned { "cordoned: nothing new is placed there" } else { "open again" }
    ))
}

/// Projects.
pub(crate) async fn project(cloud: &Cloud, command: ProjectCommand) -> Result<Code> {
    match command {
        ProjectCommand::Ls => {
            let page = cloud.client.project_list().limit(1000).send().await.explained()?;
            output::list(&page.items, cloud.output, "no projects that this token may see")?;
        }
        ProjectCommand::Show { name } => {
            let project = cloud.client.project_get().project(NameOrId::from(name)).send().await.explained()?;
            apply::show(Kind::Project, &project, cloud.output, project.metadata.name.as_str())?;
        }
        ProjectCommand::Create { name, description, quota, weight } => {
            let quota = quota.map_or_else(|| Ok(Quota::default()), |q| words::quota(&q))?;
            let spec = ProjectSpec { description, quota, weight };
            let body = ProjectCreate { name, labels: Default::default(), spec };
            let project = cloud.client.project_create().body(body).send().await.explained()?;
            output::print_line(&format!(
                "project {}: use it with -p {0} or yun project use {0}",
                project.metadata.name
            ))?;
        }
        ProjectCommand::Quota { name, quota: None } => {
            let project = cloud.client.project_get().project(NameOrId::from(name)).send().await.explained()?;
            quota(&project, cloud.output)?;
        }
        ProjectCommand::Quota { name, quota: Some(wanted) } => {
            let quota = words::quota(&wanted)?;
            change(cloud, name, |spec| ProjectSpec { quota, ..spec }).await?;
        }
        ProjectCommand::Weight { name, weight } => {
            change(cloud, name, |spec| ProjectSpec { weight: Some(weight), ..spec }).await?;
        }
        ProjectCommand::Rm { names } => {
            for name in names {
                cloud.client.project_delete().project(NameOrId::from(name.clone())).send().await.explained()?;
                output::print_line(name.as_str())?;
            }
        }
        ProjectCommand::Use { .. } => unreachable!("changes the file of contexts, and needs no connection kept"),
    }
    Ok(0)
}

/// Changes what is wanted of a project, if nobody else does at the same time.
async fn change(cloud: &Cloud, name: Name, change: impl FnOnce(ProjectSpec) -> ProjectSpec) -> Result<()> {
    let project = NameOrId::from(name.clone());
    let found = cloud.client.project_get().project(project.clone()).send().await.explained()?;
    let request = cloud.client.project_update().project(project).if_match(found.metadata.revision);
    request.body(change(found.spec)).send().await.explained()?;
    output::print_line(name.as_str())
}

/// What a project may hold, and holds.
fn quota(project: &Project, format: Format) -> Result<()> {
    let (most, held) = (project.spec.quota, project.status.reserved);
    match format {
        Format::Table | Format::Wide => {
            let line = |what: &str, held: String, most: Option<String>| {
                output::print_line(&format!("{what:10} {held:>10} of {}", most.unwrap_or_else(|| "no limit".into())))
            };
            line("cpu", held.cpu.to_string(), most.cpu.map(|n| n.to_string()))?;
            line("memory", held.memory.human(), most.memory.map(|n| n.human()))?;
            line("disk", held.disk.human(), most.disk.map(|n| n.human()))?;
            line("instances", held.instances.to_string(), most.instances.map(|n| n.to_string()))
        }
        format => output::object(&most, format, project.metadata.name.as_str()),
    }
}

/// Makes a project the current context's own, if it is there.
pub(crate) async fn use_project(global: &Global, name: Name) -> Result<Code> {
    let cloud = Cloud::connect(global)?;
    cloud.client.project_get().project(NameOrId::from(name.clone())).send().await.explained()?;
    let path = file(global)?;
    let mut all = Contexts::load(&path)?;
    let current = global
        .context
        .clone()
        .or_else(|| all.current.clone())
        .context("no context is in use: choose one with yun config use")?;
    let context = all.contexts.get_mut(&current).with_context(|| format!("there is no context {current:?}"))?;
    context.project = Some(name.clone());
    all.save(&path)?;
    output::print_line(&format!("context {current} now works in project {name}"))?;
    Ok(0)
}

/// Tokens.
pub(crate) async fn token(cloud: &Cloud, command: TokenCommand) -> Result<Code> {
    match command {
        TokenCommand::Ls => {
            let page = cloud.client.token_list().limit(1000).send().await.explained()?;
            output::list(&page.items, cloud.output, "no tokens")?;
        }
        TokenCommand::Create { name, role, projects, cloud_role, expires } => {
            if role.is_none() && cloud_role.is_none() {
                bail!("token {name} would allow nothing: give it --role (in a project) or --cloud-role");
            }
            let projects = if projects.is_empty() { vec![cloud.project.clone()] } else { projects };
            let expires = expires.map(|e| words::until(&e, output::now())).transpose()?;
            let projects = role.map(|role| projects.into_iter().map(|p| (p, role)).collect()).unwrap_or_default();
            let body = TokenCreate { name, spec: TokenSpec { cloud: cloud_role, projects, expires } };
            let created = cloud.client.token_create().body(body).send().await.explained()?;
            match cloud.output {
                Format::Json => output::print_line(&serde_json::to_string_pretty(&created)?)?,
                _ => {
                    eprintln!("keep this secret: it is shown once");
                    output::print_line(&created.secret)?;
                }
            }
        }
        TokenCommand::Rm { names } => {
            for name in names {
                cloud.client.token_delete().token(NameOrId::from(name.clone())).send().await.explained()?;
                output::print_line(name.as_str())?;
            }
        }
        TokenCommand::Whoami => {
            let me = cloud.client.whoami().send().await.explained()?;
            output::object(&me, cloud.output, &me.name)?;
        }
    }
    Ok(0)
}

/// Operations.
pub(crate) async fn operation(cloud: &Cloud, command: OperationCommand) -> Result<Code> {
    match command {
        OperationCommand::Ls => {
            let page =
                cloud.client.operation_list().project(cloud.project.clone()).limit(100).send().await.explained()?;
            output::list(&page.items, cloud.output, "no operations")?;
        }
        OperationCommand::Show { id } => {
            let operation = cloud.client.operation_get().operation(id).send().await.explained()?;
            output::object(&operation, cloud.output, &id.to_string())?;
        }
        OperationCommand::Wait { id, timeout } => {
            let operation = cloud.client.operation_get().operation(id).send().await.explained()?;
            let ended = follow(cloud, operation, Duration::from_secs(timeout)).await?;
            output::print_line(&ended.status.state.to_string())?;
        }
        OperationCommand::Cancel { id } => {
            let operation = cloud.client.operation_cancel().operation(id).send().await.explained()?;
            output::print_line(&operation.status.state.to_string())?;
        }
    }
    Ok(0)
}

/// Contexts.
pub(crate) fn config(global: &Global, command: ConfigCommand) -> Result<Code> {
    let path = file(global)?;
    let mut all = Contexts::load(&path)?;
    match command {
        ConfigCommand::Ls => {
            for (name, context) in &all.contexts {
                let mark = if all.current.as_ref() == Some(name) { '*' } else { ' ' };
                output::print_line(&format!("{mark} {name:16} {}", context.host))?;
            }
            if all.contexts.is_empty() {
                eprintln!("no contexts in {}: yun up makes one, yun config set makes others", path.display());
            }
        }
        ConfigCommand::Show => {
            let mut context = Contexts::pick(global)?;
            context.token = context.token.map(|_| "(set)".to_owned());
            output::print_line(toml::to_string_pretty(&context)?.trim_end())?;
        }
        ConfigCommand::Set { name, ca, token_file } => {
            let context = all.contexts.entry(name.clone()).or_default();
            if let Some(host) = &global.host {
                context.host.clone_from(host);
            }
            if let Some(ca) = ca {
                context.ca = Some(
                    std::fs::read_to_string(&ca)
                        .with_context(|| format!("cannot read the certificate authority {}", ca.display()))?,
                );
            }
            if let Some(file) = token_file {
                context.token = Some(secret(&file)?);
            } else if let Some(token) = &global.token {
                context.token = Some(token.clone());
            }
            if let Some(project) = &global.project {
                context.project = Some(project.clone());
            }
            if context.host.is_empty() {
                bail!("context {name} has no server: add --host https://HOST:7443");
            }
            all.current.get_or_insert_with(|| name.clone());
            all.save(&path)?;
            output::print_line(&name)?;
        }
        ConfigCommand::Use { name } => {
            if !all.contexts.contains_key(&name) {
                bail!("there is no context {name:?}: yun config ls shows them");
            }
            all.current = Some(name.clone());
            all.save(&path)?;
            output::print_line(&name)?;
        }
        ConfigCommand::Rm { name } => {
            if all.contexts.remove(&name).is_none() {
                bail!("there is no context {name:?}: yun config ls shows them");
            }
            all.current = all.current.filter(|c| *c != name);
            all.save(&path)?;
            output::print_line(&name)?;
        }
    }
    Ok(0)
}

fn secret(file: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    if file == std::path::Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read the token file {}", file.display()))?;
    }
    let text = text.trim().to_owned();
    if text.is_empty() {
        bail!("the token file {} is empty", file.display());
    }
    Ok(text)
}

/// Prints a completion script.
pub(crate) fn completion(shell: Shell) -> Result<Code> {
    use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer.write_registration("COMPLETE", "yun", "yun", "yun", &mut script)?;
    output::print_line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}
