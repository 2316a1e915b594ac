//! Images for real: made with the programs that people make them with, imported, damaged, shared, removed, built.

use bytes::Bytes as Chunk;
use futures::StreamExt;
use std::{
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tar::{EntryType, Header};
use yun_drivers::{DriverError, ErrorKind, ImageDriver, ImageSource, ImportOptions};
use yun_engine::work::Followed;
use yun_linux::{
    host::Host,
    image::{ImageLimits, LinuxImages},
};
use yun_types::{Arch, Bytes, ContainerConfig, Digest, ImageFacts, ImageFormat, ImageRecipe, InstanceKind, RecipeBase};

/// A node's images in a directory of their own.
struct Node {
    dir: tempfile::TempDir,
    host: Host,
    images: LinuxImages,
}

impl Node {
    fn new() -> Self {
        Self::limited(ImageLimits::default())
    }

    fn limited(limits: ImageLimits) -> Self {
        let dir = tempfile::Builder::new().prefix("yi").tempdir().unwrap();
        let host = Host::open(dir.path()).unwrap();
        let images = LinuxImages::new(&host, limits);
        Self { dir, host, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn import(&self, bytes: &[u8]) -> Result<ImageFacts, DriverError> {
        self.import_as(bytes, &ImportOptions::default()).await
    }

    async fn import_as(&self, bytes: &[u8], options: &ImportOptions) -> Result<ImageFacts, DriverError> {
        let chunks: Vec<_> = bytes.chunks(70_000).map(|c| Ok(Chunk::copy_from_slice(c))).collect();
        self.images.import(ImageSource::Upload(futures::stream::iter(chunks).boxed()), options, &Followed::default()).await
    }

    async fn import_file(&self, path: &Path) -> Result<ImageFacts, DriverError> {
        self.images.import(ImageSource::File(path.to_owned()), &ImportOptions::default(), &Followed::default()).await
    }

    /// Everything that the store holds, by name.
    fn parts(&self) -> Vec<String> {
        let mut parts = vec![];
        for dir in ["blobs/sha256", "layers", "manifests", "staging"] {
            let path = self.host.images().join(dir);
            parts.extend(fs::read_dir(path).into_iter().flatten().map(|e| format!("{dir}/{}", e.unwrap().file_name().display())));
        }
        parts.sort();
        parts
    }

    /// The only layer of an image.
    async fn layer(&self, digest: &Digest) -> PathBuf {
        self.images.open(digest).await.unwrap().layers.remove(0)
    }
}

fn recipe(base: RecipeBase) -> ImageRecipe {
    ImageRecipe { base, packages: vec![], suite: None, entrypoint: vec![], command: vec![] }
}

/// Builds a tar entry by entry, also such entries as no honest program writes.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(vec![]))
    }
    fn add(mut self, kind: EntryType, name: &str, link: &str, bytes: &[u8], change: impl FnOnce(&mut Header)) -> Self {
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
    fn file(self, name: &str, text: &str) -> Self {
        self.add(EntryType::Regular, name, "", text.as_bytes(), |_| {})
    }
    fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", b"", |_| {})
    }
    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, target, b"", |_| {})
    }
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A small root file system.
fn rootfs() -> Vec<u8> {
    Tar::new().dir("bin").file("bin/sh", "a shell").dir("etc").file("etc/os-release", "PRETTY_NAME=\"Test 1\"\n").bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_file_system_keeps_owners_modes_links_times_and_capabilities() {
    let node = Node::new();
    let mut tar = Tar::new()
        .add(EntryType::Directory, "./", "", b"", |h| h.set_mode(0o700))
        .add(EntryType::Regular, "usr/bin/sudo", "", b"sudo", |h| {
            h.set_mode(0o4755);
            h.set_uid(7);
            h.set_gid(8);
        })
        .symlink("bin", "usr/bin")
        .file("bin/through-the-link", "x")
        .add(EntryType::Link, "usr/bin/sudoedit", "usr/bin/sudo", b"", |_| {})
        .add(EntryType::Fifo, "run/pipe", "", b"", |h| h.set_mode(0o600))
        .add(EntryType::Char, "dev/null", "", b"", |h| h.set_device_major(1).unwrap())
        .0;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0];
    tar.append_pax_extensions([
        ("SCHILY.xattr.security.capability", &capability[..]),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    ])
    .unwrap();
    let bytes = Tar(tar).file("usr/bin/ping", "ping").bytes();

    let facts = node.import(&bytes).await.unwrap();
    assert_eq!((facts.kind, facts.arch), (InstanceKind::Container, Arch::host()));
    assert_eq!(facts.config.clone().unwrap().command, ["/bin/sh"]);
    let root = node.layer(&facts.digest).await;
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(meta("").permissions().mode() & 0o7777, 0o755, "the root stays passable");
    assert_eq!((meta("usr/bin/sudo").mode() & 0o7777, meta("usr/bin/sudo").uid(), meta("usr/bin/sudo").gid()), (0o4755, 7, 8));
    assert_eq!(meta("usr/bin/sudo").ino(), meta("usr/bin/sudoedit").ino());
    assert_eq!(meta("usr/bin/sudo").mtime(), 1_000_000);
    assert!(root.join("usr/bin/through-the-link").exists());
    assert!(meta("run/pipe").file_type().is_fifo());
    assert!(!root.join("dev/null").exists(), "the runtime gives its own");
    assert_eq!(xattr::get(root.join("usr/bin/ping"), "security.capability").unwrap().unwrap(), capability);
    assert_eq!(xattr::get(root.join("usr/bin/ping"), "trusted.overlay.redirect").unwrap(), None);
    node.images.verify(&facts.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_reach_outside_are_refused_by_name_and_nothing_stays() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().display().to_string();
    let up = format!("{}{target}", "../".repeat(12));
    let device = |h: &mut Header| h.set_device_major(8).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("/etc/passwd", Tar::new().file("/etc/passwd", "x").bytes()),
        ("../../escape", Tar::new().file("../../escape", "x").bytes()),
        ("a/../../escape", Tar::new().file("a/../../escape", "x").bytes()),
        ("link/escape", Tar::new().symlink("link", &target).file("link/escape", "x").bytes()),
        ("up/escape", Tar::new().symlink("up", &up).file("up/escape", "x").bytes()),
        ("hard", Tar::new().add(EntryType::Link, "hard", &up, b"", |_| {}).bytes()),
        ("hard", Tar::new().add(EntryType::Link, "hard", "/etc/passwd", b"", |_| {}).bytes()),
        ("hard", Tar::new().symlink("up", &up).add(EntryType::Link, "hard", "up/f", b"", |_| {}).bytes()),
        ("etc/disk", Tar::new().add(EntryType::Block, "etc/disk", "", b"", device).bytes()),
        ("loop/x", Tar::new().symlink("loop", "loop").file("loop/x", "x").bytes()),
        ("file/x", Tar::new().file("file", "x").file("file/x", "x").bytes()),
        ("a/.wh...", Tar::new().file("a/.wh...", "").bytes()),
    ];
    fs::write(outside.path().join("f"), "untouched").unwrap();
    let node = Node::new();
    for (name, bytes) in cases {
        let error = node.import(&bytes).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "UnsafeEntry"), "{name}: {error}");
        assert!(error.message.contains(&format!("\"{name}")) || name == "hard", "{name}: {error}");
        assert_eq!(node.parts(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // The last component is replaced, never followed.
    let bytes = Tar::new().symlink("f", &format!("{target}/f")).file("f", "changed").bytes();
    let facts = node.import(&bytes).await.unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("f")).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(node.layer(&facts.digest).await.join("f")).unwrap(), "changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busybox_is_built_in_a_moment_and_always_the_same() {
    let node = Node::new();
    let work = Followed::default();
    let first = match node.images.build(&recipe(RecipeBase::Busybox), &work).await {
        Ok(facts) => facts,
        Err(e) if e.kind == ErrorKind::Unavailable => return eprintln!("SKIPPED: busybox cannot be built here: {e}"),
        Err(e) => panic!("{e}"),
    };
    let began = Instant::now();
    let again = node.images.build(&recipe(RecipeBase::Busybox), &work).await.unwrap();
    eprintln!("the second build took {:?}", began.elapsed());
    assert_eq!(first, again);
    assert!(first.description.as_ref().unwrap().starts_with("BusyBox 1."), "{first:?}");
    assert_eq!(first.config.unwrap().command, ["sh"]);
    assert_eq!(work.progress().borrow().percent, Some(100));
    node.images.verify(&first.digest).await.unwrap();
    let root = node.layer(&first.digest).await;
    let inside = |args: &[&str]| Command::new("chroot").arg(&root).args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside(&["sh", "-c", "echo it works | cat"]).stdout), "it works\n");
    assert!(inside(&["/usr/bin/env", "true"]).status.success());
    assert!(inside(&["sh", "-c", "ls /www/index.html && id -un && busybox httpd --help"]).status.success());
}
