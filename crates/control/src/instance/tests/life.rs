//! From the request until nothing is left.

use super::*;

#[tokio::test]
async fn a_launch_goes_from_the_request_to_a_running_instance() {
    let (cloud, node) = Cloud::usual().await;
    let operation = cloud.create("web", |_| {}).await.unwrap();
    assert_eq!(operation.spec.kind, OperationKind::InstanceLaunch);
    let end = cloud.end(&operation).await;
    assert_eq!(end.status.state, OperationState::Succeeded);
    assert_eq!(end.status.progress.percent, Some(100));

    let web = cloud.instance("web").unwrap();
    assert_eq!(
        (web.status.state, web.status.observed_generation, web.status.fence),
        (InstanceState::Running, Generation(1), 1)
    );
    assert_eq!(web.spec.kind, Some(InstanceKind::Container));
    assert!(web.status.address.unwrap().octets()[3] == 2 && web.status.mac.as_ref().unwrap().starts_with("02:"));
    assert_eq!(end.status.progress.message, format!("instance web runs on node a at {}", web.status.address.unwrap()));
    assert_eq!(web.status.image.unwrap().digest, container_image(1).digest);
    cloud.tells("web", &["Created", "Scheduled", "Started"]).await;

    let desired = node.desired("web").unwrap();
    assert_eq!(
        (desired.nic.address, desired.fence, desired.domain().as_str()),
        (web.status.address.unwrap(), 1, "web.default.yun")
    );
    let networks: Vec<DesiredNetwork> = node
        .told()
        .into_iter()
        .filter_map(|order| if let NodeOrder::Network(network) = order { Some(network) } else { None })
        .collect();
    assert_eq!(
        networks.last().unwrap().records,
        [DnsRecord { name: "web.default.yun".into(), address: desired.nic.address }]
    );
}

#[tokio::test]
async fn reports_move_the_state_and_tell_progress() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let operation = cloud.create("web", |_| {}).await.unwrap();
    assert!(operation.status.state == OperationState::Running && operation.status.cancellable);
    node.says("web", ObservedState { message: Some("unpacking busybox".into()), ..in_state(InstanceState::Preparing) })
        .await;
    let now = crate::operation::ops::find(&cloud.c, &admin(), OperationId(operation.metadata.id)).await.unwrap();
    assert_eq!(
        now.status.progress,
        Progress { percent: Some(30), message: "preparing on node a: unpacking busybox".into() }
    );
    assert_ne!(now.metadata.revision, operation.metadata.revision);
    node.says("web", in_state(InstanceState::Running)).await;
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_launch_that_fails_says_why() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let operation = cloud.create("web", |_| {}).await.unwrap();
    let state = ObservedState {
        reason: Some("EntrypointNotFound".into()),
        message: Some("the image has no /bin/nope; name another with --entrypoint".into()),
        ..in_state(InstanceState::Failed)
    };
    node.says("web", state).await;
    let failure = cloud.end(&operation).await.status.error.unwrap();
    assert_eq!(failure.code, "EntrypointNotFound");
    assert_eq!(failure.message, "instance web failed: the image has no /bin/nope; name another with --entrypoint");
    cloud.tells("web", &["Created", "Scheduled", "EntrypointNotFound"]).await;
}

#[tokio::test]
async fn stop_start_pause_resume_and_restart_reach_the_node_and_end() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    for (action, state, kind) in [
        (InstanceAction::Stop, InstanceState::Stopped, OperationKind::InstanceStop),
        (InstanceAction::Start, InstanceState::Running, OperationKind::InstanceStart),
        (InstanceAction::Pause, InstanceState::Paused, OperationKind::InstancePause),
        (InstanceAction::Resume, InstanceState::Running, OperationKind::InstanceResume),
        (InstanceAction::Restart, InstanceState::Running, OperationKind::InstanceRestart),
    ] {
        let operation = cloud.act("web", action).await.unwrap();
        let end = cloud.end(&operation).await;
        assert_eq!(
            (end.spec.kind, end.status.state, cloud.state("web")),
            (kind, OperationState::Succeeded, Some(state)),
            "{action}"
        );
    }
    let web = cloud.instance("web").unwrap();
    assert_eq!((web.metadata.generation, web.spec.restart_count, web.status.restart_count), (Generation(6), 1, 1));
    assert_eq!(node.desired("web").unwrap().generation, Generation(6));
    cloud.tells("web", &["Stopped", "Started", "Paused", "Resumed"]).await;
}

#[tokio::test]
async fn asking_for_what_is_so_already_succeeds_and_changes_nothing() {
    let (cloud, _node) = Cloud::usual().await;
    let before = cloud.launch("web", |_| {}).await;
    let operation = cloud.act("web", InstanceAction::Start).await.unwrap();
    assert_eq!(
        (operation.status.state, operation.status.progress.message.as_str()),
        (OperationState::Succeeded, "instance web runs already")
    );
    assert_eq!(cloud.instance("web").unwrap(), before);
}

#[tokio::test]
async fn what_has_ended_by_itself_is_started_again_by_a_new_wish() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("job", |_| {}).await;
    node.says("job", in_state(InstanceState::Stopped)).await;
    let operation = cloud.act("job", InstanceAction::Start).await.unwrap();
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.instance("job").unwrap().spec.restart_count, 1);
}

#[tokio::test]
async fn a_timeout_counts_for_one_stop_only() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let stop =
        ops::action(&cloud.c, &admin(), &name("default"), &named("web"), InstanceAction::Stop, Some(3)).await.unwrap();
    cloud.end(&stop).await;
    assert_eq!(node.desired("web").unwrap().spec.stop_timeout, Some(3));
    assert_eq!(cloud.instance("web").unwrap().spec.stop_timeout, None);
    let start = cloud.act("web", InstanceAction::Start).await.unwrap();
    cloud.end(&start).await;
    assert_eq!(node.desired("web").unwrap().spec.stop_timeout, None);
    let error =
        ops::action(&cloud.c, &admin(), &name("default"), &named("web"), InstanceAction::Stop, Some(99_999)).await;
    assert!(text(error).contains("at most 3600 seconds"));
}

#[tokio::test]
async fn a_later_request_takes_an_earlier_one_over() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    node.disobey();
    let stop = cloud.act("web", InstanceAction::Stop).await.unwrap();
    node.says("web", in_state(InstanceState::Stopping)).await;
    cloud.act("web", InstanceAction::Start).await.unwrap();
    let end = cloud.end(&stop).await;
    assert_eq!(end.status.state, OperationState::Cancelled);
    assert!(end.status.progress.message.contains("a later request asked for something else"));
}

#[tokio::test]
async fn deletion_ends_when_the_node_says_that_nothing_is_left() {
    let (cloud, node) = Cloud::usual().await;
    let web = cloud.launch("web", |_| {}).await;
    node.disobey();
    let operation = cloud.delete("web").await.unwrap();
    assert_eq!(operation.status.state, OperationState::Running);
    eventually("the node is told", || node.desired("web").unwrap().deleting).await;
    assert_eq!(cloud.state("web"), Some(InstanceState::Deleting));
    assert_eq!(
        cloud.delete("web").await.unwrap().metadata.id,
        operation.metadata.id,
        "asked again, the same deletion is followed"
    );
    node.says("web", in_state(InstanceState::Stopping)).await;
    assert_eq!(cloud.state("web"), Some(InstanceState::Deleting));
    assert!(text(cloud.act("web", InstanceAction::Start).await).contains("is being deleted"));
    node.says_gone("web").await;
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.instance("web"), None);
    assert!(cloud.c.explanations.get(&[&web.metadata.id.to_string()]).await.unwrap().is_none());
    cloud.tells("web", &["Deleting", "Deleted"]).await;
}

#[tokio::test]
async fn a_name_is_free_again_and_its_address_rests() {
    let (cloud, node) = Cloud::usual().await;
    let first = cloud.launch("web", |_| {}).await;
    let operation = cloud.delete("web").await.unwrap();
    cloud.end(&operation).await;
    let second = cloud.launch("web", |_| {}).await;
    assert_ne!(first.metadata.id, second.metadata.id);
    assert_ne!(first.status.address, second.status.address, "neighbours still know the old hardware address");
    for _ in 0..7 {
        cloud.clock.advance(Duration::from_secs(9)).await;
        yun_api::node::ControlLink::heartbeat(&node.link, node.id, NodeUsage::default()).await.unwrap();
    }
    assert_eq!(cloud.launch("db", |_| {}).await.status.address, first.status.address, "a minute later nobody does");
}

#[tokio::test]
async fn labels_and_policies_change_while_it_runs() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let operation = cloud.update("web", |u| drop(u.labels.insert("tier".into(), "web".into()))).await.unwrap();
    assert_eq!(operation.status.state, OperationState::Succeeded, "labels are nobody's work");
    assert_eq!(cloud.instance("web").unwrap().metadata.generation, Generation(1));

    let operation = cloud.update("web", |u| u.spec.publish = vec!["8080:80".parse().unwrap()]).await.unwrap();
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(node.desired("web").unwrap().nic.publish.len(), 1);

    let operation = cloud.update("web", |u| drop(u.spec.container.env.insert("A".into(), "1".into()))).await.unwrap();
    assert!(
        cloud.end(&operation).await.status.progress.message.contains("count from the next restart on: yun restart web")
    );
    let operation = cloud.update("web", |_| {}).await.unwrap();
    assert_eq!(operation.status.progress.message, "instance web is so already");
}

#[tokio::test]
async fn a_change_made_from_an_old_state_is_refused() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let row = ops::find(&cloud.c, &name("default"), &named("web")).await.unwrap();
    let body = || InstanceUpdate { labels: Labels::new(), spec: row.value.0.spec.clone() };
    cloud.update("web", |u| drop(u.labels.insert("a".into(), "b".into()))).await.unwrap();
    let refused = ops::update(&cloud.c, &admin(), &name("default"), &named("web"), body(), Some(row.rev.to_string()))
        .await
        .unwrap_err();
    assert_eq!(refused.status, ErrorStatusCode::PRECONDITION_FAILED);
    let refused =
        ops::delete(&cloud.c, &admin(), &name("default"), &named("web"), Some(row.rev.to_string())).await.unwrap_err();
    assert_eq!(refused.status, ErrorStatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn sessions_logs_and_connections_reach_the_node() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.image("default", "debian", vm_image(2)).await;
    cloud.launch("web", |_| {}).await;
    cloud
        .launch("box", |s| {
            s.image = "debian".into();
            s.size = size("cpu:1,memory:256Mi,disk:2Gi");
        })
        .await;
    let project = name("default");
    let exec = |instance: &str, command: &str| {
        let request = yun_engine::session::ExecRequest { command: vec![command.into()], ..Default::default() };
        let (c, project, instance) = (cloud.c.clone(), project.clone(), named(instance));
        async move { ops::exec(&c, &project, &instance, request).await }
    };
    assert!(exec("web", "ls").await.is_ok());
    assert_eq!(text(exec("web", "nope").await), "the image has no nope");
    assert!(text(exec("web", "").await).contains("no command was given"));
    assert!(exec("box", "ls").await.is_ok());
    assert!(ops::console(&cloud.c, &project, &named("box")).await.is_ok());
    assert!(
        text(ops::console(&cloud.c, &project, &named("web")).await)
            .contains("is a container and has no console: use yun exec web")
    );
    assert!(ops::dial(&cloud.c, &project, &named("web"), 80).await.is_ok());
    assert!(
        text(ops::dial(&cloud.c, &project, &named("web"), 81).await).contains("connect to port 81 of instance web")
    );
    let mut logs = ops::logs(&cloud.c, &project, &named("web"), Default::default()).await.unwrap();
    assert_eq!(futures::StreamExt::next(&mut logs).await.unwrap().unwrap().text, "hello");

    let stop = cloud.act("web", InstanceAction::Stop).await.unwrap();
    cloud.end(&stop).await;
    assert_eq!(
        text(exec("web", "ls").await),
        "cannot run a command in instance web: it is stopped; start it with yun start web"
    );
    assert!(
        ops::logs(&cloud.c, &project, &named("web"), Default::default()).await.is_ok(),
        "the log of what has ended can be read"
    );
}

#[tokio::test]
async fn a_silent_node_loses_its_instances_and_gets_them_back() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    cloud.clock.advance(Duration::from_secs(12)).await;
    cloud.reaches("web", InstanceState::Lost).await;
    let lost = cloud.instance("web").unwrap();
    assert!(lost.status.message.unwrap().contains("node a is silent; the instance was running"));
    assert!(text(cloud.act("web", InstanceAction::Stop).await).contains("node a is silent; bring the node back"));
    yun_api::node::ControlLink::heartbeat(&node.link, node.id, NodeUsage::default()).await.unwrap();
    cloud.reaches("web", InstanceState::Running).await;
    cloud.tells("web", &["Started", "Lost", "Returned"]).await;
    cloud.tells("a", &["Lost", "Returned"]).await;
}
