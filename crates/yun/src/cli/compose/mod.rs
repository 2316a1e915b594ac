//! `yun compose`: unchanged Compose files (compose-spec.io) as instances and groups, with networks and volumes of their own.
//!
//! Written by hand on a YAML value rather than with a crate of Compose types: what matters most is that every key is known, warned about or refused
//! by name with its line, and that variables are replaced as the specification says. A service becomes one instance, or a group when it has
//! replicas; names have the project's in front; services find each other by their own names.

pub(crate) mod args;
mod convert;
mod ground;
mod interpolate;
mod model;
mod node;
mod service;
#[cfg(test)]
mod tests;
mod up;
mod wait;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use std::time::Duration;
use yun_api::cloud::{InstanceAction, LogRecord};
use yun_types::Instance;

use super::{
    Code,
    args::ManyInstances,
    connect::{Cloud, explain},
    events::lines,
    instance, output,
};
use args::{ComposeArgs, ComposeCommand};
use convert::{PROJECT, SERVICE};
use model::{Asked, Compose};
use up::Up;

/// Colours for the names in front of lines, one after the other.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 96];

/// Compose.
pub(crate) async fn run(cloud: &Cloud, args: ComposeArgs) -> Result<Code> {
    let asked = Asked { file: args.file, name: args.name, profiles: args.profile, env_file: args.env_file };
    let compose = Compose::load(&asked)?;
    match args.command {
        ComposeCommand::Up { detach, remove_orphans, wait, services } => {
            let how = Up { limit: Duration::from_secs(wait), remove_orphans, only: services.clone() };
            up::up(cloud, &compose, &how).await?;
            if detach {
                return Ok(0);
            }
            tokio::select! {
                result = logs(cloud, &compose, &services, true, None) => result?,
                _ = tokio::signal::ctrl_c() => stop(cloud, &compose).await?,
            }
            Ok(0)
        }
        ComposeCommand::Down { volumes } => up::down(cloud, &compose, volumes).await.map(|()| 0),
        ComposeCommand::Ps => {
            let all = all(cloud, &compose).await?;
            output::list(&all, cloud.output, "nothing of this project: start it with yun compose up -d")?;
            Ok(0)
        }
        ComposeCommand::Logs { follow, tail, services } => {
            for key in &services {
                compose.service(key)?;
            }
            logs(cloud, &compose, &services, follow, tail).await.map(|()| 0)
        }
        ComposeCommand::Config => {
            for warning in &compose.warnings {
                eprintln!("warning: {warning}");
            }
            output::print_line(serde_yaml_ng::to_string(&compose.resolved)?.trim_end())?;
            Ok(0)
        }
    }
}

async fn all(cloud: &Cloud, compose: &Compose) -> Result<Vec<Instance>> {
    Ok(instance::all(cloud, false, Some(&format!("{PROJECT}={}", compose.name))).await?.0)
}

/// Stops the instances; those of groups cannot be stopped one by one and go on.
async fn stop(cloud: &Cloud, compose: &Compose) -> Result<()> {
    eprintln!("stopping; yun compose down removes everything");
    let all = all(cloud, compose).await?;
    let instances: Vec<String> =
        all.iter().filter(|i| i.status.group.is_none()).map(|i| i.metadata.name.to_string()).collect();
    if instances.is_empty() {
        return Ok(());
    }
    instance::act(cloud, ManyInstances { instances, detach: false }, InstanceAction::Stop, None).await.map(drop)
}

/// Prints what the instances wrote, with their names in front.
async fn logs(cloud: &Cloud, compose: &Compose, services: &[String], follow: bool, tail: Option<u64>) -> Result<()> {
    let mut all = all(cloud, compose).await?;
    all.retain(|i| services.is_empty() || i.metadata.labels.get(SERVICE).is_some_and(|of| services.contains(of)));
    let width = all.iter().map(|i| i.metadata.name.as_str().len()).max().unwrap_or_default();
    let mut streams = Vec::new();
    for (number, instance) in all.iter().enumerate() {
        let name = &instance.metadata.name;
        let mut request =
            cloud.client.instance_logs().project(cloud.project.clone()).instance(name.clone()).follow(follow);
        if let Some(tail) = tail {
            request = request.tail(tail);
        }
        let body = request.send().await.map_err(explain)?.into_inner();
        let prefix = prefix(name.as_str(), width, number, output::colour());
        streams.push(lines::<LogRecord>(body.into_inner()).map_ok(move |record| (prefix.clone(), record)).boxed());
    }
    let mut records = stream::select_all(streams);
    while let Some((prefix, record)) = records.try_next().await? {
        output::print_line(&format!("{prefix}{}", record.text))?;
    }
    Ok(())
}

fn prefix(name: &str, width: usize, number: usize, colour: bool) -> String {
    match colour {
        true => format!("\x1b[{}m{name:width$} |\x1b[0m ", COLOURS[number % COLOURS.len()]),
        false => format!("{name:width$} | "),
    }
}
