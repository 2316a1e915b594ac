//! Bringing services up and taking them down again, in the order of what they depend on.

use anyhow::{Context as _, Result, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use yun_api::cloud::{GroupCreate, GroupUpdate, InstanceAction, InstanceCreate};
use yun_types::{HealthState, Instance, InstanceSpec, InstanceState, Labels, Name, NameOrId};

use super::{
    convert::{self, ALIASES, Body, PROJECT, Planned, SERVICE},
    ground::{self, found},
    model::Compose,
    service::{Condition, Service},
    wait,
};
use crate::cli::{
    connect::{Cloud, Explained},
    follow::follow,
    group, image, instance, output,
};

/// How a file is brought up.
#[derive(Debug, Clone)]
pub(crate) struct Up {
    pub(crate) limit: Duration,
    pub(crate) remove_orphans: bool,
    pub(crate) only: Vec<String>,
}

/// Brings the services up. Answers the keys of those that were asked for.
pub(crate) async fn up(cloud: &Cloud, compose: &Compose, how: &Up) -> Result<()> {
    for warning in &compose.warnings {
        eprintln!("warning: {warning}");
    }
    let wanted = chosen(compose, &how.only)?;
    // Everything that can be refused is refused before anything is made.
    let images = images(cloud).await?;
    let mut planned = Vec::new();
    for service in compose.services.iter().filter(|service| wanted.contains(service.key.as_str())) {
        let image = match convert::image(&service.image, &images) {
            Some(image) => image.to_owned(),
            None if service.pulls => {
                let pulled = image::pull::by_reference(cloud, &service.image).await;
                pulled.with_context(|| format!("service {}: image {}", service.key, service.image))?.to_string()
            }
            None => bail!(
                "service {}: image {} is not here, and its pull_policy is never: take it in (yun image import), or write a name of yun image ls",
                service.key,
                service.image
            ),
        };
        planned.push((service, convert::service(compose, service, &image)?));
    }
    strangers(cloud, compose, &planned).await?;
    let needs = ground::needs(cloud, compose, &wanted).await?;
    ground::make(cloud, compose, needs).await?;
    for (service, plan) in &planned {
        depend(cloud, &planned, service, how.limit).await?;
        let said = bring(cloud, compose, plan, how.limit).await.with_context(|| format!("service {}", plan.key))?;
        say(cloud, &format!("{} {said}", plan.name))?;
    }
    orphans(cloud, compose, how).await
}

fn say(cloud: &Cloud, line: &str) -> Result<()> {
    if cloud.quiet { Ok(()) } else { output::print_line(line) }
}

/// The services that were named, with what they depend on; all if none was named.
fn chosen<'a>(compose: &'a Compose, only: &[String]) -> Result<BTreeSet<&'a str>> {
    if only.is_empty() {
        return Ok(compose.services.iter().map(|service| service.key.as_str()).collect());
    }
    let mut all = BTreeSet::new();
    let mut rest: Vec<&Service> = only.iter().map(|key| compose.service(key)).collect::<Result<_>>()?;
    while let Some(service) = rest.pop() {
        if all.insert(service.key.as_str()) {
            for key in service.depends_on.keys() {
                rest.push(compose.service(key)?);
            }
        }
    }
    Ok(all)
}

async fn images(cloud: &Cloud) -> Result<BTreeMap<String, ()>> {
    let page = cloud.client.image_list().project(cloud.project.clone()).limit(1000).send().await.explained()?;
    Ok(page.items.into_iter().map(|image| (image.metadata.name.to_string(), ())).collect())
}

/// Refuses names that another Compose project has in a network that both share: services would find each other's.
async fn strangers(cloud: &Cloud, compose: &Compose, planned: &[(&Service, Planned)]) -> Result<()> {
    let names = |labels: &Labels| -> BTreeSet<String> {
        labels.get(ALIASES).map_or("", String::as_str).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let networks =
        |spec: &InstanceSpec| -> BTreeSet<Name> { spec.networks.iter().map(|m| m.network.clone()).collect() };
    for other in instance::all(cloud, false, None).await?.0 {
        let labels = &other.metadata.labels;
        let Some(theirs) = labels.get(PROJECT).filter(|theirs| theirs.as_str() != compose.name.as_str()) else {
            continue;
        };
        let (taken, there) = (names(labels), networks(&other.spec));
        for (_, plan) in planned {
            let shared = networks(plan.spec()).intersection(&there).next().cloned();
            let Some(network) = shared else { continue };
            if let Some(name) = names(&plan.labels).intersection(&taken).next() {
                bail!(
                    "the name {name} is that of a service of Compose project {theirs} in network {network} already: use another network, or another name for the service"
                );
            }
        }
    }
    Ok(())
}

/// Waits until everything that the service depends on is good enough.
async fn depend(cloud: &Cloud, planned: &[(&Service, Planned)], service: &Service, limit: Duration) -> Result<()> {
    for (key, dependency) in &service.depends_on {
        let Some((_, before)) = planned.iter().find(|(_, plan)| plan.key == *key) else { continue };
        // A group was waited for when it was made.
        if let Body::Group(_) = before.body {
            continue;
        }
        let condition = dependency.condition;
        let result = wait::until(cloud, &before.name, limit, |instance| good_enough(instance, condition)).await;
        match result.with_context(|| format!("service {} depends on service {key}", service.key)) {
            Err(e) if !dependency.required => eprintln!("warning: {e:#}"),
            other => other?,
        }
    }
    Ok(())
}

/// Whether a dependency is good enough; an error if it never will be.
fn good_enough(instance: &Instance, condition: Condition) -> Option<Result<()>> {
    let (name, status) = (&instance.metadata.name, &instance.status);
    let ended = matches!(status.state, InstanceState::Stopped | InstanceState::Failed) && status.next_restart.is_none();
    let health = status.health.as_ref().map(|health| health.state);
    match condition {
        Condition::Started if status.state == InstanceState::Running => Some(Ok(())),
        Condition::Healthy if health == Some(HealthState::Healthy) => Some(Ok(())),
        Condition::Healthy if health == Some(HealthState::Unhealthy) => {
            Some(Err(anyhow::anyhow!("instance {name} is unhealthy: see yun show {name} and yun logs {name}")))
        }
        Condition::Healthy if instance.spec.container.health.is_none() => Some(Err(anyhow::anyhow!(
            "instance {name} has no health check: add a healthcheck to it, or wait for service_started"
        ))),
        Condition::Completed if ended => match &status.exit {
            Some(exit) if exit.success() => Some(Ok(())),
            Some(exit) => {
                Some(Err(anyhow::anyhow!("instance {name} ended with code {}: see yun logs {name}", exit.code)))
            }
            None => Some(Err(anyhow::anyhow!("instance {name} did not run: see yun show {name}"))),
        },
        _ if ended => Some(Err(anyhow::anyhow!("instance {name} has ended: see yun logs {name}"))),
        _ => None,
    }
}

/// Makes a service as it is planned. Answers what was done.
async fn bring(cloud: &Cloud, compose: &Compose, plan: &Planned, limit: Duration) -> Result<&'static str> {
    let (client, project, id) = (&cloud.client, cloud.project.clone(), NameOrId::from(plan.name.clone()));
    let live = found(client.instance_get().project(project.clone()).instance(id.clone()).send().await)?;
    let group = found(client.group_get().project(project.clone()).group(id.clone()).send().await)?;
    for labels in
        [live.as_ref().map(|i| &i.metadata.labels), group.as_ref().map(|g| &g.metadata.labels)].into_iter().flatten()
    {
        if labels.get(PROJECT).map(String::as_str) != Some(compose.name.as_str()) {
            bail!(
                "{} exists and is not of Compose project {}: choose another project name with -n",
                plan.name,
                compose.name
            );
        }
    }
    match &plan.body {
        Body::Instance(spec) => {
            if let Some(group) = group {
                client.group_delete().project(project.clone()).group(id.clone()).send().await.explained()?;
                group::gone(cloud, &group, limit).await?;
            }
            if let Some(live) = &live {
                if convert::unchanged(plan, &live.metadata.labels) {
                    return again(cloud, live, limit).await;
                }
                remove(cloud, &plan.name, limit).await?;
            }
            let body = InstanceCreate { name: plan.name.clone(), labels: plan.labels.clone(), spec: spec.clone() };
            let operation = client.instance_create().project(project).body(body).send().await.explained()?;
            follow(cloud, operation, limit).await?;
            Ok(if live.is_some() { "recreated" } else { "created" })
        }
        Body::Group(spec) => {
            if live.is_some() {
                remove(cloud, &plan.name, limit).await?;
            }
            let (name, labels, spec) = (plan.name.clone(), plan.labels.clone(), spec.clone());
            let (after, said) = match group {
                Some(group) if convert::unchanged(plan, &group.metadata.labels) => (group, "running"),
                Some(group) => {
                    let spec = yun_types::GroupSpec { round: group.spec.round, ..spec };
                    let request = client.group_update().project(project).group(name).if_match(group.metadata.revision);
                    (request.body(GroupUpdate { labels, spec }).send().await.explained()?, "updated")
                }
                None => {
                    let body = GroupCreate { name, labels, spec };
                    (client.group_create().project(project).body(body).send().await.explained()?, "created")
                }
            };
            group::settled(cloud, after, limit).await?;
            Ok(said)
        }
    }
}

/// An instance that is as it should be: it is started if it has ended.
async fn again(cloud: &Cloud, live: &Instance, limit: Duration) -> Result<&'static str> {
    if !matches!(live.status.state, InstanceState::Stopped | InstanceState::Failed) {
        return Ok("running");
    }
    let request = cloud.client.instance_action().project(cloud.project.clone()).instance(live.metadata.name.clone());
    follow(cloud, request.action(InstanceAction::Start).send().await.explained()?, limit).await?;
    Ok("started")
}

async fn remove(cloud: &Cloud, name: &Name, limit: Duration) -> Result<()> {
    let request = cloud.client.instance_delete().project(cloud.project.clone()).instance(name.clone());
    follow(cloud, request.send().await.explained()?, limit).await.map(drop)
}

/// What belongs to the project and to no service of the file.
async fn orphans(cloud: &Cloud, compose: &Compose, how: &Up) -> Result<()> {
    // A profile that is off is still in the file.
    let known = |labels: &Labels| {
        let of = labels.get(SERVICE).map(String::as_str);
        of.is_some_and(|of| compose.resolved.get("services").and_then(|s| s.get(of)).is_some())
    };
    let label = format!("{PROJECT}={}", compose.name);
    let instances = instance::all(cloud, false, Some(&label)).await?.0;
    for orphan in instances.iter().filter(|i| i.status.group.is_none() && !known(&i.metadata.labels)) {
        let name = &orphan.metadata.name;
        if how.remove_orphans {
            remove(cloud, name, how.limit).await?;
            say(cloud, &format!("{name} removed"))?;
        } else {
            eprintln!(
                "warning: instance {name} is of this project and no longer in the file: remove it with --remove-orphans"
            );
        }
    }
    for orphan in group::all(cloud, false, Some(&label)).await?.iter().filter(|g| !known(&g.metadata.labels)) {
        let name = &orphan.metadata.name;
        if how.remove_orphans {
            let request = cloud.client.group_delete().project(cloud.project.clone()).group(name.clone());
            let group = request.send().await.explained()?;
            group::gone(cloud, &group, how.limit).await?;
            say(cloud, &format!("{name} removed"))?;
        } else {
            eprintln!(
                "warning: group {name} is of this project and no longer in the file: remove it with --remove-orphans"
            );
        }
    }
    Ok(())
}

/// Removes everything of the project; its volumes only if that is wanted.
pub(crate) async fn down(cloud: &Cloud, compose: &Compose, volumes: bool) -> Result<()> {
    let limit = Duration::from_secs(300);
    let label = format!("{PROJECT}={}", compose.name);
    let (client, project) = (&cloud.client, cloud.project.clone());
    let order = |labels: &Labels| {
        let of = labels.get(SERVICE);
        compose.services.iter().position(|service| Some(&service.key) == of)
    };
    let mut instances = instance::all(cloud, false, Some(&label)).await?.0;
    instances.retain(|instance| instance.status.group.is_none());
    // Who depends on others goes before them.
    instances.sort_by_key(|instance| std::cmp::Reverse(order(&instance.metadata.labels)));
    for group in group::all(cloud, false, Some(&label)).await? {
        let name = group.metadata.name.clone();
        let group = client.group_delete().project(project.clone()).group(name.clone()).send().await.explained()?;
        group::gone(cloud, &group, limit).await?;
        say(cloud, &format!("{name} removed"))?;
    }
    for instance in &instances {
        remove(cloud, &instance.metadata.name, limit).await?;
        say(cloud, &format!("{} removed", instance.metadata.name))?;
    }
    ground::remove(cloud, compose, volumes).await
}
