//! An instance's whole life on one node, as the control plane sees it.

mod common;

use common::{Bench, SECOND};
use futures::StreamExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yun_api::node::{ImageInput, ImportRequest, LinkError, NodeLink};
use yun_drivers::{
    ErrorKind,
    fake::{Behaviour, Call, Fault},
};
use yun_engine::{
    session::{ExecRequest, Input, LogRequest, Output},
    work::Followed,
};
use yun_types::*;

#[tokio::test]
async fn a_node_registers_with_its_drivers_and_says_that_it_lives() {
    let bench = Bench::new().await;
    let facts = bench.control.desk().facts.last().unwrap().clone();
    let names: Vec<_> = facts.drivers.iter().map(|driver| (driver.driver.as_str(), driver.ready)).collect();
    assert_eq!(names, [("image", true), ("network", true), ("container", true), ("vm", true)]);
    assert_eq!(facts.taken_ranges.len(), 1);
    bench.clock.advance(10 * SECOND).await;
    assert!((5..=6).contains(&bench.control.desk().heartbeats), "{}", bench.control.desk().heartbeats);
    assert_eq!(bench.control.desk().usage.cpu, Cpu(250));
    assert_eq!(bench.control.desk().measured.node.get(Metric::Memory), Some(1 << 30));
    assert_eq!(bench.world.network(bench.network.id), Some(bench.network.clone()));
}

#[tokio::test]
async fn a_container_is_launched_stopped_started_and_deleted() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let report = bench.control.report(id).unwrap();
    assert_eq!((report.fence, report.generation), (1, Generation(1)));
    let status = bench.control.status(id).unwrap();
    assert_eq!((status.started.is_some(), status.reason, status.accel), (true, None, None));
    assert!(bench.world.attachment(id).is_some());
    assert_eq!(bench.ledger(), [id.to_string()]);
    bench.clock.advance(10 * SECOND).await;
    let measured = bench.control.desk().measured.clone();
    assert_eq!(measured.instances.len(), 1);
    assert_eq!(measured.instances[0].1.get(Metric::Memory), Some(64 << 20));

    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    bench.settle().await;
    let report = bench.control.report(id).unwrap();
    assert_eq!(report.generation, Generation(2));
    assert_eq!(bench.control.status(id).unwrap().exit.map(|exit| exit.signal), Some(Some(15)));
    assert_eq!(bench.world.attachment(id), None, "what rests holds no port");
    assert!(!bench.world.is_running(id));

    bench.control.power(id, Power::Running);
    bench.until_state(id, InstanceState::Running).await;
    assert_eq!(bench.world.starts(id), 2);
    assert_eq!(bench.control.report(id).unwrap().generation, Generation(3));

    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;
    assert_eq!(bench.world.leftovers(id), [""; 0]);
    assert_eq!(bench.ledger(), [""; 0]);
    assert!(bench.agent.as_ref().unwrap().instances().is_empty());
    assert_eq!(bench.control.reasons(), ["Started", "Stopped", "Started", "Removed"]);
}

#[tokio::test]
async fn a_quick_launch_reports_running_and_nothing_before() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let states: Vec<_> = bench.control.desk().history.iter().filter(|report| report.id == id).cloned().collect();
    assert_eq!(states.len(), 1, "{states:#?}");
}

#[tokio::test]
async fn a_launch_that_takes_its_time_is_followed() {
    let mut bench = Bench::new().await;
    bench.world.inject(Call::Prepare, Fault::slow(SECOND));
    bench.world.inject(Call::Start, Fault::slow(SECOND));
    let id = bench.running().await;
    let states: Vec<_> = bench
        .control
        .desk()
        .history
        .iter()
        .filter(|report| report.id == id)
        .map(|report| report.observed.clone())
        .collect();
    let states: Vec<_> = states
        .into_iter()
        .map(|observed| if let ObservedInstance::State(state) = observed { state.state } else { unreachable!() })
        .collect();
    assert_eq!(states, [InstanceState::Preparing, InstanceState::Starting, InstanceState::Running]);
}

#[tokio::test]
async fn what_should_not_run_is_not_even_prepared() {
    let mut bench = Bench::new().await;
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.power = Power::Stopped;
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Stopped).await;
    assert_eq!((bench.world.calls(Call::Prepare), bench.world.calls(Call::NetworkAttach)), (0, 0));
}

#[tokio::test]
async fn pause_and_resume() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.control.power(id, Power::Paused);
    bench.until_state(id, InstanceState::Paused).await;
    assert!(bench.world.is_paused(id));
    bench.control.power(id, Power::Running);
    bench.until_state(id, InstanceState::Running).await;
    assert!(!bench.world.is_paused(id));
    bench.control.power(id, Power::Paused);
    bench.until_state(id, InstanceState::Paused).await;
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    assert_eq!(bench.world.starts(id), 1);
}

#[tokio::test]
async fn what_is_born_paused_starts_and_freezes() {
    let mut bench = Bench::new().await;
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.power = Power::Paused;
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Paused).await;
    assert_eq!(bench.control.report(id).unwrap().generation, Generation(1));
}

#[tokio::test]
async fn a_restart_is_asked_for_by_a_count() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    for count in 1..=2 {
        bench.control.edit(id, |spec| spec.restart_count = count);
        bench
            .until("carried out", |bench| {
                bench
                    .control
                    .status(id)
                    .is_some_and(|status| status.restart_count == count && status.state == InstanceState::Running)
            })
            .await;
    }
    assert_eq!(bench.world.starts(id), 3);
    assert_eq!(bench.control.status(id).unwrap().restarts, 0, "these were asked for");
    bench.clock.advance(60 * SECOND).await;
    assert_eq!(bench.world.starts(id), 3);
}

#[tokio::test]
async fn a_restart_of_what_has_ended_starts_it() {
    let mut bench = Bench::new().await;
    let mut instance = bench.instance(InstanceKind::Container);
    instance.spec.restart = RestartPolicy::Never;
    let id = bench.run(instance).await;
    bench.world.end(id, 0);
    bench.until_state(id, InstanceState::Stopped).await;
    bench.control.edit(id, |spec| spec.restart_count = 1);
    bench.until_state(id, InstanceState::Running).await;
}

#[tokio::test]
async fn new_ports_are_published_while_it_runs() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let mut instance = bench.control.desk().instances[&id].clone();
    let port: PublishedPort = "8080:80".parse().unwrap();
    instance.nic.publish = vec![port];
    instance.spec.publish = vec![port];
    instance.generation = Generation(2);
    bench.control.want(instance);
    bench
        .until("published", |bench| {
            bench.world.attachment(id).is_some_and(|attachment| attachment.nic.publish == [port])
        })
        .await;
    bench.until("caught up", |bench| bench.control.report(id).unwrap().generation == Generation(2)).await;
    assert_eq!(bench.world.starts(id), 1);
    assert_eq!(bench.control.status(id).unwrap().reason, None);
}

#[tokio::test]
async fn a_container_gets_its_new_limits_while_it_runs() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.control.edit(id, |spec| {
        spec.size = "cpu:2".parse().unwrap();
        spec.container.pids = Some(7);
    });
    bench.until("caught up", |bench| bench.control.report(id).unwrap().generation == Generation(2)).await;
    assert!(bench.control.reasons().contains(&"Adjusted".to_owned()));
    assert_eq!((bench.control.status(id).unwrap().reason, bench.world.starts(id)), (None, 1));
}

#[tokio::test]
async fn a_new_size_counts_at_once_or_waits_for_a_restart_and_says_so() {
    let mut bench = Bench::new().await;
    let machine = bench.instance(InstanceKind::Vm);
    let id = bench.run(machine).await;
    bench.control.edit(id, |spec| spec.size = "cpu:2".parse().unwrap());
    bench.until("it has it", |bench| bench.world.prepared(id).unwrap().spec.size.cpu == Cpu::cores(2)).await;
    assert!(bench.control.status(id).unwrap().reason.is_none());
    // More than it has places for.
    bench.control.edit(id, |spec| spec.size = "cpu:8".parse().unwrap());
    bench.until("told", |bench| bench.control.status(id).unwrap().reason.as_deref() == Some("RestartNeeded")).await;
    assert_eq!(bench.world.starts(id), 1);
    let message = bench.control.status(id).unwrap().message.unwrap();
    assert!(message.contains("size") && message.contains("places for 4 processors"), "{message}");
    bench.control.edit(id, |spec| spec.restart_count += 1);
    bench
        .until("restarted", |bench| {
            bench.control.status(id).unwrap().restart_count == 1
                && bench.control.state(id) == Some(InstanceState::Running)
        })
        .await;
    assert_eq!(bench.world.prepared(id).unwrap().spec.size.cpu, Cpu::cores(8));
    bench.until("nothing is left to say", |bench| bench.control.status(id).unwrap().reason.is_none()).await;
}

#[tokio::test]
async fn a_deletion_does_not_wait_for_a_stop_or_a_start() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    bench.world.behave(id, Behaviour { deaf: true, ..Behaviour::default() });
    bench.control.edit(id, |spec| {
        spec.power = Power::Stopped;
        spec.stop_timeout = Some(3600);
    });
    bench.until_state(id, InstanceState::Stopping).await;
    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;

    bench.world.inject(Call::Start, Fault::hangs_after());
    let second = bench.instance(InstanceKind::Container);
    let id = second.id;
    bench.control.want(second);
    bench.until_state(id, InstanceState::Starting).await;
    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;
    assert_eq!(bench.world.leftovers(id), [""; 0]);
    assert!(bench.clock.sleepers() < 10);
}

#[tokio::test]
async fn a_stop_takes_a_start_back() {
    let mut bench = Bench::new().await;
    bench.world.inject(Call::Start, Fault::hangs_after());
    let instance = bench.instance(InstanceKind::Container);
    let id = instance.id;
    bench.control.want(instance);
    bench.until("hangs", |bench| bench.world.is_running(id)).await;
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    assert!(!bench.world.is_running(id));
}

#[tokio::test]
async fn a_vm_boots_until_its_guest_answers() {
    let mut bench = Bench::new().await;
    bench.world.behave_all(Behaviour { boots_after: Some(20 * SECOND), ..Behaviour::default() });
    let instance = bench.instance(InstanceKind::Vm);
    let id = bench.run(instance).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!((status.reason.as_deref(), status.accel.as_deref()), (Some("Booting"), Some("tcg")));
    assert_eq!(bench.control.report(id).unwrap().generation, Generation(1), "a launch ends when the processor runs");
    bench.clock.advance(21 * SECOND).await;
    assert_eq!(bench.control.status(id).unwrap().reason, None);
}

#[tokio::test]
async fn a_vm_whose_guest_never_answers_has_failed() {
    let mut bench = Bench::new().await;
    bench.world.behave_all(Behaviour { boots_after: Some(3600 * SECOND), ..Behaviour::default() });
    let mut instance = bench.instance(InstanceKind::Vm);
    instance.spec.vm.boot_timeout = Some(30);
    let id = bench.run(instance).await;
    bench.until_state(id, InstanceState::Failed).await;
    let status = bench.control.status(id).unwrap();
    assert_eq!(status.reason.as_deref(), Some("BootTimeout"));
    assert!(status.message.unwrap().contains("Kernel panic"), "with the last lines of its console");
    assert!(!bench.world.is_running(id), "it gives back what it holds");
    bench.clock.advance(600 * SECOND).await;
    assert_eq!(bench.world.starts(id), 1, "booting it again would end the same way");
}

#[tokio::test]
async fn networks_follow_their_orders() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let mut network = bench.network.clone();
    network.records = vec![DnsRecord { name: "i1.default.yun".into(), address: [10, 77, 0, 2].into() }];
    bench.control.network(network.clone());
    bench.until("records", |bench| bench.world.network(network.id).as_ref() == Some(&network)).await;

    bench.control.network_gone(network.id);
    bench.settle().await;
    assert!(bench.world.network(network.id).is_some(), "an instance is attached");
    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id) && bench.world.network(network.id).is_none()).await;
    assert!(std::fs::read_dir(bench.state.path().join("ledger/networks")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_network_lingers_for_the_next_instance_and_goes_with_the_agent() {
    let mut bench = Bench::without_agent();
    bench.linger = 30 * SECOND;
    bench.start().await;
    let network = bench.network.clone();
    let there = |bench: &Bench| bench.world.network(network.id).is_some();
    bench.control.network_gone(network.id);
    bench.clock.advance(20 * SECOND).await;
    assert!(there(&bench), "it lingers");
    bench.control.network(network.clone());
    let id = bench.running().await;
    bench.clock.advance(60 * SECOND).await;
    assert!(there(&bench), "it is needed again");

    bench.control.delete(id);
    bench.until("gone", |bench| bench.control.gone(id)).await;
    bench.control.network_gone(network.id);
    bench.clock.advance(20 * SECOND).await;
    assert!(there(&bench));
    bench.clock.advance(11 * SECOND).await;
    assert!(!there(&bench), "its time is over");

    bench.control.network(network.clone());
    bench.until("made again", there).await;
    bench.control.network_gone(network.id);
    bench.settle().await;
    assert!(there(&bench));
    bench.agent.take().unwrap().stop(SECOND).await;
    assert!(!there(&bench), "nobody would remove it later");
}

#[tokio::test]
async fn a_network_that_lingers_makes_room_for_another_with_its_range() {
    let mut bench = Bench::without_agent();
    bench.linger = 30 * SECOND;
    bench.start().await;
    let old = bench.network.id;
    bench.control.network_gone(old);
    bench.settle().await;
    bench.world.inject(Call::NetworkEnsure, Fault::fails(ErrorKind::Conflict, "RangeTaken").times(1));
    let other = DesiredNetwork { id: NetworkId(uuid::Uuid::from_u128(0xf)), ..bench.network.clone() };
    bench.control.network(other.clone());
    bench.clock.advance(SECOND).await;
    assert_eq!(bench.world.network(old), None);
    assert!(bench.world.network(other.id).is_some());
}

#[tokio::test]
async fn many_changes_of_a_network_are_few_calls() {
    let bench = Bench::new().await;
    bench.world.inject(Call::NetworkEnsure, Fault::slow(SECOND));
    let before = bench.world.calls(Call::NetworkEnsure);
    for n in 0..100u8 {
        let records = vec![DnsRecord { name: "x.default.yun".into(), address: [10, 77, 1, n].into() }];
        bench.control.network(DesiredNetwork { records, ..bench.network.clone() });
        bench.settle().await;
    }
    bench.clock.advance(3 * SECOND).await;
    assert!(bench.world.calls(Call::NetworkEnsure) - before <= 13);
    assert_eq!(bench.world.network(bench.network.id).unwrap().records[0].address.octets()[3], 99, "the newest counts");
}

#[tokio::test]
async fn an_instance_waits_for_a_network_that_is_named_right_after_it() {
    let mut bench = Bench::without_agent();
    let network = bench.control.desk().networks.remove(&bench.network.id).unwrap();
    bench.start().await;
    let instance = bench.instance(InstanceKind::Container);
    let id = instance.id;
    bench.control.want(instance);
    bench.until_state(id, InstanceState::Preparing).await;
    bench.control.network(network);
    bench.until_state(id, InstanceState::Running).await;
    assert!(!bench.control.desk().history.iter().any(
        |report| matches!(&report.observed, ObservedInstance::State(state) if state.state == InstanceState::Failed)
    ));
}

#[tokio::test]
async fn an_image_goes_when_its_last_instance_does() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let digest = bench.container_image.clone();
    bench.control.image_gone(&digest);
    bench.settle().await;
    assert!(bench.world.images().contains(&digest), "an instance was made from it");
    bench.control.delete(id);
    bench.until("removed", |bench| !bench.world.images().contains(&digest)).await;
    bench.control.image_gone(&bench.vm_image.clone());
    bench.until("removed", |bench| bench.world.images().is_empty()).await;
}

#[tokio::test]
async fn sessions_go_to_the_instance() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let node = bench.control.callback();

    let command = ["echo", "hello"].map(str::to_owned).to_vec();
    let mut session = node.exec(id, ExecRequest { command, ..ExecRequest::default() }).await.unwrap();
    assert_eq!(session.output.recv().await, Some(Output::Stdout("hello\n".into())));
    assert!(matches!(session.output.recv().await, Some(Output::Exit(exit)) if exit.code == 0));

    let mut session =
        node.exec(id, ExecRequest { command: vec!["cat".into()], ..ExecRequest::default() }).await.unwrap();
    session.input.send(Input::Stdin("over and out".into())).await.unwrap();
    assert_eq!(session.output.recv().await, Some(Output::Stdout("over and out".into())));
    session.input.send(Input::Signal(9)).await.unwrap();
    assert!(matches!(session.output.recv().await, Some(Output::Exit(exit)) if exit.signal == Some(9)));

    let mut stream = node.dial(id, 80).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");

    let refused = node.console(id).await.unwrap_err();
    assert!(refused.to_string().contains("yun exec"), "{refused}");
    let unknown = InstanceId(uuid::Uuid::from_u128(99));
    assert!(matches!(node.exec(unknown, ExecRequest::default()).await, Err(LinkError::NotFound(_))));
    assert!(matches!(node.dial(unknown, 80).await.err(), Some(LinkError::NotFound(_))));
}

#[tokio::test]
async fn sessions_need_a_running_instance_and_logs_do_not() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    for line in ["one", "two", "three"] {
        bench.world.write_log(id, line);
    }
    bench.control.power(id, Power::Stopped);
    bench.until_state(id, InstanceState::Stopped).await;
    let agent = bench.agent.clone().unwrap();
    assert!(
        matches!(agent.exec(id, ExecRequest::default()).await, Err(LinkError::Refused(failure)) if failure.code == "NotRunning")
    );
    let lines = agent.logs(id, LogRequest { tail: Some(2), follow: true, ..LogRequest::default() }).await.unwrap();
    let lines: Vec<_> = lines.map(|line| line.unwrap().text).collect().await;
    assert_eq!(lines, ["two", "three"]);
}

#[tokio::test]
async fn images_are_taken_in_built_and_kept() {
    let bench = Bench::new().await;
    let node = bench.control.callback();
    let upload = |bytes: &'static [u8]| ImageInput::Upload(futures::stream::iter([Ok(bytes.into())]).boxed());
    let vm = node.import_image(upload(b"QFI\xfbdisk"), ImportRequest::default(), Followed::default()).await.unwrap();
    assert_eq!(vm.kind, InstanceKind::Vm);
    bench.control.cut();
    bench.clock.advance(SECOND).await;
    assert!(
        bench.world.images().contains(&vm.digest),
        "a snapshot that does not name it yet must not cost us what was just taken in"
    );

    let wrong = ImportRequest { checksum: Some(vm.digest.clone()), ..ImportRequest::default() };
    let refused = node.import_image(upload(b"other"), wrong, Followed::default()).await.unwrap_err();
    assert!(matches!(refused, LinkError::Refused(failure) if failure.code == "ChecksumMismatch"));

    let recipe =
        ImageRecipe { base: RecipeBase::Busybox, packages: vec![], suite: None, entrypoint: vec![], command: vec![] };
    let work = Followed::default();
    let built = node.build_image(recipe.clone(), work.clone()).await.unwrap();
    assert_eq!(built.kind, InstanceKind::Container);
    assert_eq!(work.progress().borrow().percent, Some(90));
    node.verify_image(built.digest.clone()).await.unwrap();
    bench.world.damage_image(&built.digest);
    assert!(node.verify_image(built.digest).await.unwrap_err().to_string().contains("damaged"));

    bench.world.inject(Call::ImageBuild, Fault::hangs_before());
    let work = Followed::default();
    let build = node.build_image(recipe, work.clone());
    let cancel = async {
        bench.clock.advance(Duration::from_secs(5)).await;
        work.cancel();
    };
    let (built, ()) = tokio::join!(build, cancel);
    assert_eq!(built, Err(LinkError::Cancelled));
}

#[tokio::test]
async fn the_agent_stops_and_the_instances_go_on() {
    let mut bench = Bench::new().await;
    let id = bench.running().await;
    let agent = bench.agent.take().unwrap();
    let (left, ()) = tokio::join!(agent.stop(5 * SECOND), bench.settle());
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.tasks.list(), []);
    assert!(bench.world.is_running(id));
}
