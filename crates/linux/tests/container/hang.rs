//! A runtime that hangs is ended after its time, and that is said.

use crate::world::*;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use yun_drivers::{ErrorKind, InstanceDriver};
use yun_engine::session::Output;
use yun_linux::container::ContainerDriverOptions;

/// A runtime that hangs when it is asked for one thing and works otherwise.
fn hangs_at(directory: &Path, verb: &str) -> ContainerDriverOptions {
    let path = directory.join("crun");
    let script =
        format!("#!/bin/sh\nfor word; do [ \"$word\" = {verb} ] && exec sleep 7171; done\nexec /usr/bin/crun \"$@\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    ContainerDriverOptions { runtime: path, patience: Duration::from_millis(1500), ..Default::default() }
}

fn nobody_sleeps() -> bool {
    fs::read_dir("/proc").unwrap().flatten().all(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        !String::from_utf8_lossy(&line).contains("sleep\x007171")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_hangs_is_bounded_and_said() {
    let directory = tempfile::tempdir().unwrap();
    if let Some(world) = World::with(hangs_at(directory.path(), "--detach")) {
        let order = world.order("sleep 1000");
        let handle = world.driver.prepare(&order, &world.image(), None).await.unwrap();
        let error = within(world.driver.start(&handle)).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Timeout, "StartTimeout"), "{error}");
        assert!(error.message.contains("hangs") && error.message.contains("1.5s"), "{error}");
        within(world.driver.remove(order.id)).await.unwrap();
    }
    if let Some(world) = World::with(hangs_at(directory.path(), "exec")) {
        let handle = world.run("sleep 1000").await;
        let mut session = world.exec(&handle, &["true"]).await;
        let last = within(async { session.output.recv().await }).await.unwrap();
        assert!(matches!(&last, Output::Error(why) if why.contains("hangs")), "{last:?}");
        assert!(world.is_running(&handle).await, "the container does not notice");
    }
    if let Some(world) = World::with(hangs_at(directory.path(), "--version")) {
        let facts = within(world.driver.probe()).await.unwrap();
        assert!(!facts.ready && facts.message.unwrap().contains("hangs"));
    }
    until("nothing that hung is left", || async { nobody_sleeps() }).await;
}
