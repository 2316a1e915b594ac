//! Every process of yun may die at any moment. Afterwards everything converges: nothing that ran was stopped, nothing that was acknowledged
//! is lost, and nothing is left behind of what was removed.
//!
//! `YUN_KILLS` sets the number of kills at random moments (100 by default), `YUN_SEED` their seed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, alive, http, launching, text};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Output, Stdio},
    time::Duration,
};

const TICKER: &[&str] =
    &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /www/count; echo tick $i; sleep 0.1; done"];

fn kill_hard(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The main process of a container, with the moment of its start.
fn process(cloud: &Cloud, id: &str) -> (i32, String) {
    let status = cloud.root().join("run/yun/crun").join(id).join("status");
    let status: Value = serde_json::from_slice(&std::fs::read(status).unwrap()).unwrap();
    let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).unwrap_or("gone");
    (pid, started.to_owned())
}

fn id(cloud: &Cloud, name: &str) -> String {
    cloud.show(name)["metadata"]["id"].as_str().unwrap().to_owned()
}

/// What there is at run time for instances that should be gone, and for nobody.
fn strays(cloud: &Cloud, ids: &[String]) -> Vec<String> {
    let known = |name: &str| ids.iter().any(|id| name.contains(id.as_str()) || name.contains(&id[28..]));
    let mut found: Vec<String> =
        cloud.instance_files().into_iter().filter(|f| f.ends_with("instances") || !known(f)).collect();
    let cloud_id = std::fs::read_to_string(cloud.state().join("cloud-id")).unwrap();
    let mut directories =
        vec![cloud.root().join("run/yun/i"), cloud.root().join("run/yun/netns"), cloud.root().join("run/yun/crun")];
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        directories.push(hierarchy.path().join(format!("yun-{}", &cloud_id.trim()[28..])));
    }
    for entry in directories.iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten()) {
        let path = entry.path();
        let in_cgroups = path.starts_with("/sys/fs/cgroup");
        if (!in_cgroups || path.is_dir()) && !known(&path.display().to_string()) {
            found.push(path.display().to_string());
        }
    }
    for link in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        let alias = std::fs::read_to_string(link.path().join("ifalias")).unwrap_or_default();
        if alias.contains(cloud_id.trim()) && alias.contains("instance") && !known(&alias) {
            found.push(alias);
        }
    }
    found
}

#[test]
fn a_launch_and_a_removal_survive_a_crash_at_each_named_place() {
    if !common::real("crashes at named places") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("steady", &[], TICKER);
    let steady = process(&cloud, &id(&cloud, "steady"));
    for (number, place) in [
        "agent::before_attach",
        "agent::after_attach",
        "agent::after_prepare",
        "agent::before_start",
        "agent::after_start",
        "agent::before_report",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("web-{number}");
        let accepted = crash(&cloud, place, &launching(&name, &["--detach"], &["sleep", "1000"]));
        if cloud.state_of(&name) == "absent" {
            assert!(
                !accepted.is_some_and(|o| o.status.success()),
                "{name} was acknowledged and is lost by a crash at {place}"
            );
            cloud.launch(&name, &[], &["sleep", "1000"]);
        }
        cloud.until(&format!("{name} runs after a crash at {place}"), || cloud.state_of(&name) == "running");
        assert_eq!(cloud.show(&name)["status"]["restarts"], 0, "{place}: a crash of the server is not the instance's");
    }
    for (number, place) in ["agent::before_stop", "agent::after_stop"].iter().enumerate() {
        let name = format!("web-{number}");
        let answer = crash(&cloud, place, &["stop", "-t", "0", "--detach", &name]);
        if !answer.is_some_and(|o| o.status.success()) {
            // It died before it could say so: then it may have forgotten it, too.
            cloud.ok(&["stop", "-t", "0", &name]);
        }
        cloud.until(&format!("{name} is stopped after a crash at {place}"), || cloud.state_of(&name) == "stopped");
        assert_eq!(cloud.show(&name)["status"]["restarts"], 0, "{place}");
    }
    for (number, place) in ["agent::before_remove", "agent::after_remove"].iter().enumerate() {
        let name = format!("web-{number}");
        crash(&cloud, place, &["rm", "-f", "--detach", &name]);
        cloud.until(&format!("{name} is gone after a crash at {place}"), || cloud.state_of(&name) == "absent");
    }
    // In the middle of a commit, just after it, and before anybody hears of it, at each of the first commits.
    for (number, place) in ["store::commit", "store::committed", "store::publish"].iter().enumerate() {
        for skipped in [0, 1, 2, 3] {
            let name = format!("db-{number}-{skipped}");
            let answer = crash(
                &cloud,
                &format!("{place}={skipped}*off->panic"),
                &launching(&name, &["--detach"], &["sleep", "1000"]),
            );
            if answer.is_some_and(|o| o.status.success()) {
                cloud.until(&format!("{name} runs: it was acknowledged before the crash at {place}"), || {
                    cloud.state_of(&name) == "running"
                });
            }
        }
    }
    assert_eq!(process(&cloud, &id(&cloud, "steady")), steady, "what ran was stopped");
    let all = cloud.ok(&["ls", "-o", "name"]);
    let names: Vec<&str> = all.lines().filter(|n| *n != "steady").collect();
    cloud.ok(&[&["rm", "-f"], &names[..]].concat());
    cloud.until("nothing is left behind", || strays(&cloud, &[id(&cloud, "steady")]).is_empty());
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn an_import_and_a_removal_of_an_image_survive_a_crash_at_each_named_place() {
    if !common::real("crashes in the middle of imports") {
        return;
    }
    let cloud = Cloud::with_box();
    let parts = || {
        let mut all: Vec<PathBuf> = ["blobs/sha256", "layers", "manifests", "staging"]
            .iter()
            .flat_map(|name| std::fs::read_dir(cloud.state().join("images").join(name)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        all.sort();
        all
    };
    let box_alone = parts();
    let root = cloud.root().join("other");
    common::busybox_root(&root);
    std::fs::write(root.join("etc/other"), "another layer\n").unwrap();
    let archive = common::tarred(&root);
    let import = ["image", "import", "other", &archive, "--", "sh"];
    for place in [
        "image::spooled",
        "image::before_publish",
        "image::parts_published",
        "image::published",
        "store::commit=2*off->panic",
        "store::publish=2*off->panic",
    ] {
        let accepted = crash(&cloud, place, &import).is_some_and(|o| o.status.success());
        let there = cloud.run(&["image", "show", "other"]).status.success();
        assert!(there || !accepted, "an image was acknowledged and is lost by a crash at {place}");
        if !there {
            cloud.ok(&import);
        }
        cloud.ok(&["image", "verify", "other"]);
        assert!(parts().len() > box_alone.len(), "{place}: {:?}", parts());
        cloud.ok(&["image", "rm", "other"]);
        cloud.until(&format!("nothing is left of the image after a crash at {place}"), || parts() == box_alone);
    }
    cloud.ok(&import);
    crash(&cloud, "image::half_removed", &["image", "rm", "other"]);
    if cloud.run(&["image", "show", "other"]).status.success() {
        cloud.ok(&["image", "rm", "other"]);
    }
    cloud.until("nothing is left of what was half removed", || parts() == box_alone);
    cloud.ok(&["image", "verify", "box"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

/// Makes the server die at a named place while it carries out a command, and starts it again. What the command said, if the server lived
/// long enough to hear it.
fn crash(cloud: &Cloud, place: &str, words: &[&str]) -> Option<Output> {
    cloud.kill();
    let place = if place.contains('=') { place.to_owned() } else { format!("{place}=panic") };
    let mut up = cloud.command(&["up", "--listen", "127.0.0.1:0", "--no-systemd"]);
    let started = up.env("FAILPOINTS", &place).output().unwrap();
    let answer = started.status.success().then(|| cloud.run(words));
    let mut more = 0;
    cloud.until(&format!("the server dies at {place}"), || {
        more += 1;
        // More commits, where the command itself made too few.
        cloud.run(&["project", "create", &format!("poke-{more}")]);
        cloud.run(&["status"]).status.code() == Some(6)
    });
    cloud.up();
    answer
}

/// What the test knows of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Absent,
    /// It exists, and should be in this state.
    There(&'static str),
    /// An answer did not arrive: either is right.
    Open,
}

struct Storm<'a> {
    cloud: &'a Cloud,
    random: StdRng,
    known: BTreeMap<String, Known>,
}

/// A command under way, and what its acknowledgement would mean.
struct Pending {
    name: String,
    child: Child,
    then: Known,
}

impl Storm<'_> {
    /// Finds out what an unanswered command came to.
    fn resolve(&mut self, name: &str) {
        let output = self.cloud.run(&["show", name, "-o", "json"]);
        let instance: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let known = match (output.status.code(), instance["spec"]["power"].as_str()) {
            (Some(3), _) => Known::Absent,
            (Some(0), _) if instance["metadata"]["deleting"].is_string() => return,
            (Some(0), Some("stopped")) => Known::There("stopped"),
            (Some(0), _) => Known::There("running"),
            _ => panic!("{}", text(&output.stderr)),
        };
        self.known.insert(name.to_owned(), known);
    }

    /// Begins a command that makes sense for an instance.
    fn begin(&mut self, name: &str) -> Option<Pending> {
        if self.known.get(name) == Some(&Known::Open) {
            self.resolve(name);
        }
        let (words, then): (Vec<&str>, _) = match self.known.get(name).cloned().unwrap_or(Known::Absent) {
            Known::Open => return None,
            Known::Absent => (launching(name, &["--detach"], &["sleep", "1000"]), Known::There("running")),
            Known::There(state) => match (self.random.random_range(0..3), state) {
                (0, _) => (vec!["rm", "-f", "--detach", name], Known::Absent),
                (_, "running") => (vec!["stop", "-t", "0", "--detach", name], Known::There("stopped")),
                _ => (vec!["start", "--detach", name], Known::There("running")),
            },
        };
        let child = self.cloud.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Some(Pending { name: name.to_owned(), child, then })
    }

    fn ended(&mut self, pending: Pending) {
        let output = pending.child.wait_with_output().unwrap();
        let known = if output.status.success() { pending.then } else { Known::Open };
        if std::env::var_os("YUN_LOUD").is_some() {
            eprintln!("{} {known:?} {}", pending.name, text(&output.stderr));
        }
        self.known.insert(pending.name, known);
    }

    /// Everything is as it was acknowledged.
    fn settle(&mut self) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names {
            match self.known[&name].clone() {
                Known::Open => {
                    self.cloud.until(&format!("{name} can be told"), || {
                        self.resolve(&name);
                        self.known[&name] != Known::Open
                    });
                }
                Known::Absent => {
                    self.cloud.until(&format!("{name} is gone"), || self.cloud.state_of(&name) == "absent")
                }
                Known::There(state) => {
                    assert_ne!(self.cloud.state_of(&name), "absent", "{name} was acknowledged and is lost");
                    self.cloud.until(&format!("{name} is {state}"), || self.cloud.state_of(&name) == state);
                }
            }
        }
    }
}

#[test]
fn kills_at_random_moments_stop_nothing_and_lose_nothing() {
    if !common::real("kills at random moments") {
        return;
    }
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual);
    let (kills, seed) = (number("YUN_KILLS", 100), number("YUN_SEED", 1));
    let cloud = Cloud::with_box();
    let port = common::free_port();
    cloud.launch("steady", &[], TICKER);
    cloud.launch(
        "server",
        &["--publish", &format!("{port}:80")],
        &["sh", "-c", "echo served > /www/index.html; exec httpd -f -p 80 -h /www"],
    );
    let bystanders: Vec<String> = ["steady", "server"].iter().map(|name| id(&cloud, name)).collect();
    let before: Vec<_> = bystanders.iter().map(|id| process(&cloud, id)).collect();
    let archive = cloud.root().join("box.tar").display().to_string();
    let mut storm = Storm { cloud: &cloud, random: StdRng::seed_from_u64(seed), known: BTreeMap::new() };
    for kill in 0..kills {
        let first = storm.random.random_range(0..4);
        let pending: Vec<_> = (first..first + 2).filter_map(|n| storm.begin(&format!("web-{n}"))).collect();
        let import = (kill % 4 == 0).then(|| {
            let name = format!("image-{kill}");
            cloud
                .command(&["image", "import", &name, &archive])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        // The moment of the kill is the point of the test: no condition is waited for.
        std::thread::sleep(Duration::from_millis(storm.random.random_range(0..250)));
        cloud.kill();
        for command in pending {
            storm.ended(command);
        }
        let imported = import.is_some_and(|child| child.wait_with_output().unwrap().status.success());
        cloud.up();
        if imported {
            assert!(
                cloud.run(&["image", "show", &format!("image-{kill}")]).status.success(),
                "an image was acknowledged and is lost"
            );
        }
        if kill % 10 == 9 {
            storm.settle();
        }
    }
    storm.settle();
    let after: Vec<_> = bystanders.iter().map(|id| process(&cloud, id)).collect();
    assert_eq!(after, before, "what ran was stopped");
    assert_eq!(http("127.0.0.1", port).as_deref(), Some("served\n"), "a published port went away");
    // Not one line was lost on the way.
    let log = cloud.ok(&["logs", "steady"]);
    let ticks: Vec<u64> = log.lines().filter_map(|l| l.strip_prefix("tick ")?.parse().ok()).collect();
    assert!(ticks.len() > 10 && ticks.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ticks:?}");
    // Every operation has come to an end.
    cloud.until("every operation has ended", || {
        cloud.json(&["operation", "ls"]).as_array().unwrap().iter().all(|op| op["status"]["state"] != "running")
    });
    let names: Vec<String> = storm.known.iter().filter(|(_, k)| **k != Known::Absent).map(|(n, _)| n.clone()).collect();
    let rm: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
    if rm.len() > 2 {
        cloud.ok(&rm);
    }
    cloud.until("nothing is left behind of what was removed", || strays(&cloud, &bystanders).is_empty());
    let staging = || std::fs::read_dir(cloud.state().join("images/staging")).into_iter().flatten().count();
    cloud.until("no half image is left", || staging() == 0);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn the_death_of_what_watches_a_container_is_not_its_own() {
    if !common::real("the death of shims") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("steady", &[], TICKER);
    let id = id(&cloud, "steady");
    let before = process(&cloud, &id);
    for _ in 0..3 {
        let shims = shims(&cloud);
        assert!(!shims.is_empty());
        for shim in &shims {
            kill_hard(*shim);
        }
        cloud.until("the shim is gone", || shims.iter().all(|pid| !alive(*pid)));
        let ticks = || cloud.ok(&["logs", "steady"]).lines().count();
        let counted = ticks();
        cloud.until("its output is read on", || ticks() > counted + 3);
        assert_eq!(cloud.ok(&["exec", "steady", "--", "echo", "alive"]), "alive\n");
    }
    // Both at the same time.
    for shim in shims(&cloud) {
        kill_hard(shim);
    }
    cloud.kill();
    cloud.up();
    cloud.until("it is found again", || cloud.state_of("steady") == "running");
    assert_eq!(process(&cloud, &id), before, "the container was ended");
    assert_eq!(cloud.show("steady")["status"]["restarts"], 0);
    // Its own death is noticed and mended.
    kill_hard(before.0);
    cloud.until("it was started again", || {
        cloud.state_of("steady") == "running" && cloud.show("steady")["status"]["restarts"] == 1
    });
    cloud.ok(&["rm", "-f", "steady"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

/// The processes of this cloud that are neither its server nor inside an instance.
fn shims(cloud: &Cloud) -> Vec<i32> {
    let root = cloud.root().to_string_lossy().into_owned();
    let server = cloud.pid();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    let of_root = |pid: &i32| {
        let line = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&root)
    };
    processes.filter(|pid| *pid != server).filter(of_root).collect()
}

#[test]
fn a_reboot_of_the_host_brings_back_what_should_run() {
    if !common::real("reboots") {
        return;
    }
    let cloud = Cloud::with_box();
    let port = common::free_port();
    let serve = &["sh", "-c", "echo kept >> /www/index.html; exec httpd -f -p 80 -h /www"][..];
    cloud.launch("always", &["--publish", &format!("{port}:80")], serve);
    cloud.launch("failure", &["--restart", "on-failure"], &["sleep", "1000"]);
    cloud.launch("never", &["--restart", "never"], &["sleep", "1000"]);
    cloud.launch("stopped", &[], &["sleep", "1000"]);
    cloud.launch("paused", &[], &["sleep", "1000"]);
    cloud.ok(&["stop", "-t", "0", "stopped"]);
    cloud.ok(&["pause", "paused"]);
    let address = cloud.show("always")["status"]["address"].clone();
    let said = cloud.ok(&["down"]);
    assert!(said.contains("the server has stopped"), "{said}");
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
    cloud.up();
    for name in ["always", "failure"] {
        cloud.until(&format!("{name} runs again"), || cloud.state_of(name) == "running");
    }
    cloud.until("never has been told", || cloud.show("never")["status"]["reason"] == "HostRebooted");
    assert_eq!(cloud.state_of("stopped"), "stopped");
    cloud.until("paused is paused again", || cloud.state_of("paused") == "paused");
    assert_eq!(cloud.show("always")["status"]["address"], address);
    assert_eq!(cloud.show("always")["status"]["restarts"], 0, "a reboot of the host is not the instance's fault");
    cloud.until("its port answers", || http("127.0.0.1", port).is_some_and(|body| body == "kept\nkept\n"));
    // A crash of everything at once, as when the power fails: the server is killed before the instances end.
    cloud.kill();
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
    cloud.up();
    cloud.until("it runs once more", || cloud.state_of("always") == "running");
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}
