//! A Compose file on the real thing: order, health, names, volumes, a change, logs, and what is left afterwards.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, real, text};

const FILE: &str = "name: shop
services:
  web:
    image: box
    command: [sh, -c, 'echo serving ${GREETING:-hello}; exec httpd -f -p 80 -h /data']
    depends_on:
      db: { condition: service_healthy }
      init: { condition: service_completed_successfully }
    volumes: ['./data:/data']
    storage_opt: { size: 10m }
    deploy: { resources: { limits: { cpus: '0.05', memory: 32m } } }
  db:
    image: box
    command: [sh, -c, 'sleep 1; touch /tmp/up; exec sleep 1000']
    healthcheck: { test: [CMD, test, -f, /tmp/up], interval: 1s, retries: 20 }
    stop_grace_period: 1s
    storage_opt: { size: 10m }
    deploy: { resources: { limits: { cpus: '0.05', memory: 32m } } }
  init:
    image: box
    command: [sh, -c, 'echo ready > /data/index.html']
    volumes: ['./data:/data']
    storage_opt: { size: 10m }
    deploy: { resources: { limits: { cpus: '0.05', memory: 32m } } }
";

#[test]
fn a_compose_file_comes_up_changes_and_goes() {
    if !real("compose on the real thing") {
        return;
    }
    let cloud = Cloud::with_box();
    let file = cloud.root().join("compose.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, FILE).unwrap();
    let data = cloud.root().join("data");
    std::fs::create_dir(&data).unwrap();
    // Root inside need not be root outside.
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let compose = |words: &[&str]| cloud.ok(&[&["compose", "-f", path], words].concat());

    let said = compose(&["up", "-d"]);
    for line in ["shop-db created", "shop-init created", "shop-web created"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let names: Vec<String> = compose(&["ps", "-o", "name"]).lines().map(str::to_owned).collect();
    assert_eq!(names, ["shop-db", "shop-init", "shop-web"]);
    assert_eq!(cloud.state_of("shop-init"), "stopped");
    assert_eq!(cloud.show("shop-db")["status"]["health"]["state"], "healthy");
    // Services find each other by their own names, and share what was written to the volume.
    cloud.until("web is found by its name", || {
        text(&cloud.run(&["exec", "shop-db", "--", "wget", "-qO-", "http://web/"]).stdout).contains("ready")
    });
    let logs = compose(&["logs"]);
    assert!(logs.contains("shop-web  | serving hello"), "{logs}");

    // A second time changes nothing; a change replaces what it is about, and nothing else.
    let before = cloud.show("shop-db")["metadata"]["id"].clone();
    assert!(compose(&["up", "-d"]).contains("shop-web running"));
    std::fs::write(file.with_file_name(".env"), "GREETING=again\n").unwrap();
    let said = compose(&["up", "-d"]);
    assert!(said.contains("shop-web recreated") && said.contains("shop-db running"), "{said}");
    assert_eq!(cloud.show("shop-db")["metadata"]["id"], before);
    assert!(compose(&["config"]).contains("echo serving again"));

    std::fs::write(&file, FILE.replace("  web:\n", "  front:\n")).unwrap();
    let output = cloud.run(&["compose", "-f", path, "up", "-d"]);
    assert!(text(&output.stderr).contains("instance shop-web is of this project and no longer in the file"));
    compose(&["up", "-d", "--remove-orphans"]);
    assert!(!compose(&["ps", "-o", "name"]).contains("shop-web"));

    compose(&["down"]);
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "");
    let (code, said) = cloud.fails(&["compose", "-f", "/nowhere.yaml", "up"]);
    assert!(code == 1 && said.contains("cannot read /nowhere.yaml"), "{said}");
    std::fs::write(
        &file,
        FILE.replace("image: box\n    command: [sh, -c, 'sleep", "build: .\n    command: [sh, -c, 'sleep"),
    )
    .unwrap();
    let (_, said) = cloud.fails(&["compose", "-f", path, "up", "-d"]);
    assert!(
        said.contains("compose.yaml:13: services.db.build: build is not supported: build the image first"),
        "{said}"
    );
    std::fs::write(
        &file,
        FILE.replace(
            "image: box\n    command: [sh, -c, 'sleep",
            "image: nothing:9\n    pull_policy: never\n    command: [sh, -c, 'sleep",
        ),
    )
    .unwrap();
    let (_, said) = cloud.fails(&["compose", "-f", path, "up", "-d"]);
    assert!(said.contains("service db: image nothing:9 is not here, and its pull_policy is never"), "{said}");
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "", "what is refused makes nothing");
    assert_eq!(cloud.ok(&["network", "ls", "-o", "name"]), "default\n", "nor networks");
}

const STORE: &str = "name: store
x-small: &small
  image: box
  storage_opt: { size: 10m }
  deploy: { resources: { limits: { cpus: '0.05', memory: 32m } } }
services:
  web:
    <<: *small
    command: [sh, -c, 'mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www']
    networks: [front, back]
    depends_on: [db]
  db:
    <<: *small
    command: [sh, -c, 'date +%N > /tmp/new; cp -n /tmp/new /var/lib/db/first; exec httpd -f -p 80 -h /var/lib/db']
    networks: { back: { aliases: [database] } }
    volumes: ['rows:/var/lib/db', './conf:/conf:ro', '/cache']
  edge:
    <<: *small
    command: [sleep, '100000']
    networks: [front]
networks:
  front:
  back: { internal: true }
volumes:
  rows:
";

#[test]
fn services_have_the_networks_and_volumes_of_their_file() {
    if !real("compose with networks and volumes") {
        return;
    }
    let cloud = Cloud::with_box();
    let file = cloud.root().join("compose.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, STORE).unwrap();
    let conf = cloud.root().join("conf");
    std::fs::create_dir(&conf).unwrap();
    std::fs::write(conf.join("word"), "bound\n").unwrap();
    let compose = |words: &[&str]| cloud.ok(&[&["compose", "-f", path], words].concat());
    let inside = |name: &str, line: &str| {
        let output = cloud.run(&["exec", name, "--", "sh", "-c", line]);
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };

    let said = compose(&["up", "-d"]);
    for line in ["network store-front created", "network store-back created", "volume store-rows created"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let first = |name: &str| inside("store-web", &format!("wget -qO- http://{name}/first"));
    cloud.until("db answers by its name", || first("db").is_ok());
    let kept = first("database").unwrap();
    assert_eq!(first("store-db").unwrap(), kept, "by every name");
    assert_eq!(inside("store-db", "cat /conf/word; echo x > /cache/y && cat /cache/y").unwrap(), "bound\nx\n");
    // Whoever shares no network finds nobody, and nothing leads out of an internal one.
    cloud.until("edge finds web", || inside("store-edge", "wget -qO- http://web/").is_ok_and(|page| page == "page\n"));
    assert!(inside("store-edge", "wget -T 2 -qO- http://db/first").is_err());
    assert!(compose(&["up", "-d"]).contains("store-db running"), "a second time changes nothing");
    assert_eq!(cloud.json(&["volume", "show", "store-rows"])["status"]["users"][0]["instance"], "store-db");

    // The data outlives the services.
    let said = compose(&["down"]);
    assert!(said.contains("network store-back removed") && said.contains("volume store-rows kept"), "{said}");
    assert_eq!(cloud.ok(&["network", "ls", "-o", "name"]), "default\n");
    compose(&["up", "-d"]);
    cloud.until("db answers again", || first("db").is_ok());
    assert_eq!(first("db").unwrap(), kept, "what was written first is still there");

    // Somebody else's network is used if the file says so, and left alone.
    let refused = |text: &str, words: &[&str], why: &str| {
        let other = cloud.root().join("other.yaml");
        std::fs::write(&other, text).unwrap();
        let (_, said) = cloud.fails(&[&["compose", "-f", other.to_str().unwrap()], words].concat());
        assert!(said.contains(why), "{why}: {said}");
    };
    let guest = "name: guest\nservices:\n  db: { image: box, command: [sleep, '1000'], networks: [back], storage_opt: { size: 10m }, volumes: ['rows:/r'] }
networks:\n  back: { external: true, name: store-back }\nvolumes:\n  rows: { external: true, name: store-rows }\n";
    refused(guest, &["up", "-d"], "the name db is that of a service of Compose project store in network store-back");
    let friend = guest.replace("  db:", "  friend:");
    refused(&friend.replace("name: store-back", "name: none"), &["up", "-d"], "yun network create none");
    refused(&friend.replace("name: store-rows", "name: none"), &["up", "-d"], "yun volume create none");
    refused(
        &friend.replace("external: true, name: store-back", "name: store-back"),
        &["up", "-d"],
        "say external: true",
    );
    refused(
        &friend.replace("external: true, name: store-rows", "name: store-rows"),
        &["up", "-d"],
        "say external: true",
    );
    let other = cloud.root().join("other.yaml");
    std::fs::write(&other, &friend).unwrap();
    cloud.ok(&["compose", "-f", other.to_str().unwrap(), "up", "-d"]);
    assert_eq!(inside("guest-friend", "cat /r/first").unwrap(), kept);
    refused(STORE, &["down", "-v"], "store-back cannot be deleted: guest-friend is in it");
    std::fs::write(&other, &friend).unwrap();
    cloud.ok(&["compose", "-f", other.to_str().unwrap(), "down", "-v"]);
    let said = compose(&["down", "-v"]);
    assert!(said.contains("volume store-rows removed"), "{said}");
    assert_eq!(cloud.ok(&["volume", "ls", "-o", "name"]), "");
    assert_eq!(cloud.ok(&["network", "ls", "-o", "name"]), "default\n");
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}
