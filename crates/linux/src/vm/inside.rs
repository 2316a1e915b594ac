//! Programs and files inside of a guest, by its agent. There is no terminal on this way, what a program reads has to be there before it
//! begins, and what it prints comes when it has ended; SSH has none of these limits.

use super::{
    guest::{Agent, Done},
    machine::Machine,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use serde_json::{Value, json};
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::sleep};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::session::{ExecRequest, Input, Output, Session, SessionEnd, session};
use yun_types::Exit;

/// How long the agent may take to show that it is there: it hears one conversation at a time.
const MEET: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the guest may take to pack or unpack files.
const PACK: Duration = Duration::from_secs(600);
/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The most that a program can be given to read.
const MOST_INPUT: usize = 4 << 20;
/// How much of a file goes into one message.
const PIECE: usize = 256 << 10;
/// What the agent keeps of what a program prints.
const MOST_OUTPUT: usize = 16 << 20;

/// Arguments: the working directory, then `NAME=value` and the command.
const RUN: &str = r#"cd "$1" || exit 126; shift; exec env "$@""#;
/// Argument: a path. Prints the name of an archive of it.
const PACK_UP: &str = r#"[ -e "$1" ] || [ -L "$1" ] || { echo "$1 is not there" >&2; exit 3; }
t=$(mktemp /tmp/.yun-XXXXXX) && tar -C "$(dirname -- "$1")" -cf "$t" -- "$(basename -- "$1")" && echo "$t" || { rm -f "$t"; exit 4; }"#;
const ROOM: &str = "mktemp /tmp/.yun-XXXXXX";
/// Arguments: an archive, and where it is unpacked: a directory that is there, or a new name in one that is there.
const UNPACK: &str = r#"[ -d "$2" ] && exec tar -C "$2" -xf "$1"
d=$(dirname -- "$2")
[ -d "$d" ] || { echo "$d is not there" >&2; exit 3; }
n=$(mktemp -d "$d/.yun-XXXXXX") || exit 4
if tar -C "$n" -xf "$1"; then
    for one in "$n"/* "$n"/.[!.]*; do
        if [ -e "$one" ] || [ -L "$one" ]; then mv -f -- "$one" "$2"; code=$?; break; fi
    done
fi
rm -rf "$n"
exit ${code:-4}"#;

fn cannot(machine: &Machine, verb: &str, e: io::Error) -> DriverError {
    let name = machine.name();
    let (kind, reason) = if e.kind() == io::ErrorKind::TimedOut {
        (ErrorKind::Unavailable, "NoAgent")
    } else {
        (ErrorKind::Internal, "AgentFailed")
    };
    let message = format!(
        "cannot {verb} VM {name}: {e}; install qemu-guest-agent in it, or use yun ssh {name} (and scp), which needs none"
    );
    DriverError::new(kind, reason, message).with(e)
}

fn require_running(machine: &Machine, verb: &str) -> Result<()> {
    if machine.current().is_some() {
        return Ok(());
    }
    let name = machine.name();
    let message = format!("cannot {verb} VM {name}: it does not run; start it with yun start {name}");
    Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message))
}

/// Runs a program.
pub(super) async fn exec(machine: &Arc<Machine>, request: ExecRequest) -> Result<Session> {
    let (name, verb) = (machine.name(), "run a command in");
    require_running(machine, verb)?;
    if request.terminal.is_some() {
        let message =
            format!("{name} is a VM, and its agent gives no terminal: use yun ssh {name}, or yun exec without -t");
        return Err(DriverError::bad_request("NoTerminal", message));
    }
    if let Some(user) = request.user.filter(|user| user != "root" && user != "0") {
        let message = format!("{name} is a VM, and its agent runs commands as root: use yun ssh --user {user} {name}");
        return Err(DriverError::bad_request("NoUser", message));
    }
    Agent::meet(&machine.files.agent(), MEET).await.map_err(|e| cannot(machine, verb, e))?;
    let words = ["/bin/sh", "-c", RUN, "sh"].map(str::to_owned).into_iter();
    let place = request.workdir.unwrap_or_else(|| "/".to_owned());
    let words: Vec<String> = words.chain([place]).chain(request.env).chain(request.command).collect();
    let (mine, theirs) = session();
    let machine = Arc::clone(machine);
    tokio::spawn(async move {
        let SessionEnd { mut input, output } = theirs;
        let end = match run(&machine, &words, &mut input).await {
            Ok(Some(done)) => tell(&output, done).await,
            // Its person has left.
            Ok(None) => return,
            Err(e) => Output::Error(cannot(&machine, verb, e).message),
        };
        let _ = output.send(end).await;
    });
    Ok(mine)
}

/// What the agent kept of it, then how it ended.
async fn tell(output: &mpsc::Sender<Output>, done: Done) -> Output {
    let cut = done.out.len() >= MOST_OUTPUT || done.err.len() >= MOST_OUTPUT;
    for (bytes, frame) in [(done.out, Output::Stdout as fn(Bytes) -> Output), (done.err, Output::Stderr)] {
        let bytes = Bytes::from(bytes);
        for at in (0..bytes.len()).step_by(PIECE) {
            if output.send(frame(bytes.slice(at..bytes.len().min(at + PIECE)))).await.is_err() {
                break;
            }
        }
    }
    if cut {
        return Output::Error("it printed more than the agent keeps, 16 MiB: the rest is lost; use yun ssh".to_owned());
    }
    let (code, signal) = match done.code {
        Ok(code) => (code, None),
        Err(signal) => (128 + signal, Some(signal)),
    };
    Output::Exit(Exit { code, signal, out_of_memory: false, at: chrono::Utc::now() })
}

/// `None` if the person left.
async fn run(machine: &Machine, words: &[String], input: &mut mpsc::Receiver<Input>) -> io::Result<Option<Done>> {
    let mut given = Vec::new();
    loop {
        match input.recv().await {
            Some(Input::Stdin(bytes)) if given.len() + bytes.len() > MOST_INPUT => {
                return Err(io::Error::other("more than 4 MiB of input"));
            }
            Some(Input::Stdin(bytes)) => given.extend_from_slice(&bytes),
            Some(Input::StdinClosed) => break,
            Some(_) => {}
            None => return Ok(None),
        }
    }
    let socket = machine.files.agent();
    let pid = Agent::meet(&socket, MEET).await?.start(words, &[], &given).await?;
    loop {
        // A conversation for each look: others have their turn between them.
        if let Some(done) = Agent::meet(&socket, MEET).await?.look(pid).await? {
            return Ok(Some(done));
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            frame = input.recv() => match frame {
                Some(Input::Signal(signal)) => kill(machine, pid, signal).await,
                Some(_) => {}
                None => {
                    kill(machine, pid, 9).await;
                    return Ok(None);
                }
            },
        }
    }
}

async fn kill(machine: &Machine, pid: i64, signal: i32) {
    let words = ["/bin/kill".to_owned(), format!("-{signal}"), pid.to_string()];
    if let Ok(mut agent) = Agent::meet(&machine.files.agent(), MEET).await {
        let _ = agent.start(&words, &[], b"").await;
    }
}

/// Runs a script to its end; what it printed, or why it could not.
async fn script(agent: &mut Agent, text: &str, arguments: &[&str]) -> io::Result<String> {
    let words: Vec<String> =
        ["/bin/sh", "-c", text, "sh"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    let done = agent.run(&words, b"", PACK).await?;
    if done.code == Ok(0) {
        return Ok(String::from_utf8_lossy(&done.out).trim().to_owned());
    }
    let why = String::from_utf8_lossy(&done.err).trim().to_owned();
    Err(io::Error::other(if why.is_empty() { format!("it ended with {:?}", done.code) } else { why }))
}

async fn open(agent: &mut Agent, path: &str, mode: &str) -> io::Result<i64> {
    let opened = agent.ask("guest-file-open", json!({"path": path, "mode": mode}), ANSWER).await?;
    opened.as_i64().ok_or_else(|| io::Error::other("the agent opened a file and did not say which"))
}

/// Files of the guest, as a tar stream.
pub(super) async fn read(machine: &Arc<Machine>, path: &str) -> Result<BoxStream<'static, io::Result<Bytes>>> {
    let verb = "copy files out of";
    require_running(machine, verb)?;
    let mut agent = Agent::meet(&machine.files.agent(), MEET).await.map_err(|e| cannot(machine, verb, e))?;
    let archive = script(&mut agent, PACK_UP, &[path]).await.map_err(|e| refused(machine, verb, &e))?;
    let file = open(&mut agent, &archive, "r").await.map_err(|e| cannot(machine, verb, e))?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let piece = piece(&mut agent, file).await;
            let last = !matches!(&piece, Ok((_, false)));
            if sender.send(piece.map(|(bytes, _)| bytes)).await.is_err() || last {
                break;
            }
        }
        let _ = agent.ask("guest-file-close", json!({"handle": file}), ANSWER).await;
        let _ = script(&mut agent, "rm -f \"$1\"", &[&archive]).await;
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
}

/// The next piece of an open file, and whether it is the last.
async fn piece(agent: &mut Agent, file: i64) -> io::Result<(Bytes, bool)> {
    let read = agent.ask("guest-file-read", json!({"handle": file, "count": PIECE}), ANSWER).await?;
    let bytes = STANDARD.decode(read["buf-b64"].as_str().unwrap_or_default()).map_err(io::Error::other)?;
    Ok((bytes.into(), read["eof"] == Value::Bool(true)))
}

/// Unpacks a tar stream in the guest.
pub(super) async fn write(
    machine: &Machine,
    path: &str,
    mut archive: BoxStream<'static, io::Result<Bytes>>,
) -> Result<()> {
    let verb = "copy files into";
    require_running(machine, verb)?;
    let mut agent = Agent::meet(&machine.files.agent(), MEET).await.map_err(|e| cannot(machine, verb, e))?;
    let room = script(&mut agent, ROOM, &[]).await.map_err(|e| refused(machine, verb, &e))?;
    let carried = async {
        let file = open(&mut agent, &room, "w").await?;
        while let Some(bytes) = archive.next().await {
            for piece in bytes?.chunks(PIECE) {
                let text = STANDARD.encode(piece);
                agent.ask("guest-file-write", json!({"handle": file, "buf-b64": text}), ANSWER).await?;
            }
        }
        agent.ask("guest-file-close", json!({"handle": file}), ANSWER).await?;
        script(&mut agent, UNPACK, &[&room, path]).await
    };
    let carried = carried.await;
    let _ = script(&mut agent, "rm -f \"$1\"", &[&room]).await;
    carried.map(drop).map_err(|e| refused(machine, verb, &e))
}

/// What the guest's own programs say is about what was asked for.
fn refused(machine: &Machine, verb: &str, e: &io::Error) -> DriverError {
    DriverError::bad_request("GuestRefused", format!("cannot {verb} VM {}: {e}", machine.name()))
}
