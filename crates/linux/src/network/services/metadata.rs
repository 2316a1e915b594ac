//! The metadata service: tells an instance who it is, at 169.254.169.254, in the paths of EC2 that cloud-init and others know.
//!
//! Each network has its own, on its gateway; the packet filter leads 169.254.169.254 there and lets nothing else in. Who asks is known by
//! the source address, which the bridge's rules keep honest, so nobody is told about another. A session token is asked for always (as IMDSv2
//! does): a program inside that can be made to fetch a URL cannot send the PUT that a token needs. Answers live for one hop, so they do not
//! leave the instance.

use super::{Knowledge, kin::Card};
use crate::metadata::{self, Document};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderMap},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngCore;
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinSet};
use yun_drivers::{DriverError, Result};

/// Where instances ask.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where the packet filter leads questions, on the gateway.
pub(in crate::network) const PORT: u16 = 16_925;
/// Connections of one network.
const MOST_CONNECTIONS: usize = 64;
/// How long a request may take to arrive, and a connection may live.
const SLOW: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
/// The longest life of a token in seconds, as in EC2.
const LONGEST_TOKEN: u64 = 21_600;
/// Tokens of one instance; the oldest goes first.
const MOST_TOKENS: usize = 32;
/// Versions that clients ask for; all say the same.
const VERSIONS: [&str; 5] = ["2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest"];
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// A socket on the gateway's address only.
pub(super) fn listen(gateway: Ipv4Addr) -> Result<TcpListener> {
    let address = SocketAddrV4::new(gateway, PORT);
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    open().map_err(|e| DriverError::io(format!("listen for questions about metadata on {address}"), e))
}

/// Answers until it is aborted.
pub(super) async fn serve(knowledge: Arc<Knowledge>, listener: TcpListener) {
    let tokens = Arc::new(Tokens::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::debug!(bridge = knowledge.network.bridge, "metadata: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let SocketAddr::V4(peer) = peer else { continue };
        // One hop: what runs inside an instance behind a router of its own gets no answer.
        if connections.len() >= MOST_CONNECTIONS || stream.set_ttl(1).is_err() {
            continue;
        }
        let (knowledge, tokens) = (Arc::clone(&knowledge), Arc::clone(&tokens));
        connections.spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let answered = respond(&knowledge, &tokens, *peer.ip(), &request);
                std::future::ready(Ok::<_, Infallible>(answered))
            });
            let mut server = http1::Builder::new();
            // Simple clients close their side when they have asked.
            server.half_close(true).timer(TokioTimer::new()).header_read_timeout(SLOW).max_headers(64);
            let connection = server.serve_connection(TokioIo::new(stream), answer);
            // A client that leaves early or talks nonsense is its own affair.
            let _ = tokio::time::timeout(LONG, connection).await;
        });
    }
}

/// Session tokens, each for one address.
#[derive(Debug, Default)]
struct Tokens(Mutex<BTreeMap<Ipv4Addr, VecDeque<(String, Instant)>>>);

impl Tokens {
    fn make(&self, peer: Ipv4Addr, life: Duration, now: Instant) -> String {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let token = hex::encode(bytes);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(peer).or_default();
        own.retain(|(_, end)| *end > now);
        if own.len() >= MOST_TOKENS {
            own.pop_front();
        }
        own.push_back((token.clone(), now + life));
        token
    }

    fn knows(&self, peer: Ipv4Addr, token: &str, now: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&peer).is_some_and(|own| own.iter().any(|(known, end)| known == token && *end > now))
    }
}

type Answer = Response<Full<Bytes>>;

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain"));
    response
}

fn respond<B>(knowledge: &Knowledge, tokens: &Tokens, peer: Ipv4Addr, request: &Request<B>) -> Answer {
    let document = knowledge.member(peer).and_then(|path| metadata::read(&path).ok());
    // An address that is no instance's, or one that is being removed.
    let Some(document) = document else {
        return text(StatusCode::NOT_FOUND, format!("nothing is known of {peer}\n"));
    };
    let cards = knowledge.kin.cards(document.id);
    decide(&document, &cards, tokens, peer, (request.method(), request.uri().path()), request.headers())
}

fn decide(
    document: &Document,
    cards: &[Card],
    tokens: &Tokens,
    peer: Ipv4Addr,
    (method, path): (&Method, &str),
    headers: &HeaderMap,
) -> Answer {
    let now = Instant::now();
    let path = path.trim_start_matches('/');
    if method == Method::PUT {
        if path != "latest/api/token" {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only PUT /latest/api/token is there\n");
        }
        // Somebody in between passes it on: the token would not stay in the instance.
        if headers.contains_key("x-forwarded-for") {
            return text(StatusCode::FORBIDDEN, "a request that was forwarded gets no token\n");
        }
        let seconds = headers.get(TTL_HEADER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        return match seconds.filter(|seconds| (1..=LONGEST_TOKEN).contains(seconds)) {
            Some(seconds) => {
                let mut answer = text(StatusCode::OK, tokens.make(peer, Duration::from_secs(seconds), now));
                answer.headers_mut().insert(TTL_HEADER, seconds.into());
                answer
            }
            None => text(
                StatusCode::BAD_REQUEST,
                format!("send the header X-aws-ec2-metadata-token-ttl-seconds with 1 to {LONGEST_TOKEN}\n"),
            ),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "use GET, or PUT /latest/api/token\n");
    }
    let token = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    if !token.is_some_and(|token| tokens.knows(peer, token, now)) {
        let how = "send a session token: PUT /latest/api/token with X-aws-ec2-metadata-token-ttl-seconds, then the header X-aws-ec2-metadata-token\n";
        return text(StatusCode::UNAUTHORIZED, how);
    }
    match find(document, cards, path) {
        Some(found) => text(StatusCode::OK, found),
        None => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

/// What stands at a path.
fn find(document: &Document, cards: &[Card], path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let Some(version) = segments.next() else { return Some(VERSIONS.join("\n")) };
    if !VERSIONS.contains(&version) {
        return None;
    }
    let rest: Vec<&str> = segments.collect();
    let document_json = || {
        let arch = if document.arch == "amd64" { "x86_64" } else { &document.arch };
        serde_json::to_string_pretty(&serde_json::json!({
            "accountId": document.project, "architecture": arch, "availabilityZone": document.node, "imageId": document.image,
            "instanceId": document.id, "instanceType": document.size, "kernelId": null, "privateIp": document.address,
            "region": "yun", "version": "2017-09-30",
        }))
        .ok()
    };
    match rest[..] {
        [] => {
            let data = if document.user_data.is_some() { "\nuser-data" } else { "" };
            Some(format!("dynamic\nmeta-data{data}"))
        }
        ["user-data"] => document.user_data.clone(),
        ["dynamic"] => Some("instance-identity/".into()),
        ["dynamic", "instance-identity"] => Some("document".into()),
        ["dynamic", "instance-identity", "document"] => document_json(),
        ["meta-data", ref keys @ ..] => meta_data(document, cards, keys),
        _ => None,
    }
}

fn meta_data(document: &Document, cards: &[Card], keys: &[&str]) -> Option<String> {
    const TOP: [&str; 12] = [
        "ami-id",
        "hostname",
        "instance-id",
        "instance-life-cycle",
        "instance-type",
        "local-hostname",
        "local-ipv4",
        "mac",
        "network/",
        "placement/",
        "public-keys/",
        "services/",
    ];
    let keyed = |index: &str| document.ssh_keys.get(index.parse::<usize>().ok()?);
    Some(match keys {
        [] => TOP.join("\n"),
        ["ami-id"] => document.image.clone(),
        ["hostname" | "local-hostname"] => document.domain.clone(),
        ["instance-id"] => document.id.to_string(),
        ["instance-life-cycle"] => "on-demand".into(),
        ["instance-type"] => document.size.clone(),
        ["local-ipv4"] => document.address.to_string(),
        ["mac"] => document.mac.clone(),
        ["placement"] => "availability-zone\nregion".into(),
        ["placement", "availability-zone"] => document.node.clone(),
        ["placement", "region"] => "yun".into(),
        ["services"] => "domain\npartition".into(),
        ["services", "domain"] => "yun".into(),
        ["services", "partition"] => "yun".into(),
        ["public-keys"] => {
            let names: Vec<String> = (0..document.ssh_keys.len()).map(|n| format!("{n}=key-{n}")).collect();
            names.join("\n")
        }
        ["public-keys", index] => {
            keyed(index)?;
            "openssh-key".into()
        }
        ["public-keys", index, "openssh-key"] => keyed(index)?.clone(),
        ["network"] => "interfaces/".into(),
        ["network", "interfaces"] => "macs/".into(),
        ["network", "interfaces", "macs"] => {
            let macs: Vec<String> = cards.iter().map(|card| format!("{}/", card.mac)).collect();
            macs.join("\n")
        }
        ["network", "interfaces", "macs", mac, rest @ ..] => {
            let card = cards.iter().find(|card| card.mac == *mac)?;
            match rest {
                [] => "device-number\nlocal-hostname\nlocal-ipv4s\nmac\nsubnet-ipv4-cidr-block".into(),
                ["device-number"] => card.index.to_string(),
                ["local-hostname"] => document.domain.clone(),
                ["local-ipv4s"] => card.address.to_string(),
                ["mac"] => card.mac.clone(),
                ["subnet-ipv4-cidr-block"] => card.cidr.to_string(),
                _ => return None,
            }
        }
        _ => return None,
    })
}

/// True for errors that another try may mend: a socket of the service that was stopped a moment ago.
pub(super) fn busy(error: &DriverError) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::{InstanceId, InstanceKind};

    const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 5);

    fn document() -> Document {
        Document {
            id: InstanceId(uuid::Uuid::from_u128(7)),
            name: "web".into(),
            project: "lab".into(),
            kind: InstanceKind::Vm,
            size: "cpu:1,memory:512M,disk:2G".into(),
            image: "small".into(),
            domain: "web.lab.yun".into(),
            address: PEER,
            mac: "02:00:00:00:00:05".into(),
            node: "alpha".into(),
            arch: "amd64".into(),
            ssh_keys: vec!["ssh-ed25519 AAAA ann".into()],
            user_data: Some("#cloud-config\n".into()),
        }
    }

    fn cards() -> Vec<Card> {
        let card = |index: u32, network: u8| Card {
            index,
            mac: format!("02:00:00:00:0{index}:05"),
            address: Ipv4Addr::new(10, 77, network, 5),
            cidr: format!("10.77.{network}.0/24").parse().unwrap(),
        };
        vec![card(0, 3), card(1, 9)]
    }

    fn ask(
        tokens: &Tokens,
        peer: Ipv4Addr,
        method: &Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (u16, String) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (hyper::header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let answer = decide(&document(), &cards(), tokens, peer, (method, path), &headers);
        let status = answer.status().as_u16();
        let body =
            futures::executor::block_on(http_body_util::BodyExt::collect(answer.into_body())).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_token_is_needed_and_is_good_for_one_instance_only() {
        let tokens = Tokens::default();
        let put = |headers: &[(&'static str, &str)]| ask(&tokens, PEER, &Method::PUT, "/latest/api/token", headers);
        assert_eq!(put(&[]).0, 400);
        assert_eq!(put(&[(TTL_HEADER, "0")]).0, 400);
        assert_eq!(put(&[(TTL_HEADER, "21601")]).0, 400);
        assert_eq!(put(&[(TTL_HEADER, "60"), ("x-forwarded-for", "10.0.0.1")]).0, 403);
        let (status, token) = put(&[(TTL_HEADER, "60")]);
        assert_eq!((status, token.len()), (200, 64));
        let path = "/latest/meta-data/instance-id";
        let (status, how) = ask(&tokens, PEER, &Method::GET, path, &[]);
        assert!(status == 401 && how.contains("PUT /latest/api/token"));
        assert_eq!(ask(&tokens, PEER, &Method::GET, path, &[(TOKEN_HEADER, "wrong")]).0, 401);
        assert_eq!(ask(&tokens, PEER, &Method::GET, path, &[(TOKEN_HEADER, &token)]).0, 200);
        let other = Ipv4Addr::new(10, 77, 3, 6);
        assert_eq!(ask(&tokens, other, &Method::GET, path, &[(TOKEN_HEADER, &token)]).0, 401);
        assert_eq!(ask(&tokens, PEER, &Method::POST, path, &[(TOKEN_HEADER, &token)]).0, 405);
        assert_eq!(ask(&tokens, PEER, &Method::PUT, path, &[(TTL_HEADER, "60")]).0, 405);
        let soon = tokens.make(PEER, Duration::from_secs(0), Instant::now());
        assert!(!tokens.knows(PEER, &soon, Instant::now()), "an old token is none");
        for _ in 0..2 * MOST_TOKENS {
            tokens.make(PEER, Duration::from_secs(60), Instant::now());
        }
        assert_eq!(tokens.0.lock().unwrap()[&PEER].len(), MOST_TOKENS);
    }

    #[test]
    fn the_paths_are_those_of_ec2() {
        let get = |path: &str| find(&document(), &cards(), path);
        for (path, want) in [
            ("latest/meta-data/instance-id", "00000000-0000-0000-0000-000000000007"),
            ("2021-03-23/meta-data/local-ipv4", "10.77.3.5"),
            ("latest/meta-data/hostname", "web.lab.yun"),
            ("latest/meta-data/mac", "02:00:00:00:00:05"),
            ("latest/meta-data/public-keys/", "0=key-0"),
            ("latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA ann"),
            ("latest/meta-data/placement/availability-zone", "alpha"),
            ("latest/meta-data/network/interfaces/macs/02:00:00:00:00:05/subnet-ipv4-cidr-block", "10.77.3.0/24"),
            ("latest/meta-data/network/interfaces/macs", "02:00:00:00:00:05/\n02:00:00:00:01:05/"),
            ("latest/meta-data/network/interfaces/macs/02:00:00:00:01:05/device-number", "1"),
            ("latest/meta-data/network/interfaces/macs/02:00:00:00:01:05/local-ipv4s", "10.77.9.5"),
            ("latest/user-data", "#cloud-config\n"),
            ("latest/", "dynamic\nmeta-data\nuser-data"),
        ] {
            assert_eq!(get(path).as_deref(), Some(want), "{path}");
        }
        assert!(get("").unwrap().contains("latest"));
        let identity: serde_json::Value =
            serde_json::from_str(&get("latest/dynamic/instance-identity/document").unwrap()).unwrap();
        assert_eq!((identity["accountId"].as_str(), identity["architecture"].as_str()), (Some("lab"), Some("x86_64")));
        // Every name that a list gives leads somewhere.
        for name in get("latest/meta-data/").unwrap().lines() {
            assert!(get(&format!("latest/meta-data/{name}")).is_some(), "{name}");
        }
        for path in [
            "1999-01-01/meta-data",
            "latest/secrets",
            "latest/meta-data/../user-data",
            "latest/meta-data/public-keys/9",
            "latest/meta-data/network/interfaces/macs/02:00:00:00:00:06/mac",
        ] {
            assert_eq!(get(path), None, "{path}");
        }
    }
}
