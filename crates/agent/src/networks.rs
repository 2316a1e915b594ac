//! The node's networks: one task a network brings it to the newest order, and removes it when nothing needs it here any more.
//!
//! Orders come faster than a network can be changed (each new instance is a new name in DNS): only the newest counts.

use crate::{ledger::Ledger, node::Node};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::{
    backoff::{Backoff, Tries},
    clock::within,
    reconcile::Signal,
    tasks::Task,
};
use yun_types::{DesiredNetwork, NetworkId};

/// How long an instance waits for a network that no order has named yet: the order may be right behind.
const UNNAMED: Duration = Duration::from_secs(5);

const RETRY: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5), jitter: 20 };

/// The registry of networks.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    slots: Mutex<BTreeMap<NetworkId, Slot>>,
    /// Changes when a network is named.
    named: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Slot {
    /// Absent: it should go.
    wanted: watch::Sender<Option<DesiredNetwork>>,
    state: watch::Sender<State>,
    /// An instance was disconnected: a removal that was refused may work now.
    released: Signal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Ensured,
    Failed(String),
}

impl Networks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a network to this, in the background.
    pub(crate) fn want(&self, node: &Arc<Node>, network: DesiredNetwork) {
        let id = network.id;
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&id) {
            slot.wanted.send_if_modified(|now| {
                let changed = now.as_ref() != Some(&network);
                *now = Some(network);
                changed
            });
            return;
        }
        let slot = Slot {
            wanted: watch::channel(Some(network)).0,
            state: watch::channel(State::Waiting).0,
            released: Signal::default(),
        };
        slots.insert(id, slot.clone());
        drop(slots);
        let keeper = Keeper { node: node.clone(), id, wanted: slot.wanted.subscribe(), slot };
        node.tasks.spawn(format!("network/{}", id.short()), move |task| keeper.run(task));
        self.named.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Removes a network, in the background.
    pub(crate) fn unwant(&self, id: NetworkId) {
        if let Some(slot) = self.lock().get(&id) {
            slot.wanted.send_replace(None);
        }
    }

    /// Removes all networks but these.
    pub(crate) fn keep_only(&self, keep: impl Fn(NetworkId) -> bool) {
        for (_, slot) in self.lock().iter().filter(|(id, _)| !keep(**id)) {
            slot.wanted.send_replace(None);
        }
    }

    /// An instance was disconnected from it.
    pub(crate) fn released(&self, id: NetworkId) {
        if let Some(slot) = self.lock().get(&id) {
            slot.released.wake();
        }
    }

    /// Resolves once instances can be connected to it.
    pub(crate) async fn ready(&self, node: &Node, id: NetworkId) -> Result<()> {
        let slot = self.slot(node, id).await?;
        let mut state = slot.state.subscribe();
        let state = state.wait_for(|state| *state != State::Waiting).await.map(|state| state.clone());
        match state {
            Ok(State::Failed(message)) => Err(DriverError::new(ErrorKind::Internal, "NetworkFailed", message)),
            _ => Ok(()),
        }
    }

    async fn slot(&self, node: &Node, id: NetworkId) -> Result<Slot> {
        let mut named = self.named.subscribe();
        let wait = async {
            loop {
                if let Some(slot) = self.lock().get(&id) {
                    return slot.clone();
                }
                // The sender lives in `self`, so the wait cannot end with an error.
                let _ = named.changed().await;
            }
        };
        within(&*node.clock, UNNAMED, wait).await.ok_or_else(|| {
            let message = format!("the control plane has not named network {id} to this node; it is tried again");
            DriverError::new(ErrorKind::Unavailable, "NetworkUnknown", message)
        })
    }
}

/// Brings one network to what is wanted.
struct Keeper {
    node: Arc<Node>,
    id: NetworkId,
    wanted: watch::Receiver<Option<DesiredNetwork>>,
    slot: Slot,
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
            let wanted = self.wanted.borrow_and_update().clone();
            task.working(if wanted.is_some() { "ensure" } else { "remove" });
            let done = match &wanted {
                Some(network) => self.ensure(network).await,
                None => self.remove().await,
            };
            match done {
                Ok(()) if wanted.is_none() && self.leave() => return,
                Ok(()) => {
                    tries.succeeded();
                    task.idle("as wanted", None);
                    // The sender lives in `slot`, so the wait cannot end with an error.
                    let _ = self.wanted.changed().await;
                }
                Err(error) => {
                    tracing::warn!(network = %self.id, %error, "cannot bring the network to what is wanted; trying again");
                    task.failed(error.to_string(), None);
                    let pause = tries.failed();
                    tokio::select! {
                        () = self.node.clock.sleep(pause) => {}
                        _ = self.wanted.changed() => {}
                        () = self.slot.released.woken() => {}
                    }
                }
            }
        }
    }

    async fn ensure(&self, network: &DesiredNetwork) -> Result<()> {
        remember(&self.node.ledger, network)?;
        let result = self.node.drivers.network.ensure(network).await;
        let state = match &result {
            Ok(()) => State::Ensured,
            Err(error) => State::Failed(error.message.clone()),
        };
        // Instances that are connected stay so when a later change fails: only the first one counts.
        self.slot.state.send_if_modified(|now| {
            let changes = *now != State::Ensured && *now != state;
            if changes {
                *now = state;
            }
            changes
        });
        result
    }

    async fn remove(&self) -> Result<()> {
        self.slot.state.send_replace(State::Waiting);
        self.node.drivers.network.remove(self.id).await?;
        self.node
            .ledger
            .forget_network(self.id)
            .map_err(|error| DriverError::io(format!("forget network {}", self.id), error))
    }

    /// Takes the network off the registry, unless it is wanted again.
    fn leave(&self) -> bool {
        let mut slots = self.node.networks.lock();
        let unwanted = self.wanted.borrow().is_none();
        if unwanted {
            slots.remove(&self.id);
        }
        unwanted
    }
}

fn remember(ledger: &Ledger, network: &DesiredNetwork) -> Result<()> {
    ledger.write_network(network).map_err(|error| DriverError::io(format!("remember network {}", network.id), error))
}
