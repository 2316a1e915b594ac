//! What a container's process finds: who it is, what it may do, what is mounted; and orders that cannot work.

use crate::world::*;
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};
use yun_drivers::{Attachment, ErrorKind, InstanceDriver, Port};
use yun_types::{Bytes, DesiredInstance, InstanceKind, Mount};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_who_it_should_be() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("id; pwd; echo $A-$B-$HOME-$HOSTNAME; hostname; echo to stdout > /dev/stdout");
    let options = &mut order.spec.container;
    (options.user, options.workdir) = (Some("web".into()), Some("/srv/data".into()));
    options.env = BTreeMap::from([("A".into(), "1=2".into()), ("B".into(), "two words".into())]);
    let (exit, log) = world.finish(&order).await;
    assert_eq!(exit.code, 0, "{log}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "uid=33(web) gid=34(web) groups=34(web),50(logs)");
    assert_eq!(lines[1..], ["/srv/data", "1=2-two words-/srv/data-web", "web", "to stdout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_is_made() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("pwd");
    order.spec.container.workdir = Some("/new/place".into());
    let (exit, log) = world.finish(&order).await;
    assert_eq!((exit.code, log.as_str()), (0, "/new/place\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_cannot_reach_out() {
    let Some(world) = World::new() else { return };
    let script = "
        head -c 1 /proc/kcore | wc -c
        grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status
        touch /proc/sys/kernel/hostname 2>&1; echo x > /proc/sys/kernel/hostname
        mount -t tmpfs none /srv && echo MOUNTED
        ls /dev | grep -c -E 'sd|vd|mem|kmsg'
        ls /proc | grep -c '^[0-9]'
        busybox unshare -U true && echo UNSHARED
        cat /proc/self/cgroup | grep -c yun
        ls /sys/firmware | wc -l
        echo done";
    let order = world.order(script);
    let (_, log) = world.finish(&order).await;
    let has = |line: &str| assert!(log.lines().any(|l| l == line), "{line:?} in {log}");
    has("0");
    has("NoNewPrivs:\t1");
    has("Seccomp:\t2");
    has("CapBnd:\t00000000a80425fb");
    has("done");
    assert!(!log.contains("MOUNTED") && !log.contains("UNSHARED"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_networks_are_its_own() {
    let Some(world) = World::new() else { return };
    let order = world.order("cat /etc/hosts /etc/hostname /etc/resolv.conf; busybox ip -o link; echo x >> /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let attachment = Attachment {
        instance: order.id,
        network: order.nic.network,
        nic: order.nic.clone(),
        cidr: "10.77.3.0/24".parse().unwrap(),
        gateway: "10.77.3.1".parse().unwrap(),
        mtu: 1450,
        // No namespace to join: it gets one with nothing in it.
        port: Port::Tap { interface: "none".into() },
    };
    let handle = world.driver.prepare(&order, &world.image(), Some(&attachment)).await.unwrap();
    let handle = world.driver.start(&handle).await.unwrap();
    assert_eq!(within(world.driver.wait(&handle)).await.unwrap().unwrap().code, 0);
    let log = world.log(order.id).await;
    assert!(log.contains("10.77.3.9\tweb.shop.yun web\n"), "{log}");
    assert!(log.contains("\nweb\nnameserver 10.77.3.1\nsearch shop.yun\n"), "{log}");
    assert_eq!(log.matches("link/").count(), 1, "only a loopback interface of its own: {log}");
    assert!(log.ends_with("\n0\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_as_ordered() {
    let Some(world) = World::new() else { return };
    let shared = world.root().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("there"), "from outside\n").unwrap();
    let source = shared.display().to_string();
    let mut order = world.order("cat /in/there; touch /in/no 2>&1; echo from inside > /out/new; grep ' /cache ' /proc/mounts; touch /cache/x && echo cached");
    order.spec.container.mounts = vec![
        Mount::Bind { source: source.clone(), target: "/in".into(), read_only: true },
        Mount::Bind { source, target: "/out".into(), read_only: false },
        Mount::Tmpfs { target: "/cache".into(), size: Some(Bytes::mib(1)) },
    ];
    let (exit, log) = world.finish(&order).await;
    assert_eq!(exit.code, 0, "{log}");
    assert!(
        log.contains("from outside")
            && log.contains("Read-only")
            && log.contains("size=1024k")
            && log.ends_with("cached\n"),
        "{log}"
    );
    assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "from inside\n");
    world.driver.remove(order.id).await.unwrap();
    assert!(shared.join("there").exists(), "what is mounted is not the container's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_writes_outlive_a_stop_and_never_reach_the_image() {
    let Some(world) = World::new() else { return };
    let order = world.order("cat /srv/count 2>/dev/null; echo x >> /srv/count; busybox rm -f /bin/orphan");
    let first = world.finish(&order).await;
    let second = world.finish(&order).await;
    assert_eq!((first.1.as_str(), second.1.as_str()), ("", "x\n"));
    for directory in [world.host.instance_dir(order.id), world.host.instance_run(order.id)] {
        let mode = fs::metadata(directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "users of the host must not reach its programs");
    }
    let layer = &world.image().layers[0];
    assert!(!layer.join("srv/count").exists() && layer.join("bin/orphan").exists());
}

/// Each order, and the reason and the words of its refusal.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_cannot_work_are_refused_with_a_way_out() {
    let Some(world) = World::new() else { return };
    type Change = fn(&mut DesiredInstance);
    let cases: &[(Change, &str, &[&str])] = &[
        (
            |o| o.spec.container.command = Some(vec!["serve".into()]),
            "EntrypointNotFound",
            &["\"serve\"", "busybox", "/usr/bin", "container.command"],
        ),
        (
            |o| o.spec.container.entrypoint = Some(vec!["/no/such".into()]),
            "EntrypointNotFound",
            &["\"/no/such\"", "container.entrypoint"],
        ),
        (
            |o| o.spec.container.command = Some(vec!["orphan".into()]),
            "EntrypointNotFound",
            &["/bin/orphan", "/usr/bin/perl"],
        ),
        (
            |o| o.spec.container.command = Some(vec!["/etc/passwd".into()]),
            "PermissionDenied",
            &["/etc/passwd", "user 0"],
        ),
        (|o| o.spec.container.command = Some(vec![]), "EntrypointNotFound", &["names no program", "yun run"]),
        (|o| o.spec.container.user = Some("mysql".into()), "UserNotFound", &["\"mysql\"", "1000:1000"]),
        (|o| o.spec.container.user = Some("web:nope".into()), "UserNotFound", &["\"nope\""]),
        (|o| o.spec.container.stop_signal = Some("SIGNOPE".into()), "BadStopSignal", &["SIGNOPE", "SIGTERM"]),
        (|o| o.spec.container.workdir = Some("srv".into()), "BadWorkdir", &["\"srv\""]),
        (
            |o| {
                o.spec.container.mounts =
                    vec![Mount::Bind { source: "/no/such".into(), target: "/a".into(), read_only: true }]
            },
            "BadMount",
            &["/no/such", "\"/a\""],
        ),
        (
            |o| o.spec.container.mounts = vec![Mount::Tmpfs { target: "/a/../..".into(), size: None }],
            "BadMount",
            &["/a/../.."],
        ),
    ];
    for (change, reason, words) in cases {
        let mut order = world.order("true");
        change(&mut order);
        let error = world.driver.prepare(&order, &world.image(), None).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, *reason), "{error}");
        assert!(error.message.starts_with("cannot start instance web: "), "{error}");
        for word in *words {
            assert!(error.message.contains(word), "{word:?} in {error}");
        }
    }
    assert_eq!(world.image().kind, InstanceKind::Container);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_crun_can_find_out_has_a_reason_too() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("true");
    // With a mount anything may appear, so the driver does not judge.
    order.spec.container.mounts = vec![Mount::Tmpfs { target: "/opt".into(), size: None }];
    order.spec.container.command = Some(vec!["/opt/missing".into()]);
    let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
    let error = world.driver.start(&handle).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "EntrypointNotFound"), "{error}");
    assert_eq!(world.driver.recover(&handle).await.unwrap(), yun_drivers::Observed::Absent);
}
