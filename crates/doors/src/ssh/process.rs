//! A shell, a command or a subsystem on one channel, from the request to the exit status.

use super::{
    cloud::{Cloud, Exec},
    inlet::{Incoming, Outlet},
    server::SshDoor,
    signals, vm,
};
use bytes::Bytes;
use russh::{
    ChannelWriteHalf,
    server::{Handle, Msg},
};
use std::sync::Arc;
use yun_engine::session::{Input, Output, Session, WindowSize};
use yun_types::{Instance, InstanceKind};

/// The stream of standard error (RFC 4254 section 5.2).
pub(super) const STDERR: u32 = 1;
/// What ends a session that never ran anything.
const FAILED: u32 = 255;

/// A login shell: bash where it is, at home, as sshd has it.
const SHELL: &str = "cd 2>/dev/null; if command -v bash >/dev/null 2>&1; then exec bash -l; fi; SHELL=/bin/sh; export SHELL; exec sh -l";
/// A command, at home. It is the first argument, so that nothing in it is read twice.
const COMMAND: &str = "cd 2>/dev/null; exec sh -c \"$1\"";

/// What a client asks to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Shell,
    Command(Vec<u8>),
    Subsystem(String),
}

/// A client's request on a channel, with what it said before.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) what: What,
    /// What kind of terminal, and its size.
    pub(super) terminal: Option<(String, WindowSize)>,
    pub(super) env: Vec<String>,
    /// The client asked for `-R`, which it did not get.
    pub(super) refused_listening: bool,
}

/// The client's end of a channel.
pub(super) struct Line {
    pub(super) writer: Arc<ChannelWriteHalf<Msg>>,
    pub(super) handle: Handle,
    pub(super) outlet: Outlet,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Code(u32),
    Signal(i32),
}

impl Line {
    /// A sentence on the client's standard error.
    pub(super) async fn say(&self, text: &str) {
        // The client's terminal may be raw: it needs to be told to go to the left.
        let line = Bytes::from(format!("yun: {text}\r\n"));
        let _ = self.writer.extended_data_bytes(STDERR, line).await;
    }

    pub(super) async fn finish(&self, ended: Ended) {
        // A client that has gone wants no status.
        let id = self.writer.id();
        let _ = match ended {
            Ended::Code(code) => self.writer.exit_status(code).await.map_err(|_| ()),
            Ended::Signal(number) => match signals::named(number) {
                Some(signal) => self.handle.exit_signal_request(id, signal, false, String::new(), String::new()).await,
                None => self.writer.exit_status(128 + number.unsigned_abs()).await.map_err(|_| ()),
            },
        };
        let _ = self.writer.eof().await;
        let _ = self.writer.close().await;
    }
}

/// Carries out what was asked for, and tells how it ended.
pub(super) async fn serve(door: &Arc<SshDoor>, cloud: &Cloud, asked: Asked, mut line: Line) {
    if asked.refused_listening {
        line.say("-R is not offered: nothing in an instance may listen at the gateway; publish a port (yun set NAME --publish), or use -L")
            .await;
    }
    let ended = match run(door, cloud, asked, &mut line).await {
        Ok(ended) => ended,
        Err(why) => {
            line.say(&why).await;
            Ended::Code(FAILED)
        }
    };
    line.finish(ended).await;
}

async fn run(door: &Arc<SshDoor>, cloud: &Cloud, asked: Asked, line: &mut Line) -> Result<Ended, String> {
    cloud.may_enter()?;
    let instance = cloud.instance().await?;
    match instance.spec.kind {
        Some(InstanceKind::Vm) => vm::run(door, cloud, &instance, asked, line).await,
        _ => in_container(cloud, &instance, asked, line).await,
    }
}

async fn in_container(cloud: &Cloud, instance: &Instance, asked: Asked, line: &mut Line) -> Result<Ended, String> {
    let script = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let command = match asked.what {
        What::Shell => script(SHELL),
        What::Command(command) => {
            let command = String::from_utf8(command)
                .map_err(|_| "the command is not UTF-8 text, and only that can be run here".to_owned())?;
            [script(COMMAND), vec!["sh".to_owned(), command]].concat()
        }
        What::Subsystem(name) if name == "sftp" => {
            let (session, carry) = cloud.sftp(instance).await?;
            return carried(session, carry, line).await;
        }
        What::Subsystem(name) => return Err(format!("subsystem {name:.40} is not offered: sftp is")),
    };
    let mut env = asked.env;
    let terminal = asked.terminal.map(|(term, size)| {
        if !term.is_empty() {
            env.push(format!("TERM={term}"));
        }
        size
    });
    let (session, carry) = cloud.exec(instance, &Exec { command, env, terminal }).await?;
    carried(session, carry, line).await
}

/// Relays a session that something else has to carry meanwhile.
async fn carried(
    session: Session,
    carry: impl Future<Output = Option<u16>> + Send,
    line: &mut Line,
) -> Result<Ended, String> {
    let carry = async {
        carry.await;
        // The session's own last words come through it, and it ends after them.
        std::future::pending().await
    };
    tokio::select! { ended = relay(session, line) => ended, ended = carry => ended }
}

/// Carries a session both ways until its end.
pub(super) async fn relay(session: Session, line: &mut Line) -> Result<Ended, String> {
    let Session { input, mut output } = session;
    let Line { writer, outlet, .. } = line;
    let inward = async {
        while let Some(incoming) = outlet.next().await {
            let frame = match incoming {
                Incoming::Data(bytes) => Input::Stdin(bytes),
                Incoming::Eof => Input::StdinClosed,
                Incoming::Resize(size) => Input::Resize(size),
                Incoming::Signal(number) => Input::Signal(number),
            };
            if input.send(frame).await.is_err() {
                break;
            }
        }
        // What the process still writes has to arrive.
        std::future::pending().await
    };
    let outward = async {
        let gone = || "the client is gone".to_owned();
        while let Some(frame) = output.recv().await {
            match frame {
                Output::Stdout(bytes) => writer.data_bytes(bytes).await.map_err(|_| gone())?,
                Output::Stderr(bytes) => writer.extended_data_bytes(STDERR, bytes).await.map_err(|_| gone())?,
                Output::Exit(exit) => {
                    return Ok(match exit.signal {
                        Some(number) => Ended::Signal(number),
                        None => Ended::Code(exit.code.unsigned_abs()),
                    });
                }
                Output::Error(why) => return Err(why),
            }
        }
        Err("the session ended without a word: the server stops, or the node is gone; instances go on".to_owned())
    };
    tokio::select! { ended = inward => ended, ended = outward => ended }
}
