//! A node's images in a directory of their own, and tars of any kind.

use bytes::Bytes as Chunk;
use futures::StreamExt;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tar::{EntryType, Header};
use yun_drivers::{DriverError, ImageDriver, ImageSource, ImportOptions};
use yun_engine::work::Followed;
use yun_linux::{
    host::Host,
    image::{ImageLimits, LinuxImages},
};
use yun_types::{Digest, ImageFacts, ImageRecipe, RecipeBase};

/// A node's images in a directory of their own.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: Host,
    pub(crate) images: LinuxImages,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::limited(ImageLimits::default())
    }

    pub(crate) fn limited(limits: ImageLimits) -> Self {
        let dir = tempfile::Builder::new().prefix("yi").tempdir().unwrap();
        let host = Host::open(dir.path()).unwrap();
        let images = LinuxImages::new(&host, limits);
        Self { dir, host, images }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn import(&self, bytes: &[u8]) -> Result<ImageFacts, DriverError> {
        self.import_as(bytes, &ImportOptions::default()).await
    }

    pub(crate) async fn import_as(&self, bytes: &[u8], options: &ImportOptions) -> Result<ImageFacts, DriverError> {
        let chunks: Vec<_> = bytes.chunks(70_000).map(|c| Ok(Chunk::copy_from_slice(c))).collect();
        self.images
            .import(ImageSource::Upload(futures::stream::iter(chunks).boxed()), options, &Followed::default())
            .await
    }

    pub(crate) async fn import_file(&self, path: &Path) -> Result<ImageFacts, DriverError> {
        self.images.import(ImageSource::File(path.to_owned()), &ImportOptions::default(), &Followed::default()).await
    }

    /// Everything that the store holds, by name.
    pub(crate) fn parts(&self) -> Vec<String> {
        let mut parts = vec![];
        for dir in ["blobs/sha256", "layers", "manifests", "staging"] {
            let path = self.host.images().join(dir);
            parts.extend(
                fs::read_dir(path).into_iter().flatten().map(|e| format!("{dir}/{}", e.unwrap().file_name().display())),
            );
        }
        parts.sort();
        parts
    }

    /// The only layer of an image.
    pub(crate) async fn layer(&self, digest: &Digest) -> PathBuf {
        self.images.open(digest).await.unwrap().layers.remove(0)
    }
}

pub(crate) fn recipe(base: RecipeBase) -> ImageRecipe {
    ImageRecipe { base, packages: vec![], suite: None, entrypoint: vec![], command: vec![] }
}

/// Builds a tar entry by entry, also such entries as no honest program writes.
pub(crate) struct Tar(pub(crate) tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(vec![]))
    }
    pub(crate) fn add(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        bytes: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(bytes.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        self.add(EntryType::Regular, name, "", text.as_bytes(), |_| {})
    }
    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", b"", |_| {})
    }
    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, target, b"", |_| {})
    }
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A small root file system.
pub(crate) fn rootfs() -> Vec<u8> {
    Tar::new()
        .dir("bin")
        .file("bin/sh", "a shell")
        .dir("etc")
        .file("etc/os-release", "PRETTY_NAME=\"Test 1\"\n")
        .bytes()
}

/// Runs a program that a test needs; `None`, said aloud, if it is not installed.
pub(crate) fn run(program: &str, args: &[&str]) -> Option<std::process::Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(e) => {
            eprintln!("SKIPPED: {program} does not run here: {e}");
            None
        }
    }
}

/// Runs a program that must succeed, if it is installed.
#[must_use]
pub(crate) fn made(program: &str, args: &[&str]) -> bool {
    let Some(output) = run(program, args) else { return false };
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    true
}
