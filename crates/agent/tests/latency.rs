//! What the agent itself adds to a launch, on the real clock, with drivers that take no time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod common;

use common::Bench;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use yun_engine::clock::SystemClock;
use yun_types::{InstanceKind, InstanceState};

/// The promise is 3 ms; a debug build on a machine that is busy with other tests gets ten times that.
const LIMIT: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_costs_little_beside_its_drivers() {
    let mut bench = Bench::without_agent();
    bench.launch_agent_by(Arc::new(SystemClock::default()));
    bench.agent.as_ref().unwrap().registered().await;
    let mut spans = Vec::new();
    for _ in 0..21 {
        let instance = bench.instance(InstanceKind::Container);
        let id = instance.id;
        let begin = Instant::now();
        bench.control.want(instance);
        while bench.control.state(id) != Some(InstanceState::Running) {
            assert!(begin.elapsed() < Duration::from_secs(10), "it never runs");
            tokio::task::yield_now().await;
        }
        spans.push(begin.elapsed());
    }
    spans.sort();
    let median = spans[spans.len() / 2];
    eprintln!("from the order to the accepted report: median {median:?}, worst {:?}", spans[spans.len() - 1]);
    assert!(median < LIMIT, "{spans:?}");
}
