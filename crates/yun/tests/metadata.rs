//! The metadata service, asked from inside: an instance learns who it is, and nothing about any other.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line and programs beside it")]

mod common;

use common::{Cloud, run, text};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command, Output},
};

const SERVICE: &str = "http://169.254.169.254/latest";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds: 60";

/// What a program in an instance gets for an HTTP request that is sent as it is written, with busybox alone.
fn raw(cloud: &Cloud, words: &[&str], request: &str) -> String {
    let script = format!("printf '{}' | nc -w 5 169.254.169.254 80", request.replace("\r\n", "\\r\\n"));
    let output = cloud.run(&[words, &["sh", "-c", &script]].concat());
    text(&output.stdout)
}

fn token(cloud: &Cloud, words: &[&str]) -> String {
    let request = "PUT /latest/api/token HTTP/1.1\r\nHost: m\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n";
    let answer = raw(cloud, words, request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}{}", cloud.log());
    answer.rsplit("\r\n").next().unwrap().trim().to_owned()
}

fn get(cloud: &Cloud, words: &[&str], path: &str, token: &str) -> (String, String) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: m\r\nX-aws-ec2-metadata-token: {token}\r\nConnection: close\r\n\r\n");
    let answer = raw(cloud, words, &request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn an_instance_learns_who_it_is_and_nothing_of_others() {
    if !common::real("the metadata service") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], &["sleep", "1000"]);
    cloud.launch("db", &[], &["sleep", "1000"]);
    let (web, db) = (&["exec", "web", "--"][..], &["exec", "db", "--"][..]);
    let secret = token(&cloud, web);
    let shown = cloud.show("web");
    for (key, want) in [
        ("instance-id", shown["metadata"]["id"].as_str().unwrap()),
        ("local-ipv4", shown["status"]["address"].as_str().unwrap()),
        ("mac", shown["status"]["mac"].as_str().unwrap()),
        ("hostname", "web.default.yun"),
        ("ami-id", "box"),
    ] {
        let (status, body) = get(&cloud, web, &format!("/latest/meta-data/{key}"), &secret);
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", want), "{key}");
    }
    let (_, identity) = get(&cloud, web, "/latest/dynamic/instance-identity/document", &secret);
    assert!(identity.contains("\"accountId\": \"default\""), "{identity}");
    assert!(get(&cloud, web, "/latest/user-data", &secret).0.contains("404"));
    // The token of one is none for another, and each sees itself.
    assert!(get(&cloud, db, "/latest/meta-data/instance-id", &secret).0.contains("401"));
    let own = token(&cloud, db);
    let (_, id) = get(&cloud, db, "/latest/meta-data/instance-id", &own);
    assert_eq!(id, cloud.show("db")["metadata"]["id"].as_str().unwrap());
    assert!(get(&cloud, web, "/latest/meta-data/", "").0.contains("401"));
    // The service is reached at its own address only, and no other link-local address is.
    let port = cloud.run(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "nc -w 2 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p') 16925 </dev/null",
    ]);
    assert!(!port.status.success());
    let other = cloud.run(&["exec", "web", "--", "nc", "-w", "2", "169.254.169.253", "80"]);
    assert!(!other.status.success());
    // Another server serves on, also to who was there before it.
    cloud.kill();
    cloud.up();
    cloud.until("the service is back", || {
        raw(&cloud, web, "PUT /latest/api/token HTTP/1.1\r\nHost: m\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200")
    });
    let again = token(&cloud, web);
    assert_eq!(get(&cloud, web, "/latest/meta-data/local-hostname", &again).1, "web.default.yun");
}

/// The network namespace of a container, entered by programs of the host: its addresses, its rules, and real clients.
struct Inside {
    file: PathBuf,
}

impl Inside {
    fn of(cloud: &Cloud, project: &str, name: &str) -> Self {
        let shown = cloud.json(&["-p", project, "show", name]);
        let id = shown["metadata"]["id"].as_str().unwrap();
        let own = std::fs::read_to_string(cloud.state().join("cloud-id")).unwrap().trim().replace('-', "");
        let places = [cloud.root().join("run/yun"), PathBuf::from(format!("/run/yun-{}", &own[24..]))];
        let file = places.iter().map(|run| run.join("netns").join(id)).find(|file| file.exists());
        Self { file: file.unwrap_or_else(|| panic!("{name} has no namespace")) }
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("nsenter").arg(format!("--net={}", self.file.display())).args(words).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What `curl` gets of a path; the status if it is no success.
    fn curl(&self, flags: &[&str], path: &str) -> Result<String, i32> {
        let address = format!("{SERVICE}/{path}");
        let output = self.run(&[&["curl", "-sf", "--max-time", "3"], flags, &[&address]].concat());
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(output.status.code().unwrap_or(-1)) }
    }

    fn token(&self, flags: &[&str]) -> Result<String, i32> {
        self.curl(&[&["-X", "PUT", "-H", TTL], flags].concat(), "api/token")
    }

    fn get(&self, flags: &[&str], path: &str) -> Result<String, i32> {
        let header = format!("X-aws-ec2-metadata-token: {}", self.token(flags)?);
        self.curl(&[&["-H", &header], flags].concat(), path)
    }
}

/// What `curl` ends with where a server refuses, and where nobody answers.
const REFUSED: i32 = 22;
const SILENCE: [i32; 2] = [7, 28];

#[test]
fn metadata_is_told_in_each_network_and_never_to_somebody_else() {
    if !common::real("the metadata service in several networks") {
        return;
    }
    let cloud = Cloud::with_box();
    let sleep = &["sleep", "100000"];
    cloud.ok(&["network", "create", "back", "--isolated"]);
    cloud.launch("web", &["--network", "default", "--network", "back"], sleep);
    cloud.launch("alone", &["--network", "back"], sleep);
    cloud.ok(&["project", "create", "lab"]);
    let archive = cloud.root().join("box.tar");
    cloud.ok(&["-p", "lab", "image", "import", "box", &archive.to_string_lossy(), "--", "sh"]);
    cloud.ok(&[&["-p", "lab"][..], &common::launching("spy", &[], sleep)].concat());
    let id = |project: &str, name: &str| {
        let shown = cloud.json(&["-p", project, "show", name]);
        (shown["metadata"]["id"].as_str().unwrap().to_owned(), shown["status"]["interfaces"].clone())
    };
    let [web, alone, spy] =
        [("default", "web"), ("default", "alone"), ("lab", "spy")].map(|(p, n)| (Inside::of(&cloud, p, n), id(p, n)));
    for (inside, (id, _)) in [&web, &alone, &spy] {
        assert_eq!(inside.get(&[], "meta-data/instance-id").as_deref(), Ok(id.as_str()), "{}", cloud.log());
        assert_eq!(inside.curl(&[], "meta-data/instance-id"), Err(REFUSED), "no token, no answer");
    }
    // All interfaces are told, with the ranges that they are in; and over each of them, who asks is known.
    let (inside, (own, interfaces)) = &web;
    let of = |n: usize, key: &str| interfaces[n][key].as_str().unwrap().to_owned();
    let macs = format!("{}/\n{}/", of(0, "mac"), of(1, "mac"));
    assert_eq!(inside.get(&[], "meta-data/network/interfaces/macs").as_ref(), Ok(&macs));
    let second = format!("meta-data/network/interfaces/macs/{}", of(1, "mac"));
    assert_eq!(inside.get(&[], &format!("{second}/device-number")).as_deref(), Ok("1"));
    assert_eq!(inside.get(&[], &format!("{second}/local-ipv4s")), Ok(of(1, "address")));
    let range = inside.get(&[], &format!("{second}/subnet-ipv4-cidr-block")).unwrap();
    let gateway = cloud.json(&["network", "ls"]);
    let back = gateway.as_array().unwrap().iter().find(|network| network["metadata"]["name"] == "back").unwrap();
    assert_eq!(back["spec"]["cidr"], Value::from(range));
    let first = |address: &str| {
        let (range, _) = address.rsplit_once('.').unwrap();
        format!("{range}.1")
    };
    let gateway = first(&of(1, "address"));
    inside.ok(&["ip", "route", "add", "169.254.169.254", "via", &gateway, "dev", "eth1"]);
    assert_eq!(inside.get(&[], "meta-data/instance-id").as_ref(), Ok(own), "over the second interface");
    inside.ok(&["ip", "route", "del", "169.254.169.254"]);
    cloud.ok(&["network", "detach", "back", "web"]);
    cloud.until("the interface that left is not told any more", || {
        inside.get(&[], "meta-data/network/interfaces/macs") == Ok(format!("{}/", of(0, "mac")))
    });

    // A token of another is none here, an address of another gets no answer, and the doors of other networks are shut.
    let (spy, (_, spys)) = &spy;
    let stolen = format!("X-aws-ec2-metadata-token: {}", inside.token(&[]).unwrap());
    assert_eq!(spy.curl(&["-H", &stolen], "meta-data/instance-id"), Err(REFUSED));
    let address = of(0, "address");
    spy.ok(&["ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"]);
    let said = spy.token(&["--interface", &address]).unwrap_err();
    assert!(SILENCE.contains(&said), "{said}");
    let own = spys[0]["address"].as_str().unwrap();
    for door in [first(&address), first(own)] {
        let url = format!("http://{door}:16925/latest/api/token");
        let output = spy.run(&["curl", "-s", "--max-time", "2", "-X", "PUT", "-H", TTL, &url]);
        assert!(SILENCE.contains(&output.status.code().unwrap()), "{door} answered: {output:?}");
    }
}

/// A namespace behind a container, as one that a program inside would make, with the container as its router.
struct Behind(&'static str);

impl Behind {
    fn new(inside: &Inside) -> Self {
        let behind = Self("yun-test-behind");
        run("ip", &["netns", "add", behind.0]);
        inside.ok(&["ip", "link", "add", "inner", "type", "veth", "peer", "name", "outer", "netns", behind.0]);
        for words in ["addr add 192.168.77.1/24 dev inner", "link set inner up"] {
            inside.ok(&[&["ip"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        }
        for words in ["addr add 192.168.77.2/24 dev outer", "link set outer up", "route add default via 192.168.77.1"] {
            run("ip", &[&["-n", behind.0], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        }
        inside.ok(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        inside.ok(&[
            "nft",
            "add table ip out; add chain ip out post { type nat hook postrouting priority 100 ; }; add rule ip out post masquerade",
        ]);
        behind
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", self.0]).args(words).output().unwrap()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", self.0]).output();
    }
}

#[test]
fn answers_live_for_one_hop() {
    if !common::real("how far metadata goes") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("router", &[], &["sleep", "100000"]);
    let inside = Inside::of(&cloud, "default", "router");
    assert!(inside.token(&[]).is_ok());
    let behind = Behind::new(&inside);
    // The way there is open for all else.
    let gateway = text(&inside.run(&["ip", "-4", "route", "show", "default"]).stdout);
    let gateway = gateway.split(' ').nth(2).unwrap().to_owned();
    let ping = behind.run(&["ping", "-c", "1", "-W", "5", &gateway]);
    assert!(ping.status.success(), "{}", text(&ping.stdout));
    let output = behind.run(&[
        "curl",
        "-s",
        "--max-time",
        "3",
        "-X",
        "PUT",
        "-H",
        TTL,
        "http://169.254.169.254/latest/api/token",
    ]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(28), ""));
    assert!(inside.token(&[]).is_ok());
}

#[test]
fn a_machine_reads_its_metadata_with_curl() {
    if !common::real_vms("the metadata service in a VM") {
        return;
    }
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small", "--packages", "curl"]);
    let data = cloud.root().join("user-data");
    std::fs::write(&data, "#cloud-config\nhostname: mine\n").unwrap();
    let size = "cpu:0.5,memory:256Mi,disk:256Mi";
    cloud.ok(&["launch", "small", "vm1", "--size", size, "--user-data", &data.to_string_lossy()]);
    let inside = |command: &str| {
        let output = cloud.run(&["ssh", "vm1", "--wait", "90", "--", command]);
        assert!(output.status.success(), "{command}: {}\n{}", text(&output.stderr), cloud.log());
        text(&output.stdout)
    };
    let script = format!(
        "t=$(curl -sf -X PUT -H '{TTL}' {SERVICE}/api/token); for p in instance-id local-ipv4 public-keys/0/openssh-key; do curl -sf -H \"X-aws-ec2-metadata-token: $t\" {SERVICE}/meta-data/$p; echo; done; curl -sf -H \"X-aws-ec2-metadata-token: $t\" {SERVICE}/user-data; curl -s -o /dev/null -w '%{{http_code}}' {SERVICE}/meta-data/"
    );
    let said = inside(&script);
    let lines: Vec<&str> = said.lines().collect();
    let vm = cloud.show("vm1");
    assert_eq!(lines[0], vm["metadata"]["id"].as_str().unwrap(), "{said}");
    assert_eq!(lines[1], vm["status"]["address"].as_str().unwrap());
    assert!(lines[2].starts_with("ssh-"), "{said}");
    assert_eq!(lines[3..], ["#cloud-config", "hostname: mine", "401"]);
}
