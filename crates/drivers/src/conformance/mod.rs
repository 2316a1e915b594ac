//! What every implementation of the driver traits must do, as one suite that runs on the real drivers and on the fakes.
//!
//! The suite speaks to drivers only. A [`Harness`] brings the host: an image, a network, orders for instances whose programs do what a case
//! needs, and the eyes that look for leftovers. A case that fails panics and names itself, the call and the object.
//!
//! Words: a *kit* is a full set of drivers as a fresh process makes them: a new kit is a restart of yun.

mod images;
mod instances;
mod networks;
mod snapshots;

use crate::{DriverError, ImageDriver, InstanceDriver, Meter, NetworkDriver, Result, SnapshotDriver};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    fmt::Display,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use yun_types::{DesiredInstance, DesiredNetwork, Digest, InstanceId, InstanceKind};

/// A full set of drivers for one kind of instance.
#[derive(Clone)]
pub struct Kit {
    /// The instances.
    pub instance: Arc<dyn InstanceDriver>,
    /// The images.
    pub image: Arc<dyn ImageDriver>,
    /// The networks.
    pub network: Arc<dyn NetworkDriver>,
    /// The snapshots, if this kind has any.
    pub snapshot: Option<Arc<dyn SnapshotDriver>>,
    /// What is used.
    pub meter: Arc<dyn Meter>,
}

impl std::fmt::Debug for Kit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kit")
    }
}

/// What an instance's program should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is asked to end, and ends then.
    Patient,
    /// Writes the lines `one` and `two`, and from then on does not listen to the polite request.
    Deaf,
    /// Writes the lines `one` and `two`, then runs as [`Program::Patient`].
    Talks,
    /// Ends at once with this code. Containers only.
    Exits(i32),
}

/// A host to run the suite on.
#[async_trait]
pub trait Harness: Send + Sync {
    /// VMs or containers.
    fn kind(&self) -> InstanceKind;
    /// Drivers of this host as a fresh process makes them.
    async fn kit(&self) -> Kit;
    /// A content that is here.
    fn image(&self) -> Digest;
    /// The bytes of another content, for imports.
    fn upload(&self) -> Bytes;
    /// The network that instances go to.
    fn network(&self) -> DesiredNetwork;
    /// An order for a new instance, with an id and an address of its own.
    fn instance(&self, program: Program) -> DesiredInstance;
    /// Everything on the host that is left of an instance: processes, cgroups, mounts, directories, interfaces.
    async fn leftovers(&self, id: InstanceId) -> Vec<String>;
    /// Writes a word into the data of an instance that is prepared and does not run. For snapshots.
    async fn mark(&self, id: InstanceId, word: &str) {
        panic!("this host cannot write {word} into instance {id}");
    }
    /// The word that was written last.
    async fn marked(&self, id: InstanceId) -> String {
        panic!("this host cannot read the data of instance {id}");
    }
    /// How long a case waits for what should happen soon.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
    /// After how many polls calls are dropped, in the cases about cancellation.
    fn drops(&self) -> Vec<usize> {
        vec![0, 1, 2, 3, 5, 8, 13, 21, 34]
    }
}

/// Runs all cases, one after the other.
pub async fn run(harness: &dyn Harness) {
    images::run(harness).await;
    networks::run(harness).await;
    instances::run(harness).await;
    snapshots::run(harness).await;
}

/// Runs the cases about snapshots.
pub async fn run_snapshots(harness: &dyn Harness) {
    snapshots::run(harness).await;
}

/// Runs the cases about images.
pub async fn run_images(harness: &dyn Harness) {
    images::run(harness).await;
}

/// Runs the cases about networks.
pub async fn run_networks(harness: &dyn Harness) {
    networks::run(harness).await;
}

/// Runs the cases about instances.
pub async fn run_instances(harness: &dyn Harness) {
    instances::run(harness).await;
}

/// The value, or the end of the case.
#[track_caller]
fn must<T>(what: impl Display, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error} ({:?}, {}){}", error.kind, error.reason, causes(&error)))
}

/// What an error came from.
fn causes(error: &DriverError) -> String {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |error| error.source()).map(|cause| format!("; because: {cause}")).collect()
}

/// The error, or the end of the case.
#[track_caller]
fn refused<T>(what: impl Display, result: Result<T>) -> DriverError {
    match result {
        Err(error) => {
            assert!(!error.message.is_empty(), "{what}: an error says something");
            error
        }
        Ok(_) => panic!("{what}: this must be refused"),
    }
}

/// Waits for a call that must end soon.
async fn soon<T>(harness: &dyn Harness, what: impl Display, call: impl Future<Output = T>) -> T {
    match tokio::time::timeout(harness.patience(), call).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not done within {:?}", harness.patience()),
    }
}

/// Asks until the answer is yes.
async fn until<W: Future<Output = bool>>(harness: &dyn Harness, what: impl Display, mut question: impl FnMut() -> W) {
    let asking = async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(harness, what, asking).await;
}

/// Polls a call so many times and drops it then, or when it has had as many milliseconds. `None` if it was dropped.
async fn dropped_after<F: Future>(polls: usize, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut left = polls;
    let polling = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let limit = Duration::from_millis(polls.try_into().unwrap_or(u64::MAX));
    tokio::time::timeout(limit, polling).await.ok().flatten()
}
