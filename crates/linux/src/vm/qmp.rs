//! A small client of the QEMU Machine Protocol: JSON lines over a Unix socket.
//!
//! One connection carries commands with ids and their answers. Events in between are passed over: QEMU keeps a journal of them for us
//! (module `journal`). A connection is made for one operation and dropped after it: QEMU serves one client at a time, and a fresh one
//! costs less than a millisecond. Nothing here depends on a version's schema.
//! Protocol: <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

use super::socket::connect;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::oneshot,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// How long a command may take: QEMU answers in under a millisecond unless the host is starved.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// Nobody listens: QEMU is not there, or not yet.
    #[error("QEMU's control socket does not answer: {0}")]
    Connect(io::Error),
    /// The connection ended: QEMU ended.
    #[error("QEMU closed its control socket")]
    Closed,
    /// It took too long.
    #[error("QEMU did not answer {command} within {limit:?}")]
    Timeout {
        /// The command, or `greeting`.
        command: String,
        /// How long we waited.
        limit: Duration,
    },
    /// QEMU refused.
    #[error("QEMU refused {command}: {text}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        text: String,
    },
    /// That was not QMP.
    #[error("what answers on QEMU's control socket is not QEMU: {0}")]
    Protocol(String),
}

type Answer = Result<Value, String>;
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A connection that is ready for commands.
#[derive(Debug)]
pub(super) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next: AtomicU64,
    /// `None` once the connection has ended: no answer can come any more.
    waiting: Waiting,
    _reader: AbortOnDropHandle<()>,
}

impl Qmp {
    /// Connects and negotiates. `limit` covers the wait for the greeting, which comes only when QEMU has built the machine.
    pub(super) async fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let greet = async {
            let stream = connect(path).await.map_err(QmpError::Connect)?;
            let (reader, writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            let greeting = lines.next_line().await.map_err(|_| QmpError::Closed)?.ok_or(QmpError::Closed)?;
            Ok((greeting, lines, writer))
        };
        let late = |_| Err(QmpError::Timeout { command: "greeting".into(), limit });
        let (greeting, lines, writer) = timeout(limit, greet).await.unwrap_or_else(late)?;
        let parsed: Option<Value> = serde_json::from_str(&greeting).ok();
        if parsed.is_none_or(|v| v.get("QMP").is_none()) {
            return Err(QmpError::Protocol(greeting.chars().take(120).collect()));
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader = tokio::spawn(read(lines, Arc::clone(&waiting)));
        let client = Self {
            writer: tokio::sync::Mutex::new(writer),
            next: AtomicU64::new(1),
            waiting,
            _reader: AbortOnDropHandle::new(reader),
        };
        client.execute("qmp_capabilities", Value::Null).await?;
        Ok(client)
    }

    /// Runs a command within the usual limit. `arguments` may be null.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, LIMIT).await
    }

    /// Runs a command within `limit`.
    pub(super) async fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match locked(&self.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(QmpError::Closed),
        };
        let exchange = async {
            let mut line = request(id, command, arguments).to_string();
            line.push('\n');
            self.writer.lock().await.write_all(line.as_bytes()).await.map_err(|_| QmpError::Closed)?;
            match answer.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(text)) => Err(QmpError::Refused { command: command.to_owned(), text }),
                Err(_) => Err(QmpError::Closed),
            }
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| {
            if let Some(waiting) = locked(&self.waiting).as_mut() {
                waiting.remove(&id);
            }
            Err(QmpError::Timeout { command: command.to_owned(), limit })
        })
    }

    /// The run state: `running`, `paused`, `shutdown`, `prelaunch` …
    pub(super) async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", Value::Null).await?;
        let status = answer.get("status").and_then(Value::as_str);
        status.map(str::to_owned).ok_or_else(|| QmpError::Protocol(answer.to_string()))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(id: u64, command: &str, arguments: Value) -> Value {
    let mut request = json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        request["arguments"] = arguments;
    }
    request
}

/// Sorts what arrives, until the connection ends.
async fn read(mut lines: Lines<BufReader<OwnedReadHalf>>, waiting: Waiting) {
    while let Ok(Some(line)) = lines.next_line().await {
        // A line that is no JSON belongs to no command: whoever waits for an answer times out with its command's name.
        let Ok(mut message) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(id) = message.get("id").and_then(Value::as_u64) else { continue };
        let Some(sender) = locked(&waiting).as_mut().and_then(|w| w.remove(&id)) else { continue };
        let answer = match message.get("error") {
            None => Ok(message.get_mut("return").map(Value::take).unwrap_or_default()),
            Some(error) => Err(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned()),
        };
        let _ = sender.send(answer);
    }
    // Drops the senders: everyone who still waits hears `Closed`.
    locked(&waiting).take();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{net::UnixListener, task::JoinHandle};

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}"#;

    /// A QEMU of a few lines: answers each request with what `script` makes of it.
    fn fake(
        script: impl Fn(&Value) -> Vec<String> + Send + 'static,
    ) -> (tempfile::TempDir, std::path::PathBuf, JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let request: Value = serde_json::from_str(&line).unwrap();
                let answers = if request["execute"] == "qmp_capabilities" {
                    vec![json!({"return": {}, "id": request["id"]}).to_string()]
                } else {
                    script(&request)
                };
                for answer in answers {
                    if answer == "hang up" {
                        return;
                    }
                    writer.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
                }
            }
        });
        (dir, path, task)
    }

    async fn client(path: &Path) -> Qmp {
        Qmp::connect(path, Duration::from_secs(10)).await.unwrap()
    }

    #[tokio::test]
    async fn answers_find_their_command_between_events_and_rubbish() {
        let held = Mutex::new(None);
        let (_dir, path, _task) = fake(move |request| {
            // Answers come in the other order, with an event and a line of rubbish between them.
            let first = held.lock().unwrap().take();
            match first {
                None => {
                    *held.lock().unwrap() = Some(request["id"].clone());
                    vec![]
                }
                Some(first) => vec![
                    json!({"return": "second", "id": request["id"]}).to_string(),
                    "rubbish".into(),
                    json!({"event": "RESET", "data": {"guest": true}, "timestamp": {"seconds": 1, "microseconds": 2}})
                        .to_string(),
                    json!({"return": "first", "id": first}).to_string(),
                ],
            }
        });
        let qmp = client(&path).await;
        let (first, second) = tokio::join!(qmp.execute("one", Value::Null), qmp.execute("two", json!({"x": 1})));
        assert_eq!((first.unwrap(), second.unwrap()), (json!("first"), json!("second")));
    }

    #[tokio::test]
    async fn a_refusal_carries_the_words_of_qemu() {
        let (_dir, path, _task) = fake(|request| {
            vec![
                json!({"error": {"class": "GenericError", "desc": "Device 'x' not found"}, "id": request["id"]})
                    .to_string(),
            ]
        });
        let error = client(&path).await.execute("device_del", json!({"id": "x"})).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused device_del: Device 'x' not found");
    }

    #[tokio::test]
    async fn a_silent_command_times_out_and_the_next_one_works() {
        let (_dir, path, _task) = fake(|request| match request["execute"].as_str() {
            Some("query-status") => vec![json!({"return": {"status": "running"}, "id": request["id"]}).to_string()],
            _ => vec![],
        });
        let qmp = client(&path).await;
        let error = qmp.execute_within("silent", Value::Null, Duration::from_millis(30)).await.unwrap_err();
        assert!(matches!(&error, QmpError::Timeout { command, .. } if command == "silent"), "{error}");
        assert_eq!(qmp.status().await.unwrap(), "running");
    }

    #[tokio::test]
    async fn the_end_of_qemu_ends_every_wait() {
        let (_dir, path, _task) = fake(|_| vec!["hang up".into()]);
        let qmp = client(&path).await;
        assert!(matches!(qmp.execute("quit", Value::Null).await.unwrap_err(), QmpError::Closed));
        assert!(matches!(qmp.execute("quit", Value::Null).await.unwrap_err(), QmpError::Closed));
    }

    #[tokio::test]
    async fn strangers_on_the_socket_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        assert!(matches!(Qmp::connect(&path, LIMIT).await.unwrap_err(), QmpError::Connect(_)));
        let listener = UnixListener::bind(&path).unwrap();
        let stranger = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        };
        let (error, ()) = tokio::join!(Qmp::connect(&path, LIMIT), stranger);
        assert!(matches!(error.unwrap_err(), QmpError::Protocol(text) if text.starts_with("SSH")));
    }
}
