//! `docker attach`, and what `docker run` shows: the connection to a container's main process.

use super::{
    super::{
        body::Body,
        fault::{Answer, Fault},
        server::{Ask, Door},
        stream::{Ends, hijack},
    },
    find,
    logs::{Wanted, pieces},
    state::Status,
};
use futures::StreamExt;
use http::Response;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use yun_engine::session::WindowSize;
use yun_types::Instance;

/// Who reads which container: a container with `--rm` is not removed under their eyes.
#[derive(Debug)]
pub(crate) struct Readers {
    count: watch::Sender<HashMap<Uuid, usize>>,
    sizes: Mutex<HashMap<Uuid, mpsc::Sender<WindowSize>>>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { count: watch::Sender::new(HashMap::new()), sizes: Mutex::default() }
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

    /// Passes a size on to the session of the container's terminal, if there is one.
    pub(super) async fn resize(&self, id: Uuid, size: WindowSize) {
        let sender = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(size).await;
        }
    }
}

/// Takes the connection over. It may come before the container is started: then it waits for that.
pub(crate) async fn attach(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let instance = find(&ask, text).await?;
    let query = &ask.query;
    let tty = instance.spec.container.tty;
    let (live, stdin) = (Status::of(&instance).live(), query.on("stdin"));
    if stdin {
        return Err(Fault::unsupported(format!(
            "cannot attach standard input to container {text}: this yun gives main processes none; leave -i out, and use docker exec -it {text} sh to work inside"
        )));
    }
    if Status::of(&instance) == Status::Paused {
        return Err(Fault::conflict(format!("container {text} is paused, unpause the container before attach")));
    }
    let wanted = Wanted {
        stdout: query.on("stdout"),
        stderr: query.on("stderr"),
        follow: query.on("stream"),
        tail: (live && !query.on("logs")).then_some(0),
        tty,
        ..Wanted::default()
    };
    let (to_client, output) = mpsc::channel(32);
    let (door, cloud) = (Arc::clone(&ask.door), ask.cloud.clone());
    let reader = Reader::new(&door, instance.metadata.id);
    let changes = door.follower.subscribe();
    ask.door.spawn(async move {
        let Some(since) = begun(&instance, changes).await else { return };
        let wanted = Wanted { since, ..wanted };
        match pieces(&cloud, instance.metadata.id, wanted).await {
            Ok(pieces) => {
                let mut pieces = std::pin::pin!(pieces);
                while let Some(Ok(bytes)) = pieces.next().await {
                    if to_client.send(bytes).await.is_err() {
                        break;
                    }
                }
            }
            Err(fault) => tracing::debug!(%fault, "a client could not be attached"),
        }
        drop(reader);
    });
    let Ask { door, request, .. } = ask;
    Ok(hijack(request, Ends { input: None, output }, tty, |work| door.spawn(work)))
}

/// Waits until the container has been started, and says from when on its lines are new. `None` if it is gone.
async fn begun(
    before: &Instance,
    mut changes: tokio::sync::broadcast::Receiver<Arc<super::super::follow::Happening>>,
) -> Option<Option<yun_types::Timestamp>> {
    if Status::of(before).live() {
        return Some(None);
    }
    loop {
        let change = changes.recv().await.ok()?;
        if change.id() != before.metadata.id {
            continue;
        }
        let now = change.after.as_ref()?;
        let started = now.status.started != before.status.started || now.status.exit != before.status.exit;
        if started {
            return Some(now.status.started.filter(|_| before.status.started.is_some()));
        }
        if now.status.state == yun_types::InstanceState::Failed {
            return None;
        }
    }
}
