//! Sessions: exec, console, ssh, and plain connections.

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt, StreamExt};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::CloseFrame},
};
use yun_api::frames;
use yun_engine::session::Session;
use yun_types::{Exit, InstanceKind, InstanceState, NameOrId};

use super::{
    Code,
    args::{ExecArgs, SshArgs},
    connect::{Cloud, refused, websocket},
    follow::line,
    instance::get,
    keys,
    terminal::{self, Keys, Manner},
};

/// Runs a command in a container; its exit code becomes ours.
pub(crate) async fn exec(cloud: &Cloud, args: ExecArgs) -> Result<Code> {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal: leave -t out, or run this in a terminal");
    }
    let name: NameOrId = args.instance.parse()?;
    let mut request = cloud
        .client
        .instance_exec()
        .project(cloud.project.clone())
        .instance(name)
        .command(serde_json::to_string(&args.command)?);
    if !args.env.is_empty() {
        let all = super::words::environment(&args.env, &[] as &[&str])?;
        let env: Vec<String> = all.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        request = request.env(serde_json::to_string(&env)?);
    }
    if let Some(user) = args.user {
        request = request.user(user);
    }
    if let Some(workdir) = args.workdir {
        request = request.workdir(workdir);
    }
    if args.tty {
        let size = terminal::size();
        request = request.terminal(format!("{}x{}", size.columns, size.rows));
    }
    let socket = websocket(request.send().await).await?;
    let manner = Manner { input: args.interactive, terminal: args.tty, leave: None, signals: false };
    let exit = carry(socket, manner).await?;
    Ok(exit.map_or(0, |e| u8::try_from(e.code).unwrap_or(255)))
}

/// Opens the serial console of a VM.
pub(crate) async fn console(cloud: &Cloud, word: &str) -> Result<Code> {
    let name: NameOrId = word.parse()?;
    let socket =
        websocket(cloud.client.instance_console().project(cloud.project.clone()).instance(name).send().await).await?;
    if std::io::stdin().is_terminal() {
        eprintln!("the console of {word}: press Enter; leave with Ctrl-a q");
    }
    carry(socket, Manner { input: true, terminal: true, leave: Some(Keys::Console), signals: false }).await?;
    eprintln!();
    Ok(0)
}

/// Carries a session to its end. What the server refused ends with the exit code of that refusal.
async fn carry(socket: WebSocketStream<reqwest::Upgraded>, manner: Manner) -> Result<Option<Exit>> {
    let (session, carrier) = frames::connect(socket);
    carried(session, tokio::spawn(carrier), manner).await
}

/// Carries a session whose frames are carried already.
pub(crate) async fn carried(
    session: Session,
    carrier: JoinHandle<Option<u16>>,
    manner: Manner,
) -> Result<Option<Exit>> {
    if !manner.input {
        let _ = session.input.send(yun_engine::session::Input::StdinClosed).await;
    }
    let error = match terminal::carry(session, manner).await {
        Ok(exit) => return Ok(exit),
        Err(error) => error,
    };
    match tokio::time::timeout(Duration::from_secs(1), carrier).await {
        Ok(Ok(Some(status))) => Err(refused(status, error.to_string(), None)),
        _ => Err(error),
    }
}

/// Why a connection was closed, with the exit code of the refusal if it was one.
fn closed(close: &CloseFrame, why: Option<String>) -> anyhow::Error {
    let message = why.unwrap_or_else(|| close.reason.to_string());
    refused(u16::from(close.code).saturating_sub(frames::REFUSED), message, None)
}

/// Connects standard input and output to a port of an instance.
pub(crate) async fn dial(cloud: &Cloud, word: &str, port: u16) -> Result<Code> {
    let name: NameOrId = word.parse()?;
    let socket =
        websocket(cloud.client.instance_dial().project(cloud.project.clone()).instance(name).port(port).send().await)
            .await?;
    let (mut to_server, mut from_server) = socket.split();
    let outward = async {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let read = stdin.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                // An empty message closes our half; the other side may still have something to say.
                let _ = to_server.send(Message::Binary(bytes::Bytes::new())).await;
                return std::future::pending::<()>().await;
            }
            if to_server.send(Message::Binary(buffer[..read].to_vec().into())).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        let (mut stdout, mut why) = (tokio::io::stdout(), None);
        while let Some(Ok(message)) = from_server.next().await {
            match message {
                Message::Binary(bytes) if stdout.write_all(&bytes).await.is_err() || stdout.flush().await.is_err() => {
                    break;
                }
                Message::Text(text) => why = Some(text.to_string()),
                Message::Close(Some(close)) if !close.reason.is_empty() => return Err(closed(&close, why)),
                _ => {}
            }
        }
        Ok(())
    };
    tokio::select! { result = inward => result?, () = outward => {} }
    Ok(0)
}

/// Logs in by SSH, through the server, as soon as the instance answers.
pub(crate) async fn ssh(cloud: &Cloud, args: SshArgs) -> Result<Code> {
    let instance = get(cloud, &args.instance).await?;
    let name = &instance.metadata.name;
    if instance.spec.kind == Some(InstanceKind::Container) {
        eprintln!("{name} is a container: yun exec -it {name} -- sh enters it even where it runs no SSH server");
    }
    if matches!(instance.status.state, InstanceState::Stopped | InstanceState::Failed | InstanceState::Paused) {
        bail!("instance {name} is {}: start it first (yun start {name})", instance.status.state);
    }
    answers(cloud, &instance.metadata.id.to_string(), name.as_str(), &args).await?;
    let directory = keys::directory();
    let key = keys::own_key(&directory).await?;
    let me = std::env::current_exe().context("cannot find the program file of yun")?;
    let proxy = format!(
        "ProxyCommand={} --project {} dial {} {}",
        quoted(&me.to_string_lossy()),
        cloud.project,
        instance.metadata.id,
        args.port
    );
    let known = format!("UserKnownHostsFile={}", directory.join("known_hosts").display());
    // The id, not the name: a new instance under an old name is not an attack.
    let alias = format!("HostKeyAlias={}", instance.metadata.id);
    let mut flags: Vec<String> = ["-o", &proxy, "-o", &known, "-o", &alias].map(str::to_owned).into();
    flags.extend(["-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR", "-i"].map(str::to_owned));
    flags.push(key.to_string_lossy().into_owned());
    // Flags of ssh come before the host, what is to be run there after it.
    let own = args.rest.iter().take_while(|word| word.starts_with('-')).count();
    flags.extend_from_slice(&args.rest[..own]);
    flags.push(format!("{}@{name}", args.user));
    flags.extend_from_slice(&args.rest[own..]);
    Err(yun_linux::daemon::become_program("ssh", "openssh-client", &flags).into())
}

fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Waits until the SSH server says its greeting.
async fn answers(cloud: &Cloud, id: &str, name: &str, args: &SshArgs) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(args.wait);
    let bar = line(cloud.quiet);
    bar.set_message(format!("{name} is booting"));
    loop {
        let outcome = greeting(cloud, id, args.port).await;
        let Err(error) = outcome else { break };
        if Instant::now() >= until {
            bar.finish_and_clear();
            return Err(error.context(format!(
                "no SSH server answers in {name}: yun console {name} and yun logs {name} show what it does"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn greeting(cloud: &Cloud, id: &str, port: u16) -> Result<()> {
    let name: NameOrId = id.parse()?;
    let attempt = async {
        let mut socket = websocket(
            cloud.client.instance_dial().project(cloud.project.clone()).instance(name).port(port).send().await,
        )
        .await?;
        let mut why = None;
        loop {
            match socket.next().await {
                // Empty: connected, and nothing said yet.
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {}
                Some(Ok(Message::Binary(_))) => return Ok(()),
                Some(Ok(Message::Text(text))) => why = Some(text.to_string()),
                Some(Ok(Message::Close(Some(close)))) => return Err(closed(&close, why)),
                _ => bail!("port {port} closed the connection"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), attempt).await.context("no greeting")?
}
