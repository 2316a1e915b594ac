//! Messages to the kernel's routing socket: links, addresses, routes, neighbours.
//!
//! Messages are built with `rtnetlink` and sent in batches: one system call carries all of them, the kernel answers each. Sockets are
//! opened for each batch: that takes some ten microseconds, and a socket belongs to the namespace in which it was opened, which is the
//! point of it when containers are connected. Calls block for as long as the kernel's link lock is held, so callers use a blocking thread.

use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{
            InfoBridge, InfoBridgePort, InfoData, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
            LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{io, net::Ipv4Addr, os::fd::RawFd};

use super::mac::Mac;

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// What we wrote on it when we made it.
    pub(super) alias: Option<String>,
    /// The bridge that it is a port of.
    pub(super) bridge: Option<u32>,
    pub(super) up: bool,
}

/// Messages that are sent together. Each names what it does, for errors, and the failure that is as good as success.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<(NetlinkMessage<RouteNetlinkMessage>, String, Option<Errno>)>,
}

impl Batch {
    fn push(&mut self, message: RouteNetlinkMessage, flags: u16, what: String, fine: Option<Errno>) -> &mut Self {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.messages.push((message, what, fine));
        self
    }

    /// A bridge; ok if it exists.
    pub(super) fn add_bridge(&mut self, name: &str) -> &mut Self {
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            // Instances hear each other's multicasts without asking for them: few ports, and no querier is needed.
            .set_info_data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]))
            .build();
        let what = format!("make the bridge {name}");
        self.push(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what, Some(Errno::EEXIST))
    }

    /// A cable: `name` here, a port of `bridge` and up; `eth0` with `mac` in the namespace of `inside`.
    pub(super) fn add_cable(
        &mut self,
        name: &str,
        end: &str,
        bridge: u32,
        mtu: u16,
        mac: Mac,
        inside: RawFd,
    ) -> &mut Self {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(end.to_owned())
            .mtu(mtu.into())
            .address(mac.0.to_vec())
            .setns_by_fd(inside)
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(name, end)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(mtu.into())
            .controller(bridge)
            .up()
            .build();
        let what = format!("make the cable {name}");
        self.push(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what, None)
    }

    /// Removes a link; ok if it is not there.
    pub(super) fn delete_link(&mut self, name: &str) -> &mut Self {
        let message = LinkUnspec::new_with_name(name).build();
        self.push(RouteNetlinkMessage::DelLink(message), 0, format!("remove the link {name}"), Some(Errno::ENODEV))
    }

    /// Changes a link that exists.
    pub(super) fn set_link(
        &mut self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> &mut Self {
        let message = change(LinkUnspec::new_with_name(name)).build();
        self.push(RouteNetlinkMessage::SetLink(message), 0, format!("configure the link {name}"), None)
    }

    /// Lets a port of a bridge get back what it sent: an instance that calls itself through a published port of the host. What else would
    /// come back is dropped by the packet filter.
    pub(super) fn reflect(&mut self, name: &str) -> &mut Self {
        let message = LinkUnspec::new_with_name(name)
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
            .build();
        self.push(RouteNetlinkMessage::NewLink(message), 0, format!("configure the bridge port {name}"), None)
    }

    /// Gives an address to a link; ok if it has it.
    pub(super) fn add_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> &mut Self {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(address, prefix).build();
        self.push(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("give the address {address}"),
            None,
        )
    }

    /// Takes an address from a link.
    pub(super) fn delete_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> &mut Self {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(address, prefix).build();
        let what = format!("take the address {address}");
        self.push(RouteNetlinkMessage::DelAddress(message), 0, what, Some(Errno::EADDRNOTAVAIL))
    }

    /// The way to everything else; ok if it exists.
    pub(super) fn add_default_route(&mut self, gateway: Ipv4Addr) -> &mut Self {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.push(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("route through {gateway}"),
            None,
        )
    }

    /// Fixes which card has an address: nobody else can claim it, and DHCP answers need no question first.
    pub(super) fn add_neighbour(&mut self, link: u32, address: Ipv4Addr, mac: Mac) -> &mut Self {
        let mut message = neighbour(link, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let what = format!("fix the neighbour {address}");
        self.push(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, what, None)
    }

    /// Forgets which card had an address; ok if nothing was known.
    pub(super) fn delete_neighbour(&mut self, link: u32, address: Ipv4Addr) -> &mut Self {
        let message = neighbour(link, address);
        self.push(
            RouteNetlinkMessage::DelNeighbour(message),
            0,
            format!("forget the neighbour {address}"),
            Some(Errno::ENOENT),
        )
    }

    /// Sends everything and waits for every answer. The first failure is returned; later messages were tried all the same.
    pub(super) fn run(mut self, socket: &Socket) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (sequence, (message, ..)) in (1u32..).zip(&mut self.messages) {
            message.header.sequence_number = sequence;
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        socket.send(&bytes, 0)?;
        let mut failure = None;
        let mut open = self.messages.len();
        while open > 0 {
            each_message(&socket.recv_from_full()?.0, |answer| {
                let NetlinkPayload::Error(error) = answer.payload else { return };
                open -= 1;
                let (Some(code), Some((_, what, fine))) = (
                    error.code,
                    (answer.header.sequence_number as usize).checked_sub(1).and_then(|i| self.messages.get(i)),
                ) else {
                    return;
                };
                let errno = Errno::from_raw(-code.get());
                if *fine != Some(errno) && failure.is_none() {
                    failure =
                        Some(io::Error::new(io::Error::from(errno).kind(), format!("cannot {what}: {}", errno.desc())));
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends everything over a socket of the caller's namespace.
    pub(super) fn run_here(self) -> io::Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        self.run(&open()?)
    }
}

fn neighbour(link: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message
}

/// A socket to the kernel that sees the namespace of the calling thread.
pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn each_message(mut bytes: &[u8], mut act: impl FnMut(NetlinkMessage<RouteNetlinkMessage>)) -> io::Result<()> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4);
        act(message);
        if length == 0 || length > bytes.len() {
            break;
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

/// Asks for everything of a kind.
fn dump(request: RouteNetlinkMessage, mut act: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let socket = open()?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut result = Ok(());
    let mut done = false;
    while !done {
        each_message(&socket.recv_from_full()?.0, |answer| match answer.payload {
            NetlinkPayload::InnerMessage(inner) => act(inner),
            NetlinkPayload::Done(_) => done = true,
            NetlinkPayload::Error(error) => {
                done = true;
                if let Some(code) = error.code {
                    result = Err(io::Error::from_raw_os_error(-code.get()));
                }
            }
            _ => {}
        })?;
    }
    result
}

/// Every link of the host.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            links.extend(read_link(message));
        }
    })?;
    Ok(links)
}

/// One link of the host.
pub(super) fn link(name: &str) -> io::Result<Option<Link>> {
    let socket = open()?;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build()));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Ok(None);
    each_message(&socket.recv_from_full()?.0, |message| match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => answer = Ok(read_link(link)),
        NetlinkPayload::Error(error) => {
            if let Some(code) = error.code
                && Errno::from_raw(-code.get()) != Errno::ENODEV
            {
                answer = Err(io::Error::from_raw_os_error(-code.get()));
            }
        }
        _ => {}
    })?;
    answer
}

fn read_link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        bridge: None,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(bridge) => link.bridge = Some(bridge),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// Every IPv4 address of the host, with the index of its link.
pub(super) fn addresses() -> io::Result<Vec<(u32, Ipv4Net)>> {
    let mut addresses = Vec::new();
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    dump(RouteNetlinkMessage::GetAddress(request), |answer| {
        let RouteNetlinkMessage::NewAddress(message) = answer else { return };
        for attribute in &message.attributes {
            if let AddressAttribute::Address(std::net::IpAddr::V4(address)) = attribute
                && let Ok(net) = Ipv4Net::new(*address, message.header.prefix_len)
            {
                addresses.push((message.header.index, net));
            }
        }
    })?;
    Ok(addresses)
}

/// The destinations of the host's main routing table, with the index of the link that leads there.
pub(super) fn routes() -> io::Result<Vec<(Option<u32>, Ipv4Net)>> {
    let mut routes = Vec::new();
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    dump(RouteNetlinkMessage::GetRoute(request), |answer| {
        let RouteNetlinkMessage::NewRoute(message) = answer else { return };
        if message.header.table != RouteHeader::RT_TABLE_MAIN {
            return;
        }
        let link = message
            .attributes
            .iter()
            .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None });
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(RouteAddress::Inet(to)) = attribute
                && let Ok(net) = Ipv4Net::new(*to, message.header.destination_prefix_length)
            {
                routes.push((link, net.trunc()));
            }
        }
    })?;
    Ok(routes)
}
