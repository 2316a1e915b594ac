//! Snapshots in memory: an instance's data are one text, its memory a flag. And what only machines can do.

use super::{Body, Call, FakeInstances};
use crate::{DriverError, ErrorKind, InstanceHandle, MachineDriver, Renewed, Resized, Result, SnapshotDriver};
use async_trait::async_trait;
use std::{collections::BTreeMap, time::Duration};
use yun_engine::work::Followed;
use yun_types::{Bytes, Exit, InstanceId, Size, SnapshotFacts, SnapshotId, SnapshotOrder, Template};

/// What a body has beside its process.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    /// What is on its disk.
    pub(super) data: String,
    /// Its memory is on disk: the next start goes on from there.
    pub(super) memory: bool,
    /// How often a start went on from there.
    pub(super) resumed: u32,
    snapshots: BTreeMap<SnapshotId, (SnapshotFacts, String)>,
}

/// What was given to instances that are not prepared yet.
pub(super) type Seeds = BTreeMap<InstanceId, (String, bool)>;

/// How many processors a machine can have while it runs.
const PLACES: u32 = 4;

fn not_here(id: InstanceId) -> DriverError {
    DriverError::new(ErrorKind::NotFound, "NotPrepared", format!("instance {id} is not here; prepare it first"))
}

fn no_snapshot(id: InstanceId, snapshot: SnapshotId) -> DriverError {
    let message = format!("instance {id} has no snapshot {snapshot}; take one first");
    DriverError::new(ErrorKind::NotFound, "NoSuchSnapshot", message)
}

impl FakeInstances {
    fn on_body<T>(&self, id: InstanceId, work: impl FnOnce(&mut Body) -> Result<T>) -> Result<T> {
        self.world.change(|state| work(state.bodies.get_mut(&id).ok_or_else(|| not_here(id))?))
    }
}

#[async_trait]
impl SnapshotDriver for FakeInstances {
    async fn take(&self, id: InstanceId, order: &SnapshotOrder, work: &Followed) -> Result<SnapshotFacts> {
        self.world.enter(Call::SnapshotTake, Some(id)).await?;
        if work.is_cancelled() {
            return Err(DriverError::new(ErrorKind::Cancelled, "Cancelled", "the snapshot was taken back"));
        }
        let taken = self.world.inner.clock.now();
        let facts = self.on_body(id, |body| {
            let consistent = body.run.is_none();
            let memory = order.memory && body.run.is_some();
            let size = Bytes(body.holdings.data.len() as u64);
            let fresh = (SnapshotFacts { taken, size, memory, consistent }, body.holdings.data.clone());
            Ok(body.holdings.snapshots.entry(order.id).or_insert(fresh).0.clone())
        })?;
        work.report(Some(100), "taken");
        self.world.leave(Call::SnapshotTake, Some(id)).await?;
        Ok(facts)
    }

    async fn restore(&self, id: InstanceId, snapshot: SnapshotId, memory: bool) -> Result<()> {
        self.world.enter(Call::SnapshotRestore, Some(id)).await?;
        self.on_body(id, |body| {
            if body.run.is_some() {
                let message = format!("instance {id} runs; stop it first");
                return Err(DriverError::new(ErrorKind::Conflict, "Running", message));
            }
            let (facts, data) = body.holdings.snapshots.get(&snapshot).ok_or_else(|| no_snapshot(id, snapshot))?;
            (body.holdings.memory, body.holdings.data) = (memory && facts.memory, data.clone());
            Ok(())
        })?;
        self.world.leave(Call::SnapshotRestore, Some(id)).await
    }

    async fn seed(&self, id: InstanceId, template: &Template) -> Result<()> {
        self.world.enter(Call::SnapshotSeed, Some(id)).await?;
        let (source, snapshot) = (template.instance, template.snapshot);
        self.world.change(|state| {
            if state.bodies.contains_key(&id) {
                return Ok(());
            }
            let body = state.bodies.get(&source).ok_or_else(|| not_here(source))?;
            if template.live {
                let seed = (body.holdings.data.clone(), false);
                state.seeds.insert(id, seed);
                return Ok(());
            }
            let (facts, data) = body.holdings.snapshots.get(&snapshot).ok_or_else(|| no_snapshot(source, snapshot))?;
            let seed = (data.clone(), template.memory && facts.memory);
            state.seeds.insert(id, seed);
            Ok(())
        })?;
        self.world.leave(Call::SnapshotSeed, Some(id)).await
    }

    async fn remove(&self, id: InstanceId, snapshot: SnapshotId) -> Result<()> {
        self.world.enter(Call::SnapshotRemove, Some(id)).await?;
        self.world.change(|state| {
            if let Some(body) = state.bodies.get_mut(&id) {
                body.holdings.snapshots.remove(&snapshot);
            }
        });
        self.world.leave(Call::SnapshotRemove, Some(id)).await
    }

    async fn list(&self, id: InstanceId) -> Result<Vec<(SnapshotId, SnapshotFacts)>> {
        self.world.enter(Call::SnapshotList, Some(id)).await?;
        let state = self.world.lock();
        let there = state.bodies.get(&id).map(|body| &body.holdings.snapshots);
        Ok(there.into_iter().flatten().map(|(id, (facts, _))| (*id, facts.clone())).collect())
    }
}

#[async_trait]
impl MachineDriver for FakeInstances {
    async fn hibernate(&self, handle: &InstanceHandle) -> Result<()> {
        self.world.enter(Call::Hibernate, Some(handle.id)).await?;
        let at = self.world.inner.clock.now();
        self.on_body(handle.id, |body| {
            if body.run.is_some() {
                body.holdings.memory = true;
                body.end(Some(Exit { code: 0, signal: None, out_of_memory: false, at }));
            }
            Ok(())
        })?;
        self.world.leave(Call::Hibernate, Some(handle.id)).await
    }

    async fn resize(&self, handle: &InstanceHandle, size: Size) -> Result<Resized> {
        self.world.enter(Call::Resize, Some(handle.id)).await?;
        let resized = self.on_body(handle.id, |body| {
            if body.run.is_none() {
                let message = format!("instance {} does not run", handle.id);
                return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
            }
            let fits = size.cpu.ceil_cores() <= PLACES;
            let cpu = if fits { size.cpu } else { body.desired.spec.size.cpu };
            body.desired.spec.size = Size { cpu, ..size };
            let why = (!fits).then(|| format!("it has places for {PLACES} processors while it runs"));
            Ok(Resized { size: body.desired.spec.size, why })
        })?;
        self.world.leave(Call::Resize, Some(handle.id)).await?;
        Ok(resized)
    }

    async fn renew(&self, handle: &InstanceHandle) -> Result<Renewed> {
        self.world.enter(Call::Renew, Some(handle.id)).await?;
        self.on_body(handle.id, |body| {
            let message = format!("instance {} does not run", handle.id);
            body.run.map(drop).ok_or_else(|| DriverError::new(ErrorKind::Conflict, "NotRunning", message))
        })?;
        self.world.leave(Call::Renew, Some(handle.id)).await?;
        Ok(Renewed { handle: handle.clone(), downtime: Duration::ZERO })
    }
}
