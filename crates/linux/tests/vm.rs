//! VMs for real: QEMU with a guest that boots, answers, is frozen, shut down, killed, found again and removed. Emulated, so that the
//! tests say the same on every machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes as Chunk;
use futures::StreamExt;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
};
use yun_drivers::{
    Attachment, ErrorKind, ImageDriver, InstanceDriver, InstanceHandle, LocalImage, MachineDriver, Observed, Port,
};
use yun_engine::{
    session::{Input, LogRequest, Output, Session},
    work::Followed,
};
use yun_linux::{
    host::Host,
    image::{ImageLimits, LinuxImages},
    vm::{AccelChoice, VmDriver, VmDriverOptions},
};
use yun_types::{
    Accel, ContainerConfig, DesiredInstance, Generation, ImageId, ImagePin, ImageRecipe, InstanceId, InstanceKind,
    NetworkId, Nic, RecipeBase, VmBoot,
};

/// Far more than anything here takes on an idle machine.
const LONG: Duration = Duration::from_secs(180);

/// Why VMs cannot be tried here, if they cannot.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    ["qemu-system-x86_64", "qemu-img", "ip"]
        .into_iter()
        .find(|name| !found(name))
        .map(|name| format!("{name} is not installed"))
}

/// Leaves a test early, and says so.
macro_rules! need {
    ($condition:expr) => {
        match $condition {
            Ok(value) => value,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
    };
}

/// A node of its own, and one VM on it. Whatever a test does, nothing is left.
struct World {
    root: tempfile::TempDir,
    host: Host,
    driver: VmDriver,
    instance: DesiredInstance,
    tap: Option<String>,
}

static NEXT: AtomicU8 = AtomicU8::new(0);

impl World {
    fn new() -> Result<Self, String> {
        missing().map_or(Ok(()), Err)?;
        // A short path: sockets are below it.
        let root = tempfile::Builder::new().prefix("yv").tempdir().unwrap();
        let host = Host::open(root.path()).unwrap();
        Ok(Self { driver: driver(&host), root, host, instance: instance(), tap: None })
    }

    /// A second driver on the same host: what yun is after a restart.
    fn restarted(&self) -> VmDriver {
        driver(&Host::open(self.root.path()).unwrap())
    }

    /// A tap with the VM's gateway on it. Everything about the network is this one interface.
    fn network(&mut self) -> Attachment {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let third = u8::try_from(std::process::id() % 250).unwrap();
        let gateway = Ipv4Addr::new(10, 213, third, number * 4 + 1);
        let address = Ipv4Addr::new(10, 213, third, number * 4 + 2);
        let tap = self.host.tap(self.instance.id, 0);
        self.tap = Some(tap.clone());
        for line in [
            format!("tuntap add dev {tap} mode tap"),
            format!("addr add {gateway}/30 dev {tap}"),
            format!("link set {tap} up"),
        ] {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        }
        self.instance.nic.address = address;
        Attachment {
            instance: self.instance.id,
            network: self.instance.nic.network,
            nic: self.instance.nic.clone(),
            cidr: format!("{gateway}/30").parse().unwrap(),
            gateway,
            mtu: 1450,
            port: Port::Tap { interface: tap },
        }
    }

    fn dir(&self) -> PathBuf {
        self.host.instance_dir(self.instance.id)
    }

    fn pid(&self) -> i32 {
        std::fs::read_to_string(self.host.instance_run(self.instance.id).join("pid")).unwrap().trim().parse().unwrap()
    }

    fn groups(&self) -> Vec<PathBuf> {
        ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"].iter().map(|root| Path::new(root).join(self.host.cgroup())).collect()
    }

    async fn prepared(&self, image: &LocalImage, network: Option<&Attachment>) -> InstanceHandle {
        self.driver.prepare(&self.instance, image, network).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid_file = self.host.instance_run(self.instance.id).join("pid");
        if let Ok(pid) = std::fs::read_to_string(pid_file) {
            let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
            if line.contains(&self.instance.id.to_string()) {
                kill(pid.trim().parse().unwrap());
            }
        }
        if let Some(tap) = &self.tap {
            let _ = Command::new("ip").args(["link", "del", tap]).status();
        }
        for group in self.groups() {
            // A group whose last process has just died is busy for a moment.
            let deadline = Instant::now() + Duration::from_secs(5);
            while group.exists() && Instant::now() < deadline {
                let _ = std::fs::remove_dir(group.join(self.instance.id.to_string()));
                let _ = std::fs::remove_dir(&group);
            }
        }
    }
}

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

fn driver(host: &Host) -> VmDriver {
    VmDriver::new(host.clone(), VmDriverOptions { accel: AccelChoice::Tcg, program: None })
}

fn instance() -> DesiredInstance {
    let spec = serde_json::json!({
        "image": "small-vm", "size": "cpu:1,memory:256Mi,disk:64Mi",
        "vm": {"ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJlYWxseU5vdEFLZXlBdEFsbEJ1dExvbmdFbm91Z2g me@home"]},
    });
    let network = NetworkId(uuid::Uuid::new_v4());
    DesiredInstance {
        more_nics: vec![],
        volumes: vec![],
        id: InstanceId(uuid::Uuid::new_v4()),
        name: "web".parse().unwrap(),
        project: "default".parse().unwrap(),
        kind: InstanceKind::Vm,
        generation: Generation(1),
        fence: 1,
        spec: serde_json::from_value(spec).unwrap(),
        image: ImagePin { id: ImageId(uuid::Uuid::new_v4()), name: "small-vm".into(), digest: digest() },
        nic: Nic::new(network, Ipv4Addr::UNSPECIFIED, "02:00:00:00:00:05"),
        origin: Default::default(),
        deleting: false,
        restarts: 0,
        restart_count: 0,
        restores: 0,
    }
}

fn digest() -> yun_types::Digest {
    format!("sha256:{}", "0".repeat(64)).parse().unwrap()
}

/// An image without anything to boot.
fn blank() -> LocalImage {
    LocalImage {
        digest: digest(),
        kind: InstanceKind::Vm,
        layers: vec![],
        config: ContainerConfig::default(),
        disk: None,
        kernel: None,
        initrd: None,
        boot: Some(VmBoot::Disk),
    }
}

/// A disk with nothing on it, as an image.
fn blank_disk(world: &World) -> LocalImage {
    let path = world.root.path().join("blank.qcow2");
    assert!(
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("8M").status().unwrap().success()
    );
    LocalImage { disk: Some(path), ..blank() }
}

/// The small VM. Built once and kept for the next time.
async fn small_vm() -> Result<LocalImage, String> {
    static IMAGE: OnceCell<Result<LocalImage, String>> = OnceCell::const_new();
    IMAGE
        .get_or_init(async || build_small_vm().await.map_err(|e| format!("the small VM cannot be built here: {e}")))
        .await
        .clone()
}

async fn build_small_vm() -> yun_drivers::Result<LocalImage> {
    let host = Host::open(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm")).unwrap();
    let images = LinuxImages::new(&host, ImageLimits::default());
    // Images need nothing that ends with the uptime.
    let _ = std::fs::remove_dir(host.run());
    if let Some(facts) = images.list().await?.into_iter().find(|image| image.kind == InstanceKind::Vm) {
        return images.open(&facts.digest).await;
    }
    let recipe =
        ImageRecipe { base: RecipeBase::SmallVm, packages: vec![], suite: None, entrypoint: vec![], command: vec![] };
    let facts = images.build(&recipe, &Followed::default()).await?;
    images.open(&facts.digest).await
}

/// Polls until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not happen within {LONG:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read_until(session: &mut Session, want: &str) {
    let mut got = String::new();
    while !got.contains(want) {
        match tokio::time::timeout(LONG, session.output.recv()).await {
            Ok(Some(Output::Stdout(bytes))) => got.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} instead of {want:?}, after {got:?}"),
        }
    }
}

async fn type_into(session: &Session, text: &'static str) {
    session.input.send(Input::Stdin(Chunk::from_static(text.as_bytes()))).await.unwrap();
}

fn is_running(observed: &Observed) -> bool {
    matches!(observed, Observed::Running { .. })
}

#[tokio::test]
async fn a_vm_boots_answers_and_ends_as_it_is_asked_to() {
    let mut world = need!(World::new());
    let image = need!(small_vm().await);
    let network = world.network();
    let driver = &world.driver;
    let handle = world.prepared(&image, Some(&network)).await;
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Absent);

    let begun = Instant::now();
    let handle = driver.start(&handle).await.unwrap();
    let started = begun.elapsed();
    assert!(is_running(&driver.recover(&handle).await.unwrap()));
    assert_eq!(handle.driver["accel"], serde_json::json!(Accel::Tcg));
    driver.ready(&handle, LONG).await.unwrap();
    let answered = begun.elapsed();
    let banner = ssh_banner(network.nic.address).await;
    eprintln!("QEMU runs after {started:?}, the guest answers after {answered:?}, SSH after {:?}", begun.elapsed());
    assert!(banner.starts_with("SSH-2.0-"), "{banner}");

    // The same start again changes nothing.
    let pid = world.pid();
    driver.start(&handle).await.unwrap();
    assert_eq!(world.pid(), pid);

    // Frozen, the guest answers nobody; a new yun sees it so.
    driver.pause(&handle).await.unwrap();
    assert!(matches!(world.restarted().recover(&handle).await.unwrap(), Observed::Paused { .. }));
    let error = driver.ready(&handle, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.reason, "BootTimeout");
    driver.resume(&handle).await.unwrap();
    driver.ready(&handle, LONG).await.unwrap();

    // The power button: the guest shuts itself down, and both drivers hear of it.
    let second = world.restarted();
    let (exit, seen) = tokio::join!(driver.stop(&handle, LONG), second.wait(&handle));
    let exit = exit.unwrap().unwrap();
    assert!(exit.success() && exit.signal.is_none(), "{exit:?}");
    assert_eq!(seen.unwrap(), Some(exit));
    assert_eq!(second.recover(&handle).await.unwrap(), Observed::Ended { exit: Some(exit) });
    let error = driver.resume(&handle).await.unwrap_err();
    assert!(error.message.contains("yun start web"), "{error}");

    // Once more from the same disk, and then the plug is pulled.
    let handle = driver.start(&handle).await.unwrap();
    driver.ready(&handle, LONG).await.unwrap();
    let exit = driver.stop(&handle, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));

    driver.remove(world.instance.id).await.unwrap();
    assert!(!world.dir().exists() && !world.host.instance_run(world.instance.id).exists());
    for group in world.groups() {
        assert!(!group.join(world.instance.id.to_string()).exists());
    }
    assert_eq!(driver.recover(&handle).await.unwrap(), Observed::Absent);
}

async fn ssh_banner(address: Ipv4Addr) -> String {
    let mut text = String::new();
    until("an SSH server", async || {
        let Ok(mut stream) = TcpStream::connect((address, 22)).await else { return false };
        let mut buffer = [0; 64];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
        text = read
            .ok()
            .and_then(Result::ok)
            .map(|size| String::from_utf8_lossy(&buffer[..size]).into_owned())
            .unwrap_or_default();
        !text.is_empty()
    })
    .await;
    text
}

#[tokio::test]
async fn several_people_share_the_console_and_the_log_keeps_what_it_said() {
    let world = need!(World::new());
    let image = need!(small_vm().await);
    let driver = &world.driver;
    let handle = driver.start(&world.prepared(&image, None).await).await.unwrap();
    let mut log = driver.logs(world.instance.id, LogRequest { follow: true, ..LogRequest::default() }).await.unwrap();
    while let Some(line) = log.next().await {
        if String::from_utf8_lossy(&line.unwrap().text).contains("web is up") {
            break;
        }
    }
    let (mut one, mut two) = (driver.console(&handle).await.unwrap(), driver.console(&handle).await.unwrap());
    // What one types, the shell in the guest computes, and both see.
    type_into(&one, "echo sum-$((40+2))\r").await;
    read_until(&mut one, "sum-42").await;
    read_until(&mut two, "sum-42").await;
    // Control characters reach the guest: this ends the program that would run for ever.
    type_into(&two, "sh -c 'echo begun-$((3+3)); exec sleep 100000'\r").await;
    read_until(&mut two, "begun-6").await;
    type_into(&two, "\x03echo ended-$((1+1))\r").await;
    read_until(&mut two, "ended-2").await;
    // QEMU writes to the sockets first, and to the log then.
    until("the log has what the console showed", async || {
        let tail = LogRequest { tail: Some(5), ..LogRequest::default() };
        let tail = driver.logs(world.instance.id, tail).await.unwrap();
        let tail: Vec<_> = tail.map(|line| String::from_utf8_lossy(&line.unwrap().text).into_owned()).collect().await;
        tail.iter().any(|line| line.starts_with("ended-2"))
    })
    .await;

    // The guest ends by itself: that is success, the log ends, and so do the sessions when nobody starts it again.
    type_into(&one, "poweroff -f\r").await;
    let exit = tokio::time::timeout(LONG, driver.wait(&handle)).await.unwrap().unwrap().unwrap();
    assert!(exit.success(), "{exit:?}");
    while log.next().await.is_some() {}
    drop(two);
    loop {
        match tokio::time::timeout(LONG, one.output.recv()).await.unwrap() {
            Some(Output::Stdout(_)) => {}
            Some(Output::Error(why)) => break assert!(why.contains("yun start"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    driver.remove(world.instance.id).await.unwrap();
}

#[tokio::test]
async fn a_killed_qemu_is_noticed_by_its_parent_and_by_strangers() {
    let world = need!(World::new());
    let handle = world.prepared(&blank_disk(&world), None).await;
    let handle = world.driver.start(&handle).await.unwrap();
    let (first, second) = (world.restarted(), world.restarted());
    let waits = async { tokio::join!(world.driver.wait(&handle), first.wait(&handle)) };
    let murder = async {
        assert!(is_running(&second.recover(&handle).await.unwrap()));
        kill(world.pid());
    };
    let ((parent, stranger), ()) = tokio::time::timeout(LONG, async { tokio::join!(waits, murder) }).await.unwrap();
    let exit = parent.unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(stranger.unwrap().unwrap().signal, Some(9));
    assert!(matches!(second.recover(&handle).await.unwrap(), Observed::Ended { exit: Some(_) }));
    world.driver.remove(world.instance.id).await.unwrap();
}

#[tokio::test]
async fn a_vm_that_never_boots_fails_with_the_end_of_its_console() {
    let mut world = need!(World::new());
    let network = world.network();
    let handle = world.prepared(&blank_disk(&world), Some(&network)).await;
    let handle = world.driver.start(&handle).await.unwrap();
    // The firmware says it within a second or two; the message must carry that, whatever the limit was.
    let console = world.dir().join("console.log");
    until("the firmware's complaint", async || {
        std::fs::read_to_string(&console).is_ok_and(|text| text.contains("No bootable device"))
    })
    .await;
    let error = world.driver.ready(&handle, Duration::from_millis(500)).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Timeout, "BootTimeout"));
    assert!(
        error.message.contains("VM web does not answer") && error.message.contains("No bootable device"),
        "{error}"
    );
    let ended = async { tokio::join!(world.driver.ready(&handle, LONG), async { kill(world.pid()) }) };
    let error = tokio::time::timeout(LONG, ended).await.unwrap().0.unwrap_err();
    assert_eq!(error.reason, "EndedAtBoot");
    world.driver.remove(world.instance.id).await.unwrap();
}

#[tokio::test]
async fn a_busy_interface_a_missing_one_and_a_stolen_disk_are_named() {
    let mut world = need!(World::new());
    let mut other = need!(World::new());
    let network = world.network();
    let handle = world.driver.start(&world.prepared(&blank_disk(&world), Some(&network)).await).await.unwrap();

    other.instance.name = "db".parse().unwrap();
    let theirs = other.prepared(&blank_disk(&other), Some(&network)).await;
    let error = other.driver.start(&theirs).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "TapBusy"), "{error}");
    assert!(error.message.starts_with("cannot start VM db: another process has its network interface open"), "{error}");
    assert!(!is_running(&other.driver.recover(&theirs).await.unwrap()));

    let gone = Attachment { port: Port::Tap { interface: "yt-not-here".into() }, ..network.clone() };
    let theirs = other.prepared(&blank_disk(&other), Some(&gone)).await;
    assert_eq!(other.driver.start(&theirs).await.unwrap_err().reason, "TapMissing");

    // A second node that works in the same directory by mistake: QEMU's own lock on the disk keeps it out.
    let theirs = other.prepared(&blank_disk(&other), None).await;
    let disk = other.dir().join("disk.qcow2");
    std::fs::remove_file(&disk).unwrap();
    std::fs::hard_link(world.dir().join("disk.qcow2"), &disk).unwrap();
    let error = other.driver.start(&theirs).await.unwrap_err();
    assert_eq!(error.reason, "DiskInUse", "{error}");

    assert!(is_running(&world.driver.recover(&handle).await.unwrap()));
    other.driver.remove(other.instance.id).await.unwrap();
    world.driver.remove(world.instance.id).await.unwrap();
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_is_found_and_finished() {
    let world = need!(World::new());
    let handle = world.prepared(&blank_disk(&world), None).await;
    // Dropped at the first moment when it waits for something, which is after QEMU was born.
    world.driver.probe().await.unwrap();
    let started = tokio::time::timeout(Duration::ZERO, world.driver.start(&handle)).await;
    assert!(started.is_err());
    let second = world.restarted();
    // Even the record may be missing: QEMU's own pid file is enough.
    until("QEMU's pid file", async || world.host.instance_run(world.instance.id).join("pid").exists()).await;
    let _ = std::fs::remove_file(world.dir().join("run.json"));
    until("a running VM", async || is_running(&second.recover(&handle).await.unwrap())).await;
    let pid = world.pid();
    let handle = second.start(&handle).await.unwrap();
    assert_eq!(handle.driver["process"]["pid"], serde_json::json!(pid));
    second.remove(world.instance.id).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid), "QEMU {pid} lives");
}

/// Its parent is this process, which may not have reaped it yet.
fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_new_generation_brings_a_larger_disk_and_new_settings_and_keeps_what_is_there() {
    let mut world = need!(World::new());
    let image = blank_disk(&world);
    let size_of = |world: &World| {
        let header = std::fs::read(world.dir().join("disk.qcow2")).unwrap();
        u64::from_be_bytes(header[24..32].try_into().unwrap())
    };
    let first = world.prepared(&image, None).await;
    assert_eq!(size_of(&world), 64 << 20);
    let settings = std::fs::read(world.dir().join("cidata.img")).unwrap();

    world.instance.generation = Generation(2);
    world.instance.spec.size = "cpu:1,memory:256Mi,disk:96Mi".parse().unwrap();
    world.instance.spec.vm.user_data = Some("#!/bin/sh\n".into());
    let second = world.prepared(&image, None).await;
    assert_eq!((first.generation, second.generation), (Generation(1), Generation(2)));
    assert_eq!(size_of(&world), 96 << 20);
    assert_ne!(std::fs::read(world.dir().join("cidata.img")).unwrap(), settings);

    // Under a running guest too.
    let handle = world.driver.start(&second).await.unwrap();
    world.instance.spec.size = "cpu:1,memory:256Mi,disk:128Mi".parse().unwrap();
    world.prepared(&image, None).await;
    assert_eq!(size_of(&world), 128 << 20);
    assert!(is_running(&world.driver.recover(&handle).await.unwrap()));

    // Half a core is a ceiling.
    world.driver.remove(world.instance.id).await.unwrap();
    world.instance.spec.size = "cpu:0.5,memory:256Mi,disk:64Mi".parse().unwrap();
    let handle = world.prepared(&image, None).await;
    world.driver.start(&handle).await.unwrap();
    let quota = Path::new("/sys/fs/cgroup/cpu")
        .join(world.host.cgroup())
        .join(world.instance.id.to_string())
        .join("cpu.cfs_quota_us");
    match std::fs::read_to_string(&quota) {
        Ok(text) => assert_eq!(text.trim(), "50000"),
        Err(_) => eprintln!("SKIPPED: this host has no cpu controller of cgroups v1 to look at"),
    }
    world.driver.remove(world.instance.id).await.unwrap();
}

/// Set in the process that starts a VM and dies.
const DIES: &str = "YUN_TEST_VM_STARTER_DIES";

#[tokio::test]
async fn a_vm_outlives_the_process_that_started_it() {
    if let Ok(root) = std::env::var(DIES) {
        let host = Host::open(Path::new(&root)).unwrap();
        let handle = std::fs::read(Path::new(&root).join("handle")).unwrap();
        driver(&host).start(&serde_json::from_slice(&handle).unwrap()).await.unwrap();
        kill(i32::try_from(std::process::id()).unwrap());
    }
    let world = need!(World::new());
    let handle = world.prepared(&blank_disk(&world), None).await;
    std::fs::write(world.root.path().join("handle"), serde_json::to_vec(&handle).unwrap()).unwrap();
    let name = "a_vm_outlives_the_process_that_started_it";
    let mut starter = tokio::process::Command::new(std::env::current_exe().unwrap());
    let status = starter.args(["--exact", name]).env(DIES, world.root.path()).output().await.unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));

    assert!(is_running(&world.driver.recover(&handle).await.unwrap()));
    world.driver.pause(&handle).await.unwrap();
    assert!(matches!(world.driver.recover(&handle).await.unwrap(), Observed::Paused { .. }));
    let exit = world.driver.stop(&handle, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(exit.signal, Some(9));
    world.driver.remove(world.instance.id).await.unwrap();
}

#[tokio::test]
async fn the_probe_says_how_vms_run_and_why() {
    let world = need!(World::new());
    let auto = VmDriver::new(world.host.clone(), VmDriverOptions::default());
    let begun = Instant::now();
    let facts = auto.probe().await.unwrap();
    eprintln!("the probe took {:?} and says {facts:?}", begun.elapsed());
    assert!(facts.ready && facts.engine.unwrap().starts_with("QEMU "));
    match facts.accel.unwrap() {
        Accel::Kvm => assert_eq!(facts.message, None),
        Accel::Tcg => assert!(facts.message.unwrap().contains("/dev/kvm")),
    }
    // What was found out once is not tried again.
    let begun = Instant::now();
    VmDriver::new(world.host.clone(), VmDriverOptions::default()).probe().await.unwrap();
    eprintln!("the second probe took {:?}", begun.elapsed());
    assert!(world.host.state().join("vm-accel.json").exists());
}

/// A connection into the guest that has said nothing yet but the server's first words.
async fn connection(address: Ipv4Addr) -> TcpStream {
    let mut stream = None;
    until("the guest's SSH server answers", async || {
        let Ok(mut there) = TcpStream::connect((address, 22)).await else { return false };
        let mut hello = [0; 4];
        let heard = tokio::time::timeout(Duration::from_secs(5), there.read_exact(&mut hello)).await;
        if !matches!(heard, Ok(Ok(_))) {
            return false;
        }
        stream = Some(there);
        true
    })
    .await;
    stream.unwrap()
}

/// The guest goes on with a connection from before: it answers our first words with the rest of its own.
async fn answers(mut stream: TcpStream) {
    stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    let (mut heard, mut piece) = (0, [0; 1024]);
    while heard < 64 {
        let read = tokio::time::timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap();
        assert_ne!(read, 0, "the guest hung up");
        heard += read;
    }
}

#[tokio::test]
async fn a_guest_moves_into_a_fresh_qemu_and_keeps_its_connections() {
    let mut world = need!(World::new());
    let image = need!(small_vm().await);
    let network = world.network();
    let handle = world.prepared(&image, Some(&network)).await;
    let error = world.driver.renew(&handle).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "NotRunning"), "{error}");
    let handle = world.driver.start(&handle).await.unwrap();
    world.driver.ready(&handle, LONG).await.unwrap();
    let stream = connection(network.nic.address).await;
    let before = world.pid();
    let renewed = world.driver.renew(&handle).await.unwrap();
    eprintln!("the guest stood still for {:?}", renewed.downtime);
    assert_ne!(world.pid(), before);
    assert!(is_running(&world.driver.recover(&renewed.handle).await.unwrap()));
    answers(stream).await;
    // The console is that of the new process, and a new yun finds it.
    let mut console = world.driver.console(&renewed.handle).await.unwrap();
    type_into(&console, "\recho still-$((1+1))\r").await;
    read_until(&mut console, "still-2").await;
    let again = world.restarted().renew(&renewed.handle).await.unwrap();
    let exit = world.driver.stop(&again.handle, LONG).await.unwrap().unwrap();
    assert!(exit.success(), "{exit:?}");
    assert!(!world.dir().join("run.next.json").exists() && !world.dir().join("events.next.json").exists());
    world.driver.remove(world.instance.id).await.unwrap();
    assert!(!world.dir().exists());
}

#[tokio::test]
async fn a_move_that_is_cut_short_leaves_the_guest_in_one_place() {
    let mut world = need!(World::new());
    let image = need!(small_vm().await);
    let network = world.network();
    let handle = world.prepared(&image, Some(&network)).await;
    let mut handle = world.driver.start(&handle).await.unwrap();
    world.driver.ready(&handle, LONG).await.unwrap();
    // Each time the process that moves it dies a little later: before the next QEMU answers, while it copies, after that.
    for step in [0, 1, 2, 4, 8, 16] {
        let stream = connection(network.nic.address).await;
        let (root, moved) = (world.root.path().to_owned(), handle.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.spawn(async move { driver(&Host::open(&root).unwrap()).renew(&moved).await });
            std::thread::sleep(Duration::from_millis(100 * step));
            // Whatever it was doing, it does no more.
            runtime.shutdown_timeout(LONG);
        })
        .join()
        .unwrap();
        let later = world.restarted();
        assert!(is_running(&later.recover(&handle).await.unwrap()), "after {step}");
        answers(stream).await;
        assert_eq!(qemus(&world), 1, "after {step}");
        handle = later.start(&handle).await.unwrap();
    }
    world.driver.remove(world.instance.id).await.unwrap();
    assert_eq!(qemus(&world), 0);
}

/// How many processes the VM has.
fn qemus(world: &World) -> usize {
    let id = world.instance.id.to_string();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == id.as_bytes())
    })
    .count()
}
