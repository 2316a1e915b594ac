//! What the control plane calls on this node: sessions, logs, connections, images. Reads and works past the owners; changes no instance.

use crate::node::Node;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{future::Future, sync::Arc};
use yun_api::node::{ImageInput, ImportRequest, LinkError, NodeLink, Stream};
use yun_drivers::{
    DriverError, ErrorKind, ExportRequest, ImageSource, ImportOptions, InstanceDriver, InstanceHandle, SnapshotDriver,
};
use yun_engine::{
    session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session},
    work::Followed,
};
use yun_types::{
    Digest, ExportFormat, ImageFacts, ImageRecipe, InstanceId, InstanceKind, SnapshotFacts, SnapshotId, SnapshotOrder,
};

/// The node's ear.
#[derive(Debug)]
pub(crate) struct Callback(pub(crate) Arc<Node>);

fn refused(error: DriverError) -> LinkError {
    match error.kind {
        ErrorKind::NotFound => LinkError::NotFound(error.message),
        ErrorKind::Cancelled => LinkError::Cancelled,
        _ => LinkError::refused(error.reason, error.message),
    }
}

impl Callback {
    fn driver(&self, instance: InstanceId) -> Result<Arc<dyn InstanceDriver>, LinkError> {
        let (kind, _) = self.0.shown(instance).ok_or_else(|| not_here(instance))?;
        Ok(self.0.drivers.of(kind).clone())
    }

    fn snapshots(&self, instance: InstanceId) -> Result<Arc<dyn SnapshotDriver>, LinkError> {
        let (kind, _) = self.0.shown(instance).ok_or_else(|| not_here(instance))?;
        Ok(self.0.drivers.snapshots_of(kind).clone())
    }

    fn running(&self, instance: InstanceId) -> Result<InstanceHandle, LinkError> {
        let (_, shown) = self.0.shown(instance).ok_or_else(|| not_here(instance))?;
        shown
            .handle
            .filter(|_| shown.live)
            .ok_or_else(|| LinkError::refused("NotRunning", "the instance does not run; start it with yun start"))
    }

    /// Runs work on an image until it is done or no longer wanted.
    async fn wanted(
        &self,
        work: &Followed,
        job: impl Future<Output = yun_drivers::Result<ImageFacts>>,
    ) -> Result<ImageFacts, LinkError> {
        let facts = tokio::select! {
            biased;
            () = work.cancelled() => return Err(LinkError::Cancelled),
            facts = job => facts.map_err(refused)?,
        };
        self.0.images.arrived(&facts.digest);
        Ok(facts)
    }
}

fn not_here(instance: InstanceId) -> LinkError {
    LinkError::NotFound(format!("instance {instance} is not on this node"))
}

#[async_trait]
impl NodeLink for Callback {
    async fn exec(&self, instance: InstanceId, request: ExecRequest) -> Result<Session, LinkError> {
        self.driver(instance)?.exec(&self.running(instance)?, request).await.map_err(refused)
    }

    async fn sftp(&self, instance: InstanceId, user: Option<String>) -> Result<Session, LinkError> {
        self.driver(instance)?.sftp(&self.running(instance)?, user).await.map_err(refused)
    }

    async fn attach(&self, instance: InstanceId, request: AttachRequest) -> Result<Session, LinkError> {
        // One that is waited for may be so new that its order has not come yet.
        let driver =
            if request.wait { self.0.drivers.of(InstanceKind::Container).clone() } else { self.driver(instance)? };
        driver.attach(instance, request).await.map_err(refused)
    }

    async fn console(&self, instance: InstanceId) -> Result<Session, LinkError> {
        self.driver(instance)?.console(&self.running(instance)?).await.map_err(refused)
    }

    async fn logs(
        &self,
        instance: InstanceId,
        request: LogRequest,
    ) -> Result<BoxStream<'static, std::io::Result<LogLine>>, LinkError> {
        self.driver(instance)?.logs(instance, request).await.map_err(refused)
    }

    async fn read_files(
        &self,
        instance: InstanceId,
        path: String,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, LinkError> {
        self.driver(instance)?.read_files(instance, &path).await.map_err(refused)
    }

    async fn write_files(
        &self,
        instance: InstanceId,
        path: String,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(), LinkError> {
        self.driver(instance)?.write_files(instance, &path, archive).await.map_err(refused)
    }

    async fn dial(&self, instance: InstanceId, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        self.driver(instance)?;
        let stream = self.0.drivers.network.dial(instance, port).await.map_err(refused)?;
        Ok(Box::new(stream))
    }

    async fn import_image(
        &self,
        input: ImageInput,
        request: ImportRequest,
        work: Followed,
    ) -> Result<ImageFacts, LinkError> {
        let source = match input {
            ImageInput::Upload(stream) => ImageSource::Upload(stream),
            ImageInput::Url(url) => ImageSource::Url(url),
            ImageInput::Registry(pull) => ImageSource::Registry(pull),
        };
        let ImportRequest { format, checksum, config } = request;
        let options = ImportOptions { format, checksum, config };
        self.wanted(&work, self.0.drivers.image.import(source, &options, &work)).await
    }

    async fn build_image(&self, recipe: ImageRecipe, work: Followed) -> Result<ImageFacts, LinkError> {
        self.wanted(&work, self.0.drivers.image.build(&recipe, &work)).await
    }

    async fn export_image(
        &self,
        digest: Digest,
        format: Option<ExportFormat>,
        name: String,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, LinkError> {
        let request = ExportRequest { format, name: Some(name) };
        self.0.drivers.image.export(&digest, &request, &Followed::default()).await.map_err(refused)
    }

    async fn verify_image(&self, digest: Digest) -> Result<(), LinkError> {
        self.0.drivers.image.verify(&digest).await.map_err(refused)
    }

    async fn take_snapshot(
        &self,
        instance: InstanceId,
        order: SnapshotOrder,
        work: Followed,
    ) -> Result<SnapshotFacts, LinkError> {
        self.snapshots(instance)?.take(instance, &order, &work).await.map_err(refused)
    }

    async fn remove_snapshot(&self, instance: InstanceId, snapshot: SnapshotId) -> Result<(), LinkError> {
        self.snapshots(instance)?.remove(instance, snapshot).await.map_err(refused)
    }
}
