//! Disks of VMs, made with qemu-img and attacked by hand.

use crate::node::{Node, made, run};
use std::{fs, io::Write, path::Path};
use yun_drivers::{DriverError, ErrorKind, ImageDriver, ImportOptions};
use yun_linux::image::ImageLimits;
use yun_types::{Bytes, ImageFacts, ImageFormat, InstanceKind, VmBoot};

/// A plain disk with a boot sector and something in the middle.
fn raw(path: &Path, size: u64) {
    let mut file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut sector = [0u8; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all(&sector).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x42; 100_000], size / 2).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A node with `disk.raw` and `disk.qcow2`; nothing if there is no qemu-img.
fn node_with_disks() -> Option<Node> {
    let node = Node::limited(ImageLimits { max_disk: Bytes::gib(1), ..ImageLimits::default() });
    raw(&node.path("disk.raw"), 8 << 20);
    let made = made(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", text(&node.path("disk.raw")), text(&node.path("disk.qcow2"))],
    );
    made.then_some(node)
}

async fn refused(node: &Node, file: &str, kind: ErrorKind, reason: &str, says: &str) {
    let error: DriverError = node.import_file(&node.path(file)).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (kind, reason), "{file}: {error}");
    assert!(error.message.contains(says), "{file}: {error}");
    assert!(!error.message.contains("staging"), "paths of the node are nobody's business: {error}");
    assert_eq!(node.parts(), Vec::<String>::new(), "{file}");
}

fn check_contents(facts: &ImageFacts, disk: &Path, raw: &Path) {
    assert_eq!((facts.kind, facts.min_disk, facts.boot.clone()), (InstanceKind::Vm, Bytes::mib(8), Some(VmBoot::Disk)));
    let same = run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(disk), text(raw)]).unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qcow2_and_plain_disks_arrive_whole_compressed_or_not() {
    let Some(node) = node_with_disks() else { return };
    let disk = |name: &str| node.path(name);
    let qcow2 = node.import_file(&disk("disk.qcow2")).await.unwrap();
    check_contents(&qcow2, &node.images.open(&qcow2.digest).await.unwrap().disk.unwrap(), &disk("disk.raw"));
    node.images.verify(&qcow2.digest).await.unwrap();

    let plain = node.import_file(&disk("disk.raw")).await.unwrap();
    let kept = node.images.open(&plain.digest).await.unwrap().disk.unwrap();
    check_contents(&plain, &kept, &disk("disk.raw"));
    assert!(plain.size < Bytes::mib(2), "zeros are not kept: {plain:?}");

    for name in ["disk.raw", "disk.qcow2"] {
        let packed = zstd::encode_all(&fs::read(disk(name)).unwrap()[..], 1).unwrap();
        let facts = node.import(&packed).await.unwrap();
        check_contents(&facts, &node.images.open(&facts.digest).await.unwrap().disk.unwrap(), &disk("disk.raw"));
    }
    // A disk without any mark is taken if the user says that it is one.
    fs::write(disk("zeros"), [0; 4096]).unwrap();
    assert_eq!(node.import_file(&disk("zeros")).await.unwrap_err().reason, "UnknownFormat");
    let said = ImportOptions { format: Some(ImageFormat::Raw), ..ImportOptions::default() };
    assert_eq!(node.import_as(&[0; 4096], &said).await.unwrap().min_disk, Bytes(4096));

    let digest = qcow2.digest;
    let path = node.images.open(&digest).await.unwrap().disk.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = node.images.verify(&digest).await.unwrap_err();
    assert!(error.kind == ErrorKind::Damaged && error.message.contains(text(&path)), "{error}");
    fs::write(&path, "short").unwrap();
    assert_eq!(node.images.open(&digest).await.unwrap_err().kind, ErrorKind::Damaged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_reach_for_files_of_the_node_are_refused() {
    let Some(node) = node_with_disks() else { return };
    let disk = |name: &str| text(&node.path(name)).to_owned();
    assert!(made("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", &disk("backed")]));
    refused(&node, "backed", ErrorKind::BadRequest, "DiskHasBackingFile", "qemu-img convert").await;
    let external = format!("data_file={}", disk("data"));
    assert!(made("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &external, &disk("external"), "1M"]));
    refused(&node, "external", ErrorKind::BadRequest, "DiskHasDataFile", "another file").await;
    // The same header, with the feature bit hidden.
    let mut bytes = fs::read(node.path("external")).unwrap();
    bytes[79] &= !4;
    fs::write(node.path("external"), bytes).unwrap();
    refused(&node, "external", ErrorKind::BadRequest, "DiskHasDataFile", "another file").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_damaged_and_truncated_disks_are_refused_with_the_reason() {
    let Some(node) = node_with_disks() else { return };
    let disk = |name: &str| text(&node.path(name)).to_owned();
    assert!(made("qemu-img", &["create", "-q", "-f", "qcow2", &disk("absurd"), "60T"]));
    refused(&node, "absurd", ErrorKind::BadRequest, "ImageTooLarge", "60 TiB").await;
    let whole = fs::read(node.path("disk.qcow2")).unwrap();
    for length in [30, 500, 70_000, 140_000, 270_000, whole.len() - 66_000] {
        fs::write(node.path("cut"), &whole[..length]).unwrap();
        refused(&node, "cut", ErrorKind::Damaged, "ImageDamaged", "").await;
    }
    let mut wrong = whole.clone();
    // An entry of the first table of clusters, pointing far behind the end.
    wrong[0x30000 + 3] = 0x7f;
    fs::write(node.path("wrong"), wrong).unwrap();
    refused(&node, "wrong", ErrorKind::Damaged, "ImageDamaged", "").await;
    for (name, magic) in [("disk.vmdk", &b"KDMV"[..]), ("disk.vhdx", b"vhdxfile")] {
        fs::write(node.path(name), [magic, &[0; 4096]].concat()).unwrap();
        refused(&node, name, ErrorKind::BadRequest, "UnknownFormat", "qemu-img convert").await;
    }
}
