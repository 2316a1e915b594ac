//! Contents in memory: the digest is the hash of the bytes, and the first bytes tell the kind.

use super::{Call, World};
use crate::{
    DriverError, ErrorKind, ExportRequest, ExportStream, ImageDriver, ImageSource, ImportOptions, LocalImage, Result,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use yun_engine::work::Followed;
use yun_types::{
    Arch, Bytes as Size, ContainerConfig, Digest, DriverFacts, ImageFacts, ImageFormat, ImageRecipe, InstanceKind,
    RecipeBase, VmBoot,
};

/// The first bytes of a qcow2 file.
const QCOW2: &[u8] = b"QFI\xfb";

/// The contents of a host.
#[derive(Debug, Clone)]
pub struct FakeImages {
    world: World,
}

/// What follows from a content.
pub(super) fn facts_of(bytes: &[u8], kind: InstanceKind, config: Option<ContainerConfig>) -> ImageFacts {
    let size = Size(bytes.len() as u64);
    let vm = kind == InstanceKind::Vm;
    ImageFacts {
        digest: Digest::from_sha256(Sha256::digest(bytes).into()),
        kind,
        arch: Arch::host(),
        size,
        min_disk: if vm { Size::mib(64) } else { Size(0) },
        config: (!vm).then(|| config.unwrap_or_default()),
        boot: vm.then_some(VmBoot::Disk),
        description: Some("fake".into()),
    }
}

impl FakeImages {
    /// The driver of a host.
    pub fn new(world: World) -> Self {
        Self { world }
    }

    async fn read(&self, source: ImageSource, work: &Followed) -> Result<Bytes> {
        match source {
            ImageSource::Upload(mut stream) => {
                let mut bytes = BytesMut::new();
                while let Some(chunk) = stream.try_next().await.map_err(|e| DriverError::io("read the upload", e))? {
                    bytes.extend_from_slice(&chunk);
                    work.report(None, format!("{} bytes received", bytes.len()));
                    self.check_wanted(work)?;
                }
                Ok(bytes.freeze())
            }
            ImageSource::File(path) => tokio::fs::read(&path)
                .await
                .map(Bytes::from)
                .map_err(|e| DriverError::io(format!("read {}", path.display()), e)),
            ImageSource::Registry(pull) => {
                self.world.lock().served.get(&pull.reference.to_string()).cloned().ok_or_else(|| {
                    DriverError::bad_request(
                        "ReferenceNotFound",
                        format!(
                            "cannot pull {}: the registry does not have it; check repository and tag",
                            pull.reference
                        ),
                    )
                })
            }
            ImageSource::Url(url) => self.world.lock().served.get(&url).cloned().ok_or_else(|| {
                DriverError::unavailable(
                    "DownloadFailed",
                    format!("cannot download {url}: nothing answers there; check the address"),
                )
            }),
        }
    }

    fn check_wanted(&self, work: &Followed) -> Result<()> {
        if work.is_cancelled() {
            return Err(DriverError::new(ErrorKind::Cancelled, "Cancelled", "the image is no longer wanted"));
        }
        Ok(())
    }

    fn keep(&self, facts: ImageFacts) -> ImageFacts {
        self.world.change(|state| {
            state.damaged.retain(|digest| *digest != facts.digest);
            state.images.insert(facts.digest.clone(), facts.clone());
        });
        facts
    }

    fn not_found(digest: &Digest) -> DriverError {
        let message = format!("image {} is not on this node; take it in again with yun image import", digest.short());
        DriverError::new(ErrorKind::NotFound, "ImageNotFound", message)
    }

    fn check(&self, digest: &Digest) -> Result<ImageFacts> {
        let state = self.world.lock();
        let facts = state.images.get(digest).cloned().ok_or_else(|| Self::not_found(digest))?;
        if state.damaged.contains(digest) {
            let message = format!(
                "image {} is damaged: its content is not what its digest says; take it in again",
                digest.short()
            );
            return Err(DriverError::new(ErrorKind::Damaged, "ImageDamaged", message));
        }
        Ok(facts)
    }
}

#[async_trait]
impl ImageDriver for FakeImages {
    async fn probe(&self) -> Result<DriverFacts> {
        self.world.enter(Call::ImageProbe, None).await?;
        Ok(DriverFacts { driver: "image".into(), ready: true, engine: Some("fake".into()), accel: None, message: None })
    }

    async fn import(&self, source: ImageSource, options: &ImportOptions, work: &Followed) -> Result<ImageFacts> {
        self.world.enter(Call::ImageImport, None).await?;
        let bytes = self.read(source, work).await?;
        self.check_wanted(work)?;
        if bytes.is_empty() {
            return Err(DriverError::bad_request(
                "EmptyImage",
                "the image is empty; send a qcow2, a rootfs tar or an OCI archive",
            ));
        }
        let kind = match options.format {
            Some(ImageFormat::Qcow2 | ImageFormat::Raw) => InstanceKind::Vm,
            Some(_) => InstanceKind::Container,
            None if bytes.starts_with(QCOW2) => InstanceKind::Vm,
            None => InstanceKind::Container,
        };
        let facts = facts_of(&bytes, kind, options.config.clone());
        if let Some(wanted) = options.checksum.as_ref().filter(|wanted| **wanted != facts.digest) {
            let message = format!(
                "the image is not what was promised: it hashes to {}, not to {wanted}; download it again",
                facts.digest
            );
            return Err(DriverError::new(ErrorKind::Damaged, "ChecksumMismatch", message));
        }
        self.keep(facts.clone());
        self.world.leave(Call::ImageImport, None).await?;
        Ok(facts)
    }

    async fn build(&self, recipe: &ImageRecipe, work: &Followed) -> Result<ImageFacts> {
        self.world.enter(Call::ImageBuild, None).await?;
        for (percent, step) in [(10, "packages"), (60, "unpacking"), (90, "packing")] {
            work.report(Some(percent), step);
            self.check_wanted(work)?;
            tokio::task::yield_now().await;
        }
        let text = serde_json::to_vec(recipe)
            .map_err(|e| DriverError::new(ErrorKind::Internal, "HostError", "cannot write the recipe").with(e))?;
        let kind = match recipe.base {
            RecipeBase::SmallVm | RecipeBase::DebianVm => InstanceKind::Vm,
            RecipeBase::Busybox | RecipeBase::Debian => InstanceKind::Container,
        };
        let config = ContainerConfig {
            entrypoint: recipe.entrypoint.clone(),
            command: recipe.command.clone(),
            ..ContainerConfig::default()
        };
        let facts = self.keep(facts_of(&text, kind, Some(config)));
        self.world.leave(Call::ImageBuild, None).await?;
        Ok(facts)
    }

    async fn open(&self, digest: &Digest) -> Result<LocalImage> {
        self.world.enter(Call::ImageOpen, None).await?;
        let facts = self.check(digest)?;
        let path = PathBuf::from("/fake/images").join(digest.hex());
        let vm = facts.kind == InstanceKind::Vm;
        Ok(LocalImage {
            digest: digest.clone(),
            kind: facts.kind,
            layers: if vm { Vec::new() } else { vec![path.join("layer")] },
            config: facts.config.unwrap_or_default(),
            disk: vm.then(|| path.join("disk.qcow2")),
            kernel: None,
            initrd: None,
            boot: facts.boot,
        })
    }

    async fn verify(&self, digest: &Digest) -> Result<()> {
        self.world.enter(Call::ImageVerify, None).await?;
        self.check(digest).map(drop)
    }

    async fn export(&self, digest: &Digest, _request: &ExportRequest, _work: &Followed) -> Result<ExportStream> {
        self.world.enter(Call::ImageVerify, None).await?;
        let facts = self.check(digest)?;
        let bytes = Bytes::from(format!("image {}", facts.digest));
        Ok(Box::pin(futures::stream::iter([Ok(bytes)])))
    }

    async fn list(&self) -> Result<Vec<ImageFacts>> {
        self.world.enter(Call::ImageList, None).await?;
        Ok(self.world.lock().images.values().cloned().collect())
    }

    async fn remove(&self, digest: &Digest) -> Result<()> {
        self.world.enter(Call::ImageRemove, None).await?;
        self.world.change(|state| state.images.remove(digest));
        self.world.leave(Call::ImageRemove, None).await
    }
}
