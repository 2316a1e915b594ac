//! Streams for people: logs, events, audit records, background work.

use anyhow::{Result, anyhow};
use futures::{Stream, TryStreamExt};
use serde::de::DeserializeOwned;
use std::io::Write;
use tokio::io::AsyncBufReadExt;
use tokio_util::io::StreamReader;
use yun_api::cloud::LogRecord;
use yun_types::{Event, NameOrId, ObjectKind, Severity};

use super::{
    Code,
    args::{AuditArgs, EventsArgs, Format, LogsArgs},
    connect::{Cloud, Explained, explain},
    instance::ByteLines,
    output, words,
};

/// The lines of an NDJSON stream.
pub(crate) fn lines<T: DeserializeOwned + Send>(body: impl ByteLines) -> impl Stream<Item = Result<T>> + Send {
    let reader = StreamReader::new(body.map_err(std::io::Error::other));
    futures::stream::try_unfold(Box::pin(reader), |mut reader| async move {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader
                .read_until(b'\n', &mut line)
                .await
                .map_err(|e| anyhow!("the stream from the server broke: {e}"))?;
            if read == 0 {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                let item = serde_json::from_slice(&line)
                    .map_err(|e| anyhow!("the server sent a line that is not understood: {e}"))?;
                return Ok(Some((item, reader)));
            }
        }
    })
}

/// Prints what an instance wrote.
pub(crate) async fn logs(cloud: &Cloud, args: LogsArgs) -> Result<Code> {
    let name: NameOrId = args.instance.parse()?;
    let mut request = cloud.client.instance_logs().project(cloud.project.clone()).instance(name).follow(args.follow);
    if let Some(tail) = args.tail {
        request = request.tail(tail);
    }
    if let Some(since) = &args.since {
        request = request.since(words::since(since, output::now())?);
    }
    let body = request.send().await.map_err(explain)?.into_inner();
    let mut records = std::pin::pin!(lines::<LogRecord>(body.into_inner()));
    while let Some(record) = records.try_next().await? {
        print_record(cloud.output, args.timestamps, &record)?;
    }
    Ok(0)
}

fn print_record(format: Format, timestamps: bool, record: &LogRecord) -> Result<()> {
    if format == Format::Json {
        return output::print_line(&serde_json::to_string(record)?);
    }
    let at = record
        .at
        .filter(|_| timestamps)
        .map(|t| format!("{} ", t.format("%Y-%m-%dT%H:%M:%S%.3fZ")))
        .unwrap_or_default();
    if record.stream == "stderr" {
        // As docker and kubectl have it: what was written to standard error arrives there.
        writeln!(std::io::stderr(), "{at}{}", record.text)?;
        return Ok(());
    }
    output::print_line(&format!("{at}{}", record.text))
}

/// Prints what happened.
pub(crate) async fn events(cloud: &Cloud, args: EventsArgs) -> Result<Code> {
    let mut request = cloud.client.event_stream().project(cloud.project.clone()).tail(args.tail).follow(args.follow);
    if let Some(object) = args.object {
        request = request.object(object);
    }
    if let Some(kind) = args.kind {
        let kind: ObjectKind = serde_json::from_value(kind.into())?;
        request = request.kind(kind);
    }
    if args.warnings {
        request = request.severity(Severity::Warning);
    }
    if let Some(reason) = args.reason {
        request = request.reason(reason);
    }
    if let Some(since) = &args.since {
        request = request.since(words::since(since, output::now())?);
    }
    let body = request.send().await.map_err(explain)?.into_inner();
    let mut events = std::pin::pin!(lines::<Event>(body.into_inner()));
    while let Some(event) = events.try_next().await? {
        match cloud.output {
            Format::Json => output::print_line(&serde_json::to_string(&event)?)?,
            Format::Yaml => output::print_line(&serde_yaml_ng::to_string(&[&event])?)?,
            _ => {
                let mark = if event.severity == Severity::Warning { '!' } else { ' ' };
                let at = event.at.format("%Y-%m-%d %H:%M:%S");
                output::print_line(&format!(
                    "{at} {mark} {:24} {:14} {}",
                    event.object.to_string(),
                    event.reason,
                    event.message
                ))?;
            }
        }
    }
    Ok(0)
}

/// Prints who changed what.
pub(crate) async fn audit(cloud: &Cloud, args: AuditArgs) -> Result<Code> {
    let mut request = cloud.client.audit_list().limit(args.tail.clamp(1, 1000));
    if let Some(by) = args.by {
        request = request.by(by);
    }
    if let Some(action) = args.action {
        request = request.action(action);
    }
    if let Some(object) = args.object {
        request = request.object(object);
    }
    if args.refused {
        request = request.refused(true);
    }
    if let Some(since) = &args.since {
        request = request.since(words::since(since, output::now())?);
    }
    let page = request.send().await.explained()?;
    output::list(&page.items, cloud.output, "nothing of that kind was changed")?;
    Ok(0)
}

/// Prints the server's background work.
pub(crate) async fn tasks(cloud: &Cloud) -> Result<Code> {
    let tasks = cloud.client.task_list().send().await.explained()?;
    output::list(&tasks, cloud.output, "no background work")?;
    Ok(0)
}
