//! VMs: the gateway is a client of the guest's own SSH server, with a key that VMs get when they are made.
//!
//! The guest is known by its instance's id: the key that its server showed first is remembered, and another one is refused.

use super::{
    cloud::Cloud,
    inlet::Incoming,
    process::{Asked, Ended, Line, STDERR, What},
    server::SshDoor,
    signals,
};
use russh::{
    ChannelMsg,
    client::{self, Handle, Handler, connect_stream},
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{DuplexStream, copy_bidirectional};
use yun_engine::clock::within;
use yun_types::{Instance, InstanceId, InstanceState, NameOrId};

/// The port of SSH servers.
const PORT: u16 = 22;
/// How long a guest may take until its server answers: it may be booting.
const BOOT: Duration = Duration::from_secs(60);
/// How often it is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a server that answers may take to let somebody in.
const LOGIN: Duration = Duration::from_secs(60);
/// How often a guest that says nothing is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Who logs in if nobody else is named: images of VMs take keys for root.
const USER: &str = "root";
/// How much of a forwarded connection waits in each direction.
const PIPE: usize = 64 << 10;

/// Compares what the guest's server shows with what is known of it.
struct Known {
    expected: Option<PublicKey>,
    shown: Arc<Mutex<Option<PublicKey>>>,
}

impl Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(self.expected.as_ref().is_none_or(|expected| expected.key_data() == key.key_data()))
    }
}

/// A login at a guest's SSH server. It ends with this value.
pub(super) struct Login(Handle<Known>);

impl Login {
    /// Logs in. `patient` waits until the guest has booted.
    pub(super) async fn at(door: &SshDoor, cloud: &Cloud, instance: &Instance, patient: bool) -> Result<Self, String> {
        let name = &instance.metadata.name;
        let id = InstanceId(instance.metadata.id);
        let clock = &*door.config.clock;
        let began = clock.monotonic();
        let stream = loop {
            match cloud.dial(instance, PORT).await {
                Ok(stream) => break stream,
                Err(why) if !patient || clock.monotonic().saturating_sub(began) >= BOOT => {
                    return Err(format!("the SSH server of VM {name} does not answer: {why}"));
                }
                Err(_) => clock.sleep(AGAIN).await,
            }
            cloud.may_enter()?;
            // One that does not run need not be waited for.
            if cloud.instance_called(NameOrId::Id(instance.metadata.id)).await?.status.state != InstanceState::Running {
                return Err(format!("VM {name} does not run: start it with yun start {name}"));
            }
        };
        let key = PrivateKey::from_openssh(&door.config.client_key)
            .map_err(|e| format!("the gateway's own key is damaged: {e}"))?;
        let public = key.public_key().to_openssh().unwrap_or_default();
        let expected = door.config.gate.guest_key(id).await?;
        let expected = expected
            .map(|text| {
                PublicKey::from_openssh(&text).map_err(|e| format!("what is known of VM {name} is damaged: {e}"))
            })
            .transpose()?;
        let shown = Arc::<Mutex<Option<PublicKey>>>::default();
        let known = Known { expected: expected.clone(), shown: Arc::clone(&shown) };
        let config = client::Config { keepalive_interval: Some(KEEPALIVE), nodelay: true, ..client::Config::default() };
        let user = cloud.target.user.as_deref().unwrap_or(USER);
        let login = async {
            let mut handle = connect_stream(Arc::new(config), stream, known).await?;
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
            let let_in = handle.authenticate_publickey(user, key).await?.success();
            Ok::<_, russh::Error>((handle, let_in))
        };
        let result = within(clock, LOGIN, login).await;
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (handle, let_in) = match (result, &expected, &shown) {
            (Some(Ok(login)), _, _) => login,
            (Some(Err(_)), Some(expected), Some(shown)) if expected.key_data() != shown.key_data() => {
                let print = |key: &PublicKey| key.fingerprint(HashAlg::Sha256);
                return Err(format!(
                    "the SSH server of VM {name} shows the key {}, and was known by {}: somebody else may answer in its place; \
                     if its keys were made anew inside, enter it with yun ssh {name} and put the old ones back, or launch it anew",
                    print(shown),
                    print(expected)
                ));
            }
            (Some(Err(e)), _, _) => return Err(format!("the SSH server of VM {name} cannot be spoken to: {e}")),
            (None, _, _) => {
                let seconds = LOGIN.as_secs();
                return Err(format!(
                    "the SSH server of VM {name} did not answer within {seconds} s: see yun console {name}"
                ));
            }
        };
        if !let_in {
            return Err(format!(
                "the SSH server of VM {name} does not let the gateway in as {user}: VMs get its key when they are made, and this one \
                 is older, or takes no keys for {user}; name another user (USER+{name}.{}), use yun ssh {name}, or add this line to \
                 authorized_keys there: {public}",
                cloud.target.project
            ));
        }
        if let (None, Some(shown)) = (expected, shown) {
            let text = shown.to_openssh().map_err(|e| format!("the key of VM {name} cannot be remembered: {e}"))?;
            door.config.gate.keep_guest_key(id, text).await?;
        }
        Ok(Self(handle))
    }

    /// A connection from inside the guest.
    pub(super) async fn forward(self, host: &str, port: u16) -> Result<DuplexStream, String> {
        let channel = self.0.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0).await;
        let channel = channel.map_err(|e| match e {
            russh::Error::ChannelOpenFailure(_) => format!("the VM cannot connect to {host} port {port}, or may not"),
            e => format!("the VM cannot be asked to connect to {host}: {e}"),
        })?;
        let (near, mut far) = tokio::io::duplex(PIPE);
        tokio::spawn(async move {
            // Either side's end is told to the other; the login ends with both.
            let _ = copy_bidirectional(&mut channel.into_stream(), &mut far).await;
            drop(self);
        });
        Ok(near)
    }
}

/// Runs what was asked for in the guest.
pub(super) async fn run(
    door: &SshDoor,
    cloud: &Cloud,
    instance: &Instance,
    asked: Asked,
    line: &mut Line,
) -> Result<Ended, String> {
    let login = Login::at(door, cloud, instance, true).await?;
    let name = &instance.metadata.name;
    let broke = |e: russh::Error| format!("the SSH server of VM {name} ended the session: {e}");
    let channel = login.0.channel_open_session().await.map_err(broke)?;
    if let Some((term, size)) = &asked.terminal {
        let (columns, rows) = (size.columns.into(), size.rows.into());
        channel.request_pty(false, term, columns, rows, 0, 0, &[]).await.map_err(broke)?;
    }
    for (name, value) in asked.env.iter().filter_map(|text| text.split_once('=')) {
        channel.set_env(false, name, value).await.map_err(broke)?;
    }
    match asked.what {
        What::Shell => channel.request_shell(true).await,
        What::Command(command) => channel.exec(true, command).await,
        What::Subsystem(subsystem) => channel.request_subsystem(true, subsystem).await,
    }
    .map_err(broke)?;
    let (mut reader, writer) = channel.split();
    let Line { writer: client, outlet, .. } = line;
    let inward = async {
        while let Some(incoming) = outlet.next().await {
            let sent = match incoming {
                Incoming::Data(bytes) => writer.data_bytes(bytes).await,
                Incoming::Eof => writer.eof().await,
                Incoming::Resize(size) => writer.window_change(size.columns.into(), size.rows.into(), 0, 0).await,
                Incoming::Signal(number) => match signals::named(number) {
                    Some(signal) => writer.signal(signal).await,
                    None => Ok(()),
                },
            };
            if sent.is_err() {
                break;
            }
        }
        // What the guest still says has to arrive.
        std::future::pending().await
    };
    let outward = async {
        let gone = |_| "the client is gone".to_owned();
        let mut ended = None;
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => client.data_bytes(data).await.map_err(gone)?,
                ChannelMsg::ExtendedData { data, ext: STDERR } => {
                    client.extended_data_bytes(STDERR, data).await.map_err(gone)?;
                }
                ChannelMsg::ExitStatus { exit_status } => ended = Some(Ended::Code(exit_status)),
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    ended = Some(Ended::Signal(signals::number(&signal_name).unwrap_or(15)));
                }
                ChannelMsg::Failure => return Err(format!("the SSH server of VM {name} does not offer this")),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        ended.ok_or_else(|| format!("VM {name} ended the session without a status: it may have stopped"))
    };
    tokio::select! { ended = inward => ended, ended = outward => ended }
}
