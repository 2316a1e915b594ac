//! What a container of one project reaches of its host and of other projects: nothing. Each test tries.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, launching, text};
use std::{os::unix::fs::MetadataExt, process::Output};

/// A cloud with a container of busybox that sleeps.
fn with_prisoner(flags: &[&str]) -> Cloud {
    let cloud = Cloud::with_box();
    cloud.launch("prisoner", flags, &["sleep", "1000"]);
    cloud
}

fn inside(cloud: &Cloud, script: &str) -> Output {
    cloud.run(&["exec", "prisoner", "--", "sh", "-c", script])
}

/// Runs a script inside, which must succeed; what it printed.
#[track_caller]
fn says(cloud: &Cloud, script: &str) -> String {
    let output = inside(cloud, script);
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// Runs scripts inside, none of which may succeed.
#[track_caller]
fn none_works(cloud: &Cloud, scripts: &[&str]) {
    for script in scripts {
        let output = inside(cloud, script);
        assert!(!output.status.success(), "this works inside: {script}: {}", text(&output.stdout));
    }
}

/// The host's view of the main process.
fn main_pid(cloud: &Cloud) -> i32 {
    let id = cloud.show("prisoner")["metadata"]["id"].as_str().unwrap().to_owned();
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let cloud_id = std::fs::read_to_string(cloud.state().join("cloud-id")).unwrap().trim().replace('-', "");
    let group = format!("yun-{}/{id}/cgroup.procs", &cloud_id[24..]);
    let mut files =
        groups.map(|hierarchy| hierarchy.path().join(&group)).chain([format!("/sys/fs/cgroup/{group}").into()]);
    let pids = files.find_map(|file| std::fs::read_to_string(file).ok().filter(|text| !text.is_empty())).unwrap();
    pids.lines().next().unwrap().parse().unwrap()
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

#[test]
fn root_inside_is_nobody_outside() {
    if !common::real("user namespaces") {
        return;
    }
    let cloud = with_prisoner(&[]);
    assert_eq!(says(&cloud, "id -u"), "0");
    let pid = main_pid(&cloud);
    let uid: u32 = status(pid, "Uid:").split_whitespace().next().unwrap().parse().unwrap();
    assert!(uid >= 0x7000_0000, "root inside is {uid} outside");
    assert_eq!(status(pid, "NoNewPrivs:"), "1");
    assert_eq!(status(pid, "Seccomp:"), "2");
    // When the host has no memory left, it is ended before the server.
    let goes = |pid: i32| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert!(goes(pid) >= goes(cloud.pid()) + 300);
    // The image's files are its own, and what it writes belongs to ordinary users on disk.
    assert_eq!(says(&cloud, "echo x > /root/f; chown nobody /root/f; stat -c %u /bin/busybox /root/f"), "0\n65534");
    let id = cloud.show("prisoner")["metadata"]["id"].as_str().unwrap().to_owned();
    let file = cloud.state().join("instances").join(id).join("upper/root/f");
    assert_eq!(std::fs::metadata(file).unwrap().uid(), 65_534);
    // Two containers share no user.
    cloud.launch("other", &[], &["sleep", "1000"]);
    let maps = |name| text(&cloud.run(&["exec", name, "--", "cat", "/proc/self/uid_map"]).stdout);
    assert_ne!(maps("prisoner"), maps("other"));
    // It stays so over restarts, of the container and of the server.
    let before = maps("prisoner");
    cloud.kill();
    cloud.up();
    cloud.ok(&["restart", "-t", "0", "prisoner"]);
    assert_eq!(maps("prisoner"), before);
    assert_eq!(says(&cloud, "cat /root/f"), "x");
}

#[test]
fn the_host_is_out_of_reach() {
    if !common::real("isolation from the host") {
        return;
    }
    let cloud = with_prisoner(&[]);
    none_works(
        &cloud,
        &[
            // The kernel's log, memory and modules.
            "dmesg",
            "cat /proc/kcore | head -c 1 | grep .",
            "cat /dev/mem",
            "insmod /bin/busybox",
            "echo b > /proc/sysrq-trigger",
            "echo core > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/vm/drop_caches",
            "hostname elsewhere",
            "date -s 2020-01-01; date +%Y | grep 2020",
            "reboot -f",
            "swapoff -a || swapon /etc/passwd",
            // Devices, mounts and namespaces.
            "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
            "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg",
            "mount -t tmpfs x /tmp",
            "mount -t proc x /tmp",
            "mount -o remount,rw /sys",
            "mount -o remount,rw /proc/sys",
            "umount /proc/sys",
            "unshare -m true",
            "unshare -r true",
            "nsenter -t 1 -m true",
            "chroot /proc/1/root/../../.. test -e /etc/os-release",
            "losetup -f /etc/passwd",
            // Control groups: its own limits, and the release agent.
            "f=/sys/fs/cgroup/memory/memory.limit_in_bytes; [ -e $f ] || f=/sys/fs/cgroup/memory.max; echo 1073741824 > $f",
            "d=/sys/fs/cgroup/memory; [ -d $d ] || d=/sys/fs/cgroup; mkdir $d/x",
            "for f in $(find /sys/fs/cgroup -name release_agent); do echo /bin/sh > $f && exit 0; done; exit 1",
            "find /sys/fs/cgroup -name 'yun-*' | grep .",
            "echo 1 > /sys/kernel/mm/ksm/run",
            "cat /sys/firmware/* /sys/kernel/debug/* /sys/kernel/tracing/trace",
            // The network is not its own to change.
            "ip link set eth0 address 02:00:00:00:00:99",
            "ip route add 192.0.2.0/24 dev eth0",
        ],
    );
    // No process of the host is seen, nor any device but the harmless ones.
    let seen: Vec<String> = says(&cloud, "ps -o args").lines().skip(1).map(str::to_owned).collect();
    assert!(seen.iter().all(|line| ["sleep", "ps", "sh"].iter().any(|own| line.contains(own))), "{seen:?}");
    let devices = says(&cloud, "find /dev -type b; find /dev -type c -not -path '/dev/pts/*' | sort");
    assert_eq!(devices, "/dev/full\n/dev/null\n/dev/random\n/dev/tty\n/dev/urandom\n/dev/zero");
    // No socket of the cloud, and no file of it but its own.
    assert_eq!(says(&cloud, "find / -xdev -type s"), "");
    let mounts = says(&cloud, "cat /proc/self/mountinfo");
    assert!(!mounts.contains("state/") && !mounts.contains("ledger"), "{mounts}");
    // What it held before the attempts, it holds after them.
    assert_eq!(cloud.state_of("prisoner"), "running");
}

#[test]
fn the_api_answers_nobody_without_a_token() {
    if !common::real("the API from inside") {
        return;
    }
    let cloud = with_prisoner(&[]);
    let status: serde_json::Value = serde_json::from_str(&cloud.ok(&["status", "-o", "json"])).unwrap();
    let address = status["api"].as_str().or(status["address"].as_str()).unwrap_or_default().to_owned();
    let port = address.rsplit(':').next().unwrap_or_default().trim_end_matches('/').to_owned();
    let gateway = cloud.json(&["network", "ls"])[0]["spec"]["cidr"].as_str().unwrap().replace(".0/24", ".1");
    for host in ["127.0.0.1", gateway.as_str()] {
        let script = format!("timeout 5 wget --no-check-certificate -q -O - https://{host}:{port}/v1/instances");
        assert!(!inside(&cloud, &script).status.success(), "the API answers at {host}");
    }
    // With a made-up token no more than without one.
    assert!(!cloud.as_token("yun_made_up", &["ls"]).status.success());
}

#[test]
fn other_projects_are_out_of_reach() {
    if !common::real("isolation between projects") {
        return;
    }
    let cloud = with_prisoner(&[]);
    cloud.ok(&["project", "create", "b"]);
    cloud.ok(&["-p", "b", "image", "import", "box", &cloud.root().join("box.tar").to_string_lossy(), "--", "sh"]);
    let serve = ["sh", "-c", "echo secret > /secret; while :; do echo secret | nc -l -p 80; done"];
    cloud.ok(&[&["-p", "b"][..], &launching("safe", &[], &serve)].concat());
    let safe = cloud.json(&["-p", "b", "show", "safe"]);
    let address = safe["status"]["address"].as_str().unwrap();
    let gateway = cloud.json(&["-p", "b", "network", "ls"])[0]["spec"]["cidr"].as_str().unwrap().replace(".0/24", ".1");
    cloud.until("project b reaches itself", || {
        let script = format!("timeout 2 nc {address} 80 </dev/null");
        text(&cloud.run(&["-p", "b", "exec", "safe", "--", "sh", "-c", &script]).stdout).contains("secret")
    });
    none_works(
        &cloud,
        &[
            &format!("timeout 2 nc {address} 80 </dev/null | grep secret"),
            &format!("ping -c 1 -W 1 {address}"),
            &format!("ping -c 1 -W 1 {gateway}"),
            &format!("timeout 2 nslookup safe.b.yun {gateway}"),
            "timeout 2 nslookup safe.b.yun",
            "find / -xdev -name secret | grep .",
        ],
    );
    // A token of one project sees nothing of the other.
    let secret = cloud.json(&["token", "create", "only-a", "--role", "editor", "--in", "default"]);
    let secret = secret["secret"].as_str().unwrap();
    for words in
        [&["-p", "b", "ls"][..], &["-p", "b", "exec", "safe", "--", "cat", "/secret"], &["-p", "b", "logs", "safe"]]
    {
        assert!(!cloud.as_token(secret, words).status.success(), "{words:?}");
    }
    // Nor does it get more than its walls allow.
    for flags in [
        &["--privileged"][..],
        &["--security", "userns=off"],
        &["--security", "seccomp=unconfined"],
        &["--security", "masks=off"],
        &["--cap-add", "SYS_ADMIN"],
        &["-v", "/:/host"],
    ] {
        let refused = cloud.as_token(secret, &launching("worse", flags, &["sleep", "1"]));
        let why = text(&refused.stderr);
        assert!(!refused.status.success() && why.contains("only admins of the cloud"), "{flags:?}: {why}");
    }
}

#[test]
fn each_part_of_the_isolation_is_relaxed_by_its_name() {
    if !common::real("relaxed isolation") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("prisoner", &["--security", "userns=off", "--security", "no-new-privileges=off"], &["sleep", "1000"]);
    let pid = main_pid(&cloud);
    assert_eq!(status(pid, "Uid:").split_whitespace().next(), Some("0"));
    assert_eq!(status(pid, "NoNewPrivs:"), "0");
    none_works(&cloud, &["mount -t tmpfs x /tmp", "dmesg"]);
    cloud.ok(&["rm", "-f", "prisoner"]);
    cloud.launch(
        "prisoner",
        &["--cap-drop", "ALL", "--cap-add", "CHOWN", "--read-only", "--tmpfs", "/tmp"],
        &["sleep", "1000"],
    );
    assert_eq!(status(main_pid(&cloud), "CapBnd:"), "0000000000000001");
    none_works(&cloud, &["touch /x", "kill -0 1 && su nobody -c true"]);
    says(&cloud, "touch /tmp/x && chown nobody /tmp/x");
    cloud.ok(&["rm", "-f", "prisoner"]);
    cloud.launch("prisoner", &["--security", "seccomp=unconfined", "--cap-add", "SYS_ADMIN"], &["sleep", "1000"]);
    assert_eq!(status(main_pid(&cloud), "Seccomp:"), "0");
    says(&cloud, "mount -t tmpfs x /tmp && unshare -m true");
    cloud.ok(&["rm", "-f", "prisoner"]);
    cloud.launch("prisoner", &["--privileged"], &["sleep", "1000"]);
    says(&cloud, "mknod /tmp/kmsg c 1 11 && mount -t tmpfs x /root && cat /proc/timer_list >/dev/null");
    cloud.ok(&["rm", "-f", "prisoner"]);
    assert!(cloud.leftovers().iter().all(|found| !found.contains("/i/")), "{:?}", cloud.leftovers());
    for (flags, why) in [
        (&["--security", "apparmor=off"][..], "the parts are userns"),
        (&["--security", "userns=perhaps"], "userns=off"),
        (&["--cap-add", "FLY"], "capability \"FLY\" is unknown"),
        (&["--privileged", "--read-only"], "leave the other parts of security out"),
        (&["--cap-add", "CHOWN", "--cap-drop", "CHOWN"], "both added and dropped"),
    ] {
        let (_, said) = cloud.fails(&launching("bad", flags, &[]));
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}
