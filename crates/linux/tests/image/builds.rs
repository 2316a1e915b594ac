//! Images built from packages, and whether they run.

use crate::node::{Node, recipe};
use std::{process::Command, time::Instant};
use yun_drivers::{ErrorKind, ImageDriver};
use yun_engine::work::Followed;
use yun_types::RecipeBase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busybox_is_built_in_a_moment_and_always_the_same() {
    let node = Node::new();
    let work = Followed::default();
    let first = match node.images.build(&recipe(RecipeBase::Busybox), &work).await {
        Ok(facts) => facts,
        Err(e) if e.kind == ErrorKind::Unavailable => return eprintln!("SKIPPED: busybox cannot be built here: {e}"),
        Err(e) => panic!("{e}"),
    };
    let began = Instant::now();
    let again = node.images.build(&recipe(RecipeBase::Busybox), &work).await.unwrap();
    eprintln!("the second build took {:?}", began.elapsed());
    assert_eq!(first, again);
    assert!(first.description.as_ref().unwrap().starts_with("BusyBox 1."), "{first:?}");
    assert_eq!(first.config.unwrap().command, ["sh"]);
    assert_eq!(work.progress().borrow().percent, Some(100));
    node.images.verify(&first.digest).await.unwrap();
    let root = node.layer(&first.digest).await;
    let inside = |args: &[&str]| Command::new("chroot").arg(&root).args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside(&["sh", "-c", "echo it works | cat"]).stdout), "it works\n");
    assert!(inside(&["/usr/bin/env", "true"]).status.success());
    assert!(inside(&["sh", "-c", "ls /www/index.html && id -un && busybox httpd --help"]).status.success());
}
