//! Health checks: what is reported, what is told, and what follows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod common;

use common::{Bench, SECOND};
use yun_types::*;

fn command(words: &str) -> HealthCheck {
    let command = words.split(' ').map(str::to_owned).collect();
    HealthCheck { interval: Span::seconds(10), ..HealthCheck::new(HealthProbe::Command { command }) }
}

async fn with_check(bench: &mut Bench, check: HealthCheck) -> InstanceId {
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.container.health = Some(check);
    bench.run(instance).await
}

fn health(bench: &Bench, id: InstanceId) -> Option<HealthStatus> {
    bench.control.status(id)?.health
}

fn state(bench: &Bench, id: InstanceId) -> Option<HealthState> {
    health(bench, id).map(|health| health.state)
}

#[tokio::test]
async fn a_container_starts_and_gets_healthy() {
    let mut bench = Bench::new().await;
    let id = with_check(&mut bench, command("echo fine")).await;
    assert_eq!(state(&bench, id), Some(HealthState::Starting));
    bench.until("healthy", |bench| state(bench, id) == Some(HealthState::Healthy)).await;
    assert_eq!(health(&bench, id).unwrap().output.as_deref(), Some("fine"));
    assert!(bench.control.reasons().contains(&"Healthy".to_owned()));
    let reports = bench.control.desk().history.len();
    for _ in 0..60 {
        bench.clock.advance(SECOND).await;
    }
    assert_eq!(bench.control.desk().history.len(), reports, "the same answer again is not told");
}

#[tokio::test]
async fn failures_in_a_row_make_it_unhealthy_and_are_told_once() {
    let mut bench = Bench::new().await;
    let id = with_check(&mut bench, command("exit 4")).await;
    bench.until("unhealthy", |bench| state(bench, id) == Some(HealthState::Unhealthy)).await;
    let said = health(&bench, id).unwrap();
    assert_eq!((said.failures, said.output.as_deref()), (3, Some("it ended with code 4")));
    assert_eq!(bench.control.state(id), Some(InstanceState::Running), "it is only reported");
    assert_eq!(bench.control.reasons().iter().filter(|reason| *reason == "Unhealthy").count(), 1);
    // Another check: it begins anew.
    bench.control.edit(id, |spec| spec.container.health = Some(command("echo better")));
    bench.until("healthy", |bench| state(bench, id) == Some(HealthState::Healthy)).await;
    bench.control.edit(id, |spec| spec.container.health = None);
    bench.until("no health", |bench| health(bench, id).is_none()).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_bounded() {
    let mut bench = Bench::new().await;
    let check = HealthCheck { timeout: Span::seconds(2), retries: 1, ..command("sleep 1000") };
    let id = with_check(&mut bench, check).await;
    bench.until("unhealthy", |bench| state(bench, id) == Some(HealthState::Unhealthy)).await;
    assert_eq!(health(&bench, id).unwrap().output.as_deref(), Some("no answer within 2s"));
}

#[tokio::test]
async fn who_is_unhealthy_is_restarted_by_its_policy_if_that_is_wanted() {
    let mut bench = Bench::new().await;
    let check = HealthCheck { when_unhealthy: WhenUnhealthy::Restart, retries: 1, ..command("exit 1") };
    let id = with_check(&mut bench, check.clone()).await;
    bench.until("failed", |bench| bench.control.state(id) == Some(InstanceState::Failed)).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!((status.reason.as_deref(), status.health), (Some("Unhealthy"), None));
    assert!(status.message.unwrap().contains("starts again in"));
    bench.until("another start", |bench| bench.world.starts(id) == 2).await;
    let mut never = bench.instance(InstanceKind::Container);
    (never.spec.restart, never.spec.container.health) = (RestartPolicy::Never, Some(check));
    let never = bench.run(never).await;
    bench.until("failed", |bench| bench.control.state(never) == Some(InstanceState::Failed)).await;
    bench.clock.advance(SECOND * 100).await;
    assert_eq!(bench.world.starts(never), 1);
}

#[tokio::test]
async fn health_outlives_the_agent() {
    let mut bench = Bench::new().await;
    let id = with_check(&mut bench, command("echo fine")).await;
    bench.until("healthy", |bench| state(bench, id) == Some(HealthState::Healthy)).await;
    bench.crash().await;
    bench.start().await;
    assert_eq!(state(&bench, id), Some(HealthState::Healthy));
}
