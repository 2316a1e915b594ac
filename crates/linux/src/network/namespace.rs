//! Network namespaces of containers: made, wired and kept by a file, without starting a process.
//!
//! The namespace is born on a thread of its own, because the thread that makes one is inside it. A bind mount of the thread's namespace
//! keeps it alive after the thread has ended. The thread holds a socket of the host from before and one from after: it wires both ends.

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, statfs},
};
use std::{
    fs::File,
    io,
    net::{Ipv4Addr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    carrier,
    mac::Mac,
    netlink::{self, Batch},
};

/// What the kernel says of files that are namespaces (`NSFS_MAGIC` of `linux/magic.h`).
const NAMESPACE: FsType = FsType(0x6e73_6673);

/// What others may know of an instance's namespace: who makes it first, and how it is entered, is not fixed. A namespace that is kept already is
/// wired as it is.
#[derive(Debug)]
pub(crate) struct Namespace;

impl Namespace {
    /// The file that keeps the network namespace of an instance.
    pub(crate) fn file(host: &crate::host::Host, instance: yun_types::InstanceId) -> PathBuf {
        host.run().join("netns").join(instance.to_string())
    }
    /// True if the file keeps a namespace, of whatever kind.
    pub(crate) fn is_kept(path: &Path) -> bool {
        is_kept(path)
    }
}

/// A container's connection.
#[derive(Debug, Clone)]
pub(super) struct Cable {
    /// The file that keeps the namespace.
    pub(super) path: PathBuf,
    /// The host's end.
    pub(super) interface: String,
    /// What is written on it.
    pub(super) alias: String,
    /// The bridge that it is a port of.
    pub(super) bridge: u32,
    pub(super) bridge_name: String,
    /// What it is called inside.
    pub(super) name: String,
    /// Whether the way out leads through it.
    pub(super) way_out: bool,
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
    pub(super) mtu: u16,
}

/// True if the file keeps a namespace.
pub(super) fn is_kept(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == NAMESPACE)
}

/// Connects to what listens on the loopback of a namespace that is kept. `None` if there is no such namespace.
pub(super) async fn connect_inside(path: PathBuf, port: u16, limit: Duration) -> Option<io::Result<TcpStream>> {
    if !is_kept(&path) {
        return None;
    }
    let (done, answer) = tokio::sync::oneshot::channel();
    // The thread stays in the namespace, and ends with it; a socket stays where it was made, whoever has it.
    let work = move || {
        let connect = || {
            setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
            let stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), limit)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // Nobody waits any more if the caller left.
        let _ = done.send(connect());
    };
    let started = std::thread::Builder::new().name("yun-dial".to_owned()).spawn(work);
    Some(match started {
        Ok(_) => answer.await.unwrap_or_else(|_| Err(io::Error::other("the thread that connects ended early"))),
        Err(e) => Err(e),
    })
}

/// Makes the namespace, or enters the one that is kept, and wires it.
pub(super) async fn connect(cable: Cable) -> io::Result<()> {
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("yun-netns".to_owned()).spawn(move || {
        // Nobody waits any more if the runtime is gone; the state file tells the next start.
        let _ = done.send(wire(&cable));
    })?;
    answer.await.unwrap_or_else(|_| Err(io::Error::other("the thread that wires the namespace ended early")))
}

fn wire(cable: &Cable) -> io::Result<()> {
    let (host, question) = (netlink::open()?, UdpSocket::bind("0.0.0.0:0")?);
    if is_kept(&cable.path) {
        setns(File::open(&cable.path)?, CloneFlags::CLONE_NEWNET)?;
    } else {
        if let Some(parent) = cable.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        File::create(&cable.path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &cable.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    let here = File::open("/proc/thread-self/ns/net")?;
    let mut outside = Batch::default();
    outside
        .delete_link(&cable.interface)
        .add_cable(&cable.interface, &cable.name, cable.bridge, cable.mtu, cable.mac, here.as_raw_fd())
        .set_link(&cable.interface, |link| link.alias(&*cable.alias))
        .reflect(&cable.interface)
        .add_neighbour(cable.bridge, cable.address, cable.mac);
    outside.run(&host)?;
    let card = nix::net::if_::if_nametoindex(&*cable.name)?;
    let mut inside = Batch::default();
    inside
        .set_link("lo", LinkMessage::up)
        .add_address(card, cable.address, cable.prefix)
        .set_link(&cable.name, LinkMessage::up);
    if cable.way_out {
        inside.add_default_route(cable.gateway);
    }
    inside.run(&netlink::open()?)?;
    carrier::settle(&UdpSocket::bind("0.0.0.0:0")?, &cable.name)?;
    // The port first: the bridge follows it.
    for link in [&cable.interface, &cable.bridge_name] {
        carrier::settle(&question, link)?;
    }
    Ok(())
}

type LinkMessage = rtnetlink::LinkMessageBuilder<rtnetlink::LinkUnspec>;

/// Lets the namespace go: it ends with its last process. Ok when nothing is there.
pub(super) fn release(path: &Path) -> io::Result<()> {
    if is_kept(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
