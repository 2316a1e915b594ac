//! The store: sharing, removal, damage, crashes, full disks.

use crate::node::{Node, Tar, rootfs};
use bytes::Bytes as Chunk;
use futures::StreamExt;
use std::{fs, io, path::Path, time::Duration};
use yun_drivers::{ErrorKind, ImageDriver, ImageSource, ImportOptions};
use yun_engine::work::Followed;
use yun_linux::{
    host::Host,
    image::{ImageLimits, LinuxImages},
};
use yun_types::{Bytes, ContainerConfig};

fn with_command(command: &str) -> ImportOptions {
    let config = ContainerConfig { command: vec![command.into()], ..ContainerConfig::default() };
    ImportOptions { config: Some(config), ..ImportOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_is_kept_once_and_goes_with_its_last_image() {
    let node = Node::new();
    let one = node.import_as(&rootfs(), &with_command("one")).await.unwrap();
    let two = node.import_as(&rootfs(), &with_command("two")).await.unwrap();
    assert_ne!(one.digest, two.digest);
    assert_eq!(node.layer(&one.digest).await, node.layer(&two.digest).await);
    assert_eq!(node.images.list().await.unwrap().len(), 2);
    let layer = node.layer(&one.digest).await;
    node.images.remove(&one.digest).await.unwrap();
    assert_eq!(node.images.open(&one.digest).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(layer.exists());
    node.images.verify(&two.digest).await.unwrap();
    node.images.remove(&two.digest).await.unwrap();
    assert_eq!(node.parts(), Vec::<String>::new());
    node.images.remove(&two.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn importing_again_repairs_a_layer_that_others_share() {
    let node = Node::new();
    let one = node.import_as(&rootfs(), &with_command("one")).await.unwrap();
    let two = node.import_as(&rootfs(), &with_command("two")).await.unwrap();
    fs::write(node.layer(&one.digest).await.join("bin/sh"), "a worse one").unwrap();
    assert_eq!(node.images.verify(&two.digest).await.unwrap_err().kind, ErrorKind::Damaged);
    node.images.remove(&one.digest).await.unwrap();
    assert_eq!(node.import_as(&rootfs(), &with_command("one")).await.unwrap(), one);
    node.images.verify(&two.digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_may_come_twice_at_once() {
    let node = Node::new();
    let imports = (0..8).map(|_| async { node.import(&Tar::new().file("a", "a").bytes()).await.unwrap() });
    let all = futures::future::join_all(imports).await;
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(node.parts().len(), 2, "{:?}", node.parts());
    node.images.verify(&all[0].digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_the_file_is_named() {
    let node = Node::new();
    let facts = node.import(&rootfs()).await.unwrap();
    let root = node.layer(&facts.digest).await;
    let damaged = async |what: &str| {
        let error = node.images.verify(&facts.digest).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Damaged, "ImageDamaged"));
        assert!(error.message.contains(what), "{what}: {error}");
    };
    let shell = root.join("bin/sh");
    fs::write(&shell, "a shelL").unwrap();
    damaged("/bin/sh is damaged").await;
    fs::write(&shell, "a shell").unwrap();
    node.images.verify(&facts.digest).await.unwrap();
    std::os::unix::fs::chown(&shell, Some(1), None).unwrap();
    damaged("/bin/sh").await;
    std::os::unix::fs::chown(&shell, Some(0), None).unwrap();
    fs::write(root.join("etc/extra"), "").unwrap();
    damaged("/etc/extra").await;
    fs::remove_file(root.join("etc/extra")).unwrap();
    fs::remove_file(root.parent().unwrap().join("tree")).unwrap();
    assert_eq!(node.images.open(&facts.digest).await.unwrap_err().reason, "ImageDamaged");
    // A manifest that was tampered with is no image any more, and does not keep others from being listed.
    let other = node.import(&Tar::new().file("x", "x").bytes()).await.unwrap();
    let manifest = node.host.images().join("manifests").join(format!("{}.json", facts.digest.hex()));
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("/bin/sh", "/bin/xx")).unwrap();
    assert_eq!(node.images.open(&facts.digest).await.unwrap_err().reason, "ImageDamaged");
    assert_eq!(node.images.list().await.unwrap(), [other]);
    node.images.remove(&facts.digest).await.unwrap();
    node.images.probe().await.unwrap();
    assert_eq!(node.parts().len(), 2, "what the damaged image named is swept: {:?}", node.parts());
}

/// A tar that takes a moment to unpack.
fn long_tar() -> Vec<u8> {
    (0..400).fold(Tar::new(), |tar, n| tar.file(&format!("d{}/f{n}", n % 20), &"x".repeat(20_000))).bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_dropped_anywhere_leaves_nothing_visible() {
    let node = Node::new();
    let bytes = long_tar();
    for after in [0u64, 1, 3, 10, 20, 40, 80, 160] {
        let dropped = tokio::time::timeout(Duration::from_millis(after), node.import(&bytes)).await.is_err();
        if dropped {
            // If the last step had begun, it is all there.
            for facts in node.images.list().await.unwrap() {
                node.images.verify(&facts.digest).await.unwrap();
            }
        }
        // The thread that works notices soon, and takes its staging directory with it.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !node.parts().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "{after} ms: {:?}", node.parts());
            for facts in node.images.list().await.unwrap() {
                node.images.remove(&facts.digest).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_ends_an_upload_that_waits() {
    let node = Node::new();
    let work = Followed::default();
    let source = ImageSource::Upload(futures::stream::pending().boxed());
    let options = ImportOptions::default();
    let (import, ()) = tokio::join!(node.images.import(source, &options, &work), async { work.cancel() });
    assert_eq!(import.unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(node.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_stall_or_break_are_given_up() {
    let node = Node::limited(ImageLimits { stall: Duration::from_millis(100), ..ImageLimits::default() });
    let import = async |stream: futures::stream::BoxStream<'static, io::Result<Chunk>>| {
        node.images
            .import(ImageSource::Upload(stream), &ImportOptions::default(), &Followed::default())
            .await
            .unwrap_err()
    };
    let stalls = futures::stream::iter([Ok(Chunk::from_static(b"abc"))]).chain(futures::stream::pending());
    assert_eq!(import(stalls.boxed()).await.reason, "SourceStalled");
    let breaks = futures::stream::iter([Ok(Chunk::from_static(b"abc")), Err(io::Error::other("the line is cut"))]);
    let error = import(breaks.boxed()).await;
    assert!(error.reason == "SourceTruncated" && error.message.contains("the line is cut"), "{error}");
    let error = node.import_file(Path::new("/nowhere/image")).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "SourceNotFound"));
    assert_eq!(node.parts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_swept_and_what_lives_is_not() {
    let node = Node::new();
    let kept = node.import(&rootfs()).await.unwrap();
    let images = node.host.images();
    fs::create_dir_all(images.join("staging/dead/layer-0/root/etc")).unwrap();
    let orphan = "a".repeat(64);
    fs::create_dir_all(images.join("layers").join(&orphan).join("root")).unwrap();
    fs::write(images.join("blobs/sha256").join(&orphan), "x").unwrap();
    let work = Followed::default();
    let options = ImportOptions::default();
    let waiting = node.images.import(ImageSource::Upload(futures::stream::pending().boxed()), &options, &work);
    let sweeping = async {
        while !work.progress().borrow().message.starts_with("reading") {
            tokio::task::yield_now().await;
        }
        assert!(node.images.probe().await.unwrap().ready);
        assert_eq!(
            node.parts().iter().filter(|p| p.starts_with("staging/")).count(),
            1,
            "the running import keeps its own"
        );
        work.cancel();
    };
    let (import, ()) = tokio::join!(waiting, sweeping);
    assert_eq!(import.unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(node.parts().len(), 2, "{:?}", node.parts());
    node.images.verify(&kept.digest).await.unwrap();
}

/// A small file system of memory, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(&*format!("size={size}")),
        );
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(e) => {
                eprintln!("SKIPPED: cannot mount a small disk: {e}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_says_so_at_every_step_and_leaves_nothing() {
    let tar = Tar::new().file("large", &"x".repeat(3 << 20)).bytes();
    let compressed = zstd::encode_all(&tar[..], 1).unwrap();
    // Too small for the upload; for the decompressed archive; for the unpacked layer.
    for (size, bytes) in [("2m", &tar), ("2m", &compressed), ("5m", &tar), ("5m", &compressed)] {
        let Some(disk) = SmallDisk::new(size) else { return };
        let host = Host::open(disk.0.path()).unwrap();
        let images = LinuxImages::new(&host, ImageLimits { keep_free: Bytes(0), ..ImageLimits::default() });
        let source = ImageSource::Upload(futures::stream::iter([Ok(Chunk::copy_from_slice(bytes))]).boxed());
        let error = images.import(source, &ImportOptions::default(), &Followed::default()).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::NoSpace, "DiskFull"), "{size}: {error}");
        assert!(error.message.contains("yun image rm"), "{error}");
        assert_eq!(fs::read_dir(host.images().join("staging")).unwrap().count(), 0);
        assert_eq!(images.list().await.unwrap(), []);
    }
    let Some(disk) = SmallDisk::new("50m") else { return };
    let images = LinuxImages::new(
        &Host::open(disk.0.path()).unwrap(),
        ImageLimits { keep_free: Bytes::mib(100), ..ImageLimits::default() },
    );
    let source = ImageSource::Upload(futures::stream::iter([Ok(Chunk::from(tar))]).boxed());
    let error = images.import(source, &ImportOptions::default(), &Followed::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "the reserve is kept: {error}");
}

/// Answers every request with the same bytes, on a port of its own.
async fn serve(answer: Vec<u8>) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image.tar", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (url, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_come_over_http_or_it_is_said_why_not() {
    let node = Node::new();
    let import = async |url: &str| {
        let work = Followed::default();
        node.images.import(ImageSource::Url(url.to_owned()), &ImportOptions::default(), &work).await
    };
    let answer = |status: &str, length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let (url, server) = serve(answer("200 OK", rootfs().len(), &rootfs())).await;
    assert_eq!(import(&url).await.unwrap(), node.import(&rootfs()).await.unwrap());
    let (short, cut) = serve(answer("200 OK", rootfs().len() + 1, &rootfs())).await;
    let error = import(&short).await.unwrap_err();
    assert_eq!(error.reason, "SourceTruncated", "{error}");
    let (missing, absent) = serve(answer("404 Not Found", 0, b"")).await;
    let error = import(&missing).await.unwrap_err();
    assert!(error.kind == ErrorKind::BadRequest && error.message.contains("404"), "{error}");
    for task in [server, cut, absent] {
        task.abort();
        let _ = task.await;
    }
    let error = import(&url).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains(&url), "{error}");
    for bad in ["ftp://host/image", "/etc/passwd", "file:///etc/passwd", ""] {
        assert_eq!(import(bad).await.unwrap_err().reason, "BadUrl", "{bad}");
    }
    assert_eq!(node.parts().len(), 2);
}
