//! Bad input at the command line of the real program: each refusal names the object, the reason and the way out.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, PROGRAM, free_port, launching, text};
use std::process::Command;

/// Runs the command line without any cloud.
fn alone(words: &[&str]) -> (i32, String) {
    let output = Command::new(PROGRAM)
        .args(words)
        .env("YUN_CONFIG", "/nonexistent/config.toml")
        .env_remove("YUN_HOST")
        .output()
        .unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

#[track_caller]
fn says(what: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(what.contains(piece), "{piece:?} is not in: {what}");
    }
}

#[test]
fn sizes_are_refused_with_their_field_and_a_right_one() {
    for (size, pieces) in [
        ("cpu:0", &["cpu:0", "too small", "as in cpu:1"][..]),
        ("cpu:-1", &["field cpu", "\"-1\"", "as in 2, 0.5 or 500m"]),
        ("cpu:5x", &["field cpu", "\"5x\""]),
        ("cpu:99999999", &["field cpu", "more than 4096 cores"]),
        ("memory:5x", &["field memory", "unknown unit \"x\"", "as in 512M or 4Gi"]),
        ("memory:1e99", &["field memory", "1e99", "as in 512M or 4Gi"]),
        ("memory:99999999999999999999999999999T", &["field memory", "more than 1024 Pi"]),
        ("memory:0", &["memory:0", "too small"]),
        ("disk:-5", &["field disk", "\"-5\""]),
        ("gpu:1", &["unknown field \"gpu\"", "cpu, memory and disk"]),
        ("cpu:1,cpu:2", &["cpu twice"]),
        ("", &["size", "as in cpu:2"]),
    ] {
        let (code, why) = alone(&["launch", "box", "web", "--size", size]);
        assert_eq!(code, 2, "{size}: {why}");
        says(&why, pieces);
    }
}

#[test]
fn names_are_refused_with_the_reason() {
    let long = "a".repeat(64);
    for (name, piece) in [
        ("", "is empty"),
        (&*long, "has 64 characters, and 63 is the most"),
        ("a.b", "contains '.'"),
        ("süß", "contains 'ü'"),
        ("名", "contains '名'"),
        ("a--b", "two hyphens in a row"),
        ("Web", "use lower case"),
        ("1st", "does not start with a letter"),
        ("a-", "ends with a hyphen"),
        ("a/b", "contains '/'"),
        ("a b", "contains ' '"),
        ("../etc", "contains '.'"),
    ] {
        let (code, why) = alone(&["launch", "box", name]);
        assert_eq!(code, 2, "{name}: {why}");
        says(&why, &[piece, "as in web-1"]);
    }
    for (words, pieces) in [
        (&["launch", "box", "--publish", "80"][..], &["\"80\"", "as in 8080:80"][..]),
        (&["launch", "box", "--publish", "0:80"], &["\"0\"", "not a port"]),
        (&["launch", "box", "--publish", "1.2.3:1:2"], &["\"1.2.3\"", "IPv4"]),
        (&["launch", "box", "--restart", "sometimes"], &["\"sometimes\"", "on-failure:5"]),
        (&["image", "import", "x", "y", "--format", "vhdx"], &["vhdx", "qcow2"]),
        (&["image", "import", "x", "y", "--checksum", "md5:1"], &["md5:1", "sha256"]),
        (&["token", "create", "x", "--role", "king"], &["king", "viewer, editor or admin"]),
        (&["lauch"], &["lauch", "launch"]),
        (&["up", "--listen", "nowhere"], &["nowhere", "--listen"]),
    ] {
        let (code, why) = alone(words);
        assert_eq!(code, 2, "{words:?}: {why}");
        says(&why, pieces);
    }
    // The administrator of a cloud at / needs no context.
    if !std::path::Path::new("/etc/yun/admin.toml").exists() {
        let (_, why) = alone(&["ls"]);
        says(&why, &["yun up", "yun config set"]);
    }
}

#[test]
fn objects_that_are_not_there_or_in_the_way_are_named() {
    if !common::real("refusals of the server") {
        return;
    }
    let cloud = Cloud::with_box();
    let port = free_port();
    cloud.launch("web", &["--publish", &format!("{port}:80")], &["sleep", "1000"]);
    let refused = |words: &[&str], code: i32, pieces: &[&str]| {
        let (was, why) = cloud.fails(words);
        assert_eq!(was, code, "{words:?}: {why}");
        says(&why, pieces);
    };
    refused(&launching("web", &[], &[]), 5, &["instance web exists in project default", "yun rm web"]);
    refused(&["launch", "boxx", "new"], 3, &["image boxx does not exist", "did you mean box?"]);
    refused(&["launch", "windows-11", "new"], 3, &["image windows-11 does not exist", "yun image ls"]);
    refused(&["show", "wbe"], 3, &["instance wbe does not exist", "did you mean web?"]);
    refused(&["-p", "elsewhere", "ls"], 3, &["elsewhere"]);
    refused(&["launch", "box", "new", "--node", "mars"], 3, &["node mars does not exist", "yun node ls"]);

    // More than the machine has.
    let node = cloud.json(&["node", "ls"])[0].clone();
    let largest = node["status"]["facts"]["capacity"]["cpu"].as_str().unwrap().to_owned();
    refused(
        &["launch", "box", "big", "--size", "cpu:4000"],
        5,
        &[
            "instance big asks for cpu:4000",
            "more cpu",
            "the largest",
            "free now",
            &format!("ask for at most cpu:{largest}"),
        ],
    );
    refused(&["launch", "box", "big", "--size", "memory:100Ti,disk:100Ti"], 5, &["more memory and disk than"]);
    // Less than is free, for now.
    let all = format!("cpu:{largest},memory:32M,disk:10M");
    refused(
        &["launch", "box", "full", "--size", &all, "--wait", "1"],
        124,
        &["instance full", "short of 0.05 cpu", "yun operation wait"],
    );
    let why = cloud.ok(&["explain", "instance", "full"]);
    says(&why, &["short of 0.05 cpu", "nearest:", "would help:"]);
    cloud.ok(&["rm", "-f", "full"]);

    // A port that is taken, by an instance and by a process of the host.
    refused(
        &launching("second", &["--publish", &format!("{port}:81")], &[]),
        5,
        &[&format!("port {port}"), "instance web"],
    );
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let publish = format!("{taken}:80");
    refused(
        &launching("second", &["--publish", &publish, "--restart", "never"], &[]),
        1,
        &[&format!("port {taken}"), "bad_input", &format!("pid {}", std::process::id()), "choose another host port"],
    );
    cloud.ok(&["rm", "-f", "second"]);

    // What the image lacks.
    refused(
        &launching("none", &["--restart", "never"], &["/no/such/program"]),
        1,
        &["instance none", "image box has no program \"/no/such/program\""],
    );
    refused(
        &launching("text", &["--restart", "never", "--entrypoint", "/etc/passwd"], &[]),
        1,
        &["instance text", "may not execute /etc/passwd"],
    );
    refused(
        &launching("ghost", &["--restart", "never", "-u", "ghost"], &[]),
        1,
        &["user \"ghost\"", "/etc/passwd", "1000:1000"],
    );
    for name in ["none", "text", "ghost"] {
        assert_eq!(cloud.state_of(name), "failed", "{name}");
    }
    refused(&launching("odd", &["-w", "relative"], &[]), 1, &["workdir \"relative\"", "/srv"]);
    refused(&launching("odd", &["--stop-signal", "SIGFOO"], &[]), 1, &["SIGFOO", "SIGTERM"]);
    refused(&launching("odd", &["--label", "nokey"], &[]), 1, &["\"nokey\"", "tier=web"]);
    refused(&launching("odd", &["--env-file", "/no/such/file"], &[]), 1, &["/no/such/file"]);
    refused(&launching("odd", &["--ssh-key", "ssh-ed25519 AAAA"], &[]), 1, &["VM"]);
    assert_eq!(cloud.state_of("odd"), "absent", "what was refused leaves nothing");
    refused(&["console", "web"], 5, &["web", "container", "yun exec web"]);
    refused(&["set", "web", "--publish", "x"], 1, &["\"x\"", "as in 8080:80"]);
    let (_, why) = cloud.fails(&["rm", "-f", "nobody", "nothing"]);
    says(&why, &["instance nobody", "instance nothing"]);
}
