//! `docker logs`.

use super::{
    super::{
        body::{Body, streamed},
        cloud::{Cloud, lines},
        fault::{Answer, Fault},
        server::Ask,
        stream::{FRAMED, RAW, STDERR, STDOUT, frame},
        words::{moment, parse_moment},
    },
    find,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future};
use http::Response;
use std::io;
use uuid::Uuid;
use yun_api::cloud::LogRecord;
use yun_types::{NameOrId, Timestamp};

/// Which lines, and in which form.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) timestamps: bool,
    pub(super) follow: bool,
    pub(super) tail: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) tty: bool,
}

/// Sends what a container wrote.
pub(crate) async fn logs(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let query = &ask.query;
    let (stdout, stderr) = (query.on("stdout"), query.on("stderr"));
    if !stdout && !stderr {
        return Err(Fault::bad("Bad parameters: you must choose at least one stream"));
    }
    let at = |word: &str| match query.get(word) {
        None | Some("0") => Ok(None),
        Some(text) => {
            parse_moment(text).map(Some).ok_or_else(|| Fault::bad(format!("invalid value for \"{word}\": {text}")))
        }
    };
    let tail = match query.get("tail") {
        None | Some("all" | "-1") => None,
        Some(text) => Some(
            text.parse().map_err(|_| Fault::bad(format!("invalid value for tail: {text}: use a number, or all")))?,
        ),
    };
    let mut wanted = Wanted {
        stdout,
        stderr,
        timestamps: query.on("timestamps"),
        follow: query.on("follow"),
        tail,
        since: at("since")?,
        until: at("until")?,
        tty: false,
    };
    let instance = find(&ask, text).await?;
    wanted.tty = instance.spec.container.tty;
    let kind = if wanted.tty { RAW } else { FRAMED };
    if !super::state::Status::of(&instance).live()
        && instance.status.started.is_none()
        && instance.status.exit.is_none()
    {
        // Nothing has been written yet, and nothing will be before somebody starts it.
        return Ok(streamed(kind, futures::stream::empty()));
    }
    Ok(streamed(kind, pieces(&ask.cloud, instance.metadata.id, wanted).await?))
}

/// What a container wrote, in the client's form.
pub(super) async fn pieces(
    cloud: &Cloud,
    id: Uuid,
    wanted: Wanted,
) -> Answer<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
    let mut request =
        cloud.client.instance_logs().project(cloud.project.clone()).instance(NameOrId::Id(id)).follow(wanted.follow);
    if let Some(tail) = wanted.tail {
        request = request.tail(tail);
    }
    if let Some(since) = wanted.since {
        request = request.since(since);
    }
    let body = request.send().await?.into_inner();
    let until = wanted.until;
    let on_time = move |record: &io::Result<LogRecord>| {
        let late = record.as_ref().is_ok_and(|r| r.at.is_some_and(|at| until.is_some_and(|until| at > until)));
        future::ready(!late)
    };
    Ok(lines::<LogRecord>(body).take_while(on_time).filter_map(move |record| {
        future::ready(match record {
            Ok(record) => form(&wanted, &record).map(Ok),
            Err(error) => Some(Err(error)),
        })
    }))
}

fn form(wanted: &Wanted, record: &LogRecord) -> Option<Bytes> {
    let (number, asked) = if record.stream == "stderr" { (STDERR, wanted.stderr) } else { (STDOUT, wanted.stdout) };
    if !asked {
        return None;
    }
    let at = if wanted.timestamps { format!("{} ", moment(record.at)) } else { String::new() };
    let end = if wanted.tty { "\r\n" } else { "\n" };
    let text = format!("{at}{}{end}", record.text.trim_end_matches('\r'));
    Some(if wanted.tty { text.into() } else { frame(number, text.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_framed_by_their_stream() {
        let record = LogRecord { at: None, stream: "stderr".into(), text: "no\r".into() };
        let all = Wanted { stdout: true, stderr: true, ..Wanted::default() };
        assert_eq!(form(&all, &record).unwrap(), &b"\x02\0\0\0\0\0\0\x03no\n"[..]);
        assert_eq!(
            form(&Wanted { tty: true, timestamps: true, ..all.clone() }, &record).unwrap(),
            "0001-01-01T00:00:00Z no\r\n"
        );
        assert_eq!(form(&Wanted { stderr: false, ..all }, &record), None);
    }
}
