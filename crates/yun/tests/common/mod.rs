//! A real server on a root of its own, for tests, and the command line that talks to it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "shared by several test programs, which start the real program"
)]

pub mod machine;

use serde_json::Value;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_yun");

/// True if the real thing can be tested here; says aloud what is missing if not.
pub fn real(what: &str) -> bool {
    let missing = [("crun", "/usr/bin/crun"), ("nft", "/usr/sbin/nft"), ("busybox", "/bin/busybox")];
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {what}: it needs root");
        return false;
    }
    for (name, path) in missing {
        if !Path::new(path).exists() {
            eprintln!("SKIPPED {what}: {name} is not installed (cargo xtask setup installs it)");
            return false;
        }
    }
    true
}

/// True if VMs can be tested here.
pub fn real_vms(what: &str) -> bool {
    if !real(what) {
        return false;
    }
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        eprintln!("SKIPPED {what}: QEMU is not installed (cargo xtask setup installs it)");
        return false;
    }
    true
}

/// A server that is taken down, with everything it runs, when this is dropped.
pub struct Cloud {
    directory: tempfile::TempDir,
}

impl Cloud {
    /// Starts one on a fresh root.
    pub fn start() -> Self {
        let directory = Self::directory();
        let cloud = Self { directory };
        cloud.up();
        cloud
    }

    /// A directory that others may pass through, as a cloud's root is: root inside a container is one of them.
    fn directory() -> tempfile::TempDir {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        tempfile::Builder::new().prefix("yt").permissions(open).tempdir_in("/var/tmp").unwrap()
    }

    /// A root without a server.
    pub fn cold() -> Self {
        Self { directory: Self::directory() }
    }

    /// Starts the server, or finds it running.
    pub fn up(&self) {
        self.ok(&["up", "--listen", "127.0.0.1:0", "--no-systemd"]);
        // The first instances of a test should not race with the registration of the node.
        self.until("the node is ready", || self.run(&["node", "ls", "-o", "name"]).stdout.len() > 1);
    }

    /// Everything of it is under here.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// What must outlive a reboot.
    pub fn state(&self) -> PathBuf {
        self.root().join("var/lib/yun")
    }

    /// Starts one on a fresh root, with the image `box`: a container of busybox.
    pub fn with_box() -> Self {
        let cloud = Self::start();
        let root = cloud.root().join("box");
        busybox_root(&root);
        let archive = tarred(&root);
        cloud.ok(&["image", "import", "box", &archive, "--", "sh"]);
        cloud
    }

    /// Launches a small container from `box`, which must run in the end.
    #[track_caller]
    pub fn launch(&self, name: &str, flags: &[&str], command: &[&str]) -> String {
        self.ok(&launching(name, flags, command))
    }

    /// A command line as the holder of another token.
    pub fn as_token(&self, secret: &str, words: &[&str]) -> Output {
        self.command(words).env("YUN_TOKEN", secret).output().unwrap()
    }

    /// Runs the command line with something on its standard input.
    pub fn fed(&self, words: &[impl AsRef<std::ffi::OsStr>], input: &[u8]) -> Output {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Who refuses early reads no further.
                let _ = pipe.write_all(input);
            });
            child.wait_with_output().unwrap()
        })
    }

    /// An object as the API has it.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[words, &["-o", "json"]].concat())).unwrap()
    }

    /// An instance as the API has it.
    #[track_caller]
    pub fn show(&self, name: &str) -> Value {
        self.json(&["show", name])
    }

    /// The command line, ready to run.
    pub fn command(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env("YUN_ROOT", self.root())
            .env("YUN_CONFIG", self.root().join("config.toml"))
            .env("NO_COLOR", "1");
        for name in ["YUN_HOST", "YUN_TOKEN", "YUN_PROJECT", "YUN_CONTEXT"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs the command line.
    pub fn run(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs the command line, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "yun {}: {}\n{}", words.join(" "), text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Runs the command line, which must fail; its exit code and its standard error.
    #[track_caller]
    pub fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(words);
        assert!(!output.status.success(), "yun {} succeeded: {}", words.join(" "), text(&output.stdout));
        (output.status.code().unwrap_or(-1), text(&output.stderr))
    }

    /// The state of an instance, as a word.
    pub fn state_of(&self, name: &str) -> String {
        let output = self.run(&["show", name, "-o", "json"]);
        let instance: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        instance["status"]["state"].as_str().unwrap_or("absent").to_owned()
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(90);
        while !so() {
            assert!(Instant::now() < limit, "it never came true that {what}\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// The server's pid.
    pub fn pid(&self) -> i32 {
        let status: Value = serde_json::from_str(&self.ok(&["status", "-o", "json"])).unwrap();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }

    /// Ends the server without a word, and waits until it is gone.
    pub fn kill(&self) {
        let pid = self.pid();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        self.until("the killed server is gone", || !alive(pid));
    }

    /// What the server said.
    pub fn log(&self) -> String {
        let all = std::fs::read_to_string(self.state().join("logs/server.log")).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        format!("server log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// What is left on the host of this cloud: processes, interfaces, mounts, cgroups, rules.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.root().to_string_lossy().into_owned();
        let id = std::fs::read_to_string(self.state().join("cloud-id")).unwrap_or_default().trim().replace('-', "");
        let short = id.get(24..).unwrap_or("none").to_owned();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&root) {
                found.push(format!("process {} {line}", process.file_name().to_string_lossy()));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&root) || l.contains(&format!("yun-{short}")))
                .map(|l| format!("mount {l}")),
        );
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let directory = hierarchy.path().join(format!("yun-{short}"));
            if directory.is_dir() {
                found.push(format!("cgroup {}", directory.display()));
            }
        }
        for link in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
            let alias = std::fs::read_to_string(link.path().join("ifalias")).unwrap_or_default();
            if !id.is_empty() && alias.replace('-', "").contains(&id) {
                found.push(format!("interface {} {alias}", link.file_name().to_string_lossy()));
            }
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        found.extend(
            text(&tables.stdout).lines().filter(|l| l.contains(&format!("yun_{short}_"))).map(|l| format!("rules {l}")),
        );
        for run in [self.root().join("run/yun"), PathBuf::from(format!("/run/yun-{short}"))] {
            for part in ["netns", "net", "i"] {
                let entries = std::fs::read_dir(run.join(part)).into_iter().flatten().flatten();
                found.extend(entries.map(|e| format!("run-time file {}", e.path().display())));
            }
        }
        found
    }

    /// What durable files there are of instances.
    pub fn instance_files(&self) -> Vec<String> {
        let directories = ["instances", "ledger/instances"].map(|d| self.state().join(d));
        let entries = directories.iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
        entries.map(|e| e.path().display().to_string()).collect()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.run(&["down"]);
    }
}

/// The words of a launch of a small container from `box`.
pub fn launching<'a>(name: &'a str, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let first = ["launch", "box", name, "--size", "cpu:0.05,memory:32M,disk:10M", "--wait", "60"];
    let mut words = [&first[..], flags].concat();
    if !command.is_empty() {
        words.push("--");
        words.extend(command);
    }
    words
}

/// A port of the host that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// What an HTTP server at this address answers, if one does.
pub fn http(address: &str, port: u16) -> Option<String> {
    let address = format!("{address}:{port}").parse().unwrap();
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Makes a directory with what a container needs to run busybox.
pub fn busybox_root(directory: &Path) {
    for name in ["bin", "etc", "root", "tmp", "www", "dev", "proc", "sys"] {
        std::fs::create_dir_all(directory.join(name)).unwrap();
    }
    let busybox = directory.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).unwrap();
    for name in run("/bin/busybox", &["--list"]).lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", directory.join("bin").join(name)).unwrap();
    }
    std::fs::write(directory.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        .unwrap();
    std::fs::write(directory.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
}

/// Packs a directory into a tar beside it.
pub fn tarred(directory: &Path) -> String {
    let archive = format!("{}.tar", directory.display());
    run("tar", &["-C", &directory.to_string_lossy(), "--owner=0", "--group=0", "-cf", &archive, "."]);
    archive
}

/// Runs a program of the host, which must succeed.
#[track_caller]
pub fn run(program: &str, words: &[&str]) -> String {
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {}: {}", words.join(" "), text(&output.stderr));
    text(&output.stdout)
}

/// Whether a process lives.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
