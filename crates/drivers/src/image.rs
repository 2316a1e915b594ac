//! Images on a node: content-addressed, verified, each content kept once.

use crate::Result;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{fmt, path::PathBuf};
use yun_engine::work::Followed;
use yun_types::{
    ContainerConfig, Digest, DriverFacts, ExportFormat, ImageFacts, ImageFormat, ImageRecipe, InstanceKind,
    RegistryPull, VmBoot,
};

/// Where an import reads from.
pub enum ImageSource {
    /// The bytes of an upload, as they arrive.
    Upload(BoxStream<'static, std::io::Result<Bytes>>),
    /// A file on this node. Only the node's own administrator can name one.
    File(PathBuf),
    /// `http://` or `https://`.
    Url(String),
    /// An OCI registry.
    Registry(Box<RegistryPull>),
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upload(_) => f.write_str("Upload"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Registry(pull) => f.debug_tuple("Registry").field(&pull.reference).finish(),
        }
    }
}

/// What an import should check and assume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// The format; found out from the first bytes if absent.
    pub format: Option<ImageFormat>,
    /// What the bytes must hash to.
    pub checksum: Option<Digest>,
    /// Rootfs imports have no config of their own: this is theirs.
    pub config: Option<ContainerConfig>,
}

/// How an image should be given out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportRequest {
    /// The form; that of its kind if absent.
    pub format: Option<ExportFormat>,
    /// What the archive calls it.
    pub name: Option<String>,
}

/// An image that is here and ready to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Its content.
    pub digest: Digest,
    /// For VMs or for containers.
    pub kind: InstanceKind,
    /// Containers: the unpacked layers, lowest first, never written to.
    pub layers: Vec<PathBuf>,
    /// Containers: what the image says about its process.
    pub config: ContainerConfig,
    /// VMs: the disk (qcow2), never written to. Absent if the kernel brings everything.
    pub disk: Option<PathBuf>,
    /// VMs: the kernel for a direct boot.
    pub kernel: Option<PathBuf>,
    /// VMs: the initial file system for a direct boot.
    pub initrd: Option<PathBuf>,
    /// VMs: how it boots.
    pub boot: Option<VmBoot>,
}

/// The bytes of an image on their way out.
pub type ExportStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Keeps images on a node.
#[async_trait]
pub trait ImageDriver: Send + Sync + 'static {
    /// Finishes or removes what a crash left half done, then says what this node can do. Called before anything else.
    async fn probe(&self) -> Result<DriverFacts>;
    /// Takes an image in. All of it, or nothing: the content appears under its digest by one rename.
    async fn import(&self, source: ImageSource, options: &ImportOptions, work: &Followed) -> Result<ImageFacts>;
    /// Makes an image from Debian packages.
    async fn build(&self, recipe: &ImageRecipe, work: &Followed) -> Result<ImageFacts>;
    /// Where the parts of an image are. `NotFound` if the content is not here, `Damaged` if parts are missing.
    async fn open(&self, digest: &Digest) -> Result<LocalImage>;
    /// Reads the whole content again and compares it with its digest.
    async fn verify(&self, digest: &Digest) -> Result<()>;
    /// Gives an image out in a form that other programs read. What must be made for that is made before this returns.
    async fn export(&self, digest: &Digest, request: &ExportRequest, work: &Followed) -> Result<ExportStream>;
    /// Every content that is here.
    async fn list(&self) -> Result<Vec<ImageFacts>>;
    /// Removes a content and the layers that no other content shares. Ok when it is not here.
    async fn remove(&self, digest: &Digest) -> Result<()>;
}
