//! A host of its own for each test: a network namespace in which the driver believes to be alone, so tests neither see each other nor the
//! machine they run on. It ends with the test's thread; mounts are undone also after a failure.

#![allow(dead_code, unsafe_code, clippy::unwrap_used, clippy::cast_possible_truncation, reason = "for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests of a driver start the programs that show what it did")]

pub(crate) mod card;

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
};
use std::{
    fs::File,
    future::Future,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use yun_drivers::{Attachment, NetworkDriver, Port};
use yun_linux::{
    host::Host,
    network::{LinuxNetwork, NetworkOptions, Resolvers},
};
use yun_types::{DesiredNetwork, DnsRecord, InstanceId, InstanceKind, NetworkId, NetworkSpec, Nic};

/// Where the fake resolver of the outside world listens on the host.
pub(crate) const RESOLVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99)), 5399);

/// One host with one driver.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) host: Host,
    pub(crate) driver: LinuxNetwork,
}

/// Runs a test on a fresh host.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: this test needs root and nft");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let host = Host::open(folder.path()).unwrap();
        let world = World { driver: open(&host), folder, host };
        runtime.block_on(test(world));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A driver as after a restart of yun.
pub(crate) fn open(host: &Host) -> LinuxNetwork {
    let options =
        NetworkOptions { resolvers: Resolvers::Fixed(vec![RESOLVER]), dial_limit: Duration::from_millis(300) };
    LinuxNetwork::new(host.clone(), options).unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.host.run().join("netns")).into_iter().flatten().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
    }
}

impl World {
    /// Another cloud on the same host.
    pub(crate) fn beside(_: &World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::open(folder.path()).unwrap();
        Self { driver: open(&host), folder, host }
    }

    /// A network `10.200.N.0/24` of a project `pN`, ensured.
    pub(crate) async fn network(&self, n: u8, names: &[(&str, u8)]) -> NetworkId {
        let network = network(n, names);
        self.driver.ensure(&network).await.unwrap();
        network.id
    }

    /// A container with the address `10.200.N.LAST`.
    pub(crate) async fn container(&self, n: u8, last: u8, publish: &[&str]) -> Inside {
        let attachment =
            self.driver.attach(instance(n, last), InstanceKind::Container, &nic(n, last, publish)).await.unwrap();
        Inside::of(&attachment)
    }
}

/// What [`World::network`] ensures.
pub(crate) fn network(n: u8, names: &[(&str, u8)]) -> DesiredNetwork {
    let record = |(name, last): &(&str, u8)| DnsRecord { name: format!("{name}.p{n}.yun"), address: address(n, *last) };
    DesiredNetwork {
        id: network_id(n),
        project: format!("p{n}").parse().unwrap(),
        spec: NetworkSpec::new(format!("10.200.{n}.0/24").parse().unwrap()),
        records: names.iter().map(record).collect(),
    }
}

pub(crate) fn network_id(n: u8) -> NetworkId {
    NetworkId(uuid::Uuid::from_u128(0xaa00 + u128::from(n)))
}

pub(crate) fn instance(n: u8, last: u8) -> InstanceId {
    InstanceId(uuid::Uuid::from_u128(0xbb_0000 + u128::from(n) * 256 + u128::from(last)))
}

pub(crate) fn address(n: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, n, last)
}

pub(crate) fn nic(n: u8, last: u8, publish: &[&str]) -> Nic {
    Nic {
        network: network_id(n),
        address: address(n, last),
        mac: format!("02:00:00:00:{n:02x}:{last:02x}"),
        publish: publish.iter().map(|p| p.parse().unwrap()).collect(),
        index: 0,
        egress: None,
        ingress: None,
    }
}

/// A namespace that can be entered.
pub(crate) struct Inside {
    pub(crate) path: PathBuf,
    _kept: Option<File>,
}

impl Inside {
    pub(crate) fn of(attachment: &Attachment) -> Self {
        let Port::Namespace { path, .. } = &attachment.port else { panic!("{attachment:?}") };
        Self { path: path.clone(), _kept: None }
    }

    /// A machine outside, on a cable to the host: the host is `192.0.2.1`, it is `192.0.2.2`.
    pub(crate) fn outside() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let file = file.join().unwrap();
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let outside = Self { path, _kept: Some(file) };
        sh(&format!(
            "ip link add up0 type veth peer name eth0 && ip link set eth0 netns {} && ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up",
            outside.path.display()
        ));
        outside.sh("ip link set lo up && ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up");
        outside
    }

    /// Runs code whose sockets belong to the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path.clone();
        let thread = std::thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            code()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell line inside and returns what it printed; panics if it fails.
    pub(crate) fn sh(&self, line: &str) -> String {
        let (ok, text) = self.try_sh(line);
        assert!(ok, "{line}: {text}");
        text
    }

    pub(crate) fn try_sh(&self, line: &str) -> (bool, String) {
        shell(Command::new("nsenter").arg(format!("--net={}", self.path.display())).args(["sh", "-c", line]))
    }

    pub(crate) fn pings(&self, to: impl std::fmt::Display) -> bool {
        self.try_sh(&format!("ping -c 1 -W 1 {to}")).0
    }

    /// Answers every TCP connection on a port with the address that it came from.
    pub(crate) fn serve_tcp(&self, port: u16) {
        let listener = self.run(move || TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let from = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(from.as_bytes());
            }
        });
    }

    /// Answers every datagram on a port with itself.
    pub(crate) fn serve_udp(&self, port: u16) {
        let socket = self.run(move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }

    /// What a TCP server says first.
    pub(crate) fn hears(&self, at: (impl Into<std::net::IpAddr>, u16)) -> std::io::Result<String> {
        let at = SocketAddr::new(at.0.into(), at.1);
        self.run(move || hear(at))
    }
}

/// What a TCP server says first, from the host.
pub(crate) fn hear(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(700))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// True if a datagram comes back.
pub(crate) fn echoes(at: (Ipv4Addr, u16)) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    socket.connect(at).unwrap();
    socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok()
}

/// Runs a shell line on the test's host and returns what it printed; panics if it fails.
pub(crate) fn sh(line: &str) -> String {
    let (ok, text) = shell(Command::new("sh").args(["-c", line]));
    assert!(ok, "{line}: {text}");
    text
}

fn shell(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Links, rules and files that are left on this host.
pub(crate) fn leftovers(host: &Host) -> Vec<String> {
    let mut left: Vec<String> =
        sh("ip -o link show").lines().filter(|l| l.contains(": y")).map(str::to_owned).collect();
    left.extend(sh("nft list tables").lines().map(str::to_owned));
    for folder in ["net", "netns"] {
        left.extend(files(&host.run().join(folder)));
    }
    left
}

pub(crate) fn files(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path().display().to_string()).collect()
}
