//! What happens to the project's containers, told to everybody who waits: one watch of the cloud's for the whole door.
//!
//! It also keeps the newest sight of each container, which may be some milliseconds old: good for finding names and for events, never the
//! last word on a state.

use super::cloud::{Cloud, lines};
use futures::StreamExt;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast;
use uuid::Uuid;
use yun_api::cloud::{AnyObject, Change, WatchEvent};
use yun_engine::clock::Clock;
use yun_types::{Instance, InstanceKind, ObjectKind};

/// How many changes a slow listener may be behind.
const BEHIND: usize = 4096;
/// The pause before the watch is opened again.
const AGAIN: Duration = Duration::from_millis(200);

/// One change of one container.
#[derive(Debug, Clone)]
pub(super) struct Happening {
    /// As it was; absent if it is new.
    pub(super) before: Option<Arc<Instance>>,
    /// As it is; absent if it is gone.
    pub(super) after: Option<Arc<Instance>>,
}

impl Happening {
    /// Which container.
    pub(super) fn id(&self) -> Uuid {
        self.after.as_ref().or(self.before.as_ref()).map_or_else(Uuid::nil, |instance| instance.metadata.id)
    }
}

/// Follows the cloud.
#[derive(Debug)]
pub(super) struct Follower {
    seen: Mutex<HashMap<Uuid, Arc<Instance>>>,
    changes: broadcast::Sender<Arc<Happening>>,
}

impl Default for Follower {
    fn default() -> Self {
        Self { seen: Mutex::default(), changes: broadcast::Sender::new(BEHIND) }
    }
}

impl Follower {
    /// What happens from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.changes.subscribe()
    }

    /// The containers, as they were a moment ago.
    pub(super) fn seen(&self) -> Vec<Arc<Instance>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Follows until dropped.
    pub(super) async fn run(&self, cloud: &Cloud, clock: &dyn Clock) {
        loop {
            if let Err(error) = self.once(cloud).await {
                tracing::debug!(%error, "the watch of containers broke and is opened again");
            }
            clock.sleep(AGAIN).await;
        }
    }

    /// One watch: all there is, then what changes.
    async fn once(&self, cloud: &Cloud) -> io::Result<()> {
        let request = cloud.client.watch().project(cloud.project.clone()).kind(ObjectKind::Instance);
        let body = request.send().await.map_err(|e| io::Error::other(e.to_string()))?.into_inner();
        let mut events = std::pin::pin!(lines::<WatchEvent>(body));
        let mut listed = Some(Vec::new());
        while let Some(event) = events.next().await {
            let WatchEvent { change, object, .. } = event?;
            match object {
                Some(AnyObject::Instance(instance)) if instance.spec.kind == Some(InstanceKind::Container) => {
                    if let Some(listed) = &mut listed {
                        listed.push(instance.metadata.id);
                    }
                    self.take(instance, change == Change::Deleted);
                }
                None => {
                    if let Some(listed) = listed.take() {
                        self.keep_only(&listed);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&self, instance: Instance, gone: bool) {
        let (id, instance) = (instance.metadata.id, Arc::new(instance));
        let before = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if gone { seen.remove(&id) } else { seen.insert(id, Arc::clone(&instance)) }
        };
        if gone {
            self.tell(before.or(Some(instance)), None);
        } else if before.as_ref() != Some(&instance) {
            self.tell(before, Some(instance));
        }
    }

    /// After a gap: what is not in the list is gone.
    fn keep_only(&self, listed: &[Uuid]) {
        let gone: Vec<_> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let ids: Vec<Uuid> = seen.keys().filter(|id| !listed.contains(id)).copied().collect();
            ids.iter().filter_map(|id| seen.remove(id)).collect()
        };
        for instance in gone {
            self.tell(Some(instance), None);
        }
    }

    fn tell(&self, before: Option<Arc<Instance>>, after: Option<Arc<Instance>>) {
        // Nobody listening is no error.
        let _ = self.changes.send(Arc::new(Happening { before, after }));
    }
}
