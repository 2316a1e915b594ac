//! What is true after the agent, the host or the link went away.

mod common;

use common::{Bench, SECOND};
use std::time::Duration;
use yun_drivers::{
    ErrorKind,
    fake::{Behaviour, Call, Fault},
};
use yun_types::*;

#[tokio::test]
async fn a_new_agent_finds_what_runs_and_starts_nothing() {
    let mut bench = Bench::new().await;
    let container = bench.running().await;
    let vm = bench.instance(InstanceKind::Vm);
    let vm = bench.run(vm).await;
    bench.control.power(vm, Power::Paused);
    bench.until_state(vm, InstanceState::Paused).await;
    let started = bench.control.status(container).unwrap().started;
    bench.crash().await;
    assert!(bench.world.is_running(container) && bench.world.is_paused(vm));
    bench.control.desk().reports.clear();
    bench.clock.advance(100 * SECOND).await;
    bench.start().await;
    bench.until_state(container, InstanceState::Running).await;
    bench.until_state(vm, InstanceState::Paused).await;
    assert_eq!((bench.world.starts(container), bench.world.starts(vm)), (1, 1));
    assert_eq!(bench.control.status(container).unwrap().started, started);
    assert!(bench.world.calls(Call::NetworkRecover) >= 2);

    bench.control.power(container, Power::Stopped);
    bench.until_state(container, InstanceState::Stopped).await;
}

#[tokio::test]
async fn without_a_control_plane_the_ledger_is_enough() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.crash().await;
    bench.control.set_down(true);
    bench.start().await;
    bench.world.end(id, 1);
    bench.clock.advance(3 * SECOND).await;
    assert_eq!(bench.world.starts(id), 2, "the restart policy needs nobody else");
    assert!(bench.world.calls(Call::NetworkEnsure) >= 2, "names and leases are served again");
}

#[tokio::test]
async fn who_ended_while_nobody_looked_is_treated_as_if_seen() {
    let mut bench = Bench::new().await;
    let (again, never) = (bench.running().await, bench.instance(InstanceKind::Container));
    let never = bench
        .run(DesiredInstance { spec: InstanceSpec { restart: RestartPolicy::Never, ..never.spec.clone() }, ..never })
        .await;
    bench.crash().await;
    bench.world.end(again, 1);
    bench.world.end(never, 5);
    bench.start().await;
    bench.until("restarted", |bench| bench.world.starts(again) == 2).await;
    bench.until_state(never, InstanceState::Failed).await;
    assert_eq!(bench.control.status(never).unwrap().exit.unwrap().code, 5);
    bench.clock.advance(100 * SECOND).await;
    assert_eq!(bench.world.starts(never), 1);
}

#[tokio::test]
async fn a_restart_that_was_asked_for_meets_an_end_that_nobody_saw() {
    let mut bench = Bench::new().await;
    let instance = bench.instance(InstanceKind::Container);
    let spec = InstanceSpec { restart: RestartPolicy::Never, ..instance.spec.clone() };
    let id = bench.run(DesiredInstance { spec, ..instance }).await;
    bench.crash().await;
    bench.world.end(id, 5);
    bench.world.inject(Call::Recover, Fault::slow(SECOND));
    bench.start().await;
    bench.control.edit(id, |spec| spec.restart_count = 1);
    bench.until_state(id, InstanceState::Running).await;
    bench.clock.advance(60 * SECOND).await;
    assert_eq!((bench.control.state(id), bench.world.starts(id)), (Some(InstanceState::Running), 2));
}

#[tokio::test]
async fn a_pause_before_a_restart_outlives_the_agent() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    for _ in 0..5 {
        bench.world.end(id, 1);
        bench.until_state(id, InstanceState::Failed).await;
        bench.until_state(id, InstanceState::Running).await;
    }
    bench.world.end(id, 1);
    bench.until_state(id, InstanceState::Failed).await;
    let next = bench.control.status(id).unwrap().next_restart;
    bench.crash().await;
    bench.start().await;
    bench.settle().await;
    assert_eq!(bench.control.status(id).unwrap().next_restart, next);
    assert_eq!(bench.world.starts(id), 6);
    bench.clock.advance(40 * SECOND).await;
    assert_eq!(bench.world.starts(id), 7);
}

#[tokio::test]
async fn after_a_reboot_of_the_host_instances_come_back_by_their_policy() {
    let mut bench = Bench::new().await;
    let mut ids = Vec::new();
    for (kind, policy, power) in [
        (InstanceKind::Container, "always", Power::Running),
        (InstanceKind::Vm, "on-failure", Power::Running),
        (InstanceKind::Container, "never", Power::Running),
        (InstanceKind::Container, "always", Power::Stopped),
    ] {
        let mut instance = bench.instance(kind);
        instance.spec.restart = policy.parse().unwrap();
        let id = bench.run(instance).await;
        bench.control.power(id, power);
        ids.push(id);
    }
    bench.until_state(ids[3], InstanceState::Stopped).await;
    bench.crash().await;
    bench.world.reboot();
    bench.control.set_down(true);
    bench.start().await;
    bench.clock.advance(SECOND).await;
    let running: Vec<bool> = ids.iter().map(|id| bench.world.is_running(*id)).collect();
    assert_eq!(running, [true, true, false, false], "and the control plane is not needed for it");
    bench.control.set_down(false);
    bench.until_state(ids[0], InstanceState::Running).await;
    bench.until_state(ids[2], InstanceState::Stopped).await;
    assert_eq!(bench.control.status(ids[2]).unwrap().reason.as_deref(), Some("HostRebooted"));
    assert_eq!(bench.control.status(ids[0]).unwrap().restarts, 0, "it was not its fault");
    assert!(bench.world.attachment(ids[0]).is_some());
}

#[tokio::test]
async fn what_was_halted_comes_back_with_the_next_agent() {
    let mut bench = Bench::new().await;
    let (runs, paused, stopped) = (bench.running().await, bench.running().await, bench.running().await);
    bench.control.power(paused, Power::Paused);
    bench.control.power(stopped, Power::Stopped);
    bench.until_state(paused, InstanceState::Paused).await;
    bench.until_state(stopped, InstanceState::Stopped).await;
    bench.crash().await;
    for ended in [2, 0] {
        assert_eq!(
            yun_agent::halt(&bench.config(), &bench.drivers()).await.unwrap(),
            ended,
            "and a second call finds nothing"
        );
    }
    assert!(
        [runs, paused, stopped].iter().all(|id| !bench.world.is_running(*id) && bench.world.attachment(*id).is_none())
    );
    assert_eq!(bench.world.network(bench.network.id), None);

    bench.start().await;
    bench.until_state(runs, InstanceState::Running).await;
    bench.until_state(paused, InstanceState::Paused).await;
    bench.until_state(stopped, InstanceState::Stopped).await;
    assert_eq!([runs, paused, stopped].map(|id| bench.world.starts(id)), [2, 2, 1]);
    assert_eq!(bench.control.status(runs).unwrap().restarts, 0, "nobody's fault");
    assert!(bench.world.attachment(runs).is_some());
}

#[tokio::test]
async fn orphans_are_removed_and_strangers_are_not_touched() {
    let mut bench = Bench::new().await;
    let (orphan, kept) = (bench.running().await, bench.running().await);
    bench.crash().await;
    bench.control.desk().instances.remove(&orphan);
    // Somebody else's instance on the same host: no entry in the ledger, no order.
    std::fs::rename(bench.ledger_file(kept), bench.state.path().join("aside")).unwrap();
    bench.control.desk().instances.remove(&kept);
    bench.start().await;
    bench.until("orphan gone", |bench| bench.world.leftovers(orphan).is_empty()).await;
    assert!(bench.world.is_running(kept));
    assert_eq!(bench.ledger(), [""; 0]);
}

#[tokio::test]
async fn a_lost_ledger_entry_is_made_again_from_the_order() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.crash().await;
    std::fs::write(bench.ledger_file(id), "{ half").unwrap();
    bench.start().await;
    bench.until("caught up", |bench| bench.ledger() == [id.to_string()]).await;
    bench.settle().await;
    assert_eq!(bench.world.starts(id), 1, "it runs already: start is idempotent");
    let damaged = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".damaged");
    let kept =
        std::fs::read_dir(bench.state.path().join("ledger")).unwrap().any(|file| damaged(&file.unwrap().file_name()));
    assert!(kept, "for people");
    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;
}

#[tokio::test]
async fn a_deletion_without_an_entry_still_removes_and_says_gone() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.crash().await;
    std::fs::remove_file(bench.ledger_file(id)).unwrap();
    bench.control.desk().instances.get_mut(&id).unwrap().deleting = true;
    bench.start().await;
    bench.until("gone", |bench| bench.control.gone(id)).await;
    assert_eq!(bench.world.leftovers(id), [""; 0]);
}

#[tokio::test]
async fn orders_of_an_older_placement_are_refused() {
    let mut bench = Bench::new().await;
    let mut instance = bench.instance(InstanceKind::Container);
    instance.fence = 5;
    let id = bench.run(instance.clone()).await;
    let old = DesiredInstance { fence: 4, deleting: true, generation: Generation(9), ..instance.clone() };
    bench.control.send_raw(NodeOrder::Instance(Box::new(old.clone())));
    bench.clock.advance(SECOND).await;
    assert!(bench.world.is_running(id));
    bench.crash().await;
    bench.start().await;
    bench.control.send_raw(NodeOrder::Instance(Box::new(old)));
    bench.clock.advance(SECOND).await;
    assert!(bench.world.is_running(id), "the ledger remembers the fence");

    let newer = DesiredInstance { fence: 6, ..instance };
    bench.control.want(newer);
    bench.until("reported", |bench| bench.control.report(id).unwrap().fence == 6).await;
    assert_eq!(bench.world.starts(id), 1);
}

#[tokio::test]
async fn an_instance_that_left_and_came_back_is_made_anew() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.world.inject(Call::Remove, Fault::slow(5 * SECOND));
    let away = bench.control.desk().instances.remove(&id).unwrap();
    bench.control.cut();
    bench.clock.advance(SECOND).await;
    bench.control.want(DesiredInstance { fence: 3, ..away });
    bench.until("again", |bench| bench.world.starts(id) == 2).await;
    bench
        .until("reported", |bench| {
            bench.control.report(id).unwrap().fence == 3 && bench.control.state(id) == Some(InstanceState::Running)
        })
        .await;
}

#[tokio::test]
async fn a_flapping_link_loses_nothing() {
    let mut bench = Bench::new().await;
    let mut ids = Vec::new();
    for round in 0..10u64 {
        bench.control.set_down(round % 3 == 2);
        let instance = bench.instance(InstanceKind::Container);
        ids.push(instance.id);
        bench.control.want(instance);
        bench.control.cut();
        bench.clock.advance(Duration::from_millis(137 * round)).await;
    }
    bench.control.set_down(false);
    for id in &ids {
        bench.until_state(*id, InstanceState::Running).await;
        assert_eq!(bench.world.starts(*id), 1);
    }
    let history = |bench: &Bench| bench.control.desk().history.iter().filter(|report| report.id == ids[0]).count();
    let before = history(&bench);
    bench.control.set_down(true);
    bench.world.end(ids[0], 9);
    bench.clock.advance(100 * SECOND).await;
    bench.control.set_down(false);
    bench.until("the newest counts", |bench| bench.control.status(ids[0]).unwrap().restarts == 1).await;
    let sent = history(&bench) - before;
    assert!(sent <= 2, "reports are coalesced while nobody takes them: {sent}");
}

#[tokio::test]
async fn a_control_plane_that_forgot_everything_is_told_again() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let registrations = bench.control.desk().facts.len();
    bench.control.desk().reports.clear();
    bench.control.desk().forgot_node = true;
    bench.until("registered again", |bench| bench.control.desk().facts.len() > registrations).await;
    bench.until_state(id, InstanceState::Running).await;
}

#[tokio::test]
async fn one_refused_report_does_not_hold_up_the_others() {
    let mut bench = Bench::new().await;
    let bad = bench.instance(InstanceKind::Container);
    bench.control.desk().refuse.push(bad.id);
    bench.control.want(bad.clone());
    let good = bench.instance(InstanceKind::Container);
    let good = bench.run(good).await;
    assert!(bench.world.is_running(bad.id) && bench.control.report(bad.id).is_none());
    assert!(bench.control.report(good).is_some());
}

#[tokio::test]
async fn an_attachment_that_cannot_be_taken_up_is_made_again() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.crash().await;
    bench.world.inject(Call::NetworkRecover, Fault::fails(ErrorKind::Internal, "Gone").times(1));
    let attached = bench.world.calls(Call::NetworkAttach);
    bench.start().await;
    bench.until("attached", |bench| bench.world.calls(Call::NetworkAttach) > attached).await;
    assert_eq!(bench.world.starts(id), 1);
}

#[tokio::test]
async fn two_hundred_at_once() {
    let mut bench = Bench::new().await;
    bench.world.inject(Call::Start, Fault::slow(Duration::from_millis(50)));
    let ids: Vec<InstanceId> = (0..200)
        .map(|_| {
            let instance = bench.instance(InstanceKind::Container);
            let id = instance.id;
            bench.control.want(instance);
            id
        })
        .collect();
    for id in &ids {
        bench.until_state(*id, InstanceState::Running).await;
        assert_eq!(bench.world.starts(*id), 1);
    }
    bench.crash().await;
    bench.start().await;
    bench
        .until("all owned", |bench| {
            bench.agent.as_ref().unwrap().instances().iter().filter(|view| view.live).count() == 200
        })
        .await;
    assert!(ids.iter().all(|id| bench.world.starts(*id) == 1));
    for id in &ids {
        bench.control.delete(*id);
    }
    bench.until("all gone", |bench| ids.iter().all(|id| bench.control.gone(*id))).await;
    assert_eq!(bench.world.bodies(), []);
}

#[tokio::test]
async fn a_slow_driver_does_not_keep_the_node_away_and_is_told_of_later() {
    let mut bench = Bench::without_agent();
    bench.world.inject(Call::Probe, Fault::slow(60 * SECOND).times(1));
    bench.launch_agent();
    bench.until("registered", |bench| !bench.control.desk().facts.is_empty()).await;
    let ready =
        |bench: &Bench| bench.control.desk().facts.last().unwrap().drivers.iter().filter(|driver| driver.ready).count();
    assert_eq!(ready(&bench), 3);
    let (vm, container) = (bench.instance(InstanceKind::Vm), bench.instance(InstanceKind::Container));
    for instance in [&vm, &container] {
        bench.control.want(instance.clone());
    }
    bench.clock.advance(SECOND).await;
    let running = [&vm, &container].map(|instance| bench.world.is_running(instance.id));
    assert_eq!(
        running.iter().filter(|runs| **runs).count(),
        1,
        "who is still being tried out waits, the other kind does not"
    );
    bench.clock.advance(61 * SECOND).await;
    assert_eq!(ready(&bench), 4);
    bench.until_state(vm.id, InstanceState::Running).await;
    bench.until_state(container.id, InstanceState::Running).await;
}

#[tokio::test]
async fn a_driver_that_does_not_work_is_named_with_its_reason() {
    let mut bench = Bench::without_agent();
    bench.world.inject(Call::NetworkProbe, Fault::fails(ErrorKind::Unavailable, "NoNft"));
    bench.start().await;
    let facts = bench.control.desk().facts.last().unwrap().clone();
    let network = facts.drivers.iter().find(|driver| driver.driver == "network").unwrap();
    assert!(!network.ready && network.message.as_ref().unwrap().contains("NoNft"));
}

/// More turns than any of the steps below takes.
const TURNS: usize = 120;

/// The life of one instance with the agent dying after every number of turns that it gets: whatever it was doing, the next agent ends
/// at the same place, and the process began once for each time that somebody wanted it to.
#[tokio::test]
async fn an_agent_may_die_at_any_await() {
    for turns in 0..TURNS {
        let mut bench = Bench::new().await;
        let instance = bench.instance(InstanceKind::Container);
        let id = instance.id;
        bench.control.want(instance);
        die_after(&mut bench, turns).await;
        bench.start().await;
        bench.until_state(id, InstanceState::Running).await;
        assert_eq!(bench.world.starts(id), 1, "after {turns} turns");

        bench.control.edit(id, |spec| spec.restart_count = 1);
        die_after(&mut bench, turns).await;
        bench.start().await;
        let restarted = |bench: &Bench| {
            bench
                .control
                .status(id)
                .is_some_and(|status| status.restart_count == 1 && status.state == InstanceState::Running)
        };
        bench.until("restarted", restarted).await;
        assert_eq!((bench.world.starts(id), bench.world.prepared_live(id)), (2, 0), "after {turns} turns");

        bench.control.power(id, Power::Stopped);
        die_after(&mut bench, turns).await;
        bench.start().await;
        bench.until_state(id, InstanceState::Stopped).await;
        assert!(!bench.world.is_running(id));

        bench.control.delete(id);
        die_after(&mut bench, turns).await;
        bench.start().await;
        bench.until("gone", |bench| bench.control.gone(id)).await;
        assert_eq!(bench.world.leftovers(id), [""; 0]);
        bench.until("forgotten", |bench| bench.ledger().is_empty()).await;
    }
}

async fn die_after(bench: &mut Bench, turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    bench.crash().await;
}

#[tokio::test]
async fn an_agent_that_dies_while_it_stops_something_goes_on_stopping() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.world.behave(id, Behaviour { deaf: true, ..Behaviour::default() });
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopping).await;
    bench.crash().await;
    bench.start().await;
    bench.until_state(id, InstanceState::Stopped).await;
    assert_eq!(bench.control.status(id).unwrap().exit.unwrap().signal, Some(9));
}
