//! Root file systems: what is kept of them, and what is refused.

use crate::node::{Node, Tar, rootfs};
use std::{
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
};
use tar::{EntryType, Header};
use yun_drivers::{ErrorKind, ImageDriver, ImportOptions};
use yun_linux::image::ImageLimits;
use yun_types::{Arch, Bytes, ContainerConfig, ImageFormat, InstanceKind};

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
    assert_eq!(
        (meta("usr/bin/sudo").mode() & 0o7777, meta("usr/bin/sudo").uid(), meta("usr/bin/sudo").gid()),
        (0o4755, 7, 8)
    );
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_compression_gives_the_same_image() {
    let node = Node::new();
    let plain = node.import(&rootfs()).await.unwrap();
    assert_eq!(plain.description.as_deref(), Some("Test 1"));
    assert_eq!(node.import(&gzip(&rootfs())).await.unwrap(), plain);
    assert_eq!(node.import(&zstd::encode_all(&rootfs()[..], 3).unwrap()).await.unwrap(), plain);
    let file = node.path("rootfs.tar");
    fs::write(&file, rootfs()).unwrap();
    if crate::node::made("xz", &[&file.display().to_string()]) {
        assert_eq!(node.import_file(&node.path("rootfs.tar.xz")).await.unwrap(), plain);
    }
    assert_eq!(node.parts().len(), 2, "one layer, one manifest: {:?}", node.parts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checksum_and_the_format_are_what_was_said_or_it_is_refused() {
    let node = Node::new();
    let wrong = "0".repeat(64).parse().unwrap();
    let error = node
        .import_as(&rootfs(), &ImportOptions { checksum: Some(wrong), ..ImportOptions::default() })
        .await
        .unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Damaged, "ChecksumMismatch"));
    assert_eq!(error.message.matches("sha256:").count(), 2, "{error}");
    for said in [ImageFormat::Qcow2, ImageFormat::Raw, ImageFormat::OciLayout, ImageFormat::DockerArchive] {
        let error = node
            .import_as(&rootfs(), &ImportOptions { format: Some(said), ..ImportOptions::default() })
            .await
            .unwrap_err();
        assert_eq!(error.reason, "UnknownFormat");
        assert!(error.message.contains(&said.to_string()), "{error}");
    }
    for (bytes, why) in [
        (&b""[..], "empty"),
        (b"hello", "qcow2 and plain (raw) disks"),
        (b"<!DOCTYPE html><p>not found", "web page"),
        (&gzip(b"hello"), "compressed; inside"),
        (&[0; 4096], "qcow2 and plain (raw) disks"),
    ] {
        let error = node.import(bytes).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "UnknownFormat"));
        assert!(error.message.contains(why), "{error}");
    }
    let config =
        ContainerConfig { entrypoint: vec!["/bin/sh".into()], user: Some("7".into()), ..ContainerConfig::default() };
    let options =
        ImportOptions { config: Some(config.clone()), format: Some(ImageFormat::Rootfs), ..ImportOptions::default() };
    assert_eq!(node.import_as(&rootfs(), &options).await.unwrap().config, Some(config));
    assert_eq!(node.parts().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_and_flipped_archives_leave_nothing() {
    let node = Node::new();
    let tar = Tar::new().file("a", &"x".repeat(100_000)).file("b", "y").bytes();
    // Noise, so that the compressed file is long enough to be cut anywhere.
    let noise: String =
        (0..100_000u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
    let noisy = gzip(&Tar::new().file("noise", &noise).bytes());
    for bytes in [&tar[..600], &tar[..50_000], &noisy[..noisy.len() / 2], &noisy[..noisy.len() - 4]] {
        let error = node.import(bytes).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Damaged, "ImageDamaged"), "{error}");
        assert!(error.message.contains("truncated"), "{error}");
    }
    let mut flipped = noisy.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    assert_eq!(node.import(&flipped).await.unwrap_err().kind, ErrorKind::Damaged);
    let mut flipped = tar.clone();
    flipped[2] ^= 0x55;
    assert!(node.import(&flipped).await.unwrap_err().message.contains("checksum"));
    assert_eq!(node.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_kept() {
    let limits = ImageLimits {
        max_image: Bytes(200_000),
        max_unpacked: Bytes(100_000),
        max_entries: 10,
        ..ImageLimits::default()
    };
    let node = Node::limited(limits);
    let files = |count: usize| (0..count).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), "x")).bytes();
    assert!(node.import(&files(10)).await.is_ok());
    let error = node.import(&files(11)).await.unwrap_err();
    assert_eq!(error.reason, "TooManyEntries", "{error}");
    let error = node.import(&Tar::new().file("a/b/c/d/e/f/g/h/i/j/k", "x").bytes()).await.unwrap_err();
    assert_eq!(error.reason, "TooManyEntries", "directories that are not named count, too: {error}");
    let error = node.import(&Tar::new().file("large", &"x".repeat(100_001)).bytes()).await.unwrap_err();
    assert_eq!(error.reason, "ImageTooLarge", "{error}");
    let error = node.import(&vec![7; 200_001]).await.unwrap_err();
    assert_eq!(error.reason, "ImageTooLarge", "{error}");
    let error = Node::new().import(&gzip(&Tar::new().file("bomb", &"0".repeat(200 << 20)).bytes())).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "CompressionBomb"), "{error}");
    assert_eq!(node.parts().len(), 2);
}
