//! Tests of when an operation has ended, and what it says until then.

use super::*;
use crate::samples;
use proptest::prelude::*;
use yun_types::{Exit, Generation};

fn settled(kind: Kind, change: impl FnOnce(&mut Instance)) -> Option<OperationStatus> {
    let mut web = samples::instance("web");
    web.metadata.generation = Generation(2);
    web.status.observed_generation = Generation(2);
    change(&mut web);
    settle(&samples::operation(kind, &web), Some(&web), samples::at(9))
}

fn state(kind: Kind, change: impl FnOnce(&mut Instance)) -> OperationState {
    settled(kind, change).map_or(OperationState::Running, |status| status.state)
}

fn is(state: State, power: Power) -> impl FnOnce(&mut Instance) {
    move |web| {
        web.status.state = state;
        web.spec.power = power;
    }
}

use OperationState::{Cancelled, Failed, Running, Succeeded};

#[test]
fn each_kind_ends_with_the_state_it_asked_for() {
    let on = Power::Running;
    for (kind, power, reached, expected) in [
        (Kind::InstanceLaunch, on, State::Pending, Running),
        (Kind::InstanceLaunch, on, State::Preparing, Running),
        (Kind::InstanceLaunch, on, State::Running, Succeeded),
        (Kind::InstanceLaunch, Power::Stopped, State::Stopped, Succeeded),
        (Kind::InstanceLaunch, on, State::Failed, Failed),
        (Kind::InstanceLaunch, on, State::Lost, Running),
        (Kind::InstanceStart, on, State::Starting, Running),
        (Kind::InstanceStart, on, State::Running, Succeeded),
        (Kind::InstanceStart, on, State::Failed, Failed),
        (Kind::InstanceStart, Power::Stopped, State::Stopped, Cancelled),
        (Kind::InstanceStop, Power::Stopped, State::Stopping, Running),
        (Kind::InstanceStop, Power::Stopped, State::Stopped, Succeeded),
        (Kind::InstanceStop, Power::Stopped, State::Failed, Succeeded),
        (Kind::InstanceStop, on, State::Running, Cancelled),
        (Kind::InstancePause, Power::Paused, State::Running, Running),
        (Kind::InstancePause, Power::Paused, State::Paused, Succeeded),
        (Kind::InstancePause, Power::Paused, State::Stopped, Failed),
        (Kind::InstancePause, on, State::Running, Cancelled),
        (Kind::InstanceResume, on, State::Paused, Running),
        (Kind::InstanceResume, on, State::Running, Succeeded),
        (Kind::InstanceResume, Power::Paused, State::Paused, Cancelled),
        (Kind::InstanceRestart, on, State::Stopping, Running),
        (Kind::InstanceRestart, on, State::Running, Succeeded),
        (Kind::InstanceRestart, on, State::Failed, Failed),
        (Kind::InstanceRestart, Power::Stopped, State::Stopped, Cancelled),
        (Kind::InstanceUpdate, on, State::Running, Succeeded),
        (Kind::InstanceDelete, on, State::Running, Running),
    ] {
        assert_eq!(state(kind, is(reached, power)), expected, "{kind} {power:?} {reached}");
    }
}

#[test]
fn an_old_report_ends_nothing() {
    for kind in [Kind::InstanceStart, Kind::InstanceRestart, Kind::InstanceResume, Kind::InstanceUpdate] {
        assert_eq!(state(kind, |web| web.status.observed_generation = Generation(1)), Running, "{kind}");
    }
    assert_eq!(
        state(Kind::InstanceRestart, |web| web.spec.restart_count = 1),
        Running,
        "the node has not restarted it yet"
    );
}

#[test]
fn a_change_of_what_is_nowhere_is_done_at_once() {
    assert_eq!(
        state(Kind::InstanceUpdate, |web| {
            web.status.observed_generation = Generation(0);
            web.status.node = None;
        }),
        Succeeded
    );
}

#[test]
fn failures_carry_the_words_of_the_node() {
    let status = settled(Kind::InstanceLaunch, |web| {
        web.status.state = State::Failed;
        web.status.reason = Some("EntrypointNotFound".into());
        web.status.message = Some("the image has no /bin/nope".into());
    })
    .unwrap();
    let failure = status.error.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str()),
        ("EntrypointNotFound", "instance web failed: the image has no /bin/nope")
    );
    assert_eq!((status.ended, status.cancellable), (Some(samples::at(9)), false));

    let silent = settled(Kind::InstanceLaunch, |web| {
        web.status.state = State::Failed;
        web.status.exit = Some(Exit { code: 3, signal: None, out_of_memory: false, at: samples::at(3) });
    });
    assert!(silent.unwrap().error.unwrap().message.contains("ended with code 3; see yun logs web"));
}

#[test]
fn a_policy_that_tries_again_gets_some_patience() {
    let trying = |restarts| {
        move |web: &mut Instance| {
            web.status.state = State::Failed;
            web.status.next_restart = Some(samples::at(5));
            web.status.restarts = restarts;
        }
    };
    assert_eq!(state(Kind::InstanceLaunch, trying(0)), Running);
    assert_eq!(state(Kind::InstanceLaunch, trying(PATIENCE - 1)), Running);
    assert_eq!(state(Kind::InstanceLaunch, trying(PATIENCE)), Failed);
}

#[test]
fn short_work_that_has_ended_was_launched() {
    let status = settled(Kind::InstanceLaunch, |web| {
        web.status.state = State::Stopped;
        web.status.exit = Some(Exit { code: 0, signal: None, out_of_memory: false, at: samples::at(3) });
    })
    .unwrap();
    assert_eq!((status.state, status.progress.message.as_str()), (Succeeded, "instance web ran and ended with code 0"));
}

#[test]
fn deletion_ends_everything_else_and_itself_when_nothing_is_left() {
    let leaving = |web: &mut Instance| web.metadata.deleting = Some(samples::at(2));
    assert_eq!(state(Kind::InstanceLaunch, leaving), Cancelled);
    assert_eq!(state(Kind::InstanceStop, leaving), Cancelled);
    assert_eq!(state(Kind::InstanceDelete, leaving), Running);

    let web = samples::instance("web");
    let end = |kind| settle(&samples::operation(kind, &web), None, samples::at(9)).map(|status| status.state);
    assert_eq!(end(Kind::InstanceDelete), Some(Succeeded));
    assert_eq!(end(Kind::InstanceLaunch), Some(Cancelled));
    assert_eq!(end(Kind::ImageImport), None, "images end with their own work");
}

#[test]
fn who_takes_a_launch_back_waits_until_nothing_is_left() {
    let mut web = samples::instance("web");
    let mut launch = samples::operation(Kind::InstanceLaunch, &web);
    launch.spec.cancel = true;
    web.metadata.deleting = Some(samples::at(2));
    assert_eq!(settle(&launch, Some(&web), samples::at(9)), None);
    let end = settle(&launch, None, samples::at(9)).unwrap();
    assert_eq!((end.state, end.progress.message.as_str()), (Cancelled, "taken back; instance web is deleted"));
}

#[test]
fn progress_says_where_and_what() {
    let says = |kind, change: fn(&mut Instance)| {
        let mut web = samples::instance("web");
        change(&mut web);
        progress(&samples::operation(kind, &web), Some(&web)).message
    };
    assert_eq!(says(Kind::InstanceLaunch, |web| web.status.state = State::Scheduled), "placed on node a");
    assert_eq!(
        says(Kind::InstanceLaunch, |web| {
            web.status.state = State::Preparing;
            web.status.message = Some("copying the disk".into());
        }),
        "preparing on node a: copying the disk"
    );
    assert_eq!(says(Kind::InstanceStop, |_| ()), "asking it to end");
    assert_eq!(says(Kind::InstanceDelete, |_| ()), "removing what it owns on node a");
    assert_eq!(says(Kind::InstanceStart, |web| web.status.state = State::Lost), "waits on node a, which is silent");
    assert_eq!(
        progress(&samples::operation(Kind::InstanceLaunch, &samples::instance("web")), None),
        Progress::default()
    );
}

#[test]
fn only_what_makes_something_can_be_taken_back() {
    assert!(cancellable(Kind::InstanceLaunch) && cancellable(Kind::ImageImport) && cancellable(Kind::ImageBuild));
    assert!(!cancellable(Kind::InstanceDelete) && !cancellable(Kind::InstanceStop));
}

const KINDS: [Kind; 8] = [
    Kind::InstanceLaunch,
    Kind::InstanceStart,
    Kind::InstanceStop,
    Kind::InstanceRestart,
    Kind::InstancePause,
    Kind::InstanceResume,
    Kind::InstanceUpdate,
    Kind::InstanceDelete,
];
const STATES: [State; 11] = [
    State::Pending,
    State::Scheduled,
    State::Preparing,
    State::Starting,
    State::Running,
    State::Paused,
    State::Stopping,
    State::Stopped,
    State::Failed,
    State::Deleting,
    State::Lost,
];

proptest! {
    #[test]
    fn an_end_is_an_end(kind in 0usize..8, at in 0usize..11, power in 0usize..3, behind: bool, leaving: bool, cancel: bool) {
        let mut web = samples::instance("web");
        web.status.state = STATES[at];
        web.spec.power = [Power::Running, Power::Paused, Power::Stopped][power];
        web.metadata.generation = Generation(1 + u64::from(behind));
        web.metadata.deleting = leaving.then(|| samples::at(1));
        let mut operation = samples::operation(KINDS[kind], &web);
        operation.spec.cancel = cancel;
        if let Some(status) = settle(&operation, Some(&web), samples::at(9)) {
            prop_assert!(status.state.ended() && status.ended.is_some() && !status.cancellable);
            prop_assert_eq!(status.error.is_some(), status.state == Failed);
            prop_assert!(!status.progress.message.is_empty());
            operation.status = status;
            prop_assert_eq!(settle(&operation, Some(&web), samples::at(10)), None);
        } else {
            prop_assert!(!progress(&operation, Some(&web)).message.is_empty());
            prop_assert!(settle(&operation, None, samples::at(9)).is_some(), "nothing waits for an instance that is gone");
        }
    }
}

#[test]
fn a_restore_ends_when_the_node_has_carried_it_out() {
    let mut web = samples::instance("web");
    let restore = samples::operation(Kind::InstanceRestore, &web);
    web.metadata.generation = Generation(2);
    web.status.origin.restore = Some(yun_types::Restore {
        count: 3,
        snapshot: yun_types::SnapshotId(samples::id("s")),
        name: samples::name("before"),
        memory: false,
    });
    (web.status.restores, web.status.observed_generation) = (2, Generation(2));
    assert_eq!(settle(&restore, Some(&web), samples::at(1)), None, "it was not carried out yet");
    web.status.restores = 3;
    let ended = settle(&restore, Some(&web), samples::at(1)).unwrap();
    assert_eq!(ended.state, OperationState::Succeeded);
    web.status.state = State::Failed;
    web.status.message = Some("the snapshot is damaged".into());
    let failed = settle(&restore, Some(&web), samples::at(1)).unwrap();
    assert!(failed.state == OperationState::Failed && failed.error.unwrap().message.contains("is damaged"));
}

#[test]
fn a_hibernation_that_did_not_work_is_told_while_the_machine_goes_on() {
    let mut vm = samples::instance("vm1");
    let hibernation = samples::operation(Kind::InstanceHibernate, &vm);
    vm.spec.power = yun_types::Power::Hibernated;
    vm.metadata.generation = Generation(2);
    assert_eq!(settle(&hibernation, Some(&vm), samples::at(1)), None);
    vm.status.reason = Some("RestartNeeded".into());
    vm.status.message = Some("the new size".into());
    assert_eq!(settle(&hibernation, Some(&vm), samples::at(1)), None, "a remark is no failure");
    vm.status.reason = Some("DiskFull".into());
    vm.status.message = Some("the disk is full".into());
    assert_eq!(settle(&hibernation, Some(&vm), samples::at(1)).unwrap().state, OperationState::Failed);
    vm.status.state = State::Hibernated;
    vm.status.observed_generation = Generation(2);
    assert_eq!(settle(&hibernation, Some(&vm), samples::at(1)).unwrap().state, OperationState::Succeeded);
}

#[test]
fn what_is_ended_by_its_work_is_left_to_it() {
    let web = samples::instance("web");
    for kind in [Kind::SnapshotCreate, Kind::SnapshotDelete, Kind::ImageBuild] {
        let operation = samples::operation(kind, &web);
        assert_eq!(settle(&operation, None, samples::at(1)), None);
        assert_eq!(settle(&operation, Some(&web), samples::at(1)), None);
    }
}
