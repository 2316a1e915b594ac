//! Images built from packages, and whether they run.

use crate::node::{Node, made, recipe};
use std::{
    fs,
    io::{Cursor, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use yun_drivers::{ErrorKind, ImageDriver, LocalImage};
use yun_engine::work::Followed;
use yun_types::{Bytes, ImageFacts, ImageRecipe, InstanceKind, RecipeBase, VmBoot};

/// Builds, or says aloud that this machine cannot.
async fn build(node: &Node, recipe: &ImageRecipe) -> Option<ImageFacts> {
    let work = Followed::default();
    match node.images.build(recipe, &work).await {
        Ok(facts) => {
            assert_eq!(work.progress().borrow().percent, Some(100));
            Some(facts)
        }
        Err(e) if e.kind == ErrorKind::Unavailable => {
            eprintln!("SKIPPED: {} cannot be built here: {e}", recipe.base);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busybox_is_built_in_a_moment_and_always_the_same() {
    let node = Node::new();
    let Some(first) = build(&node, &recipe(RecipeBase::Busybox)).await else { return };
    let began = Instant::now();
    let again = build(&node, &recipe(RecipeBase::Busybox)).await.unwrap();
    eprintln!("the second build took {:?}", began.elapsed());
    assert_eq!(first, again);
    assert!(first.description.as_ref().unwrap().starts_with("BusyBox 1."), "{first:?}");
    assert_eq!(first.config.unwrap().command, ["sh"]);
    node.images.verify(&first.digest).await.unwrap();
    let root = node.layer(&first.digest).await;
    let inside = |args: &[&str]| Command::new("chroot").arg(&root).args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside(&["sh", "-c", "echo it works | cat"]).stdout), "it works\n");
    assert!(inside(&["/usr/bin/env", "true"]).status.success());
    assert!(inside(&["sh", "-c", "ls /www/index.html && id -un && busybox httpd --help"]).status.success());
    let served =
        ImageRecipe { entrypoint: vec!["httpd".into()], command: vec!["-f".into()], ..recipe(RecipeBase::Busybox) };
    let served = build(&node, &served).await.unwrap();
    assert_eq!(node.layer(&served.digest).await, root);
    let config = served.config.unwrap();
    assert_eq!((config.entrypoint, config.command), (vec!["httpd".to_owned()], vec!["-f".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_built_is_refused_with_the_way_out() {
    let node = Node::new();
    let with = |base, package: &str| ImageRecipe { packages: vec![package.into()], ..recipe(base) };
    let bad = node.images.build(&with(RecipeBase::Busybox, "curl"), &Followed::default()).await.unwrap_err();
    assert_eq!((bad.kind, bad.reason), (ErrorKind::BadRequest, "BadRecipe"), "{bad}");
    let bad = node.images.build(&with(RecipeBase::Debian, "--help"), &Followed::default()).await.unwrap_err();
    assert_eq!((bad.kind, bad.reason), (ErrorKind::BadRequest, "BadRecipe"), "{bad}");
    let work = Followed::default();
    work.cancel();
    let cancelled = node.images.build(&recipe(RecipeBase::Debian), &work).await.unwrap_err();
    assert_eq!(cancelled.kind, ErrorKind::Cancelled, "{cancelled}");
    assert_eq!(node.parts(), Vec::<String>::new());
}

/// A QEMU that ends with the test.
struct Guest {
    child: Child,
    ssh_port: u16,
    console: std::path::PathBuf,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The volume with the instance's settings.
fn settings(path: &Path, files: &[(&str, String)]) {
    let mut bytes = vec![0u8; 1 << 20];
    fatfs::format_volume(Cursor::new(&mut bytes[..]), fatfs::FormatVolumeOptions::new().volume_label(*b"cidata     "))
        .unwrap();
    let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes[..]), fatfs::FsOptions::new()).unwrap();
    for (name, text) in files {
        volume.root_dir().create_file(name).unwrap().write_all(text.as_bytes()).unwrap();
    }
    volume.unmount().unwrap();
    fs::write(path, bytes).unwrap();
}

impl Guest {
    /// Boots an image as the VM driver does, with a network of QEMU's own.
    fn boot(node: &Node, image: &LocalImage, memory: &str) -> Option<Self> {
        let Some(VmBoot::Kernel { cmdline }) = &image.boot else { panic!("{image:?}") };
        let (ssh_port, console, monitor) = (free_port(), node.path("console"), node.path("monitor"));
        let drive = |file: &str, format: &str| format!("if=virtio,file={},format={format}", node.path(file).display());
        let spawned = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-machine",
                "q35",
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                memory,
            ])
            .arg("-kernel")
            .arg(image.kernel.as_ref().unwrap())
            .arg("-initrd")
            .arg(image.initrd.as_ref().unwrap())
            .args(["-append", cmdline, "-serial", &format!("file:{}", console.display())])
            .args(["-monitor", &format!("unix:{},server=on,wait=off", monitor.display())])
            .args([
                "-drive",
                &drive("disk.qcow2", "qcow2"),
                "-drive",
                &drive("settings", "raw"),
                "-device",
                "virtio-rng-pci",
            ])
            .args([
                "-netdev",
                &format!("user,id=net,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ])
            .stdin(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => Some(Self { child, ssh_port, console }),
            Err(e) => {
                eprintln!("SKIPPED: no QEMU here: {e}");
                None
            }
        }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits for the first bytes that an SSH server says.
    fn wait_for_ssh(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let mut word = [0; 4];
            let greeted = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ssh_port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_millis(500)))?;
                stream.read_exact(&mut word)
            });
            if greeted.is_ok() && &word == b"SSH-" {
                return;
            }
            assert!(Instant::now() < deadline, "no SSH within {limit:?}; the console says:\n{}", self.console());
            assert!(self.child.try_wait().unwrap().is_none(), "QEMU ended; the console says:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ssh(&self, node: &Node, user: &str, command: &str) -> String {
        let output = Command::new("ssh")
            .args([
                "-q",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=60",
            ])
            .args(["-p", &self.ssh_port.to_string(), "-i"])
            .arg(node.path("key"))
            .args([&format!("{user}@127.0.0.1"), command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}; the console says:\n{}", self.console());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses the power button and waits for the end.
    fn power_down(mut self, node: &Node, limit: Duration) {
        let mut monitor = std::os::unix::net::UnixStream::connect(node.path("monitor")).unwrap();
        let deadline = Instant::now() + limit;
        let mut pressed: Option<Instant> = None;
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "it did not go down within {limit:?}; the console says:\n{}",
                self.console()
            );
            // As the driver does it: a guest that is just up may not listen yet.
            if pressed.is_none_or(|moment| moment.elapsed() > Duration::from_secs(3)) {
                // Refused once it is on its way.
                let _ = monitor.write_all(b"system_powerdown\n");
                pressed = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An SSH key, settings that name it, and a disk.
fn instance(node: &Node, user_data: impl FnOnce(&str) -> String, disk: &[&str]) -> bool {
    let key = node.path("key").display().to_string();
    if !made("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]) {
        return false;
    }
    let public = fs::read_to_string(node.path("key.pub")).unwrap();
    let meta = format!("instance-id: one\nlocal-hostname: web\npublic-keys:\n  - {public}");
    let network = "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:12:34:56\"\n    addresses:\n      - 10.0.2.15/24\n    \
                   routes:\n      - to: 0.0.0.0/0\n        via: 10.0.2.2\n    nameservers:\n      addresses:\n        - 10.0.2.3\n      search:\n        \
                   - default.yun\n    mtu: 1450\n";
    settings(
        &node.path("settings"),
        &[("meta-data", meta), ("user-data", user_data(&public)), ("network-config", network.to_owned())],
    );
    made("qemu-img", &[&["create", "-q", "-f", "qcow2"], disk].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_small_vm_boots_lets_its_owner_in_keeps_its_disk_and_goes_down() {
    let node = Node::new();
    let Some(facts) = build(&node, &recipe(RecipeBase::SmallVm)).await else { return };
    assert_eq!((facts.kind, facts.min_disk, facts.config.clone()), (InstanceKind::Vm, Bytes(0), None));
    node.images.verify(&facts.digest).await.unwrap();
    assert_eq!(build(&node, &recipe(RecipeBase::SmallVm)).await.unwrap(), facts, "a rebuild gives the same image");
    if cfg!(not(target_arch = "x86_64")) {
        return eprintln!("SKIPPED: the machine of this test is x86-64");
    }
    let image = node.images.open(&facts.digest).await.unwrap();
    let script = |_: &str| "#!/bin/sh\necho \"$(hostname) ran it\" >>/root/ran\n".to_owned();
    if !instance(&node, script, &[&node.path("disk.qcow2").display().to_string(), "1G"]) {
        return;
    }
    let began = Instant::now();
    let Some(mut guest) = Guest::boot(&node, &image, "256M") else { return };
    guest.wait_for_ssh(Duration::from_secs(120));
    eprintln!("SSH answers after {:?}", began.elapsed());
    assert_eq!(
        guest.ssh(&node, "root", "hostname; cat /etc/resolv.conf"),
        "web\nsearch default.yun\nnameserver 10.0.2.3\n"
    );
    assert!(guest.ssh(&node, "root", "ip addr show eth0; ip route").contains("mtu 1450"));
    assert_eq!(guest.ssh(&node, "yun", "id -un; echo kept >~/file"), "yun\n");
    let host_key = guest.ssh(&node, "root", "dropbearkey -y -f /etc/dropbear/host_key | tail -n 1");
    // The script may still be running when the first login is through.
    let ran = guest.ssh(
        &node,
        "root",
        "for n in 1 2 3 4 5 6 7 8 9; do [ -s /root/ran ] && break; sleep 1; done; cat /root/ran",
    );
    assert_eq!(ran, "web ran it\n");
    guest.power_down(&node, Duration::from_secs(60));

    let mut guest = Guest::boot(&node, &image, "256M").unwrap();
    guest.wait_for_ssh(Duration::from_secs(120));
    assert_eq!(guest.ssh(&node, "yun", "cat file"), "kept\n");
    assert_eq!(guest.ssh(&node, "root", "cat /root/ran"), "web ran it\n", "once in the instance's life");
    assert_eq!(guest.ssh(&node, "root", "dropbearkey -y -f /etc/dropbear/host_key | tail -n 1"), host_key);
    assert!(guest.console().contains("web is up at 10.0.2.15/24 with 1 SSH keys"), "{}", guest.console());
}

/// A build that nobody waits for any more ends with all of its processes.
async fn given_up_in_the_middle(node: &Node) {
    let work = Followed::default();
    let begun = async {
        let mut progress = work.progress();
        progress.wait_for(|told| told.message.contains("essential packages")).await.unwrap();
    };
    let debian = recipe(RecipeBase::Debian);
    tokio::select! {
        built = node.images.build(&debian, &work) => panic!("{built:?}"),
        () = begun => {}
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.parts().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", node.parts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mine = format!("{}", node.dir.path().display());
    let left = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| fs::read_to_string(e.path().join("cmdline")).is_ok_and(|c| c.contains(&mine)));
    assert_eq!(left.count(), 0);
}

/// Takes minutes of processor time: runs only when it is asked for.
const SLOW: &str = "YUN_SLOW_TESTS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debian_is_built_as_container_and_as_vm() {
    if std::env::var_os(SLOW).is_none() {
        return eprintln!("SKIPPED: set {SLOW}=1 to build and boot Debian");
    }
    let node = Node::new();
    given_up_in_the_middle(&node).await;
    let with_package =
        ImageRecipe { packages: vec!["hello".into()], entrypoint: vec!["hello".into()], ..recipe(RecipeBase::Debian) };
    let Some(facts) = build(&node, &with_package).await else { return };
    assert!(facts.description.as_deref().unwrap().starts_with("Debian GNU/Linux"), "{facts:?}");
    node.images.verify(&facts.digest).await.unwrap();
    let said = Command::new("chroot").arg(node.layer(&facts.digest).await).arg("hello").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "Hello, world!\n");
    let facts = build(&node, &recipe(RecipeBase::DebianVm)).await.unwrap();
    let image = node.images.open(&facts.digest).await.unwrap();
    let base = image.disk.as_ref().unwrap().display().to_string();
    let cloud_config = |key: &str| {
        format!("#cloud-config\nhostname: web\nssh_authorized_keys:\n  - {key}runcmd:\n  - echo ran >/root/ran\n")
    };
    if !instance(
        &node,
        cloud_config,
        &["-b", &base, "-F", "qcow2", &node.path("disk.qcow2").display().to_string(), "4G"],
    ) {
        return;
    }
    let began = Instant::now();
    let Some(mut guest) = Guest::boot(&node, &image, "512M") else { return };
    guest.wait_for_ssh(Duration::from_secs(300));
    eprintln!("SSH answers after {:?}", began.elapsed());
    assert_eq!(guest.ssh(&node, "yun", "hostname; sudo id -un"), "web\nroot\n");
    let ran =
        guest.ssh(&node, "root", "for n in $(seq 30); do [ -s /root/ran ] && break; sleep 1; done; cat /root/ran");
    assert_eq!(ran, "ran\n");
    let size: u64 = guest.ssh(&node, "root", "df --output=size -k / | tail -n 1").trim().parse().unwrap();
    assert!(size > 3 << 20, "the file system fills the disk: {size} KiB");
    guest.power_down(&node, Duration::from_secs(120));
}
