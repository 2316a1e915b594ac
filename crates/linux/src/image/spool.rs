//! Bringing the source of an import into staging: an upload, a file of the node, or a URL. Hashed on the way, bounded in size and in
//! silence, and compared with the checksum before anything looks at the content.

use super::{
    fault,
    job::{Job, Meter},
    sniff::HEAD,
    staging::Staging,
};
use bytes::Bytes as Chunk;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use sha2::{Digest as _, Sha256};
use std::{io, path::PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;
use yun_drivers::{DriverError, ErrorKind, ImageSource, Result};
use yun_types::{Bytes, Digest};

/// The source's bytes in staging.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) digest: Digest,
    /// The first bytes, to tell the format from.
    pub(super) head: Vec<u8>,
}

/// How far the spooling goes in percent of the whole import.
pub(super) const SPOOLED: u8 = 60;

/// Bytes on their way, and how many there will be if that is known.
struct Incoming {
    stream: BoxStream<'static, io::Result<Chunk>>,
    total: Option<u64>,
    what: String,
}

/// Brings everything in and compares it with the checksum.
pub(super) async fn spool(
    source: ImageSource,
    checksum: Option<&Digest>,
    staging: &Staging,
    job: &Job,
) -> Result<Spooled> {
    let incoming = open(source, job).await?;
    let what = incoming.what.clone();
    if let Some(total) = incoming.total {
        within_limit(total, job)?;
        job.room(staging.path(), total, "take the image in")?;
    }
    let spooled = write(incoming, staging, job).await?;
    match checksum {
        Some(expected) if *expected != spooled.digest => Err(fault::checksum(&what, expected, &spooled.digest)),
        _ => Ok(spooled),
    }
}

async fn open(source: ImageSource, job: &Job) -> Result<Incoming> {
    match source {
        ImageSource::Upload(stream) => Ok(Incoming { stream, total: None, what: "the upload".into() }),
        ImageSource::File(path) => {
            let what = format!("the file {}", path.display());
            let failed = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => DriverError::bad_request(
                    "SourceNotFound",
                    format!("cannot import {what}: there is no such file on this node"),
                ),
                _ => DriverError::io(format!("read {what}"), e),
            };
            let meta = tokio::fs::metadata(&path).await.map_err(failed)?;
            if !meta.is_file() {
                return Err(DriverError::bad_request(
                    "SourceNotFound",
                    format!("cannot import {}: it is not a plain file", path.display()),
                ));
            }
            let file = tokio::fs::File::open(&path).await.map_err(failed)?;
            let stream = ReaderStream::with_capacity(file, 1 << 18).boxed();
            Ok(Incoming { stream, total: Some(meta.len()), what })
        }
        ImageSource::Url(url) => fetch(&url, job).await,
        // Registries give parts, not one stream.
        ImageSource::Registry(pull) => {
            Err(DriverError::bad_request("BadSource", format!("{} is not one file: it is pulled", pull.reference)))
        }
    }
}

/// Asks for a URL. Only the answer's head is waited for here.
async fn fetch(url: &str, job: &Job) -> Result<Incoming> {
    let parsed = reqwest::Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
    let Some(parsed) = parsed else {
        return Err(DriverError::bad_request(
            "BadUrl",
            format!("cannot import from {url:?}: write an address that begins with http:// or https://"),
        ));
    };
    // Some other part of the program may have chosen a provider before: then that one is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let failed = |e: reqwest::Error| {
        let why = std::iter::successors(std::error::Error::source(&e), |e| e.source())
            .last()
            .map_or(e.to_string(), ToString::to_string);
        let kind = if e.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
        DriverError::new(
            kind,
            "DownloadFailed",
            format!("cannot fetch {url}: {why}; check the address and this node's way to it"),
        )
        .with(e)
    };
    let client = reqwest::Client::builder()
        .connect_timeout(job.limits.stall)
        .read_timeout(job.limits.stall)
        .build()
        .map_err(failed)?;
    job.work.report(None, format!("asking {} for the image", parsed.host_str().unwrap_or("the server")));
    let answer = tokio::select! {
        answer = client.get(parsed).send() => answer.map_err(failed)?,
        () = job.work.cancelled() => return Err(fault::cancelled()),
    };
    let status = answer.status();
    if !status.is_success() {
        let kind = if status.is_server_error() { ErrorKind::Unavailable } else { ErrorKind::BadRequest };
        return Err(DriverError::new(
            kind,
            "DownloadFailed",
            format!("cannot fetch {url}: the server answers {status}"),
        ));
    }
    let total = answer.content_length();
    let stream = answer.bytes_stream().map_err(io::Error::other).boxed();
    Ok(Incoming { stream, total, what: format!("what {url} gives") })
}

async fn write(mut incoming: Incoming, staging: &Staging, job: &Job) -> Result<Spooled> {
    let path = staging.join("source");
    let failed = |e| DriverError::io("write the image to staging", e);
    let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
    let mut meter = Meter::new(job, format!("reading {}", incoming.what), (0, SPOOLED), incoming.total);
    let (mut hasher, mut size, mut next_room) = (Sha256::new(), 0u64, 0u64);
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(job.limits.stall, incoming.stream.next()) => next,
            () = job.work.cancelled() => return Err(fault::cancelled()),
        };
        let chunk = match next {
            Ok(None) => break,
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(e))) => return Err(broken(&incoming.what, size, incoming.total, e)),
            Err(_) => {
                let message = format!(
                    "{} sent nothing for {:?} after {}; try again",
                    incoming.what,
                    job.limits.stall,
                    Bytes(size).human()
                );
                return Err(DriverError::new(ErrorKind::Timeout, "SourceStalled", message));
            }
        };
        size += chunk.len() as u64;
        within_limit(size, job)?;
        if size >= next_room {
            next_room = size + (64 << 20);
            job.room(staging.path(), 0, "take the image in")?;
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(failed)?;
        meter.add(chunk.len())?;
    }
    file.flush().await.map_err(failed)?;
    if let Some(total) = incoming.total.filter(|t| *t != size) {
        return Err(broken(&incoming.what, size, Some(total), io::ErrorKind::UnexpectedEof.into()));
    }
    let head = read_head(&path).await.map_err(failed)?;
    Ok(Spooled { path, size, digest: Digest::from_sha256(hasher.finalize().into()), head })
}

fn broken(what: &str, size: u64, total: Option<u64>, e: io::Error) -> DriverError {
    if matches!(e.kind(), io::ErrorKind::StorageFull) {
        return DriverError::io(format!("read {what}"), e);
    }
    let of = total.map_or(String::new(), |t| format!(" of {}", Bytes(t).human()));
    let why = std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string);
    let message = format!("{what} broke off after {}{of}: {why}; try again", Bytes(size).human());
    DriverError::new(ErrorKind::Damaged, "SourceTruncated", message).with(e)
}

fn within_limit(size: u64, job: &Job) -> Result<()> {
    let most = job.limits.max_image;
    if size > most.0 {
        return Err(fault::too_large(format!(
            "the image is larger than {}, the most that this node takes in",
            most.human()
        )));
    }
    Ok(())
}

async fn read_head(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    tokio::fs::File::open(path).await?.take(HEAD as u64).read_to_end(&mut head).await?;
    Ok(head)
}
