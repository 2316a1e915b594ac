//! Tests of volumes: made and removed by their node, counted, and refused with who has them.

use super::{ops, *};
use crate::fixture::*;
use yun_api::cloud::{VolumeAttach, VolumeCreate, VolumeUpdate};
use yun_types::{Labels, NodeOrder, OperationState, ProjectSpec, Quota, VolumeKind, VolumeSpec, VolumeState};

fn create(name: &str, spec: VolumeSpec) -> VolumeCreate {
    VolumeCreate { name: name.parse().unwrap(), labels: Labels::new(), spec }
}

fn sized(size: &str) -> VolumeSpec {
    VolumeSpec { size: size.parse().unwrap(), ..VolumeSpec::default() }
}

async fn made(cloud: &Cloud, name: &str, spec: VolumeSpec) -> Volume {
    ops::create(&cloud.c, &admin(), &Name::default_project(), create(name, spec)).await.unwrap()
}

async fn refused(cloud: &Cloud, name: &str, spec: VolumeSpec) -> Refusal {
    ops::create(&cloud.c, &admin(), &Name::default_project(), create(name, spec)).await.unwrap_err()
}

#[tokio::test]
async fn a_volume_is_made_by_its_node_and_goes_when_it_is_told_to() {
    let (cloud, node) = Cloud::usual().await;
    let data = made(&cloud, "data", sized("2Gi")).await;
    assert_eq!((data.status.state, data.status.node), (VolumeState::Ready, Some(node.id)));
    assert_eq!(held_on(&cloud.c, node.id), Bytes::gib(2));
    assert!(refused(&cloud, "data", sized("2Gi")).await.message.contains("exists already"));
    let project = Name::default_project();
    let spec = sized("3Gi");
    let body = VolumeUpdate { labels: Labels::new(), spec };
    let row = ops::update(&cloud.c, &project, &named("data"), body, None).await.unwrap();
    assert_eq!((row.value.0.metadata.generation.0, row.value.0.status.observed_generation.0), (2, 2));
    let shrink = VolumeUpdate { labels: Labels::new(), spec: sized("1Gi") };
    let refusal = ops::update(&cloud.c, &project, &named("data"), shrink, None).await.unwrap_err();
    assert!(refusal.code == "VolumeShrink" && refusal.message.contains("3Gi to 1Gi"), "{refusal}");
    ops::delete(&cloud.c, &project, &named("data")).await.unwrap();
    assert!(cloud.c.volumes.cache.get(&["default", "data"]).is_none());
    assert!(node.told().iter().any(|order| matches!(order, NodeOrder::Volume(volume) if volume.deleting)));
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_way_out() {
    let (cloud, _node) = Cloud::usual().await;
    let huge = refused(&cloud, "data", sized("1T")).await;
    assert!(huge.code == "NoRoom" && huge.message.contains("ask for at most 40Gi"), "{huge}");
    assert!(refused(&cloud, "data", sized("1K")).await.message.contains("too small"));
    let elsewhere = refused(&cloud, "data", VolumeSpec { node: Some(name("aa")), ..sized("1Gi") }).await;
    assert!(elsewhere.message.contains("did you mean a?"), "{elsewhere}");
    let project = Name::default_project();
    made(&cloud, "data", sized("1Gi")).await;
    let unknown = ops::find(&cloud.c, &project, &named("dta")).unwrap_err();
    assert!(unknown.message.contains("did you mean data?"), "{unknown}");
    // Another project's volume is as if it did not exist.
    cloud.project("other", ProjectSpec::default()).await;
    let foreign = ops::find(&cloud.c, &name("other"), &named("data")).unwrap_err();
    assert!(!foreign.message.contains("did you mean"), "{foreign}");
    cloud.image("other", "busybox", container_image(1)).await;
    let mount = |text: &'static str| move |s: &mut yun_types::InstanceSpec| s.volumes = vec![text.parse().unwrap()];
    let foreign = cloud.create_in("other", "web", mount("data:/d")).await.unwrap_err();
    assert!(foreign.message.starts_with("volume data does not exist"), "{foreign}");
    let wrong = cloud.create("web", mount("data")).await.unwrap_err();
    assert!(wrong.message.contains("needs a path"), "{wrong}");
    let twice = |s: &mut yun_types::InstanceSpec| {
        s.volumes = vec!["data:/d".parse().unwrap(), "/d".parse().unwrap()];
    };
    assert!(cloud.create("web", twice).await.unwrap_err().message.contains("two mounts have the target /d"));
}

#[tokio::test]
async fn volumes_count_against_the_quota_of_disk() {
    let (cloud, _node) = Cloud::usual().await;
    let quota = Quota { disk: Some(Bytes::gib(5)), ..Quota::default() };
    cloud.project("team", ProjectSpec { quota, ..ProjectSpec::default() }).await;
    let team = name("team");
    let make = |size: &'static str, name: &'static str| {
        let (c, team) = (cloud.c.clone(), team.clone());
        async move { ops::create(&c, &admin(), &team, create(name, sized(size))).await }
    };
    make("4Gi", "a").await.unwrap();
    let over = make("2Gi", "b").await.unwrap_err();
    assert!(over.code == "QuotaExceeded" && over.message.contains("4 GiB is used, and 2 GiB more"), "{over}");
    let grown = VolumeUpdate { labels: Labels::new(), spec: sized("6Gi") };
    assert_eq!(ops::update(&cloud.c, &team, &named("a"), grown, None).await.unwrap_err().code, "QuotaExceeded");
    assert_eq!(held_by_project(&cloud.c, &team), Bytes::gib(4));
    // The project itself cannot go while it owns one.
    let refusal = crate::project::ops::delete(&cloud.c, &admin(), &named("team")).await.unwrap_err();
    assert!(refusal.message.contains("volume a") && refusal.message.contains("yun volume rm"), "{refusal}");
}

#[tokio::test]
async fn who_has_a_volume_keeps_it_and_is_named() {
    let (cloud, node) = Cloud::usual().await;
    let project = Name::default_project();
    made(&cloud, "data", sized("1Gi")).await;
    cloud.launch("web", |s| s.volumes = vec!["data:/var/lib/data:ro".parse().unwrap()]).await;
    let desired = node.desired("web").unwrap();
    assert_eq!((desired.volumes.len(), desired.volumes[0].read_only), (1, true));
    let row = ops::find(&cloud.c, &project, &named("data")).unwrap();
    assert_eq!(view(&cloud.c, &row).status.users[0].instance, name("web"));
    let held = ops::delete(&cloud.c, &project, &named("data")).await.unwrap_err();
    assert!(held.code == "VolumeInUse" && held.message.contains("attached to web"), "{held}");
    // A second container may share it, live.
    cloud.launch("db", |_| {}).await;
    let body = VolumeAttach { instance: named("db"), target: Some("/d".into()), read_only: false };
    let operation = ops::attach(&cloud.c, &admin(), &project, &named("data"), body.clone()).await.unwrap();
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(node.desired("db").unwrap().volumes[0].target.as_deref(), Some("/d"));
    let again = ops::attach(&cloud.c, &admin(), &project, &named("data"), body).await.unwrap_err();
    assert!(again.message.contains("attached to instance db already"), "{again}");
    // Who has it hears of its new size.
    let grown = VolumeUpdate { labels: Labels::new(), spec: sized("2Gi") };
    ops::update(&cloud.c, &project, &named("data"), grown, None).await.unwrap();
    eventually("web hears of it", || node.desired("web").unwrap().volumes[0].volume.size == Bytes::gib(2)).await;
    for who in ["web", "db"] {
        let operation = ops::detach(&cloud.c, &admin(), &project, &named("data"), &named(who)).await.unwrap();
        assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    }
    let none = ops::detach(&cloud.c, &admin(), &project, &named("data"), &named("web")).await.unwrap_err();
    assert!(none.message.contains("not attached to instance web"), "{none}");
    ops::delete(&cloud.c, &project, &named("data")).await.unwrap();
}

#[tokio::test]
async fn a_disk_has_one_vm() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.image("default", "debian", vm_image(2)).await;
    made(&cloud, "disk", VolumeSpec { kind: VolumeKind::Block, ..sized("1Gi") }).await;
    let vm = |s: &mut yun_types::InstanceSpec| {
        s.image = "debian".into();
        s.size = size("cpu:500m,memory:64Mi,disk:1Gi");
        s.volumes = vec!["disk".parse().unwrap()];
    };
    let (one, two) = tokio::join!(cloud.create("vm1", vm), cloud.create("vm2", vm));
    let refusal = one.err().or(two.err()).expect("one of them has to wait");
    assert!(refusal.code == "VolumeInUse" && refusal.message.contains("yun volume detach disk vm"), "{refusal}");
    let container = cloud.create("web", |s| s.volumes = vec!["disk:/d".parse().unwrap()]).await.unwrap_err();
    assert!(container.message.contains("a container needs a directory volume"), "{container}");
}

/// Rows that were written by the first release must be read for ever.
#[tokio::test]
async fn the_first_form_is_still_read() {
    let text = include_str!("../../tests/stored/volume-v1.json");
    let volume: Volume = serde_json::from_str(text).unwrap();
    assert_eq!((volume.metadata.name.as_str(), volume.spec.kind), ("data", VolumeKind::Block));
    assert_eq!(volume.spec.limits.iops, Some(100));
}
