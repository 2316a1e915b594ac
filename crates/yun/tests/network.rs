//! Networks of projects as their users see them: names, published ports, and who can reach whom.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, free_port, http, launching, text};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

const SERVER: &[&str] = &["sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"];

/// An address of this host that is not its own loopback.
fn own_address() -> Option<Ipv4Addr> {
    let probe = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks for the way.
    probe.connect("192.0.2.1:9").ok()?;
    match probe.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    }
}

#[test]
fn a_published_port_answers_on_every_address_of_the_host() {
    if !common::real("published ports") {
        return;
    }
    let cloud = Cloud::with_box();
    let (open, local) = (free_port(), free_port());
    cloud.launch("web", &["--publish", &format!("{open}:80"), "--publish", &format!("127.0.0.1:{local}:80")], SERVER);
    cloud.until("it serves", || http("127.0.0.1", open).is_some());
    assert_eq!(http("127.0.0.1", open).unwrap(), "web\n");
    assert_eq!(http("127.0.0.1", local).unwrap(), "web\n");
    let gateway = cloud.json(&["network", "ls"])[0]["spec"]["cidr"].as_str().unwrap().replace(".0/24", ".1");
    if let Some(own) = own_address() {
        assert_eq!(http(&own.to_string(), open).unwrap(), "web\n", "on the host's own address");
        assert!(http(&own.to_string(), local).is_none(), "a port of 127.0.0.1 is not published elsewhere");
    }
    // Another instance uses the published port too, and so does the one it leads to.
    cloud.launch("client", &[], &["sleep", "1000"]);
    for (name, from) in [("client", "another instance"), ("web", "itself")] {
        let url = format!("http://{gateway}:{open}/");
        let answer = cloud.run(&["exec", name, "--", "timeout", "5", "wget", "-q", "-O", "-", &url]);
        assert_eq!(text(&answer.stdout), "web\n", "from {from}: {}", text(&answer.stderr));
    }
    // A stopped instance answers nobody, a started one does again, and a removed one gives its ports back.
    cloud.ok(&["stop", "-t", "0", "web"]);
    assert!(http("127.0.0.1", open).is_none());
    cloud.ok(&["start", "web"]);
    cloud.until("it serves again", || http("127.0.0.1", open).is_some());
    cloud.ok(&["rm", "-f", "web"]);
    drop(TcpListener::bind(("0.0.0.0", open)).unwrap());
}

#[test]
fn datagrams_are_published_too() {
    if !common::real("published datagram ports") {
        return;
    }
    if !std::path::Path::new("/usr/bin/perl").exists() {
        eprintln!("SKIPPED published datagram ports: there is no perl to answer with");
        return;
    }
    let cloud = Cloud::with_box();
    let port = free_port();
    let script = "use Socket; socket(S,PF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(7,INADDR_ANY)) or die; while($p=recv(S,$b,99,0)){send(S,$b,0,$p)}";
    let mut flags = vec!["--publish".to_owned(), format!("{port}:7/udp")];
    for directory in ["/usr", "/lib", "/lib64"] {
        flags.extend(["-v".to_owned(), format!("{directory}:{directory}:ro")]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cloud.launch("echo", &flags, &["/usr/bin/perl", "-e", script]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 16];
    cloud.until("the datagram comes back", || {
        socket.send_to(b"hello", ("127.0.0.1", port)).is_ok()
            && matches!(socket.recv(&mut buffer), Ok(5) if buffer.starts_with(b"hello"))
    });
}

#[test]
fn instances_find_each_other_by_name_and_other_projects_do_not() {
    if !common::real("names and isolation") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], SERVER);
    cloud.launch("client", &[], &["sleep", "1000"]);
    let in_client = |words: &[&str]| cloud.run(&[&["exec", "client", "--"][..], words].concat());
    for name in ["web", "web.default.yun"] {
        cloud.until(name, || {
            in_client(&["timeout", "2", "wget", "-q", "-O", "-", &format!("http://{name}/")]).stdout == b"web\n"
        });
    }
    let address = cloud.show("web")["status"]["address"].as_str().unwrap().to_owned();
    let found = text(&in_client(&["nslookup", "web.default.yun"]).stdout);
    assert!(found.contains(&address), "{found}");
    assert!(in_client(&["ping", "-c", "1", "-W", "5", "web"]).status.success());
    assert!(!in_client(&["nslookup", "nobody.default.yun"]).status.success(), "who is not there has no address");

    cloud.ok(&["project", "create", "other"]);
    cloud.ok(&["-p", "other", "image", "import", "box", &cloud.root().join("box.tar").to_string_lossy(), "--", "sh"]);
    cloud.ok(&[&["-p", "other"][..], &launching("stranger", &[], SERVER)].concat());
    let in_stranger = |words: &[&str]| cloud.run(&[&["-p", "other", "exec", "stranger", "--"][..], words].concat());
    assert!(
        !in_stranger(&["ping", "-c", "1", "-W", "1", &address]).status.success(),
        "another project is reached by ping"
    );
    let page = format!("http://{address}/");
    assert!(
        !in_stranger(&["timeout", "2", "wget", "-q", "-O", "-", &page]).status.success(),
        "another project is reached by TCP"
    );
    assert!(!in_stranger(&["nslookup", "web.default.yun"]).status.success(), "another project's names are told");
    let strange = cloud.json(&["-p", "other", "show", "stranger"])["status"]["address"].as_str().unwrap().to_owned();
    assert!(!in_client(&["timeout", "2", "wget", "-q", "-O", "-", &format!("http://{strange}/")]).status.success());
    // A made-up sender does not help: what leaves an instance has its own address.
    let forged = in_stranger(&["sh", "-c", &format!("ip addr add {address}/32 dev eth0 2>&1")]);
    assert!(!forged.status.success(), "an instance may not change its own address");
    // A new name is known at once, and a removed one is forgotten.
    cloud.ok(&["rm", "-f", "web"]);
    cloud.until("its name is forgotten", || !in_client(&["nslookup", "web.default.yun"]).status.success());
}

#[test]
fn any_port_of_an_instance_can_be_dialed_through_the_server() {
    if !common::real("dial") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], SERVER);
    cloud.until("it serves", || {
        let output = cloud.fed(&["dial", "web", "80"], b"GET / HTTP/1.0\r\n\r\n");
        text(&output.stdout).ends_with("web\n")
    });
    let (_, why) = cloud.fails(&["dial", "web", "81"]);
    assert!(why.contains("port 81") && why.contains("not only on 127.0.0.1"), "{why}");
    // The end of what is sent arrives, and what is said after it comes back.
    cloud.launch("sink", &[], &["sh", "-c", "while :; do nc -l -p 9 -e sh -c 'wc -c'; done"]);
    cloud.until("all of it arrived", || {
        text(&cloud.fed(&["dial", "sink", "9"], &[7; 100_000]).stdout).trim() == "100000"
    });
    // Nothing of it is published.
    let address = cloud.show("web")["status"]["address"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect((address.as_str(), 80)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("web\n"), "the host itself reaches its instances");
}
