//! The listener: who may connect, for how long somebody may stay unknown, and what ends a connection.

use super::{
    SshConfig, Stay,
    connection::{Connection, WINDOW},
    cut::Cut,
};
use russh::{
    Disconnect, MethodKind, MethodSet, SshId,
    keys::PrivateKey,
    server::{Config, run_stream},
};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use yun_engine::{clock::within, tasks::Tasks};

/// How many clients may be connected at once.
const CONNECTIONS: usize = 512;
/// How many of them may be unknown.
const STRANGERS: usize = 64;
/// How long a client may stay unknown.
const GRACE: Duration = Duration::from_secs(30);
/// How often a client that says nothing is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often it is looked whether a guest may stay.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Listens.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// The door.
#[derive(Debug)]
pub struct SshDoor {
    pub(super) config: SshConfig,
    server: Arc<Config>,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Connections and what runs in them.
    work: TaskTracker,
    closing: CancellationToken,
}

/// What the supervisor of a connection knows of it.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) from: SocketAddr,
    stay: OnceLock<Arc<dyn Stay>>,
    arrival: Notify,
}

impl Presence {
    /// The client has proved who it is.
    pub(super) fn arrived(&self, stay: Arc<dyn Stay>) {
        let _first = self.stay.set(stay);
        self.arrival.notify_one();
    }
}

impl SshDoor {
    /// Answers on the listener until the tasks are stopped.
    pub fn start(config: SshConfig, listener: TcpListener, tasks: &Tasks) -> Result<Arc<Self>, String> {
        let key = PrivateKey::from_openssh(&config.host_key).map_err(|e| format!("the host key is damaged: {e}"))?;
        let server = Config {
            server_id: SshId::Standard("SSH-2.0-yun".into()),
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            // Refusals take the same time whatever the reason.
            auth_rejection_time: Duration::from_millis(100),
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: vec![key],
            window_size: WINDOW,
            // People have several keys, and their client offers one after the other.
            max_auth_attempts: 12,
            // Only for clients that no longer take what they are sent: others answer to the question whether they are there.
            inactivity_timeout: Some(KEEPALIVE * 10),
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: 3,
            nodelay: true,
            ..Config::default()
        };
        let tasks = tasks.scope("ssh");
        let door = Arc::new(Self {
            config,
            server: Arc::new(server),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            work: TaskTracker::new(),
            closing: tasks.stopping(),
        });
        let accepting = Arc::clone(&door);
        tasks.spawn("accept", move |task| async move {
            let stop = task.stopping().clone();
            tokio::select! {
                () = accepting.accept(listener) => {}
                () = stop.cancelled() => {}
            }
            // What is open gets its last words.
            accepting.work.close();
            accepting.work.wait().await;
        });
        Ok(door)
    }

    /// Runs work of a connection.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(work);
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let permits = (
                        Arc::clone(&self.connections).try_acquire_owned(),
                        Arc::clone(&self.strangers).try_acquire_owned(),
                    );
                    let (Ok(connection), Ok(stranger)) = permits else {
                        tracing::debug!(%from, "too many SSH clients: one is turned away");
                        continue;
                    };
                    let door = Arc::clone(self);
                    self.spawn(async move { door.serve(stream, from, connection, stranger).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take an SSH connection");
                    self.config.clock.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        _connection: OwnedSemaphorePermit,
        stranger: OwnedSemaphorePermit,
    ) {
        let _ = stream.set_nodelay(true);
        let presence = Arc::new(Presence { from, stay: OnceLock::new(), arrival: Notify::new() });
        let cut = CancellationToken::new();
        // However this ends, nothing of the connection goes on.
        let _cut: DropGuard = cut.clone().drop_guard();
        let handler = Connection::new(Arc::clone(&self), Arc::clone(&presence));
        let running = run_stream(Arc::clone(&self.server), Cut::new(stream, cut), handler);
        let clock = &*self.config.clock;
        let running = tokio::select! {
            running = within(clock, GRACE, running) => running,
            () = self.closing.cancelled() => return,
        };
        let Some(Ok(mut running)) = running else { return };
        let handle = running.handle();
        let mut stranger = Some(stranger);
        let began = clock.monotonic();
        let why = loop {
            tokio::select! {
                ended = &mut running => {
                    if let Err(error) = ended {
                        tracing::debug!(%from, %error, "an SSH connection broke");
                    }
                    return;
                }
                () = self.closing.cancelled() => break "the server stops: instances go on without it",
                () = presence.arrival.notified() => stranger = None,
                () = clock.sleep(LOOK) => match presence.stay.get() {
                    Some(stay) if !stay.holds() => break "the SSH key was removed",
                    Some(_) => {}
                    None if clock.monotonic().saturating_sub(began) >= GRACE => return,
                    None => {}
                },
            }
        };
        drop(stranger);
        let last = async {
            let _ = handle.disconnect(Disconnect::ByApplication, why.to_owned(), String::new()).await;
            let _ = running.await;
        };
        let _late = within(clock, LAST_WORDS, last).await;
    }
}
