//! DNS on the gateway: answers the names that it was told, passes every other question on, and invents nothing.
//!
//! The zone `yun` is ours: a name in it that was not told does not exist, whatever the world outside says, so the names of other projects
//! are not even asked for. A single label means an instance of the own project. Addresses of the network's range have the names that were
//! told, or none.
//!
//! Bounded: so many questions are on their way at once, so many TCP connections are open; above that, clients are told to try later.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, PTR, SOA},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Protocol;

use super::{
    Knowledge, Names, Network,
    upstream::{Transport, Upstream},
};
use crate::network::ports;

/// Questions of one network that wait for an answer from outside.
const MOST_QUESTIONS: usize = 256;
/// TCP connections of one network.
const MOST_CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Names follow instances, so answers are soon old. Seconds.
const TTL: u32 = 5;
/// What fits into a UDP answer if the client says nothing (RFC 1035), and the most we send (the DNS flag day's 1232).
const SMALL: u16 = 512;
const LARGE: u16 = 1232;

/// Sockets on the gateway's address only: other resolvers of the host are left alone.
pub(super) fn listen(network: &Network) -> Result<(UdpSocket, TcpListener)> {
    let address = SocketAddrV4::new(network.gateway, 53);
    let failed = |protocol: Protocol, e: io::Error| {
        if e.kind() != io::ErrorKind::AddrInUse {
            return DriverError::io(format!("listen for DNS on {address}"), e);
        }
        let who = ports::who_serves(protocol, address).unwrap_or_else(|| "another program".to_owned());
        let message = format!(
            "cannot serve DNS on {address}: {who} has {protocol} port 53 on all addresses; bind it to its own address (dnsmasq: bind-interfaces)"
        );
        DriverError::new(ErrorKind::Conflict, "PortTaken", message).with(e)
    };
    let udp = std::net::UdpSocket::bind(address).map_err(|e| failed(Protocol::Udp, e))?;
    let tcp = std::net::TcpListener::bind(address).map_err(|e| failed(Protocol::Tcp, e))?;
    let ready = || {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
    };
    ready().map_err(|e| DriverError::io(format!("listen for DNS on {address}"), e))
}

/// Answers datagrams until it is aborted.
pub(super) async fn serve_udp(knowledge: Arc<Knowledge>, upstream: Arc<Upstream>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut open = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = tokio::select! {
            Some(_) = open.join_next() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // A client that went away is told through the same socket.
                Err(_) => continue,
            },
        };
        let question = &buffer[..length];
        match answer(&knowledge, question, Transport::Udp, client(from)) {
            Answer::None => {}
            Answer::Here(bytes) => send(&socket, &bytes, from).await,
            Answer::Elsewhere if knowledge.network.isolated => {
                send(&socket, &failure(question, ResponseCode::Refused), from).await;
            }
            Answer::Elsewhere if open.len() >= MOST_QUESTIONS => {
                send(&socket, &failure(question, ResponseCode::ServFail), from).await;
            }
            Answer::Elsewhere => {
                let (socket, upstream, question) = (socket.clone(), upstream.clone(), question.to_vec());
                let gateway = knowledge.network.gateway;
                open.spawn(async move {
                    let answer = upstream.ask(&question, Transport::Udp, gateway).await;
                    send(&socket, &answer.unwrap_or_else(|| failure(&question, ResponseCode::ServFail)), from).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(e) = socket.send_to(bytes, to).await {
        tracing::debug!("cannot send a DNS answer to {to}: {e}");
    }
}

/// Answers connections until it is aborted.
pub(super) async fn serve_tcp(knowledge: Arc<Knowledge>, upstream: Arc<Upstream>, listener: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if open.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    let (knowledge, upstream) = (knowledge.clone(), upstream.clone());
                    // A client that breaks off is its own affair.
                    open.spawn(async move { drop(converse(&knowledge, &upstream, stream, client(from)).await) });
                }
                Err(e) => {
                    tracing::warn!("cannot accept a DNS connection: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

fn client(from: SocketAddr) -> Option<Ipv4Addr> {
    if let SocketAddr::V4(from) = from { Some(*from.ip()) } else { None }
}

async fn converse(
    knowledge: &Knowledge,
    upstream: &Upstream,
    mut stream: TcpStream,
    from: Option<Ipv4Addr>,
) -> io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(timeout(SILENCE, stream.read_u16()).await??)];
        timeout(SILENCE, stream.read_exact(&mut question)).await??;
        let reply = match answer(knowledge, &question, Transport::Tcp, from) {
            Answer::None => return Ok(()),
            Answer::Here(bytes) => bytes,
            Answer::Elsewhere if knowledge.network.isolated => failure(&question, ResponseCode::Refused),
            Answer::Elsewhere => {
                let answer = upstream.ask(&question, Transport::Tcp, knowledge.network.gateway).await;
                answer.unwrap_or_else(|| failure(&question, ResponseCode::ServFail))
            }
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        timeout(SILENCE, stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat())).await??;
    }
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is none.
    None,
    /// These bytes.
    Here(Vec<u8>),
    /// Others know.
    Elsewhere,
}

/// Never panics, whatever the bytes. `from` is who asks: they are told the names of all networks that they are in.
fn answer(knowledge: &Knowledge, bytes: &[u8], transport: Transport, from: Option<Ipv4Addr>) -> Answer {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Answer::None };
    if header.message_type != MessageType::Query {
        return Answer::None;
    }
    if header.op_code != OpCode::Query {
        return Answer::Here(failure(bytes, ResponseCode::NotImp));
    }
    let Ok(request) = Message::from_vec(bytes) else { return Answer::Here(failure(bytes, ResponseCode::FormErr)) };
    let [query] = &request.queries[..] else { return Answer::Here(failure(bytes, ResponseCode::FormErr)) };
    let found = match look_up(&knowledge.network, &knowledge.names(), query) {
        None | Some(Found::NoSuchName) if query.query_class == DNSClass::IN => {
            let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let full = if name.contains('.') { name.clone() } else { format!("{name}.{}", knowledge.network.domain) };
            let near = from.and_then(|from| knowledge.kin.addresses(from, &full)).map(Found::Addresses);
            near.or_else(|| look_up(&knowledge.network, &knowledge.names(), query))
        }
        found => found,
    };
    let Some(found) = found else { return Answer::Elsewhere };
    let reply = compose(&knowledge.network, &request, query, found);
    let room = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => request.edns.as_ref().map_or(SMALL, |e| e.max_payload().clamp(SMALL, LARGE)),
    };
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(room) => Answer::Here(bytes),
        Ok(_) => reply.truncate().to_vec().map_or(Answer::None, Answer::Here),
        Err(_) => Answer::Here(failure(bytes, ResponseCode::ServFail)),
    }
}

/// What is known of a name that is ours to know.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Addresses(Vec<Ipv4Addr>),
    Name(String),
    NoSuchName,
}

/// `None` if the question is for others.
fn look_up(network: &Network, names: &Names, query: &Query) -> Option<Found> {
    if query.query_class != DNSClass::IN {
        return None;
    }
    let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    if name == "yun" || name.ends_with(".yun") {
        return Some(names.addresses(&name).map_or(Found::NoSuchName, Found::Addresses));
    }
    if !name.is_empty() && !name.contains('.') {
        return names.addresses(&format!("{name}.{}", network.domain)).map(Found::Addresses);
    }
    let address = reverse(&name)?;
    if !network.cidr.contains(&address) {
        return None;
    }
    Some(names.name(address).map_or(Found::NoSuchName, |name| Found::Name(name.to_owned())))
}

fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut octets: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}

fn compose(network: &Network, request: &Message, query: &Query, found: Found) -> Message {
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGE);
        reply.set_edns(edns);
    }
    let record = |data| Record::from_rdata(query.name.clone(), TTL, data);
    let asked = |kind| query.query_type == kind || query.query_type == RecordType::ANY;
    match found {
        Found::Addresses(mut addresses) if asked(RecordType::A) => {
            // Clients take the first: whoever asks next gets another. The number is the client's own and as good as random.
            let turn = usize::from(request.metadata.id).checked_rem(addresses.len()).unwrap_or_default();
            addresses.rotate_left(turn);
            reply.add_answers(addresses.into_iter().map(|a| record(RData::A(A(a)))));
        }
        Found::Name(name) if asked(RecordType::PTR) => {
            reply.add_answers(Name::from_ascii(format!("{name}.")).map(|n| record(RData::PTR(PTR(n)))));
        }
        Found::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
        _ => {}
    }
    if reply.answers.is_empty() {
        // RFC 2308: without it, clients would not know for how long the name is missing.
        reply.add_authorities(authority(network));
    }
    reply
}

fn authority(network: &Network) -> Option<Record> {
    let zone = Name::from_ascii(format!("{}.", network.domain)).ok()?;
    let server = Name::from_ascii(format!("gateway.{}.", network.domain)).ok()?;
    let ttl = i32::try_from(TTL).ok()?;
    let soa = SOA::new(server.clone(), server, 1, ttl, ttl, ttl, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

/// An answer that only says what went wrong, made from whatever of the question can be read.
fn failure(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut decoder = BinDecoder::new(question);
    let Ok(header) = Header::read(&mut decoder) else { return Vec::new() };
    let mut reply = Message::error_msg(header.id, header.op_code, code);
    reply.metadata.recursion_desired = header.recursion_desired;
    reply.metadata.recursion_available = true;
    if header.counts.queries == 1
        && let Ok(query) = Query::read(&mut decoder)
    {
        reply.add_query(query);
    }
    reply.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use yun_types::DnsRecord;

    fn knowledge() -> Knowledge {
        let knowledge = Knowledge::new(Network {
            bridge: "yb1".to_owned(),
            cidr: "10.77.3.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 77, 3, 1),
            mtu: 1500,
            domain: "default.yun".to_owned(),
            isolated: false,
        });
        let record = |name: &str, last| DnsRecord { name: name.to_owned(), address: Ipv4Addr::new(10, 77, 3, last) };
        knowledge.set_names(Names::new(&[record("web.default.yun", 5), record("db.default.yun", 6)]));
        knowledge
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn ask(name: &str, kind: RecordType) -> Option<Message> {
        match answer(&knowledge(), &question(name, kind), Transport::Udp, None) {
            Answer::Here(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn told_names_have_their_addresses() {
        for name in ["web.default.yun.", "WEB.Default.YUN.", "web."] {
            let reply = ask(name, RecordType::A).unwrap();
            assert_eq!(reply.answers[0].data, RData::A(A::new(10, 77, 3, 5)), "{name}");
            assert!(reply.metadata.authoritative);
        }
    }

    #[test]
    fn what_was_not_told_does_not_exist_in_our_zone() {
        for name in ["nothing.default.yun.", "web.other.yun.", "yun.example.yun."] {
            let reply = ask(name, RecordType::A).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
            assert!(matches!(reply.authorities[0].data, RData::SOA(_)));
        }
    }

    #[test]
    fn names_without_that_kind_of_record_exist_all_the_same() {
        for (name, kind) in
            [("web.default.yun.", RecordType::AAAA), ("default.yun.", RecordType::A), ("yun.", RecordType::A)]
        {
            let reply = ask(name, kind).unwrap();
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0), "{name}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let reply = ask("5.3.77.10.in-addr.arpa.", RecordType::PTR).unwrap();
        assert_eq!(reply.answers[0].data.to_string(), "web.default.yun.");
        assert_eq!(
            ask("9.3.77.10.in-addr.arpa.", RecordType::PTR).unwrap().metadata.response_code,
            ResponseCode::NXDomain
        );
        assert!(ask("9.4.77.10.in-addr.arpa.", RecordType::PTR).is_none());
    }

    #[test]
    fn everything_else_is_for_others() {
        for name in ["example.org.", "yunnan.cn.", "intranet.", "."] {
            assert_eq!(
                answer(&knowledge(), &question(name, RecordType::A), Transport::Udp, None),
                Answer::Elsewhere,
                "{name}"
            );
        }
    }

    #[test]
    fn answers_are_not_answered_and_odd_requests_are_refused() {
        let mut reply = Message::response(1, OpCode::Query);
        reply.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(answer(&knowledge(), &reply.to_vec().unwrap(), Transport::Udp, None), Answer::None);
        let update = Message::new(7, MessageType::Query, OpCode::Update).to_vec().unwrap();
        let Answer::Here(bytes) = answer(&knowledge(), &update, Transport::Udp, None) else { panic!("no answer") };
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NotImp));
    }

    #[test]
    fn who_asks_for_many_gets_each_of_them_first_some_time() {
        let knowledge = knowledge();
        let three: Vec<DnsRecord> = (2..5)
            .map(|i| DnsRecord { name: "many.default.yun".to_owned(), address: Ipv4Addr::new(10, 77, 3, i) })
            .collect();
        knowledge.set_names(Names::new(&three));
        let firsts: std::collections::BTreeSet<String> = (0..3u16)
            .map(|id| {
                let mut message = Message::from_vec(&question("many.default.yun.", RecordType::A)).unwrap();
                message.metadata.id = id;
                let Answer::Here(bytes) = answer(&knowledge, &message.to_vec().unwrap(), Transport::Udp, None) else {
                    panic!("no answer")
                };
                let reply = Message::from_vec(&bytes).unwrap();
                assert_eq!(reply.answers.len(), 3);
                reply.answers[0].data.to_string()
            })
            .collect();
        assert_eq!(firsts.len(), 3, "{firsts:?}");
    }

    #[test]
    fn too_many_addresses_for_a_datagram_are_for_tcp() {
        let knowledge = knowledge();
        let many: Vec<DnsRecord> = (2..200)
            .map(|i| DnsRecord { name: "many.default.yun".to_owned(), address: Ipv4Addr::new(10, 77, 3, i) })
            .collect();
        knowledge.set_names(Names::new(&many));
        let read = |transport| match answer(&knowledge, &question("many.default.yun.", RecordType::A), transport, None)
        {
            Answer::Here(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(read(Transport::Udp).metadata.truncation);
        assert_eq!(read(Transport::Tcp).answers.len(), 198);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            answer(&knowledge(), &bytes, Transport::Udp, None);
            failure(&bytes, ResponseCode::ServFail);
        }
        #[test]
        fn no_damaged_question_panics(at in 0usize..40, byte in any::<u8>(), cut in 0usize..40) {
            let mut bytes = question("web.default.yun.", RecordType::A);
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            answer(&knowledge(), &bytes, Transport::Udp, None);
            bytes.truncate(cut);
            answer(&knowledge(), &bytes, Transport::Tcp, None);
            failure(&bytes, ResponseCode::FormErr);
        }
    }
}
