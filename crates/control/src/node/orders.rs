//! The stream of orders of one node: a snapshot, then changes, worked out from the caches as they are when the node asks for the next.
//!
//! Nothing is queued for a slow reader: changes that come meanwhile are put together, and one that is so far behind that the caches have
//! forgotten the way gets a new snapshot. So no change is ever lost, and nothing grows.

use crate::{
    core::Control,
    instance::NETWORK,
    rows::{ImageRow, InstanceRow, NetworkRow, VolumeRow},
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use yun_plan::{
    orders::{self, Told},
    volume,
};
use yun_store::{Change, Changes, WatchEnd};
use yun_types::{DesiredInstance, Digest, Instance, InstanceId, Name, NetworkId, NodeId, NodeOrder, Volume, VolumeId};

/// The orders for `node`. Ends when the control plane does.
pub(super) fn stream(c: Arc<Control>, node: NodeId) -> BoxStream<'static, NodeOrder> {
    let feed = Feed { c, node, told: Told::default(), ready: VecDeque::new(), sources: None };
    futures::stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) }).boxed()
}

struct Feed {
    c: Arc<Control>,
    node: NodeId,
    told: Told,
    ready: VecDeque<NodeOrder>,
    /// `None` when the node needs a snapshot.
    sources: Option<Sources>,
}

struct Sources {
    instances: Changes<InstanceRow>,
    networks: Changes<NetworkRow>,
    images: Changes<ImageRow>,
    volumes: Changes<VolumeRow>,
}

/// What has changed since the last look.
#[derive(Default)]
struct Dirty {
    instances: BTreeSet<(Name, Name, InstanceId)>,
    /// Projects whose network, or whose names in it, changed.
    projects: BTreeSet<Name>,
    images: bool,
    /// Project, name and id of volumes that changed.
    volumes: BTreeSet<(Name, Name, VolumeId)>,
}

/// A cache has forgotten changes that this feed has not seen.
struct Behind;

impl Feed {
    async fn next(&mut self) -> Option<NodeOrder> {
        loop {
            if let Some(order) = self.ready.pop_front() {
                return Some(order);
            }
            let Some(sources) = &mut self.sources else {
                self.begin();
                continue;
            };
            let waited = tokio::select! {
                () = self.c.closing.cancelled() => return None,
                dirty = sources.wait(self.node) => dirty,
            };
            match waited {
                Ok(dirty) => {
                    let changed = self.look(dirty);
                    self.ready.extend(orders::diff(&mut self.told, changed));
                }
                Err(Behind) => self.sources = None,
            }
        }
    }

    /// Subscribes first and looks then: what comes in between is looked at twice, and not missed.
    fn begin(&mut self) {
        let c = &self.c;
        self.sources = Some(Sources {
            instances: c.instances.cache.subscribe(),
            networks: c.networks.cache.subscribe(),
            images: c.images.cache.subscribe(),
            volumes: c.volumes.cache.subscribe(),
        });
        self.told = Told::default();
        let mut dirty = Dirty { images: true, ..Dirty::default() };
        for row in c.instances.cache.all(&[]) {
            if row.value.0.status.node == Some(self.node) {
                dirty.add(&row.value.0);
            }
        }
        for row in c.volumes.cache.all(&[]) {
            if row.value.0.status.node == Some(self.node) {
                dirty.volume(&row.value.0);
            }
        }
        let all = self.look(dirty);
        orders::diff(&mut self.told, all);
        self.ready.push_back(self.told.snapshot());
    }

    /// Reads off the caches what became of what has changed.
    fn look(&self, mut dirty: Dirty) -> orders::Changed {
        let mut changed = orders::Changed::default();
        for (project, name, id) in std::mem::take(&mut dirty.volumes) {
            let row = self.c.volumes.cache.get(&[project.as_str(), name.as_str()]);
            let now = row.filter(|row| row.value.0.metadata.id == id.0 && row.value.0.status.node == Some(self.node));
            changed.volumes.insert(id, now.and_then(|row| volume::desired(&row.value.0)));
            // Who has it is told of its new size and limits.
            for row in self.c.instances.cache.all(&[project.as_str()]) {
                let instance = &row.value.0;
                let has = instance.spec.volumes.iter().any(|mount| mount.volume.as_ref() == Some(&name));
                if has && instance.status.node == Some(self.node) {
                    dirty.add(instance);
                }
            }
        }
        let mut projects = dirty.projects;
        for (project, name, id) in dirty.instances {
            let now = self.desired(&project, &name, id);
            if let Some(now) = &now
                && self.told.instance(id).is_none_or(|before| !before.nics().eq(now.nics()))
            {
                projects.insert(project);
            }
            changed.instances.insert(id, now);
        }
        for project in projects {
            let rows = self.c.instances.cache.all(&[project.as_str()]);
            let in_use = self.told.networks_in_use();
            for network in self.c.networks.cache.all(&[project.as_str()]) {
                let id = NetworkId(network.value.0.metadata.id);
                let mut coming = changed.instances.values().flatten().flat_map(DesiredInstance::nics);
                if !in_use.contains(&id) && !coming.any(|nic| nic.network == id) {
                    continue;
                }
                let instances = rows.iter().map(|row| &row.value.0);
                changed.networks.insert(id, orders::desired_network(&network.value.0, instances));
            }
        }
        changed.catalogue = dirty.images.then(|| self.catalogue());
        changed
    }

    fn desired(&self, project: &Name, name: &Name, id: InstanceId) -> Option<DesiredInstance> {
        let row = self.c.instances.cache.get(&[project.as_str(), name.as_str()])?;
        let instance = &row.value.0;
        if instance.metadata.id != id.0 || instance.status.node != Some(self.node) {
            return None;
        }
        let network = self.c.networks.cache.get(&[project.as_str(), NETWORK])?;
        let named = |name: &Name| {
            let row = self.c.volumes.cache.get(&[project.as_str(), name.as_str()])?;
            volume::desired(&row.value.0)
        };
        let default = NetworkId(network.value.0.metadata.id);
        let mut desired = orders::desired_instance(instance, default, &named)?;
        if let Some(seconds) = self.c.live.hurried(id, desired.generation) {
            desired.spec.stop_timeout = Some(seconds);
        }
        // The SSH gateway enters VMs with a key of its own.
        if let Some(key) = self.c.gateway.key_for(desired.kind, instance.metadata.created) {
            desired.spec.vm.ssh_keys.push(key.to_owned());
        }
        Some(desired)
    }

    fn catalogue(&self) -> BTreeSet<Digest> {
        self.c.images.cache.all(&[]).iter().map(|row| row.value.0.status.facts.digest.clone()).collect()
    }
}

impl Dirty {
    fn add(&mut self, instance: &Instance) {
        if let Some(project) = &instance.metadata.project {
            self.instances.insert((project.clone(), instance.metadata.name.clone(), InstanceId(instance.metadata.id)));
            self.projects.insert(project.clone());
        }
    }

    fn instance(&mut self, node: NodeId, change: &Change<InstanceRow>) {
        let sides = [&change.old, &change.new].map(|side| side.as_ref().map(|row| &row.value.0));
        for instance in sides.into_iter().flatten() {
            let Some(project) = &instance.metadata.project else { continue };
            if instance.status.node == Some(node) {
                self.instances.insert((
                    project.clone(),
                    instance.metadata.name.clone(),
                    InstanceId(instance.metadata.id),
                ));
            }
        }
        // Names follow addresses, wherever the instance is.
        let name = |side: Option<&Instance>| {
            // The name of a group leads to those of its instances that are ready.
            side.map(|i| {
                (
                    i.metadata.id,
                    i.status.address,
                    i.status.interfaces.clone(),
                    i.spec.networks.clone(),
                    i.metadata.deleting.is_some(),
                    orders::counts(i),
                    orders::aliases(i),
                )
            })
        };
        if name(sides[0]) != name(sides[1]) {
            self.projects.extend(sides.into_iter().flatten().filter_map(|instance| instance.metadata.project.clone()));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(project) = &volume.metadata.project {
            self.volumes.insert((project.clone(), volume.metadata.name.clone(), VolumeId(volume.metadata.id)));
        }
    }

    fn volumes(&mut self, node: NodeId, change: &Change<VolumeRow>) {
        let sides = [&change.old, &change.new].into_iter().flatten();
        sides.filter(|row| row.value.0.status.node == Some(node)).for_each(|row| self.volume(&row.value.0));
    }

    fn network(&mut self, change: &Change<NetworkRow>) {
        let sides = [&change.old, &change.new].into_iter().flatten();
        self.projects.extend(sides.filter_map(|row| row.value.0.metadata.project.clone()));
    }
}

impl Sources {
    /// Waits for a change, then takes all that have come.
    async fn wait(&mut self, node: NodeId) -> Result<Dirty, Behind> {
        let mut dirty = Dirty::default();
        tokio::select! {
            change = self.instances.next() => dirty.instance(node, &*whole(change)?),
            change = self.networks.next() => dirty.network(&*whole(change)?),
            change = self.images.next() => { whole(change)?; dirty.images = true }
            change = self.volumes.next() => dirty.volumes(node, &*whole(change)?),
        }
        while let Some(change) = self.volumes.next().now_or_never() {
            dirty.volumes(node, &*whole(change)?);
        }
        while let Some(change) = self.instances.next().now_or_never() {
            dirty.instance(node, &*whole(change)?);
        }
        while let Some(change) = self.networks.next().now_or_never() {
            dirty.network(&*whole(change)?);
        }
        while let Some(change) = self.images.next().now_or_never() {
            whole(change)?;
            dirty.images = true;
        }
        Ok(dirty)
    }
}

fn whole<T>(change: Option<Result<Arc<Change<T>>, WatchEnd>>) -> Result<Arc<Change<T>>, Behind> {
    match change {
        Some(Ok(change)) => Ok(change),
        _ => Err(Behind),
    }
}
