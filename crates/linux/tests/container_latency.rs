//! How long the driver takes beside bare crun, and what the shim costs in memory beside conmon. Prints; fails only where something is out of
//! all proportion, because other tests share the machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![allow(unreachable_pub, missing_debug_implementations, dead_code, reason = "nobody else sees a test")]

#[path = "container/world.rs"]
mod world;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use world::*;
use yun_drivers::InstanceDriver;
use yun_engine::session::ExecRequest;

const ROUNDS: usize = 25;

/// Median and the slowest of twenty.
#[derive(Clone, Copy)]
struct Times {
    p50: Duration,
    p95: Duration,
}

impl std::fmt::Debug for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, "p50 {:5.1} ms  p95 {:5.1} ms", ms(self.p50), ms(self.p95))
    }
}

fn times(mut all: Vec<Duration>) -> Times {
    all.sort_unstable();
    Times { p50: all[all.len() / 2], p95: all[all.len() * 95 / 100] }
}

fn crun(world: &World, words: &[&str]) -> Duration {
    let begin = Instant::now();
    let root = world.root().join("bare");
    let status = Command::new("crun")
        .arg("--root")
        .arg(root)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "crun {words:?}");
    begin.elapsed()
}

/// Private memory of a process, in KiB.
fn private(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        rollup
            .lines()
            .filter(|l| l.starts_with(name))
            .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
    };
    field("Private_")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_beside_bare_crun() {
    let Some(world) = World::new() else { return };
    assert!(world.driver.probe().await.unwrap().ready);
    let order = world.order("exec sleep 1000");
    let image = world.image();
    world.driver.prepare(&order, &image, None).await.unwrap();
    // The same bundle for both; its tree is mounted by the preparation.
    let bundle = world.host.instance_dir(order.id).display().to_string();
    let (mut create, mut run, mut delete) = (vec![], vec![], vec![]);
    let (mut prepare, mut start, mut both, mut exec, mut stop, mut remove, mut kib) =
        (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
    // A second shim, so that what shims share does not count as private.
    world.run("exec sleep 1000").await;
    // In turns, so that both see the same load.
    for _ in 0..ROUNDS {
        create.push(crun(&world, &["create", "--bundle", &bundle, "bare"]) + crun(&world, &["start", "bare"]));
        delete.push(crun(&world, &["delete", "-f", "bare"]));
        run.push(crun(&world, &["run", "-d", "--bundle", &bundle, "bare"]));
        crun(&world, &["delete", "-f", "bare"]);
        let order = world.order("exec sleep 1000");
        let begin = Instant::now();
        let handle = world.driver.prepare(&order, &image, None).await.unwrap();
        prepare.push(begin.elapsed());
        let middle = Instant::now();
        let handle = world.driver.start(&handle).await.unwrap();
        start.push(middle.elapsed());
        both.push(begin.elapsed());
        kib.push(private(world.pids(order.id).1));
        let begin = Instant::now();
        let request = ExecRequest { command: vec!["true".into()], ..Default::default() };
        let mut session = world.driver.exec(&handle, request).await.unwrap();
        assert_eq!(listen(&mut session).await.code(), 0);
        exec.push(begin.elapsed());
        let begin = Instant::now();
        world.driver.stop(&handle, Duration::ZERO).await.unwrap();
        stop.push(begin.elapsed());
        let begin = Instant::now();
        world.driver.remove(order.id).await.unwrap();
        remove.push(begin.elapsed());
    }
    let _ = fs::remove_dir_all(world.root().join("bare"));
    kib.sort_unstable();
    let (create, both) = (times(create), times(both));
    eprintln!("crun create + start   {create:?}");
    eprintln!("crun run --detach     {:?}", times(run));
    eprintln!("crun delete --force   {:?}", times(delete));
    eprintln!("prepare               {:?}", times(prepare));
    eprintln!("start                 {:?}", times(start));
    eprintln!("prepare + start       {both:?}");
    eprintln!("exec true             {:?}", times(exec));
    eprintln!("stop                  {:?}", times(stop));
    eprintln!("remove                {:?}", times(remove));
    eprintln!("shim: {} KiB private (median)", kib[kib.len() / 2]);
    assert!(kib[kib.len() / 2] <= 1024, "the shim takes more than 1 MiB");
    assert!(both.p50 < create.p50 * 5 + Duration::from_millis(50), "the driver is out of proportion to crun");
}
