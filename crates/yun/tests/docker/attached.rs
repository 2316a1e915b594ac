//! What is connected to a container's main process by Docker's command line: files, terminals, and streams as they are.

use crate::{
    client::{Docker, client, real},
    common::{Cloud, text},
};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Stdio},
};

fn in_terminal(docker: &Docker<'_>, words: &str) -> (Child, ChildStdin) {
    let line = format!("stty rows 33 cols 111; {} {words}", client().display());
    let mut command = docker.command("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let keys = child.stdin.take().unwrap();
    (child, keys)
}

fn hear(from: &mut impl Read, wanted: &str) {
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !text(&heard).contains(wanted) {
        assert_eq!(from.read(&mut byte).unwrap(), 1, "it ended before {wanted:?}: {}", text(&heard));
        heard.push(byte[0]);
    }
}

fn fed(docker: &Docker<'_>, words: &[&str], input: &[u8]) -> std::process::Output {
    let mut command = docker.command(client());
    let command = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = pipe.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

#[test]
fn files_go_in_and_bytes_come_out_as_they_are() {
    if !real("docker run -i") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let all: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let output = fed(&docker, &["run", "-i", "--rm", "box", "cat"], &all);
    assert!(output.status.success() && output.stdout == all, "{} {}", output.stdout.len(), text(&output.stderr));
    let output = fed(&docker, &["run", "-i", "--name", "count", "box", "sh", "-c", "wc -c; exit 3"], b"12345");
    assert_eq!((text(&output.stdout).trim(), output.status.code()), ("5", Some(3)));
    // Once more, with other input.
    let output = fed(&docker, &["start", "-ai", "count"], b"123");
    assert_eq!((text(&output.stdout).trim(), output.status.code()), ("3", Some(3)));
    // No newline is put behind what has none.
    let output = docker.run(&["run", "--rm", "box", "printf", "a\\0b"]);
    assert_eq!(output.stdout, b"a\0b");
    let output = docker.run(&["run", "--rm", "box", "sh", "-c", "printf out; printf err >&2; exit 9"]);
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str(), output.status.code()),
        ("out", "err", Some(9))
    );
    let (code, why) = docker.fails(&["run", "-i", "--name", "none", "box", "no-such-program"]);
    assert!(code == 127 && why.contains("no-such-program"), "{code} {why}");
}

#[test]
fn a_shell_is_worked_in_left_and_come_back_to() {
    if !real("docker run -it, docker attach") {
        return;
    }
    let cloud = Cloud::with_box();
    let docker = Docker(&cloud);
    let (mut child, mut keys) = in_terminal(&docker, "run -it --name shell box sh");
    let mut screen = child.stdout.take().unwrap();
    hear(&mut screen, "# ");
    // The client tells the size once it has started the container.
    keys.write_all(b"word=kept; while ! stty size 2>/dev/null | grep 111; do sleep 0.1; done\n").unwrap();
    hear(&mut screen, "33 111");
    keys.write_all(&[16, 17]).unwrap();
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert_eq!(docker.ok(&["ps", "--format", "{{.Names}}"]), "shell", "it goes on");

    let (mut child, mut keys) = in_terminal(&docker, "attach shell");
    let mut screen = child.stdout.take().unwrap();
    keys.write_all(b"echo it is $word; exit 5\n").unwrap();
    hear(&mut screen, "it is kept");
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{rest}");
    let why = docker.fails(&["attach", "shell"]).1;
    assert!(why.contains("You cannot attach to a stopped container"), "{why}");

    // One that was started alone waits for somebody to say something.
    docker.ok(&["run", "-di", "--name", "talk", "box", "sh", "-c", "read line; echo got $line; sleep 1000"]);
    let output = {
        let mut command = docker.command(client());
        command.args(["attach", "--sig-proxy=false", "talk"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        let mut said = child.stdout.take().unwrap();
        hear(&mut said, "got hello\n");
        docker.ok(&["kill", "talk"]);
        child.wait().unwrap()
    };
    assert_eq!(output.code(), Some(137));
    let inspected = docker.inspect("talk");
    assert_eq!((&inspected["Config"]["OpenStdin"], &inspected["Config"]["StdinOnce"]), (&true.into(), &false.into()));
}
