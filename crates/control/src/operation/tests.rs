//! Tests of following, settling, cancelling and forgetting operations.

use super::reconcile::{KEPT, KEPT_FOR, forget_old, settle_all};
use super::*;
use crate::{auth::caller::tests::caller, fixture::*, rows::InstanceRow};
use std::time::Duration;
use yun_api::cloud::InstanceAction;
use yun_types::{InstanceState, NodeUsage, OperationState, Role};

fn id(operation: &Operation) -> OperationId {
    OperationId(operation.metadata.id)
}

#[tokio::test]
async fn an_operation_ends_also_in_another_process() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let launch = cloud.create("web", |_| {}).await.unwrap();
    node.hears_of("web").await;
    drop(node);
    let cloud = cloud.reopen().await;
    let again = ops::find(&cloud.c, &admin(), id(&launch)).await.unwrap();
    assert_eq!(
        (again.status.state, again.status.progress.message.as_str()),
        (OperationState::Running, "placed on node a")
    );
    let _node = cloud.node("a", "cpu:4,memory:4Gi,disk:40Gi").await;
    assert_eq!(cloud.end(&launch).await.status.state, OperationState::Succeeded);
}

#[tokio::test]
async fn what_happened_while_nobody_looked_is_caught_up_with() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let launch = cloud.create("web", |_| {}).await.unwrap();
    cloud.c.tasks.abort();
    // The state moves on, and the process dies before it can say so in the operation.
    cloud
        .c
        .instances
        .table
        .modify(&["default", "web"], |row: &mut InstanceRow| {
            row.0.status.state = InstanceState::Running;
            true
        })
        .await
        .unwrap();
    drop(node);
    let cloud = cloud.reopen().await;
    assert_eq!(cloud.end(&launch).await.status.state, OperationState::Succeeded);
    assert_eq!(settle_all(&cloud.c).await.unwrap(), 0, "what has ended is left alone");
}

#[tokio::test]
async fn a_deletion_goes_on_after_a_restart() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    node.disobey();
    let delete = crate::instance::ops::delete(&cloud.c, &admin(), &name("default"), &named("web"), None).await.unwrap();
    drop(node);
    let cloud = cloud.reopen().await;
    assert_eq!(cloud.state("web"), Some(InstanceState::Deleting));
    let _node = cloud.node("a", "cpu:4,memory:4Gi,disk:40Gi").await;
    assert_eq!(cloud.end(&delete).await.status.state, OperationState::Succeeded);
    assert_eq!(cloud.instance("web"), None);
}

#[tokio::test]
async fn waiting_shows_progress_and_gives_up_in_time() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let launch = cloud.create("web", |_| {}).await.unwrap();
    let hour = Duration::from_secs(3600);
    let caller = admin();
    let watch = ops::wait(&cloud.c, &caller, id(&launch), Some(launch.metadata.revision.clone()), hour);
    let (seen, ()) = tokio::join!(watch, node.says("web", in_state(InstanceState::Starting)));
    let seen = seen.unwrap();
    assert_eq!(
        (seen.status.state, seen.status.progress.message.as_str()),
        (OperationState::Running, "starting on node a")
    );

    let clock = cloud.clock.clone();
    let patience = ops::wait(&cloud.c, &caller, id(&launch), None, Duration::from_secs(5));
    let (late, ()) = tokio::join!(patience, clock.advance(Duration::from_secs(6)));
    assert_eq!(late.unwrap().status.state, OperationState::Running);
    let at_once = ops::wait(&cloud.c, &caller, id(&launch), Some("older".into()), hour).await.unwrap();
    assert_eq!(at_once.metadata.revision, seen.metadata.revision);
}

#[tokio::test]
async fn a_launch_is_taken_back_with_its_instance() {
    let (cloud, node) = Cloud::usual().await;
    node.disobey();
    let launch = cloud.create("web", |_| {}).await.unwrap();
    node.hears_of("web").await;
    let cancelled = ops::cancel(&cloud.c, &admin(), id(&launch)).await.unwrap();
    assert!(cancelled.spec.cancel && !cancelled.status.cancellable);
    assert_eq!(cancelled.status.state, OperationState::Running, "the node still has something of it");
    eventually("the node is told", || node.desired("web").unwrap().deleting).await;
    assert_eq!(
        ops::cancel(&cloud.c, &admin(), id(&launch)).await.unwrap().metadata.id,
        launch.metadata.id,
        "once more is no error"
    );
    node.says_gone("web").await;
    let end = cloud.end(&launch).await;
    assert_eq!(
        (end.status.state, end.status.progress.message.as_str()),
        (OperationState::Cancelled, "taken back; instance web is deleted")
    );
    assert_eq!(cloud.instance("web"), None);
}

#[tokio::test]
async fn a_launch_that_waits_for_room_is_taken_back_at_once() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let launch = cloud.create("web", |_| {}).await.unwrap();
    let cancelled = ops::cancel(&cloud.c, &admin(), id(&launch)).await.unwrap();
    assert_eq!(cancelled.status.state, OperationState::Cancelled);
    assert_eq!(cloud.instance("web"), None);
}

#[tokio::test]
async fn what_cannot_be_taken_back_says_what_can_be_done() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    node.disobey();
    let stop =
        crate::instance::ops::action(&cloud.c, &admin(), &name("default"), &named("web"), InstanceAction::Stop, None)
            .await
            .unwrap();
    let refused = ops::cancel(&cloud.c, &admin(), id(&stop)).await.unwrap_err();
    assert_eq!(
        (refused.code.as_ref(), refused.message.as_str()),
        ("NotCancellable", "cannot take the stop of instance web back: start it again with yun start web")
    );
    node.says("web", in_state(InstanceState::Stopped)).await;
    cloud.end(&stop).await;
    assert!(ops::cancel(&cloud.c, &admin(), id(&stop)).await.unwrap_err().message.contains("it has succeeded already"));
}

#[tokio::test]
async fn operations_of_other_projects_do_not_exist() {
    let (cloud, _node) = Cloud::usual().await;
    let launch = cloud.create("web", |_| {}).await.unwrap();
    let stranger = caller(None, &[("team", Role::Admin)]);
    assert!(ops::find(&cloud.c, &stranger, id(&launch)).await.unwrap_err().message.contains("does not exist"));
    assert!(ops::cancel(&cloud.c, &stranger, id(&launch)).await.unwrap_err().message.contains("does not exist"));
    let viewer = caller(None, &[("default", Role::Viewer)]);
    assert!(ops::find(&cloud.c, &viewer, id(&launch)).await.is_ok());
    assert!(ops::cancel(&cloud.c, &viewer, id(&launch)).await.unwrap_err().message.contains("needs editor"));
}

#[tokio::test]
async fn old_operations_are_forgotten_and_running_ones_kept() {
    let (cloud, node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    node.disobey();
    let stop =
        crate::instance::ops::action(&cloud.c, &admin(), &name("default"), &named("web"), InstanceAction::Stop, None)
            .await
            .unwrap();
    assert_eq!(forget_old(&cloud.c).await.unwrap(), 0);
    for _ in 0..10 {
        cloud.clock.advance(Duration::from_secs(1)).await;
        yun_api::node::ControlLink::heartbeat(&node.link, node.id, NodeUsage::default()).await.unwrap();
    }
    // Enough old ends to have one too many.
    let ended = cloud.c.operations.cache.all(&[]).into_iter().find(|row| row.value.0.status.state.ended()).unwrap();
    for chunk in 0..=(KEPT / 100) {
        let mut txn = Txn::new();
        for _ in 0..100.min(KEPT + 1 - chunk * 100) {
            let mut row = ended.value.clone();
            row.0.metadata.id = cloud.c.works.next_id(cloud.c.clock.now()).0;
            txn = txn.then(Table::<OperationRow>::op_put(&[&row.0.metadata.id.to_string()], &row).unwrap());
        }
        let out = yun_store::commit(&*cloud.c.store, txn).await.unwrap();
        cloud.c.operations.cache.wait_for(out.rev).await.unwrap();
    }
    forget_old(&cloud.c).await.unwrap();
    assert_eq!(cloud.c.operations.cache.len(), KEPT + 1, "a thousand that have ended, and the one that runs");
    assert!(cloud.c.operations.cache.get_key(&ended.key).is_none(), "the oldest went");
    cloud.c.tasks.abort();
    cloud.clock.advance(KEPT_FOR.to_std().unwrap() + Duration::from_secs(60)).await;
    assert_eq!(forget_old(&cloud.c).await.unwrap(), KEPT);
    assert_eq!(ops::find(&cloud.c, &admin(), id(&stop)).await.unwrap().status.state, OperationState::Running);
}

#[tokio::test]
async fn ids_are_in_the_order_of_time() {
    let cloud = Cloud::new().await;
    let now = cloud.c.clock.now();
    let ids: Vec<_> = (0..1000).map(|_| cloud.c.works.next_id(now)).collect();
    assert!(ids.is_sorted());
}
