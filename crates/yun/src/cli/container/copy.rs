//! `yun cp`: files into an instance and out of it, as tar streams.

use super::{
    super::{
        Code,
        connect::{Cloud, Explained},
    },
    args::CopyArgs,
};
use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt;
use std::{
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use yun_types::NameOrId;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    /// Standard input or output, which carries a tar stream.
    Stream,
    There(String, String),
}

/// `NAME:PATH`, a path of this machine, or `-`. A path with a colon in it is written with a slash before that.
fn end(word: &str) -> End {
    match word.split_once(':') {
        _ if word == "-" => End::Stream,
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            End::There(name.to_owned(), path.to_owned())
        }
        _ => End::Here(word.into()),
    }
}

/// Copies.
pub(crate) async fn copy(cloud: &Cloud, args: CopyArgs) -> Result<Code> {
    match (end(&args.from), end(&args.to)) {
        (End::There(name, path), End::Here(to)) => download(cloud, &name, path, Some(to)).await,
        (End::There(name, path), End::Stream) => download(cloud, &name, path, None).await,
        (End::Here(from), End::There(name, path)) => upload(cloud, &name, path, Some(from)).await,
        (End::Stream, End::There(name, path)) => upload(cloud, &name, path, None).await,
        (End::There(..), End::There(..)) => {
            bail!(
                "cannot copy from one instance to another at once: copy to this machine first, as in yun cp {} /tmp/x",
                args.from
            )
        }
        _ => bail!("one end of a copy is in an instance: write it as NAME:PATH, as in yun cp web:/etc/hosts ."),
    }
}

async fn download(cloud: &Cloud, name: &str, path: String, to: Option<PathBuf>) -> Result<Code> {
    let name: NameOrId = name.parse()?;
    let request = cloud.client.instance_files_read().project(cloud.project.clone()).instance(name).path(path);
    let body = request.send().await.map_err(super::super::connect::explain)?.into_inner().into_inner();
    let reader = StreamReader::new(body.map_err(io::Error::other));
    let bridge = SyncIoBridge::new(Box::pin(reader));
    tokio::task::spawn_blocking(move || match to {
        Some(to) => unpack(bridge, &to),
        None => {
            let mut bridge = bridge;
            io::copy(&mut bridge, &mut io::stdout().lock()).context("cannot write the files to standard output")?;
            Ok(())
        }
    })
    .await??;
    Ok(0)
}

/// Unpacks into a directory that is there, or under a new name.
fn unpack(reader: impl Read, to: &Path) -> Result<()> {
    let into = to.is_dir();
    let text = to.to_string_lossy();
    if !into
        && (text.ends_with('/') || !to.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir()))
    {
        bail!(
            "directory {} does not exist: make it first",
            if text.ends_with('/') { to } else { to.parent().unwrap_or(to) }.display()
        );
    }
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    for entry in archive.entries().context("cannot read what came")? {
        let mut entry = entry.context("the files did not come whole")?;
        let name = entry.path()?.into_owned();
        let parts: Vec<_> = name.components().filter(|part| *part != Component::CurDir).collect();
        if !parts.iter().all(|part| matches!(part, Component::Normal(_))) {
            bail!("the server named {}, which is not below what was asked for", name.display());
        }
        let (directory, inner) = if into {
            (to.to_owned(), name.clone())
        } else {
            let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let first = to.file_name().unwrap_or_default();
            // Without the first name: joining nothing would end the path with a slash, which only directories may have.
            (parent.to_owned(), std::iter::once(first).chain(parts.iter().skip(1).map(|p| p.as_os_str())).collect())
        };
        let place = directory.join(&inner);
        if let Some(parent) = place.parent() {
            within(&directory, parent)?;
        }
        if entry.header().entry_type().is_dir() && place.is_dir() {
            continue;
        }
        entry.unpack(&place).with_context(|| format!("cannot write {}", place.display()))?;
    }
    Ok(())
}

/// Refuses a place that links lead out of the directory.
fn within(directory: &Path, place: &Path) -> Result<()> {
    let (top, real) = (directory.canonicalize()?, place.canonicalize()?);
    if !real.starts_with(&top) {
        bail!("{} leads out of {} by a link: nothing is written there", place.display(), directory.display());
    }
    Ok(())
}

async fn upload(cloud: &Cloud, name: &str, path: String, from: Option<PathBuf>) -> Result<Code> {
    let name: NameOrId = name.parse()?;
    let body = match from {
        None => reqwest::Body::wrap_stream(ReaderStream::new(tokio::io::stdin())),
        Some(from) => {
            std::fs::symlink_metadata(&from).with_context(|| format!("cannot read {}", from.display()))?;
            let (writer, reader) = tokio::io::duplex(256 << 10);
            let mut bridge = SyncIoBridge::new(writer);
            tokio::task::spawn_blocking(move || {
                if let Err(e) = pack(&mut bridge, &from) {
                    // The archive ends early, which the server notices.
                    eprintln!("yun: cannot read {}: {e}", from.display());
                }
                drop(bridge.shutdown());
            });
            reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, 256 << 10))
        }
    };
    let request = cloud.client.instance_files_write().project(cloud.project.clone()).instance(name).path(path);
    request.body(body).send().await.explained()?;
    Ok(0)
}

fn pack(writer: &mut impl Write, from: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    let from = if from.file_name().is_none() { from.canonicalize()? } else { from.to_owned() };
    let name = from.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    if from.is_dir() {
        archive.append_dir_all(&name, &from)?;
    } else {
        archive.append_path_with_name(&from, &name)?;
    }
    archive.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(end("web:/etc/hosts"), End::There("web".into(), "/etc/hosts".into()));
        for here in ["hosts", "./a:b", "/a:b", "../x", ":x"] {
            assert_eq!(end(here), End::Here(here.into()));
        }
        assert_eq!(end("-"), End::Stream);
    }

    #[test]
    fn what_comes_stays_below_where_it_should_go() {
        let here = tempfile::tempdir().unwrap();
        let top = here.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(here.path(), top.join("out")).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "out/x", &b"x"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        assert!(unpack(&bytes[..], &top).unwrap_err().to_string().contains("leads out"));
        assert!(!here.path().join("x").exists());
    }
}
