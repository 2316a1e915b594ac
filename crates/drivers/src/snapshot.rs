//! Snapshots of instances on a node: one trait for VMs and containers.

use crate::{DriverError, ErrorKind, Result};
use async_trait::async_trait;
use yun_engine::work::Followed;
use yun_types::{InstanceId, InstanceKind, SnapshotFacts, SnapshotId, SnapshotOrder, Template};

/// Keeps, brings back and removes what an instance was at one moment.
///
/// Legal for instances that were prepared. A snapshot lies with its instance and goes away with it: `InstanceDriver::remove` removes all of
/// them. Once a call has returned, what it did outlives the host. Calls about one instance may come side by side with each other and
/// with those of the instance driver: implementations put them in a row.
#[async_trait]
pub trait SnapshotDriver: Send + Sync + 'static {
    /// Takes one, of a running instance without ending it. Idempotent by `order.id`: one that is whole is told of again; one that was cut
    /// short leaves nothing that counts, and is taken anew. Reports its progress to `work`, and gives up when that is cancelled.
    async fn take(&self, instance: InstanceId, order: &SnapshotOrder, work: &Followed) -> Result<SnapshotFacts>;

    /// Puts the data of an instance that does not run back, all of it or nothing. With `memory` its next start goes on where it was.
    async fn restore(&self, instance: InstanceId, snapshot: SnapshotId, memory: bool) -> Result<()>;

    /// Gives an instance that is about to be prepared, and has no data yet, those of a snapshot of another one. It owes nothing to that one
    /// afterwards. With `memory` its first start goes on from there, with the identity of the new instance. Ok when it has data already.
    async fn seed(&self, instance: InstanceId, template: &Template) -> Result<()>;

    /// Removes one. Ok when it is not there.
    async fn remove(&self, instance: InstanceId, snapshot: SnapshotId) -> Result<()>;

    /// Those that are whole.
    async fn list(&self, instance: InstanceId) -> Result<Vec<(SnapshotId, SnapshotFacts)>>;
}

/// A kind of instance that has no snapshots on this node.
#[derive(Debug, Clone, Copy)]
pub struct NoSnapshots(pub InstanceKind);

impl NoSnapshots {
    fn refuse<T>(&self) -> Result<T> {
        let message = format!("snapshots of {}s are not there on this node yet; a VM has them", self.0);
        Err(DriverError::new(ErrorKind::Unavailable, "NoSnapshots", message))
    }
}

#[async_trait]
impl SnapshotDriver for NoSnapshots {
    async fn take(&self, _: InstanceId, _: &SnapshotOrder, _: &Followed) -> Result<SnapshotFacts> {
        self.refuse()
    }
    async fn restore(&self, _: InstanceId, _: SnapshotId, _: bool) -> Result<()> {
        self.refuse()
    }
    async fn seed(&self, _: InstanceId, _: &Template) -> Result<()> {
        self.refuse()
    }
    async fn remove(&self, _: InstanceId, _: SnapshotId) -> Result<()> {
        Ok(())
    }
    async fn list(&self, _: InstanceId) -> Result<Vec<(SnapshotId, SnapshotFacts)>> {
        Ok(Vec::new())
    }
}
