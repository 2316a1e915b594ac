//! Instances on a node: one trait for VMs and containers.

use crate::{Attachment, DriverError, FileAccess, Fittings, LocalImage, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use yun_engine::session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session};
use yun_types::{DesiredInstance, DriverFacts, Exit, Generation, InstanceId, InstanceKind, Timestamp};

/// Names a prepared instance. The agent keeps it in its ledger and gives it back; only the driver reads `driver`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceHandle {
    /// Which.
    pub id: InstanceId,
    /// VM or container.
    pub kind: InstanceKind,
    /// The generation that it was prepared for.
    pub generation: Generation,
    /// What the driver needs to find it again: pids with their start times, socket paths, the boot of the host.
    pub driver: serde_json::Value,
}

/// What is true of an instance now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It runs; since when.
    Running {
        /// When it began.
        since: Timestamp,
    },
    /// It is frozen in memory.
    Paused {
        /// When it began to run.
        since: Timestamp,
    },
    /// It ended. The exit survives the death of every yun process; it is absent if the host went down with it.
    Ended {
        /// How.
        exit: Option<Exit>,
    },
    /// It was prepared and never started, or is not here at all.
    Absent,
}

/// Makes one kind of instance real.
///
/// Legal order: `probe`, then per instance `enclose` → `prepare` → `start` → (`pause` ⇄ `resume`, `exec`, `sftp`, `console`) → `stop` → `start` … → `remove`.
/// `recover`, `logs` and `remove` are legal at any time, also for instances that were never prepared.
#[async_trait]
pub trait InstanceDriver: FileAccess + Send + Sync + 'static {
    /// What this host can do now. May take seconds the first time (it proves what it claims), is cheap after that.
    async fn probe(&self) -> Result<DriverFacts>;

    /// Makes what the network has to know of before it connects an instance that does not run: namespaces that belong to it. Before
    /// `attach` and `prepare`; may be repeated.
    async fn enclose(&self, instance: &DesiredInstance) -> Result<()> {
        let _ = instance;
        Ok(())
    }

    /// Makes everything that a start needs: directories, disk, configuration. Starts nothing. A second call with a newer generation
    /// brings the rest up to it without touching the instance's data.
    async fn prepare(
        &self,
        instance: &DesiredInstance,
        image: &LocalImage,
        network: Option<&Attachment>,
    ) -> Result<InstanceHandle>;

    /// Changes the limits of one that runs to those that are wanted now. `false` if that takes a restart.
    async fn adjust(&self, instance: &DesiredInstance) -> Result<bool> {
        let _ = instance;
        Ok(false)
    }

    /// Brings what is plugged into an instance (volumes, interfaces after the first) to this. Before the first preparation it is written
    /// down for it; a running instance is changed while it runs. Idempotent, and complete: what is not in `fittings` is pulled out.
    /// A guest that does not let go of a device is `Conflict`/`DeviceBusy`.
    async fn fit(&self, id: InstanceId, fittings: &Fittings) -> Result<()> {
        let _ = (id, fittings);
        Ok(())
    }

    /// Starts it and returns once it runs: a container's process exists, a VM's processor executes. The returned handle replaces the
    /// given one. If it runs already, nothing happens. A call that is dropped half way leaves something that `recover` finds.
    async fn start(&self, handle: &InstanceHandle) -> Result<InstanceHandle>;

    /// Resolves when the guest answers on its network (VM), at once (container). After `deadline` the answer is `BootTimeout`, with the
    /// last lines of the console. Called after `start`; dropping it is always safe.
    async fn ready(&self, handle: &InstanceHandle, deadline: Duration) -> Result<()> {
        let _ = (handle, deadline);
        Ok(())
    }

    /// What is true now, also after a restart of this process or of the host. Reads, never changes.
    async fn recover(&self, handle: &InstanceHandle) -> Result<Observed>;

    /// Resolves when it no longer runs, at once if it does not run now. Dropping it is always safe.
    async fn wait(&self, handle: &InstanceHandle) -> Result<Option<Exit>>;

    /// Asks it to end, and ends it after `grace`. Returns how it ended. Ok when it does not run.
    async fn stop(&self, handle: &InstanceHandle, grace: Duration) -> Result<Option<Exit>>;

    /// Freezes it in memory.
    async fn pause(&self, handle: &InstanceHandle) -> Result<()>;

    /// Lets it go on.
    async fn resume(&self, handle: &InstanceHandle) -> Result<()>;

    /// Ends it at once if it runs, and removes all traces: processes, cgroups, mounts, directories, logs. Ok when nothing is there.
    async fn remove(&self, id: InstanceId) -> Result<()>;

    /// Runs a process inside. VMs without a guest agent answer `Unavailable` and name `yun ssh`.
    async fn exec(&self, handle: &InstanceHandle, request: ExecRequest) -> Result<Session>;

    /// Connects to the streams of its main process, as they are; the first frame is empty, and nothing after it is missed. Dropping the session leaves the instance as it is; its end ends the
    /// session. One that does not run is `Conflict`/`NotRunning`, unless the request waits for it. VMs answer `Unavailable` and name
    /// `yun console`.
    async fn attach(&self, id: InstanceId, request: AttachRequest) -> Result<Session> {
        let _ = request;
        Err(DriverError::unavailable(
            "NoAttach",
            format!("instance {id} has no main process to attach to: use yun console, or yun logs"),
        ))
    }

    /// A file or a directory of it, with everything below, as a tar stream whose entries begin with the last part of the path.
    async fn read_files(&self, id: InstanceId, path: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        Err(DriverError::unavailable(
            "NoFiles",
            format!("{path} of instance {id} cannot be copied here: use scp over yun ssh"),
        ))
    }

    /// Unpacks a tar stream into a directory of it that is there, or under a new name in one that is there.
    async fn write_files(
        &self,
        id: InstanceId,
        path: &str,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<()> {
        drop(archive);
        Err(DriverError::unavailable(
            "NoFiles",
            format!("{path} of instance {id} cannot be copied here: use scp over yun ssh"),
        ))
    }

    /// Opens the serial console of a VM. Several may be open at once. Containers answer `Unavailable` and name `yun exec`.
    async fn console(&self, handle: &InstanceHandle) -> Result<Session>;

    /// What it wrote: standard output and error of a container, the serial console of a VM.
    async fn logs(&self, id: InstanceId, request: LogRequest) -> Result<BoxStream<'static, std::io::Result<LogLine>>>;
}
