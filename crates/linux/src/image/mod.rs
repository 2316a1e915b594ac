//! Images on a node: taken in from strangers or built from Debian packages, checked, kept once by content, and given out to the drivers.
//!
//! Words: the *store* keeps contents under their hashes; an image is a *manifest* that names its parts (*layers* for containers; *disk*,
//! *kernel*, *initrd* for VMs); work happens in *staging* and appears by one rename, so an image is whole or not there. Nothing here knows
//! names, projects or instances. See `store` for the directories, `unpack` and `disk` for what protects the host from images.

mod archive;
mod build;
mod codec;
mod disk;
mod export;
mod fault;
mod job;
mod layer;
mod manifest;
mod names;
mod registry;
mod sniff;
mod spool;
mod staging;
mod store;
mod tarball;
mod tool;
mod tree;
mod unpack;

use crate::host::Host;
use async_trait::async_trait;
use codec::Codec;
use fail::fail_point;
use futures::StreamExt;
use job::{Job, Meter, Waiting};
use registry::Downloads;
use sniff::Content;
use spool::Spooled;
use staging::Staging;
use std::{path::PathBuf, sync::Arc, time::Duration};
use store::{Draft, LAYER_ROOT, Store};
use yun_drivers::{ExportRequest, ExportStream, ImageDriver, ImageSource, ImportOptions, LocalImage, Result};
use yun_engine::work::Followed;
use yun_types::{Bytes, Digest, DriverFacts, ImageFacts, ImageFormat, ImageRecipe};

/// What this node takes in at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLimits {
    /// The bytes of a source, as they come.
    pub max_image: Bytes,
    /// The bytes that the layers of one image unpack to.
    pub max_unpacked: Bytes,
    /// The entries that the layers of one image have together.
    pub max_entries: u64,
    /// The size of a VM's disk, as its guest sees it.
    pub max_disk: Bytes,
    /// Disk that imports and builds leave free.
    pub keep_free: Bytes,
    /// How long a source may send nothing.
    pub stall: Duration,
    /// What downloaded packages may take between builds.
    pub max_cache: Bytes,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            max_image: Bytes::gib(64),
            max_unpacked: Bytes::gib(64),
            max_entries: 2_000_000,
            max_disk: Bytes::gib(8 << 10),
            keep_free: Bytes::mib(256),
            stall: Duration::from_secs(60),
            max_cache: Bytes::gib(2),
        }
    }
}

/// The images of one node.
#[derive(Debug)]
pub struct LinuxImages {
    store: Store,
    downloads: Downloads,
    limits: ImageLimits,
}

impl LinuxImages {
    /// Over the host's image directory; nothing is read or made yet.
    pub fn new(host: &Host, limits: ImageLimits) -> Self {
        Self { store: Store::new(host.images()), downloads: Downloads::new(host.images().join("downloads")), limits }
    }

    fn job(&self, work: &Followed) -> (Job, Waiting) {
        Job::new(work, self.limits.clone())
    }

    /// Runs blocking work on the store; it stops soon after the future is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Store, &Job) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (job, _waiting) = self.job(&Followed::default());
        let store = self.store.clone();
        job.blocking(move |job| run(&store, job)).await
    }

    async fn staging(&self, job: &Job) -> Result<Arc<Staging>> {
        let store = self.store.clone();
        job.blocking(move |_| store.staging().map(Arc::new)).await
    }

    /// Makes a draft appear. From here on, the work is done whether anybody waits or not.
    async fn publish(&self, draft: Draft, staging: Arc<Staging>, job: &Job) -> Result<ImageFacts> {
        job.check()?;
        job.work.report(Some(97), "writing it to the disk");
        fail_point!("image::before_publish");
        let store = self.store.clone();
        let facts = job.blocking(move |_| store.publish(&draft, &staging)).await?;
        job.work.report(Some(100), format!("image {} is ready", facts.digest.short()));
        Ok(facts)
    }
}

/// What a source holds, or why it cannot be imported.
fn recognise(spooled: &Spooled, said: Option<ImageFormat>) -> Result<Content> {
    if spooled.size == 0 {
        return Err(fault::unknown_format("the image is empty"));
    }
    let content = match Content::of(&spooled.head) {
        Content::Compressed(_) => Content::of(&disk::inner_head(spooled)?),
        content => content,
    };
    let what = if Codec::of(&spooled.head) == Codec::Plain {
        "the image is"
    } else {
        "the image is compressed; inside, it is"
    };
    match (content, said) {
        (Content::Qcow2, None | Some(ImageFormat::Qcow2)) | (Content::Disk(_), None | Some(ImageFormat::Raw)) => {
            Ok(content)
        }
        (Content::Unknown, Some(ImageFormat::Raw)) => Ok(Content::Disk("as was said")),
        (Content::Tar, None | Some(ImageFormat::Rootfs | ImageFormat::OciLayout | ImageFormat::DockerArchive)) => {
            Ok(content)
        }
        (content, Some(said)) => Err(fault::unknown_format(format!(
            "{what} {content}, not {said} as was said; leave the format out, or correct it"
        ))),
        (content, None) => Err(fault::unknown_format(format!(
            "{what} {content}. These can be imported: qcow2 and plain (raw) disks for VMs; a tar of a root file system, of an OCI image layout or from \
             docker save for containers; each as it is or compressed with gzip, zstd or xz"
        ))),
    }
}

#[async_trait]
impl ImageDriver for LinuxImages {
    async fn probe(&self) -> Result<DriverFacts> {
        let downloads = self.downloads.clone();
        self.blocking(move |store, _| store.sweep().and_then(|()| downloads.sweep())).await?;
        let missing = build::missing_programs();
        let root = nix::unistd::geteuid().is_root();
        let message = if !root {
            Some("images cannot be unpacked with their owners: run yun as root".to_owned())
        } else {
            let said = || format!("some images cannot be imported or built here: {}", missing.join("; "));
            (!missing.is_empty()).then(said)
        };
        Ok(DriverFacts { driver: "image".into(), ready: root, engine: None, accel: None, message })
    }

    async fn import(&self, source: ImageSource, options: &ImportOptions, work: &Followed) -> Result<ImageFacts> {
        let (job, _waiting) = self.job(work);
        let staging = self.staging(&job).await?;
        if let ImageSource::Registry(pull) = &source {
            let (ready, held) = registry::pull(pull, &self.store, &self.downloads, staging.clone(), &job).await?;
            let facts = self.publish(ready.draft, staging, &job).await?;
            held.discard();
            return Ok(facts);
        }
        let spooled = Arc::new(spool::spool(source, options.checksum.as_ref(), &staging, &job).await?);
        fail_point!("image::spooled");
        let (sniffed, said) = (spooled.clone(), options.format);
        let content = job.blocking(move |_| recognise(&sniffed, said)).await?;
        if content != Content::Tar {
            let draft = disk::take_in(&spooled, content, staging.clone(), &job).await?;
            return self.publish(draft, staging, &job).await;
        }
        let (store, options, work_dir) = (self.store.clone(), options.clone(), staging.clone());
        let ready = job.blocking(move |job| archive::take_in(&spooled, &options, &store, &work_dir, job)).await?;
        self.publish(ready.draft, staging, &job).await
    }

    async fn build(&self, recipe: &ImageRecipe, work: &Followed) -> Result<ImageFacts> {
        let (job, _waiting) = self.job(work);
        let staging = self.staging(&job).await?;
        let ready = build::build(recipe, &self.store, staging.clone(), &job).await?;
        self.publish(ready.draft, staging, &job).await
    }

    async fn open(&self, digest: &Digest) -> Result<LocalImage> {
        let digest = digest.clone();
        self.blocking(move |store, _| {
            let manifest = store.read(&digest)?;
            store.parts_are_here(&manifest)?;
            let blob =
                |blob: &Option<manifest::Blob>| -> Option<PathBuf> { blob.as_ref().map(|b| store.blob(&b.digest)) };
            Ok(LocalImage {
                kind: manifest.kind,
                layers: manifest.layers.iter().map(|l| store.layer(&l.diff_id).join(LAYER_ROOT)).collect(),
                disk: blob(&manifest.disk),
                kernel: blob(&manifest.kernel),
                initrd: blob(&manifest.initrd),
                config: manifest.config.clone().unwrap_or_default(),
                boot: manifest.boot.clone(),
                digest,
            })
        })
        .await
    }

    async fn verify(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.blocking(move |store, job| {
            let manifest = store.read(&digest)?;
            store.parts_are_here(&manifest)?;
            let mut meter = Meter::new(job, "verifying", (0, 100), None);
            for blob in manifest.blobs() {
                let path = store.blob(&blob.digest);
                let actual = tree::hash_file(&path, &mut meter)?;
                if actual != blob.digest {
                    let message = format!(
                        "the file {} is damaged: its content has {actual}; remove the image and import it again",
                        path.display()
                    );
                    return Err(fault::damaged(message));
                }
            }
            manifest
                .layers
                .iter()
                .try_for_each(|layer| tree::verify(&store.layer(&layer.diff_id), layer, &mut meter, job))
        })
        .await
    }

    async fn export(&self, digest: &Digest, request: &ExportRequest, work: &Followed) -> Result<ExportStream> {
        let (job, waiting) = self.job(work);
        let staging = self.staging(&job).await?;
        let stream = export::export(digest, request, &self.store, staging, &job).await?;
        // The work goes on while the bytes are read.
        Ok(stream.map(move |piece| (piece, &waiting).0).boxed())
    }

    async fn list(&self) -> Result<Vec<ImageFacts>> {
        self.blocking(|store, _| store.list()).await
    }

    async fn remove(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.blocking(move |store, _| store.remove(&digest)).await
    }
}
