//! Several networks in a project, as their users see them: names, walls, interfaces that come and go, limits, and what is refused.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, launching, run, text};

const SLEEP: &[&str] = &["sleep", "100000"];
const SERVER: &[&str] = &["sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"];

fn fetches(cloud: &Cloud, from: &str, host: &str) -> bool {
    let page = format!("http://{host}/");
    cloud.run(&["exec", from, "--", "timeout", "3", "wget", "-q", "-O", "-", &page]).status.success()
}

#[test]
fn instances_meet_in_the_networks_that_they_share_and_nowhere_else() {
    if !common::real("several networks") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["network", "create", "back", "--isolated"]);
    cloud.ok(&["network", "create", "other"]);
    cloud.launch("db", &["--network", "back,alias=sql"], SERVER);
    cloud.launch("web", &["--network", "default", "--network", "back"], SERVER);
    cloud.launch("client", &[], SLEEP);
    // By name in the network that both share, although the first network of web is another.
    for host in ["db", "sql", "db.default.yun"] {
        cloud.until(host, || fetches(&cloud, "web", host));
    }
    cloud.until("web is found in the default network", || fetches(&cloud, "client", "web"));
    let shown = cloud.show("db");
    let db = shown["status"]["address"].as_str().unwrap().to_owned();
    assert!(!fetches(&cloud, "client", "db"), "the name of another network is told");
    assert!(!fetches(&cloud, "client", &db), "a wall between networks of one project is missing");
    let web_in_back = cloud.show("web")["status"]["interfaces"][1]["address"].as_str().unwrap().to_owned();
    assert!(!fetches(&cloud, "client", &web_in_back), "an address of another network is reached");

    // An interface that comes and goes while the container runs.
    cloud.ok(&["network", "attach", "back", "client"]);
    cloud.until("client reaches db now", || fetches(&cloud, "client", "db"));
    cloud.ok(&["network", "attach", "other", "client", "--ingress", "10M", "--egress", "10M"]);
    let interfaces = || text(&cloud.run(&["exec", "client", "--", "ip", "-o", "link"]).stdout);
    assert!(interfaces().contains("eth2"), "{}", interfaces());
    let short = cloud.show("client")["metadata"]["id"].as_str().unwrap().replace('-', "")[24..].to_owned();
    assert!(run("tc", &["qdisc", "show", "dev", &format!("yv{short}-2")]).contains("tbf"));
    assert!(run("nft", &["list", "ruleset"]).contains("1250000 bytes/second"));
    cloud.ok(&["network", "detach", "back", "client"]);
    assert!(!interfaces().contains("eth1") && interfaces().contains("eth2"), "{}", interfaces());
    assert!(!fetches(&cloud, "client", "db"));
    // The server is killed, and nobody notices; a restart of an instance brings all of its interfaces back.
    cloud.kill();
    cloud.up();
    cloud.until("names are told again", || fetches(&cloud, "web", "db"));
    cloud.ok(&["restart", "-t", "0", "web"]);
    cloud.until("it is back in both", || fetches(&cloud, "web", "db") && fetches(&cloud, "client", "web"));

    let (_, why) = cloud.fails(&["network", "rm", "back"]);
    assert!(why.contains("db, web are in it") && why.contains("yun network detach back db"), "{why}");
    cloud.ok(&["rm", "-f", "db", "web", "client"]);
    cloud.ok(&["network", "rm", "back", "other"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    if !common::real("refusals about networks") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["network", "create", "back", "--subnet", "10.213.7.0/29"]);
    let refused = |words: &[&str], why: &str| {
        let (_, said) = cloud.fails(words);
        assert!(said.contains(why), "{words:?}: {said}");
    };
    refused(&["network", "create", "back"], "exists already");
    refused(&["network", "create", "more", "--subnet", "10.213.7.0/24"], "overlaps network back (10.213.7.0/29)");
    refused(&["network", "create", "more", "--subnet", "10.213.8.1/24"], "the range is 10.213.8.0/24");
    refused(&["network", "create", "more", "--subnet", "nonsense"], "not a range");
    refused(&["network", "create", "more", "--mtu", "5"], "576 to 65521");
    refused(&["network", "rm", "default"], "cannot be deleted");
    refused(&["network", "show", "bakc"], "did you mean back?");
    refused(&launching("a", &["--network", "bakc"], SLEEP), "did you mean back?");
    refused(&launching("a", &["--network", "back,ip=10.213.7.1"], SLEEP), "the gateway's");
    refused(&launching("a", &["--network", "back,ip=10.9.9.9"], SLEEP), "from 10.213.7.2 to 10.213.7.6");
    refused(&launching("a", &["--network", "back", "--network", "back"], SLEEP), "named twice");
    refused(&launching("a", &["--network", "back,speed=9"], SLEEP), "unknown part");
    cloud.launch("one", &["--network", "back,ip=10.213.7.4"], SLEEP);
    refused(&launching("a", &["--network", "back,ip=10.213.7.4"], SLEEP), "taken by instance one");
    refused(&["network", "detach", "back", "one"], "the only one of instance one");
    refused(&["network", "attach", "back", "one"], "in network back already");
    cloud.ok(&["project", "create", "other"]);
    refused(&["-p", "other", "network", "show", "back"], "network back does not exist; list");
    refused(&["-p", "other", "network", "create", "mine", "--subnet", "10.213.7.0/29"], "a network of another project");
    cloud.ok(&["network", "create", "dark", "--isolated"]);
    refused(&launching("a", &["--network", "dark", "--publish", "18080:80"], SLEEP), "it is isolated");
}

#[test]
fn a_vm_gets_and_loses_an_interface_while_it_runs() {
    if !common::real_vms("interfaces of VMs") {
        return;
    }
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small"]);
    cloud.ok(&["network", "create", "back"]);
    cloud.ok(&["launch", "small", "vm1", "--size", "cpu:0.5,memory:192Mi,disk:256Mi"]);
    let macs = || text(&cloud.run(&["ssh", "vm1", "--wait", "90", "--", "cat /sys/class/net/*/address"]).stdout);
    cloud.until("it answers", || macs().contains("02:"));
    cloud.ok(&["network", "attach", "back", "vm1"]);
    let mac = cloud.show("vm1")["status"]["interfaces"][1]["mac"].as_str().unwrap().to_owned();
    cloud.until("the guest has the card", || macs().contains(&mac));
    cloud.ok(&["network", "detach", "back", "vm1"]);
    cloud.until("the guest has it no more", || !macs().contains(&mac) && macs().contains("02:"));
    cloud.ok(&["rm", "-f", "vm1"]);
    cloud.ok(&["network", "rm", "back"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}
