//! Containers as their users run them: health, limits, and an engine that hangs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, launching, text};

fn health(cloud: &Cloud, name: &str) -> String {
    cloud.show(name)["status"]["health"]["state"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn health_is_asked_told_and_acted_on() {
    if !common::real("health checks") {
        return;
    }
    let cloud = Cloud::with_box();
    let serve = ["sh", "-c", "mkdir -p /www; touch /www/ok; exec httpd -f -p 80 -h /www"];
    cloud.launch("web", &["--health-http", "80/ok", "--health-interval", "1s", "--health-retries", "2"], &serve);
    cloud.until("it is healthy", || health(&cloud, "web") == "healthy");
    assert!(cloud.ok(&["ls"]).contains("running (healthy)"));
    assert_eq!(cloud.show("web")["status"]["health"]["output"], "HTTP/1.1 200 OK");
    cloud.ok(&["exec", "web", "--", "rm", "/www/ok"]);
    cloud.until("it is unhealthy", || health(&cloud, "web") == "unhealthy");
    assert_eq!(cloud.show("web")["status"]["health"]["output"], "HTTP/1.1 404 Not Found");
    let events = cloud.ok(&["events", "--object", "web"]);
    assert!(events.contains("Healthy") && events.contains("Unhealthy"), "{events}");
    // Another question, without a restart.
    cloud.ok(&["set", "web", "--health-tcp", "80"]);
    cloud.until("it is healthy again", || health(&cloud, "web") == "healthy");
    assert_eq!(cloud.show("web")["status"]["restarts"], 0);
    cloud.ok(&["set", "web", "--no-health"]);
    cloud.until("nobody asks any more", || health(&cloud, "web") == "none");

    // Who is unhealthy is started again, if that is wanted.
    let flags = [
        "--health-cmd",
        "test ! -e /ill",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
        "--when-unhealthy",
        "restart",
    ];
    cloud.launch("frail", &flags, &["sh", "-c", "rm -f /ill; exec sleep 1000"]);
    cloud.until("it is healthy", || health(&cloud, "frail") == "healthy");
    cloud.ok(&["exec", "frail", "--", "touch", "/ill"]);
    cloud.until("it was started again and is well", || {
        let shown = cloud.show("frail");
        shown["status"]["restarts"].as_u64() >= Some(1) && shown["status"]["health"]["state"] == "healthy"
    });
    for (flags, why) in [
        (&["--health-http", "web"][..], "8080/healthz"),
        (&["--health-tcp", "80", "--health-cmd", "true"], "one health check"),
        (&["--health-timeout", "5s"], "give --health-cmd"),
        (&["--health-tcp", "80", "--health-interval", "10ms"], "at least 1s"),
        (&["--health-tcp", "80", "--health-interval", "soon"], "as in 30s"),
        (&["--health-tcp", "80", "--health-retries", "0"], "use 1 to 100"),
        (&["--health-tcp", "80", "--when-unhealthy", "pray"], "report or restart"),
    ] {
        let (_, said) = cloud.fails(&launching("bad", flags, &[]));
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}

#[test]
fn limits_change_while_it_runs() {
    if !common::real("live limits") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &["--pids", "20"], &["sleep", "1000"]);
    let pid = |cloud: &Cloud| text(&cloud.run(&["exec", "web", "--", "cat", "/proc/1/stat"]).stdout);
    let before = pid(&cloud).split(' ').nth(21).unwrap().to_owned();
    let limit = || {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        text(&cloud.run(&["exec", "web", "--", "sh", "-c", script]).stdout).trim().to_owned()
    };
    assert_eq!(limit(), (32_000_000 / 4096 * 4096).to_string());
    let said = cloud.ok(&["set", "web", "--size", "memory:48Mi", "--io", "write=1Mi"]);
    assert!(!said.contains("restart"), "{said}");
    cloud.until("it has more memory", || limit() == (48 << 20).to_string());
    assert_eq!(pid(&cloud).split(' ').nth(21).unwrap(), before, "it is the same process");
    let clock = std::time::Instant::now();
    let write = cloud.run(&["exec", "web", "--", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=4", "oflag=direct"]);
    assert!(write.status.success(), "{}", text(&write.stderr));
    assert!(clock.elapsed() >= std::time::Duration::from_secs(2), "4 MiB at 1 MiB a second took {:?}", clock.elapsed());
    // A fork bomb stops at its limit, and the rest goes on.
    let bomb = cloud.run(&["exec", "web", "--", "sh", "-c", "for i in $(seq 50); do sleep 5 & done; wait"]);
    assert!(text(&bomb.stderr).contains("fork"), "{}", text(&bomb.stderr));
    assert_eq!(cloud.state_of("web"), "running");
    for (flags, why) in [
        (&["--io", "write=1"][..], "at least 4Ki"),
        (&["--io", "speed=1M"], "the parts are read"),
        (&["--io", "read-iops=0"], "at least 1"),
        (&["--pids", "0"], "at least 1"),
    ] {
        let (_, said) = cloud.fails(&launching("bad", flags, &[]));
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}

#[test]
fn files_go_both_ways_and_links_lead_nowhere() {
    if !common::real("copying files") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch(
        "web",
        &["--env", "TIER=blue"],
        &["sh", "-c", "ln -s /etc/shadow /out; ln -s / /top; mkdir -p /srv; exec sleep 1000"],
    );
    let here = cloud.root().join("here");
    std::fs::create_dir_all(here.join("site/css")).unwrap();
    std::fs::write(here.join("site/index.html"), "hello").unwrap();
    std::fs::write(here.join("site/css/a b.css"), vec![7; 300_000]).unwrap();
    std::os::unix::fs::symlink("index.html", here.join("site/start")).unwrap();
    let at = |name: &str| here.join(name).to_string_lossy().into_owned();
    let inside = |script: &str| text(&cloud.run(&["exec", "web", "--", "sh", "-c", script]).stdout);
    cloud.until("its directory is made", || inside("ls -d /srv") == "/srv\n");
    cloud.ok(&["cp", &at("site"), "web:/srv"]);
    cloud.ok(&["cp", &at("site/index.html"), "web:/srv/renamed"]);
    let listed =
        inside("cat /srv/site/index.html /srv/renamed; readlink /srv/site/start; wc -c < '/srv/site/css/a b.css'");
    assert_eq!(listed, "hellohelloindex.html\n300000\n");
    assert_eq!(inside("stat -c %u:%g /srv/site"), "0:0\n", "the owner is the same number inside");
    inside("rm /srv/site/start; echo back > /srv/site/new; chown nobody /srv/site/new; chmod 640 /srv/site/new");
    cloud.ok(&["cp", "web:/srv/site", &at("copy")]);
    assert_eq!(std::fs::read_to_string(here.join("copy/new")).unwrap(), "back\n");
    assert!(!here.join("copy/start").exists() && here.join("copy/css/a b.css").exists());
    // A link that leads out leads nowhere: it is the container's own file, or none.
    let (_, why) = cloud.fails(&["cp", "web:/top/../../root/.ssh/none", &at("x")]);
    assert!(why.contains("is not in the container"), "{why}");
    cloud.ok(&["cp", "web:/out", &at("out")]);
    assert!(std::fs::symlink_metadata(here.join("out")).unwrap().is_symlink(), "a link is copied as a link");
    let listing = cloud.run(&["cp", "web:/top/etc", "-"]);
    assert!(listing.status.success() && !text(&listing.stdout).contains("root:$"), "the host's files are not there");
    // The kernel is asked for nothing with the rights of the server.
    for target in ["web:/proc", "web:/proc/version"] {
        let (_, why) = cloud.fails(&["cp", &at("site"), target]);
        assert!(why.contains("yun exec") || why.contains("is no directory"), "{target}: {why}");
    }
    let (_, why) = cloud.fails(&["cp", "web:/proc/version", &at("version")]);
    assert!(why.contains("yun exec INSTANCE -- cat /proc/version"), "{why}");
    cloud.ok(&["cp", &at("site/index.html"), "web:/top/inside"]);
    assert_eq!(inside("cat /inside"), "hello");
    assert!(!std::path::Path::new("/inside").exists());
    // Stopped, too.
    cloud.ok(&["stop", "-t", "0", "web"]);
    cloud.ok(&["cp", &at("site/index.html"), "web:/srv/while-stopped"]);
    cloud.ok(&["cp", "web:/srv/while-stopped", &at("again")]);
    cloud.ok(&["start", "web"]);
    cloud.until("it runs", || cloud.state_of("web") == "running");
    assert_eq!(inside("cat /srv/while-stopped"), "hello");
    for (words, why) in [
        (["cp", "web:/nope", "."], "/nope is not in the container"),
        (["cp", "web:etc", "."], "from the root"),
        (["cp", "/no/such/file", "web:/srv"], "cannot read /no/such/file"),
        (["cp", "a", "b"], "NAME:PATH"),
        (["cp", "web:/a", "web:/b"], "copy to this machine first"),
        (["cp", "webb:/a", "."], "did you mean web"),
    ] {
        let (_, said) = cloud.fails(&words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    let (_, said) = cloud.fails(&["cp", &at("site"), "web:/none/below"]);
    assert!(said.contains("/none/below is not in the container"), "{said}");
    let broken = cloud.fed(&["cp", "-", "web:/srv"], b"this is no archive");
    assert!(!broken.status.success());

    // The files as they are now make an image, and what it runs is the same.
    cloud.ok(&["commit", "web", "second"]);
    cloud.ok(&["launch", "second", "twin", "--size", "cpu:0.05,memory:32M,disk:10M"]);
    let twin = text(&cloud.run(&["exec", "twin", "--", "sh", "-c", "cat /srv/while-stopped; echo $TIER"]).stdout);
    assert_eq!(twin, "helloblue\n");
    let (_, said) = cloud.fails(&["commit", "web", "second"]);
    assert!(said.contains("second"), "{said}");
}

#[test]
fn a_whole_system_runs_inside() {
    if !common::real("system containers") {
        return;
    }
    let cloud = Cloud::with_box();
    let table =
        "::sysinit:/bin/mount -t tmpfs none /mnt\n::respawn:/bin/httpd -f -p 80 -h /www\n::shutdown:/bin/touch /down\n";
    let script = format!("mkdir -p /mnt; printf '{}' > /etc/inittab; exec init", table.replace('\n', "\\n"));
    cloud.launch("sys", &["--system"], &["sh", "-c", &script]);
    let inside = |script: &str| cloud.run(&["exec", "sys", "--", "sh", "-c", script]);
    cloud.until("its service runs", || text(&inside("ps -o args").stdout).contains("httpd"));
    assert!(inside("grep -q ' /mnt tmpfs' /proc/mounts && grep -q ' /run tmpfs' /proc/mounts").status.success());
    // A service that ends is started again, by the init inside.
    assert!(inside("killall httpd").status.success());
    cloud.until("it runs again", || text(&inside("ps -o args").stdout).contains("httpd"));
    assert_eq!(cloud.show("sys")["status"]["restarts"], 0);
    // It is root of its own walls only.
    for script in [
        "dmesg",
        "mknod /tmp/k c 1 11 && head -c 1 /tmp/k",
        "echo 1 > /proc/sys/vm/drop_caches",
        "date -s 2020-01-01; date +%Y | grep 2020",
    ] {
        assert!(!inside(script).status.success(), "{script} works inside");
    }
    cloud.ok(&["stop", "-t", "3", "sys"]);
    for (flags, why) in [
        (&["--system", "--security", "userns=off"][..], "leave userns=off out"),
        (&["--system", "--read-only"], "leave read_only out"),
    ] {
        let (_, said) = cloud.fails(&launching("bad", flags, &[]));
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}
