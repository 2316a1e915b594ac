//! One object that should be as its document says: how it is, how it should be, and the request that makes it so.

use anyhow::Result;
use serde::Serialize;
use std::time::Duration;
use yun_api::{
    client::{Error, ResponseValue, types},
    cloud::{GroupCreate, GroupUpdate, ImageCreate, InstanceCreate, InstanceUpdate, ProjectCreate},
};
use yun_types::{
    Group, GroupSpec, Image, Instance, InstanceSpec, Labels, Metadata, Name, NameOrId, Operation, Project,
};

use super::{
    SET,
    manifest::{Kind, Manifest, Wanted},
};
use crate::cli::{
    connect::{Cloud, Explained},
    follow::follow,
    group, instance,
};

/// An object as it is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are a handful of documents")]
pub(super) enum Live {
    Project(Project),
    Image(Image),
    Instance(Instance),
    Group(Group),
}

/// The answer, or `None` if there is no such object.
fn found<T>(answer: Result<ResponseValue<T>, Error<types::Error>>) -> Result<Option<T>> {
    match answer {
        Err(Error::ErrorResponse(refused)) if refused.status().as_u16() == 404 => Ok(None),
        other => other.explained().map(Some),
    }
}

impl Live {
    /// The object of this kind and name in the project of `cloud`.
    async fn find(cloud: &Cloud, kind: Kind, name: &Name) -> Result<Option<Self>> {
        let (client, project, id) = (&cloud.client, cloud.project.clone(), NameOrId::from(name.clone()));
        Ok(match kind {
            Kind::Project => found(client.project_get().project(id).send().await)?.map(Self::Project),
            Kind::Image => {
                let request = client.image_get().project(project).image(name.to_string());
                found(request.send().await)?.map(Self::Image)
            }
            Kind::Instance => {
                found(client.instance_get().project(project).instance(id).send().await)?.map(Self::Instance)
            }
            Kind::Group => found(client.group_get().project(project).group(id).send().await)?.map(Self::Group),
        })
    }

    /// Everything in the project with a label, but projects and images: those may be others' too.
    pub(super) async fn labelled(cloud: &Cloud, label: &str) -> Result<Vec<(Kind, Name)>> {
        let groups = group::all(cloud, false, Some(label)).await?;
        let instances = instance::all(cloud, false, Some(label)).await?.0;
        // Instances of a group go with it.
        let own = instances.into_iter().filter(|instance| instance.status.group.is_none());
        let groups = groups.into_iter().map(|group| (Kind::Group, group.metadata.name));
        Ok(groups.chain(own.map(|instance| (Kind::Instance, instance.metadata.name))).collect())
    }

    fn metadata(&self) -> &Metadata {
        match self {
            Self::Project(project) => &project.metadata,
            Self::Image(image) => &image.metadata,
            Self::Instance(instance) => &instance.metadata,
            Self::Group(group) => &group.metadata,
        }
    }
}

/// What is to be done about one object.
#[derive(Debug)]
pub(super) struct Change {
    kind: Kind,
    name: Name,
    project: Name,
    place: Option<String>,
    live: Option<Live>,
    /// How it should be; `None` if it should not be.
    wanted: Option<(Labels, Wanted)>,
}

/// What people see of an object when it is compared.
#[derive(Serialize)]
struct Compared<'a, S> {
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
    spec: &'a S,
}

impl Change {
    /// Compares a document with what there is.
    pub(super) async fn of(cloud: &Cloud, manifest: Manifest, set: Option<&Name>) -> Result<Self> {
        let Manifest { place, kind, name, project, mut labels, mut wanted, written } = manifest;
        let project = project.unwrap_or_else(|| cloud.project.clone());
        let live = Live::find(&Cloud { project: project.clone(), ..cloud.clone() }, kind, &name).await?;
        if let Some(live) = &live {
            // Labels of the system stay, and so does what the document leaves to others.
            let own = live.metadata().labels.iter().filter(|(key, _)| key.starts_with("yun."));
            for (key, value) in own {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
            keep(&mut wanted, live, written.get("spec").unwrap_or(&written));
        }
        if let Some(set) = set {
            labels.insert(SET.into(), set.to_string());
        }
        Ok(Self { kind, name, project, place: Some(place), live, wanted: Some((labels, wanted)) })
    }

    /// An object that no file wants any more.
    pub(super) fn removal(kind: Kind, name: Name, project: Name) -> Self {
        Self { kind, name, project, place: None, live: None, wanted: None }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
    pub(super) fn name(&self) -> &Name {
        &self.name
    }
    pub(super) fn project(&self) -> &Name {
        &self.project
    }
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// One word for what is done.
    pub(super) fn what(&self) -> &'static str {
        match (&self.live, &self.wanted) {
            (_, None) => "removed",
            (None, Some(_)) => "created",
            (Some(_), Some(_)) if self.changes() => "changed",
            (Some(_), Some(_)) => "unchanged",
        }
    }

    /// Whether there is something to do.
    pub(super) fn changes(&self) -> bool {
        let (Some(live), Some((labels, wanted))) = (&self.live, &self.wanted) else { return true };
        match (live, wanted) {
            // What a project is called cannot be changed by a request.
            (Live::Project(live), Wanted::Project(spec)) => live.spec != *spec,
            // An image is what its content is.
            (Live::Image(_), _) => false,
            (Live::Instance(live), Wanted::Instance(spec)) => live.spec != *spec || live.metadata.labels != *labels,
            (Live::Group(live), Wanted::Group(spec)) => live.spec != *spec || live.metadata.labels != *labels,
            _ => true,
        }
    }

    /// Before and after, as texts to be compared.
    pub(super) fn texts(&self) -> Result<(String, String)> {
        fn text<S: Serialize>(labels: &Labels, spec: &S) -> Result<String> {
            Ok(serde_yaml_ng::to_string(&Compared { labels, spec })?)
        }
        let before = match &self.live {
            None => String::new(),
            Some(Live::Project(live)) => text(&live.metadata.labels, &live.spec)?,
            Some(Live::Image(live)) => text(&live.metadata.labels, &live.spec)?,
            Some(Live::Instance(live)) => text(&live.metadata.labels, &live.spec)?,
            Some(Live::Group(live)) => text(&live.metadata.labels, &live.spec)?,
        };
        let after = match &self.wanted {
            None => String::new(),
            Some((labels, Wanted::Project(spec))) => text(labels, spec)?,
            Some((labels, Wanted::Image(source))) => text(labels, source)?,
            Some((labels, Wanted::Instance(spec))) => text(labels, spec)?,
            Some((labels, Wanted::Group(spec))) => text(labels, spec)?,
        };
        Ok((before, after))
    }

    /// Makes it so; with a limit, waits until it works.
    pub(super) async fn carry_out(&self, cloud: &Cloud, limit: Option<Duration>) -> Result<()> {
        if !self.changes() {
            return Ok(());
        }
        let cloud = &Cloud { project: self.project.clone(), ..cloud.clone() };
        match &self.wanted {
            None => self.remove(cloud, limit).await,
            Some((labels, Wanted::Project(spec))) => self.project_as(cloud, labels, spec).await,
            Some((labels, Wanted::Image(source))) => {
                let body = ImageCreate { name: self.name.clone(), labels: labels.clone(), source: source.clone() };
                let request = cloud.client.image_create().project(cloud.project.clone()).idempotency_key(key());
                ended(cloud, request.body(body).send().await.explained()?, limit).await
            }
            Some((labels, Wanted::Instance(spec))) => self.instance_as(cloud, labels, spec, limit).await,
            Some((labels, Wanted::Group(spec))) => self.group_as(cloud, labels, spec, limit).await,
        }
    }

    async fn project_as(&self, cloud: &Cloud, labels: &Labels, spec: &yun_types::ProjectSpec) -> Result<()> {
        match &self.live {
            Some(live) => {
                let request = cloud.client.project_update().project(NameOrId::from(self.name.clone()));
                let request = request.if_match(live.metadata().revision.clone());
                request.body(spec.clone()).send().await.explained().map(drop)
            }
            None => {
                let body = ProjectCreate { name: self.name.clone(), labels: labels.clone(), spec: spec.clone() };
                cloud.client.project_create().body(body).send().await.explained().map(drop)
            }
        }
    }

    async fn instance_as(
        &self,
        cloud: &Cloud,
        labels: &Labels,
        spec: &InstanceSpec,
        limit: Option<Duration>,
    ) -> Result<()> {
        let (project, labels, spec) = (cloud.project.clone(), labels.clone(), spec.clone());
        let operation = match &self.live {
            Some(live) => {
                let request = cloud.client.instance_update().project(project).instance(self.name.clone());
                let request = request.if_match(live.metadata().revision.clone());
                request.body(InstanceUpdate { labels, spec }).send().await.explained()?
            }
            None => {
                let body = InstanceCreate { name: self.name.clone(), labels, spec };
                let request = cloud.client.instance_create().project(project).idempotency_key(key());
                request.body(body).send().await.explained()?
            }
        };
        ended(cloud, operation, limit).await
    }

    async fn group_as(&self, cloud: &Cloud, labels: &Labels, spec: &GroupSpec, limit: Option<Duration>) -> Result<()> {
        let (project, labels, spec) = (cloud.project.clone(), labels.clone(), spec.clone());
        let group = match &self.live {
            Some(live) => {
                let request = cloud.client.group_update().project(project).group(self.name.clone());
                let request = request.if_match(live.metadata().revision.clone());
                request.body(GroupUpdate { labels, spec }).send().await.explained()?
            }
            None => {
                let body = GroupCreate { name: self.name.clone(), labels, spec };
                let request = cloud.client.group_create().project(project).idempotency_key(key());
                request.body(body).send().await.explained()?
            }
        };
        match limit {
            Some(limit) => group::settled(cloud, group, limit).await.map(drop),
            None => Ok(()),
        }
    }

    async fn remove(&self, cloud: &Cloud, limit: Option<Duration>) -> Result<()> {
        let (project, id) = (cloud.project.clone(), NameOrId::from(self.name.clone()));
        match self.kind {
            Kind::Group => {
                let group = cloud.client.group_delete().project(project).group(id).send().await.explained()?;
                match limit {
                    Some(limit) => group::gone(cloud, &group, limit).await,
                    None => Ok(()),
                }
            }
            Kind::Instance => {
                let request = cloud.client.instance_delete().project(project).instance(id);
                ended(cloud, request.send().await.explained()?, limit).await
            }
            // Never pruned: others may use them.
            Kind::Project | Kind::Image => Ok(()),
        }
    }
}

/// What a document that does not say it leaves as it is.
fn keep(wanted: &mut Wanted, live: &Live, written: &serde_yaml_ng::Value) {
    let says = |key: &str| written.get(key).is_some();
    match (wanted, live) {
        (Wanted::Instance(spec), Live::Instance(live)) => {
            spec.kind = spec.kind.or(live.spec.kind);
            if !says("power") {
                spec.power = live.spec.power;
            }
            if !says("restart_count") {
                spec.restart_count = live.spec.restart_count;
            }
        }
        (Wanted::Group(spec), Live::Group(live)) => {
            if !says("round") {
                spec.round = live.spec.round;
            }
            if !says("replicas") {
                spec.replicas = live.spec.replicas;
            }
            if !says("paused") {
                spec.paused = live.spec.paused;
            }
        }
        _ => {}
    }
}

async fn ended(cloud: &Cloud, operation: Operation, limit: Option<Duration>) -> Result<()> {
    match limit {
        Some(limit) => follow(cloud, operation, limit).await.map(drop),
        None => Ok(()),
    }
}

/// A key of our own makes it safe for the HTTP client to send the request again after a broken connection.
fn key() -> String {
    format!("apply-{}", uuid::Uuid::new_v4())
}
