//! Tests of snapshots over the real core, and of instances that are made from them.

use super::*;
use crate::{fixture::*, operation};
use dropshot::ErrorStatusCode;
use std::sync::atomic::Ordering;
use yun_api::{cloud::SnapshotCreate, node::LinkError};
use yun_types::*;

impl Cloud {
    async fn snapshot(&self, instance: &str, text: &str, memory: bool) -> Result<Operation, Refusal> {
        let body = SnapshotCreate { name: name(text), labels: Labels::new(), memory };
        ops::create(&self.c, &admin(), &name("default"), &named(instance), body).await
    }
    async fn taken(&self, instance: &str, text: &str, memory: bool) {
        let end = self.end(&self.snapshot(instance, text, memory).await.unwrap()).await;
        assert_eq!(end.status.error, None);
    }
    async fn restore(&self, instance: &str, text: &str, disk_only: bool) -> Result<Operation, Refusal> {
        ops::restore(&self.c, &admin(), &name("default"), &named(instance), &named(text), disk_only).await
    }
    async fn remove(&self, instance: &str, text: &str) -> Result<Operation, Refusal> {
        ops::delete(&self.c, &admin(), &name("default"), &named(instance), &named(text)).await
    }
    fn kept(&self, instance: &str, text: &str) -> Option<Snapshot> {
        let row = ops::find(&self.c, &name("default"), &named(instance), &named(text)).ok()?;
        Some(row.value.0.clone())
    }
    /// A cloud with a node, and the VM `vm1` on it.
    async fn with_vm() -> (Self, FakeNode) {
        let (cloud, node) = Self::usual().await;
        let facts = ImageFacts { kind: InstanceKind::Vm, ..container_image(2) };
        cloud.image("default", "small", facts).await;
        cloud.launch("vm1", |spec| spec.image = "small".into()).await;
        (cloud, node)
    }
}

#[track_caller]
fn refused<T>(result: Result<T, Refusal>) -> (String, String) {
    let refusal = result.err().expect("it should have been refused");
    (refusal.code.into_owned(), refusal.message)
}

#[tokio::test]
async fn a_snapshot_goes_from_the_request_to_the_node_and_back_and_away() {
    let (cloud, node) = Cloud::with_vm().await;
    node.inner.hold_snapshots.store(true, Ordering::SeqCst);
    let operation = cloud.snapshot("vm1", "warm", true).await.unwrap();
    assert_eq!(operation.spec.target.name, "vm1/warm");
    assert!(operation.status.cancellable);
    eventually("it reports its progress", || {
        let row = cloud.c.operations.cache.get(&[&operation.metadata.id.to_string()]).unwrap();
        operation::view(&cloud.c, &row).status.progress.percent == Some(50)
    })
    .await;
    let (code, why) = refused(cloud.restore("vm1", "warm", false).await);
    assert!(code == "NotReady" && why.contains("is being taken"), "{why}");
    assert_eq!(refused(cloud.snapshot("vm1", "warm", false).await).0, "Exists");
    node.inner.hold_snapshots.store(false, Ordering::SeqCst);
    let end = cloud.end(&operation).await;
    assert_eq!(end.status.progress.message, "snapshot vm1/warm is ready: disk and memory, 7 MiB");
    let warm = cloud.kept("vm1", "warm").unwrap();
    assert_eq!((warm.status.state, warm.status.facts.unwrap().memory), (SnapshotState::Ready, true));

    let end = cloud.end(&cloud.remove("vm1", "warm").await.unwrap()).await;
    assert_eq!(end.status.progress.message, "snapshot vm1/warm is removed");
    assert!(node.inner.snapshots.lock().unwrap().is_empty() && cloud.kept("vm1", "warm").is_none());
    let near = ops::find(&cloud.c, &name("default"), &named("vm1"), &named("warm")).err().unwrap();
    assert_eq!(near.status, ErrorStatusCode::NOT_FOUND);
    assert!(near.message.contains("yun snapshot create vm1"), "{}", near.message);
}

#[tokio::test]
async fn what_failed_says_why_and_what_was_taken_back_leaves_nothing() {
    let (cloud, node) = Cloud::with_vm().await;
    *node.inner.snapshot.lock().unwrap() = Some(LinkError::refused("DiskFull", "the disk of the host is full"));
    let end = cloud.end(&cloud.snapshot("vm1", "a", false).await.unwrap()).await;
    assert_eq!(end.status.error.unwrap().code, "DiskFull");
    let (_, why) = refused(cloud.restore("vm1", "a", false).await);
    assert!(why.contains("is full") && why.contains("yun snapshot rm vm1/a"), "{why}");
    cloud.end(&cloud.remove("vm1", "a").await.unwrap()).await;

    node.inner.hold_snapshots.store(true, Ordering::SeqCst);
    let operation = cloud.snapshot("vm1", "b", false).await.unwrap();
    eventually("the node works on it", || cloud.c.works.get(OperationId(operation.metadata.id)).is_some()).await;
    operation::ops::cancel(&cloud.c, &admin(), OperationId(operation.metadata.id)).await.unwrap();
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Cancelled);
    assert!(cloud.kept("vm1", "b").is_none());
}

#[tokio::test]
async fn a_process_that_dies_leaves_the_rest_to_the_next_one() {
    let (cloud, node) = Cloud::with_vm().await;
    node.inner.hold_snapshots.store(true, Ordering::SeqCst);
    let operation = cloud.snapshot("vm1", "warm", true).await.unwrap();
    let inner = std::sync::Arc::clone(&node.inner);
    drop(node);
    let cloud = cloud.reopen().await;
    inner.hold_snapshots.store(false, Ordering::SeqCst);
    let _node = FakeNode::join_as(&cloud.c, facts("a", "cpu:4,memory:4Gi,disk:40Gi"), inner).await;
    cloud.c.wake_snapshots.wake();
    for _ in 0..3 {
        // The node may have come after the first look.
        cloud.clock.advance(std::time::Duration::from_secs(11)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(cloud.end(&operation).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.kept("vm1", "warm").unwrap().status.state, SnapshotState::Ready);
}

#[tokio::test]
async fn an_instance_is_brought_back_and_takes_its_snapshots_with_it() {
    let (cloud, node) = Cloud::with_vm().await;
    cloud.taken("vm1", "disk", false).await;
    cloud.taken("vm1", "warm", true).await;
    let end = cloud.end(&cloud.restore("vm1", "disk", false).await.unwrap()).await;
    assert_eq!(end.status.state, OperationState::Succeeded);
    let wish = node.desired("vm1").unwrap().origin.restore.unwrap();
    assert_eq!((wish.count, wish.memory, wish.name.as_str()), (1, false, "disk"));
    cloud.end(&cloud.restore("vm1", "warm", false).await.unwrap()).await;
    let wish = node.desired("vm1").unwrap().origin.restore.unwrap();
    assert!(wish.count == 2 && wish.memory);
    cloud.end(&cloud.restore("vm1", "warm", true).await.unwrap()).await;
    assert!(!node.desired("vm1").unwrap().origin.restore.unwrap().memory);

    crate::instance::ops::delete(&cloud.c, &admin(), &name("default"), &named("vm1"), None).await.unwrap();
    eventually("the instance is gone", || cloud.instance("vm1").is_none()).await;
    eventually("and its snapshots", || cloud.c.snapshots.cache.all(&[]).is_empty()).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_way_out() {
    let (cloud, _node) = Cloud::with_vm().await;
    cloud.launch("web", |_| {}).await;
    let (code, why) = refused(cloud.snapshot("web", "x", true).await);
    assert!(code == "WrongKind" && why.contains("leave memory out"), "{why}");
    assert_eq!(refused(cloud.snapshot("none", "x", false).await).0, "NotFound");
    cloud.end(&stop(&cloud, "vm1").await).await;
    let (code, why) = refused(cloud.snapshot("vm1", "x", true).await);
    assert!(code == "NotRunning" && why.contains("it is stopped"), "{why}");
    cloud.taken("vm1", "cold", false).await;
    assert!(refused(cloud.remove("vm1", "colt").await).1.contains("did you mean cold?"));

    // A quota of disk counts snapshots too.
    let quota = Quota { disk: Some(Bytes::mib(205)), ..Quota::default() };
    let spec = ProjectSpec { quota, ..ProjectSpec::default() };
    crate::project::ops::update(&cloud.c, &admin(), &named("default"), spec, None).await.unwrap();
    let (code, why) = refused(cloud.snapshot("web", "x", false).await);
    assert!(
        code == "QuotaExceeded" && why.contains("snapshots take 7 MiB") && why.contains("yun snapshot ls"),
        "{why}"
    );
}

/// Stops an instance.
async fn stop(cloud: &Cloud, text: &str) -> Operation {
    let action = yun_api::cloud::InstanceAction::Stop;
    crate::instance::ops::action(&cloud.c, &admin(), &name("default"), &named(text), action, None).await.unwrap()
}

#[tokio::test]
async fn an_instance_is_made_from_a_snapshot_and_fits_to_it() {
    let (cloud, node) = Cloud::with_vm().await;
    cloud.taken("vm1", "warm", true).await;
    let from = |text: &str, size: Size| {
        let text = text.to_owned();
        move |spec: &mut InstanceSpec| {
            (spec.image, spec.size) = ("small".into(), size);
            spec.template = Some(text.parse().unwrap());
        }
    };
    let usual = size("cpu:500m,memory:64Mi,disk:100Mi");
    cloud.launch("vm2", from("vm1/warm", Size::default())).await;
    let vm2 = node.desired("vm2").unwrap();
    let template = vm2.origin.template.unwrap();
    assert!(template.memory && template.name == "vm1/warm" && vm2.spec.size == usual, "{template:?}");
    assert_eq!(vm2.spec.node, Some(name("a")));
    assert_ne!(vm2.nic.mac, node.desired("vm1").unwrap().nic.mac);

    for (template, wanted, why) in [
        ("vm1/none", usual, "instance vm1 has no snapshot none"),
        ("none/warm", usual, "instance none does not exist"),
        ("war", usual, "did you mean warm?"),
        ("warm", size("cpu:1,memory:64Mi,disk:100Mi"), "needs cpu:0.5,memory:64Mi"),
        ("warm", size("cpu:500m,memory:64Mi,disk:50Mi"), "has a disk of 100 MiB"),
    ] {
        let (_, said) = refused(cloud.create("vm3", from(template, wanted)).await);
        assert!(said.contains(why), "{template} {wanted}: {said}");
    }
    let (code, said) = refused(cloud.create("vm3", |spec| spec.template = Some("vm1/warm".parse().unwrap())).await);
    assert!(code == "WrongImage" && said.contains("name image small"), "{said}");
    let (_, said) = refused(
        cloud
            .create("vm3", |spec| {
                from("vm1/warm", usual)(spec);
                spec.node = Some(name("b"));
            })
            .await,
    );
    assert!(said.contains("is on node a"), "{said}");
}

#[tokio::test]
async fn a_memory_needs_what_was_plugged_in() {
    let (cloud, _node) = Cloud::with_vm().await;
    let back = yun_api::cloud::NetworkCreate {
        name: name("back"),
        labels: Labels::new(),
        cidr: None,
        mtu: None,
        isolated: false,
    };
    crate::network::ops::create(&cloud.c, &admin(), &name("default"), back).await.unwrap();
    let both = vec![NetworkMembership::of(name("default")), NetworkMembership::of(name("back"))];
    let small = |spec: &mut InstanceSpec| spec.image = "small".into();
    cloud
        .launch("vm2", |spec| {
            small(spec);
            spec.networks = both.clone();
        })
        .await;
    cloud.taken("vm2", "warm", true).await;
    assert_eq!(cloud.kept("vm2", "warm").unwrap().status.networks, [name("default"), name("back")]);
    // A machine made from it is in the same networks, or in as many others.
    let from = |spec: &mut InstanceSpec| {
        small(spec);
        (spec.size, spec.template) = (Size::default(), Some("vm2/warm".parse().unwrap()));
    };
    cloud.launch("vm3", from).await;
    assert_eq!(cloud.instance("vm3").unwrap().status.interfaces.len(), 2);
    let fewer = |spec: &mut InstanceSpec| {
        from(spec);
        spec.networks = vec![NetworkMembership::of(name("back"))];
    };
    let (code, why) = refused(cloud.create("vm4", fewer).await);
    assert!(code == "WrongNetworks" && why.contains("(default, back)"), "{why}");
}

#[tokio::test]
async fn a_clone_is_asked_for_by_name_and_refused_with_a_way_out() {
    let (cloud, node) = Cloud::with_vm().await;
    cloud.launch("web", |_| {}).await;
    let clone = async |source: &str, size: Option<Size>| {
        let body = yun_api::cloud::InstanceClone {
            name: name("twin"),
            labels: Labels::new(),
            size,
            networks: vec![],
            publish: vec![],
        };
        crate::instance::ops::clone(&cloud.c, &admin(), &name("default"), &named(source), body).await
    };
    let (code, why) = refused(clone("web", None).await);
    assert!(code == "WrongKind" && why.contains("yun commit web web-copy"), "{why}");
    assert!(refused(clone("vm2", None).await).1.contains("did you mean vm1?"));
    let (code, why) = refused(clone("vm1", Some(size("cpu:1,memory:64Mi,disk:50Mi"))).await);
    assert!(code == "DiskTooSmall" && why.contains("instance vm1 has a disk of 100 MiB"), "{why}");
    cloud.end(&clone("vm1", None).await.unwrap()).await;
    let (vm1, twin) = (node.desired("vm1").unwrap(), node.desired("twin").unwrap());
    let template = twin.origin.template.unwrap();
    assert!(template.live && !template.memory && template.instance == vm1.id, "{template:?}");
    assert_eq!((twin.spec.size, twin.spec.node), (vm1.spec.size, Some(name("a"))));
    assert_ne!((twin.nic.address, twin.nic.mac), (vm1.nic.address, vm1.nic.mac));
    assert_eq!(refused(clone("vm1", None).await).0, "Exists");
}
