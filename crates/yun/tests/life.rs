//! The life of containers at the command line of the real program, from launch to removal.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, alive, launching, text};
use std::{
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
    time::{Duration, Instant},
};

#[test]
fn a_container_is_launched_stopped_started_frozen_and_removed() {
    if !common::real("the life of a container") {
        return;
    }
    let cloud = Cloud::with_box();
    let said = cloud.launch("web", &["--label", "tier=web"], &["sleep", "1000"]);
    assert!(said.starts_with("container web running at 10."), "{said}");
    let before = cloud.show("web");
    assert_eq!(
        (before["status"]["state"].as_str(), before["metadata"]["labels"]["tier"].as_str()),
        (Some("running"), Some("web"))
    );
    let process = inner_pid(&cloud, "web");

    assert_eq!(cloud.ok(&["pause", "web"]), "web\n");
    assert_eq!(cloud.state_of("web"), "paused");
    let (_, why) = cloud.fails(&["exec", "web", "--", "true"]);
    assert!(why.contains("paused") && why.contains("yun resume"), "{why}");
    cloud.ok(&["resume", "web"]);
    assert_eq!(cloud.state_of("web"), "running");
    assert_eq!(inner_pid(&cloud, "web"), process, "freezing and thawing keeps the process");

    cloud.ok(&["exec", "web", "--", "sh", "-c", "echo kept > /root/file"]);
    cloud.ok(&["stop", "-t", "0", "web"]);
    let stopped = cloud.show("web");
    assert_eq!(stopped["status"]["state"], "stopped");
    assert_eq!(stopped["status"]["address"], before["status"]["address"], "a stopped instance keeps its address");
    let (code, why) = cloud.fails(&["exec", "web", "--", "true"]);
    assert!(code != 0 && why.contains("web") && why.contains("yun start"), "{why}");
    cloud.ok(&["start", "web"]);
    assert_eq!(cloud.ok(&["exec", "web", "--", "cat", "/root/file"]), "kept\n", "what was written survives a stop");

    let first = inner_pid(&cloud, "web");
    cloud.ok(&["restart", "-t", "0", "web"]);
    assert_eq!(cloud.state_of("web"), "running");
    assert_ne!(inner_pid(&cloud, "web"), first);
    // What is so already is no error.
    cloud.ok(&["start", "web"]);
    cloud.ok(&["resume", "web"]);

    let (_, why) = cloud.fails(&["rm", "web"]);
    assert!(why.contains("is running") && why.contains("yun rm -f web"), "{why}");
    cloud.ok(&["rm", "-f", "web"]);
    assert_eq!(cloud.fails(&["show", "web"]).0, 3);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    let events = cloud.ok(&["events", "--object", "web"]);
    for reason in ["Started", "Stopped", "Paused", "Resumed"] {
        assert!(events.contains(reason), "no event says {reason}:\n{events}");
    }
}

/// The pid of the main process of a container, as the host counts.
fn inner_pid(cloud: &Cloud, name: &str) -> i32 {
    let id = cloud.show(name)["metadata"]["id"].as_str().unwrap().to_owned();
    let status = cloud.root().join("run/yun/crun").join(id).join("status");
    let status: serde_json::Value = serde_json::from_slice(&std::fs::read(status).unwrap()).unwrap();
    i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_stop_asks_first_and_insists_in_time() {
    if !common::real("stopping") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch(
        "polite",
        &[],
        &["sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"],
    );
    cloud.launch("deaf", &[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    cloud.launch(
        "own",
        &["--stop-signal", "SIGUSR1"],
        &["sh", "-c", "trap 'echo usr1; exit 0' USR1; echo ready; while :; do sleep 0.05; done"],
    );
    for name in ["polite", "deaf", "own"] {
        cloud.until("it is ready", || cloud.ok(&["logs", name]).contains("ready"));
    }
    let begun = Instant::now();
    cloud.ok(&["stop", "-t", "60", "polite", "own"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "who listens is not waited for");
    assert!(cloud.ok(&["logs", "polite"]).ends_with("bye\n"));
    assert!(cloud.ok(&["logs", "own"]).ends_with("usr1\n"));
    let begun = Instant::now();
    cloud.ok(&["stop", "-t", "1", "deaf"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
    assert_eq!(cloud.show("deaf")["status"]["exit"]["signal"], 9);
}

#[test]
fn commands_run_inside_with_what_they_are_given() {
    if !common::real("exec") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &["--env", "FROM=launch"], &["sleep", "1000"]);
    let output = cloud.run(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout), text(&output.stderr)),
        (Some(7), "out\n".into(), "err\n".into())
    );
    assert_eq!(cloud.run(&["exec", "web", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));

    let everything: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let output = cloud.fed(&["exec", "-i", "web", "--", "cat"], &everything);
    assert!(output.status.success() && output.stdout == everything, "{} bytes came back", output.stdout.len());
    // Without -i nothing is read and nothing is waited for.
    assert_eq!(cloud.ok(&["exec", "web", "--", "cat"]), "");

    let said =
        cloud.ok(&["exec", "-e", "COLOUR=blue", "-w", "/tmp", "web", "--", "sh", "-c", "echo $FROM $COLOUR $PWD"]);
    assert_eq!(said, "launch blue /tmp\n");
    assert_eq!(cloud.ok(&["exec", "-u", "65534:65534", "web", "--", "id", "-u"]), "65534\n");
    assert_eq!(cloud.ok(&["exec", "-u", "nobody", "web", "--", "id", "-u"]), "65534\n");
    assert_eq!(cloud.ok(&["exec", "web", "--", "hostname"]), "web\n");

    let (code, why) = cloud.fails(&["exec", "web", "--", "no-such-program"]);
    assert!(code == 127 || code == 1, "{code}");
    assert!(why.contains("no-such-program"), "{why}");
    let (_, why) = cloud.fails(&["exec", "-u", "ghost", "web", "--", "true"]);
    assert!(why.contains("ghost"), "{why}");
    let (_, why) = cloud.fails(&["exec", "-it", "web", "--", "sh"]);
    assert!(why.contains("not a terminal"), "{why}");
    // Many at the same time.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let cloud = &cloud;
            scope.spawn(move || assert_eq!(cloud.ok(&["exec", "web", "--", "echo", &n.to_string()]), format!("{n}\n")));
        }
    });
    // A caller who goes away takes its command along.
    let mut gone = cloud.command(&["exec", "web", "--", "sleep", "54321"]).stdout(Stdio::null()).spawn().unwrap();
    cloud.until("the command runs", || cloud.ok(&["exec", "web", "--", "ps"]).contains("sleep 54321"));
    gone.kill().unwrap();
    gone.wait().unwrap();
    cloud.until("the command is gone", || !cloud.ok(&["exec", "web", "--", "ps"]).contains("sleep 54321"));
}

#[test]
fn a_terminal_is_a_terminal_inside() {
    if !common::real("terminals") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], &["sleep", "1000"]);
    let size = nix::pty::Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut command = cloud.command(&["exec", "-it", "web", "--", "sh"]);
    command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave));
    let mut child = command.spawn().unwrap();
    drop((command, pty.slave));
    let mut master = std::fs::File::from(pty.master);
    let mut said = Vec::new();
    master.write_all(b"tty; stty size; exit 5\r").unwrap();
    let mut buffer = [0; 4096];
    // Reading from a terminal whose other end was closed is an error on Linux.
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        said.extend_from_slice(&buffer[..read]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(5), "{}", text(&said));
    let said = text(&said);
    assert!(said.contains("/dev/") && said.contains("33 111"), "{said}");
}

#[test]
fn logs_are_kept_in_order_and_followed_to_the_end() {
    if !common::real("logs") {
        return;
    }
    let cloud = Cloud::with_box();
    let script = "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; echo broken >&2; while [ ! -e /root/go ]; do sleep 0.05; done; printf 'the end'";
    cloud.launch("web", &["--restart", "never"], &["sh", "-c", script]);
    cloud.until("all is said", || cloud.run(&["logs", "web"]).stderr == b"broken\n");
    let output = cloud.run(&["logs", "web"]);
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines, (0..50).map(|i| format!("line {i}")).collect::<Vec<_>>());
    assert_eq!(text(&output.stderr), "broken\n", "the streams stay apart");
    let tail = cloud.run(&["logs", "web", "--tail", "3"]);
    assert_eq!((text(&tail.stdout), text(&tail.stderr)), ("line 48\nline 49\n".into(), "broken\n".into()));
    assert_eq!(cloud.ok(&["logs", "web", "--tail", "0"]), "");
    assert_eq!(cloud.ok(&["logs", "web", "--since", "1h"]).lines().count(), 50);
    assert_eq!(cloud.ok(&["logs", "web", "--since", "2999-01-01T00:00:00Z"]), "");
    let timed = cloud.ok(&["logs", "web", "-t", "--tail", "2"]);
    assert!(timed.lines().all(|l| l.starts_with("20") && l.contains("Z line ")), "{timed}");
    let records = cloud.ok(&["logs", "web", "-o", "json", "--tail", "1"]);
    let record: serde_json::Value = serde_json::from_str(&records).unwrap();
    assert_eq!((record["stream"].as_str(), record["text"].as_str()), (Some("stderr"), Some("broken")));

    let follower = cloud
        .command(&["logs", "-f", "web", "--tail", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cloud.ok(&["exec", "web", "--", "touch", "/root/go"]);
    let output = follower.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "the end\n", "following ends with the container");
    assert_eq!(cloud.state_of("web"), "stopped");
    assert!(cloud.ok(&["logs", "web"]).ends_with("the end\n"), "logs outlive the process");
    let (_, why) = cloud.fails(&["logs", "web", "--since", "yesterday"]);
    assert!(why.contains("yesterday") && why.contains("10m"), "{why}");
}

#[test]
fn what_ends_by_itself_follows_its_policy() {
    if !common::real("restart policies") {
        return;
    }
    let cloud = Cloud::with_box();
    // Ends at once: the launch may see it run or see its end.
    cloud.run(&launching("once", &["--restart", "never"], &["sh", "-c", "exit 3"]));
    cloud.run(&launching("well", &["--restart", "never"], &["true"]));
    cloud.run(&launching("twice", &["--restart", "on-failure:2"], &["sh", "-c", "echo try; exit 4"]));
    cloud.run(&launching("fine", &["--restart", "on-failure"], &["true"]));
    cloud.run(&launching("always", &["--restart", "always"], &["sh", "-c", "echo try; exit 0"]));

    cloud.until("once has failed", || cloud.state_of("once") == "failed");
    let once = cloud.show("once")["status"].clone();
    assert_eq!(
        (once["reason"].as_str(), once["exit"]["code"].as_i64(), once["restarts"].as_i64()),
        (Some("Exited"), Some(3), Some(0))
    );
    assert!(once["message"].as_str().unwrap().contains("code 3"), "{once}");
    cloud.until("well has ended", || cloud.state_of("well") == "stopped");
    let well = cloud.show("well")["status"].clone();
    assert_eq!((well["reason"].as_str(), well["exit"]["code"].as_i64()), (Some("Completed"), Some(0)));
    cloud.until("fine has ended", || cloud.state_of("fine") == "stopped");

    // Pauses of one and two seconds lie between.
    let gave_up =
        |status: &serde_json::Value| status["message"].as_str().is_some_and(|m| m.contains("gave up after 2 tries"));
    cloud.until("twice gave up", || gave_up(&cloud.show("twice")["status"]));
    let twice = cloud.show("twice")["status"].clone();
    assert_eq!((twice["restarts"].as_i64(), twice["exit"]["code"].as_i64()), (Some(2), Some(4)));
    assert_eq!(twice["state"], "failed");
    assert_eq!(cloud.ok(&["logs", "twice"]), "try\ntry\ntry\n");
    cloud.until("always was restarted", || cloud.show("always")["status"]["restarts"].as_i64() >= Some(2));
    // A person's start forgets the count.
    cloud.run(&["start", "twice"]);
    cloud.until("twice was tried again", || cloud.ok(&["logs", "twice"]).lines().count() > 3);
    let ls = cloud.ok(&["ls"]);
    assert!(ls.contains("failed (Exited)") && ls.contains("stopped (Completed)"), "{ls}");
    cloud.ok(&["stop", "-t", "0", "always"]);
    assert_eq!(cloud.state_of("always"), "stopped");
    cloud.ok(&["rm", "-f", "once", "well", "twice", "fine", "always"]);
}

#[test]
fn too_much_memory_is_told_as_such() {
    if !common::real("memory limits") {
        return;
    }
    let cloud = Cloud::with_box();
    // Fills memory that the kernel counts: a variable that doubles.
    cloud.run(&launching(
        "hungry",
        &["--restart", "never"],
        &["sh", "-c", "sleep 0.2; x=0123456789; while :; do x=$x$x; done"],
    ));
    cloud.until("hungry was ended", || cloud.state_of("hungry") == "failed");
    let status = cloud.show("hungry")["status"].clone();
    assert_eq!(
        (status["reason"].as_str(), status["exit"]["out_of_memory"].as_bool()),
        (Some("OutOfMemory"), Some(true)),
        "{status}"
    );
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("32 MB") && message.contains("yun set"), "{message}");
    assert!(cloud.ok(&["events", "--object", "hungry"]).contains("OutOfMemory"));
    // The way out works.
    cloud.ok(&["set", "hungry", "--size", "cpu:0.05,memory:64M,disk:10M"]);
    assert_eq!(cloud.show("hungry")["spec"]["size"]["memory"], "64M");
}

#[test]
fn environment_mounts_and_users_are_as_asked_for() {
    if !common::real("container options") {
        return;
    }
    let cloud = Cloud::with_box();
    let shared = cloud.root().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("greeting"), "from the host\n").unwrap();
    let env_file = cloud.root().join("env");
    std::fs::write(&env_file, "# settings\nA=file\nB=file\n").unwrap();
    let (bind, only, env) =
        (format!("{}:/rw", shared.display()), format!("{}:/ro:ro", shared.display()), env_file.display().to_string());
    let flags =
        ["--env", "A=flag", "--env-file", &env, "-v", &bind, "-v", &only, "--tmpfs", "/scratch:4Mi", "-w", "/scratch"];
    cloud.launch("web", &flags, &["sleep", "1000"]);
    let inside = |script: &str| text(&cloud.run(&["exec", "web", "--", "sh", "-c", script]).stdout);
    assert_eq!(inside("echo $A $B"), "flag file\n");
    assert_eq!(inside("cat /rw/greeting /ro/greeting"), "from the host\nfrom the host\n");
    assert_eq!(inside("touch /ro/x 2>/dev/null || echo refused"), "refused\n");
    assert_eq!(inside("readlink /proc/1/cwd"), "/scratch\n");
    assert_eq!(inside("grep ' /scratch tmpfs' /proc/mounts | grep -c size=4096k"), "1\n");
    assert_eq!(inside("dd if=/dev/zero of=/scratch/big bs=1M count=9 2>/dev/null; wc -c < /scratch/big"), "4194304\n");

    cloud.launch("user", &["-u", "nobody", "--pids", "20"], &["sleep", "1000"]);
    assert_eq!(cloud.ok(&["exec", "user", "--", "id", "-u"]), "65534\n");
    // Root inside may not do what root of the host may.
    let status = std::fs::read_to_string(format!("/proc/{}/status", inner_pid(&cloud, "web"))).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    const SYS_ADMIN: u32 = 21;
    assert_eq!(capabilities >> SYS_ADMIN & 1, 0, "it may mount");
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));

    // Who is no administrator of the cloud gets nothing of the host.
    let secret = cloud.ok(&["token", "create", "dev", "--role", "admin", "--in", "default"]);
    let output = cloud.as_token(secret.trim(), &launching("thief", &["-v", "/etc:/host"], &["cat", "/host/shadow"]));
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("only admins of the cloud"), "{}", text(&output.stderr));
    let (_, why) = cloud.fails(&launching("lost", &["-v", "/no/such/directory:/x", "--restart", "never"], &["true"]));
    assert!(why.contains("/no/such/directory"), "{why}");
}

#[test]
fn a_container_changes_while_it_runs() {
    if !common::real("yun set") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch(
        "web",
        &[],
        &["sh", "-c", "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www"],
    );
    let process = inner_pid(&cloud, "web");
    let port = common::free_port();
    cloud.ok(&[
        "set",
        "web",
        "--size",
        "cpu:0.2,memory:48M,disk:20M",
        "--publish",
        &format!("{port}:80"),
        "--label",
        "tier=new",
    ]);
    cloud.until("the new port answers", || common::http("127.0.0.1", port).is_some_and(|a| a == "served\n"));
    assert!(alive(process) && inner_pid(&cloud, "web") == process, "a larger size needs no restart");
    let web = cloud.show("web");
    assert_eq!(
        (web["spec"]["size"]["memory"].as_str(), web["metadata"]["labels"]["tier"].as_str()),
        (Some("48M"), Some("new"))
    );
    cloud.ok(&["set", "web", "--publish", "none", "--label", "tier-", "--restart", "never"]);
    cloud.until("the port is closed", || common::http("127.0.0.1", port).is_none());
    assert!(cloud.show("web")["metadata"]["labels"].as_object().is_none_or(|labels| !labels.contains_key("tier")));
    // Parts of a size that are left out stay as they are.
    cloud.ok(&["set", "web", "--size", "memory:50M"]);
    assert_eq!(cloud.show("web")["spec"]["size"], serde_json::json!({ "cpu": "0.2", "memory": "50M", "disk": "20M" }));
    // What needs a restart says so.
    let said = cloud.ok(&["set", "web", "--env", "NEW=1"]);
    assert!(said.contains("restart"), "{said}");
    cloud.ok(&["restart", "-t", "0", "web"]);
    assert_eq!(cloud.ok(&["exec", "web", "--", "sh", "-c", "echo $NEW"]), "1\n");
    let (_, why) = cloud.fails(&["set", "web", "--size", "cpu:4000"]);
    assert!(why.contains("web") && why.contains("at most"), "{why}");
    assert!(cloud.ok(&["explain", "instance", "web"]).contains("chosen"));
}
