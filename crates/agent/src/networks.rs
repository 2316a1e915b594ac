//! The node's networks: one task a network brings it to the newest order, and removes it when nothing needs it here any more.
//!
//! Orders come faster than a network can be changed (each new instance is a new name in DNS): only the newest counts.
//!
//! A network that nothing needs any more lingers for a while, because to make one takes as long as to start a container. It goes at once when
//! its range is needed for another, or when the agent stops.

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

/// How long a network waits for lingering ones to make room.
const ROOM: Duration = Duration::from_secs(5);

const RETRY: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5), jitter: 20 };

/// The registry of networks.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    slots: Mutex<BTreeMap<NetworkId, Slot>>,
    /// Changes when a network is named or gone.
    named: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Slot {
    /// Absent: it should go.
    wanted: watch::Sender<Option<DesiredNetwork>>,
    state: watch::Sender<State>,
    /// An instance was disconnected: a removal that was refused may work now.
    released: Signal,
    /// It may not linger any longer.
    hurry: Signal,
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
            hurry: Signal::default(),
        };
        slots.insert(id, slot.clone());
        drop(slots);
        let keeper = Keeper { node: node.clone(), id, wanted: slot.wanted.subscribe(), slot, lingering: false };
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

    /// Sends away what lingers, and waits until it is gone.
    async fn make_room(&self, node: &Node, id: NetworkId) {
        let mut gone = self.named.subscribe();
        let lingers = |(other, slot): (&NetworkId, &Slot)| *other != id && slot.wanted.borrow().is_none();
        let wait = async {
            while self.lock().iter().any(lingers) {
                self.lock().iter().filter(|entry| lingers(*entry)).for_each(|(_, slot)| slot.hurry.wake());
                // The sender lives in `self`, so the wait cannot end with an error.
                let _ = gone.changed().await;
            }
        };
        let _ = within(&*node.clock, ROOM, wait).await;
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
    /// It is there, and only in case it is needed again.
    lingering: bool,
}

impl Keeper {
    async fn run(mut self, task: Task) {
        let stop = task.stopping().clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep(&task) => return,
        }
        // Nobody would remove it after us.
        if self.lingering
            && let Err(error) = self.remove().await
        {
            tracing::warn!(network = %self.id, %error, "a network that nothing needs could not be removed; the next agent tries again");
        }
    }

    async fn keep(&mut self, task: &Task) {
        let mut tries = Tries::new(RETRY, self.node.config.seed);
        loop {
            let mut wanted = self.wanted.borrow_and_update().clone();
            if wanted.is_none() && self.linger(task).await {
                wanted = self.wanted.borrow_and_update().clone();
            }
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

    /// Leaves a network that is there alone until it is wanted again (`true`) or its time is over.
    async fn linger(&mut self, task: &Task) -> bool {
        if *self.slot.state.borrow() != State::Ensured {
            return false;
        }
        task.idle("not needed; it goes soon", None);
        self.lingering = true;
        let wanted = tokio::select! {
            _ = self.wanted.wait_for(Option::is_some) => true,
            () = self.slot.hurry.woken() => false,
            () = self.node.clock.sleep(self.node.config.network_linger) => false,
        };
        self.lingering = false;
        wanted
    }

    async fn ensure(&self, network: &DesiredNetwork) -> Result<()> {
        remember(&self.node.ledger, network)?;
        let driver = &self.node.drivers.network;
        let result = match driver.ensure(network).await {
            Err(error) if error.reason == "RangeTaken" => {
                self.node.networks.make_room(&self.node, self.id).await;
                driver.ensure(network).await
            }
            other => other,
        };
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
            self.node.networks.named.send_modify(|n| *n = n.wrapping_add(1));
        }
        unwanted
    }
}

fn remember(ledger: &Ledger, network: &DesiredNetwork) -> Result<()> {
    ledger.write_network(network).map_err(|error| DriverError::io(format!("remember network {}", network.id), error))
}
