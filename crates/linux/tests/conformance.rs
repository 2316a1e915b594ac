//! The suite of the driver traits on the real drivers: crun, QEMU, bridges and nftables, images on disk.
//!
//! Each test has a network namespace and a root directory of its own. Needs root and the programs; says so and skips without them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use async_trait::async_trait;
use bytes::Bytes as Chunk;
use futures::StreamExt;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    future::Future,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};
use tar::{EntryType, Header};
use uuid::Uuid;
use yun_drivers::{
    ImageDriver, ImageSource, ImportOptions,
    conformance::{self, Harness, Kit, Program},
};
use yun_engine::work::Followed;
use yun_linux::{
    container::{ContainerDriver, ContainerDriverOptions},
    host::Host,
    image::{ImageLimits, LinuxImages},
    meter::LinuxMeter,
    network::{LinuxNetwork, NetworkOptions},
    vm::{VmDriver, VmDriverOptions},
};
use yun_types::*;

/// A machine of its own, as far as the drivers can see.
struct Machine {
    kind: InstanceKind,
    host: Host,
    image: Digest,
    next: AtomicU8,
    _folder: tempfile::TempDir,
}

impl Machine {
    async fn new(kind: InstanceKind) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("yc")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .tempdir()
            .unwrap();
        let host = Host::open(folder.path()).unwrap();
        let images = LinuxImages::new(&host, ImageLimits::default());
        images.probe().await.unwrap();
        let bytes = content(kind, 0);
        let pieces: Vec<_> = bytes.chunks(64 << 10).map(|piece| Ok(Chunk::copy_from_slice(piece))).collect();
        let source = ImageSource::Upload(futures::stream::iter(pieces).boxed());
        let facts = images.import(source, &ImportOptions::default(), &Followed::default()).await.unwrap();
        Self { kind, host, image: facts.digest, next: AtomicU8::new(1), _folder: folder }
    }
}

/// An image; those with different marks have different digests.
fn content(kind: InstanceKind, mark: u8) -> Vec<u8> {
    match kind {
        InstanceKind::Container => rootfs(mark),
        InstanceKind::Vm => disk(mark),
    }
}

/// Busybox and nothing else.
fn rootfs(mark: u8) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, mode: u32, body: &[u8], target: Option<&str>| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        match target {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, body).unwrap(),
        }
    };
    for directory in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        add(EntryType::Directory, directory, 0o755, b"", None);
    }
    add(EntryType::Regular, "bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap(), None);
    add(EntryType::Regular, "etc/mark", 0o644, &[mark], None);
    for applet in ["sh", "echo", "cat", "sleep", "true"] {
        add(EntryType::Symlink, &format!("bin/{applet}"), 0o777, b"", Some("busybox"));
    }
    tar.into_inner().unwrap()
}

/// A disk whose boot sector writes two lines to the serial port, then answers each byte with itself. A whole guest in 64 bytes: the suite
/// is about drivers.
fn disk(mark: u8) -> Vec<u8> {
    #[rustfmt::skip]
    let program = [
        0x31, 0xC0,                   //       xor ax, ax
        0x8E, 0xD8,                   //       mov ds, ax
        0xBE, 0x34, 0x7C,             //       mov si, text
        0xFC,                         //       cld
        0xAC,                         // next: lodsb
        0x84, 0xC0,                   //       test al, al
        0x74, 0x05,                   //       jz echo
        0xE8, 0x15, 0x00,             //       call put
        0xEB, 0xF6,                   //       jmp next
        0xFB,                         // echo: sti
        0xF4,                         //       hlt           ; until the next tick of the clock
        0xBA, 0xFD, 0x03,             //       mov dx, 0x3fd ; line status
        0xEC,                         //       in al, dx
        0xA8, 0x01,                   //       test al, 1
        0x74, 0xF6,                   //       jz echo
        0xBA, 0xF8, 0x03,             //       mov dx, 0x3f8 ; the byte
        0xEC,                         //       in al, dx
        0xE8, 0x02, 0x00,             //       call put
        0xEB, 0xED,                   //       jmp echo
        0x50,                         // put:  push ax
        0xBA, 0xFD, 0x03,             //       mov dx, 0x3fd
        0xEC,                         // wait: in al, dx
        0xA8, 0x20,                   //       test al, 0x20
        0x74, 0xFB,                   //       jz wait
        0x58,                         //       pop ax
        0xBA, 0xF8, 0x03,             //       mov dx, 0x3f8
        0xEE,                         //       out dx, al
        0xC3,                         //       ret
    ];
    let mut disk = program.to_vec();
    disk.extend_from_slice(b"\r\none\r\ntwo\r\n\0");
    disk.resize(510, 0);
    disk.extend_from_slice(&[0x55, 0xAA]);
    disk.resize(1 << 20, 0);
    disk[4096] = mark;
    disk
}

const POLITE: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

fn script(program: Program) -> Vec<String> {
    let text = match program {
        Program::Patient => POLITE.to_owned(),
        Program::Deaf => "trap '' TERM; echo one; echo two; while :; do sleep 1; done".to_owned(),
        Program::Talks => format!("echo one; echo two; {POLITE}"),
        Program::Exits(code) => format!("exit {code}"),
    };
    ["/bin/sh".to_owned(), "-c".to_owned(), text].to_vec()
}

/// The words that cases write into disks.
const WORDS: [&str; 7] = ["one", "two", "before", "after", "seed", "later", "kept"];
/// Where, and how much.
const MARK: &str = "640k 4k";

fn pattern(word: &str) -> usize {
    WORDS.iter().position(|known| *known == word).unwrap() + 1
}

fn qemu_io(disk: &std::path::Path, command: &str) -> String {
    let output = std::process::Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Machine {
    fn disk(&self, id: InstanceId) -> PathBuf {
        self.host.state().join("instances").join(id.to_string()).join("disk.qcow2")
    }
}

#[async_trait]
impl Harness for Machine {
    fn kind(&self) -> InstanceKind {
        self.kind
    }

    async fn kit(&self) -> Kit {
        let host = self.host.clone();
        let vm = Arc::new(VmDriver::new(host.clone(), VmDriverOptions::default()));
        let kit = Kit {
            instance: match self.kind {
                InstanceKind::Container => {
                    Arc::new(ContainerDriver::new(host.clone(), ContainerDriverOptions::default()).unwrap())
                }
                InstanceKind::Vm => vm.clone(),
            },
            snapshot: match self.kind {
                InstanceKind::Container => None,
                InstanceKind::Vm => Some(vm),
            },
            image: Arc::new(LinuxImages::new(&host, ImageLimits::default())),
            network: Arc::new(LinuxNetwork::new(host.clone(), NetworkOptions::default()).unwrap()),
            meter: Arc::new(LinuxMeter::new(host).unwrap()),
        };
        // Legal order: a process asks its drivers first.
        kit.image.probe().await.unwrap();
        kit.network.probe().await.unwrap();
        kit.instance.probe().await.unwrap();
        kit
    }

    fn image(&self) -> Digest {
        self.image.clone()
    }

    async fn mark(&self, id: InstanceId, word: &str) {
        qemu_io(&self.disk(id), &format!("write -q -P {} {MARK}", pattern(word)));
    }

    async fn marked(&self, id: InstanceId) -> String {
        let disk = self.disk(id);
        let is = |word: &&&str| {
            !qemu_io(&disk, &format!("read -P {} {MARK}", pattern(word))).contains("Pattern verification failed")
        };
        WORDS.iter().find(is).map_or_else(String::new, |word| (*word).to_owned())
    }

    fn upload(&self) -> Chunk {
        content(self.kind, 1).into()
    }

    fn network(&self) -> DesiredNetwork {
        let spec = NetworkSpec::new("10.209.0.0/16".parse().unwrap());
        DesiredNetwork {
            id: NetworkId(Uuid::from_u128(0xc0)),
            project: "default".parse().unwrap(),
            spec,
            records: Vec::new(),
        }
    }

    fn instance(&self, program: Program) -> DesiredInstance {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let container = ContainerOptions { entrypoint: Some(script(program)), ..ContainerOptions::default() };
        DesiredInstance {
            more_nics: vec![],
            volumes: vec![],
            id: InstanceId(Uuid::new_v4()),
            name: format!("i{number}").parse().unwrap(),
            project: "default".parse().unwrap(),
            kind: self.kind,
            generation: Generation(1),
            fence: 1,
            spec: InstanceSpec {
                networks: vec![],
                volumes: vec![],
                kind: Some(self.kind),
                image: "conformance".into(),
                size: "cpu:1,memory:64Mi,disk:64Mi".parse().unwrap(),
                power: Power::Running,
                restart: RestartPolicy::Never,
                restart_count: 0,
                publish: Vec::new(),
                node: None,
                stop_timeout: None,
                template: None,
                container: if self.kind == InstanceKind::Container { container } else { ContainerOptions::default() },
                vm: VmOptions::default(),
            },
            image: ImagePin { id: ImageId(Uuid::from_u128(1)), name: "conformance".into(), digest: self.image.clone() },
            nic: Nic {
                network: NetworkId(Uuid::from_u128(0xc0)),
                address: Ipv4Addr::new(10, 209, 1, number),
                mac: format!("02:00:0a:d1:01:{number:02x}"),
                publish: Vec::new(),
                index: 0,
                egress: None,
                ingress: None,
            },
            origin: Default::default(),
            deleting: false,
            restarts: 0,
            restart_count: 0,
            restores: 0,
        }
    }

    async fn leftovers(&self, id: InstanceId) -> Vec<String> {
        let (full, short) = (id.to_string(), id.short());
        let mut left = Vec::new();
        for path in [self.host.instance_dir(id), self.host.instance_run(id)] {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        left.extend(
            cgroups(&self.host.cgroup())
                .into_iter()
                .filter(|path| path.to_string_lossy().contains(&full))
                .map(|path| path.display().to_string()),
        );
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&full) || line.contains(&format!("/{short}")))
                .map(str::to_owned),
        );
        let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
        left.extend(
            String::from_utf8_lossy(&links.stdout).lines().filter(|line| line.contains(&short)).map(str::to_owned),
        );
        left.extend(
            processes(&[&full, &self.host.instance_run(id).to_string_lossy()])
                .into_iter()
                .map(|(pid, line)| format!("process {pid}: {line}")),
        );
        left
    }

    fn drops(&self) -> Vec<usize> {
        match self.kind {
            InstanceKind::Container => vec![0, 1, 2, 4, 8, 16, 32],
            InstanceKind::Vm => vec![0, 2, 16],
        }
    }
}

/// This cloud's directories in every cgroup hierarchy.
fn cgroups(cloud: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    let below =
        |root: PathBuf| fs::read_dir(root.join(cloud)).into_iter().flatten().flatten().map(|entry| entry.path());
    roots.into_iter().flat_map(below).filter(|path| path.is_dir()).collect()
}

/// The processes whose command line has one of these words, this one apart.
fn processes(words: &[&str]) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.iter().any(|word| line.contains(word)) && u32::try_from(pid) != Ok(std::process::id()) {
            found.push((pid, line));
        }
    }
    found
}

/// Removes this cloud's cgroups. The kernel needs a moment until a group whose processes were killed is empty.
fn remove_groups(cloud: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut roots: Vec<PathBuf> =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path().join(cloud)).collect();
    roots.push(Path::new("/sys/fs/cgroup").join(cloud));
    while Instant::now() < deadline && roots.iter().any(|root| root.exists()) {
        for path in cgroups(cloud).iter().chain(&roots) {
            let _ = fs::remove_dir(path);
        }
        std::thread::yield_now();
    }
}

/// A failed case must not leave a machine behind.
impl Drop for Machine {
    fn drop(&mut self) {
        let root = self.host.run().to_string_lossy().into_owned();
        let state = self.host.state().to_string_lossy().into_owned();
        for (pid, _) in processes(&[&root, &state]) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for path in cgroups(&self.host.cgroup()) {
            for pid in fs::read_to_string(path.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.parse().ok())
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        remove_groups(&self.host.cgroup());
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&root) || point.starts_with(&state))
            .collect();
        for point in points.iter().rev() {
            let _ = umount2(Path::new(point), MntFlags::MNT_DETACH);
        }
    }
}

/// Runs a test in a network namespace of its own, which ends with it.
fn on_a_machine<W: Future<Output = ()>>(programs: &'static [&'static str], test: impl FnOnce() -> W + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs root");
        return;
    }
    let there = |program: &&&str| Command::new(program).arg("--version").output().is_ok();
    if let Some(missing) = programs.iter().find(|program| !there(program)) {
        eprintln!("SKIPPED: this test needs {missing}");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        if programs.contains(&"qemu-system-x86_64") {
            see_own_interfaces();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `/sys/class/net` shows the interfaces of the namespace that mounted it: this mounts it for ours, in a mount namespace of our own.
fn see_own_interfaces() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let aside = tempfile::tempdir().unwrap();
    mount(Some("/sys/fs/cgroup"), aside.path(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
    mount(Some(aside.path()), "/sys/fs/cgroup", none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
    umount2(aside.path(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn images_conform() {
    on_a_machine(&["qemu-img"], || async {
        conformance::run_images(&Machine::new(InstanceKind::Container).await).await;
        conformance::run_images(&Machine::new(InstanceKind::Vm).await).await;
    });
}

#[test]
fn networks_conform_for_containers() {
    on_a_machine(&["nft"], || async { conformance::run_networks(&Machine::new(InstanceKind::Container).await).await });
}

#[test]
fn networks_conform_for_vms() {
    on_a_machine(&["nft"], || async { conformance::run_networks(&Machine::new(InstanceKind::Vm).await).await });
}

#[test]
fn containers_conform() {
    on_a_machine(&["nft", "crun", "busybox"], || async {
        conformance::run_instances(&Machine::new(InstanceKind::Container).await).await
    });
}

#[test]
fn vms_conform() {
    on_a_machine(&["nft", "qemu-system-x86_64"], || async {
        conformance::run_instances(&Machine::new(InstanceKind::Vm).await).await
    });
}
