//! The way to the rest of the world's names: the host's own resolvers. Questions are passed on byte for byte, with an id and a source
//! port that nobody can guess; an answer counts only if it comes from the resolver that was asked, with that id and that question.

use hickory_proto::{
    op::{Header, MessageType, Query, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

/// One resolver's chance to answer.
const ONE: Duration = Duration::from_secs(2);
/// All resolvers' together: clients ask again after five seconds.
const ALL: Duration = Duration::from_millis(4500);

/// Where the host's resolvers are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolvers {
    /// In a file as `/etc/resolv.conf`, read again when it changes.
    File(PathBuf),
    /// Here.
    Fixed(Vec<SocketAddr>),
}

impl Default for Resolvers {
    fn default() -> Self {
        Self::File(PathBuf::from("/etc/resolv.conf"))
    }
}

/// Asks the host's resolvers.
#[derive(Debug)]
pub(in crate::network) struct Upstream {
    resolvers: Resolvers,
    read: Mutex<Option<(SystemTime, Arc<[SocketAddr]>)>>,
}

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Upstream {
    /// Reads nothing yet.
    pub(in crate::network) fn new(resolvers: Resolvers) -> Self {
        Self { resolvers, read: Mutex::new(None) }
    }

    /// The resolvers as they are written now.
    pub(in crate::network) fn resolvers(&self) -> Arc<[SocketAddr]> {
        let path = match &self.resolvers {
            Resolvers::Fixed(list) => return list.as_slice().into(),
            Resolvers::File(path) => path,
        };
        let changed = std::fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, list)) = &*read
            && *at == changed
        {
            return list.clone();
        }
        let list: Arc<[SocketAddr]> = read_resolvers(&std::fs::read_to_string(path).unwrap_or_default()).into();
        *read = Some((changed, list.clone()));
        list
    }

    /// Passes a question on, and its answer back. `None` if nobody answered in time. `gateway` is us: never asked.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport, gateway: Ipv4Addr) -> Option<Vec<u8>> {
        let own = u16::from_be_bytes([*question.first()?, *question.get(1)?]);
        let resolvers = self.resolvers();
        let end = Instant::now() + ALL;
        let mut second_best = None;
        // Twice around, because packets get lost.
        for resolver in resolvers.iter().chain(resolvers.iter()).filter(|r| r.ip() != IpAddr::V4(gateway)) {
            let mut sent = question.to_vec();
            sent[..2].copy_from_slice(&rand::random::<[u8; 2]>());
            let one = async {
                match transport {
                    Transport::Udp => over_udp(&sent, *resolver).await,
                    Transport::Tcp => over_tcp(&sent, *resolver).await,
                }
            };
            let Ok(answer) = timeout_at(end, timeout(ONE, one)).await else { break };
            let Ok(Ok(mut answer)) = answer else { continue };
            answer[..2].copy_from_slice(&own.to_be_bytes());
            if matches!(response_code(&answer), Some(ResponseCode::ServFail | ResponseCode::Refused)) {
                second_best = Some(answer);
                continue;
            }
            return Some(answer);
        }
        second_best
    }
}

async fn over_udp(question: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket for each question: the kernel chooses a random port, and drops what comes from elsewhere.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(question, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(question: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(question, &answer) { Ok(answer) } else { Err(io::Error::other("the answer is to another question")) }
}

fn head(bytes: &[u8]) -> Option<(Header, Vec<Query>)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries != 1 {
        return None;
    }
    Some((header, vec![Query::read(&mut decoder).ok()?]))
}

fn answers(question: &[u8], answer: &[u8]) -> bool {
    let (Some((asked, what)), Some((header, echoed))) = (head(question), head(answer)) else { return false };
    header.id == asked.id && header.message_type == MessageType::Response && what == echoed
}

fn response_code(bytes: &[u8]) -> Option<ResponseCode> {
    Some(Header::read(&mut BinDecoder::new(bytes)).ok()?.response_code)
}

fn read_resolvers(text: &str) -> Vec<SocketAddr> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A scope (`fe80::1%eth0`) would need an interface; such resolvers are rare beside others.
        if let Some(address) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) {
            list.push(SocketAddr::new(address, 53));
        }
    }
    // As the C library: three, and the host itself if none is named.
    list.truncate(3);
    if list.is_empty() && !text.is_empty() {
        list.push(SocketAddr::from(([127, 0, 0, 1], 53)));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_does() {
        let text = "# x\nsearch a.b\nnameserver 127.0.0.53\n nameserver  ::1 \nnameserver nonsense\noptions edns0\n";
        let list: Vec<String> = read_resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(list, ["127.0.0.53:53", "[::1]:53"]);
        assert_eq!(read_resolvers("search a\n").len(), 1);
        assert!(read_resolvers("").is_empty());
    }
}
