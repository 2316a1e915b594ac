//! The life of virtual machines at the command line of the real program. Guests answer in seconds even where they are emulated, and all
//! waits are on conditions with generous limits.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{
    Cloud,
    machine::{SIZE, inside},
    run, text,
};
use std::{
    io::{Read, Write},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

#[test]
fn a_machine_is_launched_rebooted_stopped_frozen_and_removed() {
    if !common::real_vms("the life of a machine") {
        return;
    }
    let cloud = Cloud::start();
    let said = cloud.ok(&["image", "build", "small-vm", "small"]);
    assert!(said.contains("vm for amd64"), "{said}");
    let said = cloud.ok(&["launch", "small", "vm1", "--size", SIZE]);
    assert!(said.starts_with("vm vm1 running at 10."), "{said}");
    assert!(inside(&cloud, "vm1", "uname -a").unwrap().starts_with("Linux vm1 "));
    let vm = cloud.show("vm1");
    assert!(matches!(vm["status"]["accel"].as_str(), Some("kvm" | "tcg")), "{vm}");
    assert!(inside(&cloud, "vm1", "ip addr").unwrap().contains(vm["status"]["address"].as_str().unwrap()));
    let output = cloud.run(&["ssh", "vm1", "--", "exit 3"]);
    assert_eq!(output.status.code(), Some(3));

    // What is written survives a reboot from inside, and a stop.
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = inside(&cloud, "vm1", boot).unwrap();
    inside(&cloud, "vm1", "echo kept > /root/file && sync").unwrap();
    let _ = inside(&cloud, "vm1", "reboot");
    cloud.until("it has booted again", || inside(&cloud, "vm1", boot).is_ok_and(|now| now != first));
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "kept\n");
    assert_eq!(cloud.show("vm1")["status"]["restarts"], 0, "a reboot is no failure");

    let begun = Instant::now();
    cloud.ok(&["stop", "vm1"]);
    assert!(begun.elapsed() < Duration::from_secs(50), "the guest was not asked: {:?}", begun.elapsed());
    assert_eq!(cloud.state_of("vm1"), "stopped");
    let (_, why) = cloud.fails(&["ssh", "vm1", "--", "true"]);
    assert!(why.contains("yun start vm1"), "{why}");
    cloud.ok(&["start", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "kept\n");

    // Frozen, it does not answer; thawed, it goes on where it was.
    let second = inside(&cloud, "vm1", boot).unwrap();
    cloud.ok(&["pause", "vm1"]);
    assert_eq!(cloud.state_of("vm1"), "paused");
    cloud.ok(&["resume", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", boot).unwrap(), second);

    console_shows_and_takes(&cloud);
    let logs = cloud.ok(&["logs", "vm1", "--tail", "5"]);
    assert!(!logs.is_empty() && logs.lines().count() <= 5, "{logs}");
    let (_, why) = cloud.fails(&["exec", "-t", "vm1", "--", "id"]);
    assert!(why.contains("yun ssh vm1"), "{why}");

    // The server is not needed: killed and started again, it finds its machine.
    cloud.kill();
    cloud.up();
    assert_eq!(inside(&cloud, "vm1", boot).unwrap(), second, "the machine went on without the server");
    cloud.ok(&["set", "vm1", "--size", "cpu:0.5,memory:192Mi,disk:300Mi"]);
    cloud.ok(&["rm", "-f", "vm1"]);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    cloud.ok(&["image", "rm", "small"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

/// The serial console shows a login or a shell, and what is typed arrives.
fn console_shows_and_takes(cloud: &Cloud) {
    let mut command = cloud.command(&["console", "vm1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let seen = Arc::clone(&seen);
        move || {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        }
    });
    let shows = |piece: &str| text(&seen.lock().unwrap()).contains(piece);
    let mut typed = Instant::now() - Duration::from_secs(60);
    cloud.until("the console shows a prompt", || {
        if typed.elapsed() > Duration::from_secs(2) {
            keys.write_all(b"\n").unwrap();
            typed = Instant::now();
        }
        shows("login:") || shows("# ")
    });
    if shows("# ") {
        keys.write_all(b"echo so$((6*7))\n").unwrap();
        cloud.until("the console answers", || shows("so42"));
    }
    // Ctrl-a q leaves.
    keys.write_all(&[1, b'q']).unwrap();
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}

#[test]
fn a_machine_that_never_boots_is_told_with_its_last_words() {
    if !common::real_vms("a machine that never boots") {
        return;
    }
    let cloud = Cloud::start();
    let disk = cloud.root().join("empty.qcow2").display().to_string();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &disk, "64M"]);
    cloud.ok(&["image", "import", "blank", &disk]);
    // QEMU runs at once; that nobody answers inside takes its time to show.
    cloud.ok(&["launch", "blank", "dead", "--size", SIZE, "--boot-timeout", "5", "--restart", "never", "--wait", "60"]);
    cloud.until("it has failed", || cloud.state_of("dead") == "failed");
    let dead = cloud.show("dead")["status"].clone();
    assert_eq!((dead["state"].as_str(), dead["reason"].as_str()), (Some("failed"), Some("BootTimeout")), "{dead}");
    let why = dead["message"].as_str().unwrap();
    for piece in ["dead", "5 s", "its console ends with: SeaBIOS", "boot", "yun console dead"] {
        assert!(why.contains(piece), "{piece:?} is not in: {why}");
    }
    assert!(cloud.ok(&["events", "--object", "dead"]).contains("BootTimeout"));
    // A disk that is smaller than the image is refused before anything is made.
    let (_, why) = cloud.fails(&["launch", "blank", "tiny", "--size", "cpu:0.1,memory:128Mi,disk:10M"]);
    assert!(why.contains("image blank needs a disk of 64 MiB") && why.contains("disk:64Mi"), "{why}");
    assert_eq!(cloud.state_of("tiny"), "absent");
    cloud.ok(&["rm", "-f", "dead"]);
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn a_machine_comes_back_after_its_process_and_its_host() {
    if !common::real_vms("machines that come back") {
        return;
    }
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small"]);
    // Killed in the middle of a start, the server finds the machine again.
    let detached = cloud.ok(&["launch", "small", "vm1", "--size", SIZE, "--detach"]);
    cloud.until("QEMU is there", || qemu(&cloud).is_some());
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.ok(&["operation", "wait", detached.trim()]), "succeeded\n");
    inside(&cloud, "vm1", "echo kept > /root/file && sync").unwrap();
    let first = qemu(&cloud).unwrap();

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    cloud.until("it was started again", || {
        qemu(&cloud).is_some_and(|pid| pid != first) && cloud.state_of("vm1") == "running"
    });
    assert_eq!(cloud.show("vm1")["status"]["restarts"], 1);
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "kept\n");

    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
    cloud.up();
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "kept\n");
    cloud.ok(&["rm", "-f", "vm1"]);
    assert_eq!(qemu(&cloud), None);
}

/// The QEMU of the only machine.
fn qemu(cloud: &Cloud) -> Option<i32> {
    let root = cloud.root().to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    pids.find(|pid| {
        let line = text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        line.starts_with("qemu-system") && line.contains(&root) && line.contains("guest=vm1") && common::alive(*pid)
    })
}
