//! Every process of yun may be killed at any moment: the container goes on, and a later driver finds it.

use crate::world::*;
use futures::TryStreamExt;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};
use yun_drivers::{InstanceDriver, Observed};
use yun_engine::session::LogRequest;
use yun_linux::{
    container::{ContainerDriver, ContainerDriverOptions},
    host::Host,
};
use yun_types::{Exit, InstanceId};

fn kill_hard(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

async fn gone(pid: i32) {
    until("the process is gone", || async move {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
}

/// Linux 6.15 and later tell how a process ended that is nobody's child.
fn exits_of_strangers_are_known() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

fn expected(exit: Option<Exit>, code: i32) {
    let wanted = exits_of_strangers_are_known().then_some(code);
    assert_eq!(exit.map(|exit| exit.code), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_shim_is_not_the_containers() {
    let Some(world) = World::new() else { return };
    let handle = world.run("trap 'exit 21' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.01; done").await;
    world.said(handle.id, "tick 3").await;
    let (main, shim) = world.pids(handle.id);
    kill_hard(shim);
    gone(shim).await;
    // Nobody reads now; it goes on, into a pipe that it holds open itself.
    let counted = world.log(handle.id).await.lines().count();
    let fresh = world.fresh_driver();
    assert!(matches!(fresh.recover(&handle).await.unwrap(), Observed::Running { .. }));
    until("a new shim reads on", || async { world.log(handle.id).await.lines().count() > counted + 20 }).await;
    let (same, another) = world.pids(handle.id);
    assert!(same == main && another != shim, "{main} {same}, {shim} {another}");
    let log = world.log(handle.id).await;
    let numbers: Vec<u32> = log.lines().filter_map(|line| line.strip_prefix("tick ")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "not one line was lost: {log}");

    // Again, while somebody waits: the wait takes care of it.
    let wait = tokio::spawn({
        let (fresh, handle) = (fresh.clone(), handle.clone());
        async move { fresh.wait(&handle).await.unwrap() }
    });
    kill_hard(another);
    gone(another).await;
    until("there is a third shim", || async { world.pids(handle.id).1 != another }).await;
    assert!(!wait.is_finished());
    let exit = within(world.driver.stop(&handle, PATIENCE)).await.unwrap();
    expected(exit, 21);
    assert_eq!(within(wait).await.unwrap(), exit);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_a_shim_is_noticed() {
    let Some(world) = World::new() else { return };
    let handle = world.run("sleep 0.3; exit 5").await;
    let (main, shim) = world.pids(handle.id);
    kill_hard(shim);
    gone(main).await;
    let observed = world.fresh_driver().recover(&handle).await.unwrap();
    assert_eq!(observed, Observed::Ended { exit: None }, "nobody saw how it ended");
    world.driver.start(&handle).await.unwrap();
    assert_eq!(within(world.driver.wait(&handle)).await.unwrap().unwrap().code, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outlives_its_shim_too() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("tty; trap 'exit 8' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done");
    order.spec.container.tty = true;
    let handle = world.run_order(&order).await;
    world.said(order.id, "tick 2").await;
    assert!(world.log(order.id).await.starts_with("/dev/"), "it has a terminal");
    let (main, shim) = world.pids(order.id);
    kill_hard(shim);
    gone(shim).await;
    assert!(world.is_running(&handle).await);
    let counted = world.log(order.id).await.lines().count();
    until("a new shim reads the same terminal", || async { world.log(order.id).await.lines().count() > counted + 10 })
        .await;
    assert_eq!(world.pids(order.id).0, main);
    expected(within(world.driver.stop(&handle, PATIENCE)).await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_dies_before_its_report_leaves_a_container_that_is_found() {
    let Some(world) = World::new() else { return };
    let handle = world.run("trap 'exit 3' TERM; while :; do sleep 0.05; done").await;
    let (main, shim) = world.pids(handle.id);
    kill_hard(shim);
    gone(shim).await;
    // As if it had been killed between crun's answer and its own.
    fs::remove_file(world.run_file(handle.id, "running")).unwrap();
    assert!(matches!(world.fresh_driver().recover(&handle).await.unwrap(), Observed::Running { .. }));
    assert_eq!(world.pids(handle.id).0, main);
    expected(within(world.driver.stop(&handle, PATIENCE)).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_pid_is_never_taken_for_the_container() {
    let Some(world) = World::new() else { return };
    let handle = world.run("exec sleep 1000").await;
    let (main, shim) = world.pids(handle.id);
    kill_hard(shim);
    kill_hard(main);
    gone(main).await;
    // The pid of a process that lives and is not the container.
    let file = world.run_file(handle.id, "running");
    let text = fs::read_to_string(&file).unwrap().replacen(&main.to_string(), &std::process::id().to_string(), 1);
    fs::write(&file, text).unwrap();
    fs::write(world.run_file(handle.id, "pid"), std::process::id().to_string()).unwrap();
    assert_eq!(world.fresh_driver().recover(&handle).await.unwrap(), Observed::Ended { exit: None });
    world.driver.remove(handle.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_ends_it_without_an_exit() {
    let Some(world) = World::new() else { return };
    let handle = world.run("exec sleep 1000").await;
    let (main, shim) = world.pids(handle.id);
    kill_hard(shim);
    kill_hard(main);
    gone(main).await;
    let attempt = world.host.instance_dir(handle.id).join("attempt");
    let text = fs::read_to_string(&attempt).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&attempt, text.replace(boot.trim(), "another-boot")).unwrap();
    assert_eq!(world.fresh_driver().recover(&handle).await.unwrap(), Observed::Ended { exit: None });
    assert_eq!(within(world.driver.wait(&handle)).await.unwrap(), None);
    // The run directory is gone as well, as after a boot.
    fs::remove_dir_all(world.host.instance_run(handle.id)).unwrap();
    world.driver.start(&handle).await.unwrap();
    assert!(world.is_running(&handle).await);
}

const ROOT: &str = "YUN_TEST_CONTAINER_ROOT";
const ID: &str = "YUN_TEST_CONTAINER_ID";

/// Not a case of its own: the process that the next case kills.
#[tokio::test(flavor = "multi_thread")]
async fn as_a_driver_process() {
    let (Some(root), Ok(id)) = (std::env::var_os(ROOT), std::env::var(ID)) else { return };
    let id: InstanceId = id.parse().unwrap();
    let host = Host::open(root.as_ref()).unwrap();
    let driver = ContainerDriver::new(host, ContainerDriverOptions::default()).unwrap();
    let handle = yun_drivers::InstanceHandle {
        id,
        kind: yun_types::InstanceKind::Container,
        generation: yun_types::Generation(1),
        driver: serde_json::Value::Null,
    };
    driver.start(&handle).await.unwrap();
    println!("started");
    driver.wait(&handle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_driver_is_not_the_containers() {
    let Some(world) = World::new() else { return };
    let order = world.order("trap 'exit 33' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.01; done");
    let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::as_a_driver_process", "--nocapture"])
        .env(ROOT, world.root())
        .env(ID, order.id.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("started")), "the other process has started it");
    process.kill().unwrap();
    process.wait().unwrap();
    let (main, shim) = world.pids(order.id);
    assert!(matches!(world.driver.recover(&handle).await.unwrap(), Observed::Running { .. }));
    world.driver.start(&handle).await.unwrap();
    assert_eq!(world.pids(order.id), (main, shim), "neither was replaced");
    let counted = world.log(order.id).await.lines().count();
    until("it goes on", || async { world.log(order.id).await.lines().count() > counted + 10 }).await;
    let exit = within(world.driver.stop(&handle, PATIENCE)).await.unwrap().unwrap();
    assert_eq!(exit.code, 33, "its own shim knows how it ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_dropped_anywhere_can_be_repeated_and_removed() {
    let Some(world) = World::new() else { return };
    for micros in [0, 200, 1_000, 3_000, 6_000, 10_000, 15_000] {
        let order = world.order("exec sleep 1000");
        let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(micros), world.driver.start(&handle)).await;
        let fresh = world.fresh_driver();
        fresh.recover(&handle).await.unwrap();
        within(fresh.start(&handle)).await.unwrap();
        assert!(matches!(fresh.recover(&handle).await.unwrap(), Observed::Running { .. }));
        within(fresh.remove(order.id)).await.unwrap();

        let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(micros), world.driver.start(&handle)).await;
        within(world.fresh_driver().remove(order.id)).await.unwrap();
        let left = world.leftovers();
        assert!(left.is_empty(), "{micros} µs: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_survives_the_death_of_the_shim() {
    let Some(world) = World::new() else { return };
    let handle = world.run("trap 'echo last; exit 0' TERM; echo first; while :; do sleep 0.02; done").await;
    world.said(handle.id, "first").await;
    let follow = world.driver.logs(handle.id, LogRequest { follow: true, ..Default::default() }).await.unwrap();
    let following = tokio::spawn(follow.try_collect::<Vec<_>>());
    let shim = world.pids(handle.id).1;
    kill_hard(shim);
    gone(shim).await;
    within(world.driver.stop(&handle, PATIENCE)).await.unwrap();
    let lines = within(following).await.unwrap().unwrap();
    let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect();
    assert_eq!(texts, ["first", "last"]);
}
