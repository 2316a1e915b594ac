//! The socket, and a request on its way in: who sent it, which version it speaks, and where it goes.

use super::{
    API_VERSION, DockerConfig, OLDEST_API_VERSION,
    body::{Body, json},
    cloud::Cloud,
    container::{Execs, Origins, Readers},
    fault::{Answer, Fault},
    follow::Follower,
    query::{Query, plain_path},
    route,
};
use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    sync::Arc,
};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use yun_engine::tasks::Tasks;

/// The group whose members may use the socket.
const GROUP: &str = "yun";

/// Listens on a socket that root and the group `yun` may use. What a killed server left in its place is removed.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if let Some(group) = group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), GROUP) {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?.get(2)?.parse().ok()
}

/// The door.
#[derive(Debug)]
pub struct Door {
    pub(super) config: DockerConfig,
    pub(super) follower: Follower,
    pub(super) execs: Execs,
    pub(super) origins: Origins,
    pub(super) readers: Readers,
    /// Connections that were taken over, and other work that outlives its request.
    pub(super) sessions: TaskTracker,
    pub(super) closing: CancellationToken,
}

impl Door {
    /// Answers on the socket until the tasks are stopped.
    pub fn start(config: DockerConfig, listener: UnixListener, tasks: &Tasks) -> Arc<Self> {
        let tasks = tasks.scope("docker");
        let door = Arc::new(Self {
            config,
            follower: Follower::default(),
            execs: Execs::default(),
            origins: Origins::default(),
            readers: Readers::default(),
            sessions: TaskTracker::new(),
            closing: tasks.stopping(),
        });
        let (following, removing, accepting) = (Arc::clone(&door), Arc::clone(&door), Arc::clone(&door));
        tasks.spawn("follow", move |task| async move {
            let cloud = following.cloud(true);
            let stop = task.stopping().clone();
            tokio::select! {
                () = following.follower.run(&cloud, &*following.config.clock) => {}
                () = stop.cancelled() => {}
            }
        });
        tasks.spawn("remove", move |task| async move {
            let stop = task.stopping().clone();
            tokio::select! {
                () = super::container::remove_ended(&removing) => {}
                () = stop.cancelled() => {}
            }
        });
        tasks.spawn("accept", move |task| async move {
            let stop = task.stopping().clone();
            tokio::select! {
                () = accepting.accept(listener) => {}
                () = stop.cancelled() => {}
            }
        });
        door
    }

    /// The cloud as root, or as a member of the group, sees it.
    pub(super) fn cloud(&self, root: bool) -> Cloud {
        let client = if root { &self.config.admin } else { &self.config.member };
        Cloud { client: client.clone(), project: self.config.project.clone() }
    }

    /// Runs work that outlives its request, until the door closes.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.sessions.spawn(async move {
            tokio::select! { () = work => {}, () = closing.cancelled() => {} }
        });
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let door = Arc::clone(&self);
                    self.spawn(async move { door.serve(stream).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection on the Docker socket");
                    self.config.clock.sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
        let service = service_fn(move |request| {
            let door = Arc::clone(&self);
            async move { Ok::<_, Infallible>(door.answer(request, root).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection on the Docker socket broke");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, root: bool) -> Response<Body> {
        let shown = format!("{} {}", request.method(), request.uri().path());
        let mut response = match self.ask(request, root).await {
            Ok(response) => response,
            Err(fault) => {
                tracing::debug!(request = shown, status = fault.status.as_u16(), message = fault.message, "refused");
                json(fault.status, &json!({ "message": fault.message }))
            }
        };
        let headers = response.headers_mut();
        headers.insert("api-version", HeaderValue::from_static(API_VERSION));
        headers.insert("docker-experimental", HeaderValue::from_static("false"));
        headers.insert("ostype", HeaderValue::from_static("linux"));
        headers.insert("server", HeaderValue::from_static("yun (linux)"));
        response
    }

    async fn ask(self: Arc<Self>, request: Request<Incoming>, root: bool) -> Answer<Response<Body>> {
        let path = request.uri().path().to_owned();
        let segments: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(plain_path).collect();
        let mut segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let mut spoken = version(&format!("v{API_VERSION}")).unwrap_or_default();
        if let Some(version) = segments.first().and_then(|first| version(first)) {
            speaks(version)?;
            spoken = version;
            segments.remove(0);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let cloud = self.cloud(root);
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let request = Request::from_parts(parts, ());
        route::route(Ask { door: self, cloud, version: spoken, query, request, body }, &method, &segments).await
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) door: Arc<Door>,
    /// The cloud as the sender sees it.
    pub(super) cloud: Cloud,
    /// The version of the protocol that the sender speaks.
    pub(super) version: (u32, u32),
    pub(super) query: Query,
    /// The head; a connection is taken over through it.
    pub(super) request: Request<()>,
    pub(super) body: Incoming,
}

/// `v1.41` as numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.strip_prefix('v')?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Refuses versions that are not spoken, in the words by which clients know it.
fn speaks(asked: (u32, u32)) -> Answer<()> {
    let number = |text: &str| version(&format!("v{text}")).unwrap_or_default();
    let said = format!("{}.{}", asked.0, asked.1);
    if asked > number(API_VERSION) {
        return Err(Fault::bad(format!(
            "client version {said} is too new. Maximum supported API version is {API_VERSION}: set DOCKER_API_VERSION={API_VERSION}, or let the client negotiate"
        )));
    }
    if asked < number(OLDEST_API_VERSION) {
        return Err(Fault::bad(format!(
            "client version {said} is too old. Minimum supported API version is {OLDEST_API_VERSION}, please upgrade your client to a newer version"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_of_what_is_spoken_are_refused() {
        assert_eq!(version("v1.41"), Some((1, 41)));
        assert_eq!(version("containers"), None);
        assert!(speaks((1, 24)).is_ok() && speaks((1, 44)).is_ok());
        assert!(speaks((1, 99)).unwrap_err().message.contains("too new"));
        assert!(speaks((1, 12)).unwrap_err().message.contains("too old"));
    }

    #[test]
    fn the_group_is_found_by_name() {
        let groups = "root:x:0:\nyun:x:998:alice,bob\n";
        assert_eq!((group_id(groups, "yun"), group_id(groups, "none")), (Some(998), None));
    }
}
