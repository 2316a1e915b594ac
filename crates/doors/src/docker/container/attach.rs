//! `docker attach`, and what `docker run` shows: the connection to a container's main process, with its streams as they are.

use super::{
    super::{
        body::Body,
        cloud::Cloud,
        fault::{Answer, Fault},
        follow::Happening,
        server::{Ask, Door},
        stream::{Ends, STDERR, STDOUT, frame, hijack},
    },
    find,
    logs::{Wanted, pieces},
    state::Status,
};
use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{broadcast, mpsc, watch};
use uuid::Uuid;
use yun_engine::session::{Input, Output, Session, WindowSize};
use yun_types::{Instance, InstanceState, NameOrId};

/// Who reads which container: a container with `--rm` is not removed under their eyes.
#[derive(Debug)]
pub(crate) struct Readers {
    count: watch::Sender<HashMap<Uuid, usize>>,
    inputs: Mutex<HashMap<Uuid, mpsc::Sender<Input>>>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { count: watch::Sender::new(HashMap::new()), inputs: Mutex::default() }
    }
}

/// A reader, until it is dropped.
#[derive(Debug)]
struct Reader {
    door: Arc<Door>,
    id: Uuid,
}

impl Reader {
    fn new(door: &Arc<Door>, id: Uuid) -> Self {
        door.readers.count.send_modify(|count| *count.entry(id).or_default() += 1);
        Self { door: Arc::clone(door), id }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.door.readers.count.send_modify(|count| {
            if let Some(left) = count.get_mut(&self.id) {
                *left -= 1;
                if *left == 0 {
                    count.remove(&self.id);
                }
            }
        });
    }
}

impl Readers {
    /// Resolves when nobody reads this container.
    pub(super) async fn gone(&self, id: Uuid) {
        let mut count = self.count.subscribe();
        // The sender lives as long as this does.
        let _ = count.wait_for(|count| !count.contains_key(&id)).await;
    }

    /// Passes a size on to the sessions of the container's terminal, if there are any.
    pub(super) async fn resize(&self, id: Uuid, size: WindowSize) {
        let sender = self.inputs.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(Input::Resize(size)).await;
        }
    }

    fn listens(&self, id: Uuid, input: &mpsc::Sender<Input>) {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        inputs.retain(|_, other| !other.is_closed());
        inputs.insert(id, input.clone());
    }

    fn left(&self, id: Uuid, input: &mpsc::Sender<Input>) {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if inputs.get(&id).is_some_and(|other| other.same_channel(input)) {
            inputs.remove(&id);
        }
    }
}

/// Takes the connection over. It may come before the container is started: then it waits for that, and misses nothing.
pub(crate) async fn attach(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let (id, query) = (instance.metadata.id, &ask.query);
    let (tty, status) = (instance.spec.container.tty, Status::of(&instance));
    if status == Status::Paused {
        return Err(Fault::conflict(format!("container {text} is paused, unpause the container before attach")));
    }
    let (stdout, stderr, follows) = (query.on("stdout"), query.on("stderr"), query.on("stream"));
    let stdin = query.on("stdin") && !instance.spec.container.stdin.is_closed();
    let ran = instance.status.started.is_some() || instance.status.exit.is_some();
    let past = match query.on("logs") && ran {
        true => Some(pieces(&ask.cloud, id, Wanted { stdout, stderr, tty, ..Wanted::default() }).await?),
        false => None,
    };
    let session = if follows { Some(open(&ask, id, stdin).await?) } else { None };
    let input = session.as_ref().map(|session| session.input.clone());
    let (to_client, output) = mpsc::channel(32);
    let door = Arc::clone(&ask.door);
    let reader = Reader::new(&door, id);
    let changes = door.follower.subscribe();
    if let Some(input) = &input {
        door.readers.listens(id, input);
    }
    let shown = Shown { stdout, stderr, tty };
    ask.door.spawn(async move {
        if let Some(past) = past {
            let mut past = std::pin::pin!(past);
            while let Some(Ok(bytes)) = past.next().await {
                if to_client.send(bytes).await.is_err() {
                    break;
                }
            }
        }
        if let Some(Session { input, output }) = session {
            tokio::select! {
                () = shown.pass_on(output, &to_client) => {}
                () = never_started(&instance, changes) => {}
                // Without a reader left nobody has to be heard.
                () = to_client.closed() => {}
            }
            reader.door.readers.left(id, &input);
        }
        drop(reader);
    });
    let Ask { door, request, .. } = ask;
    Ok(hijack(request, Ends { input: input.filter(|_| stdin), output }, tty, |work| door.spawn(work)))
}

/// Opens the cloud's session, whose first frame says that nothing is missed any more.
async fn open(ask: &Ask, id: Uuid, stdin: bool) -> Answer<Session> {
    let cloud = &ask.cloud;
    let request = cloud.client.instance_attach().project(cloud.project.clone()).instance(NameOrId::Id(id));
    let (mut session, carry) = Cloud::session(request.stdin(stdin).wait(true).send().await).await?;
    ask.door.spawn(async move {
        carry.await;
    });
    match session.output.recv().await {
        Some(Output::Error(why)) => Err(Fault::conflict(why)),
        Some(_) => Ok(session),
        None => Err(Fault::broken("the session ended before it began: try again")),
    }
}

/// What a client wants to see, and in which form.
#[derive(Debug, Clone, Copy)]
struct Shown {
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Shown {
    async fn pass_on(self, mut from: mpsc::Receiver<Output>, to: &mpsc::Sender<Bytes>) {
        while let Some(output) = from.recv().await {
            let (stream, bytes) = match output {
                Output::Stdout(bytes) if self.stdout => (STDOUT, bytes),
                Output::Stderr(bytes) if self.stderr => (STDERR, bytes),
                Output::Stdout(_) | Output::Stderr(_) => continue,
                Output::Exit(_) => return,
                Output::Error(why) => {
                    tracing::debug!(why, "an attached session ended");
                    return;
                }
            };
            let bytes = if self.tty { bytes } else { frame(stream, &bytes) };
            if to.send(bytes).await.is_err() {
                return;
            }
        }
    }
}

/// Resolves if the container that was waited for is gone, or could not be started.
async fn never_started(before: &Instance, mut changes: broadcast::Receiver<Arc<Happening>>) {
    while let Ok(change) = changes.recv().await {
        if change.id() != before.metadata.id {
            continue;
        }
        let Some(now) = &change.after else { return };
        let started = now.status.started != before.status.started || now.status.exit != before.status.exit;
        if started {
            // From now on its session says how it is.
            break;
        }
        // How it ended before is no word on this start.
        let tried = now.metadata.generation > before.metadata.generation
            && now.status.observed_generation >= now.metadata.generation;
        if tried && now.status.state == InstanceState::Failed && now.status.next_restart.is_none() {
            return;
        }
    }
    std::future::pending().await
}
