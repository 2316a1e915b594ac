//! Groups on the real thing: their name in DNS, a rollout that is taken back by itself, and a server that is killed in the middle of one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, real, text};

const SMALL: &str = "cpu:0.05,memory:32M,disk:10M";

fn create(cloud: &Cloud, name: &str, replicas: &str, flags: &[&str]) -> String {
    let words = ["group", "create", name, "--image", "box", "--replicas", replicas, "--size", SMALL];
    cloud.ok(&[&words[..], flags, &["--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]].concat())
}

fn names(cloud: &Cloud) -> Vec<String> {
    cloud.ok(&["ls", "-o", "name"]).lines().map(str::to_owned).collect()
}

#[test]
fn a_group_answers_by_its_name_and_takes_a_bad_change_back() {
    if !real("groups on the real thing") {
        return;
    }
    let cloud = Cloud::with_box();
    assert!(create(&cloud, "web", "3", &[]).starts_with("group web ready: 3 of 3 available, revision 1"));
    let addresses: Vec<String> = (1..=3)
        .map(|slot| cloud.show(&format!("web-{slot}"))["status"]["address"].as_str().unwrap().to_owned())
        .collect();
    cloud.until("the name of the group leads to all of it", || {
        let said = text(&cloud.run(&["exec", "web-1", "--", "nslookup", "web.default.yun"]).stdout);
        addresses.iter().all(|address| said.contains(address))
    });

    let (code, said) = cloud.fails(&["group", "set", "web", "--", "false"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("revision 2 failed (instance web-4 ") && said.contains("back at revision 1"), "{said}");
    assert_eq!(names(&cloud), ["web-1", "web-2", "web-3"]);
    for (slot, address) in addresses.iter().enumerate() {
        let now = cloud.show(&format!("web-{}", slot + 1));
        assert_eq!(now["status"]["address"], address.as_str(), "the good ones were never touched");
    }
    let (code, said) = cloud.fails(&["stop", "web-1"]);
    assert!(code == 5 && said.contains("it belongs to group web"), "{said}");
    assert_eq!(cloud.ok(&["group", "rm", "web"]).trim(), "web");
    assert_eq!(names(&cloud), [""; 0]);
}

#[test]
fn a_rollout_goes_on_after_the_server_was_killed() {
    if !real("a rollout over the death of the server") {
        return;
    }
    let cloud = Cloud::with_box();
    create(&cloud, "web", "3", &["--max-unavailable", "1"]);
    for round in 0..3 {
        cloud.ok(&["group", "set", "web", "--detach", "-e", &format!("ROUND={round}")]);
        cloud.kill();
        cloud.up();
    }
    assert!(cloud.ok(&["group", "rollout", "status", "web"]).contains("ready: 3 of 3 available"));
    assert_eq!(names(&cloud), ["web-1", "web-2", "web-3"]);
    for name in names(&cloud) {
        assert_eq!(cloud.show(&name)["spec"]["container"]["env"]["ROUND"], "2");
    }
    assert!(cloud.ok(&["explain", "group", "web"]).starts_with("group web is ready: 3 of 3 available"));
}
