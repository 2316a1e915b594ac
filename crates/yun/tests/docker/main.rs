//! The Docker door: Debian's own `docker` and `docker-compose`, unchanged, on the real program.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs real command lines")]

mod attached;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod ground;
#[path = "../../../linux/tests/image/registry.rs"]
mod registry;

use client::{Docker, client, real};
use common::{Cloud, busybox_root, run, tarred, text};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::Stdio,
};

/// Writes an archive as `docker save` does: one layer, by hand.
fn docker_archive(directory: &Path, tag: &str) -> String {
    let root = directory.join("root");
    busybox_root(&root);
    let layer = tarred(&root);
    let layer_digest = run("sha256sum", &[&layer]).split(' ').next().unwrap().to_owned();
    let archive = directory.join("archive");
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::rename(&layer, archive.join("layer.tar")).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["FROM=image"], "WorkingDir": "/tmp", "Labels": { "made": "by-hand" } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    });
    std::fs::write(archive.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"] }]);
    std::fs::write(archive.join("manifest.json"), manifest.to_string()).unwrap();
    tarred(&archive)
}

#[test]
fn containers_live_by_dockers_command_line() {
    if !real("docker run, ps, exec") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let port = common::free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let serve = "mkdir -p /www; echo served > /www/index.html; echo started; exec httpd -f -p 80 -h /www";
    let id = docker.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        &publish,
        "-e",
        "A=1",
        "--label",
        "tier=front",
        "--memory",
        "48m",
        "--cpus",
        "0.3",
        "box",
        "sh",
        "-c",
        serve,
    ]);
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    cloud.until("it answers", || common::http("127.0.0.1", port).is_some_and(|a| a == "served\n"));

    // The cloud and Docker show the same.
    let web = cloud.show("web");
    assert_eq!(id[..32], web["metadata"]["id"].as_str().unwrap().replace('-', ""));
    assert_eq!(web["spec"]["size"]["cpu"], "0.3");
    let ps = docker.ok(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Names}} {{.Ports}} {{.Labels}}"]);
    assert_eq!(ps, format!("{id} box web 127.0.0.1:{port}->80/tcp tier=front"));
    let inspected = docker.inspect(&id[..12]);
    assert_eq!(
        (&inspected["State"]["Running"], &inspected["HostConfig"]["Memory"], &inspected["Config"]["Env"][0]),
        (&json!(true), &json!(48 << 20), &json!("A=1"))
    );
    cloud.launch("native", &["--label", "tier=back"], &["sleep", "1000"]);
    let names = |filter: &str| docker.ok(&["ps", "-a", "--format", "{{.Names}}", "--filter", filter]);
    assert_eq!((names("label=tier=back").as_str(), names("name=we").as_str()), ("native", "web"));
    assert_eq!((names("status=exited").as_str(), names("ancestor=box").lines().count()), ("", 2));

    // Both streams, input and codes.
    let output =
        docker.run(&["exec", "-e", "B=2", "-w", "/tmp", "web", "sh", "-c", "echo $A$B $PWD; echo bad >&2; exit 3"]);
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str(), output.status.code()),
        ("12 /tmp\n", "bad\n", Some(3))
    );
    let mut fed = docker.command(client());
    let mut child =
        fed.args(["exec", "-i", "web", "wc", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[b'x'; 100_000]).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout).trim(), "100000");
    assert_eq!(docker.run(&["exec", "web", "no-such-program"]).status.code(), Some(127));
    docker.ok(&["exec", "-d", "web", "touch", "/tmp/detached"]);
    cloud.until("the detached process ran", || {
        docker.run(&["exec", "web", "test", "-e", "/tmp/detached"]).status.success()
    });
    assert!(docker.ok(&["top", "web"]).contains("httpd -f -p 80"));
    assert_eq!(docker.ok(&["exec", "-u", "nobody", "web", "id", "-u"]), "65534");

    // Its life.
    docker.ok(&["pause", "web"]);
    assert_eq!(cloud.state_of("web"), "paused");
    assert!(docker.fails(&["exec", "web", "true"]).1.contains("unpause"));
    docker.ok(&["unpause", "web"]);
    docker.ok(&["update", "--memory", "64m", "--memory-swap", "-1", "web"]);
    assert_eq!(cloud.show("web")["spec"]["size"]["memory"], "64Mi");
    docker.ok(&["rename", "web", "Front_1"]);
    assert_eq!(docker.inspect("Front_1")["Id"], id);
    docker.ok(&["restart", "-t", "0", "Front_1"]);
    docker.ok(&["stop", "-t", "0", "Front_1"]);
    assert!(docker.ok(&["ps", "-a", "--filter", "name=Front", "--format", "{{.Status}}"]).starts_with("Exited (137)"));
    docker.ok(&["start", "Front_1"]);
    let why = docker.fails(&["rm", "Front_1"]).1;
    assert!(why.contains("You cannot remove a running container"), "{why}");
    docker.ok(&["kill", "Front_1"]);
    assert_eq!(docker.ok(&["wait", "Front_1"]), "137");
    docker.ok(&["rm", "Front_1"]);
    docker.ok(&["rm", "-f", "native"]);
    assert_eq!(docker.ok(&["ps", "-aq"]), "");
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "");
}

#[test]
fn what_runs_in_the_foreground_shows_its_output_and_its_code() {
    if !real("docker run --rm") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let output = docker.run(&["run", "--rm", "--name", "once", "box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str(), output.status.code()),
        ("out\n", "err\n", Some(7))
    );
    cloud.until("nothing is left of it", || docker.ok(&["ps", "-aq"]).is_empty());
    // What must go away goes away also when the server was away when it ended.
    docker.ok(&["run", "-d", "--rm", "--name", "late", "box", "sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done"]);
    docker.ok(&["exec", "-d", "late", "sh", "-c", "sleep 1; touch /go"]);
    cloud.kill();
    cloud.up();
    cloud.until("it was removed", || {
        docker.run(&["ps", "-aq"]).stdout.is_empty() && docker.run(&["version"]).status.success()
    });

    let (code, why) = docker.fails(&["run", "--name", "none", "box", "no-such-program"]);
    assert!(code == 127 && why.contains("no-such-program"), "{code} {why}");
    docker.ok(&["rm", "none"]);

    docker.ok(&[
        "run",
        "-d",
        "--name",
        "talker",
        "box",
        "sh",
        "-c",
        "for i in 1 2 3; do echo line $i; done; echo bad >&2; sleep 1000",
    ]);
    cloud.until("it has written", || docker.ok(&["logs", "talker"]).lines().count() == 3);
    assert_eq!(docker.ok(&["logs", "--tail", "1", "talker"]), "");
    let output = docker.run(&["logs", "talker"]);
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("line 1\nline 2\nline 3\n", "bad\n"));
    assert!(docker.ok(&["logs", "-t", "talker"]).lines().all(|l| l.starts_with("20") && l.contains("Z line ")));
    assert_eq!(docker.ok(&["logs", "--since", "2999-01-01T00:00:00Z", "talker"]), "");
    let mut following = docker.command(client());
    let mut child =
        following.args(["logs", "-f", "talker"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.nth(2).unwrap().unwrap(), "line 3");
    docker.ok(&["stop", "-t", "0", "talker"]);
    assert!(lines.next().is_none(), "the log ends with its container");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_terminal_has_the_clients_size_and_carries_both_ways() {
    if !real("docker exec -it") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    docker.ok(&["run", "-d", "--name", "web", "box", "sleep", "1000"]);
    // `script` gives the client a terminal of its own.
    let line = format!("stty rows 33 cols 111; {} exec -it web sh", client().display());
    let mut command = docker.command("script");
    command.args(["-q", "-c", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"stty size; tty; exit 5\n").unwrap();
    let mut seen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    drop(keys);
    child.wait().unwrap();
    assert!(seen.contains("33 111") && seen.contains("/dev/pts/"), "{seen:?}");
}

#[test]
fn health_and_walls_are_as_the_flags_say() {
    if !real("docker run --health-cmd, --read-only, --cap-drop") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    docker.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        "test -e /tmp/ok",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "box",
        "sleep",
        "1000",
    ]);
    let health = || docker.inspect("web")["State"]["Health"]["Status"].as_str().unwrap_or("none").to_owned();
    cloud.until("it is unhealthy", || health() == "unhealthy");
    docker.ok(&["exec", "web", "touch", "/tmp/ok"]);
    cloud.until("it is healthy", || health() == "healthy");
    assert!(docker.ok(&["ps", "--filter", "health=healthy", "--format", "{{.Status}}"]).ends_with("(healthy)"));
    // CHOWN is the first bit.
    assert_eq!(
        docker.ok(&["exec", "web", "sh", "-c", "grep CapBnd /proc/1/status | tr -d '\\t'"]),
        "CapBnd:0000000000000001"
    );
    let output =
        docker.run(&["run", "--rm", "--read-only", "--tmpfs", "/tmp", "box", "sh", "-c", "touch /tmp/x && touch /x"]);
    assert!(
        !output.status.success() && text(&output.stderr).contains("Read-only file system"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn images_are_loaded_listed_and_removed() {
    if !real("docker load, images, rmi") {
        return;
    }
    let cloud = Cloud::start();
    let docker = Docker(&cloud);
    let archive = docker_archive(&cloud.root().join("work"), "localhost:5000/team/tools:1.2");
    assert_eq!(docker.ok(&["load", "-i", &archive]), "Loaded image: localhost:5000/team/tools:1.2");
    assert_eq!(docker.ok(&["images", "--format", "{{.Repository}} {{.Tag}}"]), "localhost:5000/team/tools 1.2");
    let shown: Value =
        serde_json::from_str(&docker.ok(&["image", "inspect", "localhost:5000/team/tools:1.2"])).unwrap();
    assert_eq!(
        (&shown[0]["Config"]["Env"][0], &shown[0]["Config"]["WorkingDir"]),
        (&json!("FROM=image"), &json!("/tmp"))
    );
    let short = shown[0]["Id"].as_str().unwrap()[7..19].to_owned();
    assert_eq!(docker.ok(&["run", "--rm", &short, "sh", "-c", "echo $FROM $PWD"]), "image /tmp");
    docker.ok(&["run", "-d", "--name", "user", "localhost:5000/team/tools:1.2", "sleep", "1000"]);
    assert_eq!(docker.inspect("user")["Config"]["Labels"], json!({ "made": "by-hand" }));
    let why = docker.fails(&["rmi", "localhost:5000/team/tools:1.2"]).1;
    assert!(why.contains("conflict") && why.contains("instance user"), "{why}");
    docker.ok(&["rm", "-f", "user"]);
    docker.ok(&["rmi", "localhost:5000/team/tools:1.2"]);
    assert_eq!(docker.ok(&["images", "-q"]), "");
    let why = docker.fails(&["inspect", "--type", "image", "gone"]).1;
    assert!(why.contains("No such image: gone"), "{why}");
}

#[test]
fn images_are_pulled_from_a_registry_when_they_are_run() {
    if !real("docker pull") {
        return;
    }
    if !Path::new("/usr/bin/docker-registry").exists() {
        eprintln!("SKIPPED docker pull: docker-registry is not installed (cargo xtask setup installs it)");
        return;
    }
    let cloud = Cloud::start();
    let docker = Docker(&cloud);
    let work = cloud.root().join("work");
    let root = work.join("root");
    busybox_root(&root);
    let layer = std::fs::read(tarred(&root)).unwrap();
    let registry = registry::Registry::start(&work, None);
    let layout = registry::oci_layout(&work.join("one"), &[&layer], "amd64", &["echo".into(), "pulled".into()]);
    registry.push(&layout, "team/web:1", &[]);
    let name = registry.name("team/web:1");
    // Run asks for what is not here, and the client pulls.
    assert_eq!(docker.ok(&["run", "--rm", &name]), "pulled");
    let said = docker.ok(&["pull", &name]);
    assert!(said.contains(&format!("Status: Image is up to date for {name}")), "{said}");
    assert_eq!(docker.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), name);
    let why = docker.fails(&["pull", &registry.name("team/none:1")]).1;
    assert!(why.contains("team/none"), "{why}");
    assert!(docker.fails(&["run", "--rm", &registry.name("team/none:1")]).1.contains("team/none"));
}

#[test]
fn files_are_copied_both_ways() {
    if !real("docker cp") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    docker.ok(&["run", "-d", "--name", "web", "box", "sleep", "1000"]);
    let tree = cloud.root().join("tree");
    std::fs::create_dir_all(tree.join("inner")).unwrap();
    std::fs::write(tree.join("inner/file"), "there and back\n").unwrap();
    docker.ok(&["cp", &tree.display().to_string(), "web:/srv-tree"]);
    docker.ok(&["cp", &tree.join("inner/file").display().to_string(), "web:/tmp/renamed"]);
    assert_eq!(
        docker.ok(&["exec", "web", "cat", "/srv-tree/inner/file", "/tmp/renamed"]),
        "there and back\nthere and back"
    );
    let back = cloud.root().join("back");
    docker.ok(&["cp", "web:/srv-tree", &back.display().to_string()]);
    assert_eq!(std::fs::read_to_string(back.join("inner/file")).unwrap(), "there and back\n");
    // As a stream.
    let output = docker.run(&["cp", "web:/tmp/renamed", "-"]);
    assert!(output.status.success() && text(&output.stdout).contains("there and back"));
    let why = docker.fails(&["cp", "web:/none", &back.display().to_string()]).1;
    assert!(why.contains("/none"), "{why}");
    let why = docker.fails(&["cp", &tree.display().to_string(), "web:/none/deeper"]).1;
    assert!(why.contains("none"), "{why}");
}

#[test]
fn events_are_told_while_they_happen_and_afterwards() {
    if !real("docker events") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let mut command = docker.command(client());
    command.args(["events", "--filter", "container=short", "--format", "{{.Action}}"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Events are told from the moment on at which the client listens: containers come until it does.
    let name = "short";
    let heard = std::thread::scope(|scope| {
        let hearing = scope.spawn(move || (0..4).map(|_| lines.next().unwrap().unwrap()).collect::<Vec<_>>());
        while !hearing.is_finished() {
            docker.run(&["run", "--rm", "--name", name, "box", "true"]);
        }
        hearing.join().unwrap()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let at = heard.iter().position(|a| a == "create").unwrap_or(0);
    let order = ["create", "start", "die", "destroy"];
    assert!(heard[at..].iter().zip(order).all(|(a, b)| a == b), "{heard:?}");
    let ended = ["events", "--since", "1h", "--until", "0s", "--filter", "event=destroy", "--format", "{{.Action}}"];
    cloud.until("the past is told too", || docker.ok(&ended).starts_with("destroy"));
    assert!(docker.ok(&ended).lines().all(|l| l == "destroy"));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_way_out() {
    if !real("docker refusals") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let run = |flags: &[&str]| docker.fails(&[&["create"], flags, &["box", "true"]].concat()).1;
    for (flags, said) in [
        (&["--device", "/dev/kvm"][..], "--device is not supported"),
        (&["--pid", "host"], "--pid host"),
        (&["--ipc", "host"], "--ipc host"),
        (&["--uts", "host"], "--uts"),
        (&["--link", "a:b"], "name"),
        (&["--add-host", "a:1.2.3.4"], "--add-host"),
        (&["--dns", "1.1.1.1"], "--dns"),
        (&["--ulimit", "nofile=5"], "--ulimit"),
        (&["--sysctl", "net.ipv4.ip_forward=1"], "--sysctl"),
        (&["--gpus", "all"], "--gpus"),
        (&["--log-driver", "syslog"], "--log-driver syslog"),
        (&["--volumes-from", "x"], "--volumes-from"),
        (&["--cpuset-cpus", "0"], "--cpus"),
        (&["--cgroup-parent", "/x"], "--cgroup-parent"),
        (&["--userns", "keep"], "--userns"),
        (&["--cap-add", "FLY"], "as in NET_ADMIN"),
        (&["--security-opt", "colour=off"], "the parts are"),
        (&["--storage-opt", "a=b"], "size=2G"),
        (&["--memory", "1m"], "too small"),
        (&["--cpus", "1000"], "more cpu than any node has"),
        (&["--name", "a/b"], "Invalid container name"),
        (&["--rm", "--restart", "always"], "--rm"),
        (&["--network", "host"], "publish ports with -p"),
        (&["--network", "none"], "docker network create --internal quiet"),
        (&["--network", "container:x"], "let both join one network"),
        (&["--network", "nowhere"], "network nowhere not found"),
        (&["--mac-address", "02:00:00:00:00:01"], "--mac-address"),
        (&["--volume-driver", "nfs"], "--volume-driver"),
        (&["-v", "data:/data:shared"], "the mode shared"),
        (&["--mount", "type=volume,src=data,dst=/data,volume-driver=nfs"], "volume-driver=nfs"),
        (&["-v", "data:/data", "--tmpfs", "/data"], "two mounts have the target /data"),
    ] {
        let why = run(flags);
        assert!(why.contains(said), "docker create {}: {why}", flags.join(" "));
    }
    assert_eq!(docker.ok(&["ps", "-aq"]), "", "what was refused has left nothing");
    docker.ok(&["create", "--name", "web", "box", "sleep", "1000"]);
    let why = docker.fails(&["create", "--name", "web", "box"]).1;
    assert!(why.contains("Conflict. The container name \"/web\" is already in use"), "{why}");
    assert!(docker.fails(&["exec", "web", "true"]).1.contains("is not running"));
    assert!(docker.fails(&["pause", "web"]).1.contains("is not running"));
    assert!(docker.fails(&["kill", "web"]).1.contains("is not running"));
    assert!(docker.fails(&["inspect", "nobody"]).1.contains("o such"));
    assert!(docker.fails(&["ps", "--filter", "colour=red"]).1.contains("invalid filter"));
    for (words, said) in [
        (&["build", "-"][..], "buildah"),
        (&["commit", "web", "x"], "commit is not supported"),
        (&["diff", "web"], "diff is not supported"),
        (&["export", "web"], "export is not supported"),
        (&["search", "x"], "search is not supported"),
        (&["push", "box"], "push is not supported"),
        (&["swarm", "init"], "yun places containers itself"),
        (&["login", "-u", "a", "-p", "b", "localhost:1"], "login is not supported"),
    ] {
        let mut command = docker.command(client());
        let mut child = command
            .args(words)
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"FROM box\n");
        let output = child.wait_with_output().unwrap();
        let why = text(&output.stderr);
        assert!(!output.status.success() && why.contains(said), "docker {}: {why}", words.join(" "));
    }
    // Versions that are not spoken.
    let output = docker.command(client()).args(["ps"]).env("DOCKER_API_VERSION", "1.99").output().unwrap();
    assert!(text(&output.stderr).contains("too new"), "{}", text(&output.stderr));
    // Every change is in the audit journal, under the door's name.
    assert!(cloud.ok(&["audit"]).contains("door:docker"), "{}", cloud.ok(&["audit"]));
}

#[test]
fn the_socket_is_for_root_and_the_group_and_can_be_left_out() {
    if !real("docker socket") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let cloud = Cloud::start();
    let socket = cloud.root().join("run/yun/docker.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    cloud.ok(&["down"]);
    std::fs::create_dir_all(cloud.root().join("etc/yun")).unwrap();
    std::fs::write(cloud.root().join("etc/yun/yun.toml"), "[docker]\nenable = false\n").unwrap();
    cloud.up();
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "nobody answers");
}
