//! `docker cp`: files of a container as tar streams, with Docker's word on what the path is.

use super::{
    super::{
        body::{Body, empty, streamed},
        fault::{Answer, Fault},
        server::Ask,
        words::moment,
    },
    find,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyStream;
use serde_json::{Value, json};
use std::io;
use tar::{EntryType, Header};
use yun_types::NameOrId;

/// Where the word on the path stands.
const STAT: &str = "x-docker-container-path-stat";
/// A tar is made of these.
const BLOCK: usize = 512;
/// Go's bits for directories and links, beside those of permissions.
const DIRECTORY: u64 = 1 << 31;
const LINK: u64 = 1 << 27;

/// What a path is, with the beginning of its archive and the rest.
struct Opened {
    stat: Value,
    begin: Bytes,
    rest: BoxStream<'static, io::Result<Bytes>>,
}

async fn open(ask: &Ask, text: &str, path: &str) -> Answer<Opened> {
    let instance = find(ask, text).await?;
    let request = ask.cloud.client.instance_files_read().project(ask.cloud.project.clone());
    let request = request.instance(NameOrId::Id(instance.metadata.id)).path(path.to_owned());
    let body = request.send().await.map_err(|error| match Fault::from(error) {
        fault if fault.status == StatusCode::NOT_FOUND => {
            Fault::missing(format!("Could not find the file {path} in container {text}"))
        }
        fault => fault,
    })?;
    let mut rest = body.into_inner().into_inner().map_err(io::Error::other).boxed();
    let mut begin = BytesMut::new();
    let stat = loop {
        if let Some(stat) = first(&begin) {
            break stat;
        }
        match rest.next().await {
            Some(Ok(piece)) => begin.extend_from_slice(&piece),
            Some(Err(error)) => return Err(Fault::broken(format!("cannot read {path} in container {text}: {error}"))),
            None => return Err(Fault::broken(format!("{path} in container {text} came as an archive of nothing"))),
        }
    };
    Ok(Opened { stat, begin: begin.freeze(), rest })
}

/// Sends files, or with HEAD only what the path is.
pub(crate) async fn read(ask: Ask, text: &str, head: bool) -> Answer<Response<Body>> {
    let path = path(&ask)?;
    let Opened { stat, begin, rest } = open(&ask, text, &path).await?;
    let mut response = if head {
        empty(StatusCode::OK)
    } else {
        streamed("application/x-tar", stream::once(async move { Ok(begin) }).chain(rest))
    };
    let said = HeaderValue::from_str(&STANDARD.encode(stat.to_string()))
        .map_err(|e| Fault::broken(format!("cannot say what {path} is: {e}")))?;
    response.headers_mut().insert(STAT, said);
    Ok(response)
}

fn path(ask: &Ask) -> Answer<String> {
    let path = ask.query.get("path").ok_or_else(|| Fault::bad("missing path: name one inside the container"))?;
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// What the first entry of a tar is; `None` while not enough of it is there.
fn first(bytes: &[u8]) -> Option<Value> {
    let mut at = 0;
    loop {
        let block = bytes.get(at..at + BLOCK)?;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let (kind, size) = (header.entry_type(), header.entry_size().unwrap_or(0));
        at += BLOCK;
        if matches!(
            kind,
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
        ) {
            at += usize::try_from(size).ok()?.next_multiple_of(BLOCK);
            continue;
        }
        let name = header.path().map(|p| p.to_string_lossy().trim_end_matches('/').to_owned()).unwrap_or_default();
        let link = header.link_name().ok().flatten().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let bits = match kind {
            EntryType::Directory => DIRECTORY,
            EntryType::Symlink => LINK,
            _ => 0,
        };
        let changed = i64::try_from(header.mtime().unwrap_or(0)).ok().and_then(|t| DateTime::from_timestamp(t, 0));
        return Some(json!({
            "name": name.rsplit('/').next().unwrap_or_default(),
            "size": size,
            "mode": u64::from(header.mode().unwrap_or(0) & 0o777) | bits,
            "mtime": moment(changed),
            "linkTarget": if kind == EntryType::Symlink { link } else { String::new() },
        }));
    }
}

/// Unpacks files into a directory.
pub(crate) async fn write(ask: Ask, text: &str) -> Answer<Response<Body>> {
    let path = path(&ask)?;
    // The cloud would make a directory of this name; Docker does not.
    let there = open(&ask, text, &path).await?.stat;
    if there["mode"].as_u64().is_none_or(|mode| mode & DIRECTORY == 0) {
        return Err(Fault::bad(format!("extraction point {path} in container {text} is not a directory")));
    }
    let instance = find(&ask, text).await?;
    let Ask { cloud, body, .. } = ask;
    let pieces = BodyStream::new(body)
        .map_err(io::Error::other)
        .try_filter_map(|frame| async move { Ok::<Option<Bytes>, io::Error>(frame.into_data().ok()) });
    let request = cloud.client.instance_files_write().project(cloud.project.clone());
    let request = request.instance(NameOrId::Id(instance.metadata.id)).path(path.clone());
    request.body(reqwest::Body::wrap_stream(pieces)).send().await.map_err(|error| match Fault::from(error) {
        fault if fault.status == StatusCode::NOT_FOUND => {
            Fault::missing(format!("Could not find the file {path} in container {text}"))
        }
        fault => fault,
    })?;
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: EntryType, mode: u32) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_first_entry_says_what_the_path_is() {
        let directory = entry("etc/", EntryType::Directory, 0o755);
        assert_eq!(first(&directory[..100]), None);
        let stat = first(&directory).unwrap();
        assert_eq!((&stat["name"], &stat["mode"]), (&json!("etc"), &json!(DIRECTORY | 0o755)));
        let long = entry(&"x".repeat(150), EntryType::Regular, 0o644);
        assert_eq!(first(&long).unwrap()["mode"], 0o644);
        assert_eq!(first(&long).unwrap()["mtime"], "2023-11-14T22:13:20.000000000Z");
    }
}
