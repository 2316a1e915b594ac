//! Imports and builds: a node does the work, a task here follows it to its end and enters the result in the catalogue.
//!
//! The task dies with the process; [`super::reconcile`] ends the operations of those that did.

use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    instance::catch_up,
    operation::{self, add_end},
    rows::{ImageRow, OperationRow, ProjectRow},
};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;
use yun_api::node::{ImageInput, ImportRequest, LinkError, NodeLink};
use yun_engine::work::Followed;
use yun_store::{Row, StoreError, Table, Txn, commit};
use yun_types::{
    Event, Failure, Generation, Image, ImageFacts, ImageRecipe, ImageSpec, ImageStatus, Labels, Metadata, Name, NodeId,
    NodeState, ObjectKind, ObjectRef, Operation, OperationId, OperationKind, OperationState, OperationStatus, Progress,
    Severity, Timestamp,
};

/// How often the end is tried to be written when others were faster.
const ATTEMPTS: usize = 32;

/// What a node should do.
pub(super) enum Task {
    Import(ImageInput, ImportRequest),
    Build(ImageRecipe),
}

/// The catalogue entry that is being made.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) project: Name,
    pub(super) name: Name,
    pub(super) labels: Labels,
    pub(super) source: String,
    /// An image of this name that came from the same source is brought up to date.
    pub(super) replaces: bool,
}

impl Draft {
    /// Whether it takes the place of an image that is there.
    fn renews(&self, image: &Image) -> bool {
        self.replaces && image.spec.source == self.source
    }
}

/// Work that was started. Dropping it gives the work up, unless it is detached.
#[derive(Debug)]
pub(super) struct Started {
    operation: Operation,
    work: Followed,
    done: watch::Receiver<bool>,
    attached: bool,
}

impl Started {
    /// The operation that stands for it.
    pub(super) fn id(&self) -> OperationId {
        OperationId(self.operation.metadata.id)
    }
    /// Lets it go on whether or not anybody waits.
    pub(super) fn detach(mut self) -> Operation {
        self.attached = false;
        self.operation.clone()
    }
    /// Resolves when its end is in the state.
    pub(super) async fn finished(mut self) {
        // The sender is gone only if the task was dropped with the process.
        let _ = self.done.wait_for(|done| *done).await;
        self.attached = false;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.attached {
            self.work.cancel();
        }
    }
}

/// A node that can take images in, and how to call it.
pub(super) fn image_node(c: &Control) -> Result<(NodeId, Arc<dyn NodeLink>), Refusal> {
    let mut why = "the cloud has no node yet: start an agent".to_owned();
    for row in c.nodes.cache.all(&[]) {
        let node = &row.value.0;
        let (id, name) = (NodeId(node.metadata.id), &node.metadata.name);
        let driver = node.status.facts.drivers.iter().find(|driver| driver.driver == "image");
        if node.status.state == NodeState::Lost {
            why = format!("node {name} is silent: bring it back");
        } else if let Some(driver) = driver.filter(|driver| !driver.ready) {
            why = format!(
                "node {name} cannot: {}",
                driver.message.as_deref().unwrap_or("its image driver does not work")
            );
        } else if let Some(link) = c.live.link(id) {
            return Ok((id, link));
        } else {
            why = format!("node {name} is not connected now: try again in some seconds");
        }
    }
    Err(Refusal::unavailable(format!("no node can work on images now: {why}")))
}

fn taken(project: &Name, name: &Name) -> Refusal {
    let message = format!(
        "image {name} exists in project {project} already: choose another name, or delete it first with yun image rm {name}"
    );
    Refusal::conflict("Exists", message)
}

/// Starts the work, after everything that can be refused was.
pub(super) async fn start(
    c: &Arc<Control>,
    caller: &Caller,
    kind: OperationKind,
    draft: Draft,
    task: Task,
) -> Result<Started, Refusal> {
    let project = c.projects.cache.get(&[draft.project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
    let project = project.ok_or_else(|| Refusal::not_found(ObjectKind::Project, &draft.project, None))?;
    let before = c.images.cache.get(&[draft.project.as_str(), draft.name.as_str()]);
    if before.as_ref().is_some_and(|row| !draft.renews(&row.value.0)) {
        return Err(taken(&draft.project, &draft.name));
    }
    if let Some(other) = being_made(c, &draft) {
        return Err(Refusal::conflict(
            "BeingMade",
            format!(
                "image {} is being made already: wait for operation {other}, or take it back with yun operation cancel {other}",
                draft.name
            ),
        ));
    }
    let (_, link) = image_node(c)?;
    let target = ObjectRef {
        kind: ObjectKind::Image,
        name: draft.name.to_string(),
        id: before.map_or_else(Uuid::new_v4, |row| row.value.0.metadata.id),
        project: Some(draft.project.clone()),
    };
    let operation = operation::begin(c, caller, kind, target);
    let id = OperationId(operation.metadata.id);
    let work = Followed::default();
    // Before it is stored: an operation in the state without live work counts as interrupted.
    c.works.begin(id, work.clone());
    let (finished, done) = watch::channel(false);
    // From here on a request that is given up gives the work up, also while the operation is on its way to the store.
    let mut started = Started { operation: operation.clone(), work: work.clone(), done, attached: true };
    let (stored, answer) = oneshot::channel();
    let (control, caller) = (Arc::clone(c), caller.clone());
    let _runs_until_done = c.tasks.spawn(format!("image/{}/{}", draft.project, draft.name), move |_| async move {
        let written = store(&control, &caller, &project, &operation).await;
        let begun = written.is_ok();
        // Nobody listens any more if the request was given up; the work was told.
        let _ = stored.send(written);
        if begun {
            let result = run(&*link, task, work.clone()).await;
            finish(&control, id, &draft, result, work.is_cancelled()).await;
        }
        control.works.end(id);
        finished.send_replace(true);
    });
    answer.await.map_err(|_| Refusal::unavailable("the server is shutting down: try again when it is back"))??;
    if let Some(row) = c.operations.cache.get(&[&id.to_string()]) {
        started.operation = operation::view(c, &row);
    }
    Ok(started)
}

fn being_made(c: &Control, draft: &Draft) -> Option<Uuid> {
    let same = |op: &Operation| {
        op.spec.target.kind == ObjectKind::Image
            && op.spec.target.name == draft.name.as_str()
            && op.spec.target.project.as_ref() == Some(&draft.project)
    };
    operation::running(c).iter().find(|row| same(&row.value.0)).map(|row| row.value.0.metadata.id)
}

async fn store(
    c: &Control,
    caller: &Caller,
    project: &Row<ProjectRow>,
    operation: &Operation,
) -> Result<(), StoreError> {
    let name = project.value.0.metadata.name.as_str();
    let txn = Txn::new().when(Table::<ProjectRow>::cmp_rev(&[name], project.rev));
    let out = commit(&*c.store, operation::add_to(txn, caller, operation)?).await?;
    c.operations.cache.wait_for(out.rev).await
}

async fn run(link: &dyn NodeLink, task: Task, work: Followed) -> Result<ImageFacts, LinkError> {
    match task {
        Task::Import(input, request) => link.import_image(input, request, work).await,
        Task::Build(recipe) => link.build_image(recipe, work).await,
    }
}

/// Writes the end: the catalogue entry and the operation together, or the operation alone if it failed.
async fn finish(
    c: &Arc<Control>,
    id: OperationId,
    draft: &Draft,
    result: Result<ImageFacts, LinkError>,
    cancelled: bool,
) {
    for _ in 0..ATTEMPTS {
        let Some(row) = c.operations.cache.get(&[&id.to_string()]).filter(|row| !row.value.0.status.state.ended())
        else {
            return;
        };
        match write_end(c, &row, draft, &result, cancelled).await {
            Ok(()) => return,
            Err(e) if e.is_conflict() => {
                if catch_up(c, &e).await.is_err() {
                    break;
                }
            }
            Err(e) => {
                tracing::error!(operation = %id, error = %e, "cannot write the end of an image operation; it will count as interrupted");
                return;
            }
        }
    }
    tracing::error!(operation = %id, "cannot write the end of an image operation: others were always faster; it will count as interrupted");
}

async fn write_end(
    c: &Arc<Control>,
    row: &Row<OperationRow>,
    draft: &Draft,
    result: &Result<ImageFacts, LinkError>,
    cancelled: bool,
) -> Result<(), StoreError> {
    let now = c.clock.now();
    let target = &row.value.0.spec.target;
    let project = c.projects.cache.get(&[draft.project.as_str()]).filter(|row| row.value.0.metadata.deleting.is_none());
    let before = c.images.cache.get(&[draft.project.as_str(), draft.name.as_str()]);
    let in_the_way = before.as_ref().is_some_and(|row| !draft.renews(&row.value.0));
    let (status, image) = match (result, project) {
        (Err(e), _) => (failed(now, target, e, cancelled), None),
        (Ok(_), None) => (refused(now, Refusal::not_found(ObjectKind::Project, &draft.project, None)), None),
        (Ok(_), Some(_)) if in_the_way => (refused(now, taken(&draft.project, &draft.name)), None),
        (Ok(facts), Some(project)) => {
            let entry = match &before {
                Some(row) => renewed(&row.value.0, draft, facts),
                None => entry(target.id, draft, facts, now),
            };
            let same = before.as_ref().is_some_and(|row| row.value.0.status.facts.digest == facts.digest);
            (succeeded(now, target, facts, same), Some((entry, project)))
        }
    };
    let (severity, reason, message) = match status.state {
        OperationState::Succeeded => (Severity::Normal, "ImageImported", status.progress.message.clone()),
        OperationState::Cancelled => (Severity::Normal, "ImageCancelled", status.progress.message.clone()),
        _ => (Severity::Warning, "ImageFailed", status.progress.message.clone()),
    };
    let mut txn = add_end(Txn::new(), row, status)?;
    if let Some((image, project)) = image {
        let at = [draft.project.as_str(), draft.name.as_str()];
        txn = txn
            .when(Table::<ProjectRow>::cmp_rev(&[draft.project.as_str()], project.rev))
            .when(match &before {
                Some(row) => Table::<ImageRow>::cmp_rev(&at, row.rev),
                None => Table::<ImageRow>::cmp_absent(&at),
            })
            .then(Table::<ImageRow>::op_put(&at, &ImageRow(image))?);
    }
    let out = commit(&*c.store, txn).await?;
    c.images.cache.wait_for(out.rev).await?;
    c.operations.cache.wait_for(out.rev).await?;
    let object = target.clone();
    c.events.record(|sequence, at| Event { sequence, at, object, severity, reason: reason.into(), message });
    Ok(())
}

fn entry(id: Uuid, draft: &Draft, facts: &ImageFacts, now: Timestamp) -> Image {
    let metadata = Metadata {
        id,
        name: draft.name.clone(),
        project: Some(draft.project.clone()),
        labels: draft.labels.clone(),
        created: now,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    Image {
        metadata,
        spec: ImageSpec { source: draft.source.clone() },
        status: ImageStatus { facts: facts.clone(), verified: None },
    }
}

/// The entry that was there, with the content of now. Instances keep the content that they were made from.
fn renewed(image: &Image, draft: &Draft, facts: &ImageFacts) -> Image {
    let mut image = image.clone();
    if image.status.facts.digest != facts.digest {
        image.metadata.generation = Generation(image.metadata.generation.0 + 1);
        image.status = ImageStatus { facts: facts.clone(), verified: None };
    }
    image.metadata.labels.extend(draft.labels.clone());
    image
}

fn succeeded(now: Timestamp, target: &ObjectRef, facts: &ImageFacts, same: bool) -> OperationStatus {
    let message = format!(
        "{target} is {}: {} for {}, {}, {}",
        if same { "up to date" } else { "ready" },
        facts.kind,
        facts.arch,
        facts.size.human(),
        facts.digest.short()
    );
    OperationStatus {
        state: OperationState::Succeeded,
        progress: Progress { percent: Some(100), message },
        error: None,
        ended: Some(now),
        cancellable: false,
    }
}

fn failed(now: Timestamp, target: &ObjectRef, error: &LinkError, cancelled: bool) -> OperationStatus {
    let failure = match error {
        // Whatever the node says once it was told to give up, it gave up.
        _ if cancelled => return ended(now, OperationState::Cancelled, format!("{target} was taken back"), None),
        LinkError::Cancelled => return ended(now, OperationState::Cancelled, format!("{target} was taken back"), None),
        LinkError::Refused(failure) => failure.clone(),
        LinkError::NotFound(why) => Failure { code: "NotFound".into(), message: why.clone() },
        LinkError::Unreachable(why) => Failure {
            code: "NodeLost".into(),
            message: format!("the node that worked on {target} cannot be reached ({why}): run it again"),
        },
    };
    ended(now, OperationState::Failed, failure.message.clone(), Some(failure))
}

fn refused(now: Timestamp, refusal: Refusal) -> OperationStatus {
    let failure: Failure = refusal.into();
    ended(now, OperationState::Failed, failure.message.clone(), Some(failure))
}

pub(super) fn ended(now: Timestamp, state: OperationState, message: String, error: Option<Failure>) -> OperationStatus {
    OperationStatus {
        state,
        progress: Progress { percent: None, message },
        error,
        ended: Some(now),
        cancellable: false,
    }
}
