//! Giving images out: what comes back in is the same, and other programs read it.

use crate::node::{Node, Tar};
use futures::TryStreamExt;
use std::{fs, process::Command};
use yun_drivers::{ExportRequest, ImageDriver};
use yun_engine::work::Followed;
use yun_types::{Digest, ExportFormat};

async fn export(node: &Node, digest: &Digest, format: Option<ExportFormat>) -> Vec<u8> {
    let request = ExportRequest { format, name: Some("web".into()) };
    let stream = node.images.export(digest, &request, &Followed::default()).await.unwrap();
    let pieces: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_container_comes_back_the_same_and_other_programs_read_it() {
    let node = Node::new();
    let bytes = Tar::new().dir("bin").file("bin/sh", "a shell").file("etc/passwd", "root").bytes();
    let facts = node.import(&bytes).await.unwrap();
    let first = export(&node, &facts.digest, None).await;
    assert_eq!(
        first,
        export(&node, &facts.digest, Some(ExportFormat::DockerArchive)).await,
        "the same image gives other bytes"
    );
    assert!(!node.parts().iter().any(|part| part.starts_with("staging")), "{:?}", node.parts());
    let other = Node::new();
    let back = other.import(&first).await.unwrap();
    assert_eq!((back.config.clone(), back.size), (facts.config.clone(), facts.size));
    other.images.verify(&back.digest).await.unwrap();
    let (one, two) = (node.layer(&facts.digest).await, other.layer(&back.digest).await);
    let read = |layer: &std::path::Path| fs::read_to_string(layer.parent().unwrap().join("tree")).unwrap();
    assert_eq!(read(&one), read(&two), "the files differ");
    // A copy of the copy is the copy.
    let again = export(&other, &back.digest, None).await;
    assert_eq!(Node::new().import(&again).await.unwrap().digest, back.digest);
    if !std::path::Path::new("/usr/bin/skopeo").exists() {
        return eprintln!("SKIPPED skopeo reads an export: skopeo is not installed");
    }
    let file = node.path("web.tar");
    fs::write(&file, &first).unwrap();
    for form in ["oci-archive", "docker-archive"] {
        let to = format!("dir:{}", node.path(form).display());
        let from = format!("{form}:{}", file.display());
        let copied = Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]).output().unwrap();
        assert!(copied.status.success(), "{form}: {}", String::from_utf8_lossy(&copied.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_layer_deletes_is_still_deleted() {
    let node = Node::new();
    // A root file system may hold the marks of a layer.
    let bytes = Tar::new()
        .dir("etc")
        .file("etc/.wh.motd", "")
        .dir("var")
        .file("var/.wh..wh..opq", "")
        .file("bin/sh", "x")
        .bytes();
    let facts = node.import(&bytes).await.unwrap();
    let other = Node::new();
    let back = other.import(&export(&node, &facts.digest, None).await).await.unwrap();
    let tree = |layer: std::path::PathBuf| fs::read_to_string(layer.parent().unwrap().join("tree")).unwrap();
    let (before, after) = (tree(node.layer(&facts.digest).await), tree(other.layer(&back.digest).await));
    assert!(before.contains("/etc/motd") && before.contains("trusted.overlay.opaque"), "{before}");
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_the_other_kind_are_refused() {
    let node = Node::new();
    let facts = node.import(&Tar::new().file("bin/sh", "x").bytes()).await.unwrap();
    let request = ExportRequest { format: Some(ExportFormat::Raw), name: None };
    let error = node.images.export(&facts.digest, &request, &Followed::default()).await.err().unwrap();
    assert!(error.reason == "WrongFormat" && error.message.contains("choose oci-archive or docker-archive"), "{error}");
}
