//! The agent dies at named steps. In a file of its own: fail points belong to the whole process, so each test takes the scenario's lock.

mod common;

use common::{Bench, SECOND};
use fail::FailScenario;
use yun_engine::tasks::TaskState;
use yun_types::*;

/// Runs until a task has panicked, then kills the agent and starts another one without the fault.
async fn die_at(bench: &mut Bench, point: &str) {
    bench
        .until(&format!("a panic at {point}"), |bench| {
            bench.tasks.list().iter().any(|task| task.state == TaskState::Panicked || task.reason.contains("panicked"))
        })
        .await;
    bench.crash().await;
    fail::remove(point);
    bench.start().await;
}

#[tokio::test]
async fn a_launch_survives_a_crash_at_each_step() {
    let scenario = FailScenario::setup();
    for point in [
        "agent::before_attach",
        "agent::after_attach",
        "agent::after_prepare",
        "agent::before_start",
        "agent::after_start",
        "agent::before_report",
    ] {
        let mut bench = Bench::new().await;
        fail::cfg(point, "panic").unwrap();
        let instance = bench.instance(InstanceKind::Container);
        let id = instance.id;
        bench.control.want(instance);
        die_at(&mut bench, point).await;
        bench.until_state(id, InstanceState::Running).await;
        assert_eq!(bench.world.starts(id), 1, "{point}");
        bench.clock.advance(30 * SECOND).await;
        assert_eq!((bench.world.starts(id), bench.world.prepared_live(id)), (1, 0), "{point}");
    }
    scenario.teardown();
}

#[tokio::test]
async fn a_run_that_ends_while_the_agent_is_dead_counts_once() {
    let scenario = FailScenario::setup();
    let mut bench = Bench::new().await;
    fail::cfg("agent::after_start", "panic").unwrap();
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.restart = RestartPolicy::Never;
    let id = instance.id;
    bench.control.want(instance);
    bench.until("panicked", |bench| bench.tasks.list().iter().any(|task| task.reason.contains("panicked"))).await;
    bench.crash().await;
    bench.world.end(id, 6);
    fail::remove("agent::after_start");
    bench.start().await;
    bench.until_state(id, InstanceState::Failed).await;
    assert_eq!(bench.control.status(id).unwrap().exit.unwrap().code, 6);
    assert_eq!(bench.world.starts(id), 1, "who should never start again does not, though the agent never saw it run");
    scenario.teardown();
}

#[tokio::test]
async fn a_deletion_survives_a_crash_at_each_step() {
    let scenario = FailScenario::setup();
    for point in ["agent::before_remove", "agent::after_remove", "agent::before_report"] {
        for orphan in [false, true] {
            let mut bench = Bench::new().await;
            let id = bench.running().await;
            fail::cfg(point, "panic").unwrap();
            if orphan {
                bench.control.desk().instances.remove(&id);
                bench.control.cut();
            } else {
                bench.control.delete(id);
            }
            die_at(&mut bench, point).await;
            bench
                .until("nothing left", |bench| bench.world.leftovers(id).is_empty() && bench.ledger().is_empty())
                .await;
            if !orphan {
                bench.until("said so", |bench| bench.control.gone(id)).await;
            }
        }
    }
    scenario.teardown();
}

#[tokio::test]
async fn a_removal_that_has_begun_is_finished_without_the_control_plane() {
    let scenario = FailScenario::setup();
    for point in ["agent::before_remove", "agent::after_remove"] {
        let mut bench = Bench::new().await;
        let id = bench.running().await;
        fail::cfg(point, "panic").unwrap();
        bench.control.delete(id);
        bench.until("panicked", |bench| bench.tasks.list().iter().any(|task| task.reason.contains("panicked"))).await;
        bench.crash().await;
        fail::remove(point);
        bench.control.set_down(true);
        bench.start().await;
        bench.clock.advance(60 * SECOND).await;
        assert_eq!((bench.world.leftovers(id), bench.world.starts(id)), (vec![], 1), "{point}");
        bench.control.set_down(false);
        bench.until("gone", |bench| bench.control.gone(id)).await;
    }
    scenario.teardown();
}

#[tokio::test]
async fn an_owner_that_panics_is_replaced_and_others_do_not_notice() {
    let scenario = FailScenario::setup();
    let mut bench = Bench::new().await;
    let other = bench.running().await;
    fail::cfg("agent::after_start", "1*panic").unwrap();
    let instance = bench.instance(InstanceKind::Container);
    let id = bench.run(instance).await;
    assert_eq!((bench.world.starts(id), bench.world.starts(other)), (1, 1));
    fail::cfg("agent::after_remove", "1*panic").unwrap();
    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;
    assert_eq!(bench.ledger(), [other.to_string()]);
    scenario.teardown();
}
