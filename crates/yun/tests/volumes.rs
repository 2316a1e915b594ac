//! Volumes as their users see them: in containers and in VMs, plugged in at the start and while they run, and what is refused.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, launching, text};

const SLEEP: &[&str] = &["sleep", "100000"];

/// Runs a shell line in a container; what it printed, or what went wrong.
fn inside(cloud: &Cloud, name: &str, line: &str) -> Result<String, String> {
    let output = cloud.run(&["exec", name, "--", "sh", "-c", line]);
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn volume_files(cloud: &Cloud) -> Vec<String> {
    let entries = std::fs::read_dir(cloud.state().join("volumes")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn containers_share_a_volume_that_outlives_them() {
    if !common::real("volumes of containers") {
        return;
    }
    let cloud = Cloud::with_box();
    assert_eq!(cloud.ok(&["volume", "create", "data", "--size", "64M"]), "data\n");
    cloud.launch("web", &["--volume", "data:/var/data"], SLEEP);
    inside(&cloud, "web", "echo kept > /var/data/file").unwrap();
    cloud.launch("db", &["--volume", "data:/data:ro"], SLEEP);
    assert_eq!(inside(&cloud, "db", "cat /data/file").unwrap(), "kept\n");
    assert!(inside(&cloud, "db", "echo x > /data/no").unwrap_err().contains("Read-only"));

    // Plugged into one that runs, and pulled again.
    cloud.launch("late", &[], SLEEP);
    cloud.ok(&["volume", "attach", "data", "late:/srv/new/data"]);
    assert_eq!(inside(&cloud, "late", "cat /srv/new/data/file").unwrap(), "kept\n");
    let users = cloud.json(&["volume", "show", "data"])["status"]["users"].clone();
    assert_eq!(users.as_array().unwrap().len(), 3, "{users}");
    cloud.ok(&["volume", "detach", "data", "late"]);
    assert!(inside(&cloud, "late", "cat /srv/new/data/file").is_err());
    cloud.ok(&["volume", "attach", "data", "late:/srv/new/data", "--read-only"]);
    assert!(inside(&cloud, "late", "echo x > /srv/new/data/no").unwrap_err().contains("Read-only"));
    // A restart plugs it in as well.
    cloud.ok(&["restart", "-t", "0", "late"]);
    assert_eq!(inside(&cloud, "late", "cat /srv/new/data/file").unwrap(), "kept\n");

    let (_, why) = cloud.fails(&["volume", "rm", "data"]);
    assert!(why.contains("attached to db, late, web") && why.contains("yun volume detach data"), "{why}");
    cloud.ok(&["rm", "-f", "web", "db", "late"]);
    cloud.launch("next", &["--volume", "data:/d"], SLEEP);
    assert_eq!(inside(&cloud, "next", "cat /d/file").unwrap(), "kept\n");
    cloud.ok(&["rm", "-f", "next"]);
    cloud.ok(&["volume", "rm", "data"]);
    assert_eq!(volume_files(&cloud), Vec::<String>::new());
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn an_empty_volume_gets_what_the_image_has_and_an_anonymous_one_goes_with_its_container() {
    if !common::real("filled and anonymous volumes") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["volume", "create", "conf"]);
    cloud.launch("web", &["--volume", "conf:/etc", "--volume", "/cache"], SLEEP);
    assert!(inside(&cloud, "web", "cat /etc/passwd").unwrap().contains("root:x:0"));
    inside(&cloud, "web", "echo 1 > /cache/one; echo changed > /etc/passwd").unwrap();
    cloud.ok(&["restart", "-t", "0", "web"]);
    assert_eq!(inside(&cloud, "web", "cat /cache/one").unwrap(), "1\n", "it lives as long as the container");
    cloud.ok(&["rm", "-f", "web"]);
    assert_eq!(cloud.instance_files(), Vec::<String>::new());
    cloud.launch("next", &["--volume", "conf:/data"], SLEEP);
    assert_eq!(inside(&cloud, "next", "cat /data/passwd").unwrap(), "changed\n", "filled once only");
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    if !common::real("refusals about volumes") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["volume", "create", "data"]);
    cloud.ok(&["volume", "create", "disk", "--kind", "block", "--size", "8M"]);
    let refused = |words: &[&str], why: &str| {
        let (_, said) = cloud.fails(words);
        assert!(said.contains(why), "{words:?}: {said}");
    };
    refused(&["volume", "create", "data"], "exists already");
    refused(&["volume", "create", "huge", "--size", "900T"], "ask for at most");
    refused(&["volume", "create", "fast", "--iops", "5"], "--kind block");
    refused(&["volume", "create", "tiny", "--size", "1K"], "too small");
    refused(&["volume", "create", "away", "--node", "nowhere"], "nowhere does not exist");
    refused(&["volume", "show", "dat"], "did you mean data?");
    refused(&["volume", "resize", "data", "1M"], "smaller");
    refused(&launching("a", &["--volume", "dta:/x"], SLEEP), "did you mean data?");
    refused(&launching("a", &["--volume", "data"], SLEEP), "data:/path");
    refused(&launching("a", &["--volume", "disk:/x"], SLEEP), "a container needs a directory volume");
    refused(&launching("a", &["--volume", "data:/x", "--tmpfs", "/x"], SLEEP), "two mounts have the target /x");
    refused(&launching("a", &["--volume", "data:/x:rx"], SLEEP), "unknown option");
    // Another project's volume is as if it did not exist.
    cloud.ok(&["project", "create", "other"]);
    refused(&["-p", "other", "volume", "show", "data"], "volume data does not exist; list");
    refused(&["-p", "other", "volume", "rm", "data"], "volume data does not exist; list");
    assert_eq!(cloud.ok(&["-p", "other", "volume", "ls", "-o", "name"]), "");
    refused(&["volume", "detach", "data", "nobody"], "nobody does not exist");
}

#[test]
fn a_server_that_is_killed_while_volumes_come_and_go_converges() {
    if !common::real("volumes and a killed server") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["volume", "create", "data"]);
    cloud.launch("web", &[], SLEEP);
    let mounted = || inside(&cloud, "web", "grep -c ' /d ' /proc/mounts").is_ok();
    for round in 0..4 {
        for (words, there) in
            [(&["volume", "attach", "data", "web:/d"][..], true), (&["volume", "detach", "data", "web"], false)]
        {
            let mut asking = cloud.command(words).spawn().unwrap();
            // Somewhere in between: each round a little later.
            let begun = std::time::Instant::now();
            while begun.elapsed() < std::time::Duration::from_millis(10 * round) {
                std::thread::yield_now();
            }
            cloud.kill();
            let _ = asking.wait();
            cloud.up();
            let done = cloud.run(words);
            assert!(done.status.success() || text(&done.stderr).contains("ttached"), "{}", text(&done.stderr));
            cloud.until("it is as it was asked", || mounted() == there);
        }
    }
    cloud.ok(&["rm", "-f", "web"]);
    cloud.ok(&["volume", "rm", "data"]);
    assert_eq!(volume_files(&cloud), Vec::<String>::new());
    cloud.ok(&["down"]);
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[test]
fn disks_are_plugged_into_a_vm_that_runs_grow_and_are_pulled() {
    if !common::real_vms("disks of VMs") {
        return;
    }
    let cloud = Cloud::start();
    let ssh = |line: &str| {
        let output = cloud.run(&["ssh", "vm1", "--wait", "90", "--", line]);
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    cloud.ok(&["image", "build", "small-vm", "small"]);
    for name in ["one", "two"] {
        cloud.ok(&["volume", "create", name, "--kind", "block", "--size", "16Mi"]);
    }
    cloud.ok(&["launch", "small", "vm1", "--size", "cpu:0.5,memory:192Mi,disk:256Mi", "--volume", "one"]);
    let sectors = |serial: &str| {
        let line = format!(
            "for d in /sys/block/vd*; do [ \"$(cat $d/serial 2>/dev/null)\" = {serial} ] && cat $d/size; done; true"
        );
        ssh(&line).unwrap().trim().to_owned()
    };
    assert_eq!(sectors("one"), "32768", "there from the start");
    cloud.ok(&["volume", "attach", "two", "vm1"]);
    cloud.until("the guest sees it", || sectors("two") == "32768");
    let (_, why) = cloud.fails(&["volume", "rm", "two"]);
    assert!(why.contains("attached to vm1"), "{why}");
    cloud.ok(&["volume", "resize", "two", "32Mi"]);
    cloud.until("the guest sees its new size", || sectors("two") == "65536");
    cloud.ok(&["volume", "limit", "two", "--iops", "100", "--bps", "1M"]);
    cloud.kill();
    cloud.up();
    cloud.ok(&["volume", "detach", "two", "vm1"]);
    cloud.until("the guest has let go of it", || sectors("two").is_empty());
    assert_eq!(sectors("one"), "32768");
    cloud.ok(&["volume", "rm", "two"]);
    cloud.ok(&["rm", "-f", "vm1"]);
    cloud.ok(&["volume", "rm", "one"]);
    assert_eq!(volume_files(&cloud), Vec::<String>::new());
}
