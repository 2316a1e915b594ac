//! Tests of taking images in, finding, checking and removing them.

use super::*;
use crate::{auth::caller::tests::caller, fixture::*, operation};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use yun_api::{
    cloud::{ImageCreate, ImageOrigin, UploadQuery},
    node::{ControlLink, LinkError},
};
use yun_types::{
    ImageFacts, ImageRecipe, Labels, Operation, OperationId, OperationState, ProjectSpec, RecipeBase, Role,
};

fn url(text: &str, url: &str) -> ImageCreate {
    ImageCreate {
        name: name(text),
        labels: Labels::new(),
        source: ImageOrigin::Url { url: url.into(), format: None, checksum: None },
    }
}

fn build(text: &str) -> ImageCreate {
    let recipe =
        ImageRecipe { base: RecipeBase::Busybox, packages: vec![], suite: None, entrypoint: vec![], command: vec![] };
    ImageCreate {
        name: name(text),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        source: ImageOrigin::Build { recipe },
    }
}

fn query(text: &str) -> UploadQuery {
    UploadQuery {
        project: None,
        name: name(text),
        format: None,
        checksum: None,
        source: Some("web.tar".into()),
        entrypoint: None,
        command: None,
        config: None,
    }
}

async fn create(cloud: &Cloud, body: ImageCreate) -> Result<Operation, crate::error::Refusal> {
    ops::create(&cloud.c, &admin(), &name("default"), body).await
}

fn found(cloud: &Cloud, text: &str) -> Result<String, String> {
    locate(&cloud.c, &name("default"), text).map(|row| row.value.0.metadata.name.to_string()).map_err(|e| e.message)
}

#[tokio::test]
async fn a_build_ends_in_the_catalogue() {
    let (cloud, node) = Cloud::usual().await;
    node.inner.hold_imports.store(true, Ordering::SeqCst);
    let operation = create(&cloud, build("tools")).await.unwrap();
    assert!(operation.status.cancellable);
    let id = OperationId(operation.metadata.id);
    eventually("progress is seen", || {
        cloud.c.works.get(id).is_some_and(|work| work.progress().borrow().percent == Some(50))
    })
    .await;
    let now = operation::ops::find(&cloud.c, &admin(), id).await.unwrap();
    assert_eq!(now.status.progress.message, "installing busybox");
    node.inner.hold_imports.store(false, Ordering::SeqCst);
    let end = cloud.end(&operation).await;
    assert_eq!(end.status.state, OperationState::Succeeded);
    assert_eq!(end.status.progress.message, "image tools is ready: container for amd64, 4 MiB, 090909090909");
    let image = locate(&cloud.c, &name("default"), "tools").unwrap().value.0.clone();
    assert_eq!(
        (image.spec.source.as_str(), image.metadata.labels.len(), image.metadata.id),
        ("recipe busybox", 1, operation.spec.target.id)
    );
    cloud.tells("tools", &["ImageImported"]).await;
}

#[tokio::test]
async fn an_upload_answers_when_it_is_done() {
    let (cloud, node) = Cloud::usual().await;
    let bytes = stream::iter([Ok(Bytes::from_static(b"hello")), Ok(Bytes::from_static(b" world"))]).boxed();
    let words = UploadQuery { entrypoint: Some("[\"/bin/sh\"]".into()), ..query("web") };
    let end = ops::upload(&cloud.c, &admin(), &name("default"), words, bytes).await.unwrap();
    assert_eq!(end.status.state, OperationState::Succeeded);
    assert_eq!(*node.inner.uploaded.lock().unwrap(), 11);
    let image = locate(&cloud.c, &name("default"), "web").unwrap().value.0.clone();
    assert_eq!(
        (image.spec.source.as_str(), image.status.facts.config.unwrap().entrypoint),
        ("web.tar", vec!["/bin/sh".to_owned()])
    );
    let bad = UploadQuery { command: Some("date".into()), ..query("other") };
    let refused = ops::upload(&cloud.c, &admin(), &name("default"), bad, stream::empty().boxed()).await.unwrap_err();
    assert!(refused.message.contains("command \"date\" is not a JSON list"), "{}", refused.message);
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_before_the_first_byte() {
    let (cloud, _node) = Cloud::usual().await;
    let read = Arc::new(AtomicBool::new(false));
    let touched = Arc::clone(&read);
    let bytes = stream::once(async move {
        touched.store(true, Ordering::SeqCst);
        Ok(Bytes::new())
    });
    let refused = ops::upload(&cloud.c, &admin(), &name("default"), query("busybox"), bytes.boxed()).await.unwrap_err();
    assert_eq!(
        refused.message,
        "image busybox exists in project default already: choose another name, or delete it first with yun image rm busybox"
    );
    assert!(!read.load(Ordering::SeqCst));
}

#[tokio::test]
async fn one_name_is_made_once_at_a_time_and_checked_again_at_the_end() {
    let (cloud, node) = Cloud::usual().await;
    node.inner.hold_imports.store(true, Ordering::SeqCst);
    let first = create(&cloud, build("tools")).await.unwrap();
    let refused = create(&cloud, url("tools", "https://example.org/a.qcow2")).await.unwrap_err();
    assert_eq!(refused.code, "BeingMade");
    cloud.image("default", "tools", container_image(5)).await;
    node.inner.hold_imports.store(false, Ordering::SeqCst);
    let end = cloud.end(&first).await;
    assert_eq!((end.status.state, end.status.error.unwrap().code.as_str()), (OperationState::Failed, "Exists"));
}

#[tokio::test]
async fn a_node_that_refuses_is_quoted() {
    let (cloud, node) = Cloud::usual().await;
    *node.inner.import.lock().unwrap() =
        Some(Err(LinkError::refused("ChecksumMismatch", "the bytes hash to sha256:00, not to what was asked for")));
    let end = {
        let operation = create(&cloud, url("web", "http://example.org/web.tar")).await.unwrap();
        cloud.end(&operation).await
    };
    let failure = end.status.error.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str()),
        ("ChecksumMismatch", "the bytes hash to sha256:00, not to what was asked for")
    );
    assert!(found(&cloud, "web").is_err());
    cloud.tells("web", &["ImageFailed"]).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_fails() {
    let (cloud, _node) = Cloud::usual().await;
    let bytes = stream::iter([Ok(Bytes::from_static(b"hel")), Err(std::io::Error::other("connection reset"))]).boxed();
    let end = ops::upload(&cloud.c, &admin(), &name("default"), query("web"), bytes).await.unwrap();
    assert_eq!(end.status.error.unwrap().message, "the upload broke off: connection reset");
}

#[tokio::test]
async fn who_gives_an_upload_up_gives_the_import_up() {
    let (cloud, _node) = Cloud::usual().await;
    let caller = admin();
    let project = name("default");
    let upload = ops::upload(&cloud.c, &caller, &project, query("web"), stream::pending().boxed());
    tokio::select! {
        end = upload => panic!("it never ends: {end:?}"),
        () = eventually("it has begun", || !operation::running(&cloud.c).is_empty()) => {}
    }
    // The request is gone; the import is not stuck on its bytes for ever, because the node is told.
    let row = operation::running(&cloud.c).remove(0);
    assert!(cloud.c.works.get(OperationId(row.value.0.metadata.id)).unwrap().is_cancelled());
}

#[tokio::test]
async fn an_import_is_taken_back() {
    let (cloud, node) = Cloud::usual().await;
    node.inner.hold_imports.store(true, Ordering::SeqCst);
    let operation = create(&cloud, url("web", "https://example.org/a.qcow2")).await.unwrap();
    operation::ops::cancel(&cloud.c, &admin(), OperationId(operation.metadata.id)).await.unwrap();
    let end = cloud.end(&operation).await;
    assert_eq!(
        (end.status.state, end.status.progress.message.as_str()),
        (OperationState::Cancelled, "image web was taken back")
    );
    assert!(found(&cloud, "web").is_err());
}

#[tokio::test]
async fn an_import_that_died_with_its_process_says_so() {
    let (cloud, node) = Cloud::usual().await;
    node.inner.hold_imports.store(true, Ordering::SeqCst);
    let operation = create(&cloud, build("tools")).await.unwrap();
    assert_eq!(reconcile::end_interrupted(&cloud.c).await.unwrap(), 0, "it is alive");
    drop(node);
    let cloud = cloud.reopen().await;
    let failure = cloud.end(&operation).await.status.error.unwrap();
    assert_eq!(failure.code, "Interrupted");
    assert_eq!(failure.message, "the build of image tools was interrupted by a restart of yun: run it again");
}

#[tokio::test]
async fn bad_sources_and_missing_nodes_are_refused() {
    let cloud = Cloud::new().await;
    for bad in ["", "ftp://x/y", "https://", "https:///x", "file:///etc/passwd", "http://a b"] {
        assert!(
            create(&cloud, url("web", bad)).await.unwrap_err().message.contains("as in https://example.org"),
            "{bad}"
        );
    }
    assert!(create(&cloud, build("web")).await.unwrap_err().message.contains("the cloud has no node yet"));
    let mut facts = facts("a", "cpu:4,memory:4Gi,disk:40Gi");
    facts.drivers[2].ready = false;
    facts.drivers[2].message = Some("mmdebstrap is not installed".into());
    let _node = cloud.node_with(facts).await;
    assert!(
        create(&cloud, build("web")).await.unwrap_err().message.contains("node a cannot: mmdebstrap is not installed")
    );
}

#[tokio::test]
async fn an_image_in_use_stays() {
    let (cloud, _node) = Cloud::usual().await;
    cloud.project("team", ProjectSpec::default()).await;
    cloud.launch("web", |_| {}).await;
    cloud.launch("db", |_| {}).await;
    cloud.create_in("team", "theirs", |_| {}).await.unwrap();
    let delete = |text: &'static str| {
        let c = cloud.c.clone();
        async move { ops::delete(&c, &admin(), &name("default"), text).await }
    };
    let refused = delete("busybox").await.unwrap_err();
    assert_eq!(
        (refused.code.as_ref(), refused.message.as_str()),
        ("ImageInUse", "image busybox is used by instances db, web and 1 of other projects: delete them first")
    );
    cloud.image("default", "twin", container_image(1)).await;
    assert!(delete("busybox").await.is_err(), "those were made from this very entry");
    assert!(delete("twin").await.is_ok(), "the content stays under the other name");
    cloud.tells("twin", &["Deleted"]).await;
    cloud.image("default", "unused", container_image(3)).await;
    assert!(delete("unused").await.is_ok());
    assert!(delete("unused").await.unwrap_err().message.contains("image unused does not exist"));
}

#[tokio::test]
async fn the_last_name_of_a_content_tells_the_nodes() {
    let (cloud, node) = Cloud::usual().await;
    cloud.image("default", "one", container_image(7)).await;
    cloud.image("default", "two", container_image(7)).await;
    let gone = |node: &FakeNode| {
        node.told()
            .iter()
            .any(|o| matches!(o, yun_types::NodeOrder::ImageGone { digest } if *digest == container_image(7).digest))
    };
    ops::delete(&cloud.c, &admin(), &name("default"), "one").await.unwrap();
    cloud.launch("web", |_| {}).await;
    assert!(!gone(&node), "it has another name");
    ops::delete(&cloud.c, &admin(), &name("default"), "two").await.unwrap();
    eventually("the node is told", || gone(&node)).await;
}

#[tokio::test]
async fn images_are_found_by_name_id_and_digest() {
    let (cloud, _node) = Cloud::usual().await;
    let image = cloud.image("default", "tools", container_image(0xab)).await;
    for text in ["tools", "default/tools", "ababab", "sha256:abababab", &image.metadata.id.to_string()] {
        assert_eq!(found(&cloud, text).as_deref(), Ok("tools"), "{text}");
    }
    let mut near = [0xab; 32];
    near[31] = 0;
    cloud
        .image("default", "other", ImageFacts { digest: yun_types::Digest::from_sha256(near), ..container_image(0) })
        .await;
    assert!(
        found(&cloud, "ababab").unwrap_err().contains("begins the digests of images other and tools: give more digits")
    );
    assert!(found(&cloud, "abab").unwrap_err().contains("does not exist"));
    assert_eq!(found(&cloud, "tolos").unwrap_err(), "image tolos does not exist; did you mean tools?");
}

#[tokio::test]
async fn the_library_of_the_default_project_is_shared_and_only_read() {
    let (cloud, _node) = Cloud::usual().await;
    let team = cloud.project("team", ProjectSpec::default()).await;
    assert!(locate(&cloud.c, &team, "busybox").is_ok());
    cloud.image("team", "busybox", container_image(8)).await;
    cloud.image("team", "secret", container_image(9)).await;
    let own = locate(&cloud.c, &team, "busybox").unwrap();
    assert_eq!(own.value.0.status.facts.digest, container_image(8).digest, "the project's own comes first");
    assert_eq!(
        locate(&cloud.c, &team, "default/busybox").unwrap().value.0.status.facts.digest,
        container_image(1).digest
    );
    for text in ["secret", "team/secret", "090909090909"] {
        assert!(found(&cloud, text).unwrap_err().contains("does not exist"), "{text}");
    }
    let editor = caller(None, &[("team", Role::Editor)]);
    cloud.image("default", "shared", container_image(4)).await;
    let refused = ops::delete(&cloud.c, &editor, &team, "shared").await.unwrap_err();
    assert!(refused.message.contains("image shared belongs to project default"), "{}", refused.message);
}

#[tokio::test]
async fn verification_is_remembered() {
    let (cloud, _node) = Cloud::usual().await;
    let image = ops::verify(&cloud.c, &admin(), &name("default"), "busybox").await.unwrap();
    assert_eq!(image.status.verified, Some(cloud.c.clock.now()));
    cloud.image("default", "rotten", container_image(66)).await;
    let refused = ops::verify(&cloud.c, &admin(), &name("default"), "rotten").await.unwrap_err();
    assert_eq!(
        (refused.code.as_ref(), refused.message.as_str()),
        ("ImageDamaged", "image rotten is not as it was: its content is not what its digest says; import it again")
    );
}

#[tokio::test]
async fn an_unregistered_node_is_told_to_register() {
    let (cloud, node) = Cloud::usual().await;
    let id = node.id;
    drop(node);
    let cloud = cloud.reopen().await;
    let link = crate::node::LocalLink(Arc::clone(&cloud.c));
    assert!(
        matches!(link.heartbeat(id, Default::default()).await, Err(LinkError::NotFound(text)) if text.contains("register first"))
    );
    assert!(create(&cloud, build("web")).await.unwrap_err().message.contains("node a is not connected now"));
}
