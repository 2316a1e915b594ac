//! The SSH gateway: Debian's own `ssh`, `scp` and `sftp`, unchanged, on the real program.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs real command lines")]

mod common;

use common::{Cloud, alive, http, run, text};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

const SLEEP: &[&str] = &["sleep", "100000"];

fn real(what: &str) -> bool {
    if !common::real(what) {
        return false;
    }
    let there = ["ssh", "scp", "sftp", "ssh-keygen"].iter().all(|name| Path::new("/usr/bin").join(name).exists());
    if !there {
        eprintln!("SKIPPED {what}: OpenSSH's client is not installed (cargo xtask setup installs it)");
    }
    there
}

/// Somebody with a key, and their SSH client.
struct Person<'a> {
    cloud: &'a Cloud,
    key: PathBuf,
}

impl<'a> Person<'a> {
    fn new(cloud: &'a Cloud, name: &str) -> Self {
        let key = cloud.root().join(name);
        let file = key.to_string_lossy().into_owned();
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &format!("{name}@test"), "-f", &file]);
        Self { cloud, key }
    }

    fn public(&self) -> String {
        format!("{}.pub", self.key.display())
    }

    fn flags(&self, level: &str) -> Vec<String> {
        let mut flags = vec!["-F".to_owned(), "/dev/null".into(), "-i".into(), self.key.display().to_string()];
        let known = format!("UserKnownHostsFile={}", self.cloud.root().join("known_hosts").display());
        for option in [
            &known,
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=accept-new",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            &format!("LogLevel={level}"),
            &format!("Port={}", port(self.cloud)),
        ] {
            flags.extend(["-o".to_owned(), option.to_owned()]);
        }
        flags
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(self.flags("ERROR")).args(words).env("LC_TIME", "C.UTF-8").env_remove("SSH_AUTH_SOCK");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `ssh` with these words.
    fn ssh(&self, words: &[&str]) -> Output {
        self.command("ssh", words).output().unwrap()
    }

    /// What `ssh` says when it says more: why something could not be opened.
    fn told(&self, words: &[&str]) -> String {
        let mut command = Command::new("ssh");
        command.args(self.flags("INFO")).args(words).stdin(Stdio::null());
        text(&command.output().unwrap().stderr)
    }

    /// Must succeed; what it says.
    #[track_caller]
    fn ok(&self, program: &str, words: &[&str]) -> String {
        let output = self.command(program, words).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {}: {}{}\n{}",
            words.join(" "),
            text(&output.stdout),
            text(&output.stderr),
            self.cloud.log()
        );
        text(&output.stdout)
    }

    /// Runs `ssh` with something on its standard input.
    fn fed(&self, words: &[&str], input: &[u8]) -> Output {
        let mut child = self.command("ssh", words).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Who refuses early reads no further.
                let _ = pipe.write_all(input);
            });
            child.wait_with_output().unwrap()
        })
    }

    /// A client that stays, once it has said that it is there.
    fn staying(&self, words: &[&str]) -> Staying {
        let mut child = self.command("ssh", words).stdin(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "here", "{}", self.cloud.log());
        Staying { child, _said: said }
    }
}

struct Staying {
    child: Child,
    _said: BufReader<std::process::ChildStdout>,
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the gateway listens.
fn port(cloud: &Cloud) -> u16 {
    let status = cloud.json(&["status"]);
    let address: std::net::SocketAddr = status["ssh"].as_str().expect("the gateway listens").parse().unwrap();
    assert!(address.ip().is_loopback(), "the gateway is open to others without being asked: {address}");
    address.port()
}

fn both(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Bytes that do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

#[test]
fn a_container_is_entered_with_ssh() {
    if !real("ssh into containers") {
        return;
    }
    let cloud = Cloud::with_box();
    let serve = "mkdir -p /www; echo served > /www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www";
    cloud.launch("web", &["--env", "FROM=launch"], &["sh", "-c", serve]);
    let me = Person::new(&cloud, "laptop");
    assert_eq!(cloud.ok(&["ssh-key", "add", "laptop", &me.public()]), "laptop\n");
    assert!(cloud.ok(&["ssh-key", "ls"]).contains("laptop@test"));
    assert!(cloud.ok(&["status"]).contains("ssh: INSTANCE.PROJECT@127.0.0.1 -p "), "{}", cloud.ok(&["status"]));
    let at = "web.default@127.0.0.1";

    // A command: its output, its errors apart, its exit code, its input, its environment.
    let told = both(&me.ssh(&[at, "echo out; echo err >&2; exit 7"]));
    assert_eq!(told, (7, "out\n".into(), "err\n".into()));
    assert_eq!(both(&me.ssh(&["web@127.0.0.1", "pwd; echo $HOME $FROM"])).1, "/root\n/root launch\n");
    assert_eq!(both(&me.ssh(&["-o", "SendEnv=LC_TIME", at, "echo $LC_TIME; tty"])).1, "C.UTF-8\nnot a tty\n");
    assert_eq!(both(&me.fed(&[at, "wc -c; exit 3"], &noise(300_000))), (3, "300000\n".into(), String::new()));
    assert_eq!(both(&me.ssh(&["nobody+web@127.0.0.1", "id -u"])).1, "65534\n");
    assert_eq!(both(&me.ssh(&[at, "kill -9 $$"])).0, 137);
    // Both directions at once, more than any buffer holds.
    let much = noise(12 << 20);
    let echoed = me.fed(&[at, "cat"], &much);
    assert!(echoed.status.success() && echoed.stdout == much, "{} bytes came back", echoed.stdout.len());
    // A program that is slow to read keeps nobody from anything.
    assert_eq!(both(&me.fed(&[at, "sleep 1; wc -c"], &much)).1, format!("{}\n", much.len()));

    // A shell, without and with a terminal.
    assert_eq!(both(&me.fed(&["-T", at], b"echo $0; exit 5\n")), (5, "sh\n".into(), String::new()));
    let terminal = both(&me.fed(&["-tt", at], b"stty size; echo t=$TERM; exit 4\n"));
    assert_eq!(terminal.0, 4, "{terminal:?}");
    assert!(terminal.1.contains("t=") && terminal.1.contains("24 80"), "{terminal:?}");
    // Who leaves takes what they ran along.
    let staying = me.staying(&[at, "echo here; exec sleep 4711"]);
    let inside = || text(&cloud.run(&["exec", "web", "--", "ps"]).stdout).contains("sleep 4711");
    assert!(inside());
    drop(staying);
    cloud.until("the process of who left is gone", || !inside());

    // Forwarded connections: to what listens on the container's own loopback.
    let local = common::free_port();
    let forward = format!("{local}:localhost:80");
    let staying = me.staying(&["-o", "ExitOnForwardFailure=yes", "-L", &forward, at, "echo here; exec cat"]);
    cloud.until("it is reached through the forward", || http("127.0.0.1", local).is_some_and(|a| a == "served\n"));
    drop(staying);
    let page = me.fed(&["-W", "web:80", at], b"GET / HTTP/1.0\r\n\r\n");
    assert!(text(&page.stdout).ends_with("served\n"), "{page:?}");
    let elsewhere = me.told(&["-W", "192.0.2.1:80", at]);
    assert!(elsewhere.contains("192.0.2.1 is not reached from here"), "{elsewhere}");
    let closed = me.told(&["-W", "web:81", at]);
    assert!(closed.contains("nothing listens there"), "{closed}");
    // Nothing inside listens out here.
    let back = both(&me.ssh(&["-R", "0:localhost:80", at, "true"]));
    assert!(back.2.contains("-R is not offered"), "{back:?}");
    // Nobody inside gets hold of the keys.
    assert_eq!(both(&me.ssh(&["-A", at, "echo agent=$SSH_AUTH_SOCK"])).1, "agent=\n");

    // The audit journal knows who entered what.
    let audit = cloud.ok(&["audit", "-n", "200"]);
    assert!(audit.lines().any(|l| l.contains("door:ssh:laptop") && l.contains("instance_exec")), "{audit}");
    // A gateway that was killed comes back as the same: the client that remembers its key is content.
    let fingerprint = |cloud: &Cloud| {
        let port = port(cloud).to_string();
        let line = run("ssh-keyscan", &["-t", "ed25519", "-p", &port, "127.0.0.1"]);
        line.split_whitespace().next_back().unwrap().to_owned()
    };
    let before = fingerprint(&cloud);
    let state = std::fs::metadata(cloud.state().join("state")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&state.permissions()) & 0o777,
        0o700,
        "others read the host key"
    );
    cloud.kill();
    cloud.up();
    assert_eq!(fingerprint(&cloud), before);
    assert_eq!(both(&me.ssh(&[at, "echo again"])).1, "again\n");
    // Instances that are not there and that do not run.
    let missing = both(&me.ssh(&["wbe@127.0.0.1", "true"]));
    assert!(missing.0 == 255 && missing.2.contains("did you mean web?"), "{missing:?}");
    cloud.ok(&["stop", "-t", "0", "web"]);
    let stopped = both(&me.ssh(&[at, "true"]));
    assert!(stopped.0 == 255 && stopped.2.contains("yun start web"), "{stopped:?}");
}

#[test]
fn only_keys_of_the_project_open_it() {
    if !real("keys of the SSH gateway") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], SLEEP);
    cloud.ok(&["project", "create", "lab"]);
    let (me, other, stranger) =
        (Person::new(&cloud, "me"), Person::new(&cloud, "other"), Person::new(&cloud, "stranger"));
    cloud.ok(&["ssh-key", "add", "me", &me.public()]);
    cloud.ok(&["ssh-key", "add", "other", &other.public(), "-p", "lab"]);
    assert!(me.ssh(&["web.default@127.0.0.1", "true"]).status.success(), "{}", cloud.log());
    // Whatever does not fit is refused in the same words.
    let refused = |person: &Person<'_>, user: &str| {
        let (code, _, why) = both(&person.ssh(&["-o", &format!("User={user}"), "127.0.0.1", "true"]));
        assert_eq!(code, 255, "{user}: {why}");
        why.replace(user, "USER")
    };
    let wrong = refused(&stranger, "web.default");
    assert!(wrong.contains("Permission denied (publickey)"), "{wrong}");
    for (person, user) in [
        (&other, "web.default"),
        (&stranger, "none.default"),
        (&stranger, "web.nowhere"),
        (&me, "web.lab"),
        (&me, "web.nowhere"),
        (&me, "Web"),
    ] {
        assert_eq!(refused(person, user), wrong, "{user}");
    }
    // A viewer is known, and enters nothing.
    let viewer = Person::new(&cloud, "viewer");
    cloud.ok(&["ssh-key", "add", "viewer", &viewer.public(), "--role", "viewer"]);
    let shown = both(&viewer.ssh(&["web@127.0.0.1", "true"]));
    assert!(
        shown.0 == 255 && shown.2.contains("has the role viewer") && shown.2.contains("--role editor"),
        "{shown:?}"
    );
    let forwarded = viewer.told(&["-W", "web:80", "web@127.0.0.1"]);
    assert!(forwarded.contains("has the role viewer"), "{forwarded}");

    // A key that is removed ends what it opened, and opens nothing any more.
    let mut staying = me.staying(&["web@127.0.0.1", "echo here; exec sleep 4711"]);
    cloud.ok(&["ssh-key", "rm", "me"]);
    assert_eq!(refused(&me, "web.default"), wrong);
    cloud.until("its session has ended", || staying.child.try_wait().unwrap().is_some());
    cloud.until("its process too", || !text(&cloud.run(&["exec", "web", "--", "ps"]).stdout).contains("4711"));

    // What is no key is refused, and a secret is never repeated.
    let private = me.key.to_string_lossy().into_owned();
    let (_, why) = cloud.fails(&["ssh-key", "add", "x", &private]);
    let secret = std::fs::read_to_string(&me.key).unwrap();
    let line = secret.lines().nth(1).unwrap();
    assert!(why.contains("is a private key") && why.contains("did you mean") && !why.contains(line), "{why}");
    let fed = cloud.fed(&["ssh-key", "add", "x", "-"], secret.as_bytes());
    assert!(!fed.status.success() && text(&fed.stderr).contains("is a private key"), "{fed:?}");
    assert!(!text(&fed.stderr).contains(line) && !cloud.log().contains(line));
    for (words, why) in [
        (&["ssh-key", "add", "x", "/none"][..], "neither a public key nor a file"),
        (&["ssh-key", "add", "x", "ssh-ed25519 AAAA"], "is damaged"),
        (&["ssh-key", "add", "viewer", &me.public()], "exists already"),
        (&["ssh-key", "add", "x", &viewer.public()], "under the name viewer"),
        (&["ssh-key", "add", "x", &me.public(), "--role", "admin"], "cannot have the role admin"),
        (&["ssh-key", "add", "x", &me.public(), "--role", "king"], "use viewer, editor or admin"),
        (&["ssh-key", "add", "X", &me.public()], "use lower case"),
        (&["ssh-key", "rm", "viwer"], "did you mean viewer?"),
        (&["ssh-key", "show", "none"], "yun ssh-key ls"),
    ] {
        let (_, told) = cloud.fails(words);
        assert!(told.contains(why), "{words:?}: {told}");
    }
    let shown = cloud.json(&["ssh-key", "show", "viewer"]);
    let printed = run("ssh-keygen", &["-l", "-f", &viewer.public()]);
    assert!(printed.contains(shown["status"]["fingerprint"].as_str().unwrap()), "{shown} {printed}");
    // A server that is asked to stop tells who is there.
    let mut staying = other_project(&cloud, &other);
    cloud.ok(&["down"]);
    assert!(!staying.child.wait().unwrap().success());
    assert!(!alive(i32::try_from(staying.child.id()).unwrap()));
}

/// A session in another project.
fn other_project(cloud: &Cloud, person: &Person<'_>) -> Staying {
    cloud.ok(&["launch", "box", "app", "-p", "lab", "--size", "cpu:0.05,memory:32M,disk:10M", "--", "sleep", "100000"]);
    person.staying(&["app.lab@127.0.0.1", "echo here; exec sleep 100"])
}

#[test]
fn files_are_copied_with_scp_and_sftp() {
    if !real("scp and sftp into containers") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], SLEEP);
    let me = Person::new(&cloud, "laptop");
    cloud.ok(&["ssh-key", "add", "laptop", &me.public()]);
    let here = |name: &str| cloud.root().join(name);
    let path = |name: &str| here(name).to_string_lossy().into_owned();
    let inside = |script: &str| text(&cloud.run(&["exec", "web", "--", "sh", "-c", script]).stdout);

    // 5 MB there and back.
    let data = noise(5_000_000);
    std::fs::write(here("data"), &data).unwrap();
    me.ok("scp", &[&path("data"), "web.default@127.0.0.1:"]);
    let hash = run("sha256sum", &[&path("data")]).split(' ').next().unwrap().to_owned();
    assert!(inside("sha256sum /root/data").starts_with(&hash), "{}", inside("ls -l /root"));
    assert_eq!(inside("stat -c %u:%g /root/data"), "0:0\n");
    me.ok("scp", &["web.default@127.0.0.1:/root/data", &path("back")]);
    assert!(std::fs::read(here("back")).unwrap() == data);
    // Directories, with what is in them and its rights and times.
    std::fs::create_dir_all(here("site/deep")).unwrap();
    std::fs::write(here("site/index.html"), "page").unwrap();
    std::fs::write(here("site/deep/run"), "#!/bin/sh\n").unwrap();
    run("chmod", &["755", &path("site/deep/run")]);
    run("touch", &["-d", "2001-02-03T04:05:06Z", &path("site/index.html")]);
    me.ok("scp", &["-r", "-p", &path("site"), "web.default@127.0.0.1:/srv"]);
    assert_eq!(
        inside("cat /srv/index.html; stat -c '%a %Y' /srv/index.html; stat -c %a /srv/deep/run"),
        "page644 981173106\n755\n"
    );
    me.ok("scp", &["-r", "web.default@127.0.0.1:/srv", &path("copy")]);
    assert_eq!(std::fs::read_to_string(here("copy/deep/run")).unwrap(), "#!/bin/sh\n");

    inside("chmod 1777 /tmp");
    // As another user: with no more rights than that user has.
    me.ok("scp", &[&path("site/index.html"), "nobody+web@127.0.0.1:/tmp/of-nobody"]);
    assert_eq!(inside("stat -c %u:%g /tmp/of-nobody"), "65534:65534\n");
    inside("echo secret > /tmp/secret; chmod 600 /tmp/secret");
    let denied = me.command("scp", &["nobody+web@127.0.0.1:/tmp/secret", &path("stolen")]).output().unwrap();
    assert!(
        !denied.status.success() && text(&denied.stderr).to_lowercase().contains("permission denied"),
        "{denied:?}"
    );
    let denied = me.command("scp", &[&path("data"), "nobody+web@127.0.0.1:/etc/passwd"]).output().unwrap();
    assert!(!denied.status.success() && inside("head -1 /etc/passwd").starts_with("root:"), "{denied:?}");

    // Whatever the container sets up, nothing leads out of it.
    std::fs::write(here("secret"), "of the host").unwrap();
    let out = format!("{}/secret", "../".repeat(20) + &cloud.root().to_string_lossy());
    inside(&format!(
        "ln -s {} /root/a; ln -s / /root/b; ln -s {out} /root/c; ln -s /proc/1/root /root/d",
        path("secret")
    ));
    for place in [&path("secret"), "/root/a", "/root/c", &out, &format!("/root/b/{out}"), &format!("/root/d/{out}")] {
        let from = format!("web@127.0.0.1:{place}");
        let led = me.command("scp", &[&from, &path("led")]).output().unwrap();
        assert!(!led.status.success() && !here("led").exists(), "{place} leads out");
        let onto = me.command("scp", &[&path("data"), &from]).output().unwrap();
        drop(onto);
        assert_eq!(std::fs::read_to_string(here("secret")).unwrap(), "of the host", "{place} leads out");
    }
    for kernel in
        ["/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/kernel/mm/transparent_hugepage/enabled", "/dev/null"]
    {
        let there = format!("web@127.0.0.1:{kernel}");
        let wrote = me.command("scp", &[&path("secret"), &there]).output().unwrap();
        assert!(!wrote.status.success(), "{kernel} was written");
    }

    // The other client, with a script.
    let script = here("batch");
    std::fs::write(&script, "pwd\nmkdir box\ncd box\nput batch one\nrename one two\nln -s two link\nls -l\nchmod 600 two\nrm link\nget two got\nls nothing-here\n".replace("put batch", &format!("put {}", script.display())).replace("got", &path("got"))).unwrap();
    let sftp = me.command("sftp", &["-b", &script.to_string_lossy(), "web@127.0.0.1"]).output().unwrap();
    let said = text(&sftp.stdout);
    assert!(said.contains("Remote working directory: /root") && said.contains("link"), "{said} {}", text(&sftp.stderr));
    assert!(text(&sftp.stderr).contains("nothing-here"), "{sftp:?}");
    assert_eq!(std::fs::read(here("got")).unwrap(), std::fs::read(&script).unwrap());
    assert_eq!(inside("stat -c %a /root/box/two; ls /root/box"), "600\ntwo\n");
    let other = both(&me.ssh(&["-s", "web@127.0.0.1", "netconf"]));
    assert!(other.0 == 255 && other.2.contains("is not offered: sftp is"), "{other:?}");
    let audit = cloud.ok(&["audit", "-n", "200"]);
    assert!(audit.contains("instance_sftp"), "{audit}");

    // A session holds nothing of a container that is gone.
    let mut open = me.command("sftp", &["web@127.0.0.1"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut orders = open.stdin.take().unwrap();
    let mut answers = BufReader::new(open.stdout.take().unwrap());
    let mut line = String::new();
    writeln!(orders, "pwd").unwrap();
    while !line.contains("/root") {
        line.clear();
        assert!(answers.read_line(&mut line).unwrap() > 0, "sftp answers");
    }
    cloud.ok(&["rm", "-f", "web"]);
    cloud.until("the session has ended", || {
        // The client looks at its connection when it is asked for something.
        let _ = writeln!(orders, "pwd");
        let _ = writeln!(orders, "ls");
        open.try_wait().unwrap().is_some()
    });
}

#[test]
fn the_gateway_can_be_left_out() {
    if !real("a cloud without an SSH gateway") {
        return;
    }
    let cloud = Cloud::cold();
    std::fs::create_dir_all(cloud.root().join("etc/yun")).unwrap();
    std::fs::write(cloud.root().join("etc/yun/yun.toml"), "[ssh]\nenable = false\n").unwrap();
    cloud.up();
    assert!(cloud.json(&["status"])["ssh"].is_null() && !cloud.ok(&["status"]).contains("ssh:"));
    // Once it is wanted, it is there.
    std::fs::write(cloud.root().join("etc/yun/yun.toml"), "").unwrap();
    cloud.kill();
    cloud.up();
    let port = port(&cloud).to_string();
    assert!(run("ssh-keyscan", &["-t", "ed25519", "-p", &port, "127.0.0.1"]).contains("ssh-ed25519"));
}

#[test]
fn strangers_wait_in_vain() {
    if !real("limits of the SSH gateway") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], SLEEP);
    let me = Person::new(&cloud, "laptop");
    cloud.ok(&["ssh-key", "add", "laptop", &me.public()]);
    let port = port(&cloud);
    // Those who say nothing fill the room for strangers, and no more: whoever comes then is turned away at once.
    let mut silent: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    cloud.until("the gateway is full of strangers", || {
        let (code, _, _) = both(&me.ssh(&["web@127.0.0.1", "true"]));
        code == 255
    });
    silent.clear();
    cloud.until("it has room again", || me.ssh(&["web@127.0.0.1", "true"]).status.success());
    // Noise is no protocol.
    let mut noisy = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = noisy.write_all(&noise(1 << 20));
    assert!(me.ssh(&["web@127.0.0.1", "true"]).status.success());
}

#[test]
fn a_vm_is_entered_through_its_own_ssh_server() {
    if !real("ssh into VMs") || !common::real_vms("ssh into VMs") {
        return;
    }
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small"]);
    let me = Person::new(&cloud, "laptop");
    let size = "cpu:1,memory:192M,disk:600M";
    cloud.ok(&["launch", "small", "vm1", "--size", size, "--ssh-key", &me.public(), "--wait", "240"]);
    cloud.ok(&["ssh-key", "add", "laptop", &me.public()]);
    let at = "vm1.default@127.0.0.1";
    let told = both(&me.ssh(&[at, "hostname; id -u; echo err >&2; exit 7"]));
    assert_eq!(told, (7, "vm1\n0\n".into(), "err\n".into()), "{}", cloud.log());
    assert_eq!(both(&me.fed(&[at, "wc -c"], &noise(300_000))).1.trim(), "300000");
    let terminal = both(&me.fed(&["-tt", at], b"tty; exit 4\n"));
    assert!(terminal.0 == 4 && terminal.1.contains("/dev/"), "{terminal:?}");
    // Files by the guest's own server.
    let data = noise(1_000_000);
    let (here, back) = (cloud.root().join("data"), cloud.root().join("back"));
    std::fs::write(&here, &data).unwrap();
    me.ok("scp", &[&here.to_string_lossy(), &format!("{at}:/root/data")]);
    me.ok("scp", &[&format!("{at}:/root/data"), &back.to_string_lossy()]);
    assert!(std::fs::read(&back).unwrap() == data);
    // The guest as a host to jump over to: its server answers to its own name.
    let banner = me.fed(&["-W", "vm1:22", at], b"");
    assert!(text(&banner.stdout).starts_with("SSH-2.0-"), "{banner:?}");
    let config = cloud.root().join("config");
    let known = cloud.root().join("known_hosts");
    let lines = [
        format!("IdentityFile {}", me.key.display()),
        format!("UserKnownHostsFile {}", known.display()),
        "StrictHostKeyChecking accept-new\nIdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\nLogLevel ERROR\n"
            .into(),
    ];
    std::fs::write(&config, lines.join("\n")).unwrap();
    let jump = format!("{at}:{}", port(&cloud));
    let jumped = run("ssh", &["-F", &config.to_string_lossy(), "-J", &jump, "root@vm1", "hostname; id -u"]);
    assert_eq!(jumped, "vm1\n0\n");
    // What listens only inside, and what only the guest reaches, by its own server.
    assert!(me.ssh(&[at, "hostname > /tmp/index.html; httpd -p 127.0.0.1:8080 -h /tmp"]).status.success());
    let page = me.fed(&["-W", "localhost:8080", at], b"GET / HTTP/1.0\r\n\r\n");
    assert!(text(&page.stdout).ends_with("vm1\n"), "{page:?}");
    let address = cloud.show("vm1")["status"]["address"].as_str().unwrap().to_owned();
    let inside = me.fed(&["-W", &format!("{address}:22"), at], b"");
    assert!(text(&inside.stdout).starts_with("SSH-2.0-"), "{inside:?}");
    let closed = me.told(&["-W", &format!("{address}:81"), at]);
    assert!(closed.contains("the VM cannot connect to"), "{closed}");
    let nobody = both(&me.ssh(&["nobody+vm1.default@127.0.0.1", "true"]));
    assert!(nobody.0 == 255 && nobody.2.contains("does not let the gateway in as nobody"), "{nobody:?}");
    // The same guest is known again after both have restarted.
    cloud.kill();
    cloud.up();
    cloud.ok(&["restart", "-t", "1", "vm1"]);
    assert_eq!(both(&me.ssh(&[at, "hostname"])).1, "vm1\n", "{}", cloud.log());
    // Another key in its place is somebody else, or was made anew inside: said, and not believed.
    assert!(me.ssh(&[at, "rm /etc/dropbear/host_key; sync"]).status.success());
    cloud.ok(&["restart", "-t", "1", "vm1"]);
    let other = both(&me.ssh(&[at, "true"]));
    assert!(other.0 == 255 && other.2.contains("and was known by SHA256:"), "{other:?}");
    cloud.ok(&["stop", "-t", "1", "vm1"]);
    let stopped = both(&me.ssh(&[at, "true"]));
    assert!(stopped.0 == 255 && stopped.2.contains("yun start vm1"), "{stopped:?}");
}
