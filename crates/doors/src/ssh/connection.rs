//! One client: who they are, which channels they have open, and what they ask for on each. Whatever takes time is done by tasks that end
//! with their channel; nothing here waits for an instance.

use super::{
    cloud::Cloud,
    forward,
    inlet::{Incoming, Inlet, Outlet, inlet},
    process::{self, Asked, What},
    server::{Presence, SshDoor},
    signals,
    target::Target,
};
use bytes::Bytes;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Pty, Sig,
    keys::HashAlg,
    server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use yun_engine::session::WindowSize;

/// What one connection may have open at once: shells, copies and forwarded connections.
const CHANNELS: usize = 256;
/// How much a client may send before it is told that there is room again.
pub(super) const WINDOW: u32 = 2 << 20;
/// The same while a channel has much to be read: so little that nothing more comes of it.
const TRICKLE: u32 = 2;
/// How long data waits for room while nothing else of the connection goes on.
const PAUSE: Duration = Duration::from_millis(20);
/// The most environment variables, and the longest.
const VARIABLES: usize = 32;
const VARIABLE: usize = 1024;

type Writer = russh::ChannelWriteHalf<Msg>;

/// What is known of a channel.
struct Open {
    inlet: Inlet,
    /// Until something is started on it.
    waiting: Option<(Outlet, Arc<Writer>)>,
    terminal: Option<(String, WindowSize)>,
    env: Vec<String>,
    ended: CancellationToken,
    /// Ends what runs on the channel when the channel goes.
    _end: DropGuard,
}

/// The channels of a connection. What runs on one takes it out when it ends.
pub(super) type Channels = Arc<Mutex<HashMap<ChannelId, OpenChannel>>>;

/// A channel, opaque to others.
pub(super) struct OpenChannel(Open);

/// One client.
pub(super) struct Connection {
    door: Arc<SshDoor>,
    presence: Arc<Presence>,
    cloud: Option<Cloud>,
    channels: Channels,
    /// Somebody asked to listen here for them: told with the next session, since the protocol has no words for it.
    refused_listening: bool,
}

impl Connection {
    pub(super) fn new(door: Arc<SshDoor>, presence: Arc<Presence>) -> Self {
        Self { door, presence, cloud: None, channels: Channels::default(), refused_listening: false }
    }

    /// Changes a channel that is there.
    fn on<T>(&self, channel: ChannelId, change: impl FnOnce(&mut Open) -> T) -> Option<T> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.get_mut(&channel).map(|open| change(&mut open.0))
    }

    /// Writes a new channel down. `None` if there are too many.
    fn opened(&self, channel: Channel<Msg>) -> Option<ChannelId> {
        let id = channel.id();
        // The reading half is not used: see `inlet`.
        let (_, writer) = channel.split();
        let (inlet, outlet) = inlet();
        let ended = CancellationToken::new();
        let open = Open {
            inlet,
            waiting: Some((outlet, Arc::new(writer))),
            terminal: None,
            env: Vec::new(),
            _end: ended.clone().drop_guard(),
            ended,
        };
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= CHANNELS {
            return None;
        }
        channels.insert(id, OpenChannel(open));
        Some(id)
    }

    /// Starts something on a channel that has nothing yet.
    fn start(&mut self, id: ChannelId, what: What, session: &mut Session) -> Result<(), russh::Error> {
        let taken = self.on(id, |open| {
            let (outlet, writer) = open.waiting.take()?;
            Some((outlet, writer, open.terminal.clone(), std::mem::take(&mut open.env), open.ended.clone()))
        });
        let (Some(Some((outlet, writer, terminal, env, ended))), Some(cloud)) = (taken, self.cloud.clone()) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let asked = Asked { what, terminal, env, refused_listening: std::mem::take(&mut self.refused_listening) };
        let line = process::Line { writer, handle: session.handle(), outlet };
        let (door, channels) = (Arc::clone(&self.door), Arc::clone(&self.channels));
        self.door.spawn(async move {
            tokio::select! {
                () = process::serve(&door, &cloud, asked, line) => {}
                () = ended.cancelled() => {}
            }
            forget(&channels, id);
        });
        Ok(())
    }

    async fn took(&self, channel: ChannelId, data: &[u8]) {
        let Some(inlet) = self.on(channel, |open| open.inlet.clone()) else { return };
        inlet.push(Incoming::Data(Bytes::copy_from_slice(data)));
        if inlet.is_full() {
            let clock = &self.door.config.clock;
            tokio::select! { () = inlet.room() => {}, () = clock.sleep(PAUSE) => {} }
        }
    }
}

/// What runs on a channel knows the channels too: it ends when they are told to.
impl Drop for Connection {
    fn drop(&mut self) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn forget(channels: &Channels, id: ChannelId) {
    channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
}

/// What clients may set in the environment: language and colours, nothing that changes what programs do.
fn may_set(name: &str) -> bool {
    matches!(name, "LANG" | "LANGUAGE" | "COLORTERM" | "NO_COLOR" | "TZ")
        || name.strip_prefix("LC_").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

fn window(columns: u32, rows: u32) -> WindowSize {
    let size = |asked: u32, usual: u16| if asked == 0 { usual } else { u16::try_from(asked).unwrap_or(u16::MAX) };
    WindowSize { columns: size(columns, 80), rows: size(rows, 24) }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let print = offer.public_key.fingerprint(HashAlg::Sha256).to_string();
        // One answer for everything that does not fit, and no difference in the work.
        let known = Target::parse(user).is_some_and(|target| self.door.config.gate.is_known(&target.project, &print));
        if known {
            return Ok(Auth::Accept);
        }
        let shown: String = user.chars().take(130).collect();
        tracing::debug!(from = %self.presence.from, user = ?shown, key = print, "an SSH key is not let in");
        Ok(Auth::reject())
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let print = key.public_key.fingerprint(HashAlg::Sha256).to_string();
        let admitted = Target::parse(user).and_then(|target| {
            let guest = self.door.config.gate.admit(&target.project, &print, self.presence.from.ip())?;
            Some((guest, target))
        });
        let Some((guest, target)) = admitted else { return Ok(Auth::reject()) };
        tracing::info!(
            from = %self.presence.from, key = %guest.key, fingerprint = print, project = %target.project,
            instance = %target.instance, "an SSH client is let in"
        );
        self.presence.arrived(Arc::clone(&guest.stay));
        self.cloud = Some(Cloud { guest, target: Arc::new(target) });
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.opened(channel) {
            Some(_) => reply.accept().await,
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let id = self.opened(channel);
        let taken = id.and_then(|id| self.on(id, |open| Some((open.waiting.take()?, open.ended.clone()))).flatten());
        let (Some(id), Some(((outlet, writer), ended)), Some(cloud)) = (id, taken, self.cloud.clone()) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (host, channels, door) = (host.to_owned(), Arc::clone(&self.channels), Arc::clone(&self.door));
        self.door.spawn(async move {
            let work = async {
                match forward::open(&door, &cloud, &host, port).await {
                    Ok(stream) => {
                        reply.accept().await;
                        forward::carry(stream, outlet, &writer).await;
                    }
                    Err(reason) => reply.reject(ChannelOpenFailure::Other { code: 2, reason }).await,
                }
            };
            tokio::select! { () = work => {}, () = ended.cancelled() => {} }
            forget(&channels, id);
        });
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        forget(&self.channels, channel);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.on(channel, |open| open.inlet.push(Incoming::Eof));
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        self.took(channel, data).await;
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.values().any(|open| open.0.inlet.is_full()) { TRICKLE } else { WINDOW }
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let term: String = term.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        let set = self.on(channel, |open| open.terminal = Some((term, window(columns, rows))));
        if set.is_some() { session.channel_success(channel) } else { session.channel_failure(channel) }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let fits = may_set(name) && value.len() <= VARIABLE && !value.chars().any(char::is_control);
        let set = self.on(channel, |open| {
            let fits = fits && open.env.len() < VARIABLES;
            if fits {
                open.env.push(format!("{name}={value}"));
            }
            fits
        });
        if set == Some(true) { session.channel_success(channel) } else { session.channel_failure(channel) }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.start(channel, What::Shell, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, What::Command(command.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, What::Subsystem(name.to_owned()), session)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.on(channel, |open| open.inlet.push(Incoming::Resize(window(columns, rows))));
        session.channel_success(channel)
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(number) = signals::number(&signal) {
            self.on(channel, |open| open.inlet.push(Incoming::Signal(number)));
        }
        Ok(())
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn agent_request(&mut self, _: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        // Whoever is root in an instance could use the agent.
        Ok(false)
    }

    async fn tcpip_forward(&mut self, _: &str, _: &mut u32, _: &mut Session) -> Result<bool, Self::Error> {
        self.refused_listening = true;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_variables_may_be_set() {
        for name in ["LANG", "LC_ALL", "LC_TIME", "COLORTERM"] {
            assert!(may_set(name), "{name}");
        }
        for name in ["PATH", "LD_PRELOAD", "LC_x", "BASH_ENV", "HOME", "", "LC_ALL=1"] {
            assert!(!may_set(name), "{name}");
        }
    }

    #[test]
    fn windows_have_a_size() {
        assert_eq!(window(0, 0), WindowSize { columns: 80, rows: 24 });
        assert_eq!(window(70_000, 50), WindowSize { columns: u16::MAX, rows: 50 });
    }
}
