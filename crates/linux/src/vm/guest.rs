//! The way into a guest that runs the QEMU guest agent: a shutdown where nothing in the guest listens to the power button, frozen file
//! systems for a snapshot, and programs run inside.
//! <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>
//!
//! The agent hears one conversation at a time. Each begins with a number of its own, so that what an earlier one left in the channel is
//! passed over.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    io,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::{sleep, timeout},
};

/// How long an agent may take to show that it is there.
const LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to write everything out and freeze.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How often a program inside is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A conversation with the agent.
#[derive(Debug)]
pub(super) struct Agent {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

/// How a program inside ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// Its exit code, or the signal that ended it.
    pub(super) code: Result<i32, i32>,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Agent {
    /// Begins a conversation; `limit` covers the wait for the agent's first word.
    pub(super) async fn meet(socket: &Path, limit: Duration) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let meeting = async {
            let (reader, writer) = super::socket::connect(socket).await?.into_split();
            let mut agent = Self { lines: BufReader::new(reader).lines(), writer };
            let number = (u64::from(std::process::id()) << 32) | u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
            agent.say("guest-sync", json!({"id": number})).await?;
            while agent.hear().await?.get("return").and_then(Value::as_u64) != Some(number) {}
            Ok(agent)
        };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no guest agent answers in it");
        timeout(limit, meeting).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn say(&mut self, command: &str, arguments: Value) -> io::Result<()> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.writer.write_all(line.as_bytes()).await
    }

    async fn hear(&mut self) -> io::Result<Value> {
        let line = self.lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_str(line.trim_start_matches('\u{ff}')).unwrap_or_default())
    }

    /// Runs one command.
    pub(super) async fn ask(&mut self, command: &str, arguments: Value, limit: Duration) -> io::Result<Value> {
        let asking = async {
            self.say(command, arguments).await?;
            loop {
                let mut answer = self.hear().await?;
                if let Some(error) = answer.get("error") {
                    return Err(wrong(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given")));
                }
                if let Some(value) = answer.get_mut("return") {
                    return Ok(value.take());
                }
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("the guest agent did not answer {command}"));
        timeout(limit, asking).await.unwrap_or_else(|_| Err(late()))
    }

    /// Starts a program inside, with all that it reads. Its number there.
    pub(super) async fn start(&mut self, words: &[String], env: &[String], input: &[u8]) -> io::Result<i64> {
        let (program, arguments) = words.split_first().ok_or_else(|| wrong("no program was named"))?;
        let mut request = json!({"path": program, "arg": arguments, "env": env, "capture-output": true});
        if !input.is_empty() {
            request["input-data"] = Value::String(STANDARD.encode(input));
        }
        let started = self.ask("guest-exec", request, ANSWER_LIMIT).await?;
        started["pid"].as_i64().ok_or_else(|| wrong("the guest agent started a program and did not say which"))
    }

    /// How a program ended; `None` while it runs.
    pub(super) async fn look(&mut self, pid: i64) -> io::Result<Option<Done>> {
        let status = self.ask("guest-exec-status", json!({"pid": pid}), ANSWER_LIMIT).await?;
        if status["exited"] != true {
            return Ok(None);
        }
        let text = |name: &str| STANDARD.decode(status[name].as_str().unwrap_or_default()).unwrap_or_default();
        let number = |name: &str| status[name].as_i64().and_then(|n| i32::try_from(n).ok());
        let code = match (number("exitcode"), number("signal")) {
            (Some(code), _) => Ok(code),
            (None, signal) => Err(signal.unwrap_or_default()),
        };
        Ok(Some(Done { code, out: text("out-data"), err: text("err-data") }))
    }

    /// Runs a program inside to its end.
    pub(super) async fn run(&mut self, words: &[String], input: &[u8], limit: Duration) -> io::Result<Done> {
        let running = async {
            let pid = self.start(words, &[], input).await?;
            loop {
                if let Some(done) = self.look(pid).await? {
                    return Ok(done);
                }
                sleep(LOOK).await;
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {limit:?}"));
        timeout(limit, running).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Asks the agent to shut the guest down. False if no agent answers.
pub(super) async fn shut_down(socket: &Path) -> bool {
    let Ok(mut agent) = Agent::meet(socket, LIMIT).await else { return false };
    // Success has no answer: the guest is on its way down.
    agent.say("guest-shutdown", json!({"mode": "powerdown"})).await.is_ok()
}

/// Lets the guest write everything out and hold its file systems still. False if it cannot: then nothing is held.
pub(super) async fn freeze(socket: &Path) -> bool {
    let Ok(mut agent) = Agent::meet(socket, LIMIT).await else { return false };
    match agent.ask("guest-fsfreeze-freeze", json!({}), FREEZE_LIMIT).await {
        Ok(count) if count.as_u64().is_some_and(|count| count > 0) => true,
        _ => {
            // Part of it may be held.
            let _ = agent.ask("guest-fsfreeze-thaw", json!({}), FREEZE_LIMIT).await;
            false
        }
    }
}

/// Lets the file systems go on.
pub(super) async fn thaw(socket: &Path) {
    let thawed = async {
        let mut agent = Agent::meet(socket, FREEZE_LIMIT).await?;
        agent.ask("guest-fsfreeze-thaw", json!({}), FREEZE_LIMIT).await
    };
    if let Err(error) = thawed.await {
        tracing::warn!(socket = %socket.display(), %error, "a guest's file systems may still be frozen: its agent does not answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn an_agent_is_asked_only_after_it_has_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        assert!(!shut_down(&path).await);
        let listener = UnixListener::bind(&path).unwrap();
        let agent = async {
            let (reader, mut writer) = listener.accept().await.unwrap().0.into_split();
            let mut lines = BufReader::new(reader).lines();
            let hello: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            let answer = json!({"return": hello["arguments"]["id"]});
            writer.write_all(format!("{{\"return\": 1}}\n{answer}\n").as_bytes()).await.unwrap();
            lines.next_line().await.unwrap().unwrap()
        };
        let (asked, request) = tokio::join!(shut_down(&path), agent);
        assert!(asked && request.contains("guest-shutdown"), "{request}");
    }

    #[tokio::test]
    async fn a_program_is_followed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = tokio::spawn(async move {
            let (reader, mut writer) = listener.accept().await.unwrap().0.into_split();
            let mut lines = BufReader::new(reader).lines();
            let mut asked = 0;
            while let Ok(Some(line)) = lines.next_line().await {
                let request: Value = serde_json::from_str(&line).unwrap();
                let answer = match request["execute"].as_str().unwrap() {
                    "guest-sync" => request["arguments"]["id"].clone(),
                    "guest-exec" => json!({"pid": 7}),
                    _ => {
                        asked += 1;
                        if asked < 3 {
                            json!({"exited": false})
                        } else {
                            json!({"exited": true, "exitcode": 3, "out-data": "b3V0"})
                        }
                    }
                };
                writer.write_all(format!("{}\n", json!({"return": answer})).as_bytes()).await.unwrap();
            }
        });
        let mut agent = Agent::meet(&path, LIMIT).await.unwrap();
        let done = agent.run(&["/bin/true".into()], b"", Duration::from_secs(20)).await.unwrap();
        assert_eq!(done, Done { code: Ok(3), out: b"out".to_vec(), err: vec![] });
        drop(agent);
        guest.await.unwrap();
    }
}
