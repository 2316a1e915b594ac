//! What happens when an instance ends by itself or cannot be started.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod common;

use common::{Bench, SECOND};
use std::time::Duration;
use yun_drivers::{
    ErrorKind,
    fake::{Behaviour, Call, Fault},
};
use yun_types::*;

async fn with_policy(bench: &mut Bench, policy: &str) -> InstanceId {
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.restart = policy.parse().unwrap();
    bench.run(instance).await
}

fn dies(code: i32) -> Behaviour {
    Behaviour { exits: Some((Duration::from_millis(1), code)), ..Behaviour::default() }
}

#[tokio::test]
async fn always_starts_again_with_growing_pauses() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "always").await;
    bench.world.behave(id, dies(3));
    bench.world.end(id, 3);
    bench.until_state(id, InstanceState::Failed).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!(status.reason.as_deref(), Some("Exited"));
    assert!(
        status.message.as_ref().unwrap().contains("code 3")
            && status.message.as_ref().unwrap().contains("starts again in 1 s"),
        "{status:?}"
    );
    assert!(status.next_restart.is_some());

    let mut starts = Vec::new();
    for _ in 0..130 {
        bench.clock.advance(SECOND).await;
        starts.push(bench.world.starts(id));
    }
    // Pauses of 1, 2, 4, 8, 16, 32 and then 60 seconds.
    let moments: Vec<usize> = (2..=8).map(|n| starts.iter().position(|count| *count == n).unwrap_or(999)).collect();
    let pauses: Vec<usize> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60]);
    assert_eq!(bench.control.status(id).unwrap().restarts, 7);
}

#[tokio::test]
async fn a_minute_of_running_makes_the_next_pause_short_again() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "always").await;
    for _ in 0..4 {
        bench.world.end(id, 1);
        bench.until_state(id, InstanceState::Failed).await;
        bench.until_state(id, InstanceState::Running).await;
    }
    bench.clock.advance(61 * SECOND).await;
    bench.world.end(id, 1);
    bench.until_state(id, InstanceState::Failed).await;
    let next = bench.control.status(id).unwrap().next_restart.unwrap();
    assert!(next - bench.now() <= chrono::TimeDelta::seconds(1));
    assert_eq!(bench.control.status(id).unwrap().restarts, 4, "all of them are counted for people");
}

#[tokio::test]
async fn never_means_never() {
    let mut bench = Bench::new().await;
    let (bad, good) = (with_policy(&mut bench, "never").await, with_policy(&mut bench, "never").await);
    bench.world.end(bad, 1);
    bench.world.end(good, 0);
    bench.until_state(bad, InstanceState::Failed).await;
    bench.until_state(good, InstanceState::Stopped).await;
    assert_eq!(bench.control.status(good).unwrap().reason.as_deref(), Some("Completed"));
    bench.clock.advance(600 * SECOND).await;
    assert_eq!((bench.world.starts(bad), bench.world.starts(good)), (1, 1));
    assert!(bench.world.attachment(bad).is_some(), "its disk and address are there for who looks");
}

#[tokio::test]
async fn on_failure_gives_up_after_so_many_in_a_row() {
    let mut bench = Bench::new().await;
    bench.world.behave_all(dies(7));
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.restart = "on-failure:2".parse().unwrap();
    let id = instance.id;
    bench.control.want(instance);
    bench.clock.advance(600 * SECOND).await;
    assert_eq!(bench.world.starts(id), 3);
    let status = bench.control.status(id).unwrap();
    assert_eq!((status.state, status.restarts, status.next_restart), (InstanceState::Failed, 2, None));
    assert!(status.message.unwrap().contains("gave up after 2"));
}

#[tokio::test]
async fn on_failure_leaves_success_alone() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "on-failure").await;
    bench.world.end(id, 0);
    bench.clock.advance(600 * SECOND).await;
    assert_eq!((bench.control.state(id), bench.world.starts(id)), (Some(InstanceState::Stopped), 1));
}

#[tokio::test]
async fn too_much_memory_is_named() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "never").await;
    bench.world.end_out_of_memory(id);
    bench.until_state(id, InstanceState::Failed).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!(status.reason.as_deref(), Some("OutOfMemory"));
    assert!(status.exit.unwrap().out_of_memory);
    assert!(status.message.unwrap().contains("512 MiB"), "the limit is named");
    assert!(bench.control.reasons().contains(&"OutOfMemory".to_owned()));
}

#[tokio::test]
async fn a_user_start_begins_the_count_anew() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "always").await;
    for _ in 0..3 {
        bench.world.end(id, 1);
        bench.until_state(id, InstanceState::Failed).await;
        bench.until_state(id, InstanceState::Running).await;
    }
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    bench.control.power(id, Power::Running);
    bench.until_state(id, InstanceState::Running).await;
    assert_eq!(bench.control.status(id).unwrap().restarts, 0);
    bench.world.end(id, 1);
    bench.until_state(id, InstanceState::Failed).await;
    assert!(bench.control.status(id).unwrap().message.unwrap().contains("again in 1 s"));
}

#[tokio::test]
async fn a_stop_ends_the_waiting() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "always").await;
    bench.world.end(id, 1);
    bench.until_state(id, InstanceState::Failed).await;
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    bench.clock.advance(600 * SECOND).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!((bench.world.starts(id), status.next_restart, status.reason), (1, None, None));
    assert_eq!(status.exit.map(|exit| exit.code), Some(1), "how it ended is still known");
}

#[tokio::test]
async fn what_cannot_start_now_is_tried_again() {
    let mut bench = Bench::new().await;
    bench.world.inject(Call::Start, Fault::fails(ErrorKind::Internal, "Hiccup").times(2));
    let instance = bench.instance(InstanceKind::Container);
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Failed).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!((status.reason.as_deref(), status.next_restart.is_some()), (Some("Hiccup"), true));
    assert_eq!(bench.control.report(id).unwrap().generation, Generation(1), "an operation that waits for it ends");
    bench.until_state(id, InstanceState::Running).await;
    assert_eq!(bench.control.status(id).unwrap().reason, None);
}

#[tokio::test]
async fn what_can_never_start_is_not_tried_until_it_changes() {
    for (call, kind) in [
        (Call::Prepare, ErrorKind::BadRequest),
        (Call::ImageOpen, ErrorKind::Damaged),
        (Call::Start, ErrorKind::BadRequest),
    ] {
        let mut bench = Bench::new().await;
        bench.world.inject(call, Fault::fails(kind, "EntrypointNotFound"));
        let instance = bench.instance(InstanceKind::Container);
        let id = instance.id;
        bench.control.want(instance);
        bench.until_state(id, InstanceState::Failed).await;
        let calls = bench.world.calls(call);
        bench.clock.advance(600 * SECOND).await;
        assert_eq!(bench.world.calls(call), calls, "{call:?}");
        assert_eq!(bench.control.status(id).unwrap().next_restart, None);
        bench.world.clear(call);
        bench.control.edit(id, |spec| spec.container.command = Some(vec!["sh".into()]));
        bench.until_state(id, InstanceState::Running).await;
    }
}

#[tokio::test]
async fn a_missing_image_fails_the_launch_and_names_the_way_out() {
    let mut bench = Bench::new().await;
    let mut instance = bench.instance(InstanceKind::Container);
    instance.image.digest = Digest::from_sha256([7; 32]);
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Failed).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!(status.reason.as_deref(), Some("ImageNotFound"));
    assert!(status.message.unwrap().contains("yun image import"));
}

#[tokio::test]
async fn a_taken_port_is_tried_again_until_it_is_free() {
    let mut bench = Bench::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut instance = bench.instance(InstanceKind::Container);
        instance.nic.publish = vec!["8080:80".parse().unwrap()];
        ids.push(instance.id);
        bench.control.want(instance);
        bench.settle().await;
    }
    bench.until_state(ids[1], InstanceState::Failed).await;
    assert_eq!(bench.control.status(ids[1]).unwrap().reason.as_deref(), Some("PortTaken"));
    bench.control.power(ids[0], Power::Stopped);
    bench.until_state(ids[1], InstanceState::Running).await;
}

#[tokio::test]
async fn a_network_that_cannot_be_made_fails_the_launch_and_heals() {
    let mut bench = Bench::without_agent();
    bench.world.inject(Call::NetworkEnsure, Fault::fails(ErrorKind::Unavailable, "NoBridge"));
    bench.start().await;
    let instance = bench.instance(InstanceKind::Container);
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Failed).await;
    bench.world.clear(Call::NetworkEnsure);
    bench.until_state(id, InstanceState::Running).await;
}

#[tokio::test]
async fn a_start_that_failed_but_left_a_process_is_taken_over() {
    let mut bench = Bench::new().await;
    let fault = Fault { moment: yun_drivers::fake::Moment::After, ..Fault::fails(ErrorKind::Timeout, "Slow") };
    bench.world.inject(Call::Start, fault.times(1));
    let instance = bench.instance(InstanceKind::Container);
    let id = bench.run(instance).await;
    assert_eq!(bench.world.starts(id), 1);
}

#[tokio::test]
async fn steps_that_fail_are_tried_again_and_say_why() {
    let mut bench = Bench::new().await;
    let id = with_policy(&mut bench, "always").await;
    bench.world.inject(Call::Pause, Fault::fails(ErrorKind::Internal, "NoFreezer"));
    bench.control.power(id, Power::Paused);
    bench.until("told", |bench| bench.control.status(id).unwrap().reason.as_deref() == Some("NoFreezer")).await;
    let report = bench.control.report(id).unwrap();
    assert_eq!(
        (bench.control.state(id), report.generation),
        (Some(InstanceState::Running), Generation(1)),
        "not caught up"
    );
    let before = bench.world.calls(Call::Pause);
    bench.clock.advance(60 * SECOND).await;
    let tries = bench.world.calls(Call::Pause) - before;
    assert!((4..20).contains(&tries), "{tries}");
    bench.world.clear(Call::Pause);
    bench.until_state(id, InstanceState::Paused).await;
    assert_eq!(bench.control.status(id).unwrap().reason, None);

    bench.world.inject(Call::Stop, Fault::fails(ErrorKind::Internal, "Busy").times(3));
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;

    bench.world.inject(Call::Remove, Fault::fails(ErrorKind::Internal, "MountBusy").times(3));
    bench.control.delete(id);
    bench
        .until("told", |bench| {
            bench.control.status(id).is_some_and(|status| status.reason.as_deref() == Some("MountBusy"))
        })
        .await;
    bench.until("gone", |bench| bench.control.gone(id)).await;
}

#[tokio::test]
async fn a_watcher_that_fails_is_replaced() {
    let mut bench = Bench::new().await;
    bench.world.inject(Call::Wait, Fault::fails(ErrorKind::Internal, "Lost").times(2));
    let id = with_policy(&mut bench, "never").await;
    bench.clock.advance(5 * SECOND).await;
    bench.world.end(id, 4);
    bench.until_state(id, InstanceState::Failed).await;
    assert_eq!(bench.control.status(id).unwrap().exit.unwrap().code, 4);
    assert_eq!(bench.world.starts(id), 1);
}
