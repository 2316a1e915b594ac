//! Starting and stopping an agent.

use crate::{
    config::{AgentConfig, Drivers, Inventory},
    events::{self, Events},
    ledger::Ledger,
    link::Callback,
    meter,
    node::{Node, Parts},
    orders,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use yun_api::node::{ControlLink, ImageInput, ImportRequest, LinkError, NodeLink, Stream};
use yun_engine::{
    clock::Clock,
    session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session},
    tasks::Tasks,
    work::Followed,
};
use yun_types::{
    Digest, ExportFormat, ImageFacts, ImageRecipe, InstanceId, InstanceReport, NodeId, SnapshotFacts, SnapshotId,
    SnapshotOrder,
};

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open the ledger under {path}: check that the directory is there, writable, and on a disk with free space"
)]
pub struct StartError {
    /// The directory.
    pub path: PathBuf,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

/// One instance, as the agent has it: for the debug view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Which.
    pub id: InstanceId,
    /// A process is there.
    pub live: bool,
    /// The newest report, sent or not.
    pub report: Option<InstanceReport>,
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts the agent's tasks, under `agent/` in `tasks`, and returns at once: the node registers as soon as its drivers have been asked
    /// and the ledger's instances have owners again.
    pub fn start(
        config: AgentConfig,
        link: Arc<dyn ControlLink>,
        drivers: Drivers,
        inventory: Arc<dyn Inventory>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<AgentHandle, StartError> {
        let ledger = Ledger::open(&config.state).map_err(|source| StartError { path: config.state.clone(), source })?;
        let (events, queue) = Events::new();
        let (tasks, seed) = (tasks.scope("agent"), config.seed);
        let parts =
            Parts { config, link: link.clone(), drivers, inventory, clock, tasks: tasks.clone(), ledger, events };
        let node = Arc::new(Node::new(parts));
        let callback = Arc::new(Callback(node.clone()));
        let handle = AgentHandle { node: node.clone(), callback: callback.clone() };

        let id = node.id.subscribe();
        let carry = link.clone();
        tasks.spawn("events", move |task| events::carry(queue, carry, id, task));
        let (outbox, id) = (node.clone(), node.id.subscribe());
        tasks.spawn("reports", move |task| async move { outbox.outbox.carry(link, id, seed, task).await });
        let beating = node.clone();
        tasks.spawn("heartbeat", move |task| orders::heartbeat(beating, task));
        let measuring = node.clone();
        tasks.spawn("meter", move |task| meter::run(measuring, task));
        tasks.spawn("orders", move |task| orders::run(node, callback, task));
        Ok(handle)
    }
}

/// A running agent. Also what the control plane calls, for a program that has both.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    node: Arc<Node>,
    callback: Arc<Callback>,
}

impl AgentHandle {
    /// Resolves once the node is registered, with its id.
    pub async fn registered(&self) -> NodeId {
        let mut id = self.node.id.subscribe();
        loop {
            if let Some(id) = *id.borrow_and_update() {
                return id;
            }
            // The sender lives in the node, so the wait cannot end with an error.
            let _ = id.changed().await;
        }
    }

    /// Every instance that the agent owns.
    pub fn instances(&self) -> Vec<InstanceView> {
        let shown = self.node.all_shown();
        shown.into_iter().map(|(id, shown)| InstanceView { id, live: shown.live, report: shown.report }).collect()
    }

    /// Ends the agent's tasks. Instances and networks go on: the next agent takes them up again.
    pub async fn stop(&self, limit: Duration) -> Vec<String> {
        self.node.tasks.shutdown(limit).await
    }
}

#[async_trait]
impl NodeLink for AgentHandle {
    async fn exec(&self, instance: InstanceId, request: ExecRequest) -> Result<Session, LinkError> {
        self.callback.exec(instance, request).await
    }
    async fn sftp(&self, instance: InstanceId, user: Option<String>) -> Result<Session, LinkError> {
        self.callback.sftp(instance, user).await
    }
    async fn attach(&self, instance: InstanceId, request: AttachRequest) -> Result<Session, LinkError> {
        self.callback.attach(instance, request).await
    }
    async fn console(&self, instance: InstanceId) -> Result<Session, LinkError> {
        self.callback.console(instance).await
    }
    async fn logs(
        &self,
        instance: InstanceId,
        request: LogRequest,
    ) -> Result<BoxStream<'static, std::io::Result<LogLine>>, LinkError> {
        self.callback.logs(instance, request).await
    }
    async fn read_files(
        &self,
        instance: InstanceId,
        path: String,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, LinkError> {
        self.callback.read_files(instance, path).await
    }
    async fn write_files(
        &self,
        instance: InstanceId,
        path: String,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(), LinkError> {
        self.callback.write_files(instance, path, archive).await
    }
    async fn dial(&self, instance: InstanceId, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        self.callback.dial(instance, port).await
    }
    async fn import_image(
        &self,
        input: ImageInput,
        request: ImportRequest,
        work: Followed,
    ) -> Result<ImageFacts, LinkError> {
        self.callback.import_image(input, request, work).await
    }
    async fn build_image(&self, recipe: ImageRecipe, work: Followed) -> Result<ImageFacts, LinkError> {
        self.callback.build_image(recipe, work).await
    }
    async fn export_image(
        &self,
        digest: Digest,
        format: Option<ExportFormat>,
        name: String,
    ) -> Result<BoxStream<'static, io::Result<bytes::Bytes>>, LinkError> {
        self.callback.export_image(digest, format, name).await
    }
    async fn verify_image(&self, digest: Digest) -> Result<(), LinkError> {
        self.callback.verify_image(digest).await
    }
    async fn take_snapshot(
        &self,
        instance: InstanceId,
        order: SnapshotOrder,
        work: Followed,
    ) -> Result<SnapshotFacts, LinkError> {
        self.callback.take_snapshot(instance, order, work).await
    }
    async fn remove_snapshot(&self, instance: InstanceId, snapshot: SnapshotId) -> Result<(), LinkError> {
        self.callback.remove_snapshot(instance, snapshot).await
    }
}
