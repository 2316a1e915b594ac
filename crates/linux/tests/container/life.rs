//! The life of a container as its driver sees it: starting, ending, logs, freezing, many at once.

use crate::world::*;
use futures::{StreamExt, TryStreamExt, future::join_all};
use std::time::{Duration, Instant};
use yun_drivers::{InstanceDriver, Observed};
use yun_engine::session::{LogRequest, LogStream};
use yun_linux::container::{ContainerDriverOptions, LogLimits};
use yun_types::{Bytes, Generation, Size};

#[tokio::test(flavor = "multi_thread")]
async fn the_host_can_do_it() {
    let Some(world) = World::new() else { return };
    let facts = world.driver.probe().await.unwrap();
    assert!(facts.ready, "{facts:?}");
    assert!(facts.engine.unwrap().starts_with("crun 1."));
    let broken = ContainerDriverOptions { runtime: "no-such-runtime".into(), ..Default::default() };
    let world = World::with(broken).unwrap();
    let facts = world.driver.probe().await.unwrap();
    assert!(!facts.ready && facts.message.as_ref().unwrap().contains("apt-get install crun"), "{facts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life() {
    let Some(world) = World::new() else { return };
    let order = world.order("echo hello; echo again >&2; trap 'exit 5' TERM; while :; do sleep 0.05; done");
    let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
    assert_eq!(world.driver.recover(&handle).await.unwrap(), Observed::Absent);
    assert_eq!(world.driver.wait(&handle).await.unwrap(), None);
    let handle = world.driver.start(&handle).await.unwrap();
    let Observed::Running { since } = world.driver.recover(&handle).await.unwrap() else { panic!("it runs") };
    world.driver.start(&handle).await.unwrap();
    assert_eq!(world.driver.recover(&handle).await.unwrap(), Observed::Running { since }, "it was not started again");
    world.said(order.id, "again").await;
    let usage = world.driver.usage(order.id).await.unwrap();
    assert!(usage.pids >= 1 && usage.memory > Bytes(0) && usage.memory < Bytes::mib(64), "{usage:?}");

    let exit = within(world.driver.stop(&handle, PATIENCE)).await.unwrap().unwrap();
    assert_eq!((exit.code, exit.signal, exit.out_of_memory), (5, None, false));
    assert_eq!(world.driver.recover(&handle).await.unwrap(), Observed::Ended { exit: Some(exit) });
    assert_eq!(world.fresh_driver().recover(&handle).await.unwrap(), Observed::Ended { exit: Some(exit) });
    assert_eq!(world.driver.stop(&handle, PATIENCE).await.unwrap(), Some(exit));

    world.driver.start(&handle).await.unwrap();
    assert!(world.is_running(&handle).await);
    until("both lives are in one log", || async { world.log(order.id).await.matches("hello").count() == 2 }).await;
    world.driver.remove(order.id).await.unwrap();
    world.driver.remove(order.id).await.unwrap();
    assert_eq!(world.driver.recover(&handle).await.unwrap(), Observed::Absent);
    assert_eq!(world.leftovers(), Vec::<String>::new());
    let error = world.driver.start(&handle).await.unwrap_err();
    assert_eq!(error.reason, "NotPrepared");
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_as_they_were() {
    let Some(world) = World::new() else { return };
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137)] {
        let (exit, _) = world.finish(&world.order(script)).await;
        assert_eq!((exit.code, exit.out_of_memory), (code, false), "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_and_its_lack_is_told() {
    let Some(world) = World::new() else { return };
    // A single command: the shell becomes it, so that it is the main process itself that dies.
    let mut order = world.order("exec tail /dev/zero");
    order.spec.size = "cpu:1,memory:16Mi".parse().unwrap();
    let (exit, log) = world.finish(&order).await;
    assert_eq!((exit.code, exit.signal, exit.out_of_memory), (137, Some(9), true), "{log}");
    // The next start begins anew.
    order.generation = Generation(2);
    order.spec.container.command = Some(["sh", "-c", "exit 3"].map(str::to_owned).to_vec());
    let (exit, _) = world.finish(&order).await;
    assert_eq!((exit.code, exit.out_of_memory), (3, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_limited() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("for i in $(seq 1 30); do sleep 100 & done; echo made all");
    order.spec.container.pids = Some(10);
    let (exit, log) = world.finish(&order).await;
    assert!(exit.code != 0 && log.contains("fork") && !log.contains("made all"), "{exit:?} {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_size_reaches_a_running_container() {
    let Some(world) = World::new() else { return };
    let mut order = world.order("while :; do cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; sleep 0.05; done 2>/dev/null");
    let handle = world.run_order(&order).await;
    world.said(order.id, "64000000").await;
    for memory in [128u64 << 20, 32 << 20] {
        order.generation = order.generation.next();
        order.spec.size = Size { memory: Bytes(memory), ..order.spec.size };
        world.driver.prepare(&order, &world.image(), None).await.unwrap();
        world.said(order.id, &memory.to_string()).await;
    }
    assert!(world.is_running(&handle).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_is_polite_first() {
    let Some(world) = World::new() else { return };
    // It hears the signal and goes on.
    let handle = world.run("trap 'echo heard' TERM; echo up; while :; do sleep 0.05; done").await;
    world.said(handle.id, "up").await;
    let begin = Instant::now();
    let grace = Duration::from_millis(700);
    let exit = within(world.driver.stop(&handle, grace)).await.unwrap().unwrap();
    assert!(begin.elapsed() >= grace);
    assert_eq!((exit.code, exit.signal, exit.out_of_memory), (137, Some(9), false));
    assert!(world.log(handle.id).await.contains("heard"));

    // It ignores the signal on purpose: it has its time.
    let handle = world.run("trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    world.said(handle.id, "up").await;
    let begin = Instant::now();
    within(world.driver.stop(&handle, grace)).await.unwrap();
    assert!(begin.elapsed() >= grace);

    // It is asked before it can hear: it is asked again.
    let handle = world.run("sleep 0.3; trap 'exit 6' TERM; while :; do sleep 0.05; done").await;
    assert_eq!(within(world.driver.stop(&handle, PATIENCE)).await.unwrap().unwrap().code, 6);

    // It never asks for the signal, so the kernel drops it: waiting an hour would gain nothing.
    let handle = world.run("exec sleep 1000").await;
    let exit = within(world.driver.stop(&handle, Duration::from_secs(3600))).await.unwrap().unwrap();
    assert_eq!(exit.code, 137);

    // Its own signal.
    let mut order = world.order("trap 'exit 4' USR1; echo up; while :; do sleep 0.05; done");
    order.spec.container.stop_signal = Some("SIGUSR1".into());
    let handle = world.run_order(&order).await;
    world.said(order.id, "up").await;
    assert_eq!(within(world.driver.stop(&handle, PATIENCE)).await.unwrap().unwrap().code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_means_that_nothing_moves() {
    let Some(world) = World::new() else { return };
    let handle = world.run("trap 'exit 0' TERM; while :; do echo tick; sleep 0.02; done").await;
    world.said(handle.id, "tick").await;
    world.driver.pause(&handle).await.unwrap();
    world.driver.pause(&handle).await.unwrap();
    assert!(matches!(world.driver.recover(&handle).await.unwrap(), Observed::Paused { .. }));
    assert!(matches!(world.fresh_driver().recover(&handle).await.unwrap(), Observed::Paused { .. }));
    let ticks = world.log(handle.id).await.len();
    let error = world.driver.exec(&handle, Default::default()).await.unwrap_err();
    assert_eq!(error.reason, "Paused");
    world.driver.resume(&handle).await.unwrap();
    until("it ticks again", || async { world.log(handle.id).await.len() > ticks + 20 }).await;
    world.driver.pause(&handle).await.unwrap();
    let exit = within(world.driver.stop(&handle, PATIENCE)).await.unwrap().unwrap();
    assert_eq!(exit.code, 0, "a frozen container hears the request to stop");
    let error = world.driver.pause(&handle).await.unwrap_err();
    assert_eq!(error.reason, "NotRunning");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_rotate_and_are_followed() {
    let log = LogLimits { bytes: Bytes(64 << 10), files: 3 };
    let Some(world) = World::with(ContainerDriverOptions { log, ..Default::default() }) else { return };
    let order =
        world.order("i=0; while [ $i -lt 6000 ]; do echo \"line $i of a log\"; i=$((i+1)); done; printf end; exit 3");
    let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
    let handle = world.driver.start(&handle).await.unwrap();
    let follow = world.driver.logs(order.id, LogRequest { follow: true, ..Default::default() }).await.unwrap();
    let followed: Vec<_> = within(follow.try_collect()).await.unwrap();
    within(world.driver.wait(&handle)).await.unwrap();
    let texts: Vec<String> = followed.iter().map(|line| String::from_utf8_lossy(&line.text).into()).collect();
    assert_eq!(texts.last().unwrap(), "end", "the last words have no newline");
    // A follower that is slower than three rotations loses the middle, and nothing else.
    for pair in texts[..texts.len() - 1].windows(2) {
        let number = |text: &str| text.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
        assert!(number(&pair[0]) < number(&pair[1]), "{pair:?}");
    }
    assert!(followed.iter().all(|line| line.stream == LogStream::Stdout && line.at.is_some()));
    let kept: u64 = ["", ".1", ".2", ".3"]
        .iter()
        .filter_map(|n| std::fs::metadata(world.host.instance_dir(order.id).join(format!("container.log{n}"))).ok())
        .map(|m| m.len())
        .sum();
    assert!(kept > 64 << 10 && kept <= 3 * (64 << 10), "{kept}");

    let tail = LogRequest { tail: Some(2), ..Default::default() };
    let last: Vec<_> = world.driver.logs(order.id, tail).await.unwrap().map(|line| line.unwrap().text).collect().await;
    assert_eq!(last, ["line 5999 of a log", "end"]);
    let since = LogRequest { since: followed.last().unwrap().at, ..Default::default() };
    let last: Vec<_> = world.driver.logs(order.id, since).await.unwrap().map(|line| line.unwrap().text).collect().await;
    assert_eq!(last.last().unwrap(), "end");
    assert!(last.len() < 6000);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_and_pauses_within_lines_come_through() {
    let Some(world) = World::new() else { return };
    let (exit, log) = world
        .finish(&world.order("head -c 100000 /dev/zero | busybox tr '\\0' x; echo; printf a; sleep 0.3; echo b"))
        .await;
    assert_eq!(exit.code, 0);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0].len(), lines[1]), (100_000, "ab"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let Some(world) = World::new() else { return };
    let begin = Instant::now();
    let handles = join_all((0..50).map(|n| {
        let world = world.clone();
        tokio::spawn(async move {
            let order = world.order(&format!("trap 'exit {n}' TERM; echo up {n}; while :; do sleep 0.1; done"));
            let handle = world.run_order(&order).await;
            world.said(order.id, &format!("up {n}")).await;
            handle
        })
    }))
    .await;
    eprintln!("50 containers up after {:?}", begin.elapsed());
    let handles: Vec<_> = handles.into_iter().map(Result::unwrap).collect();
    let begin = Instant::now();
    let exits = join_all(handles.iter().map(|handle| within(world.driver.stop(handle, PATIENCE)))).await;
    let codes: Vec<i32> = exits.into_iter().map(|exit| exit.unwrap().unwrap().code).collect();
    assert_eq!(codes, (0..50).collect::<Vec<_>>());
    join_all(handles.iter().map(|handle| world.driver.remove(handle.id))).await.into_iter().for_each(Result::unwrap);
    eprintln!("50 containers stopped and removed after {:?}", begin.elapsed());
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
