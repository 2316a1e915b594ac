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
}
