//! A cloud's worth of directories on this host, an image of busybox, and eyes for what is left behind.

use futures::TryStreamExt;
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use yun_drivers::{InstanceDriver, InstanceHandle, LocalImage, Observed};
use yun_engine::session::{ExecRequest, LogRequest, Output, Session};
use yun_linux::{
    container::{ContainerDriver, ContainerDriverOptions, cgroup::Layout},
    host::Host,
};
use yun_types::*;

/// How long anything may take on a host that is loaded by other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The programs of busybox that the tests use.
const PROGRAMS: &str = "sh cat sleep true false echo id env pwd hostname mount dd kill stty tty head ls grep seq touch mkdir wc tail date yes";

/// The cloud. Everything goes away with it, also when a test fails.
pub struct World {
    directory: tempfile::TempDir,
    pub host: Host,
    pub driver: ContainerDriver,
    layer: PathBuf,
    made: Mutex<Vec<InstanceId>>,
}

impl World {
    /// `None` where containers cannot be tested; says so.
    pub fn new() -> Option<Arc<Self>> {
        Self::with(ContainerDriverOptions::default())
    }

    pub fn with(options: ContainerDriverOptions) -> Option<Arc<Self>> {
        let busybox = Path::new("/bin/busybox");
        let missing = [
            (!nix::unistd::geteuid().is_root(), "root"),
            (!busybox.exists(), "/bin/busybox (busybox-static)"),
            (!["/usr/bin/crun", "/usr/local/bin/crun"].iter().any(|path| Path::new(path).exists()), "crun"),
        ];
        if let Some((_, what)) = missing.iter().find(|(missing, _)| *missing) {
            eprintln!("SKIPPED: containers need {what}");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("yc")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .tempdir()
            .unwrap();
        let layer = directory.path().join("layer");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "srv/data"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        fs::copy(busybox, layer.join("bin/busybox")).unwrap();
        for program in PROGRAMS.split(' ') {
            symlink("busybox", layer.join("bin").join(program)).unwrap();
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/data:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n").unwrap();
        fs::write(layer.join("bin/orphan"), "#!/usr/bin/perl\n").unwrap();
        fs::set_permissions(layer.join("bin/orphan"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(layer.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let host = Host::open(directory.path()).unwrap();
        let driver = ContainerDriver::new(host.clone(), options).unwrap();
        Some(Arc::new(Self { directory, host, driver, layer, made: Mutex::default() }))
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A driver as a new process would make it.
    pub fn fresh_driver(&self) -> ContainerDriver {
        ContainerDriver::new(self.host.clone(), ContainerDriverOptions::default()).unwrap()
    }

    pub fn image(&self) -> LocalImage {
        LocalImage {
            digest: Digest::from_sha256([7; 32]),
            kind: InstanceKind::Container,
            layers: vec![self.layer.clone()],
            config: ContainerConfig { command: vec!["sh".into()], ..Default::default() },
            disk: None,
            kernel: None,
            initrd: None,
            boot: None,
        }
    }

    /// An order for a container that runs this in a shell.
    pub fn order(&self, script: &str) -> DesiredInstance {
        let id = InstanceId(uuid::Uuid::new_v4());
        self.made.lock().unwrap().push(id);
        order(id, script)
    }

    /// Prepared and started.
    pub async fn run(&self, script: &str) -> InstanceHandle {
        self.run_order(&self.order(script)).await
    }

    pub async fn run_order(&self, order: &DesiredInstance) -> InstanceHandle {
        self.driver.enclose(order).await.unwrap();
        let handle = self.driver.prepare(order, &self.image(), None).await.unwrap();
        self.driver.start(&handle).await.unwrap()
    }

    /// Runs to the end: how it ended and what it wrote.
    pub async fn finish(&self, order: &DesiredInstance) -> (Exit, String) {
        let handle = self.run_order(order).await;
        let exit = within(self.driver.wait(&handle)).await.unwrap();
        let Some(exit) = exit else {
            let durable = self.host.instance_dir(order.id);
            let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
            panic!(
                "the end is not known: {:?} {:?} {:?}",
                text(durable.join("attempt")),
                text(durable.join("exit")),
                text(self.run_file(order.id, "running"))
            );
        };
        (exit, self.log(order.id).await)
    }

    pub async fn log(&self, id: InstanceId) -> String {
        let lines: Vec<_> = self.driver.logs(id, LogRequest::default()).await.unwrap().try_collect().await.unwrap();
        lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned() + "\n").collect()
    }

    /// Waits until the log holds this.
    pub async fn said(&self, id: InstanceId, text: &str) {
        until(&format!("the log says {text:?}"), || async { self.log(id).await.contains(text) }).await;
    }

    pub async fn exec(&self, handle: &InstanceHandle, command: &[&str]) -> Session {
        let request = ExecRequest { command: command.iter().map(|w| (*w).to_owned()).collect(), ..Default::default() };
        self.driver.exec(handle, request).await.unwrap()
    }

    pub async fn is_running(&self, handle: &InstanceHandle) -> bool {
        matches!(self.driver.recover(handle).await.unwrap(), Observed::Running { .. })
    }

    pub fn run_file(&self, id: InstanceId, name: &str) -> PathBuf {
        self.host.instance_run(id).join(name)
    }

    /// Pids of the main process and of the shim, as the shim wrote them.
    pub fn pids(&self, id: InstanceId) -> (i32, i32) {
        let text = fs::read_to_string(self.run_file(id, "running")).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        (words[1].parse().unwrap(), words[3].parse().unwrap())
    }

    /// Everything of this cloud that is still on the host, apart from its own directories.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (root, run) = (self.root().display().to_string(), self.host.run().display().to_string());
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&root) || line.contains(&run))
                .map(|line| format!("mount {line}")),
        );
        for path in Layout::detect().unwrap().everywhere(&self.host.cgroup()) {
            if path.exists() {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&run) && entry.file_name() != std::process::id().to_string().as_str() {
                left.push(format!("process {}: {line}", entry.path().display()));
            }
        }
        for directory in [self.host.run().join("i"), self.host.state().join("instances"), self.host.run().join("crun")]
        {
            left.extend(
                fs::read_dir(&directory)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| format!("file {}", e.path().display())),
            );
        }
        left
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (driver, made) = (self.driver.clone(), std::mem::take(&mut *self.made.lock().unwrap()));
        let spaces: Vec<_> = made.iter().map(|id| self.host.run().join("netns").join(id.to_string())).collect();
        // The test's own runtime may be gone, or be busy unwinding.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for id in made {
                    if let Err(e) = driver.remove(id).await {
                        eprintln!("cannot remove {id}: {e}");
                    }
                }
            });
        });
        removed.join().unwrap();
        // A network of its own is the network driver's to remove, and there is none here.
        for space in spaces {
            let _ = nix::mount::umount2(&space, nix::mount::MntFlags::MNT_DETACH);
            let _ = fs::remove_file(&space);
        }
        // A shim lets go of everything before the disk has its last word, and ends after that.
        let begin = Instant::now();
        let mut left = self.leftovers();
        while left.iter().any(|what| what.starts_with("process")) && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
            left = self.leftovers();
        }
        if !self.host.run().starts_with(self.root()) {
            let _ = fs::remove_dir_all(self.host.run());
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

/// An order for a container that runs this in a shell.
pub fn order(id: InstanceId, script: &str) -> DesiredInstance {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    DesiredInstance {
        more_nics: vec![],
        volumes: vec![],
        id,
        name: "web".parse().unwrap(),
        project: "shop".parse().unwrap(),
        kind: InstanceKind::Container,
        generation: Generation(1),
        fence: 1,
        spec: InstanceSpec {
            networks: vec![],
            volumes: vec![],
            kind: Some(InstanceKind::Container),
            image: "busybox".into(),
            size: "cpu:1,memory:64M,disk:1G".parse().unwrap(),
            power: Power::Running,
            restart: RestartPolicy::Never,
            restart_count: 0,
            publish: vec![],
            node: None,
            stop_timeout: None,
            template: None,
            container: ContainerOptions { command: Some(command), env: BTreeMap::new(), ..Default::default() },
            vm: VmOptions::default(),
        },
        image: ImagePin {
            id: ImageId(uuid::Uuid::new_v4()),
            name: "busybox".into(),
            digest: Digest::from_sha256([7; 32]),
        },
        nic: Nic {
            network: NetworkId(uuid::Uuid::new_v4()),
            address: Ipv4Addr::new(10, 77, 3, 9),
            mac: "02:00:00:00:00:09".into(),
            publish: vec![],
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

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this ends soon")
}

pub async fn until<W: Future<Output = bool>>(what: &str, mut question: impl FnMut() -> W) {
    let begin = Instant::now();
    while !question().await {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a session says until its last frame.
#[derive(Debug)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub last: Output,
}

impl Said {
    pub fn code(&self) -> i32 {
        match &self.last {
            Output::Exit(exit) => exit.code,
            other => panic!("it ends with {other:?}"),
        }
    }
}

pub async fn listen(session: &mut Session) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match within(session.output.recv()).await.expect("a last frame") {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
            last => {
                return Said {
                    out: String::from_utf8_lossy(&out).into(),
                    err: String::from_utf8_lossy(&err).into(),
                    last,
                };
            }
        }
    }
}
