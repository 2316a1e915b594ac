//! DHCP (RFC 2131): tells each known card the address that was decided for it. It gives out nothing of its own choice, so it has nothing to
//! keep: a lease is forever true, and only as long as it is, because a client asks again now and then.
//!
//! Cards that nobody announced are not answered. Answers come from what is known when the question arrives.

use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{DhcpOption, Message, MessageType, Opcode, OptionCode},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};
use tokio::net::UdpSocket;
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Protocol;

use super::{Knowledge, Names, Network};
use crate::network::{mac::Mac, ports};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// A week: addresses do not change during an instance's life.
const LEASE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A socket that hears only one bridge, so that each network has its own, and other DHCP servers on other interfaces are left alone.
pub(super) fn listen(bridge: &str) -> Result<UdpSocket> {
    let open = || -> io::Result<UdpSocket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &OsString::from(bridge))?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT)))?;
        UdpSocket::from_std(fd.into())
    };
    open().map_err(|e| {
        if e.kind() != io::ErrorKind::AddrInUse {
            return DriverError::io(format!("listen for DHCP on {bridge}"), e);
        }
        let who = ports::who_serves(Protocol::Udp, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT));
        let who = who.unwrap_or_else(|| "another program".to_owned());
        let message = format!(
            "cannot serve DHCP on {bridge}: {who} has udp port 67 on all interfaces; bind it to its own interface (dnsmasq: bind-interfaces)"
        );
        DriverError::new(ErrorKind::Conflict, "PortTaken", message).with(e)
    })
}

/// Answers until it is aborted.
pub(super) async fn serve(knowledge: Arc<Knowledge>, socket: UdpSocket) {
    let mut buffer = vec![0; 2048];
    loop {
        let length = match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => length,
            Err(e) => {
                // The bridge went away; whoever removed it ends this task or brings the bridge back.
                tracing::debug!(bridge = knowledge.network.bridge, "dhcp: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some((answer, to)) = answer(&knowledge, &buffer[..length]) else { continue };
        if let Err(e) = socket.send_to(&answer, SocketAddrV4::new(to, CLIENT_PORT)).await {
            tracing::warn!(bridge = knowledge.network.bridge, "cannot send a DHCP answer to {to}: {e}");
        }
    }
}

/// False for options whose lengths the decoder trusts where it should not: it would panic in a build with assertions.
fn lengths_are_sound(packet: &[u8]) -> bool {
    /// After the fixed part and the cookie.
    const OPTIONS: usize = 240;
    const PAD: u8 = 0;
    const END: u8 = 255;
    let mut rest = packet.get(OPTIONS..).unwrap_or_default();
    // Pieces of one option are put together before they are read.
    let mut seen = [false; 256];
    while let Some((&code, after)) = rest.split_first() {
        if code == PAD {
            rest = after;
            continue;
        }
        if code == END {
            break;
        }
        let Some((&length, after)) = after.split_first() else { break };
        let sound = match code {
            80 => length == 0,
            81 => length >= 3,
            94 => length == 3,
            151 => length >= 1,
            152..=155 => length == 4,
            _ => true,
        };
        let judged = matches!(code, 80 | 81 | 94 | 151..=155);
        if !sound || judged && std::mem::replace(&mut seen[usize::from(code)], true) {
            return false;
        }
        rest = after.get(usize::from(length)..).unwrap_or_default();
    }
    true
}

/// The answer to a packet, and the address it goes to. Never panics, whatever the bytes.
fn answer(knowledge: &Knowledge, packet: &[u8]) -> Option<(Vec<u8>, Ipv4Addr)> {
    // The third byte is the length of the card's address; other lengths are no Ethernet, and the decoder trusts it.
    if packet.get(1..3) != Some(&[1, 6]) || !lengths_are_sound(packet) {
        return None;
    }
    let request = Message::decode(&mut Decoder::new(packet)).ok()?;
    if request.opcode() != Opcode::BootRequest || !request.giaddr().is_unspecified() {
        return None;
    }
    let mac = Mac(request.chaddr().try_into().ok()?);
    let address = knowledge.lease(mac)?;
    let (mut reply, to) = decide(&knowledge.network, &knowledge.names(), &request, address)?;
    if knowledge.network.isolated || knowledge.is_second(mac) {
        reply.opts_mut().remove(OptionCode::Router);
    }
    if knowledge.network.isolated && !knowledge.is_second(mac) {
        // RFC 3442: without a way out, metadata is reached all the same.
        let route = (ipnet::Ipv4Net::from(super::metadata::ADDRESS), knowledge.network.gateway);
        reply.opts_mut().insert(DhcpOption::ClasslessStaticRoute(vec![route]));
    }
    let mut bytes = Vec::with_capacity(512);
    reply.encode(&mut Encoder::new(&mut bytes)).ok()?;
    // Some old clients refuse packets below the least size of BOOTP (RFC 1542, 2.1).
    bytes.resize(bytes.len().max(300), 0);
    Some((bytes, to))
}

fn decide(network: &Network, names: &Names, request: &Message, address: Ipv4Addr) -> Option<(Message, Ipv4Addr)> {
    let option = |code| request.opts().get(code);
    let Some(DhcpOption::MessageType(kind)) = option(OptionCode::MessageType) else { return None };
    match kind {
        MessageType::Discover => Some(offer(network, names, request, address, MessageType::Offer)),
        MessageType::Request => {
            if matches!(option(OptionCode::ServerIdentifier), Some(DhcpOption::ServerIdentifier(server)) if *server != network.gateway)
            {
                return None;
            }
            let wanted = match option(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(wanted)) => *wanted,
                _ => request.ciaddr(),
            };
            if wanted == address {
                Some(offer(network, names, request, address, MessageType::Ack))
            } else {
                Some(refuse(network, request))
            }
        }
        MessageType::Inform => {
            let (mut reply, _) = offer(network, names, request, address, MessageType::Ack);
            reply.set_yiaddr(Ipv4Addr::UNSPECIFIED).opts_mut().remove(OptionCode::AddressLeaseTime);
            // It has an address, and says which; only its own is answered to.
            (request.ciaddr() == address).then_some((reply, address))
        }
        // The address stays with its card: nothing to take back.
        _ => None,
    }
}

fn reply_to(request: &Message, network: &Network, kind: MessageType) -> Message {
    let mut reply = Message::new_with_id(
        request.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        request.giaddr(),
        request.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply).set_flags(request.flags());
    reply.opts_mut().insert(DhcpOption::MessageType(kind));
    reply.opts_mut().insert(DhcpOption::ServerIdentifier(network.gateway));
    reply
}

fn offer(
    network: &Network,
    names: &Names,
    request: &Message,
    address: Ipv4Addr,
    kind: MessageType,
) -> (Message, Ipv4Addr) {
    let mut reply = reply_to(request, network, kind);
    reply.set_yiaddr(address).set_ciaddr(request.ciaddr()).set_siaddr(network.gateway);
    let options = reply.opts_mut();
    options.insert(DhcpOption::AddressLeaseTime(u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX)));
    options.insert(DhcpOption::SubnetMask(network.cidr.netmask()));
    options.insert(DhcpOption::BroadcastAddr(network.cidr.broadcast()));
    options.insert(DhcpOption::Router(vec![network.gateway]));
    options.insert(DhcpOption::DomainNameServer(vec![network.gateway]));
    options.insert(DhcpOption::InterfaceMtu(network.mtu));
    options.insert(DhcpOption::DomainName(network.domain.clone()));
    if let Ok(domain) = network.domain.parse() {
        options.insert(DhcpOption::DomainSearch(vec![domain]));
    }
    if let Some(host) = names.name(address).and_then(|n| n.split('.').next()) {
        options.insert(DhcpOption::Hostname(host.to_owned()));
    }
    // RFC 2131, 4.1: to the address if the client can hear it there. Which card has it is known to the kernel.
    let to = if request.flags().broadcast() { Ipv4Addr::BROADCAST } else { address };
    (reply, to)
}

fn refuse(network: &Network, request: &Message) -> (Message, Ipv4Addr) {
    let mut reply = reply_to(request, network, MessageType::Nak);
    let text = "this card has another address here";
    reply.opts_mut().insert(DhcpOption::Message(text.to_owned()));
    (reply, Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use yun_types::DnsRecord;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 5);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);

    fn knowledge() -> Knowledge {
        let network = Network {
            bridge: "yb1".to_owned(),
            cidr: "10.77.3.0/24".parse().unwrap(),
            gateway: GATEWAY,
            mtu: 1450,
            domain: "default.yun".to_owned(),
            isolated: false,
        };
        let knowledge = Knowledge::new(network);
        knowledge.set_lease(MAC, ADDRESS);
        knowledge.set_names(Names::new(&[DnsRecord { name: "web.default.yun".to_owned(), address: ADDRESS }]));
        knowledge
    }

    fn ask(mac: Mac, kind: MessageType, change: impl FnOnce(&mut Message)) -> Option<(Message, Ipv4Addr)> {
        let mut message = Message::default();
        message.set_xid(77).set_chaddr(&mac.0).opts_mut().insert(DhcpOption::MessageType(kind));
        change(&mut message);
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        let (bytes, to) = answer(&knowledge(), &bytes)?;
        Some((Message::decode(&mut Decoder::new(&bytes)).unwrap(), to))
    }

    #[test]
    fn a_known_card_is_offered_everything_it_needs() {
        let (offer, to) = ask(MAC, MessageType::Discover, |_| {}).unwrap();
        assert_eq!((offer.xid(), offer.yiaddr(), to), (77, ADDRESS, ADDRESS));
        let has = |option: DhcpOption| assert_eq!(offer.opts().get(OptionCode::from(&option)), Some(&option));
        has(DhcpOption::MessageType(MessageType::Offer));
        has(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        has(DhcpOption::Router(vec![GATEWAY]));
        has(DhcpOption::DomainNameServer(vec![GATEWAY]));
        has(DhcpOption::InterfaceMtu(1450));
        has(DhcpOption::Hostname("web".to_owned()));
        has(DhcpOption::DomainName("default.yun".to_owned()));
        has(DhcpOption::AddressLeaseTime(604_800));
        assert!(
            matches!(offer.opts().get(OptionCode::DomainSearch), Some(DhcpOption::DomainSearch(d)) if d[0].to_ascii().trim_end_matches('.') == "default.yun")
        );
    }

    #[test]
    fn without_a_way_out_only_metadata_has_a_route() {
        let inside = Knowledge::new(Network { isolated: true, ..knowledge().network });
        inside.set_lease(MAC, ADDRESS);
        let routes = |known: &Knowledge| {
            let mut message = Message::default();
            message.set_chaddr(&MAC.0).opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
            let mut bytes = Vec::new();
            message.encode(&mut Encoder::new(&mut bytes)).unwrap();
            let offer = Message::decode(&mut Decoder::new(&answer(known, &bytes).unwrap().0)).unwrap();
            let has = |code| offer.opts().get(code).cloned();
            (has(OptionCode::Router), has(OptionCode::ClasslessStaticRoute))
        };
        let metadata = ("169.254.169.254/32".parse().unwrap(), GATEWAY);
        assert_eq!(routes(&inside), (None, Some(DhcpOption::ClasslessStaticRoute(vec![metadata]))));
        assert_eq!(routes(&knowledge()), (Some(DhcpOption::Router(vec![GATEWAY])), None));
        inside.set_second(MAC);
        assert_eq!(routes(&inside), (None, None));
    }

    #[test]
    fn who_cannot_hear_unicast_gets_a_broadcast() {
        let (_, to) = ask(MAC, MessageType::Discover, |m| _ = m.set_flags(m.flags().set_broadcast())).unwrap();
        assert_eq!(to, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn requests_are_confirmed_or_refused() {
        let request = |address| {
            ask(MAC, MessageType::Request, |m| _ = m.opts_mut().insert(DhcpOption::RequestedIpAddress(address)))
                .unwrap()
        };
        assert_eq!(request(ADDRESS).0.opts().msg_type(), Some(MessageType::Ack));
        let (nak, to) = request(Ipv4Addr::new(10, 77, 3, 6));
        assert_eq!(
            (nak.opts().msg_type(), nak.yiaddr(), to),
            (Some(MessageType::Nak), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
        );
        let renewal = ask(MAC, MessageType::Request, |m| _ = m.set_ciaddr(ADDRESS)).unwrap().0;
        assert_eq!(renewal.opts().msg_type(), Some(MessageType::Ack));
    }

    #[test]
    fn others_are_not_answered() {
        assert!(ask(Mac([2, 0, 0, 0, 0, 6]), MessageType::Discover, |_| {}).is_none());
        assert!(ask(MAC, MessageType::Release, |_| {}).is_none());
        assert!(ask(MAC, MessageType::Discover, |m| _ = m.set_giaddr([10, 0, 0, 1])).is_none());
        let other_server =
            |m: &mut Message| drop(m.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 77, 3, 9))));
        assert!(ask(MAC, MessageType::Request, other_server).is_none());
    }

    #[test]
    fn inform_gets_options_without_a_lease() {
        let (ack, to) = ask(MAC, MessageType::Inform, |m| _ = m.set_ciaddr(ADDRESS)).unwrap();
        assert_eq!((ack.yiaddr(), to), (Ipv4Addr::UNSPECIFIED, ADDRESS));
        assert!(ack.opts().get(OptionCode::AddressLeaseTime).is_none());
    }

    #[test]
    fn options_of_a_wrong_length_are_not_read() {
        let packet = |options: &[u8]| [&[1, 1, 6][..], &[0; 237], options].concat();
        assert!(lengths_are_sound(&packet(&[53, 1, 1, 0, 255, 152])));
        assert!(lengths_are_sound(&packet(&[80, 0, 152, 4, 0, 0, 0, 0])));
        for wrong in [&[80, 1, 0][..], &[81, 2, 0, 0], &[94, 0], &[151, 0], &[152, 1, 0], &[80, 0, 80, 0]] {
            assert!(!lengths_are_sound(&packet(wrong)), "{wrong:?}");
            answer(&knowledge(), &packet(wrong));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            answer(&knowledge(), &bytes);
        }
        #[test]
        fn no_damaged_packet_panics(at in 0usize..260, byte in any::<u8>(), cut in 0usize..260) {
            let mut message = Message::default();
            message.set_chaddr(&MAC.0).opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
            let mut bytes = Vec::new();
            message.encode(&mut Encoder::new(&mut bytes)).unwrap();
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            answer(&knowledge(), &bytes);
            bytes.truncate(cut);
            answer(&knowledge(), &bytes);
        }
    }
}
