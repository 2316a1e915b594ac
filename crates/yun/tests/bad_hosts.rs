//! Hosts on which something is missing or wrong: the server says what, and how to mend it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, PROGRAM, alive, launching, run, text};
use std::{
    path::Path,
    process::{Command, Output},
};

/// Starts a server; what it says.
fn up(cloud: &Cloud) -> Output {
    cloud.run(&["up", "--listen", "127.0.0.1:0", "--no-systemd"])
}

/// Runs the command line where some programs of `/usr/bin` are not there: in a mount namespace of its own, in which they are whited out.
fn without(cloud: &Cloud, missing: &[&str], words: &[&str]) -> Output {
    let (upper, work) = (cloud.root().join("upper"), cloud.root().join("work"));
    std::fs::create_dir_all(&work).unwrap();
    if !upper.exists() {
        std::fs::create_dir(&upper).unwrap();
        for name in missing {
            run("mknod", &[&upper.join(name).to_string_lossy(), "c", "0", "0"]);
        }
    }
    let mount = format!(
        "mount -t overlay overlay -o lowerdir=/usr/bin,upperdir={},workdir={} /usr/bin",
        upper.display(),
        work.display()
    );
    let command = cloud.command(words);
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut inside = Command::new("unshare");
    inside.args(["-m", "sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")]).arg(program).args(arguments);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside.stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn programs_that_are_missing_are_named_with_their_package() {
    if !common::real("missing programs") {
        return;
    }
    let cloud = Cloud::cold();
    let missing = ["crun", "runc", "qemu-system-x86_64"];
    let output = without(&cloud, &missing, &["up", "--listen", "127.0.0.1:0", "--no-systemd"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let root = cloud.root().join("box");
    common::busybox_root(&root);
    cloud.ok(&["image", "import", "box", &common::tarred(&root), "--", "sh"]);
    let drivers = cloud.json(&["node", "ls"])[0]["status"]["facts"]["drivers"].clone();
    let driver = |name: &str| drivers.as_array().unwrap().iter().find(|d| d["driver"] == name).unwrap().clone();
    for (name, program, package) in [("container", "crun", "crun"), ("vm", "QEMU", "qemu-system-x86")] {
        let (ready, message) = (driver(name)["ready"].as_bool(), driver(name)["message"].to_string());
        assert!(
            ready == Some(false)
                && message.contains(program)
                && message.contains(&format!("apt-get install {package}")),
            "{name}: {message}"
        );
    }
    let (code, why) = cloud.fails(&[
        "launch",
        "box",
        "web",
        "--size",
        "cpu:0.05,memory:32M,disk:10M",
        "--wait",
        "1",
        "--",
        "sleep",
        "1000",
    ]);
    assert!(code != 0 && why.contains("web") && why.contains("crun") && why.contains("apt-get install crun"), "{why}");
    let explained = cloud.ok(&["explain", "instance", "web"]);
    assert!(explained.contains("no driver") && explained.contains("crun"), "{explained}");
    let doctor = without(&cloud, &missing, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "a missing program is a problem");
    assert!(text(&doctor.stdout).contains("apt-get install"), "{}", text(&doctor.stdout));
    // As soon as it is there, what waits goes on.
    cloud.kill();
    cloud.up();
    cloud.until("what waited runs", || cloud.state_of("web") == "running");
}

#[test]
fn how_machines_run_is_said() {
    if !common::real_vms("broken KVM") {
        return;
    }
    let cloud = Cloud::start();
    let drivers = cloud.json(&["node", "ls"])[0]["status"]["facts"]["drivers"].clone();
    let vm = drivers.as_array().unwrap().iter().find(|d| d["driver"] == "vm").unwrap().clone();
    match vm["accel"].as_str() {
        Some("kvm") => assert!(cloud.ok(&["node", "ls"]).contains("kvm")),
        Some("tcg") => {
            assert!(vm["message"].as_str().unwrap().contains("TCG"), "{vm}");
            let doctor = text(&cloud.run(&["doctor"]).stdout);
            assert!(doctor.contains("emulated") && doctor.contains("mend:"), "{doctor}");
            assert!(cloud.ok(&["status"]).contains("emulated"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    if !common::real("the refusal of others than root") || !Path::new("/usr/bin/setpriv").exists() {
        return;
    }
    // Others can neither read the build directory nor the root of this cloud.
    let program = Path::new("/var/tmp").join(format!("yun-of-nobody-{}", std::process::id()));
    std::fs::copy(PROGRAM, &program).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(words);
        command.env("HOME", "/nonexistent").env_remove("YUN_CONFIG").current_dir("/").output().unwrap()
    };
    for words in [&["up"][..], &["down"], &["server"]] {
        let output = as_nobody(&[words, &["--root", "/var/tmp/of-nobody"]].concat());
        let why = text(&output.stderr);
        assert!(!output.status.success() && why.contains("root") && why.contains("sudo"), "{words:?}: {why}");
    }
    assert!(!Path::new("/var/tmp/of-nobody").exists());
    let output = as_nobody(&["doctor", "--root", "/var/tmp/of-nobody"]);
    assert!(text(&output.stdout).contains("root"), "{}", text(&output.stderr));
    std::fs::remove_file(&program).unwrap();
}

/// A small disk of its own, for as long as this lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(path: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &path.to_string_lossy()]);
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    if !common::real("a full disk") {
        return;
    }
    let cold = Cloud::cold();
    let disk = SmallDisk::at(cold.state(), "300M");
    // Ends before its disk does, also when the test fails.
    let cloud = cold;
    cloud.up();
    let root = cloud.root().join("box");
    common::busybox_root(&root);
    cloud.ok(&["image", "import", "box", &common::tarred(&root), "--", "sh"]);
    cloud.launch("web", &[], &["sleep", "1000"]);
    // An image that does not fit.
    std::fs::write(root.join("large"), vec![7; 250 << 20]).unwrap();
    let (_, why) = cloud.fails(&["image", "import", "large", &common::tarred(&root)]);
    assert!(why.contains("disk") && why.contains("yun image rm"), "{why}");
    // Filled to the last byte: what runs goes on, and writes are refused with the reason.
    let filler = cloud.state().join("filler");
    let _ = std::fs::write(&filler, vec![0; 300 << 20]);
    let mut refused = None;
    for n in 0..200 {
        let name = format!("project-{n}");
        let output = cloud.run(&["project", "create", &name]);
        if !output.status.success() {
            refused = Some((name, text(&output.stderr)));
            break;
        }
    }
    let (name, why) = refused.expect("a full disk takes everything");
    assert!(why.contains("full") || why.contains("space"), "{why}");
    assert_eq!(text(&cloud.run(&["exec", "web", "--", "echo", "alive"]).stdout), "alive\n");
    assert_eq!(cloud.state_of("web"), "running");
    std::fs::remove_file(&filler).unwrap();
    cloud.until("there is room again", || cloud.run(&["project", "create", &name]).status.success());
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.state_of("web"), "running");
    assert!(cloud.ok(&["project", "ls", "-o", "name"]).contains(&name));
    drop((cloud, disk));
}

#[test]
fn two_servers_on_one_root_are_one_too_many() {
    if !common::real("two servers") {
        return;
    }
    let cloud = Cloud::start();
    let pid = cloud.pid();
    let second = cloud.run(&["server", "--listen", "127.0.0.1:0"]);
    let why = text(&second.stderr);
    assert!(!second.status.success() && why.contains(&format!("{pid}")), "{why}");
    assert!(why.contains("another") || why.contains("already"), "{why}");
    assert!(alive(pid) && cloud.pid() == pid);
    // A marker that lies is not believed.
    let marker = cloud.root().join("run/yun/server.json");
    std::fs::remove_file(&marker).unwrap();
    let output = cloud.run(&["up", "--listen", "127.0.0.1:0", "--no-systemd"]);
    let why = text(&output.stderr);
    assert!(!output.status.success() && why.contains(&format!("{pid}")), "{why}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    cloud.until("it has ended", || !alive(pid));
    cloud.up();
    // A port that another program has.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = Cloud::cold();
    let output = other.run(&["up", "--listen", &address, "--no-systemd"]);
    let why = text(&output.stderr);
    assert!(!output.status.success() && why.contains(&address) && why.contains("listen"), "{why}");
}

#[test]
fn configuration_and_state_are_checked_before_anything_starts() {
    if !common::real("configuration") {
        return;
    }
    let cloud = Cloud::cold();
    let file = cloud.root().join("etc/yun/yun.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (config, pieces) in [
        ("[api]\n\nlisen = \"127.0.0.1:0\"\n", &["yun.toml line 3", "lisen", "did you mean `listen`?"][..]),
        ("[netwrk]\n", &["line 1", "netwrk", "did you mean `network`?"]),
        ("[api]\nlisten = 7443\n", &["line 2", "7443", "socket address"]),
        ("[vm]\naccel = \"fast\"\n", &["line 2", "fast", "kvm"]),
        ("[network]\nprefix = 31\n", &["network.prefix is 31", "to 29"]),
        ("[log]\nlevel = \"loud,,=\"\n", &["log.level"]),
        ("not toml at all", &["line 1"]),
    ] {
        std::fs::write(&file, config).unwrap();
        let output = up(&cloud);
        let why = text(&output.stderr);
        assert!(!output.status.success(), "{config:?} was accepted");
        for piece in pieces {
            assert!(why.contains(piece), "{piece:?} is not in: {why}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    cloud.up();
    cloud.ok(&["project", "create", "kept"]);
    cloud.ok(&["down"]);

    // State that a newer version wrote is left alone.
    let database = cloud.state().join("state/state.db");
    let before = {
        let connection = rusqlite::Connection::open(&database).unwrap();
        let format: i64 =
            connection.query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| row.get(0)).unwrap();
        connection.execute("UPDATE meta SET value = 999 WHERE name = 'format'", []).unwrap();
        format
    };
    let output = up(&cloud);
    let why = text(&output.stderr);
    assert!(!output.status.success() && why.contains("999") && why.contains("newer"), "{why}");
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute("UPDATE meta SET value = ?1 WHERE name = 'format'", [before])
        .unwrap();
    cloud.up();
    assert!(cloud.ok(&["project", "ls", "-o", "name"]).contains("kept"));
    cloud.ok(&["down"]);
    // A damaged one is not overwritten.
    for beside in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(cloud.state().join("state").join(beside));
    }
    let mut bytes = std::fs::read(&database).unwrap();
    bytes[..16].copy_from_slice(b"this is no state");
    std::fs::write(&database, &bytes).unwrap();
    let output = up(&cloud);
    let why = text(&output.stderr);
    assert!(!output.status.success() && why.contains("state"), "{why}");
    assert_eq!(std::fs::read(&database).unwrap()[..16], *b"this is no state");
}

#[test]
fn a_server_that_does_not_answer_is_told_from_one_that_refuses() {
    if !common::real("a silent server") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.kill();
    let (code, why) = cloud.fails(&launching("web", &[], &[]));
    assert!(code == 6 && why.contains("no answer from the server") && why.contains("yun up"), "{why}");
    assert_eq!(cloud.fails(&["status"]).0, 6);
    cloud.up();
    // A context with a stranger's certificate authority trusts nobody.
    let other = Cloud::start();
    let config = std::fs::read_to_string(other.root().join("config.toml")).unwrap();
    let host = |text: &str| text.lines().find_map(|l| l.strip_prefix("host = ")).unwrap().trim_matches('"').to_owned();
    let ours = host(&std::fs::read_to_string(cloud.root().join("config.toml")).unwrap());
    std::fs::write(other.root().join("config.toml"), config.replace(&host(&config), &ours)).unwrap();
    let (code, why) = other.fails(&["ls"]);
    assert!(code == 6 && why.contains("certificate"), "{why}");
}
