//! Room: who gets it, who waits, and what is never promised twice.

use super::*;
use futures::{StreamExt, stream::FuturesUnordered};

#[tokio::test]
async fn many_at_once_never_get_more_than_there_is() {
    let (cloud, _node) = Cloud::usual().await;
    let names: Vec<String> = (0..12).map(|n| format!("i{n}")).collect();
    let all = join_all(names.iter().map(|n| cloud.create(n, |s| s.size = size("cpu:1,memory:100Mi,disk:100Mi")))).await;
    assert!(all.iter().all(Result::is_ok));
    let instances: Vec<Instance> = names.iter().map(|n| cloud.instance(n).unwrap()).collect();
    let placed: Vec<&Instance> = instances.iter().filter(|i| i.status.node.is_some()).collect();
    assert_eq!(placed.len(), 4, "the node has four cores");
    let addresses: std::collections::BTreeSet<_> = placed.iter().map(|i| i.status.address.unwrap()).collect();
    assert_eq!(addresses.len(), 4);
    for waiting in instances.iter().filter(|i| i.status.node.is_none()) {
        assert_eq!((waiting.status.state, waiting.status.reason.as_deref()), (InstanceState::Pending, Some("NoRoom")));
    }
}

#[tokio::test]
async fn who_waits_is_placed_when_room_comes() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("big", |s| s.size = size("cpu:3,memory:3Gi,disk:1Gi")).await;
    let operation = cloud.create("late", |s| s.size = size("cpu:2,memory:2Gi,disk:1Gi")).await.unwrap();
    assert_eq!(
        operation.status.progress.message,
        "waits: 1 node is short of 1 cpu; free 1 cpu and 1 GiB memory on node a: delete instances there, or give them a smaller size"
    );
    let why = cloud.explain("late").await;
    assert_eq!(
        (why.state, why.nodes, why.nearest.as_deref()),
        (InstanceState::Pending, 1, Some("node a: short of 1 cpu and 1 GiB memory"))
    );
    assert_eq!(why.unblock[1], "ask for at most cpu:1,memory:1Gi,disk:39Gi, which is free on node a");
    cloud.tells("late", &["Created", "Waiting"]).await;

    let delete = cloud.delete("big").await.unwrap();
    cloud.end(&delete).await;
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.explain("late").await.summary, "on node a, the only node");
    cloud.tells("late", &["Created", "Waiting", "Scheduled", "Started"]).await;
}

#[tokio::test]
async fn a_long_queue_of_one_project_does_not_stand_before_anothers_first() {
    let (cloud, _node) = Cloud::usual().await;
    let one = size("cpu:1,memory:100Mi,disk:100Mi");
    cloud.launch("big", |s| s.size = size("cpu:4,memory:1Gi,disk:1Gi")).await;
    cloud.project("team", ProjectSpec::default()).await;
    let mut operations = Vec::new();
    for number in 0..8 {
        operations.push(cloud.create(&format!("long{number}"), |s| s.size = one).await.unwrap());
    }
    for number in 0..2 {
        operations.push(cloud.create_in("team", &format!("short{number}"), |s| s.size = one).await.unwrap());
    }
    let pool = crate::node::pool::view(&cloud.c);
    assert_eq!((pool.waiting, pool.projects[0].project.as_str(), pool.projects[0].waiting), (10, "default", 8));
    assert!((pool.projects[0].share - 1.0).abs() < 1e-9 && pool.projects[0].dominant == "cpu");
    let delete = cloud.delete("big").await.unwrap();
    cloud.end(&delete).await;
    let ends: FuturesUnordered<_> = operations.iter().map(|operation| cloud.end(operation)).collect();
    let first: Vec<Operation> = ends.take(4).collect().await;
    assert!(first.iter().all(|operation| operation.status.state == OperationState::Succeeded));
    let pool = crate::node::pool::view(&cloud.c);
    let shares: Vec<_> = pool.projects.iter().map(|p| (p.project.as_str(), p.reserved.instances, p.waiting)).collect();
    assert_eq!(shares, [("default", 2, 6), ("team", 2, 0)]);
}

#[tokio::test]
async fn without_a_node_everybody_waits_for_one() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let first = cloud.create("first", |_| {}).await.unwrap();
    assert_eq!(cloud.instance("first").unwrap().status.reason.as_deref(), Some("NoNode"));
    assert_eq!(cloud.explain("first").await.summary, "waits: the cloud has no node yet");
    let _node = cloud.node("a", "cpu:1,memory:1Gi,disk:10Gi").await;
    assert_eq!(cloud.end(&first).await.status.state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_cordoned_node_takes_nothing_until_it_does_again() {
    let (cloud, _node) = Cloud::usual().await;
    let cordon = |cordoned| {
        let c = cloud.c.clone();
        async move { crate::node::ops::update(&c, &admin(), &named("a"), NodeSpec { cordoned }, None).await.unwrap() }
    };
    cordon(true).await;
    let operation = cloud.create("web", |_| {}).await.unwrap();
    assert_eq!(cloud.instance("web").unwrap().status.reason.as_deref(), Some("Cordoned"));
    assert!(cloud.explain("web").await.unblock[0].contains("yun node uncordon a"));
    cordon(false).await;
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_node_without_a_driver_is_explained_in_its_own_words() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let mut facts = facts("a", "cpu:4,memory:4Gi,disk:40Gi");
    facts.drivers[1].ready = false;
    facts.drivers[1].message = Some("crun is not installed: apt install crun".into());
    let _node = cloud.node_with(facts).await;
    cloud.create("web", |_| {}).await.unwrap();
    let web = cloud.instance("web").unwrap();
    assert_eq!(web.status.reason.as_deref(), Some("NoDriver"));
    assert!(web.status.message.unwrap().contains("crun is not installed: apt install crun"));
}

#[tokio::test]
async fn what_was_never_placed_is_deleted_at_once() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let launch = cloud.create("web", |_| {}).await.unwrap();
    let delete = cloud.delete("web").await.unwrap();
    assert_eq!(delete.status.state, OperationState::Succeeded);
    assert_eq!(cloud.instance("web"), None);
    assert_eq!(cloud.end(&launch).await.status.state, OperationState::Cancelled);
}

#[tokio::test]
async fn a_larger_size_needs_room_on_its_node() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |s| s.size = size("cpu:1,memory:1Gi,disk:1Gi")).await;
    cloud.launch("db", |s| s.size = size("cpu:1,memory:1Gi,disk:1Gi")).await;
    let error = cloud.update("web", |u| u.spec.size = size("cpu:1,memory:3500Mi,disk:1Gi")).await.unwrap_err();
    assert_eq!(error.code, "NoRoom");
    assert_eq!(
        error.message,
        "cannot give instance web the size cpu:1,memory:3500Mi,disk:1Gi: node a is short of 428 MiB memory; ask for at most cpu:3,memory:3Gi,disk:39Gi, or delete instances there"
    );
    assert!(
        text(cloud.update("web", |u| u.spec.size.memory = Bytes::gib(9)).await).contains("more memory than node a has")
    );
    let operation = cloud.update("web", |u| u.spec.size.memory = Bytes::gib(3)).await.unwrap();
    // Containers get it while they run.
    assert!(!cloud.end(&operation).await.status.progress.message.contains("yun restart"));
    assert_eq!(node.desired("web").unwrap().spec.size.memory, Bytes::gib(3));
    assert_eq!(reserved_on(&cloud.c, node.id).memory, Bytes::gib(4));
    assert!(cloud.create("more", |_| {}).await.is_ok());
    assert_eq!(cloud.state("more"), Some(InstanceState::Pending), "the room is promised");
    cloud.update("web", |u| u.spec.size.memory = Bytes::gib(1)).await.unwrap();
    cloud.reaches("more", InstanceState::Running).await;
}

#[tokio::test]
async fn a_full_network_is_told_apart_from_a_full_node() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let _node = cloud.node("a", "cpu:4000,memory:4000Gi,disk:4000Gi").await;
    cloud
        .c
        .networks
        .table
        .modify(&["default", NETWORK], |row| {
            row.0.spec.cidr = "10.77.1.0/29".parse().unwrap();
            true
        })
        .await
        .unwrap();
    for n in 0..5 {
        cloud.launch(&format!("i{n}"), |_| {}).await;
    }
    let error = cloud.create("more", |_| {}).await.unwrap_err();
    assert_eq!(
        (error.code.as_ref(), error.message.as_str()),
        (
            "NoAddress",
            "network default: network 10.77.1.0/29 has no free address: all 5 are in use; delete an instance that is not needed"
        )
    );
}

#[tokio::test]
async fn a_request_that_is_given_up_on_its_way_keeps_its_room_until_its_end_is_known() {
    let (cloud, _node) = Cloud::usual().await;
    let big = |s: &mut InstanceSpec| s.size = size("cpu:4,memory:1Gi,disk:1Gi");
    let mut given_up = Box::pin(cloud.create("one", big));
    assert!(futures::poll!(&mut given_up).is_pending(), "its transaction is on its way");
    drop(given_up);
    cloud.create("two", big).await.unwrap();
    cloud.reaches("one", InstanceState::Running).await;
    let two = cloud.instance("two").unwrap();
    assert_eq!((two.status.state, two.status.node), (InstanceState::Pending, None));
}
