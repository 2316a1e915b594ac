//! Tests of registration, orders, reports and silence of nodes.

use super::*;
use crate::fixture::*;
use futures::StreamExt;
use yun_api::node::{ControlLink, LinkError, NodeEvent};
use yun_types::{
    Bytes, Exit, InstanceReport, InstanceState, NodeOrder, NodeSpec, NodeState, ObservedInstance, ObservedState,
    OperationState, Severity,
};

const ROOM: &str = "cpu:4,memory:4Gi,disk:40Gi";

#[tokio::test]
async fn a_node_keeps_its_id_and_says_what_it_has() {
    let cloud = Cloud::new().await;
    let first = cloud.node("alpha.example.org", ROOM).await;
    let again = cloud.node("alpha", "cpu:8,memory:4Gi,disk:40Gi").await;
    assert_eq!(first.id, again.id);
    let row = ops::find(&cloud.c, &named("alpha")).await.unwrap();
    assert_eq!(row.value.0.status.facts.capacity, size("cpu:8,memory:4Gi,disk:40Gi"));
    let rev = row.rev;
    cloud.node("alpha", "cpu:8,memory:4Gi,disk:40Gi").await;
    assert_eq!(
        ops::find(&cloud.c, &named("alpha")).await.unwrap().rev,
        rev,
        "what is known already is not written again"
    );
    assert!(ops::find(&cloud.c, &named("alhpa")).await.unwrap_err().message.contains("did you mean alpha?"));
    assert!(ops::find(&cloud.c, &yun_types::NameOrId::Id(first.id.0)).await.is_ok());
}

#[tokio::test]
async fn what_is_measured_is_shown_and_not_stored() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let before = ops::find(&cloud.c, &named("a")).await.unwrap();
    cloud.clock.advance(std::time::Duration::from_secs(5)).await;
    let usage = NodeUsage { memory: Bytes::mib(300), ..NodeUsage::default() };
    node.link.heartbeat(node.id, usage).await.unwrap();
    let row = ops::find(&cloud.c, &named("a")).await.unwrap();
    assert_eq!(row.rev, before.rev);
    let shown = view(&cloud.c, &row.value);
    assert_eq!((shown.status.used, shown.status.seen), (usage, cloud.c.clock.now()));
    assert_eq!((shown.status.reserved.instances, shown.status.reserved.memory), (1, Bytes::mib(64)));
}

#[tokio::test]
async fn silence_makes_a_node_lost_and_a_sign_of_life_brings_it_back() {
    let (cloud, node) = Cloud::usual().await;
    let state = || cloud.c.nodes.cache.get(&["a"]).unwrap().value.0.status.state;
    for _ in 0..5 {
        cloud.clock.advance(std::time::Duration::from_secs(9)).await;
        node.link.heartbeat(node.id, NodeUsage::default()).await.unwrap();
    }
    assert_eq!(state(), NodeState::Ready);
    cloud.clock.advance(std::time::Duration::from_secs(12)).await;
    eventually("the node is lost", || state() == NodeState::Lost).await;
    node.link.heartbeat(node.id, NodeUsage::default()).await.unwrap();
    assert_eq!(state(), NodeState::Ready);
    cloud.clock.advance(std::time::Duration::from_secs(12)).await;
    eventually("the node is lost again", || state() == NodeState::Lost).await;
    cloud.node("a", ROOM).await;
    assert_eq!(state(), NodeState::Ready, "registering is a sign of life");
}

#[tokio::test]
async fn a_node_that_never_came_back_after_a_restart_is_lost() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    drop(node);
    let cloud = cloud.reopen().await;
    cloud.clock.advance(std::time::Duration::from_secs(5)).await;
    assert_eq!(cloud.state("web"), Some(InstanceState::Running), "it may be on its way");
    cloud.clock.advance(std::time::Duration::from_secs(7)).await;
    cloud.reaches("web", InstanceState::Lost).await;
}

#[tokio::test]
async fn orders_begin_with_all_there_is() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let mut orders = node.link.orders(node.id).await.unwrap();
    let Some(NodeOrder::Snapshot { instances, networks, images, .. }) = orders.next().await else {
        panic!("no snapshot")
    };
    assert_eq!((instances.len(), networks.len(), images), (1, 1, vec![container_image(1).digest]));
    assert_eq!(networks[0].records.len(), 1);
    let other = cloud.node("b", ROOM).await;
    let mut orders = other.link.orders(other.id).await.unwrap();
    let Some(NodeOrder::Snapshot { instances, networks, .. }) = orders.next().await else { panic!("no snapshot") };
    assert!(instances.is_empty() && networks.is_empty(), "each node hears only of its own");
}

#[tokio::test]
async fn names_of_neighbours_on_other_nodes_are_told() {
    let (cloud, a) = Cloud::usual().await;
    let _b = cloud.node("b", ROOM).await;
    cloud.launch("web", |s| s.node = Some(name("a"))).await;
    cloud.launch("db", |s| s.node = Some(name("b"))).await;
    let records = || {
        let mut networks =
            a.told().into_iter().filter_map(|o| if let NodeOrder::Network(network) = o { Some(network) } else { None });
        networks.next_back().map_or(0, |network| network.records.len())
    };
    eventually("node a knows both names", || records() == 2).await;
    let delete = crate::instance::ops::delete(&cloud.c, &admin(), &name("default"), &named("db"), None).await.unwrap();
    cloud.end(&delete).await;
    eventually("node a knows one name", || records() == 1).await;
    assert!(a.desired("db").is_none());
}

#[tokio::test]
async fn changes_of_a_slow_reader_are_put_together() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let mut orders = node.link.orders(node.id).await.unwrap();
    assert!(matches!(orders.next().await, Some(NodeOrder::Snapshot { .. })));
    for n in 0..20 {
        let rev = cloud.c.instances.table.modify(&["default", "web"], |row| {
            row.0.metadata.generation = yun_types::Generation(100 + n);
            true
        });
        let rev = rev.await.unwrap().rev;
        cloud.c.instances.cache.wait_for(rev).await.unwrap();
    }
    let Some(NodeOrder::Instance(web)) = orders.next().await else { panic!("no change") };
    assert!(web.generation.0 >= 100);
    let mut last = web.generation;
    while last.0 != 119 {
        let Some(NodeOrder::Instance(web)) = orders.next().await else { panic!("no change") };
        assert!(web.generation > last, "in order");
        last = web.generation;
    }
}

#[tokio::test]
async fn a_reader_that_is_too_far_behind_gets_a_new_snapshot() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    cloud.create("web", |_| {}).await.unwrap();
    let desired = node.hears_of("web").await;
    let mut orders = node.link.orders(node.id).await.unwrap();
    assert!(matches!(orders.next().await, Some(NodeOrder::Snapshot { .. })));
    // More changes than a cache remembers.
    let web = cloud.c.instances.cache.get(&["default", "web"]).unwrap();
    for chunk in 0..42u64 {
        let mut txn = yun_store::Txn::new();
        for n in 0..100u64 {
            let mut other = web.value.clone();
            other.0.metadata.name = name(&format!("other-{n}"));
            other.0.metadata.id = uuid::Uuid::from_u128(u128::from(n) + 1);
            other.0.metadata.generation = yun_types::Generation(chunk);
            other.0.status.node = Some(NodeId(uuid::Uuid::nil()));
            let at = ["default", other.0.metadata.name.as_str()].map(ToOwned::to_owned);
            txn = txn.then(yun_store::Table::<crate::rows::InstanceRow>::op_put(&[&at[0], &at[1]], &other).unwrap());
        }
        let out = yun_store::commit(&*cloud.c.store, txn).await.unwrap();
        cloud.c.instances.cache.wait_for(out.rev).await.unwrap();
    }
    let Some(NodeOrder::Snapshot { instances, .. }) = orders.next().await else { panic!("no snapshot") };
    assert_eq!(instances.iter().map(|i| i.id).collect::<Vec<_>>(), [desired.id]);
}

#[tokio::test]
async fn reports_of_the_past_are_dropped() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let desired = node.desired("web").unwrap();
    let old = InstanceReport {
        fence: desired.fence - 1,
        observed: ObservedInstance::State(in_state(InstanceState::Failed)),
        ..carried_out(&desired)
    };
    node.link.report(node.id, vec![old]).await.unwrap();
    let stranger =
        InstanceReport { observed: ObservedInstance::State(in_state(InstanceState::Failed)), ..carried_out(&desired) };
    node.link.report(NodeId(uuid::Uuid::new_v4()), vec![stranger]).await.unwrap();
    let unknown = InstanceReport { id: InstanceId(uuid::Uuid::new_v4()), ..carried_out(&desired) };
    node.link.report(node.id, vec![unknown]).await.unwrap();
    assert_eq!(cloud.state("web"), Some(InstanceState::Running));
}

#[tokio::test]
async fn many_reports_are_few_transactions_and_keep_their_order() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let names: Vec<String> = (0..8).map(|n| format!("i{n}")).collect();
    let all = futures::future::join_all(names.iter().map(|n| cloud.create(n, |_| {}))).await;
    let mut reports = Vec::new();
    for n in &names {
        let desired = node.hears_of(n).await;
        for state in [InstanceState::Preparing, InstanceState::Starting, InstanceState::Running] {
            reports
                .push(InstanceReport { observed: ObservedInstance::State(in_state(state)), ..carried_out(&desired) });
        }
    }
    let before = cloud.c.instances.cache.rev();
    node.link.report(node.id, reports).await.unwrap();
    assert_eq!(cloud.c.instances.cache.rev().n - before.n, 1, "all in one");
    for (n, operation) in names.iter().zip(all) {
        assert_eq!(cloud.state(n), Some(InstanceState::Running));
        assert_eq!(cloud.end(&operation.unwrap()).await.status.state, OperationState::Succeeded);
    }
}

#[tokio::test]
async fn a_report_wins_against_changes_by_users() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let desired = node.desired("web").unwrap();
    let label = |n: u32| {
        let c = cloud.c.clone();
        async move {
            c.instances
                .table
                .modify(&["default", "web"], |row| {
                    row.0.metadata.labels.insert(format!("l{n}"), "x".into());
                    true
                })
                .await
                .unwrap();
        }
    };
    let report = |n: u32| {
        let state = ObservedState { restarts: n, ..in_state(InstanceState::Running) };
        let report = InstanceReport { observed: ObservedInstance::State(state), ..carried_out(&desired) };
        let (link, id) = (node.link.clone(), node.id);
        async move { link.report(id, vec![report]).await.unwrap() }
    };
    tokio::join!(futures::future::join_all((0..20).map(label)), async {
        for n in 1..=20 {
            report(n).await;
        }
    });
    let web = cloud.instance("web").unwrap();
    eventually("all labels are seen", || cloud.instance("web").unwrap().metadata.labels.len() == 20).await;
    assert_eq!(web.status.restarts, 20);
}

#[tokio::test]
async fn what_vanished_from_its_node_is_not_forgotten() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    node.says_gone("web").await;
    let web = cloud.instance("web").unwrap();
    assert_eq!((web.status.state, web.status.reason.as_deref()), (InstanceState::Failed, Some("Gone")));
}

#[tokio::test]
async fn ends_by_the_kernel_are_told() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let exit = Exit { code: 137, signal: Some(9), out_of_memory: true, at: cloud.c.clock.now() };
    node.says("web", ObservedState { exit: Some(exit), restarts: 1, ..in_state(InstanceState::Starting) }).await;
    cloud.tells("web", &["OutOfMemory"]).await;
}

#[tokio::test]
async fn what_a_node_saw_is_in_the_journal() {
    let (cloud, node) = Cloud::usual().await;
    let web = cloud.launch("web", |_| {}).await;
    let event = |instance| NodeEvent {
        instance,
        object: None,
        severity: Severity::Warning,
        reason: "Pulled".into(),
        message: "x".into(),
    };
    node.link.event(node.id, event(Some(InstanceId(web.metadata.id)))).await.unwrap();
    node.link.event(node.id, event(Some(InstanceId(uuid::Uuid::new_v4())))).await.unwrap();
    node.link.event(node.id, event(None)).await.unwrap();
    cloud.tells("web", &["Pulled"]).await;
    cloud.tells("a", &["Pulled"]).await;
    let told = cloud.events("web").len();
    for reason in ["Pulled", "Removed"] {
        let again = NodeEvent { reason: reason.into(), ..event(Some(InstanceId(web.metadata.id))) };
        node.link.event(node.id, again).await.unwrap();
    }
    assert_eq!(cloud.events("web").len(), told, "neither what was just told nor what the deletion will tell");
}

#[tokio::test]
async fn a_cordon_is_checked_like_every_change() {
    let (cloud, _node) = Cloud::usual().await;
    let row = ops::find(&cloud.c, &named("a")).await.unwrap();
    let update = |cordoned, if_match: Option<String>| {
        let c = cloud.c.clone();
        async move { ops::update(&c, &admin(), &named("a"), NodeSpec { cordoned }, if_match).await }
    };
    let changed = update(true, Some(row.rev.to_string())).await.unwrap();
    assert_eq!(changed.value.0.metadata.generation.0, 2);
    assert_eq!(update(false, Some(row.rev.to_string())).await.unwrap_err().code, "Stale");
    assert_eq!(update(true, None).await.unwrap().rev, changed.rev, "what is so already is not written");
    cloud.tells("a", &["Cordoned"]).await;
}

#[tokio::test]
async fn a_node_must_register_before_it_gets_orders() {
    let cloud = Cloud::new().await;
    let link = LocalLink(std::sync::Arc::clone(&cloud.c));
    let unknown = NodeId(uuid::Uuid::new_v4());
    assert!(matches!(link.orders(unknown).await, Err(LinkError::NotFound(_))));
}
