//! The network driver on a real kernel, each test on a host of its own.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that starts programs which show what the driver did"
)]

mod network_world;

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use network_world::{
    card::{self, Card},
    *,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};
use yun_drivers::{ErrorKind, NetworkDriver, Port};
use yun_types::{InstanceKind, PublishedPort};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const UPLINK: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Asks for an address from inside; the flag says over which transport.
fn resolve(inside: &Inside, server: Ipv4Addr, name: &str) -> (ResponseCode, Vec<String>) {
    let name = name.to_owned();
    inside.run(move || {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect((server, 53)).unwrap();
        socket.send(&question.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.metadata.id, question.metadata.id);
        (reply.metadata.response_code, reply.answers.iter().map(|a| a.data.to_string()).collect())
    })
}

/// The outside world's names: every question is answered with 198.51.100.7.
fn fake_resolver() {
    let socket = UdpSocket::bind(RESOLVER).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.add_query(question.queries[0].clone());
            reply.add_answer(Record::from_rdata(
                question.queries[0].name.clone(),
                60,
                RData::A(A::new(198, 51, 100, 7)),
            ));
            // First somebody else's answer: it must not count.
            let mut forged = reply.clone();
            forged.metadata.id ^= 1;
            socket.send_to(&forged.to_vec().unwrap(), from).unwrap();
            socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
        }
    });
}

#[test]
fn a_container_has_its_address_its_gateway_and_names() {
    on_a_host(|world| async move {
        fake_resolver();
        world.network(1, &[("web", 5), ("db", 6)]).await;
        world.network(2, &[("secret", 5)]).await;
        let web = world.container(1, 5, &[]).await;
        let db = world.container(1, 6, &[]).await;
        assert!(web.sh("ip -4 addr show eth0").contains("10.200.1.5/24"));
        assert!(web.sh("ip link show eth0").contains("02:00:00:00:01:05"));
        assert!(web.pings("10.200.1.1"));
        assert!(web.pings("10.200.1.6") && db.pings("10.200.1.5"));
        let gateway = address(1, 1);
        tokio::task::spawn_blocking(move || {
            assert_eq!(resolve(&web, gateway, "db.p1.yun."), (ResponseCode::NoError, vec!["10.200.1.6".to_owned()]));
            assert_eq!(resolve(&web, gateway, "db."), (ResponseCode::NoError, vec!["10.200.1.6".to_owned()]));
            assert_eq!(resolve(&web, gateway, "secret.p2.yun."), (ResponseCode::NXDomain, vec![]));
            assert_eq!(
                resolve(&web, gateway, "example.org."),
                (ResponseCode::NoError, vec!["198.51.100.7".to_owned()])
            );
            let tcp = web.sh("busybox nslookup db.p1.yun 10.200.1.1");
            assert!(tcp.contains("10.200.1.6"), "{tcp}");
        })
        .await
        .unwrap();
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn without_a_resolver_names_of_others_fail_at_once_or_soon_and_ours_still_work() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5)]).await;
        let web = world.container(1, 5, &[]).await;
        tokio::task::spawn_blocking(move || {
            assert_eq!(resolve(&web, address(1, 1), "example.org.").0, ResponseCode::ServFail);
            assert_eq!(resolve(&web, address(1, 1), "web.p1.yun.").1, ["10.200.1.5"]);
        })
        .await
        .unwrap();
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn names_change_without_a_restart_of_anything() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5)]).await;
        let web = world.container(1, 5, &[]).await;
        let tasks = world.driver.tasks();
        assert_eq!(tasks.len(), 4, "{tasks:?}");
        world.network(1, &[("web", 5), ("new", 9)]).await;
        let answer = tokio::task::spawn_blocking(move || resolve(&web, address(1, 1), "new.p1.yun.")).await.unwrap();
        assert_eq!(answer.1, ["10.200.1.9"]);
        world.driver.remove_all().await.unwrap();
        assert!(world.driver.tasks().is_empty());
    });
}

#[test]
fn a_dhcp_client_gets_what_was_decided() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5)]).await;
        let web = world.container(1, 5, &[]).await;
        web.sh("ip addr flush dev eth0");
        let script = world.host.run().join("udhcpc");
        std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && echo \"$ip/$mask $router $dns $domain $search $mtu $hostname $lease\"\nexit 0\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let line =
            format!("busybox udhcpc -i eth0 -n -q -t 5 -T 1 -s {} -O search -O mtu -O hostname 2>&1", script.display());
        let text = tokio::task::spawn_blocking(move || web.sh(&line)).await.unwrap();
        assert!(text.contains("10.200.1.5/24 10.200.1.1 10.200.1.1 p1.yun p1.yun 1500 web 604800"), "{text}");
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn instances_reach_the_world_and_it_does_not_reach_them() {
    on_a_host(|world| async move {
        let outside = Inside::outside();
        outside.serve_tcp(7000);
        world.network(1, &[]).await;
        let web = world.container(1, 5, &[]).await;
        web.serve_tcp(80);
        // The world sees the host, not the instance.
        assert_eq!(web.hears((Ipv4Addr::new(192, 0, 2, 2), 7000)).unwrap(), "192.0.2.1");
        outside.sh("ip route add 10.200.1.0/24 via 192.0.2.1");
        assert!(outside.hears((address(1, 5), 80)).is_err());
        assert!(!outside.pings(address(1, 5)));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    on_a_host(|world| async move {
        let outside = Inside::outside();
        world.network(1, &[]).await;
        world.network(2, &[]).await;
        let web = world.container(1, 5, &["8080:80", "127.0.0.1:8081:80", "192.0.2.1:8082:80", "5353:53/udp"]).await;
        web.serve_tcp(80);
        web.serve_udp(53);
        let (neighbour, stranger) = (world.container(1, 6, &[]).await, world.container(2, 5, &[]).await);
        // From outside; the instance sees who it is.
        assert_eq!(outside.hears((UPLINK, 8080)).unwrap(), "192.0.2.2");
        assert_eq!(outside.hears((UPLINK, 8082)).unwrap(), "192.0.2.2");
        assert!(outside.hears((UPLINK, 8081)).is_err());
        assert!(outside.run(|| echoes((Ipv4Addr::new(192, 0, 2, 1), 5353))));
        // From the host.
        for (at, port) in [(LOCALHOST, 8080), (LOCALHOST, 8081), (UPLINK, 8080), (UPLINK, 8082)] {
            hear(SocketAddr::new(at, port)).unwrap_or_else(|e| panic!("{at}:{port}: {e}"));
        }
        assert!(hear(SocketAddr::new(UPLINK, 8081)).is_err());
        assert!(echoes((Ipv4Addr::LOCALHOST, 5353)));
        // From a neighbour, from itself, and from another network, through the host's address.
        for (who, inside) in [("neighbour", &neighbour), ("itself", &web), ("stranger", &stranger)] {
            inside.hears((UPLINK, 8080)).unwrap_or_else(|e| panic!("{who}: {e}"));
        }
        web.hears((address(1, 1), 8080)).unwrap();
        // The other network sees only its own gateway.
        assert_eq!(stranger.hears((UPLINK, 8080)).unwrap(), "10.200.1.1");
        world.driver.remove_all().await.unwrap();
        assert!(hear(SocketAddr::new(LOCALHOST, 8080)).is_err());
    });
}

#[test]
fn published_ports_change_while_it_runs() {
    on_a_host(|world| async move {
        world.network(1, &[]).await;
        let web = world.container(1, 5, &["8080:80", "8081:80"]).await;
        web.serve_tcp(80);
        web.serve_tcp(81);
        let eth0 = web.sh("cat /sys/class/net/eth0/ifindex; ip -o link show eth0");
        world.container(1, 5, &["8080:81", "8082:80"]).await;
        assert_eq!(web.sh("cat /sys/class/net/eth0/ifindex; ip -o link show eth0"), eth0);
        hear(SocketAddr::new(LOCALHOST, 8080)).unwrap();
        hear(SocketAddr::new(LOCALHOST, 8082)).unwrap();
        assert!(hear(SocketAddr::new(LOCALHOST, 8081)).is_err());
        TcpListener::bind((LOCALHOST, 8081)).unwrap();
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn a_client_follows_a_port_to_another_instance() {
    on_a_host(|world| async move {
        let outside = Inside::outside();
        world.network(1, &[]).await;
        let a = world.container(1, 5, &["5353:53/udp"]).await;
        a.serve_udp(53);
        // One client with one socket: for the kernel, one connection.
        let socket = outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 5353)).unwrap();
        let echo = || socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok();
        assert!(echo());
        world.driver.detach(instance(1, 5)).await.unwrap();
        let b = world.container(1, 6, &["5353:53/udp"]).await;
        b.serve_udp(53);
        assert!(echo());
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn a_taken_port_names_its_owner_and_attaches_nothing() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5)]).await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let attach = |last: u8, publish: String| {
            let (driver, nic) = (world.driver.clone(), nic(1, last, &[&publish]));
            async move { driver.attach(instance(1, last), InstanceKind::Container, &nic).await }
        };
        let error = attach(5, format!("{port}:80")).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "PortTaken"));
        assert!(error.message.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(world.driver.attached().is_empty() && files(&world.host.run().join("netns")).is_empty());
        attach(5, "8080:80".to_owned()).await.unwrap();
        let error = attach(6, "127.0.0.1:8080:80".to_owned()).await.unwrap_err();
        assert!(error.message.contains("instance web.p1.yun has it"), "{error}");
        world.driver.detach(instance(1, 5)).await.unwrap();
        attach(6, "127.0.0.1:8080:80".to_owned()).await.unwrap();
        // The gateway's DNS is in nobody's way: no published port covers it.
        attach(7, "53:53".to_owned()).await.unwrap();
        attach(8, "53:53/udp".to_owned()).await.unwrap();
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn projects_do_not_reach_each_other_nor_the_host() {
    on_a_host(|world| async move {
        let _outside = Inside::outside();
        world.network(1, &[]).await;
        world.network(2, &[]).await;
        let (a, b) = (world.container(1, 5, &[]).await, world.container(2, 5, &[]).await);
        b.serve_tcp(80);
        assert!(a.hears((address(2, 5), 80)).is_err());
        assert!(!a.pings(address(2, 5)) && !b.pings(address(1, 5)));
        // The host's own services, on any of its addresses.
        let listener = TcpListener::bind("0.0.0.0:7443").unwrap();
        assert!(TcpListener::local_addr(&listener).is_ok());
        for at in [address(1, 1), address(2, 1), Ipv4Addr::new(192, 0, 2, 1)] {
            assert!(
                a.run(move || std::net::TcpStream::connect_timeout(&(at, 7443).into(), Duration::from_millis(300)))
                    .is_err(),
                "{at}"
            );
        }
        // 127.0.0.1 of the host, through a route that an instance can make itself.
        a.sh("ip addr del 127.0.0.1/8 dev lo; ip route del local 127.0.0.0/8 2>/dev/null; ip route add 127.0.0.1/32 via 10.200.1.1; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; true");
        assert!(
            a.run(|| std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], 7443).into(), Duration::from_millis(300)))
                .is_err()
        );
        // Another network's gateway answers neither ping nor DNS.
        assert!(!a.pings(address(2, 1)));
        // Each network keeps its own inside, even where the other has no rules.
        let rules = sh("nft list tables");
        let second = rules.lines().find(|l| l.contains("inet") && l.ends_with("0000aa02")).unwrap();
        sh(&format!("nft delete {second}"));
        assert!(!a.pings(address(2, 5)) && !b.pings(address(1, 5)));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn nobody_uses_the_address_of_another() {
    on_a_host(|world| async move {
        world.network(1, &[]).await;
        let (bad, good) = (world.container(1, 5, &[]).await, world.container(1, 6, &[]).await);
        assert!(bad.pings(address(1, 6)));
        // An address of its own invention, in IPv4 and in ARP.
        bad.sh("ip addr add 10.200.1.77/24 dev eth0; ip neigh flush all");
        assert!(!bad.pings("-I 10.200.1.77 10.200.1.6"));
        assert!(!bad.pings("-I 10.200.1.77 10.200.1.1"));
        let known = good.sh("ip neigh show");
        assert!(!known.contains("10.200.1.77"), "{known}");
        bad.sh("ip addr del 10.200.1.77/24 dev eth0; ip neigh flush all");
        assert!(bad.pings(address(1, 6)));
        // The card of a neighbour, and one of its own invention; IPv6 has no addresses to check, but cards.
        let local = good.sh("ip -6 -o addr show dev eth0 scope link");
        let local =
            local.split_whitespace().find(|w| w.starts_with("fe80")).unwrap().split('/').next().unwrap().to_owned();
        let to = format!("-6 {local}%eth0");
        eventually("IPv6 between neighbours", || bad.pings(&to)).await;
        for card in ["02:00:00:00:01:06", "02:00:00:00:99:99"] {
            bad.sh(&format!("ip link set eth0 address {card} && ip neigh flush all"));
            assert!(!bad.pings("10.200.1.1") && !bad.pings(&to), "{card}");
        }
        bad.sh("ip link set eth0 address 02:00:00:00:01:05 && ip neigh flush all");
        assert!(bad.pings("10.200.1.1") && bad.pings(&to));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn it_works_beside_docker() {
    on_a_host(|world| async move {
        let outside = Inside::outside();
        outside.serve_tcp(7000);
        // What dockerd leaves in the kernel.
        sh("nft -f - <<'END'
table ip filter {
  chain INPUT { type filter hook input priority 0; policy accept; }
  chain DOCKER-USER { counter return; }
  chain FORWARD { type filter hook forward priority 0; policy drop; counter jump DOCKER-USER; oifname \"docker0\" accept; }
}
END");
        world.network(1, &[]).await;
        let web = world.container(1, 5, &["8080:80"]).await;
        web.serve_tcp(80);
        assert_eq!(web.hears((Ipv4Addr::new(192, 0, 2, 2), 7000)).unwrap(), "192.0.2.1");
        assert_eq!(outside.hears((UPLINK, 8080)).unwrap(), "192.0.2.2");
        world.network(1, &[]).await;
        let rules = sh("nft list chain ip filter DOCKER-USER");
        assert_eq!(rules.matches("\"yb0000aa01\"").count(), 2, "{rules}");
        world.driver.remove_all().await.unwrap();
        let rules = sh("nft list chain ip filter DOCKER-USER");
        assert!(!rules.contains("yb") && rules.contains("return"), "{rules}");
    });
}

#[test]
fn it_works_beside_a_strict_firewall_that_comes_later() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5)]).await;
        let web = world.container(1, 5, &[]).await;
        sh("nft -f - <<'END'
table ip filter {
  chain INPUT { type filter hook input priority 0; policy drop; iifname \"lo\" accept; }
  chain FORWARD { type filter hook forward priority 0; policy drop; }
}
END");
        assert!(!web.pings("10.200.1.1"));
        world.network(1, &[("web", 5)]).await;
        assert!(web.pings("10.200.1.1"));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn after_a_restart_everything_goes_on() {
    on_a_host(|world| async move {
        fake_resolver();
        world.network(1, &[("web", 5)]).await;
        let nic = nic(1, 5, &["8080:80"]);
        let attachment = world.driver.attach(instance(1, 5), InstanceKind::Container, &nic).await.unwrap();
        let web = Inside::of(&attachment);
        web.serve_tcp(80);
        let eth0 = web.sh("ip -o addr show eth0");
        // The old process is gone; packets still flow.
        let host = world.host.clone();
        drop(world.driver.clone());
        let driver = open(&host);
        assert_eq!(driver.attached(), [instance(1, 5)]);
        hear(SocketAddr::new(LOCALHOST, 8080)).unwrap();
        // The old driver must let its sockets go, as a process does when it ends.
        let mut world = world;
        world.driver = driver;
        eventually("the end of the old services", || UdpSocket::bind("10.200.1.1:53").is_ok()).await;
        assert!(world.driver.probe().await.unwrap().ready);
        world.network(1, &[("web", 5)]).await;
        world.driver.recover(&attachment).await.unwrap();
        assert_eq!(web.sh("ip -o addr show eth0"), eth0);
        hear(SocketAddr::new(LOCALHOST, 8080)).unwrap();
        assert_eq!(TcpListener::bind((LOCALHOST, 8080)).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        let web = tokio::task::spawn_blocking(move || {
            assert_eq!(resolve(&web, address(1, 1), "web.p1.yun.").1, ["10.200.1.5"]);
            web
        })
        .await
        .unwrap();
        // Even if somebody removed its cable and all rules meanwhile.
        let Port::Namespace { interface, .. } = &attachment.port else { panic!() };
        sh(&format!("ip link delete {interface}; nft flush ruleset"));
        world.network(1, &[("web", 5)]).await;
        world.driver.recover(&attachment).await.unwrap();
        assert!(web.pings("10.200.1.1"));
        hear(SocketAddr::new(LOCALHOST, 8080)).unwrap();
        world.driver.remove_all().await.unwrap();
        assert_eq!(leftovers(&world.host), Vec::<String>::new());
    });
}

#[test]
fn what_a_killed_process_left_is_finished_or_removed() {
    on_a_host(|mut world| async move {
        world.network(1, &[]).await;
        world.container(1, 5, &[]).await;
        world.container(1, 6, &[]).await;
        world.container(1, 7, &[]).await;
        // One died while it attached, one while it detached, each with some of its parts.
        let file = |last| {
            let begin = format!("i-{}-", instance(1, last));
            let mut records = std::fs::read_dir(world.host.run().join("net")).unwrap().map(|e| e.unwrap());
            records.find(|e| e.file_name().to_string_lossy().starts_with(&begin)).unwrap().path()
        };
        let phase = |last, phase: &str| {
            let text = std::fs::read_to_string(file(last)).unwrap();
            std::fs::write(file(last), text.replace("\"attached\"", &format!("\"{phase}\""))).unwrap();
        };
        phase(5, "attaching");
        sh(&format!("ip link delete {}", world.host.veth(instance(1, 5), 0)));
        phase(6, "detaching");
        let stray = world.host.run().join("net").join(".i-x.json.draft");
        std::fs::write(&stray, "{").unwrap();
        sh(&format!("nft add table inet yun_{}_deadbeef", world.host.cloud().short()));
        sh(&format!(
            "ip link add ybstray type bridge && ip link set ybstray alias 'yun {} network gone'",
            world.host.cloud()
        ));
        sh("ip link add ybforeign type bridge && ip link set ybforeign alias 'yun of another cloud'");
        world.driver = open(&world.host);
        assert!(world.driver.probe().await.unwrap().ready);
        assert_eq!(world.driver.attached(), [instance(1, 7)]);
        let links = sh("ip -o link show");
        assert!(!links.contains("ybstray") && links.contains("ybforeign"), "{links}");
        assert!(!sh("nft list tables").contains("deadbeef") && !stray.exists());
        assert_eq!(files(&world.host.run().join("netns")).len(), 1);
        // And one that is attached again before anybody swept.
        phase(7, "attaching");
        sh(&format!("ip link delete {}", world.host.veth(instance(1, 7), 0)));
        world.driver = open(&world.host);
        world.network(1, &[]).await;
        assert!(world.container(1, 7, &[]).await.pings("10.200.1.1"));
        sh("ip link delete ybforeign");
        world.driver.remove_all().await.unwrap();
        assert_eq!(leftovers(&world.host), Vec::<String>::new());
    });
}

#[test]
fn a_vm_gets_a_tap() {
    on_a_host(|world| async move {
        world.network(1, &[("vm", 9)]).await;
        let attachment = world.driver.attach(instance(1, 9), InstanceKind::Vm, &nic(1, 9, &[])).await.unwrap();
        let Port::Tap { interface } = &attachment.port else { panic!("{attachment:?}") };
        let shown = sh(&format!("ip -d link show {interface}"));
        assert!(shown.contains("master yb0000aa01") && shown.contains("persist on") && shown.contains("UP"), "{shown}");
        // Twice is as good as once.
        assert_eq!(world.driver.attach(instance(1, 9), InstanceKind::Vm, &nic(1, 9, &[])).await.unwrap(), attachment);
        let rules = sh("nft list ruleset");
        assert!(rules.contains(&format!("\"{interface}\" . 02:00:00:00:01:09 . 10.200.1.9")), "{rules}");
        world.driver.detach(instance(1, 9)).await.unwrap();
        world.driver.detach(instance(1, 9)).await.unwrap();
        assert!(!sh("nft list ruleset").contains("02:00:00:00:01:09"));
        assert!(!sh("ip link").contains(interface.as_str()));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn a_guest_gets_its_address_over_a_tap() {
    use dhcproto::v4::{Decodable, Decoder, DhcpOption, Encodable, Encoder, Message, MessageType};
    on_a_host(|world| async move {
        world.network(1, &[("vm", 9)]).await;
        world.driver.attach(instance(1, 9), InstanceKind::Vm, &nic(1, 9, &[])).await.unwrap();
        let card = std::sync::Arc::new(Card::open(&world.host.tap(instance(1, 9), 0)));
        let ask = |xid: u8, kind, broadcast: bool, wanted: Option<Ipv4Addr>| {
            let mut question = Message::default();
            question
                .set_xid(0x1234_5600 + u32::from(xid))
                .set_chaddr(&card::mac(1, 9))
                .opts_mut()
                .insert(DhcpOption::MessageType(kind));
            if broadcast {
                question.set_flags(question.flags().set_broadcast());
            }
            if let Some(wanted) = wanted {
                question.opts_mut().insert(DhcpOption::RequestedIpAddress(wanted));
            }
            let mut bytes = Vec::new();
            question.encode(&mut Encoder::new(&mut bytes)).unwrap();
            let packet = card::datagram((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67), &bytes);
            card::ethernet(card::EVERYBODY, card::mac(1, 9), 0x0800, &packet)
        };
        let exchange = |xid: u8, question: Vec<u8>| {
            let card = card.clone();
            async move {
                let ours = [2, 1, 6, 0, 0x12, 0x34, 0x56, xid];
                let frame = tokio::task::spawn_blocking(move || card.asks(&question, &ours)).await.unwrap();
                (frame[..6].to_vec(), Message::decode(&mut Decoder::new(&frame[42..])).unwrap())
            }
        };
        let (to, offer) = exchange(1, ask(1, MessageType::Discover, false, None)).await;
        assert_eq!(
            (to, offer.yiaddr(), offer.opts().msg_type()),
            (card::mac(1, 9).to_vec(), address(1, 9), Some(MessageType::Offer))
        );
        let (to, ack) = exchange(2, ask(2, MessageType::Request, true, Some(address(1, 9)))).await;
        assert_eq!((to, ack.opts().msg_type()), (card::EVERYBODY.to_vec(), Some(MessageType::Ack)));
        let (_, nak) = exchange(3, ask(3, MessageType::Request, true, Some(address(1, 8)))).await;
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn a_guest_is_neither_router_nor_dhcp_server_nor_somebody_else() {
    on_a_host(|world| async move {
        world.network(1, &[]).await;
        for last in [8, 9] {
            world.driver.attach(instance(1, last), InstanceKind::Vm, &nic(1, last, &[])).await.unwrap();
        }
        let [bad, good] = [8, 9].map(|last| Card::open(&world.host.tap(instance(1, last), 0)));
        let text = b"what the neighbour must not hear";
        let hello = b"both cards are plugged in";
        let plugged = (0..100).any(|_| {
            bad.send(&card::shout(1, 8, 5000, hello));
            good.hears(hello, Duration::from_millis(100)).is_some()
        });
        assert!(plugged);
        let advertisement = {
            // Version 6, ICMPv6, hop limit 255, from fe80::8 to all nodes, type 134.
            let mut packet = vec![0x60, 0, 0, 0, 0, 16 + 32, 58, 255];
            packet.extend([&[0xfe, 0x80], [0; 13].as_slice(), &[8], &[0xff, 2], &[0; 13], &[1]].concat());
            packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
            packet.extend(text);
            card::ethernet([0x33, 0x33, 0, 0, 0, 1], card::mac(1, 8), 0x86dd, &packet)
        };
        let router = card::datagram((address(1, 1), 5000), (address(1, 9), 9), text);
        let forbidden = [
            ("a router's advertisement", advertisement),
            ("an answer of a DHCP server", card::shout(1, 8, 67, text)),
            (
                "a neighbour's address",
                card::ethernet(card::EVERYBODY, card::mac(1, 8), 0x0800, &card::shout(1, 9, 5000, text)[14..]),
            ),
            ("the gateway's address", card::ethernet(card::mac(1, 9), card::mac(1, 8), 0x0800, &router)),
            ("a neighbour's card", card::shout(1, 9, 5000, text)),
            (
                "a tagged frame",
                card::ethernet(card::EVERYBODY, card::mac(1, 8), 0x8100, &[&[0, 5, 8, 0], text.as_slice()].concat()),
            ),
        ];
        for (what, frame) in &forbidden {
            bad.send(frame);
            // What is allowed and sent later has arrived: so the other never will.
            let proof = format!("after {what}");
            bad.send(&card::shout(1, 8, 5000, proof.as_bytes()));
            let mut heard = good.hears(b"", Duration::from_secs(5)).unwrap();
            while !heard.ends_with(proof.as_bytes()) {
                assert!(!heard.ends_with(text), "{what} got through");
                heard = good.hears(b"", Duration::from_secs(5)).unwrap_or_else(|| panic!("nothing came after {what}"));
            }
        }
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn a_network_in_use_stays_and_an_unused_one_goes_without_a_trace() {
    on_a_host(|world| async move {
        let id = world.network(1, &[("web", 5)]).await;
        world.container(1, 5, &["8080:80"]).await;
        let error = world.driver.remove(id).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "NetworkInUse"));
        assert!(error.message.contains("web.p1.yun"), "{error}");
        world.driver.detach(instance(1, 5)).await.unwrap();
        world.driver.remove(id).await.unwrap();
        world.driver.remove(id).await.unwrap();
        assert_eq!(leftovers(&world.host), Vec::<String>::new());
    });
}

#[test]
fn bad_requests_say_what_is_wrong() {
    on_a_host(|world| async move {
        let missing = world.driver.attach(instance(1, 5), InstanceKind::Container, &nic(1, 5, &[])).await.unwrap_err();
        assert_eq!((missing.kind, missing.reason), (ErrorKind::NotFound, "NetworkMissing"));
        world.network(1, &[]).await;
        world.container(1, 5, &[]).await;
        let attach = |nic: yun_types::Nic| {
            let driver = world.driver.clone();
            async move { driver.attach(instance(1, 99), InstanceKind::Container, &nic).await.unwrap_err().reason }
        };
        for last in [0, 1, 255] {
            assert_eq!(attach(nic(1, last, &[])).await, "BadAddress");
        }
        assert_eq!(attach(yun_types::Nic { address: address(9, 5), ..nic(1, 8, &[]) }).await, "BadAddress");
        assert_eq!(attach(nic(1, 5, &[])).await, "AddressTaken");
        assert_eq!(attach(yun_types::Nic { mac: "nonsense".to_owned(), ..nic(1, 8, &[]) }).await, "BadMac");
        assert_eq!(attach(nic(1, 8, &["203.0.113.1:80:80"])).await, "AddressNotHere");
        let mut overlapping = network(2, &[]);
        overlapping.spec.cidr = "10.200.1.128/25".parse().unwrap();
        assert_eq!(world.driver.ensure(&overlapping).await.unwrap_err().reason, "RangeTaken");
        let mut moved = network(1, &[]);
        moved.spec.cidr = "10.200.3.0/24".parse().unwrap();
        assert_eq!(world.driver.ensure(&moved).await.unwrap_err().reason, "NetworkInUse");
        sh("ip link add yb0000aa04 type bridge");
        assert_eq!(world.driver.ensure(&network(4, &[])).await.unwrap_err().reason, "NameTaken");
        world.driver.remove_all().await.unwrap();
        assert!(sh("ip link").contains("yb0000aa04"));
    });
}

#[test]
fn dial_reaches_instances_and_explains_when_not() {
    on_a_host(|world| async move {
        world.network(1, &[("web", 5), ("off", 6)]).await;
        let web = world.container(1, 5, &[]).await;
        web.serve_tcp(80);
        world.driver.attach(instance(1, 6), InstanceKind::Vm, &nic(1, 6, &[])).await.unwrap();
        world.driver.dial(instance(1, 5), 80).await.unwrap();
        let refused = world.driver.dial(instance(1, 5), 81).await.unwrap_err();
        assert_eq!(refused.reason, "ConnectionRefused");
        assert!(refused.message.contains("port 81 of web.p1.yun"), "{refused}");
        assert_eq!(world.driver.dial(instance(1, 6), 80).await.unwrap_err().reason, "ConnectTimeout");
        assert_eq!(world.driver.dial(instance(1, 7), 80).await.unwrap_err().reason, "NotAttached");
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn ranges_of_the_host_are_taken_and_ours_are_not() {
    on_a_host(|world| async move {
        let _outside = Inside::outside();
        sh("ip route add 10.99.0.0/16 via 192.0.2.2");
        world.network(1, &[]).await;
        let taken: Vec<String> = world.driver.taken_ranges().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(taken, ["10.99.0.0/16", "127.0.0.0/8", "192.0.2.0/24"]);
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn fifty_containers_at_once_and_each_alone_quickly() {
    on_a_host(|world| async move {
        world.network(1, &[]).await;
        let mut alone = Vec::new();
        for last in 200..220 {
            let start = Instant::now();
            world.container(1, last, &["20000:80".replace("20000", &format!("20{last}")).as_str()]).await;
            alone.push(start.elapsed());
        }
        alone.sort();
        let start = Instant::now();
        let attach = |last: u8| {
            let driver = world.driver.clone();
            async move { driver.attach(instance(1, last), InstanceKind::Container, &nic(1, last, &[])).await.unwrap() }
        };
        let all = futures::future::join_all((2..52).map(attach)).await;
        let together = start.elapsed();
        for attachment in [&all[0], &all[49]] {
            assert!(Inside::of(attachment).pings("10.200.1.1"));
        }
        let start = Instant::now();
        world.driver.detach(instance(1, 2)).await.unwrap();
        let detached = start.elapsed();
        let start = Instant::now();
        world.driver.remove_all().await.unwrap();
        let removed = start.elapsed();
        let (half, most) = (alone[alone.len() / 2], alone[alone.len() * 19 / 20]);
        eprintln!(
            "attach alone p50 {half:?} p95 {most:?}; 50 at once {together:?}; detach {detached:?}; remove 69 {removed:?}"
        );
        assert_eq!(leftovers(&world.host), Vec::<String>::new());
    });
}

#[test]
fn a_call_that_is_dropped_half_way_still_ends_well() {
    on_a_host(|world| async move {
        world.network(1, &[]).await;
        for last in 2..12 {
            let nic = nic(1, last, &[]);
            let attach = world.driver.attach(instance(1, last), InstanceKind::Container, &nic);
            // Dropped at a different moment each time.
            let _ = tokio::time::timeout(Duration::from_micros(u64::from(last) * 400), attach).await;
            assert!(world.container(1, last, &[]).await.pings("10.200.1.1"));
        }
        for last in 2..12 {
            let _ = tokio::time::timeout(
                Duration::from_micros(u64::from(last) * 400),
                world.driver.detach(instance(1, last)),
            )
            .await;
        }
        world.driver.remove_all().await.unwrap();
        assert_eq!(leftovers(&world.host), Vec::<String>::new());
    });
}

#[test]
fn two_clouds_on_one_host_do_not_touch_each_other() {
    on_a_host(|world| async move {
        let other = World::beside(&world);
        world.network(1, &[]).await;
        other.network(2, &[]).await;
        let (a, b) = (world.container(1, 5, &["8080:80"]).await, other.container(2, 5, &["8081:80"]).await);
        a.serve_tcp(80);
        b.serve_tcp(80);
        assert!(!a.pings(address(2, 5)) && !b.pings(address(1, 5)));
        assert!(other.driver.taken_ranges().await.unwrap().contains(&"10.200.1.0/24".parse().unwrap()));
        let nic = nic(2, 6, &["8080:80"]);
        let taken = other.driver.attach(instance(2, 6), InstanceKind::Container, &nic).await.unwrap_err();
        assert_eq!(taken.reason, "PortTaken");
        other.driver.probe().await.unwrap();
        world.driver.remove_all().await.unwrap();
        assert_eq!(leftovers(&world.host).iter().filter(|l| l.contains("yb0000aa01")).count(), 0);
        assert!(b.pings("10.200.2.1"));
        hear(SocketAddr::new(LOCALHOST, 8081)).unwrap();
        other.driver.remove_all().await.unwrap();
        assert_eq!(leftovers(&other.host), Vec::<String>::new());
    });
}

#[test]
fn a_port_stays_with_its_instance_over_a_restart() {
    on_a_host(|mut world| async move {
        world.network(1, &[("web", 5)]).await;
        world.container(1, 5, &["8080:80"]).await;
        world.driver = open(&world.host);
        let nic = nic(1, 6, &["8080:80"]);
        let error = world.driver.attach(instance(1, 6), InstanceKind::Container, &nic).await.unwrap_err();
        assert!(error.message.contains("instance web.p1.yun has it"), "{error}");
        world.driver.remove_all().await.unwrap();
    });
}

#[test]
fn rules_beside_iptables_can_still_be_read_by_iptables() {
    on_a_host(|world| async move {
        if std::process::Command::new("iptables-nft").arg("--version").output().is_err() {
            eprintln!("SKIPPED: this part needs iptables-nft");
            return;
        }
        sh(
            "iptables-nft -N DOCKER-USER && iptables-nft -P FORWARD DROP && iptables-nft -A FORWARD -j DOCKER-USER && iptables-nft -A DOCKER-USER -j RETURN",
        );
        world.network(1, &[]).await;
        let listing = sh("iptables-nft -S");
        assert!(
            listing.contains("-A DOCKER-USER -i yb0000aa01 -j ACCEPT") && listing.contains("-o yb0000aa01"),
            "{listing}"
        );
        world.driver.remove_all().await.unwrap();
        assert!(!sh("iptables-nft -S").contains("yb0000aa01"));
    });
}

#[test]
fn a_published_port_reads_as_people_write_it() {
    // Guards the helper of this file: a wrong port text would make every test above about another port.
    assert_eq!(nic(1, 5, &["8080:80"]).publish, ["8080:80".parse::<PublishedPort>().unwrap()]);
}
