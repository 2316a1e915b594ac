//! Machines that are cloned and that change while they run, at the command line of the real program.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{
    Cloud,
    machine::{BOOT, end, inside, with_machine},
    text,
};

#[test]
fn a_clone_has_the_disk_and_nothing_else_of_the_other_one() {
    if !common::real_vms("clones of machines") {
        return;
    }
    let cloud = with_machine();
    let key = "dropbearkey -y -f /etc/dropbear/host_key | grep ssh-";
    let (boot, first_key) = (inside(&cloud, "vm1", BOOT).unwrap(), inside(&cloud, "vm1", key).unwrap());
    // While it runs, and while the server dies in the middle.
    let operation = cloud.ok(&["clone", "vm1", "vm2", "--size", "memory:224Mi", "--detach"]);
    cloud.kill();
    cloud.up();
    assert_eq!(cloud.ok(&["operation", "wait", operation.trim()]), "succeeded\n");
    assert_eq!(inside(&cloud, "vm2", "uname -n; cat /root/file").unwrap(), "vm2\none\n");
    assert_ne!(inside(&cloud, "vm2", key).unwrap(), first_key, "keys of its own");
    let (one, two) = (cloud.show("vm1"), cloud.show("vm2"));
    assert_ne!(one["status"]["address"], two["status"]["address"]);
    assert_eq!(two["spec"]["size"]["memory"], "224Mi");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), boot, "it goes on");
    assert_eq!(kept(&cloud, "vm1"), "", "nothing is left of the copying");
    // While it does not run; and neither needs the other.
    inside(&cloud, "vm2", "echo two > /root/file && sync").unwrap();
    cloud.ok(&["stop", "vm2"]);
    let said = cloud.ok(&["clone", "vm2", "vm3"]);
    assert!(said.starts_with("vm vm3 running at 10."), "{said}");
    cloud.ok(&["rm", "-f", "vm2"]);
    assert_eq!(inside(&cloud, "vm3", "cat /root/file").unwrap(), "two\n");
    assert_eq!(inside(&cloud, "vm1", "cat /root/file").unwrap(), "one\n");

    for (words, why) in [
        (vec!["clone", "none", "x"], "instance none does not exist"),
        (vec!["clone", "vm1", "vm3"], "instance vm3 exists in project default already"),
        (vec!["clone", "vm1", "Bad"], "Bad"),
        (vec!["clone", "vm1", "x", "--size", "disk:64Mi"], "has a disk of 256 MiB"),
        (vec!["clone", "vm1", "x", "--size", "memory:much"], "memory"),
        (vec!["clone", "vm1", "x", "--network", "none"], "network none does not exist"),
    ] {
        let (_, said) = cloud.fails(&words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    cloud.ok(&["rm", "-f", "vm1", "vm3"]);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    end(cloud);
}

/// The snapshots inside of a machine's disk.
fn kept(cloud: &Cloud, name: &str) -> String {
    let id = cloud.show(name)["metadata"]["id"].as_str().unwrap().to_owned();
    let disk = cloud.root().join("var/lib/yun/instances").join(id).join("disk.qcow2");
    let output = std::process::Command::new("qemu-img").args(["snapshot", "-U", "-l"]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_machine_takes_on_another_size_while_it_runs() {
    if !common::real_vms("another size for machines that run") {
        return;
    }
    let cloud = with_machine();
    let boot = inside(&cloud, "vm1", BOOT).unwrap();
    cloud.until("its agent is there", || inside(&cloud, "vm1", "pidof qemu-ga").is_ok());
    let memory = |what: &str| -> u64 {
        let text = inside(&cloud, "vm1", &format!("awk '/{what}/ {{print $2}}' /proc/meminfo")).unwrap();
        text.trim().parse::<u64>().unwrap() >> 10
    };
    let total = || memory("MemTotal");
    let before = total();
    cloud.ok(&["set", "vm1", "--size", "cpu:2,memory:320Mi,disk:384Mi"]);
    assert!(total() >= before + 100, "{before} MiB grew to {} MiB", total());
    assert_eq!(inside(&cloud, "vm1", "nproc").unwrap(), "2\n");
    cloud.until("its file system is larger", || {
        let size = inside(&cloud, "vm1", "df -m / | awk 'END {print $2}'").unwrap();
        size.trim().parse::<u64>().unwrap() > 300
    });
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), boot, "without a restart");
    let shown = cloud.show("vm1");
    assert!(shown["status"]["reason"].is_null(), "{}", shown["status"]);

    // With all of that it sleeps and wakes.
    cloud.ok(&["hibernate", "vm1"]);
    let (_, why) = cloud.fails(&["set", "vm1", "--size", "memory:256Mi"]);
    assert!(why.contains("it is hibernated"), "{why}");
    cloud.ok(&["start", "vm1"]);
    assert_eq!(inside(&cloud, "vm1", "nproc").unwrap(), "2\n");
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), boot, "the same boot");
    assert!(total() >= before + 100);

    // And less again, below what it began with.
    cloud.ok(&["set", "vm1", "--size", "cpu:1,memory:192Mi"]);
    assert!(total() < before + 32, "{} MiB", total());
    let free = memory("MemAvailable");
    cloud.ok(&["set", "vm1", "--size", "memory:168Mi"]);
    // What a balloon holds is still the guest's on paper.
    assert!(memory("MemAvailable") + 12 < free, "{free} MiB shrank to {} MiB", memory("MemAvailable"));
    assert!(cloud.show("vm1")["status"]["reason"].is_null(), "{}", cloud.show("vm1")["status"]);
    assert_eq!(inside(&cloud, "vm1", BOOT).unwrap(), boot, "without a restart");

    let (_, why) = cloud.fails(&["set", "vm1", "--size", "disk:128Mi"]);
    assert!(why.contains("cannot make the disk of instance vm1 smaller"), "{why}");
    let (_, why) = cloud.fails(&["set", "vm1", "--size", "memory:900G"]);
    assert!(why.contains("more memory than "), "{why}");
    cloud.ok(&["rm", "-f", "vm1"]);
    end(cloud);
}

#[test]
fn programs_and_files_go_into_a_machine_by_its_agent() {
    if !common::real_vms("programs and files in machines") {
        return;
    }
    let cloud = with_machine();
    cloud.until("its agent is there", || cloud.run(&["exec", "vm1", "--", "true"]).status.success());
    assert_eq!(cloud.ok(&["exec", "vm1", "--", "cat", "/root/file"]), "one\n");
    assert_eq!(
        cloud.ok(&["exec", "--env", "WORD=a b", "--workdir", "/etc", "vm1", "--", "sh", "-c", "pwd; echo $WORD"]),
        "/etc\na b\n"
    );
    let output = cloud.run(&["exec", "vm1", "--", "sh", "-c", "echo bad >&2; exit 7"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(7), "bad\n".to_owned()));
    // A tree goes in and comes out, with odd names and what is in it.
    let (tree, back) = (cloud.root().join("tree"), cloud.root().join("back"));
    std::fs::create_dir_all(tree.join("deep")).unwrap();
    std::fs::create_dir_all(&back).unwrap();
    let content: Vec<u8> = (0..700_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    std::fs::write(tree.join("deep/odd name"), &content).unwrap();
    let (from, to) = (tree.display().to_string(), back.display().to_string());
    cloud.ok(&["cp", &from, "vm1:/srv"]);
    assert_eq!(
        cloud.ok(&["exec", "vm1", "--", "wc", "-c", "/srv/tree/deep/odd name"]),
        "700000 /srv/tree/deep/odd name\n"
    );
    cloud.ok(&["cp", &from, "vm1:/srv/copy"]);
    assert_eq!(
        cloud.ok(&["exec", "vm1", "--", "wc", "-c", "/srv/copy/deep/odd name"]),
        "700000 /srv/copy/deep/odd name\n"
    );
    cloud.ok(&["cp", "vm1:/srv/tree", &to]);
    assert_eq!(std::fs::read(back.join("tree/deep/odd name")).unwrap(), content);
    assert_eq!(cloud.ok(&["exec", "vm1", "--", "sh", "-c", "ls -A /tmp | grep -c yun- || true"]), "0\n");

    for (words, why) in [
        (vec!["exec", "-t", "vm1", "--", "sh"], "its agent gives no terminal: use yun ssh vm1"),
        (vec!["exec", "--user", "yun", "vm1", "--", "id"], "use yun ssh --user yun vm1"),
        (vec!["exec", "vm1", "--", "no-such-program"], "no-such-program"),
        (vec!["cp", "vm1:/none", &to], "/none is not there"),
        (vec!["cp", &from, "vm1:/none/deeper/x"], "/none/deeper is not there"),
    ] {
        let (_, said) = cloud.fails(&words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    inside(&cloud, "vm1", "killall -STOP qemu-ga").unwrap();
    let (_, said) = cloud.fails(&["exec", "vm1", "--", "true"]);
    assert!(said.contains("no guest agent answers in it") && said.contains("yun ssh vm1"), "{said}");
    cloud.ok(&["stop", "vm1", "--timeout", "0"]);
    let (_, said) = cloud.fails(&["exec", "vm1", "--", "true"]);
    assert!(said.contains("yun start vm1"), "{said}");
    cloud.ok(&["rm", "vm1"]);
    end(cloud);
}
