//! Published ports: taken for an instance, or refused with the name of who has them.
//!
//! Packets to a published port are led to the instance before any socket of the host is asked. A port is still *held* by a socket, so that
//! no program of the host believes that it serves that port, and no outgoing connection gets it by chance. TCP ports are bound but not
//! listened on: such a socket keeps others from listening, and answers nothing itself. It is closed with the process; the packets
//! are led on all the same.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{InstanceId, Protocol, PublishedPort};

/// The ports of this node that lead into instances. A port without a socket is one that only our own DNS has beside it.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// By the host's side of each port.
    held: Mutex<BTreeMap<InstanceId, BTreeMap<PublishedPort, Option<OwnedFd>>>>,
}

impl Ports {
    /// Takes exactly these ports for an instance; what it held and does not want any more is given back. If one cannot be had, everything
    /// stays as it was. `called` names instances.
    pub(super) fn hold(
        &self,
        instance: InstanceId,
        wanted: &[PublishedPort],
        called: impl Fn(InstanceId) -> String,
    ) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (i, port) in wanted.iter().enumerate() {
            if let Some(other) = wanted[..i].iter().find(|o| o.conflicts(port)) {
                return Err(taken(*port, &format!("the same instance publishes {other} too")));
            }
            let mut others = held.iter().filter(|(id, _)| **id != instance);
            if let Some((id, _)) = others.find(|(_, ports)| ports.keys().any(|o| o.conflicts(port))) {
                return Err(taken(*port, &format!("instance {} has it", called(*id))));
            }
        }
        let sides: BTreeMap<_, _> = wanted.iter().map(|p| (host_side(*p), *p)).collect();
        let before = held.remove(&instance).unwrap_or_default();
        let (kept, given_up): (BTreeMap<_, _>, BTreeMap<_, _>) =
            before.into_iter().partition(|(p, _)| sides.contains_key(p));
        // Closed first: what is given up may be in the way of what is wanted, on one address instead of on all.
        let given_up: Vec<PublishedPort> = given_up.into_keys().collect();
        let new = sides.iter().filter(|(side, _)| !kept.contains_key(side));
        let result: Result<BTreeMap<_, _>> = new.map(|(side, port)| Ok((*side, hold_one(*port)?))).collect();
        let (now, result) = match result {
            Ok(new) => (kept.into_iter().chain(new).collect::<BTreeMap<_, _>>(), Ok(())),
            Err(e) => {
                let again = given_up.into_iter().map(|p| (p, hold_one(p).unwrap_or_default()));
                (kept.into_iter().chain(again).collect(), Err(e))
            }
        };
        if !now.is_empty() {
            held.insert(instance, now);
        }
        result
    }

    /// Takes note of ports that packets are led from already, and holds those that can be held. Returns those that others have by now.
    pub(super) fn adopt(&self, instance: InstanceId, ports: &[PublishedPort]) -> Vec<DriverError> {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mine = held.entry(instance).or_default();
        let mut trouble = Vec::new();
        for port in ports {
            mine.entry(host_side(*port)).or_insert_with(|| {
                hold_one(*port).unwrap_or_else(|e| {
                    trouble.push(e);
                    None
                })
            });
        }
        trouble
    }

    /// Gives all ports of an instance back.
    pub(super) fn release(&self, instance: InstanceId) {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&instance);
    }
}

/// The port without what is inside: two that differ only there are held by the same socket.
fn host_side(port: PublishedPort) -> PublishedPort {
    PublishedPort { guest: port.host, ..port }
}

/// The refusal that names who has a port.
pub(super) fn taken(port: PublishedPort, who: &str) -> DriverError {
    let (number, protocol) = (port.host, port.protocol);
    let message = format!(
        "cannot publish {port}: {protocol} port {number} of the host is taken: {who}; choose another host port, or free this one"
    );
    DriverError::new(ErrorKind::Conflict, "PortTaken", message)
}

fn hold_one(port: PublishedPort) -> Result<Option<OwnedFd>> {
    let address = SocketAddrV4::new(port.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host.get());
    match bind_to(port.protocol, address, false) {
        Ok(socket) => Ok(Some(socket)),
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Err(DriverError::bad_request(
            "AddressNotHere",
            format!(
                "cannot publish {port}: {} is no address of this host (ip -4 address shows them); leave it out to answer on all",
                address.ip()
            ),
        )),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => held_by_others(port, address),
        Err(e) => Err(DriverError::io(format!("hold port {port}"), e)),
    }
}

/// How often a port that seems taken is looked at. A child of this process has all our sockets for the moment between its birth and its
/// program's start, also those that we have just closed; to look who has them takes longer than that moment.
const LOOKS: usize = 3;

fn held_by_others(port: PublishedPort, address: SocketAddrV4) -> Result<Option<OwnedFd>> {
    let mut holders = Vec::new();
    for _ in 0..LOOKS {
        holders = find_holders(port.protocol, address);
        if let Ok(socket) = bind_to(port.protocol, address, false) {
            return Ok(Some(socket));
        }
    }
    let serving = holders.iter().find(|h| h.serves);
    if serving.is_none()
        && port.protocol == Protocol::Tcp
        && let Ok(socket) = bind_to(Protocol::Tcp, address, true)
    {
        // Only the rests of closed connections were in the way.
        return Ok(Some(socket));
    }
    let mine = std::process::id();
    if port.host.get() == 53 && !holders.is_empty() && holders.iter().all(|h| h.pid == Some(mine)) {
        // Our own DNS answers on gateways only, which no published port covers.
        return Ok(None);
    }
    let hidden = "a program that holds it without listening, perhaps another yun on this host";
    Err(taken(port, &serving.or(holders.first()).map_or_else(|| hidden.to_owned(), ToString::to_string)))
}

fn bind_to(protocol: Protocol, address: SocketAddrV4, reuse: bool) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if reuse {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if protocol == Protocol::Udp {
        // Nobody reads it: let nothing pile up.
        setsockopt(&fd, sockopt::RcvBuf, &0)?;
    }
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(fd)
}

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    /// It answers there, in contrast to a connection that only passes.
    serves: bool,
    pid: Option<u32>,
    name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {} (pid {pid}) has it", self.name),
            None => f.write_str("a process that cannot be seen from here has it"),
        }
    }
}

/// A line of `/proc/net/{tcp,udp}{,6}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// `None` for an IPv6 address other than the unspecified one.
    address: Option<Ipv4Addr>,
    port: u16,
    serves: bool,
    inode: u64,
}

fn find_holders(protocol: Protocol, wanted: SocketAddrV4) -> Vec<Holder> {
    let mut inodes = BTreeMap::new();
    for version in ["", "6"] {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}{version}")).unwrap_or_default();
        for row in table.lines().skip(1).filter_map(|l| read_row(protocol, l)) {
            let overlaps =
                row.address.is_some_and(|a| a.is_unspecified() || wanted.ip().is_unspecified() || a == *wanted.ip());
            // Inode 0 is a connection whose program is gone.
            if row.port == wanted.port() && overlaps && row.inode != 0 {
                inodes.insert(row.inode, row.serves);
            }
        }
    }
    let owners = owners(&inodes.keys().copied().collect());
    inodes
        .into_iter()
        .map(|(inode, serves)| match owners.get(&inode) {
            Some((pid, name)) => Holder { serves, pid: Some(*pid), name: name.clone() },
            None => Holder { serves, pid: None, name: String::new() },
        })
        .collect()
}

fn read_row(protocol: Protocol, line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    // The kernel prints each word of the address in the byte order of the machine.
    let words: Vec<u32> = address
        .as_bytes()
        .chunks(8)
        .filter_map(|w| u32::from_str_radix(std::str::from_utf8(w).ok()?, 16).ok())
        .collect();
    let address = match words[..] {
        [word] => Some(Ipv4Addr::from(word.to_ne_bytes())),
        [0, 0, 0, 0] => Some(Ipv4Addr::UNSPECIFIED),
        [0, 0, mapped, word] if mapped == u32::from_ne_bytes([0, 0, 0xff, 0xff]) => {
            Some(Ipv4Addr::from(word.to_ne_bytes()))
        }
        _ => None,
    };
    // State 0A is LISTEN; UDP has no listening, whoever is bound there answers.
    let serves = protocol == Protocol::Udp || *fields.get(3)? == "0A";
    Some(Row { address, port: u16::from_str_radix(port, 16).ok()?, serves, inode: fields.get(9)?.parse().ok()? })
}

/// The processes that have these sockets open.
fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, (u32, String)> {
    let mut owners = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        for file in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let inode = std::fs::read_link(file.path())
                .ok()
                .and_then(|to| to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if let Some(inode) = inode.filter(|i| inodes.contains(i) && !owners.contains_key(i)) {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
                owners.insert(inode, (pid, name));
            }
        }
        if owners.len() == inodes.len() {
            break;
        }
    }
    owners
}

/// The process that serves a port of the host, as text for people. For checks before anything is taken.
pub(crate) fn who_serves(protocol: Protocol, address: SocketAddrV4) -> Option<String> {
    find_holders(protocol, address).into_iter().find(|h| h.serves).map(|h| match h.pid {
        Some(pid) => format!("{} (pid {pid})", h.name),
        None => "a process that cannot be seen from here".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, UdpSocket};

    fn port(text: String) -> PublishedPort {
        text.parse().unwrap()
    }

    fn id(n: u128) -> InstanceId {
        InstanceId(uuid::Uuid::from_u128(n))
    }

    /// A port that was free a moment ago.
    fn free() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_held_port_cannot_be_listened_on_by_others() {
        let (ports, number) = (Ports::default(), free());
        ports.hold(id(1), &[port(format!("127.0.0.1:{number}:80"))], |_| String::new()).unwrap();
        // The standard library sets SO_REUSEADDR, as most servers do.
        assert_eq!(TcpListener::bind(("127.0.0.1", number)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let refused = std::net::TcpStream::connect(("127.0.0.1", number)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        ports.release(id(1));
        TcpListener::bind(("127.0.0.1", number)).unwrap();
    }

    #[test]
    fn a_taken_port_names_the_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!() };
        let ports = Ports::default();
        let error = ports.hold(id(1), &[port(format!("{}:80", address.port()))], |_| String::new()).unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "PortTaken"));
        assert!(error.message.contains(&format!("(pid {})", std::process::id())), "{error}");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = socket.local_addr().unwrap().port();
        let error = ports.hold(id(1), &[port(format!("{number}:80/udp"))], |_| String::new()).unwrap_err();
        assert!(error.message.contains(&format!("(pid {})", std::process::id())), "{error}");
    }

    #[test]
    fn a_port_of_another_instance_names_it_and_all_or_nothing_is_taken() {
        let (ports, one, two) = (Ports::default(), free(), free());
        ports.hold(id(1), &[port(format!("127.0.0.1:{one}:80"))], |_| String::new()).unwrap();
        let wanted = [port(format!("127.0.0.1:{two}:80")), port(format!("127.0.0.1:{one}:81"))];
        let error = ports.hold(id(2), &wanted, |_| "web.default.yun".to_owned()).unwrap_err();
        assert!(error.message.contains("instance web.default.yun has it"), "{error}");
        TcpListener::bind(("127.0.0.1", two)).unwrap();
    }

    #[test]
    fn rests_of_closed_connections_are_not_in_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", number)).unwrap();
        drop(listener.accept().unwrap());
        drop((listener, client));
        Ports::default().hold(id(1), &[port(format!("127.0.0.1:{number}:80"))], |_| String::new()).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let error =
            Ports::default().hold(id(1), &[port("203.0.113.9:8080:80".to_owned())], |_| String::new()).unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "AddressNotHere"));
    }

    #[test]
    fn rows_of_the_kernel_are_read() {
        let row = |line| read_row(Protocol::Tcp, line).unwrap();
        let plain =
            row("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1");
        let address = Some(Ipv4Addr::from(0x0100_007f_u32.to_ne_bytes()));
        assert_eq!(plain, Row { address, port: 8080, serves: true, inode: 4711 });
        let wild = row(
            "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 12 1",
        );
        assert_eq!((wild.address, wild.port), (Some(Ipv4Addr::UNSPECIFIED), 22));
        assert!(read_row(Protocol::Tcp, "").is_none());
    }
}
