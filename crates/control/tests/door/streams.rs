//! Streams: changes of objects, events, and WebSockets that are refused.

use crate::world::{World, name};
use futures::{Stream, StreamExt};
use serde_json::Value;
use std::{pin::Pin, time::Duration};
use yun_types::{Event, ObjectKind, ObjectRef, Role, Severity};

type Lines = Pin<Box<dyn Stream<Item = Value> + Send>>;

/// Opens a stream of JSON lines.
async fn open(world: &World, secret: &str, path: &str) -> Result<Lines, (u16, String)> {
    let response = world.http(secret).get(world.url(path)).send().await.unwrap();
    if !response.status().is_success() {
        let (status, code, _) = crate::world::refusal(response).await;
        return Err((status, code));
    }
    let chunks = response.bytes_stream();
    let lines = futures::stream::unfold((chunks, Vec::<u8>::new()), |(mut chunks, mut buffer)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                return Some((serde_json::from_slice(&line).unwrap(), (chunks, buffer)));
            }
            buffer.extend_from_slice(&chunks.next().await?.ok()?);
        }
    });
    Ok(Box::pin(lines))
}

async fn next(lines: &mut Lines) -> Value {
    let next = tokio::time::timeout(Duration::from_secs(20), lines.next()).await;
    next.expect("a line comes within 20 seconds").expect("the stream goes on")
}

fn told(line: &Value) -> String {
    let object = &line["object"];
    format!(
        "{} {} {}",
        line["change"].as_str().unwrap(),
        object["kind"].as_str().unwrap_or("-"),
        object["metadata"]["name"].as_str().unwrap_or("-")
    )
}

/// The lines up to the first bookmark.
async fn listed(lines: &mut Lines) -> (Vec<String>, String) {
    let mut seen = Vec::new();
    loop {
        let line = next(lines).await;
        if line["change"] == "bookmark" {
            return (seen, line["revision"].as_str().unwrap().to_owned());
        }
        seen.push(told(&line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_lists_then_follows_and_goes_on_where_it_was() {
    let world = World::new().await;
    let mut lines = open(&world, &world.admin, "/v1/watch?kind=project").await.unwrap();
    let (seen, revision) = listed(&mut lines).await;
    assert_eq!(seen, ["added project default"]);
    world.project("alpha").await;
    let added = next(&mut lines).await;
    assert_eq!(told(&added), "added project alpha");
    world.project("beta").await;
    assert_eq!(told(&next(&mut lines).await), "added project beta");

    let mut again = open(&world, &world.admin, &format!("/v1/watch?kind=project&after={revision}")).await.unwrap();
    assert_eq!(told(&next(&mut again).await), "added project alpha");
    let after = added["revision"].as_str().unwrap();
    let mut later = open(&world, &world.admin, &format!("/v1/watch?kind=project&after={after}")).await.unwrap();
    assert_eq!(told(&next(&mut later).await), "added project beta");
    let list: Value =
        world.http(&world.admin).get(world.url("/v1/projects")).send().await.unwrap().json().await.unwrap();
    let listed_at = list["revision"].as_str().unwrap();
    let mut from_list = open(&world, &world.admin, &format!("/v1/watch?kind=project&after={listed_at}")).await.unwrap();
    let row = world.control.projects.cache.get(&["beta"]).unwrap();
    let id = yun_types::NameOrId::Id(row.value.0.metadata.id);
    yun_control::project::ops::delete(&world.control, &world.root(), &id).await.unwrap();
    // Deletion marks the project first, so that nothing new comes into it.
    assert_eq!(told(&next(&mut from_list).await), "modified project beta");
    assert_eq!(told(&next(&mut from_list).await), "deleted project beta");

    for (after, refused) in [
        ("0.1", (410, "RevisionCompacted")),
        ("999999.1", (410, "RevisionCompacted")),
        ("yesterday", (400, "BadRevision")),
    ] {
        let error = open(&world, &world.admin, &format!("/v1/watch?kind=project&after={after}")).await.err().unwrap();
        assert_eq!((error.0, error.1.as_str()), refused, "{after}");
    }
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_all_kinds_keeps_the_order_and_the_secrets_of_others() {
    let world = World::new().await;
    world.project("alpha").await;
    world.project("beta").await;
    let alpha = world.token("alpha", None, &[("alpha", Role::Viewer)]).await;
    let mut own = open(&world, &alpha, "/v1/watch").await.unwrap();
    assert_eq!(listed(&mut own).await.0, ["added project alpha", "added network default"]);
    let mut everything = open(&world, &world.admin, "/v1/watch").await.unwrap();
    let (seen, _) = listed(&mut everything).await;
    assert_eq!(seen.len(), 6, "{seen:?}");

    world.project("gamma").await;
    // One transaction made both: who is cut off between the lines gets both again.
    let first = next(&mut everything).await;
    assert_eq!(told(&first), "added project gamma");
    assert_eq!(told(&next(&mut everything).await), "added network default");
    let after = first["revision"].as_str().unwrap();
    let mut again = open(&world, &world.admin, &format!("/v1/watch?after={after}")).await.unwrap();
    let repeated = [told(&next(&mut again).await), told(&next(&mut again).await)];
    assert_eq!(repeated, ["added project gamma", "added network default"]);

    // A change that the narrow watch may see comes through, and nothing before it.
    let spec = yun_types::ProjectSpec { description: Some("changed".into()), ..Default::default() };
    yun_control::project::ops::update(&world.control, &world.root(), &name("alpha").into(), spec, None).await.unwrap();
    assert_eq!(told(&next(&mut own).await), "modified project alpha");
    assert_eq!(open(&world, &alpha, "/v1/watch?kind=node").await.err().unwrap().0, 403);
    assert_eq!(open(&world, &alpha, "/v1/watch?project=beta").await.err().unwrap().0, 404);

    // A token that is revoked sees nothing more.
    let root = world.root();
    yun_control::token::ops::delete(&world.control, &root, &name("alpha").into()).await.unwrap();
    let spec = yun_types::ProjectSpec { description: Some("again".into()), ..Default::default() };
    yun_control::project::ops::update(&world.control, &root, &name("alpha").into(), spec, None).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), own.next()).await.unwrap();
    assert_eq!(end, None);
    world.running.shutdown().await;
}

fn record(world: &World, project: &str, object: &str) -> u64 {
    world.control.events.record(|sequence, at| Event {
        sequence,
        at,
        object: ObjectRef {
            kind: ObjectKind::Instance,
            name: object.into(),
            id: uuid::Uuid::nil(),
            project: Some(name(project)),
        },
        severity: Severity::Normal,
        reason: "Tested".into(),
        message: format!("{object} was tested"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_tailed_filtered_and_followed() {
    let world = World::new().await;
    world.project("alpha").await;
    world.project("beta").await;
    let alpha = world.token("alpha", None, &[("alpha", Role::Viewer)]).await;
    let first = record(&world, "alpha", "web");
    record(&world, "beta", "hidden");
    record(&world, "alpha", "db");
    let named = |lines: Vec<Value>| -> Vec<String> {
        lines.iter().map(|line| line["object"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = async |query: &str| {
        named(open(&world, &alpha, &format!("/v1/events?{query}")).await.unwrap().collect::<Vec<_>>().await)
    };
    assert_eq!(all("").await, ["web", "db"]);
    assert_eq!(all("tail=1").await, ["db"]);
    assert_eq!(all("object=web").await, ["web"]);
    assert_eq!(all(&format!("after={first}")).await, ["db"]);

    let mut lines = open(&world, &alpha, "/v1/events?follow=true&tail=0").await.unwrap();
    record(&world, "beta", "hidden");
    record(&world, "alpha", "queue");
    assert_eq!(next(&mut lines).await["object"]["name"], "queue");
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_do_not_hold_up_the_end() {
    let world = World::new().await;
    let mut watch = open(&world, &world.admin, "/v1/watch").await.unwrap();
    listed(&mut watch).await;
    let mut events = open(&world, &world.admin, "/v1/events?follow=true").await.unwrap();
    let ended = tokio::spawn(async move {
        (watch.by_ref().collect::<Vec<_>>().await.len(), events.by_ref().collect::<Vec<_>>().await.len())
    });
    tokio::time::timeout(Duration::from_secs(4), world.running.shutdown()).await.expect("nothing has to be cut off");
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_session_says_why() {
    let world = World::new().await;
    let client = world.admin();
    let upgraded =
        client.instance_exec().instance(name("nothing")).command("[\"true\"]").send().await.unwrap().into_inner();
    let (mut session, carry) = yun_api::frames::connect(crate::world::socket(upgraded).await);
    let carrying = tokio::spawn(carry);
    let frame = tokio::time::timeout(Duration::from_secs(20), session.output.recv()).await.unwrap().unwrap();
    match frame {
        yun_engine::session::Output::Error(text) => assert!(text.contains("instance nothing does not exist"), "{text}"),
        other => panic!("{other:?}"),
    }
    carrying.await.unwrap();
    world.running.shutdown().await;
}
