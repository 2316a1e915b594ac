//! What is refused, and in which words.

use super::*;

async fn refused(cloud: &Cloud, change: impl FnOnce(&mut InstanceSpec)) -> String {
    text(cloud.create("web", change).await)
}

#[tokio::test]
async fn names_that_exist_and_projects_that_do_not() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    let error = cloud.create("web", |_| {}).await.unwrap_err();
    assert_eq!((error.status, error.code.as_ref()), (ErrorStatusCode::CONFLICT, "Exists"));
    assert_eq!(
        error.message,
        "instance web exists in project default already; choose another name, or delete it first with yun rm web"
    );
    assert!(text(cloud.create_in("nowhere", "web", |_| {}).await).contains("project nowhere does not exist"));
}

#[tokio::test]
async fn of_two_equal_requests_at_once_one_is_refused() {
    let (cloud, _node) = Cloud::usual().await;
    let both = join_all(["web", "web"].map(|n| cloud.create(n, |_| {}))).await;
    let errors: Vec<_> = both.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, "Exists");
}

#[tokio::test]
async fn unknown_images_propose_near_names() {
    let (cloud, _node) = Cloud::usual().await;
    let error = cloud.create("web", |s| s.image = "bussybox".into()).await.unwrap_err();
    assert_eq!(
        (error.status, error.message.as_str()),
        (ErrorStatusCode::NOT_FOUND, "image bussybox does not exist; did you mean busybox?")
    );
    let empty = Cloud::new().await;
    assert!(refused(&empty, |_| {}).await.contains("there are no images yet; make one with yun image build"));
}

#[tokio::test]
async fn the_kind_follows_the_image() {
    let (cloud, _node) = Cloud::usual().await;
    let error = refused(&cloud, |s| s.kind = Some(InstanceKind::Vm)).await;
    assert!(error.contains("image busybox makes a container, and a vm was asked for"), "{error}");
    cloud.image("default", "debian", vm_image(2)).await;
    let error = refused(&cloud, |s| {
        s.image = "debian".into();
        s.container.tty = true;
        s.size.disk = Bytes::gib(2);
    })
    .await;
    assert!(error.contains("this is a VM"), "{error}");
}

#[tokio::test]
async fn a_disk_must_hold_its_image() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.image("default", "debian", vm_image(2)).await;
    let error = refused(&cloud, |s| s.image = "debian".into()).await;
    assert_eq!(error, "image debian needs a disk of 1 GiB, and disk:100Mi was asked for; ask for disk:1Gi or more");
}

#[tokio::test]
async fn more_than_any_machine_has_is_refused_at_once() {
    let (cloud, _node) = Cloud::usual().await;
    let error = cloud.create("web", |s| s.size = size("cpu:64,memory:1Ti,disk:1Gi")).await.unwrap_err();
    assert_eq!(error.code, "TooLarge");
    assert!(
        error.message.contains("more cpu and memory than any node has: the largest, a, has cpu:4,memory:4Gi,disk:40Gi"),
        "{}",
        error.message
    );
    assert!(error.message.ends_with("ask for at most cpu:4,memory:4Gi,disk:40Gi"), "{}", error.message);
    assert_eq!(cloud.instance("web"), None);
}

#[tokio::test]
async fn an_image_for_another_processor_is_refused() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.image("default", "arm", ImageFacts { arch: Arch::Arm64, ..container_image(3) }).await;
    let error = cloud.create("web", |s| s.image = "arm".into()).await.unwrap_err();
    assert_eq!(error.code, "WrongArch");
    assert!(error.message.contains("is for arm64 processors, and the cloud has only amd64"), "{}", error.message);
}

#[tokio::test]
async fn a_node_that_does_not_exist_is_not_waited_for() {
    let cloud = Cloud::new().await;
    cloud.image("default", "busybox", container_image(1)).await;
    let _node = cloud.node("alpha", "cpu:4,memory:4Gi,disk:40Gi").await;
    let error = refused(&cloud, |s| s.node = Some(name("alhpa"))).await;
    assert_eq!(error, "node alhpa does not exist; did you mean alpha?");
}

#[tokio::test]
async fn a_port_has_one_owner() {
    let (cloud, _node) = Cloud::usual().await;
    let publish = |s: &mut InstanceSpec| s.publish = vec!["8080:80".parse().unwrap()];
    cloud.launch("web", publish).await;
    let error = cloud.create("other", publish).await.unwrap_err();
    assert_eq!(error.code, "PortTaken");
    assert_eq!(error.message, "port 8080 is taken by instance web of project default; choose another or stop it");

    cloud.project("team", ProjectSpec::default()).await;
    let error = text(cloud.create_in("team", "mine", publish).await);
    assert_eq!(error, "port 8080 is taken by an instance of another project; choose another");

    let stop = cloud.act("web", InstanceAction::Stop).await.unwrap();
    cloud.end(&stop).await;
    cloud.launch("other", publish).await;
    let error = text(cloud.act("web", InstanceAction::Start).await);
    assert_eq!(error, "port 8080 is taken by instance other of project default; choose another or stop it");
    assert!(text(cloud.update("web", |u| u.spec.power = Power::Running).await).contains("port 8080 is taken"));
}

#[tokio::test]
async fn of_two_that_want_one_port_at_once_one_is_refused() {
    let (cloud, _node) = Cloud::usual().await;
    let publish = |s: &mut InstanceSpec| s.publish = vec!["8080:80".parse().unwrap()];
    let both = join_all([cloud.create("one", publish), cloud.create("two", publish)]).await;
    assert_eq!(both.iter().filter(|r| r.as_ref().is_err_and(|e| e.code == "PortTaken")).count(), 1);
}

#[tokio::test]
async fn bad_options_are_refused_with_a_right_one() {
    let (cloud, _node) = Cloud::usual().await;
    let error = refused(&cloud, |s| drop(s.container.env.insert("1A".into(), "x".into()))).await;
    assert!(error.contains("env name \"1A\" is not usable"), "{error}");
    let error = refused(&cloud, |s| s.container.mounts = vec![Mount::Tmpfs { target: "tmp".into(), size: None }]).await;
    assert!(error.contains("not absolute"), "{error}");
    let error = refused(&cloud, |s| s.publish = vec!["80:80".parse().unwrap(), "80:81".parse().unwrap()]).await;
    assert!(error.contains("both ask for port 80"), "{error}");
    cloud.image("default", "debian", vm_image(2)).await;
    let vm = |change: fn(&mut VmOptions)| {
        refused(&cloud, move |s| {
            s.image = "debian".into();
            s.size.disk = Bytes::gib(2);
            change(&mut s.vm);
        })
    };
    assert!(vm(|vm| vm.ssh_keys = vec!["hello".into()]).await.contains("id_ed25519.pub"));
    assert!(vm(|vm| vm.user_data = Some("x".repeat(70_000))).await.contains("64 KiB is the most"));
}

#[tokio::test]
async fn paths_of_the_host_are_for_admins_of_the_cloud() {
    let (cloud, _node) = Cloud::usual().await;
    let mount = |s: &mut InstanceSpec| {
        s.container.mounts = vec![Mount::Bind { source: "/srv".into(), target: "/srv".into(), read_only: true }];
    };
    let editor = caller(None, &[("default", Role::Editor)]);
    let error = cloud.create_as(&editor, "default", "web", mount).await.unwrap_err();
    assert_eq!(error.status, ErrorStatusCode::FORBIDDEN);
    cloud.launch("web", mount).await;
    assert!(
        cloud.update_as(&editor, "web", |u| drop(u.labels.insert("a".into(), "b".into()))).await.is_ok(),
        "what was mounted stays"
    );
    let more = cloud.update_as(&editor, "web", |u| {
        u.spec.container.mounts.push(Mount::Bind { source: "/".into(), target: "/x".into(), read_only: false })
    });
    assert_eq!(more.await.unwrap_err().status, ErrorStatusCode::FORBIDDEN);
}

#[tokio::test]
async fn objects_of_other_projects_do_not_exist() {
    let (cloud, _node) = Cloud::usual().await;
    let web = cloud.launch("web", |_| {}).await;
    let team = cloud.project("team", ProjectSpec::default()).await;
    for instance in [named("web"), NameOrId::Id(web.metadata.id)] {
        let error = ops::find(&cloud.c, &team, &instance).await.unwrap_err();
        assert_eq!(error.status, ErrorStatusCode::NOT_FOUND);
        assert!(!error.message.contains("did you mean"), "{}", error.message);
        assert!(ops::delete(&cloud.c, &admin(), &team, &instance, None).await.is_err());
    }
    assert!(ops::find(&cloud.c, &name("default"), &NameOrId::Id(web.metadata.id)).await.is_ok());
    assert!(text(ops::find(&cloud.c, &name("default"), &named("wbe")).await).contains("did you mean web?"));
}

#[tokio::test]
async fn quotas_say_what_is_used_and_what_is_the_most() {
    let (cloud, _node) = Cloud::usual().await;
    let quota = Quota { memory: Some(Bytes::mib(200)), instances: Some(2), ..Quota::default() };
    cloud.project("team", ProjectSpec { quota, ..ProjectSpec::default() }).await;
    cloud.create_in("team", "one", |s| s.size.memory = Bytes::mib(128)).await.unwrap();
    let error = cloud.create_in("team", "two", |s| s.size.memory = Bytes::mib(128)).await.unwrap_err();
    assert_eq!(error.code, "QuotaExceeded");
    assert!(error.message.starts_with(
        "the memory quota of project team does not allow it: 200 MiB is the most, 128 MiB is used, and 128 MiB more"
    ));
    cloud.create_in("team", "two", |_| {}).await.unwrap();
    assert!(
        text(cloud.create_in("team", "three", |s| s.size.memory = Bytes::mib(4)).await)
            .contains("the instances quota of project team")
    );
    assert_eq!(reserved_by_project(&cloud.c, &name("team")).memory, Bytes::mib(192));
    let both = join_all(["a", "b"].map(|n| cloud.create(n, |_| {}))).await;
    assert!(both.iter().all(Result::is_ok), "other projects have quotas of their own");
}

#[tokio::test]
async fn a_stopped_instance_cannot_be_paused() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("web", |s| s.power = Power::Stopped).await;
    let error = cloud.act("web", InstanceAction::Pause).await.unwrap_err();
    assert_eq!((error.status, error.code.as_ref()), (ErrorStatusCode::CONFLICT, "NotRunning"));
    assert_eq!(
        error.message,
        "cannot pause instance web: it is stopped, and only a running instance can be paused; start it with yun start web"
    );
    assert!(text(cloud.act("web", InstanceAction::Resume).await).contains("it is stopped, not paused"));
}

#[tokio::test]
async fn what_is_fixed_cannot_be_updated() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.launch("web", |_| {}).await;
    assert!(
        text(cloud.update("web", |u| u.spec.image = "debian".into()).await)
            .contains("cannot change the image of instance web")
    );
    assert!(
        text(cloud.update("web", |u| u.spec.size.disk = Bytes::mib(50)).await)
            .contains("cannot make the disk of instance web smaller")
    );
    assert!(
        text(cloud.update("web", |u| u.spec.container.workdir = Some("srv".into())).await).contains("not absolute")
    );
}
