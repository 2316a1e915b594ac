//! Tests of groups over a real store: their whole life, refusals, and a process that dies in the middle.

use super::*;
use crate::{auth::caller::tests::caller, fixture::*};
use yun_api::cloud::{GroupCreate, GroupUpdate};
use yun_types::{GroupSpec, GroupState, InstanceState, InstanceTemplate, Labels, Role, UpdatePolicy};

fn wanted(replicas: u32) -> GroupSpec {
    let template = InstanceTemplate { labels: Labels::from([("tier".into(), "web".into())]), spec: spec() };
    GroupSpec { replicas, template, update: UpdatePolicy::default(), paused: false, round: 0 }
}

impl Cloud {
    async fn group(&self, text: &str, spec: GroupSpec) -> Result<Arc<Row<GroupRow>>, Refusal> {
        let body = GroupCreate { name: name(text), labels: Labels::new(), spec };
        ops::create(&self.c, &admin(), &name("default"), body).await
    }

    async fn change_group(&self, text: &str, change: impl FnOnce(&mut GroupSpec)) -> Result<Group, Refusal> {
        let mut spec = self.shown(text).spec;
        change(&mut spec);
        let body = GroupUpdate { labels: Labels::new(), spec };
        ops::update(&self.c, &admin(), &name("default"), &named(text), body, None).await.map(|row| row.value.0.clone())
    }

    fn shown(&self, text: &str) -> Group {
        locate(&self.c, &name("default"), &named(text)).unwrap().value.0.clone()
    }

    async fn is(&self, text: &str, state: GroupState, available: u32) {
        eventually(&format!("group {text} is {state} with {available}"), || {
            let status = self.shown(text).status;
            status.state == state && status.available == available
        })
        .await;
    }

    fn names(&self) -> Vec<String> {
        let rows = self.c.instances.cache.all(&["default"]);
        rows.iter().map(|row| row.value.0.metadata.name.to_string()).collect()
    }
}

#[tokio::test]
async fn a_group_lives_from_creation_to_removal() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.group("web", wanted(3)).await.unwrap();
    cloud.is("web", GroupState::Ready, 3).await;
    assert_eq!(cloud.names(), ["web-1", "web-2", "web-3"]);
    let first = cloud.instance("web-1").unwrap();
    let tie = first.status.group.clone().unwrap();
    assert_eq!((tie.name.as_str(), tie.slot, tie.revision), ("web", 1, 1));
    assert_eq!(first.metadata.labels["tier"], "web");

    cloud.change_group("web", |spec| spec.replicas = 1).await.unwrap();
    cloud.is("web", GroupState::Ready, 1).await;
    eventually("the newest slots are gone", || cloud.names() == ["web-1"]).await;

    // A change replaces it, and the name stays.
    cloud.change_group("web", |spec| spec.template.spec.container.command = Some(vec!["true".into()])).await.unwrap();
    eventually("the change is rolled out", || cloud.shown("web").status.stable == 2).await;
    let second = cloud.instance("web-1").unwrap();
    assert_ne!(second.metadata.id, first.metadata.id);
    assert_eq!(cloud.names(), ["web-1"]);

    // And back.
    ops::undo(&cloud.c, &name("default"), &named("web"), None).await.unwrap();
    eventually("it is undone", || cloud.shown("web").status.stable == 1).await;
    assert_eq!(cloud.instance("web-1").unwrap().spec.container.command, None);

    ops::delete(&cloud.c, &name("default"), &named("web"), None).await.unwrap();
    eventually("nothing is left", || cloud.c.groups.cache.is_empty() && cloud.names().is_empty()).await;
    cloud.tells("web", &["Deleted"]).await;
}

#[tokio::test]
async fn one_of_many_is_not_changed_by_itself() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.group("web", wanted(1)).await.unwrap();
    cloud.is("web", GroupState::Ready, 1).await;
    let (c, project, one) = (&cloud.c, name("default"), named("web-1"));
    let refused = crate::instance::ops::delete(c, &admin(), &project, &one, None).await.unwrap_err();
    assert_eq!(refused.code, "OwnedByGroup");
    assert!(refused.message.starts_with("cannot delete instance web-1 by itself: it belongs to group web; change all"));
    let stop = yun_api::cloud::InstanceAction::Stop;
    let refused = crate::instance::ops::action(c, &admin(), &project, &one, stop, None).await.unwrap_err();
    assert!(refused.message.starts_with("cannot stop instance web-1 by itself"), "{refused}");
}

#[tokio::test]
async fn names_are_kept_for_slots_and_for_groups() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("db-1", |_| {}).await;
    cloud.launch("solo", |_| {}).await;
    let refused = cloud.group("db", wanted(2)).await.unwrap_err();
    assert!(refused.message.contains("instance db-1 has it: delete that one first (yun rm db-1)"), "{refused}");
    assert!(cloud.group("solo", wanted(1)).await.unwrap_err().message.contains("instance solo exists"));
    cloud.group("web", wanted(1)).await.unwrap();
    assert!(cloud.group("web", wanted(1)).await.unwrap_err().message.contains("yun group set web"));
    assert!(cloud.create("web", |_| {}).await.unwrap_err().message.contains("group web exists"));
    let refused = cloud.create("web-7", |_| {}).await.unwrap_err();
    assert!(refused.message.contains("kept for slot 7 of group web"), "{refused}");
    // A project with a group stays.
    let project = crate::project::ops::delete(&cloud.c, &admin(), &named("default")).await;
    assert!(project.is_err());
}

#[tokio::test]
async fn bad_specs_are_refused_with_the_way_out() {
    let (cloud, _node) = Cloud::usual().await;
    let refused = async |change: &dyn Fn(&mut GroupSpec)| {
        let mut spec = wanted(2);
        change(&mut spec);
        cloud.group("web", spec).await.unwrap_err().message
    };
    assert!(refused(&|s| s.replicas = 1001).await.contains("1000 are the most"));
    assert!(refused(&|s| s.update.max_surge = 0).await.contains("both 0"));
    assert!(refused(&|s| s.update.deadline_seconds = 0).await.contains("every rollout would fail"));
    assert!(refused(&|s| s.update.min_ready_seconds = 90_000).await.contains("a day"));
    assert!(refused(&|s| s.template.spec.image = "busibox".into()).await.contains("did you mean busybox?"));
    assert!(refused(&|s| s.template.spec.power = yun_types::Power::Stopped).await.contains("scale the group to 0"));
    assert!(refused(&|s| s.template.spec.restart_count = 1).await.contains("yun group restart"));
    assert!(refused(&|s| s.template.spec.kind = Some(yun_types::InstanceKind::Vm)).await.contains("makes a container"));
    assert!(
        refused(&|s| s.template.spec.size = size("cpu:64,memory:64Mi,disk:1Gi")).await.contains("more cpu than any")
    );
    let ports = refused(&|s| s.template.spec.publish = vec!["8080:80".parse().unwrap()]).await;
    assert!(ports.contains("several instances cannot publish 8080:80 on one host"), "{ports}");
    let long = cloud.group(&"x".repeat(60), wanted(1)).await.unwrap_err().message;
    assert!(long.contains("58 characters are the most"), "{long}");
    // Paths of the host are for administrators of the cloud, in templates too.
    let mut spec = wanted(1);
    let mount = yun_types::Mount::Bind { source: "/etc".into(), target: "/mnt".into(), read_only: true };
    spec.template.spec.container.mounts = vec![mount];
    let body = GroupCreate { name: name("web"), labels: Labels::new(), spec };
    let editor = caller(None, &[("default", Role::Editor)]);
    let refused = ops::create(&cloud.c, &editor, &name("default"), body).await.unwrap_err();
    assert_eq!(refused.code, "Forbidden");
    // Changes.
    cloud.group("web", wanted(1)).await.unwrap();
    cloud.change_group("web", |spec| spec.round = 3).await.unwrap();
    assert!(cloud.change_group("web", |spec| spec.round = 2).await.unwrap_err().message.contains("back from 3 to 2"));
    let unknown = ops::undo(&cloud.c, &name("default"), &named("web"), Some(9)).await.unwrap_err();
    assert!(unknown.message.contains("has no revision 9"), "{unknown}");
    assert!(locate(&cloud.c, &name("default"), &named("wob")).unwrap_err().message.contains("did you mean web?"));
}

#[tokio::test]
async fn a_process_that_dies_at_any_step_is_followed_by_one_that_goes_on() {
    let (mut cloud, mut node) = Cloud::usual().await;
    cloud.group("web", wanted(3)).await.unwrap();
    for round in 1..=6u64 {
        // Each time it dies a little later: after the status, after one instance, after two …
        for _ in 0..(round * 3) {
            tokio::task::yield_now().await;
        }
        drop(node);
        cloud = cloud.reopen().await;
        node = cloud.node("a", "cpu:4,memory:4Gi,disk:40Gi").await;
        cloud.change_group("web", |spec| spec.round = round).await.unwrap();
    }
    eventually("it is as it is wanted", || {
        let group = cloud.shown("web");
        group.status.state == GroupState::Ready && group.spec.round == 6 && group.status.available == 3
    })
    .await;
    eventually("no more than wanted is left", || cloud.names() == ["web-1", "web-2", "web-3"]).await;
    drop(node);
}

#[tokio::test]
async fn instances_are_spread_over_nodes() {
    let (cloud, _node) = Cloud::usual().await;
    let _other = cloud.node("b", "cpu:64,memory:512Gi,disk:4Ti").await;
    cloud.group("web", wanted(4)).await.unwrap();
    cloud.is("web", GroupState::Ready, 4).await;
    let on = |node: &str| {
        let rows = cloud.c.instances.cache.all(&["default"]);
        rows.iter().filter(|row| row.value.0.status.node_name == Some(name(node))).count()
    };
    assert_eq!((on("a"), on("b")), (2, 2));
}

#[tokio::test]
async fn what_has_no_room_is_said_and_comes_when_there_is() {
    let (cloud, _node) = Cloud::usual().await;
    let mut spec = wanted(3);
    spec.template.spec.size = size("cpu:2,memory:64Mi,disk:100Mi");
    cloud.group("web", spec).await.unwrap();
    eventually("two run and one waits", || {
        let status = cloud.shown("web").status;
        status.available == 2
            && status.message.is_some_and(|message| message.contains("waits for web-3: it waits for a place"))
    })
    .await;
    let why = ops::explain(&cloud.c, &name("default"), &named("web")).unwrap();
    assert_eq!(why.members.len(), 3);
    assert!(why.steps.iter().any(|step| step.contains("web-3")), "{why:?}");
    let _other = cloud.node("b", "cpu:4,memory:4Gi,disk:40Gi").await;
    cloud.is("web", GroupState::Ready, 3).await;
    assert_eq!(cloud.state("web-3"), Some(InstanceState::Running));
}
