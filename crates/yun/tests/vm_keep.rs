//! What VMs were at one moment, at the command line of the real program: snapshots with and without memory, restores, machines made from a
//! snapshot, hibernation, and a QEMU that hangs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{
    Cloud,
    machine::{BOOT, SIZE, end, inside, with_machine},
    text,
};
use std::time::{Duration, Instant};

#[test]
fn what_was_kept_comes_back_with_and_without_memory() {
    if !common::real_vms("snapshots of machines") {
        return;
    }
    let cloud = with_machine();
    let first = inside(&cloud, "vm1", BOOT).unwrap();
    // In memory only.
    inside(&cloud, "vm1", "echo here > /dev/shm/note").unwrap();
    let said = cloud.ok(&["snapshot", "create", "vm1", "warm", "--memory"]);
    assert!(said.starts_with("snapshot vm1/warm is ready: disk and memory, "), "{said}");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), first, "it goes on");
    let said = cloud.ok(&["snapshot", "create", "vm1", "disk"]);
    assert!(said.starts_with("snapshot vm1/disk is ready: disk, "), "{said}");
    let listed = cloud.json(&["snapshot", "ls", "vm1"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert!(listed[0]["status"]["facts"]["size"].as_str().is_some_and(|size| size != "0"), "{listed}");

    inside(&cloud, "vm1", "echo two > /root/file; rm /dev/shm/note; sync").unwrap();
    cloud.ok(&["snapshot", "restore", "vm1/warm"]);
    assert_eq!(inside(&cloud, "vm1", "cat /root/file /dev/shm/note").unwrap(), "one\nhere\n");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), first, "the same boot");
    // The server dies in the middle of one: the next one finishes it.
    inside(&cloud, "vm1", "echo three > /root/file; sync").unwrap();
    let operation = cloud.ok(&["snapshot", "restore", "vm1/disk", "--detach"]);
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.ok(&["operation", "wait", operation.trim()]), "succeeded\n");
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "one\n");
    let now = inside(&cloud, "vm1", BOOT).unwrap();
    assert_ne!(now, first, "it booted");
    let operation = cloud.ok(&["snapshot", "create", "vm1", "again", "--memory", "--detach"]);
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.ok(&["operation", "wait", operation.trim()]), "succeeded\n");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), now, "it goes on");

    for (words, why) in [
        (vec!["snapshot", "create", "vm1", "warm"], "has a snapshot warm already"),
        (vec!["snapshot", "restore", "vm1/war"], "did you mean warm?"),
        (vec!["snapshot", "rm", "none/x"], "instance none does not exist"),
        (vec!["snapshot", "show", "Bad/x"], "INSTANCE/SNAPSHOT"),
    ] {
        let (_, said) = cloud.fails(&words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    cloud.ok(&["snapshot", "rm", "vm1/warm", "again"]);
    assert_eq!(cloud.ok(&["snapshot", "ls", "-o", "name"]), "vm1/disk\n");
    cloud.ok(&["stop", "vm1"]);
    let (_, said) = cloud.fails(&["snapshot", "create", "vm1", "cold", "--memory"]);
    assert!(said.contains("it is stopped and has no memory to keep"), "{said}");
    cloud.ok(&["rm", "vm1"]);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    assert_eq!(cloud.ok(&["snapshot", "ls", "-o", "name"]), "");
    end(cloud);
}

#[test]
fn a_machine_sleeps_on_disk_and_wakes_where_it_was() {
    if !common::real_vms("hibernation") {
        return;
    }
    let cloud = with_machine();
    let first = inside(&cloud, "vm1", BOOT).unwrap();
    inside(&cloud, "vm1", "echo here > /dev/shm/note").unwrap();
    cloud.ok(&["hibernate", "vm1"]);
    assert_eq!(cloud.state_of("vm1"), "hibernated");
    let (_, why) = cloud.fails(&["ssh", "vm1", "--", "true"]);
    assert!(why.contains("yun start vm1"), "{why}");
    let (_, why) = cloud.fails(&["restart", "vm1"]);
    assert!(why.contains("it is hibernated"), "{why}");
    // It sleeps through the end of the whole cloud.
    cloud.ok(&["down"]);
    cloud.up();
    cloud.until("it still sleeps", || cloud.state_of("vm1") == "hibernated");
    cloud.ok(&["start", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", "cat /dev/shm/note").unwrap(), "here\n");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), first);
    // The server dies while it falls asleep.
    let operation = cloud.ok(&["hibernate", "vm1", "--detach"]);
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.ok(&["operation", "wait", operation.trim()]), "succeeded\n");
    // Who stops it wants no memory of it.
    cloud.ok(&["stop", "vm1"]);
    assert_eq!(cloud.state_of("vm1"), "stopped");
    cloud.ok(&["start", "vm1"]);
    assert_ne!(inside(&cloud, "vm1", BOOT).unwrap(), first, "it booted");
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "one\n");
    cloud.ok(&["rm", "-f", "vm1"]);
    end(cloud);
}

#[test]
fn a_template_is_up_at_once_and_is_a_machine_of_its_own() {
    if !common::real_vms("templates") {
        return;
    }
    let cloud = with_machine();
    let key = "dropbearkey -y -f /etc/dropbear/host_key | grep ssh-";
    let (first, first_key) = (inside(&cloud, "vm1", BOOT).unwrap(), inside(&cloud, "vm1", key).unwrap());
    cloud.until("its agent is there", || inside(&cloud, "vm1", "pidof qemu-ga").is_ok());
    cloud.ok(&["snapshot", "create", "vm1", "warm", "--memory"]);
    let said = cloud.ok(&["launch", "--template", "vm1/warm", "vm2"]);
    assert!(said.starts_with("vm vm2 running at 10."), "{said}");
    let begun = Instant::now();
    assert!(inside(&cloud, "vm2", "uname -n").unwrap().starts_with("vm2"));
    eprintln!("SSH in the machine made from a template: {:?} after the launch", begun.elapsed());
    let (one, two) = (cloud.show("vm1"), cloud.show("vm2"));
    assert_ne!(one["status"]["address"], two["status"]["address"]);
    let links = inside(&cloud, "vm2", "ip addr").unwrap();
    for (field, machine) in [("address", &two), ("mac", &two)] {
        assert!(links.contains(machine["status"][field].as_str().unwrap()), "{field}: {links}");
    }
    assert!(!links.contains(one["status"]["address"].as_str().unwrap()), "{links}");
    assert_eq!(inside(&cloud, "vm2", BOOT).unwrap(), first, "it did not boot");
    assert_ne!(inside(&cloud, "vm2", key).unwrap(), first_key, "keys of its own");
    // Each has its own disk, and neither needs the other.
    inside(&cloud, "vm2", "echo two > /root/file && sync").unwrap();
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "one\n");
    cloud.ok(&["rm", "-f", "vm1"]);
    cloud.ok(&["restart", "vm2"]);
    assert_eq!(inside(&cloud, "vm2", "cat /root/file").unwrap(), "two\n");

    let (_, said) = cloud.fails(&["launch", "--template", "vm2/warm", "vm3"]);
    assert!(said.contains("vm2 has no snapshot warm"), "{said}");
    cloud.ok(&["snapshot", "create", "vm2", "cold"]);
    let (_, said) = cloud.fails(&["launch", "--template", "cold", "vm3", "--size", "cpu:0.5,memory:192Mi,disk:64Mi"]);
    assert!(said.contains("has a disk of 256 MiB"), "{said}");
    cloud.ok(&["launch", "--template", "cold", "vm3", "--size", SIZE]);
    assert_eq!(inside(&cloud, "vm3", "uname -n; cat /root/file").unwrap(), "vm3\ntwo\n");
    assert_ne!(inside(&cloud, "vm3", key).unwrap(), inside(&cloud, "vm2", key).unwrap());
    cloud.ok(&["rm", "-f", "vm2", "vm3"]);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    end(cloud);
}

#[test]
fn what_is_plugged_in_is_there_again_and_a_twin_has_its_own() {
    if !common::real_vms("snapshots of machines with disks and networks") {
        return;
    }
    let cloud = Cloud::start();
    cloud.ok(&["image", "build", "small-vm", "small"]);
    cloud.ok(&["network", "create", "back"]);
    cloud.ok(&["volume", "create", "data", "--kind", "block", "--size", "64M"]);
    cloud.ok(&[
        "launch",
        "small",
        "vm1",
        "--size",
        SIZE,
        "--network",
        "default",
        "--network",
        "back",
        "--volume",
        "data",
    ]);
    let first = inside(&cloud, "vm1", BOOT).unwrap();
    let disk = "dev=$(grep -l data /sys/block/vd*/serial | cut -d/ -f4)";
    inside(&cloud, "vm1", &format!("{disk}; echo kept | dd of=/dev/$dev conv=fsync 2>/dev/null")).unwrap();
    let read = format!("{disk}; head -c 4 /dev/$dev");
    has_its_places(&cloud, "vm1");

    // Asleep, nothing of it can be taken away; awake, all of it is there.
    cloud.ok(&["hibernate", "vm1"]);
    for words in [["volume", "detach", "data", "vm1"], ["network", "detach", "back", "vm1"]] {
        let (_, why) = cloud.fails(&words);
        assert!(why.contains("it is hibernated") && why.contains("yun start vm1"), "{why}");
    }
    cloud.ok(&["start", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", &read).unwrap(), "kept");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), first, "the same boot");
    has_its_places(&cloud, "vm1");

    // A memory would be wrong about a volume that went on without it.
    let (_, why) = cloud.fails(&["snapshot", "create", "vm1", "warm", "--memory"]);
    assert!(why.contains("volume data is attached") && why.contains("yun volume detach data vm1"), "{why}");
    let said = cloud.ok(&["snapshot", "create", "vm1", "disk"]);
    assert!(said.contains("volume data is not in it"), "{said}");
    cloud.ok(&["volume", "detach", "data", "vm1"]);
    cloud.ok(&["snapshot", "create", "vm1", "warm", "--memory"]);
    cloud.ok(&["volume", "attach", "data", "vm1"]);
    cloud.ok(&["snapshot", "restore", "vm1/warm"]);
    cloud.until("the volume is plugged in again", || inside(&cloud, "vm1", &read).is_ok_and(|read| read == "kept"));
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), first, "the same boot");

    cloud.ok(&["launch", "--template", "vm1/warm", "vm2"]);
    assert_eq!(inside(&cloud, "vm2", BOOT).unwrap(), first, "it did not boot");
    has_its_places(&cloud, "vm2");
    let (one, two) = (places(&cloud, "vm1"), places(&cloud, "vm2"));
    assert!(two.iter().all(|place| !one.contains(place)), "{one:?} {two:?}");
    let (_, why) = cloud.fails(&["launch", "--template", "vm1/warm", "vm3", "--network", "back"]);
    assert!(why.contains("needs 2 networks, and 1 were asked for"), "{why}");
    cloud.ok(&["network", "detach", "back", "vm1"]);
    let (_, why) = cloud.fails(&["snapshot", "restore", "vm1/warm"]);
    assert!(why.contains("it was in 2 networks then (default, back)") && why.contains("--disk-only"), "{why}");
    // Of another hardware address since: the guest is told.
    cloud.ok(&["network", "attach", "back", "vm1"]);
    cloud.ok(&["snapshot", "restore", "vm1/warm"]);
    has_its_places(&cloud, "vm1");
    cloud.ok(&["rm", "-f", "vm1", "vm2"]);
    end(cloud);
}

/// The hardware addresses and addresses that a machine was given.
fn places(cloud: &Cloud, name: &str) -> Vec<(String, String)> {
    let shown = cloud.show(name);
    let interfaces = shown["status"]["interfaces"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    interfaces.map(|interface| (text(&interface["mac"]), text(&interface["address"]))).collect()
}

/// The guest has exactly the interfaces that it was given.
fn has_its_places(cloud: &Cloud, name: &str) {
    let wanted = places(cloud, name);
    assert_eq!(wanted.len(), 2);
    cloud.until("it has its places", || {
        let Ok(links) = inside(cloud, name, "ip addr") else { return false };
        let all =
            wanted.iter().all(|(mac, address)| links.contains(mac) && links.contains(&format!("inet {address}/")));
        all && links.matches("inet 10.").count() == wanted.len()
    });
}

#[test]
fn a_qemu_that_hangs_is_told_of_in_bounded_time() {
    if !common::real_vms("a QEMU that hangs") {
        return;
    }
    let cloud = with_machine();
    let pid = qemu(&cloud).unwrap();
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    for words in [["snapshot", "create", "vm1", "x"].as_slice(), &["hibernate", "vm1"]] {
        let begun = Instant::now();
        let (_, said) = cloud.fails(words);
        assert!(said.contains("QEMU did not answer") || said.contains("QEMU"), "{words:?}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{words:?} took {:?}", begun.elapsed());
    }
    signal(nix::sys::signal::Signal::SIGCONT);
    // The wish to hibernate stands: it is carried out now.
    cloud.until("it sleeps after all", || cloud.state_of("vm1") == "hibernated");
    cloud.ok(&["start", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "one\n");
    signal_gone(pid);
    cloud.ok(&["rm", "-f", "vm1"]);
    end(cloud);
}

fn signal_gone(pid: i32) {
    assert!(!common::alive(pid), "the QEMU that hung has ended");
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
