//! From what a node tells to what people are told.

use super::*;
use crate::{
    auth::caller::tests::caller,
    fixture::{Cloud, admin, name, named},
};
use std::time::Duration;
use yun_api::{cloud::HistoryQuery, node::ControlLink};
use yun_types::{Metric, Role};

#[tokio::test]
async fn what_a_node_tells_is_shown_to_who_may_see_it() {
    let (cloud, node) = Cloud::usual().await;
    let instance = cloud.launch("web", |_| {}).await;
    let id = InstanceId(instance.metadata.id);
    for n in 0..3u64 {
        let sample = Sample::default().with(Metric::Cpu, n * 2_500_000).with(Metric::Memory, 8 << 20);
        let stranger = InstanceId(uuid::Uuid::from_u128(99));
        let measured = Measured { node: sample, instances: vec![(id, sample), (stranger, sample)] };
        node.link.measured(node.id, measured).await.unwrap();
        cloud.clock.advance(Duration::from_secs(5)).await;
    }
    let nodes = ops::nodes(&cloud.c).await;
    assert!((nodes[0].used["cpu"] - 0.5).abs() < 1e-6 && nodes[0].at.is_some(), "{nodes:?}");
    let seen = ops::instances(&cloud.c, &admin(), None).await;
    assert_eq!(seen.len(), 1);
    let history = ops::of_instance(&cloud.c, &name("default"), &named("web"), &HistoryQuery::default()).await.unwrap();
    let cpu = history.lines.iter().find(|line| line.metric == Metric::Cpu).unwrap();
    assert!(cpu.unit == "cores" && cpu.points.iter().all(|point| (point.avg - 0.5).abs() < 1e-6), "{cpu:?}");
    assert!(ops::instances(&cloud.c, &caller(None, &[("other", Role::Admin)]), None).await.is_empty());
    let refused = ops::of_instance(&cloud.c, &name("default"), &named("wbe"), &HistoryQuery::default()).await;
    assert!(refused.unwrap_err().message.contains("did you mean web?"));
    // A node that nobody knows is told so.
    let stranger = NodeId(uuid::Uuid::from_u128(98));
    assert!(node.link.measured(stranger, Measured::default()).await.is_err());
    // What is silent uses nothing that we know of.
    cloud.clock.advance(Duration::from_secs(60)).await;
    assert!(ops::nodes(&cloud.c).await[0].at.is_none());
}
