//! The two directions between the control plane and a node.
//!
//! The agent *pulls*: it registers, watches its orders, reports what it observed ([`ControlLink`]). The control plane calls a node only for
//! what a person or an operation waits for: sessions, logs, images ([`NodeLink`]). On one machine both run in one process and the traits
//! are called directly; between machines they are carried by HTTP. Neither side may assume that the other remembers anything.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{fmt, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use yun_engine::{
    session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session},
    work::Followed,
};
use yun_types::{
    ContainerConfig, Digest, ExportFormat, Failure, ImageFacts, ImageFormat, ImageRecipe, InstanceId, InstanceReport,
    Measured, NodeFacts, NodeId, NodeOrder, NodeUsage, ObjectRef, RegistryPull, Severity, SnapshotFacts, SnapshotId,
    SnapshotOrder, VolumeReport,
};

/// Why a call over a link failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The other side cannot be reached now; try again later.
    #[error("{0}")]
    Unreachable(String),
    /// The other side refused; trying the same again is useless. Code and message are meant for the user.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The object is not there.
    #[error("{0}")]
    NotFound(String),
    /// The caller no longer wanted it.
    #[error("cancelled on request")]
    Cancelled,
}

impl LinkError {
    /// A refusal from its code and its text.
    pub fn refused(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused(Failure { code: code.into(), message: message.into() })
    }
}

/// What a node answers when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its id in this cloud: the same as before if its name is known.
    pub node: NodeId,
}

/// Something that a node saw happen, for the journal of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// To what.
    pub instance: Option<InstanceId>,
    /// If not to an instance.
    pub object: Option<ObjectRef>,
    /// Whether it asks for attention.
    pub severity: Severity,
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What an agent calls on the control plane.
#[async_trait]
pub trait ControlLink: Send + Sync + 'static {
    /// Says who this node is and what it has, at each start and when that changes. `callback` is how the control plane calls back.
    async fn register(&self, facts: NodeFacts, callback: Arc<dyn NodeLink>) -> Result<Registered, LinkError>;
    /// Says that the node lives, and what is used on it.
    async fn heartbeat(&self, node: NodeId, usage: NodeUsage) -> Result<(), LinkError>;
    /// What was measured on this node just now. May be lost: the next one comes soon.
    async fn measured(&self, node: NodeId, measured: Measured) -> Result<(), LinkError>;
    /// What this node should do: first a snapshot, then changes in order. Ends when the link breaks: call it again.
    async fn orders(&self, node: NodeId) -> Result<BoxStream<'static, NodeOrder>, LinkError>;
    /// What was observed. Once this returns, the reports are durable.
    async fn report(&self, node: NodeId, reports: Vec<InstanceReport>) -> Result<(), LinkError>;
    /// What was observed of volumes. Once this returns, the reports are durable.
    async fn report_volumes(&self, node: NodeId, reports: Vec<VolumeReport>) -> Result<(), LinkError>;
    /// What happened, for the journal. May be lost.
    async fn event(&self, node: NodeId, event: NodeEvent) -> Result<(), LinkError>;
}

/// Where a node should read an image from.
pub enum ImageInput {
    /// The bytes of an upload, as they arrive.
    Upload(BoxStream<'static, std::io::Result<Bytes>>),
    /// `http://` or `https://`.
    Url(String),
    /// An OCI registry.
    Registry(Box<RegistryPull>),
}

impl fmt::Debug for ImageInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upload(_) => f.write_str("Upload"),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Registry(pull) => f.debug_tuple("Registry").field(&pull.reference).finish(),
        }
    }
}

/// What an import should check and assume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportRequest {
    /// Found out from the bytes if absent.
    pub format: Option<ImageFormat>,
    /// What the bytes must hash to.
    pub checksum: Option<Digest>,
    /// For formats that bring no config of their own.
    pub config: Option<ContainerConfig>,
}

/// Both directions of a TCP connection into an instance.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a node of an older version, or one made for a test, answers.
fn unsupported(what: &str) -> LinkError {
    LinkError::refused("Unsupported", format!("this node knows nothing of {what}: upgrade yun there"))
}

/// What the control plane calls on a node.
#[async_trait]
pub trait NodeLink: Send + Sync + 'static {
    /// Runs a process in a container.
    async fn exec(&self, instance: InstanceId, request: ExecRequest) -> Result<Session, LinkError>;
    /// Opens a session of SFTP with a container.
    async fn sftp(&self, instance: InstanceId, user: Option<String>) -> Result<Session, LinkError> {
        let _ = (instance, user);
        Err(LinkError::refused("Unsupported", "this node knows nothing of SFTP: upgrade yun there"))
    }
    /// Connects to the streams of a container's main process.
    async fn attach(&self, instance: InstanceId, request: AttachRequest) -> Result<Session, LinkError> {
        let _ = (instance, request);
        Err(LinkError::refused("Unsupported", "this node knows nothing of attaching: upgrade yun there"))
    }
    /// Opens a VM's serial console.
    async fn console(&self, instance: InstanceId) -> Result<Session, LinkError>;
    /// What an instance wrote.
    async fn logs(
        &self,
        instance: InstanceId,
        request: LogRequest,
    ) -> Result<BoxStream<'static, std::io::Result<LogLine>>, LinkError>;
    /// A file or a directory of an instance, as a tar stream.
    async fn read_files(
        &self,
        instance: InstanceId,
        path: String,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, LinkError> {
        let _ = (instance, path);
        Err(LinkError::refused("Unsupported", "this node knows nothing of files: upgrade yun there"))
    }
    /// Unpacks a tar stream in an instance.
    async fn write_files(
        &self,
        instance: InstanceId,
        path: String,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(), LinkError> {
        let _ = (instance, path, archive);
        Err(LinkError::refused("Unsupported", "this node knows nothing of files: upgrade yun there"))
    }
    /// A TCP connection to a port of an instance.
    async fn dial(&self, instance: InstanceId, port: u16) -> Result<Box<dyn Stream>, LinkError>;
    /// Takes an image in.
    async fn import_image(
        &self,
        input: ImageInput,
        request: ImportRequest,
        work: Followed,
    ) -> Result<ImageFacts, LinkError>;
    /// Makes an image from packages.
    async fn build_image(&self, recipe: ImageRecipe, work: Followed) -> Result<ImageFacts, LinkError>;
    /// Gives an image out; `name` is what its archive calls it.
    async fn export_image(
        &self,
        digest: Digest,
        format: Option<ExportFormat>,
        name: String,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, LinkError>;
    /// Reads an image's content again and compares it with its digest.
    async fn verify_image(&self, digest: Digest) -> Result<(), LinkError>;
    /// Takes a snapshot of an instance. May be asked again for the same one: what is whole is told of again.
    async fn take_snapshot(
        &self,
        instance: InstanceId,
        order: SnapshotOrder,
        work: Followed,
    ) -> Result<SnapshotFacts, LinkError> {
        let _ = (instance, order, work);
        Err(unsupported("snapshots"))
    }
    /// Removes a snapshot. Ok when it is not there, or its instance is not.
    async fn remove_snapshot(&self, instance: InstanceId, snapshot: SnapshotId) -> Result<(), LinkError> {
        let _ = (instance, snapshot);
        Err(unsupported("snapshots"))
    }
}
