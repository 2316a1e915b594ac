//! The node's volumes: one task a volume brings it to the newest order, and tells the control plane what came of it.
//!
//! Instances do not wait for these tasks: what an instance needs is ensured again before it is plugged in, so that a node that has lost the
//! control plane still starts what it knows. A volume is removed only when an order says so of it by name.

use crate::node::Node;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use yun_drivers::DriverError;
use yun_engine::{
    backoff::{Backoff, Tries},
    tasks::Task,
};
use yun_types::{DesiredVolume, ObservedVolume, VolumeId, VolumeReport};

const RETRY: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10), jitter: 20 };

/// The registry of volumes.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    slots: Mutex<BTreeMap<VolumeId, watch::Sender<DesiredVolume>>>,
}

impl Volumes {
    /// Brings a volume to this, in the background.
    pub(crate) fn want(&self, node: &Arc<Node>, volume: DesiredVolume) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&volume.id) {
            // Also when nothing changed: after a new link, everything is told again.
            slot.send_replace(volume);
            return;
        }
        let (slot, wanted) = watch::channel(volume.clone());
        slots.insert(volume.id, slot);
        drop(slots);
        let keeper = Keeper { node: node.clone(), wanted };
        node.tasks.spawn(format!("volume/{}/{}", volume.project, volume.name), move |task| keeper.run(task));
    }

    fn leave(&self, id: VolumeId) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

struct Keeper {
    node: Arc<Node>,
    wanted: watch::Receiver<DesiredVolume>,
}

impl Keeper {
    async fn run(mut self, task: Task) {
        let stop = task.stopping().clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep(&task) => {}
        }
    }

    async fn keep(&mut self, task: &Task) {
        let mut tries = Tries::new(RETRY, self.node.config.seed);
        loop {
            let volume = self.wanted.borrow_and_update().clone();
            task.working(if volume.deleting { "remove" } else { "ensure" });
            let failed = match self.bring(&volume).await {
                Ok(observed) => {
                    let gone = observed == ObservedVolume::Gone;
                    match self.tell(&volume, observed).await {
                        Ok(()) if gone => {
                            self.node.volumes.leave(volume.id);
                            return;
                        }
                        other => other.err(),
                    }
                }
                Err(error) => {
                    tracing::warn!(volume = %volume.name, %error, "cannot bring the volume to what is wanted; trying again");
                    let observed =
                        ObservedVolume::Failed { reason: error.reason.to_owned(), message: error.message.clone() };
                    let _ = self.tell(&volume, observed).await;
                    Some(error.message)
                }
            };
            let changed = match failed {
                None => {
                    tries.succeeded();
                    task.idle("as wanted", None);
                    self.wanted.changed().await
                }
                Some(why) => {
                    task.failed(why, None);
                    let pause = tries.failed();
                    tokio::select! {
                        () = self.node.clock.sleep(pause) => Ok(()),
                        changed = self.wanted.changed() => changed,
                    }
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn bring(&self, volume: &DesiredVolume) -> Result<ObservedVolume, DriverError> {
        let driver = &self.node.drivers.volume;
        if volume.deleting {
            driver.remove(volume.id).await?;
            return Ok(ObservedVolume::Gone);
        }
        let local = driver.ensure(volume).await?;
        Ok(ObservedVolume::Ready { used: local.used, enforced: local.enforced, message: local.message })
    }

    /// Tells the control plane; an error is why it could not be told.
    async fn tell(&self, volume: &DesiredVolume, observed: ObservedVolume) -> Result<(), String> {
        let mut id = self.node.id.subscribe();
        let Ok(Some(node)) = id.wait_for(Option::is_some).await.map(|id| *id) else { return Ok(()) };
        let report = VolumeReport { id: volume.id, generation: volume.generation, observed };
        self.node.link.report_volumes(node, vec![report]).await.map_err(|error| error.to_string())
    }
}
