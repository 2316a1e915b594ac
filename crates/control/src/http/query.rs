//! Queries that hold more than words: what to run, which lines, which bytes.

use crate::{core::Control, error::Refusal};
use bytes::Bytes;
use dropshot::StreamingBody;
use futures::{StreamExt, stream::BoxStream};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use yun_api::cloud::{AttachQuery, ExecQuery, LogQuery, LogRecord};
use yun_engine::{
    clock::{Clock, within},
    session::{AttachRequest, ExecRequest, LogLine, LogRequest, LogStream, WindowSize},
};

/// How long an upload may stand still.
const STILL: Duration = Duration::from_secs(60);
/// How long what nobody wants of an upload is read all the same.
const LINGER: Duration = Duration::from_secs(20);

/// What to run, from its query.
pub(super) fn exec_request(query: ExecQuery) -> Result<ExecRequest, Refusal> {
    let command = list("command", &query.command, "[\"ls\",\"-l\"]")?;
    if command.is_empty() {
        return Err(Refusal::bad_request(
            "BadQuery",
            "command names no program: write a JSON list, as in [\"ls\",\"-l\"]",
        ));
    }
    let env = query.env.map_or_else(|| Ok(Vec::new()), |text| list("env", &text, "[\"A=1\"]"))?;
    let terminal = query.terminal.as_deref().map(window).transpose()?;
    Ok(ExecRequest { command, env, user: query.user, workdir: query.workdir, terminal })
}

/// How to attach, from its query.
pub(super) fn attach_request(query: &AttachQuery) -> Result<AttachRequest, Refusal> {
    let terminal = query.terminal.as_deref().map(window).transpose()?;
    let (stdin, wait) = (query.stdin.unwrap_or_default(), query.wait.unwrap_or_default());
    Ok(AttachRequest { stdin, wait, terminal })
}

fn list(field: &str, text: &str, example: &str) -> Result<Vec<String>, Refusal> {
    // The text itself may hold secrets: it is not repeated.
    serde_json::from_str(text).map_err(|e| {
        Refusal::bad_request("BadQuery", format!("{field} is no JSON list of texts ({e}): write it as in {example}"))
    })
}

fn window(text: &str) -> Result<WindowSize, Refusal> {
    let size = text
        .split_once('x')
        .and_then(|(columns, rows)| Some(WindowSize { columns: columns.parse().ok()?, rows: rows.parse().ok()? }));
    size.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Refusal::bad_request("BadQuery", format!("terminal {shown:?} is no size: write columns and rows, as in 80x24"))
    })
}

/// Which lines of a log, from their query.
pub(super) fn log_request(query: &LogQuery) -> LogRequest {
    LogRequest { tail: query.tail, since: query.since, follow: query.follow.unwrap_or_default() }
}

/// A line of a log, as the API shows it.
pub(super) fn log_record(line: &LogLine) -> LogRecord {
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Console => "console",
    };
    LogRecord { at: line.at, stream: stream.to_owned(), text: String::from_utf8_lossy(&line.text).into_owned() }
}

type Chunks = Pin<Box<dyn futures::Stream<Item = Result<Bytes, dropshot::HttpError>> + Send>>;

/// What is left of an upload when nobody reads it any more.
#[derive(Clone)]
pub(super) struct Rest {
    clock: Arc<dyn Clock>,
    chunks: Arc<Mutex<Option<Chunks>>>,
}

impl Rest {
    /// Reads the rest and throws it away, for a while: a client that still sends would meet a closed connection instead of the answer.
    pub(super) async fn pass(self) {
        let Some(mut chunks) = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let all = async { while let Some(Ok(_)) = chunks.next().await {} };
        let _ = within(&*self.clock, LINGER, all).await;
    }
}

/// The bytes of an upload. They end with an error if the client stands still for too long: nobody must hold the place for ever.
pub(super) fn upload(control: &Arc<Control>, body: StreamingBody) -> (BoxStream<'static, io::Result<Bytes>>, Rest) {
    let clock = Arc::clone(&control.clock);
    let chunks: Chunks = Box::pin(body.into_stream());
    let rest = Rest { clock: Arc::clone(&clock), chunks: Arc::new(Mutex::new(Some(chunks))) };
    let kept = Arc::clone(&rest.chunks);
    let chunks = futures::stream::unfold(Some(kept), move |kept| {
        let clock = Arc::clone(&clock);
        async move {
            let kept = kept?;
            let next = std::future::poll_fn(|cx| match &mut *kept.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(chunks) => chunks.poll_next_unpin(cx),
                None => std::task::Poll::Ready(None),
            });
            match within(&*clock, STILL, next).await {
                Some(Some(Ok(bytes))) => Some((Ok(bytes), Some(kept))),
                Some(Some(Err(e))) => Some((Err(io::Error::other(e.external_message)), None)),
                Some(None) => None,
                None => {
                    let text = format!("the upload stood still for {} seconds: send it again", STILL.as_secs());
                    Some((Err(io::Error::new(io::ErrorKind::TimedOut, text)), None))
                }
            }
        }
    });
    (chunks.boxed(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_list_and_a_window_is_a_size() {
        let query = |command: &str, terminal: &str| ExecQuery {
            command: command.into(),
            terminal: Some(terminal.into()),
            ..ExecQuery::default()
        };
        let request = exec_request(query("[\"sh\"]", "80x24")).unwrap();
        assert_eq!(
            (request.command, request.terminal),
            (vec!["sh".to_owned()], Some(WindowSize { columns: 80, rows: 24 }))
        );
        assert!(exec_request(query("sh", "80x24")).unwrap_err().message.contains("[\"ls\",\"-l\"]"));
        assert!(exec_request(query("[]", "80x24")).unwrap_err().message.contains("names no program"));
        for bad in ["80", "x", "80x", "70000x24", "80x-1"] {
            assert!(exec_request(query("[\"sh\"]", bad)).unwrap_err().message.contains("80x24"), "{bad}");
        }
    }
}
