//! Services as instances and groups: pure, so that it can be tested without a cloud.

use anyhow::{Context as _, Result};
use std::collections::{BTreeMap, BTreeSet};
use yun_types::{
    Capability, ContainerOptions, GroupSpec, HealthCheck, HealthProbe, InstanceSpec, InstanceTemplate, Labels, Mount,
    Name, NetworkMembership, Security, Size, Span, Stdin, UpdatePolicy, VolumeMount,
};

use super::{
    model::{Compose, Content, named},
    service::{Check, Joined, Service, Source, Stored},
};
use crate::cli::launch::of_image;

/// The label that says to which Compose project an object belongs.
pub(crate) const PROJECT: &str = "yun.compose.project";
/// The label that says of which service it is.
pub(crate) const SERVICE: &str = "yun.compose.service";
/// The label of the names by which others find it, as the network's DNS reads it.
pub(crate) const ALIASES: &str = yun_types::ALIASES;
/// The label by which a change is noticed.
const CONFIG: &str = "yun.compose.config";

/// What a service becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there are a handful of services")]
pub(crate) enum Body {
    /// One instance.
    Instance(InstanceSpec),
    /// Several.
    Group(GroupSpec),
}

/// A service, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its key in the file.
    pub(crate) key: String,
    /// The name of its instance or group.
    pub(crate) name: Name,
    /// Its labels.
    pub(crate) labels: Labels,
    /// What it becomes.
    pub(crate) body: Body,
}

impl Planned {
    /// What its instances are like.
    pub(crate) fn spec(&self) -> &InstanceSpec {
        match &self.body {
            Body::Instance(spec) => spec,
            Body::Group(group) => &group.template.spec,
        }
    }
}

/// The labels of everything that belongs to the project.
pub(crate) fn labels(compose: &Compose) -> Labels {
    Labels::from([(PROJECT.to_owned(), compose.name.to_string())])
}

/// A name with the project's in front.
fn prefixed(compose: &Compose, key: &str) -> Result<Name> {
    named(&format!("{}-{key}", compose.name))
        .with_context(|| format!("{}-{key} makes no name: choose a shorter project name with -n", compose.name))
}

/// A service as what it becomes. `image` is the catalogue's word for its image.
pub(crate) fn service(compose: &Compose, service: &Service, image: &str) -> Result<Planned> {
    let spec = instance(compose, service, image).with_context(|| format!("service {}", service.key))?;
    let name = match &service.container_name {
        Some(name) => name.clone(),
        None => prefixed(compose, &service.key)?,
    };
    let mut all: Labels = service.labels.clone();
    all.extend(labels(compose));
    all.insert(SERVICE.into(), service.key.clone());
    // In every network that it is in, and for a group only those of it that are ready.
    let own = named(&service.key).with_context(|| format!("{:?} makes no name", service.key))?;
    all.insert(ALIASES.into(), own.to_string());
    let body = match service.replicas {
        None | Some(1) => Body::Instance(spec),
        Some(replicas) => Body::Group(GroupSpec {
            replicas,
            template: InstanceTemplate { labels: all.clone(), spec },
            update: UpdatePolicy::default(),
            paused: false,
            round: 0,
        }),
    };
    let text = match &body {
        Body::Instance(spec) => serde_json::to_vec(&(spec, &all))?,
        Body::Group(spec) => serde_json::to_vec(&(spec, &all))?,
    };
    // A fingerprint, not a secret: equal specs have equal ones, in every version of this program.
    all.insert(CONFIG.into(), uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &text).simple().to_string());
    Ok(Planned { key: service.key.clone(), name, labels: all, body })
}

/// Whether what there is was made from this.
pub(crate) fn unchanged(planned: &Planned, live: &Labels) -> bool {
    live.get(CONFIG) == planned.labels.get(CONFIG)
}

fn instance(compose: &Compose, service: &Service, image: &str) -> Result<InstanceSpec> {
    let mut mounts = service.tmpfs.clone();
    for mount in &service.binds {
        mounts.push(bind(&mount.source, mount.target.clone(), mount.read_only));
    }
    for (used, known) in [(&service.secrets, &compose.secrets), (&service.configs, &compose.configs)] {
        for (name, target) in used {
            let Content { file } = known.get(name).with_context(|| format!("{name} is not declared"))?;
            mounts.push(bind(file, target.clone(), true));
        }
    }
    let usual = Size::default();
    let size = Size {
        cpu: service.cpus.unwrap_or(usual.cpu),
        memory: service.memory.unwrap_or(usual.memory),
        disk: service.disk.unwrap_or(usual.disk),
    };
    let container = ContainerOptions {
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        env: service.environment.clone(),
        user: service.user.clone(),
        workdir: service.workdir.clone(),
        stop_signal: service.stop_signal.clone(),
        pids: service.pids,
        tty: service.tty,
        stdin: if service.stdin { Stdin::Open } else { Stdin::Closed },
        mounts,
        health: service.health.as_ref().map(health).transpose()?,
        security: security(service)?,
        ..ContainerOptions::default()
    };
    Ok(InstanceSpec {
        size,
        restart: service.restart,
        publish: service.ports.clone(),
        networks: networks(compose, service)?,
        volumes: volumes(compose, service)?,
        stop_timeout: service.stop_timeout,
        container,
        ..of_image(image)
    })
}

fn bind(source: &std::path::Path, target: String, read_only: bool) -> Mount {
    let plain: std::path::PathBuf = source.components().collect();
    Mount::Bind { source: plain.display().to_string(), target, read_only }
}

/// The networks that a service is in.
fn networks(compose: &Compose, service: &Service) -> Result<Vec<NetworkMembership>> {
    let one = |joined: &Joined| {
        let net = compose.networks.get(&joined.key).with_context(|| format!("{} is not declared", joined.key))?;
        Ok(NetworkMembership {
            address: joined.address,
            aliases: joined.aliases.clone(),
            ..NetworkMembership::of(net.name.clone())
        })
    };
    service.networks.iter().map(one).collect()
}

fn volumes(compose: &Compose, service: &Service) -> Result<Vec<VolumeMount>> {
    let one = |mount: &Stored| {
        let volume = match &mount.source {
            Source::Anonymous => None,
            Source::Named(key) => {
                Some(compose.volumes.get(key).with_context(|| format!("{key} is not declared"))?.name.clone())
            }
        };
        let (target, read_only, no_copy) = (Some(mount.target.clone()), mount.read_only, mount.no_copy);
        Ok(VolumeMount { volume, target, read_only, no_copy })
    };
    service.volumes.iter().map(one).collect()
}

/// A time of a health check; less than a second counts as one.
fn whole(text: &str) -> Result<Span> {
    Ok(text.parse::<Span>()?.max(Span::seconds(1)))
}

fn health(check: &Check) -> Result<HealthCheck> {
    let mut health = HealthCheck::new(HealthProbe::Command { command: check.command.clone() });
    // Compose's own usual values.
    health.interval = whole(check.interval.as_deref().unwrap_or("30s"))?;
    health.timeout = whole(check.timeout.as_deref().unwrap_or("30s"))?;
    health.start_period = check.start_period.as_deref().unwrap_or("0s").parse()?;
    health.retries = check.retries.unwrap_or(3);
    Ok(health)
}

fn security(service: &Service) -> Result<Security> {
    let all = |words: &[String]| words.iter().map(|word| word.parse()).collect::<Result<BTreeSet<Capability>, _>>();
    Ok(Security {
        privileged: service.privileged,
        read_only: service.read_only,
        cap_add: all(&service.cap_add)?,
        cap_drop: all(&service.cap_drop)?,
        ..Security::default()
    })
}

/// The catalogue's word for an image: its name, or that of the reference written as a name (`nginx:1.25` is `nginx-1-25`).
pub(crate) fn image<'a>(reference: &str, known: &'a BTreeMap<String, ()>) -> Option<&'a str> {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let untagged = last.split_once(':').filter(|(_, tag)| *tag == "latest").map(|(name, _)| name);
    let words = [
        Some(reference.to_owned()),
        named(reference).map(|n| n.to_string()),
        named(last).map(|n| n.to_string()),
        untagged.map(str::to_owned),
    ];
    words.into_iter().flatten().find_map(|word| known.get_key_value(&word)).map(|(name, ())| name.as_str())
}
