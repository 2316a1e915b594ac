//! OCI layouts and docker archives, made with skopeo and by hand.

use crate::node::{Node, Tar, made, rootfs};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};
use yun_drivers::{ErrorKind, ImageDriver};
use yun_types::{Arch, Digest};

/// An OCI layout under construction.
#[derive(Default)]
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
    manifests: Vec<Value>,
}

fn hash(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    Digest::from_sha256(sha2::Sha256::digest(bytes).into()).to_string()
}

impl Layout {
    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = hash(&bytes);
        let descriptor = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
        self.blobs.push((digest, bytes));
        descriptor
    }

    /// Adds an image for an architecture.
    fn image(&mut self, arch: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|l| hash(l)).collect();
        self.image_with(arch, layers, diff_ids)
    }

    fn image_with(&mut self, arch: &str, layers: &[Vec<u8>], diff_ids: Vec<String>) -> Value {
        let layers: Vec<Value> = layers
            .iter()
            .enumerate()
            .map(|(at, layer)| match at % 3 {
                0 => self.blob("application/vnd.oci.image.layer.v1.tar", layer.clone()),
                1 => self.blob("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(&layer[..], 1).unwrap()),
                _ => self.blob("application/vnd.oci.image.layer.v1.tar+gzip", {
                    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
                    std::io::Write::write_all(&mut encoder, layer).unwrap();
                    encoder.finish().unwrap()
                }),
            })
            .collect();
        let config = json!({
            "architecture": arch, "os": "linux",
            "config": {"Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["A=b"], "User": "7:8", "WorkingDir": "/srv", "StopSignal": "SIGQUIT", "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers});
        let mut descriptor = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        descriptor["platform"] = json!({"architecture": arch, "os": "linux"});
        self.manifests.push(descriptor.clone());
        descriptor
    }

    fn tar(&self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        let mut tar =
            Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", &index.to_string());
        for (digest, bytes) in &self.blobs {
            tar = tar.add(tar::EntryType::Regular, &digest.replace("sha256:", "blobs/sha256/"), "", bytes, |_| {});
        }
        tar.bytes()
    }
}

fn host() -> String {
    Arch::host().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_stack_with_whiteouts_and_are_shared() {
    let base = Tar::new()
        .dir("etc")
        .file("etc/gone", "x")
        .file("etc/kept", "lower")
        .file("opaque/lower", "x")
        .file("again/lower", "x")
        .bytes();
    let top = Tar::new()
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/upper", "y")
        .file(".wh.again", "")
        .file("again/upper", "y")
        .file("usr/lib/os-release", "PRETTY_NAME='Two layers'\n")
        .bytes();
    let mut layout = Layout::default();
    layout.image(&host(), &[base.clone(), top]);
    let node = Node::new();
    let facts = node.import(&layout.tar()).await.unwrap();
    let image = node.images.open(&facts.digest).await.unwrap();
    assert_eq!(facts.description.as_deref(), Some("Two layers"));
    let config = image.config;
    assert_eq!(
        (config.entrypoint, config.command, config.env),
        (vec!["/entry".into()], vec!["serve".into()], vec!["A=b".to_owned()])
    );
    assert_eq!(
        (config.user.as_deref(), config.workdir.as_deref(), config.stop_signal.as_deref()),
        (Some("7:8"), Some("/srv"), Some("SIGQUIT"))
    );
    let upper = &image.layers[1];
    let gone = fs::symlink_metadata(upper.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["opaque", "again"] {
        assert_eq!(
            xattr::get(upper.join(opaque), "trusted.overlay.opaque").unwrap().as_deref(),
            Some(&b"y"[..]),
            "{opaque}"
        );
    }
    node.images.verify(&facts.digest).await.unwrap();

    // As a container sees it.
    let merged = tempfile::tempdir().unwrap();
    let options = format!("lowerdir={}:{}", upper.display(), image.layers[0].display());
    let mounted = nix::mount::mount(
        Some("overlay"),
        merged.path(),
        Some("overlay"),
        nix::mount::MsFlags::MS_RDONLY,
        Some(&*options),
    );
    if let Err(e) = mounted {
        eprintln!("SKIPPED: overlayfs cannot be mounted here: {e}");
    } else {
        let names = |dir: &str| {
            let mut names: Vec<String> = fs::read_dir(merged.path().join(dir))
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let seen = (names("etc"), names("opaque"), names("again"));
        nix::mount::umount(merged.path()).unwrap();
        assert_eq!(seen, (vec!["kept".to_owned()], vec!["upper".to_owned()], vec!["upper".to_owned()]));
    }

    let mut second = Layout::default();
    second.image(&host(), &[base]);
    let alone = node.import(&second.tar()).await.unwrap();
    assert_eq!(node.layer(&alone.digest).await, image.layers[0]);
    node.images.remove(&facts.digest).await.unwrap();
    assert!(image.layers[0].exists() && !image.layers[1].exists());
    node.images.verify(&alone.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_s_architecture_is_chosen_or_both_are_named() {
    let node = Node::new();
    let mut layout = Layout::default();
    layout.image("s390x", &[Tar::new().file("a", "s390x").bytes()]);
    let error = node.import(&layout.tar()).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "WrongArchitecture"));
    assert!(error.message.contains("s390x") && error.message.contains(&host()), "{error}");
    layout.image(&host(), &[rootfs()]);
    let facts = node.import(&layout.tar()).await.unwrap();
    assert!(node.layer(&facts.digest).await.join("bin/sh").exists());
    // An index in the index, as docker writes it.
    let mut nested = Layout::default();
    nested.image("s390x", &[rootfs()]);
    nested.image(&host(), &[rootfs()]);
    let inner = json!({"schemaVersion": 2, "manifests": nested.manifests});
    let index = nested.blob("application/vnd.oci.image.index.v1+json", inner.to_string().into_bytes());
    nested.manifests = vec![index];
    assert_eq!(node.import(&nested.tar()).await.unwrap(), facts);
    layout.image(&host(), &[Tar::new().file("another", "x").bytes()]);
    let error = node.import(&layout.tar()).await.unwrap_err();
    assert!(error.message.contains("2 images"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hash_of_an_image_is_checked() {
    let node = Node::new();
    let mut layout = Layout::default();
    layout.image(&host(), &[rootfs(), Tar::new().file("second", "layer").bytes()]);
    for at in 0..layout.blobs.len() {
        let mut flipped = Layout { blobs: layout.blobs.clone(), manifests: layout.manifests.clone() };
        let last = flipped.blobs[at].1.len() - 1;
        // In a tar the last bytes are padding, which only the hash covers.
        flipped.blobs[at].1[last] ^= 0x20;
        let error = node.import(&flipped.tar()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "blob {at}: {error}");
        assert_eq!(node.parts(), Vec::<String>::new());
        let mut missing = Layout { blobs: layout.blobs.clone(), manifests: layout.manifests.clone() };
        missing.blobs.remove(at);
        assert_eq!(node.import(&missing.tar()).await.unwrap_err().kind, ErrorKind::Damaged, "blob {at}");
    }
    let mut lying = Layout::default();
    lying.image_with(&host(), &[rootfs()], vec![hash(b"something else")]);
    let error = node.import(&lying.tar()).await.unwrap_err();
    assert_eq!(error.reason, "ChecksumMismatch", "{error}");
    let whole = layout.tar();
    assert_eq!(node.import(&whole[..whole.len() / 2]).await.unwrap_err().kind, ErrorKind::Damaged);
    assert_eq!(node.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_skopeo_writes_is_read() {
    let node = Node::new();
    let layout = node.path("layout");
    let mut small = Layout::default();
    small.image(&host(), &[rootfs()]);
    fs::create_dir(&layout).unwrap();
    fs::write(node.path("layout.tar"), small.tar()).unwrap();
    let text = |name: &str| node.path(name).display().to_string();
    assert!(made("tar", &["-C", &text("layout"), "-xf", &text("layout.tar")]));
    let direct = node.import(&small.tar()).await.unwrap();
    let images = [
        (format!("docker-archive:{}:web:1", text("docker.tar")), "docker.tar"),
        (format!("oci-archive:{}:web", text("oci.tar")), "oci.tar"),
    ];
    for (target, file) in images {
        if !made("skopeo", &["--insecure-policy", "copy", "-q", &format!("oci:{}", text("layout")), &target]) {
            return;
        }
        assert_eq!(node.import_file(&node.path(file)).await.unwrap(), direct, "{file}");
        assert!(made("gzip", &[&text(file)]));
        assert_eq!(node.import_file(&node.path(&format!("{file}.gz"))).await.unwrap(), direct, "{file}.gz");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_archives_with_several_images_or_another_processor_are_refused() {
    let node = Node::new();
    let archive = |arch: &str, count: usize| {
        let config = json!({"architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [hash(&rootfs())]}}).to_string();
        let name = format!("{}.json", hash(config.as_bytes()).replace("sha256:", ""));
        let one = json!({"Config": name, "RepoTags": ["web:1"], "Layers": ["a/layer.tar"]});
        let manifest = Value::from(vec![one; count]).to_string();
        Tar::new()
            .file(&name, &config)
            .add(tar::EntryType::Regular, "b/layer.tar", "", &rootfs(), |_| {})
            .symlink("a/layer.tar", "../b/layer.tar")
            .file("manifest.json", &manifest)
            .bytes()
    };
    let facts = node.import(&archive(&host(), 1)).await.unwrap();
    assert!(node.layer(&facts.digest).await.join("bin/sh").exists());
    assert!(node.import(&archive(&host(), 2)).await.unwrap_err().message.contains("web:1, web:1"));
    assert_eq!(node.import(&archive("s390x", 1)).await.unwrap_err().reason, "WrongArchitecture");
}
