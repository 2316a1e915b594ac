//! Attaching to main processes by the real command line: input, terminals, leaving and coming back, and what is refused.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, PROGRAM, launching, text};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Stdio},
};

/// The command line in a terminal of its own, which `script` gives.
fn in_terminal(cloud: &Cloud, words: &[&str]) -> (Child, ChildStdin) {
    let line = format!("stty rows 33 cols 111; {PROGRAM} {}", words.join(" "));
    let mut command = cloud.command(&["unused"]);
    let mut script = std::process::Command::new("script");
    script
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for (name, value) in command.stdin(Stdio::null()).get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut child = script.spawn().unwrap();
    let keys = child.stdin.take().unwrap();
    (child, keys)
}

/// Reads until this was said.
fn hear(from: &mut impl Read, wanted: &str) -> String {
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !text(&heard).contains(wanted) {
        assert_eq!(from.read(&mut byte).unwrap(), 1, "it ended before {wanted:?}: {}", text(&heard));
        heard.push(byte[0]);
    }
    text(&heard)
}

#[test]
fn a_launch_reads_our_input_and_ends_with_its_code() {
    if !common::real("yun launch -i") {
        return;
    }
    let cloud = Cloud::with_box();
    let input = vec![b'x'; 2_000_000];
    let output = cloud.fed(&launching("count", &["-i"], &["sh", "-c", "wc -c; echo bad >&2; exit 7"]), &input);
    assert_eq!((text(&output.stdout).trim(), output.status.code()), ("2000000", Some(7)), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("bad"));
    assert_eq!(cloud.state_of("count"), "failed", "it is not started again");
    // Bytes that are no text, and no newline at the end.
    let output = cloud.fed(&launching("echo", &["-i"], &["cat"]), b"\x00\xff\x80no end");
    assert_eq!(output.stdout, b"\x00\xff\x80no end");

    let (_, why) = cloud.fails(&launching("shell", &["-i", "-t"], &["sh"]));
    assert!(why.contains("standard input is not a terminal"), "{why}");
    let (_, why) = cloud.fails(&["attach", "count"]);
    assert!(why.contains("cannot attach to instance count: it is failed; start it with yun start count"), "{why}");
    let (_, why) = cloud.fails(&["attach", "cuont"]);
    assert!(why.contains("did you mean count?"), "{why}");
    let (code, why) = cloud.fails(&launching("none", &["-i"], &["no-such-program"]));
    assert!(why.contains("no-such-program"), "{code} {why}");
}

#[test]
fn a_terminal_is_left_and_come_back_to_also_after_the_server_was_killed() {
    if !common::real("yun launch -it, yun attach") {
        return;
    }
    let cloud = Cloud::with_box();
    let (mut child, mut keys) = in_terminal(&cloud, &launching("shell", &["-it"], &["sh"]));
    let mut screen = child.stdout.take().unwrap();
    // A prompt has no newline.
    hear(&mut screen, "# ");
    keys.write_all(b"word=kept; stty size\n").unwrap();
    hear(&mut screen, "33 111");
    keys.write_all(&[16, 17]).unwrap();
    hear(&mut screen, "left shell, which goes on");
    assert!(child.wait().unwrap().success());
    assert_eq!(cloud.state_of("shell"), "running");
    cloud.kill();
    cloud.up();
    let (mut child, mut keys) = in_terminal(&cloud, &["attach", "shell"]);
    let mut screen = child.stdout.take().unwrap();
    keys.write_all(b"echo it is $word; exit 5\n").unwrap();
    hear(&mut screen, "it is kept");
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{rest}");
}

#[test]
fn input_stays_open_over_the_death_of_the_server() {
    if !common::real("yun launch -id") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("talk", &["-i", "-d"], &["sh", "-c", "while read line; do echo got $line; done; echo over"]);
    cloud.until("it runs", || cloud.state_of("talk") == "running");
    for round in ["one", "two"] {
        let mut child =
            cloud.command(&["attach", "talk"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        writeln!(pipe, "{round}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {round}"));
        cloud.kill();
        // Who was attached is told that the server went away, and the container was not told anything.
        assert!(!child.wait().unwrap().success());
        cloud.up();
        cloud.until("it runs on", || cloud.state_of("talk") == "running");
    }
    assert_eq!(cloud.ok(&["logs", "talk"]), "got one\ngot two\n");
    // Who only listens says nothing; one without a standard input says that it has none.
    cloud.launch("mute", &[], &["sh", "-c", "read line; echo \"<$line>\"; sleep 1000"]);
    let output = cloud.command(&["attach", "mute"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    cloud.until("it was told that its input is empty", || cloud.ok(&["logs", "mute"]) == "<>\n");
    cloud.ok(&["stop", "-t", "0", "mute"]);
    let output = output.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("has no standard input"), "{}", text(&output.stderr));
}
