//! Images that are damaged, hostile or for another machine, at the command line of the real program.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, busybox_root, run, tarred, text};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// A tar header of the old kind that every program reads.
fn header(name: &str, size: u64, kind: u8, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn written(path: PathBuf, bytes: &[u8]) -> String {
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// What is below a directory, in bytes that the disk gave.
fn taken(directory: &Path) -> u64 {
    let text = run("du", &["-sk", &directory.to_string_lossy()]);
    text.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[track_caller]
fn refused(cloud: &Cloud, source: &str, flags: &[&str], pieces: &[&str]) {
    let (_, why) = cloud.fails(&[&["image", "import", "bad", source][..], flags].concat());
    for piece in pieces {
        assert!(why.contains(piece), "{piece:?} is not in: {why}");
    }
    assert_eq!(cloud.ok(&["image", "ls", "-o", "name"]), "", "a refused image is in the catalogue");
    assert_eq!(
        std::fs::read_dir(cloud.state().join("images/staging")).into_iter().flatten().count(),
        0,
        "drafts are left"
    );
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    if !common::real("hostile archives") {
        return;
    }
    let cloud = Cloud::start();
    let at = |name: &str| cloud.root().join(name);
    let archive = |entries: &[[u8; 512]]| [entries.concat(), vec![0; 1024]].concat();
    let file = |name: &str| written(at("bad.tar"), &archive(&[header("bin/", 0, b'5', ""), header(name, 0, b'0', "")]));
    refused(&cloud, &file("../../../../tmp/escaped"), &[], &["../../../../tmp/escaped"]);
    assert!(!Path::new("/tmp/escaped").exists());
    let link = archive(&[header("out", 0, b'2', "/var/tmp"), header("out/escaped-by-link", 0, b'0', "")]);
    let (path, outside) = (written(at("link.tar"), &link), Path::new("/var/tmp/escaped-by-link"));
    let _ = cloud.run(&["image", "import", "link", &path]);
    assert!(!outside.exists(), "a link led out of the image");
    cloud.run(&["image", "rm", "link"]);
    let hard = archive(&[header("bin/", 0, b'5', ""), header("bin/passwd", 0, b'1', "../../../../etc/passwd")]);
    refused(&cloud, &written(at("hard.tar"), &hard), &[], &["../../../../etc/passwd"]);
    let device = archive(&[header("bin/", 0, b'5', ""), header("bin/sh", 0, b'0', ""), header("bin/sda", 0, b'4', "")]);
    refused(&cloud, &written(at("device.tar"), &device), &[], &["bin/sda", "device node"]);

    // Compressed nothing: hundreds of gigabytes in a few kilobytes. One zstd frame holds 64 MiB, and frames may follow each other.
    let zeros = written(at("zeros"), &vec![0; 64 << 20]);
    run("zstd", &["-q", "-19", &zeros, "-o", &format!("{zeros}.zst")]);
    let frame = std::fs::read(format!("{zeros}.zst")).unwrap();
    std::fs::remove_file(&zeros).unwrap();
    let first = written(at("first"), &header("bomb", 8 << 30, b'0', "").map(|b| b));
    run("zstd", &["-q", &first, "-o", &format!("{first}.zst")]);
    let mut bomb = std::fs::read(format!("{first}.zst")).unwrap();
    for _ in 0..128 {
        bomb.extend_from_slice(&frame);
    }
    let path = written(at("bomb.tar.zst"), &bomb);
    let before = taken(cloud.root());
    refused(&cloud, &path, &[], &["compress"]);
    assert!(taken(cloud.root()) < before + (256 << 20), "the bomb went off");
}

#[test]
fn damaged_and_strange_bytes_are_refused() {
    if !common::real("damaged images") {
        return;
    }
    let cloud = Cloud::start();
    let at = |name: &str| cloud.root().join(name);
    let nonsense = written(at("nonsense"), b"this is not an image, whatever it says of itself\n");
    refused(&cloud, &nonsense, &[], &["qcow2"]);
    refused(&cloud, &written(at("empty"), b""), &[], &["empty"]);
    refused(&cloud, "/no/such/file", &[], &["/no/such/file"]);
    refused(&cloud, &nonsense, &["--format", "qcow2"], &["qcow2"]);

    let disk = at("disk.qcow2").display().to_string();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &disk, "64M"]);
    let qcow2 = std::fs::read(&disk).unwrap();
    refused(&cloud, &written(at("short.qcow2"), &qcow2[..300]), &[], &["qcow2"]);
    // A disk that would read another file of the host.
    let evil = at("evil.qcow2").display().to_string();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", &evil, "64M"]);
    refused(&cloud, &evil, &[], &["backing file", "qemu-img convert"]);

    let root = at("root");
    busybox_root(&root);
    let archive = tarred(&root);
    let bytes = std::fs::read(&archive).unwrap();
    refused(&cloud, &written(at("short.tar"), &bytes[..bytes.len() / 2]), &[], &["truncated"]);
    let wrong = format!("sha256:{}", "0".repeat(64));
    refused(&cloud, &archive, &["--checksum", &wrong], &["expected sha256:0000", "got sha256:", "fetch it again"]);
    run("gzip", &["-kf", &archive]);
    let mut zipped = std::fs::read(format!("{archive}.gz")).unwrap();
    let middle = zipped.len() / 2;
    zipped[middle] ^= 0xff;
    refused(&cloud, &written(at("flipped.tar.gz"), &zipped), &[], &["damaged"]);

    // A layout for another processor, and one whose blob is not what its name says.
    let layout = at("layout");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "--override-arch",
            "arm64",
            "copy",
            "-q",
            &format!("docker-archive:{}", docker_archive(&at("docker"), &bytes, "arm64")),
            &format!("oci:{}", layout.display()),
        ],
    );
    let packed = tarred(&layout);
    refused(&cloud, &packed, &[], &["arm64", "amd64"]);
    let whole = at("whole");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            &format!("docker-archive:{}", docker_archive(&at("docker2"), &bytes, "amd64")),
            &format!("oci:{}", whole.display()),
        ],
    );
    let blobs: Vec<PathBuf> =
        std::fs::read_dir(whole.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    let largest = blobs.iter().max_by_key(|b| b.metadata().unwrap().len()).unwrap();
    let mut blob = std::fs::read(largest).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    std::fs::write(largest, blob).unwrap();
    refused(&cloud, &tarred(&whole), &[], &["blobs/sha256/", "damaged"]);
}

/// What `docker save` writes, by hand.
fn docker_archive(directory: &Path, layer: &[u8], architecture: &str) -> String {
    use sha2::{Digest as _, Sha256};
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("layer.tar"), layer).unwrap();
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(layer)));
    let config = serde_json::json!({ "architecture": architecture, "os": "linux", "config": { "Cmd": ["sh"] }, "rootfs": { "type": "layers", "diff_ids": [diff] } });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": ["box:latest"], "Layers": ["layer.tar"] }]);
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.with_extension("archive.tar").display().to_string();
    run("tar", &["-C", &directory.to_string_lossy(), "-cf", &archive, "manifest.json", "config.json", "layer.tar"]);
    archive
}

#[test]
fn content_that_changed_on_the_disk_is_noticed() {
    if !common::real("damaged content") {
        return;
    }
    let cloud = Cloud::with_box();
    assert!(cloud.ok(&["image", "verify", "box"]).contains("the content is what its digest says"));
    let layers = cloud.state().join("images/layers");
    let layer = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    let passwd = layer.join("root/etc/passwd");
    let text_before = std::fs::read_to_string(&passwd).unwrap();
    std::fs::OpenOptions::new().write(true).open(&passwd).unwrap().write_all(b"R").unwrap();
    let (_, why) = cloud.fails(&["image", "verify", "box"]);
    assert!(why.contains("image box") && why.contains("damaged") && why.contains("etc/passwd"), "{why}");
    std::fs::write(&passwd, text_before).unwrap();
    // A missing piece is noticed when something should start from it.
    std::fs::rename(&layer, cloud.root().join("taken")).unwrap();
    let output = cloud.run(&common::launching("web", &["--restart", "never"], &["true"]));
    assert!(!output.status.success());
    let why = text(&output.stderr);
    assert!(why.contains("image box") && why.contains("is missing") && why.contains("import it again"), "{why}");
    let web = cloud.show("web");
    assert_eq!(
        (web["status"]["state"].as_str(), web["status"]["reason"].as_str()),
        (Some("failed"), Some("ImageDamaged"))
    );
}
