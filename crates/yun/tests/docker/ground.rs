//! Networks and volumes by Docker's command line, and `docker-compose` on both.

use crate::{
    client::{Docker, real},
    common::{self, Cloud, text},
};
use serde_json::{Value, json};
use std::path::Path;

/// Debian's docker-compose, if it can be used here.
fn compose_program() -> Option<&'static Path> {
    let program = Path::new("/usr/bin/docker-compose");
    if !real("docker-compose") {
        return None;
    }
    if !program.exists() {
        eprintln!("SKIPPED docker-compose: it is not installed (cargo xtask setup installs it)");
        return None;
    }
    Some(program)
}

#[test]
fn networks_are_made_joined_left_and_removed() {
    if !real("docker network") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let id = docker.ok(&["network", "create", "--subnet", "10.231.7.0/24", "--label", "tier=back", "my_back"]);
    docker.ok(&["network", "create", "--internal", "quiet"]);
    let names = |filter: &str| docker.ok(&["network", "ls", "--format", "{{.Name}}", "--filter", filter]);
    assert_eq!((names("label=tier=back").as_str(), names("type=builtin").as_str()), ("my_back", "default"));
    docker.ok(&[
        "run",
        "-d",
        "--name",
        "db",
        "--network",
        "my_back",
        "--network-alias",
        "database",
        "--ip",
        "10.231.7.9",
        "box",
        "sleep",
        "1000",
    ]);
    docker.ok(&["run", "-d", "--name", "web", "--network", &id[..12], "box", "sleep", "1000"]);
    docker.ok(&["run", "-d", "--name", "edge", "box", "sleep", "1000"]);
    let finds = |who: &str, whom: &str| docker.run(&["exec", who, "ping", "-c", "1", "-W", "2", whom]).status.success();
    cloud.until("web finds db by its alias", || finds("web", "database"));
    assert!(finds("web", "db") && !finds("edge", "db"));
    let db = docker.inspect("db");
    let network = &db["NetworkSettings"]["Networks"]["my_back"];
    assert_eq!(
        (&network["IPAddress"], &network["Gateway"], &network["NetworkID"]),
        (&json!("10.231.7.9"), &json!("10.231.7.1"), &json!(id))
    );
    assert_eq!(
        docker
            .ok(&["ps", "--filter", "network=my_back", "--format", "{{.Names}}:{{.Networks}}"])
            .lines()
            .collect::<Vec<_>>(),
        ["web:my_back", "db:my_back"]
    );

    // One that runs joins and leaves.
    docker.ok(&["network", "connect", "--alias", "side", "my_back", "edge"]);
    cloud.until("edge finds db", || finds("edge", "db") && finds("web", "side"));
    let shown: Value = serde_json::from_str(&docker.ok(&["network", "inspect", "my_back"])).unwrap();
    assert_eq!(shown[0]["Containers"].as_object().unwrap().len(), 3);
    assert_eq!(
        (&shown[0]["IPAM"]["Config"][0]["Subnet"], &shown[0]["Labels"]["tier"]),
        (&json!("10.231.7.0/24"), &json!("back"))
    );
    docker.ok(&["network", "disconnect", "my_back", "edge"]);
    assert!(!finds("edge", "db"));

    // Nothing leads into an internal network.
    docker.ok(&["run", "-d", "--name", "shut", "--network", "quiet", "box", "sleep", "1000"]);
    assert_eq!(docker.ok(&["network", "inspect", "-f", "{{.Internal}}", "quiet", "my_back"]), "true\nfalse");

    for (words, said) in [
        (&["network", "create", "my_back"][..], "network with name my_back already exists"),
        (&["network", "create", "--driver", "overlay", "x1"], "--driver overlay is not supported"),
        (&["network", "create", "--subnet", "10.231.7.0/25", "x1"], "overlaps"),
        (
            &["network", "create", "--gateway", "10.231.8.9", "--subnet", "10.231.8.0/24", "x1"],
            "the gateway is 10.231.8.1",
        ),
        (&["network", "create", "--ipv6", "x1"], "networks have IPv4 only"),
        (&["network", "create", "host"], "predefined host network"),
        (&["network", "rm", "my_back"], "error while removing network"),
        (&["network", "rm", "default"], "cannot be deleted"),
        (&["network", "rm", "nowhere"], "o such network: nowhere"),
        (&["network", "inspect", "nowhere"], "nowhere"),
        (&["network", "connect", "my_back", "db"], "is in network"),
        (&["network", "connect", "my_back", "nobody"], "No such container"),
        (&["network", "connect", "--ip", "10.9.9.9", "my_back", "edge"], "10.9.9.9"),
        (&["network", "connect", "--link", "a:b", "my_back", "edge"], "--link is not supported"),
        (&["network", "disconnect", "quiet", "edge"], "is not in network quiet"),
        (&["network", "disconnect", "my_back", "web"], "is the only one"),
        (&["network", "ls", "--filter", "colour=red"], "invalid filter"),
        (&["create", "--network", "quiet", "-p", "127.0.0.1:1:1", "box"], "it is isolated"),
    ] {
        let why = docker.fails(words).1;
        assert!(why.contains(said), "docker {}: {why}", words.join(" "));
    }
    docker.ok(&["rm", "-f", "db", "web", "shut"]);
    assert!(docker.ok(&["network", "prune", "-f"]).contains("my_back"));
    assert_eq!(docker.ok(&["network", "ls", "--format", "{{.Name}}"]), "default");
}

#[test]
fn volumes_outlive_their_containers_and_are_removed_by_name() {
    if !real("docker volume") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    assert_eq!(docker.ok(&["volume", "create", "--label", "tier=db", "--opt", "size=64M", "my_data"]), "my_data");
    let once = |flags: &[&str], line: &str| docker.ok(&[&["run", "--rm"], flags, &["box", "sh", "-c", line]].concat());
    once(&["-v", "my_data:/var/data"], "echo kept > /var/data/file");
    assert_eq!(
        once(&["--mount", "type=volume,src=my_data,dst=/d,readonly"], "cat /d/file; touch /d/x 2>&1 || true"),
        "kept\ntouch: /d/x: Read-only file system"
    );
    // One that nobody made is made; an empty one is filled with what the image has, unless that is not wanted.
    assert!(once(&["-v", "conf:/etc"], "cat /etc/passwd").contains("root:x:0"));
    assert_eq!(
        once(&["-v", "bare:/etc:nocopy"], "ls /etc/passwd 2>&1 || true"),
        "ls: /etc/passwd: No such file or directory"
    );
    // Host directories, and what has no name lives as long as its container.
    let host = cloud.root().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("word"), "bound\n").unwrap();
    docker.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        &format!("{}:/host:ro", host.display()),
        "-v",
        "/cache",
        "-v",
        "my_data:/data",
        "--mount",
        "type=tmpfs,dst=/t",
        "box",
        "sleep",
        "1000",
    ]);
    docker.ok(&["exec", "web", "sh", "-c", "cat /host/word; echo 1 > /cache/one"]);
    docker.ok(&["restart", "-t", "0", "web"]);
    assert_eq!(docker.ok(&["exec", "web", "cat", "/cache/one", "/data/file"]), "1\nkept");
    let mounts = docker.inspect("web")["Mounts"].clone();
    let kinds: Vec<&str> = mounts.as_array().unwrap().iter().map(|m| m["Type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["bind", "tmpfs", "volume", "volume"], "{mounts}");
    assert!(
        mounts.as_array().unwrap().iter().any(|m| m["Name"] == "my_data" && m["Destination"] == "/data"),
        "{mounts}"
    );
    assert_eq!(docker.ok(&["ps", "--filter", "volume=my_data", "--format", "{{.Names}}"]), "web");

    let names = |filter: &str| docker.ok(&["volume", "ls", "-q", "--filter", filter]);
    assert_eq!((names("label=tier=db").as_str(), names("dangling=true").as_str()), ("my_data", "bare\nconf"));
    let shown: Value = serde_json::from_str(&docker.ok(&["volume", "inspect", "my_data"])).unwrap();
    assert_eq!((&shown[0]["Driver"], &shown[0]["Options"]["size"]), (&json!("local"), &json!("64M")));
    for (words, said) in [
        (&["volume", "create", "--driver", "nfs", "x1"][..], "--driver nfs is not supported"),
        (&["volume", "create", "--opt", "type=nfs", "x1"], "the only option is size"),
        (&["volume", "create", "--opt", "size=1", "x1"], "too small"),
        (&["volume", "create", "a/b"], "invalid volume name"),
        (&["volume", "rm", "my_data"], "volume is in use"),
        (&["volume", "rm", "nothing"], "o such volume"),
        (&["volume", "inspect", "nothing"], "nothing"),
        (&["volume", "ls", "--filter", "colour=red"], "invalid filter"),
    ] {
        let why = docker.fails(words).1;
        assert!(why.contains(said), "docker {}: {why}", words.join(" "));
    }
    docker.ok(&["volume", "rm", "-f", "nothing"]);
    docker.ok(&["rm", "-f", "web"]);
    docker.ok(&["volume", "rm", "conf"]);
    assert!(docker.ok(&["volume", "prune", "-f"]).contains("my_data"));
    assert_eq!(cloud.ok(&["volume", "ls", "-o", "name"]), "");
}

#[test]
fn compose_brings_services_up_in_order_and_down_again() {
    let Some(program) = compose_program() else { return };
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let shop = cloud.root().join("shop");
    std::fs::create_dir(&shop).unwrap();
    let port = common::free_port();
    let file = format!(
        r#"
version: "2.4"
services:
  db:
    image: box
    network_mode: bridge
    command: sh -c 'sleep 1; touch /tmp/ready; exec sleep 1000'
    healthcheck:
      test: ["CMD", "test", "-e", "/tmp/ready"]
      interval: 1s
      retries: 60
  web:
    image: box
    network_mode: bridge
    command: sh -c 'mkdir -p /www; echo $$MODE > /www/index.html; exec httpd -f -p 80 -h /www'
    environment:
      MODE: open
    ports: ["127.0.0.1:{port}:80"]
    depends_on:
      db:
        condition: service_healthy
"#
    );
    std::fs::write(shop.join("docker-compose.yml"), file).unwrap();
    let compose = |words: &[&str]| {
        let output = docker.command(program).args(words).current_dir(&shop).output().unwrap();
        assert!(
            output.status.success(),
            "docker-compose {}: {}\n{}",
            words.join(" "),
            text(&output.stderr),
            cloud.log()
        );
        text(&output.stdout)
    };
    compose(&["up", "-d"]);
    cloud.until("it is open", || common::http("127.0.0.1", port).is_some_and(|a| a == "open\n"));
    assert_eq!(docker.inspect("shop_db_1")["State"]["Health"]["Status"], "healthy", "web waits for it");
    let ps = compose(&["ps"]);
    assert!(ps.contains("shop_web_1") && ps.contains("Up (healthy)"), "{ps}");
    assert_eq!(compose(&["exec", "-T", "web", "sh", "-c", "echo $MODE"]), "open\n");
    // Nothing changes when nothing is changed.
    let before = docker.ok(&["ps", "-q"]);
    compose(&["up", "-d"]);
    assert_eq!(docker.ok(&["ps", "-q"]), before);
    compose(&["stop", "-t", "0"]);
    assert_eq!(docker.ok(&["ps", "-q"]), "");
    compose(&["start"]);
    compose(&["down", "-t", "0"]);
    assert_eq!(docker.ok(&["ps", "-aq"]), "");
}

const STORE: &str = r#"
version: "3.7"
services:
  db_main:
    image: box
    command: sh -c 'date > /tmp/new; cp -n /tmp/new /var/lib/db/first; exec httpd -f -p 80 -h /var/lib/db'
    volumes: ["rows:/var/lib/db"]
    networks:
      back: { aliases: [database] }
  web:
    image: box
    command: sleep 1000
    depends_on: [db_main]
    environment: { MODE: one }
    networks: [back, front]
    volumes: ["./conf:/conf:ro", "/cache"]
networks:
  front:
  back:
    internal: true
volumes:
  rows:
"#;

#[test]
fn compose_files_have_their_networks_and_volumes_and_data_outlives_them() {
    let Some(program) = compose_program() else { return };
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let shop = cloud.root().join("shop");
    std::fs::create_dir_all(shop.join("conf")).unwrap();
    std::fs::write(shop.join("conf/word"), "bound\n").unwrap();
    let file = shop.join("docker-compose.yml");
    std::fs::write(&file, STORE).unwrap();
    let compose = |words: &[&str]| {
        let output = docker.command(program).args(words).current_dir(&shop).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "docker-compose {}: {said}\n{}", words.join(" "), cloud.log());
        said
    };
    compose(&["up", "-d"]);
    let first = || {
        let output = docker.run(&["exec", "shop_web_1", "wget", "-qO-", "http://database/first"]);
        output.status.success().then(|| text(&output.stdout))
    };
    cloud.until("db answers by its alias", || first().is_some());
    let kept = first();
    assert_eq!(docker.ok(&["exec", "shop_web_1", "cat", "/conf/word"]), "bound");
    assert_eq!(docker.ok(&["volume", "ls", "-q"]), "shop_rows");
    assert_eq!(
        docker.ok(&["network", "ls", "--filter", "name=shop", "--format", "{{.Name}}"]),
        "shop_back\nshop_front"
    );
    let networks = docker.inspect("shop_web_1")["NetworkSettings"]["Networks"].clone();
    assert_eq!(networks.as_object().unwrap().len(), 2, "{networks}");
    // A second time changes nothing; a change replaces what it is about.
    let ids = || docker.ok(&["ps", "-q", "--no-trunc"]);
    let before = ids();
    compose(&["up", "-d"]);
    assert_eq!(ids(), before);
    std::fs::write(&file, STORE.replace("MODE: one", "MODE: two")).unwrap();
    compose(&["up", "-d"]);
    assert_eq!(docker.ok(&["exec", "shop_web_1", "sh", "-c", "echo $MODE"]), "two");
    assert_eq!(ids().lines().filter(|id| before.contains(id)).count(), 1, "only web is another one");

    compose(&["down", "-t", "0"]);
    assert_eq!((docker.ok(&["ps", "-aq"]).as_str(), docker.ok(&["volume", "ls", "-q"]).as_str()), ("", "shop_rows"));
    assert_eq!(docker.ok(&["network", "ls", "--format", "{{.Name}}"]), "default");
    compose(&["up", "-d"]);
    cloud.until("db answers again", || first().is_some());
    assert_eq!(first(), kept, "what was written first is still there");
    compose(&["down", "-v", "-t", "0"]);
    assert_eq!(docker.ok(&["volume", "ls", "-q"]), "");
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}
