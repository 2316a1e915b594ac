//! Giving images out again: container images as one archive that is both an OCI layout and what `docker save` writes, disks as qcow2 or raw.
//!
//! A layer's tar is made anew from its files, so it has a hash of its own, and the same files always give the same one. What an overlay
//! marks as deleted is written as OCI has it (`.wh.NAME`, `.wh..wh..opq`; image spec, "Whiteouts").

use super::{
    codec::Hashing,
    job::Job,
    manifest::{Manifest, digest_of},
    staging::Staging,
    store::{LAYER_ROOT, Store},
    tool::Tool,
    tree::attributes,
};
use bytes::Bytes as Chunk;
use futures::{StreamExt, stream::BoxStream};
use serde_json::json;
use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tar::{Builder, EntryType, Header};
use tokio_util::io::ReaderStream;
use yun_drivers::{DriverError, ExportRequest, Result};
use yun_types::{Digest, ExportFormat, InstanceKind};

const LIMIT: Duration = Duration::from_secs(3600);
const OPAQUE: &str = "trusted.overlay.opaque";
const PIECE: usize = 256 << 10;

/// The bytes of an image in a form that other programs read.
pub(super) async fn export(
    digest: &Digest,
    request: &ExportRequest,
    store: &Store,
    staging: Arc<Staging>,
    job: &Job,
) -> Result<BoxStream<'static, io::Result<Chunk>>> {
    let (here, wanted) = (store.clone(), digest.clone());
    let manifest = job
        .blocking(move |_| {
            let manifest = here.read(&wanted)?;
            here.parts_are_here(&manifest)?;
            Ok(manifest)
        })
        .await?;
    match (manifest.kind, request.format) {
        (InstanceKind::Container, None | Some(ExportFormat::OciArchive | ExportFormat::DockerArchive)) => {
            archive(manifest, request.name.clone(), store.clone(), staging, job).await
        }
        (InstanceKind::Vm, None | Some(ExportFormat::Qcow2 | ExportFormat::Raw)) => {
            let raw = request.format == Some(ExportFormat::Raw);
            disk_of(&manifest, raw, store, staging, job).await
        }
        (kind, Some(format)) => {
            let right = match kind {
                InstanceKind::Container => "oci-archive or docker-archive",
                InstanceKind::Vm => "qcow2 or raw",
            };
            let message = format!(
                "image {} is for a {kind}, and {format} is not a form of those; choose {right}",
                digest.short()
            );
            Err(DriverError::bad_request("WrongFormat", message))
        }
    }
}

async fn disk_of(
    manifest: &Manifest,
    raw: bool,
    store: &Store,
    staging: Arc<Staging>,
    job: &Job,
) -> Result<BoxStream<'static, io::Result<Chunk>>> {
    let Some(blob) = &manifest.disk else {
        let message = "the image has no disk: its kernel brings everything, and other programs have no form for that";
        return Err(DriverError::bad_request("NoDisk", message));
    };
    let mut path = store.blob(&blob.digest);
    if raw {
        job.room(staging.path(), manifest.min_disk.0, "make a raw disk")?;
        let target = staging.join("disk.raw");
        let tool = Tool::new("qemu-img", "qemu-utils", LIMIT).args(["convert", "-q", "-f", "qcow2", "-O", "raw"]);
        tool.arg(&path).arg(&target).run(job).await?;
        path = target;
    }
    let failed = |e| DriverError::io(format!("read {}", path.display()), e);
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    // The staging directory stays until the last byte is read.
    Ok(ReaderStream::with_capacity(file, PIECE).map(move |piece| (piece, &staging).0).boxed())
}

/// A file of the archive: its name, and where its bytes are.
enum Part {
    Text(String, Vec<u8>),
    File(String, PathBuf),
}

async fn archive(
    manifest: Manifest,
    name: Option<String>,
    store: Store,
    staging: Arc<Staging>,
    job: &Job,
) -> Result<BoxStream<'static, io::Result<Chunk>>> {
    let size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    job.room(staging.path(), size, "pack the image")?;
    let directory = staging.clone();
    let parts = job.blocking(move |job| parts(&manifest, name.as_deref(), &store, &directory, job)).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { sender, piece: Vec::with_capacity(PIECE) };
        let written = write(parts, &mut pipe);
        if let Err(e) = written.and_then(|()| pipe.flush()) {
            // Nobody listens any more if the request was given up.
            let _ = pipe.sender.blocking_send(Err(e));
        }
        drop(staging);
    });
    Ok(futures::stream::unfold(receiver, async |mut from| Some((from.recv().await?, from))).boxed())
}

/// Writes to whom reads the stream.
struct Pipe {
    sender: tokio::sync::mpsc::Sender<io::Result<Chunk>>,
    piece: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn write(parts: Vec<Part>, pipe: &mut Pipe) -> io::Result<()> {
    let mut tar = Builder::new(pipe);
    let header = |size: u64| {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    for part in parts {
        match part {
            Part::Text(name, text) => tar.append_data(&mut header(text.len() as u64), name, &text[..])?,
            Part::File(name, path) => {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                tar.append_data(&mut header(size), name, file.take(size))?;
            }
        }
    }
    tar.finish()
}

/// Makes the layers' tars, and what names them.
fn parts(manifest: &Manifest, name: Option<&str>, store: &Store, staging: &Staging, job: &Job) -> Result<Vec<Part>> {
    let mut layers = Vec::new();
    for (at, layer) in manifest.layers.iter().enumerate() {
        job.work.report(None, format!("packing layer {} of {}", at + 1, manifest.layers.len()));
        let path = staging.join(&format!("export-{at}.tar"));
        let failed = |e| DriverError::io("pack a layer", e);
        let out = io::BufWriter::new(File::create(&path).map_err(failed)?);
        pack(&store.layer(&layer.diff_id).join(LAYER_ROOT), out, job)?;
        let mut hashing = Hashing::new(File::open(&path).map_err(failed)?);
        let size = io::copy(&mut hashing, &mut io::sink()).map_err(failed)?;
        layers.push((hashing.digest(), size, path));
    }
    let process = manifest.config.clone().unwrap_or_default();
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let diff_ids: Vec<String> = layers.iter().map(|(digest, ..)| digest.to_string()).collect();
    let config = json!({
        "architecture": manifest.arch.to_string(), "os": "linux",
        "config": {
            "Entrypoint": some(&process.entrypoint), "Cmd": some(&process.command), "Env": some(&process.env), "User": process.user.unwrap_or_default(),
            "WorkingDir": process.workdir.unwrap_or_default(), "StopSignal": process.stop_signal, "Labels": process.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let named = |kind: &str, digest: &Digest, size: u64| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest.to_string(), "size": size });
    let config_digest = digest_of(&config);
    let described: Vec<_> = layers.iter().map(|(digest, size, _)| named("layer.v1.tar", digest, *size)).collect();
    let image = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": named("config.v1+json", &config_digest, config.len() as u64), "layers": described,
    });
    let image = image.to_string().into_bytes();
    let image_digest = digest_of(&image);
    let mut entry = named("manifest.v1+json", &image_digest, image.len() as u64);
    if let Some(name) = name {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    let tags: Vec<String> = name.map(|name| format!("{name}:latest")).into_iter().collect();
    let files: Vec<String> = layers.iter().map(|(digest, ..)| blob(digest)).collect();
    let saved = json!([{ "Config": blob(&config_digest), "RepoTags": tags, "Layers": files }]);
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] });
    let mut parts = vec![
        Part::Text("oci-layout".into(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
        Part::Text("index.json".into(), index.to_string().into_bytes()),
        Part::Text("manifest.json".into(), saved.to_string().into_bytes()),
        Part::Text(blob(&image_digest), image),
        Part::Text(blob(&config_digest), config),
    ];
    let mut seen = std::collections::HashSet::new();
    parts.extend(
        layers
            .into_iter()
            .filter(|(digest, ..)| seen.insert(digest.clone()))
            .map(|(digest, _, path)| Part::File(blob(&digest), path)),
    );
    Ok(parts)
}

/// Packs a layer's files, sorted, as an OCI layer.
fn pack(root: &Path, out: impl Write, job: &Job) -> Result<()> {
    let mut tar = Builder::new(out);
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        job.check()?;
        let full = root.join(&path);
        let failed = |e: io::Error| DriverError::io(format!("pack {}", full.display()), e);
        let meta = fs::symlink_metadata(&full).map_err(failed)?;
        entry(&mut tar, &full, &path, &meta, &mut links).map_err(failed)?;
        if meta.is_dir() {
            let names: io::Result<Vec<_>> =
                fs::read_dir(&full).and_then(|d| d.map(|e| e.map(|e| e.file_name())).collect());
            let mut names = names.map_err(failed)?;
            // The stack gives the last one first.
            names.sort_unstable_by(|a, b| b.cmp(a));
            open.extend(names.iter().map(|n| path.join(n)));
        }
    }
    let finished = tar.into_inner().and_then(|mut out| out.flush());
    finished.map_err(|e| DriverError::io("pack a layer", e))
}

fn entry(
    tar: &mut Builder<impl Write>,
    full: &Path,
    path: &Path,
    meta: &Metadata,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    use nix::sys::stat::{SFlag, major, minor};
    let kind = SFlag::from_bits_truncate(meta.mode() & SFlag::S_IFMT.bits());
    let name = Path::new(".").join(path);
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    if kind == SFlag::S_IFCHR && meta.rdev() == 0 {
        return tar.append_data(&mut header, beside(&name), io::empty());
    }
    if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        return tar.append_link(&mut header, &name, fs::read_link(full)?);
    }
    if !meta.is_dir() && meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            header.set_entry_type(EntryType::Link);
            return tar.append_link(&mut header, &name, first);
        }
        links.insert((meta.dev(), meta.ino()), name.clone());
    }
    let mut opaque = false;
    let mut extended = Vec::new();
    for (key, value) in attributes(full)? {
        opaque |= key.as_bytes() == OPAQUE.as_bytes();
        match key.to_str() {
            // What an overlay notes for itself means nothing elsewhere.
            Some(key) if !key.starts_with("trusted.overlay.") => extended.push((format!("SCHILY.xattr.{key}"), value)),
            _ => {}
        }
    }
    if !extended.is_empty() {
        tar.append_pax_extensions(extended.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    }
    if meta.is_file() {
        header.set_size(meta.len());
        return tar.append_data(&mut header, &name, File::open(full)?.take(meta.len()));
    }
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, name.join(""), io::empty())?;
        if opaque {
            let mut marker = Header::new_gnu();
            marker.set_mode(0o644);
            marker.set_size(0);
            tar.append_data(&mut marker, name.join(".wh..wh..opq"), io::empty())?;
        }
        return Ok(());
    }
    header.set_entry_type(match kind {
        SFlag::S_IFCHR => EntryType::Char,
        SFlag::S_IFBLK => EntryType::Block,
        SFlag::S_IFIFO => EntryType::Fifo,
        // A socket is nothing without its program.
        _ => return Ok(()),
    });
    header.set_device_major(u32::try_from(major(meta.rdev())).unwrap_or(0))?;
    header.set_device_minor(u32::try_from(minor(meta.rdev())).unwrap_or(0))?;
    tar.append_data(&mut header, &name, io::empty())
}

/// What says in a layer that a name of a lower one is gone.
fn beside(name: &Path) -> PathBuf {
    let mut marker = std::ffi::OsString::from(".wh.");
    marker.push(name.file_name().unwrap_or_default());
    name.with_file_name(marker)
}
