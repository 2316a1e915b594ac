//! The cloud, as the door asks it: the generated client in one project, with Docker's words for what goes wrong.

use super::{
    fault::{Answer, Fault},
    reference,
};
use futures::{Stream, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::AsyncBufReadExt;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::io::StreamReader;
use uuid::Uuid;
use yun_api::{
    client::{ByteStream, Client, Error, ResponseValue, types},
    cloud::{InstanceAction, InstanceCreate, InstanceUpdate},
    frames,
};
use yun_engine::session::Session;
use yun_types::{Image, Instance, InstanceKind, Name, NameOrId, Operation, OperationState};

/// Seconds that one request waits for the end of an operation.
const WAIT: u32 = 60;

/// The cloud as one caller sees it.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    pub(super) client: Client,
    pub(super) project: Name,
}

/// Reads all pages of a list.
macro_rules! all {
    ($request:expr) => {{
        let (mut items, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut request = $request.limit(1000);
            if let Some(token) = token.take() {
                request = request.page_token(token);
            }
            let page: yun_api::cloud::Page<_> = request.send().await?.into_inner();
            items.extend(page.items);
            token = page.next_page;
            if token.is_none() {
                break items;
            }
        }
    }};
}
pub(super) use all;

impl Cloud {
    /// Every container of the project.
    pub(super) async fn containers(&self) -> Answer<Vec<Instance>> {
        let mut items: Vec<Instance> = all!(self.client.instance_list().project(self.project.clone()));
        items.retain(|instance| instance.spec.kind == Some(InstanceKind::Container));
        Ok(items)
    }

    /// One container, as it is now.
    pub(super) async fn container(&self, id: Uuid) -> Answer<Instance> {
        let request = self.client.instance_get().project(self.project.clone()).instance(NameOrId::Id(id));
        Ok(request.send().await?.into_inner())
    }

    /// Makes a container.
    pub(super) async fn create(&self, body: InstanceCreate) -> Answer<Operation> {
        let request = self.client.instance_create().project(self.project.clone()).body(body);
        Ok(request.send().await?.into_inner())
    }

    /// Starts, stops, restarts, pauses or resumes a container, and waits until it is so.
    pub(super) async fn act(&self, id: Uuid, action: InstanceAction, timeout: Option<u32>) -> Answer<Operation> {
        let mut request =
            self.client.instance_action().project(self.project.clone()).instance(NameOrId::Id(id)).action(action);
        if let Some(seconds) = timeout {
            request = request.timeout(seconds);
        }
        let operation = request.send().await?.into_inner();
        self.ended(operation).await
    }

    /// Changes a container, and waits until it is so.
    pub(super) async fn update(&self, instance: &Instance, body: InstanceUpdate) -> Answer<Operation> {
        let request = self
            .client
            .instance_update()
            .project(self.project.clone())
            .instance(NameOrId::Id(instance.metadata.id))
            .if_match(instance.metadata.revision.clone())
            .body(body);
        let operation = request.send().await?.into_inner();
        self.finished(operation).await
    }

    /// Removes a container, and waits until nothing is left of it.
    pub(super) async fn delete(&self, id: Uuid) -> Answer<()> {
        let request = self.client.instance_delete().project(self.project.clone()).instance(NameOrId::Id(id));
        let operation = request.send().await?.into_inner();
        self.finished(operation).await.map(drop)
    }

    /// Waits for the end of an operation, whatever it is.
    pub(super) async fn ended(&self, mut operation: Operation) -> Answer<Operation> {
        while !operation.status.state.ended() {
            let request = self.client.operation_get().operation(operation.metadata.id).wait(WAIT);
            operation = request.send().await?.into_inner();
        }
        Ok(operation)
    }

    /// Waits for an operation to succeed.
    pub(super) async fn finished(&self, operation: Operation) -> Answer<Operation> {
        let operation = self.ended(operation).await?;
        match operation.status.state {
            OperationState::Succeeded => Ok(operation),
            _ => Err(failure(&operation)),
        }
    }

    /// Every container image that the project sees: its own, and the library's.
    pub(super) async fn images(&self) -> Answer<Vec<Image>> {
        let mut items: Vec<Image> = all!(self.client.image_list().project(self.project.clone()));
        let library = Name::default_project();
        if self.project != library {
            let shared: Vec<Image> = all!(self.client.image_list().project(library.clone()));
            items.extend(shared);
        }
        items.retain(|image| image.status.facts.kind == InstanceKind::Container);
        Ok(items)
    }

    /// The image that a client means.
    pub(super) async fn image(&self, text: &str) -> Answer<Image> {
        let images = self.images().await?;
        images
            .into_iter()
            .find(|image| reference::means(text, image))
            .ok_or_else(|| Fault::missing(format!("No such image: {}", reference::shown(text))))
    }

    /// A session whose other end is a process in a container.
    pub(super) async fn session(
        answer: Result<ResponseValue<reqwest::Upgraded>, Error<types::Error>>,
    ) -> Answer<(Session, impl Future<Output = Option<u16>> + Send)> {
        let socket = WebSocketStream::from_raw_socket(answer?.into_inner(), Role::Client, None).await;
        Ok(frames::connect(socket))
    }
}

/// Why an operation did not succeed.
pub(super) fn failure(operation: &Operation) -> Fault {
    let said = operation.status.error.as_ref().map(|failure| failure.message.clone());
    let otherwise = || format!("{} of {} was cancelled", operation.spec.kind, operation.spec.target);
    Fault::broken(said.unwrap_or_else(otherwise))
}

/// The lines of an NDJSON stream.
pub(super) fn lines<T: DeserializeOwned + Send>(body: ByteStream) -> impl Stream<Item = io::Result<T>> + Send {
    let reader = StreamReader::new(body.into_inner().map_err(io::Error::other));
    stream::try_unfold(Box::pin(reader), |mut reader| async move {
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).await? == 0 {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                let item = serde_json::from_slice(&line)
                    .map_err(|e| io::Error::other(format!("the cloud sent a line that is not understood: {e}")))?;
                return Ok(Some((item, reader)));
            }
        }
    })
}
