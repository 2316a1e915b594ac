//! Tests of networks: several in a project, their addresses, their names, and what is refused.

use super::{ops, *};
use crate::{error::Refusal, fixture::*};
use yun_api::cloud::{NetworkAttach, NetworkCreate};
use yun_types::{Labels, NetworkMembership, NodeOrder, OperationState, ProjectSpec};

fn asked(text: &str, cidr: Option<&str>) -> NetworkCreate {
    let cidr = cidr.map(ToOwned::to_owned);
    NetworkCreate { name: name(text), labels: Labels::new(), cidr, mtu: None, isolated: false }
}

async fn make(cloud: &Cloud, body: NetworkCreate) -> Result<Network, Refusal> {
    let row = ops::create(&cloud.c, &admin(), &Name::default_project(), body).await?;
    Ok(view(&cloud.c, &row))
}

fn joins(text: &str) -> NetworkAttach {
    NetworkAttach { instance: named(text), address: None, aliases: vec![], egress: None, ingress: None }
}

fn member(network: &str) -> NetworkMembership {
    NetworkMembership::of(name(network))
}

#[tokio::test]
async fn a_project_has_several_networks_and_an_instance_several_interfaces() {
    let (cloud, node) = Cloud::usual().await;
    let back = make(&cloud, asked("back", Some("10.99.0.0/24"))).await.unwrap();
    make(&cloud, asked("auto", None)).await.unwrap();
    let web = cloud
        .launch("web", |s| {
            s.networks = vec![member("default"), NetworkMembership { aliases: vec![name("www")], ..member("back") }];
        })
        .await;
    assert_eq!(web.status.interfaces.len(), 2);
    assert_eq!(web.status.address, Some(web.status.interfaces[0].address));
    assert_eq!(web.status.interfaces[1].address.to_string(), "10.99.0.2");
    let desired = node.desired("web").unwrap();
    assert_eq!((desired.more_nics.len(), desired.more_nics[0].index), (1, 1));
    let heard = || {
        node.told().into_iter().rev().find_map(|order| match order {
            NodeOrder::Network(network) if network.id.0 == back.metadata.id => Some(network),
            _ => None,
        })
    };
    let names = || heard().map(|network| network.records.into_iter().map(|record| record.name).collect::<Vec<_>>());
    eventually("both names are told", || names() == Some(vec!["web.default.yun".into(), "www.default.yun".into()]))
        .await;
    // Live: it leaves one and joins another.
    let project = Name::default_project();
    let leave = ops::detach(&cloud.c, &admin(), &project, &named("back"), &named("web")).await.unwrap();
    assert_eq!(cloud.end(&leave).await.status.state, OperationState::Succeeded);
    assert!(node.desired("web").unwrap().more_nics.is_empty());
    eventually("the network goes from the node", || {
        node.told().iter().any(|order| matches!(order, NodeOrder::NetworkGone { id } if id.0 == back.metadata.id))
    })
    .await;
    let join = ops::attach(&cloud.c, &admin(), &project, &named("auto"), joins("web")).await.unwrap();
    assert_eq!(cloud.end(&join).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.instance("web").unwrap().status.interfaces[1].network, name("auto"));
    ops::delete(&cloud.c, &project, &named("back")).await.unwrap();
}

#[tokio::test]
async fn ranges_that_are_used_are_refused() {
    let (cloud, _node) = Cloud::usual().await;
    make(&cloud, asked("back", Some("10.99.0.0/24"))).await.unwrap();
    let refusal = |body| async { make(&cloud, body).await.unwrap_err() };
    let overlap = refusal(asked("more", Some("10.99.0.128/25"))).await;
    assert!(overlap.code == "RangeTaken" && overlap.message.contains("network back (10.99.0.0/24)"), "{overlap}");
    assert!(refusal(asked("more", Some("10.99.0.1/24"))).await.message.contains("the range is 10.99.0.0/24"));
    assert!(refusal(asked("more", Some("nonsense"))).await.message.contains("not a range"));
    assert!(refusal(asked("back", None)).await.message.contains("exists already"));
    let mtu = NetworkCreate { mtu: Some(100), ..asked("more", None) };
    assert!(refusal(mtu).await.message.contains("mtu 100"));
    let mut facts = facts("routes", "cpu:1,memory:1Gi,disk:1Gi");
    facts.taken_ranges = vec!["172.20.0.0/16".parse().unwrap()];
    let _other = cloud.node_with(facts).await;
    let route = refusal(asked("more", Some("172.20.5.0/24"))).await;
    assert!(route.message.contains("which node routes has a route to"), "{route}");
    // Another project's network is not told of.
    cloud.project("other", ProjectSpec::default()).await;
    let body = asked("mine", Some("10.99.0.0/24"));
    let foreign = ops::create(&cloud.c, &admin(), &name("other"), body).await.unwrap_err();
    assert!(foreign.message.contains("a network of another project"), "{foreign}");
}

#[tokio::test]
async fn what_an_instance_cannot_have_is_refused() {
    let (cloud, _node) = Cloud::usual().await;
    let project = Name::default_project();
    make(&cloud, asked("back", Some("10.99.0.0/29"))).await.unwrap();
    make(&cloud, NetworkCreate { isolated: true, ..asked("dark", None) }).await.unwrap();
    let fixed = |address: &'static str| {
        move |s: &mut yun_types::InstanceSpec| {
            s.networks = vec![NetworkMembership { address: Some(address.parse().unwrap()), ..member("back") }];
        }
    };
    cloud.launch("db", fixed("10.99.0.3")).await;
    let taken = cloud.create("web", fixed("10.99.0.3")).await.unwrap_err();
    assert!(taken.code == "AddressTaken" && taken.message.contains("taken by instance db"), "{taken}");
    let outside = cloud.create("web", fixed("10.98.0.3")).await.unwrap_err();
    assert!(outside.message.contains("use one from 10.99.0.2 to 10.99.0.6"), "{outside}");
    let unknown = cloud.create("web", |s| s.networks = vec![member("bakc")]).await.unwrap_err();
    assert!(unknown.message.contains("did you mean back?"), "{unknown}");
    let dark = |s: &mut yun_types::InstanceSpec| {
        s.networks = vec![member("dark"), member("default")];
        s.publish = vec!["8080:80".parse().unwrap()];
    };
    assert_eq!(cloud.create("web", dark).await.unwrap_err().code, "Isolated");
    let used = ops::delete(&cloud.c, &project, &named("back")).await.unwrap_err();
    assert!(used.code == "NetworkInUse" && used.message.contains("db is in it"), "{used}");
    assert_eq!(ops::delete(&cloud.c, &project, &named("default")).await.unwrap_err().code, "NetworkNeeded");
    let last = ops::detach(&cloud.c, &admin(), &project, &named("back"), &named("db")).await.unwrap_err();
    assert_eq!(last.code, "LastNetwork");
    let join = ops::attach(&cloud.c, &admin(), &project, &named("default"), joins("db")).await.unwrap();
    cloud.end(&join).await;
    let again = ops::attach(&cloud.c, &admin(), &project, &named("default"), joins("db")).await.unwrap_err();
    assert!(again.message.contains("in network default already"), "{again}");
    let first = ops::detach(&cloud.c, &admin(), &project, &named("back"), &named("db")).await.unwrap_err();
    assert!(first.code == "FirstNetwork" && first.message.contains("yun stop db"), "{first}");
}

#[tokio::test]
async fn a_full_network_says_so_and_freed_addresses_are_used_again() {
    let (cloud, _node) = Cloud::usual().await;
    make(&cloud, asked("tiny", Some("10.99.0.0/29"))).await.unwrap();
    let small = |s: &mut yun_types::InstanceSpec| {
        s.size = size("cpu:50m,memory:16Mi,disk:1Mi");
        s.networks = vec![member("tiny")];
    };
    for n in 0..5 {
        cloud.launch(&format!("i{n}"), small).await;
    }
    let full = cloud.create("late", small).await.unwrap_err();
    assert!(full.code == "NoAddress" && full.message.contains("network tiny"), "{full}");
    let gone = crate::instance::ops::delete(&cloud.c, &admin(), &Name::default_project(), &named("i2"), None).await;
    cloud.end(&gone.unwrap()).await;
    assert_eq!(cloud.launch("late", small).await.status.address.unwrap().to_string(), "10.99.0.4");
}
