//! What travels through the door to a node and back: sessions, logs, connections. The node is a stand-in.

use crate::world::{World, name, refusal, socket};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::BoxStream};
use serde_json::{Value, json};
use std::{io, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use yun_api::node::{ControlLink, ImageInput, ImportRequest, LinkError, NodeLink, Stream};
use yun_control::{
    node::LocalLink,
    rows::{ImageRow, InstanceRow},
};
use yun_engine::{
    session::{ExecRequest, Input, LogLine, LogRequest, LogStream, Output, Session, session},
    work::Followed,
};
use yun_types::{
    Arch, CgroupVersion, Digest, DriverFacts, Exit, Generation, Image, ImageFacts, ImageRecipe, ImageSpec, ImageStatus,
    Instance, InstanceId, InstanceKind, InstanceState, InstanceStatus, Labels, Metadata, Name, NodeFacts, Size,
};

/// A node whose container writes in capital letters and whose ports say what they hear.
struct Echo;

#[async_trait]
impl NodeLink for Echo {
    async fn exec(&self, _: InstanceId, request: ExecRequest) -> Result<Session, LinkError> {
        let (session, mut end) = session();
        tokio::spawn(async move {
            let told = format!("{:?} {:?}", request.command, request.env);
            let _ = end.output.send(Output::Stderr(told.into())).await;
            while let Some(Input::Stdin(bytes)) = end.input.recv().await {
                let _ = end.output.send(Output::Stdout(bytes.to_ascii_uppercase().into())).await;
            }
            let exit = Exit { code: 3, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH };
            let _ = end.output.send(Output::Exit(exit)).await;
        });
        Ok(session)
    }
    async fn console(&self, _: InstanceId) -> Result<Session, LinkError> {
        Err(LinkError::Unreachable("it has no console".into()))
    }
    async fn logs(
        &self,
        _: InstanceId,
        request: LogRequest,
    ) -> Result<BoxStream<'static, io::Result<LogLine>>, LinkError> {
        let line = |text: &str| {
            Ok(LogLine { at: None, stream: LogStream::Stdout, text: Bytes::copy_from_slice(text.as_bytes()) })
        };
        let lines: Vec<io::Result<LogLine>> = match request.tail {
            Some(1) => vec![line("last")],
            Some(2) => vec![line("first"), Err(io::Error::other("the disk broke"))],
            _ => vec![line("first"), line("last")],
        };
        Ok(futures::stream::iter(lines).boxed())
    }
    async fn dial(&self, _: InstanceId, port: u16) -> Result<Box<dyn Stream>, LinkError> {
        if port != 80 {
            return Err(LinkError::refused("NothingListens", format!("nothing listens on port {port}")));
        }
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            // All was heard: a last word, and the end.
            let _ = write.write_all(b"bye").await;
            let _ = write.shutdown().await;
            let _ = read.read(&mut [0]).await;
        });
        Ok(Box::new(near))
    }
    async fn import_image(&self, _: ImageInput, _: ImportRequest, _: Followed) -> Result<ImageFacts, LinkError> {
        Err(LinkError::Cancelled)
    }
    async fn build_image(&self, _: ImageRecipe, _: Followed) -> Result<ImageFacts, LinkError> {
        Err(LinkError::Cancelled)
    }
    async fn export_image(
        &self,
        _: Digest,
        _: Option<yun_types::ExportFormat>,
        _: String,
    ) -> Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, LinkError> {
        Err(LinkError::Unreachable("not in this test".into()))
    }
    async fn verify_image(&self, _: Digest) -> Result<(), LinkError> {
        Err(LinkError::Cancelled)
    }
}

fn metadata(object: &str) -> Metadata {
    Metadata {
        id: uuid::Uuid::new_v4(),
        name: name(object),
        project: Some(Name::default_project()),
        labels: Labels::new(),
        created: chrono::DateTime::UNIX_EPOCH,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    }
}

/// A cloud with a node, an image, and the container `web` that runs on the node.
async fn world() -> World {
    let world = World::new().await;
    let size = |text: &str| text.parse::<Size>().unwrap();
    let facts = NodeFacts {
        hostname: "one".into(),
        os: "Debian".into(),
        kernel: "6.1".into(),
        arch: Arch::host(),
        cpu_model: "none".into(),
        capacity: size("cpu:4,memory:8G,disk:100G"),
        total: size("cpu:4,memory:8G,disk:100G"),
        cgroup: CgroupVersion::V2,
        boot_id: "boot".into(),
        taken_ranges: Vec::new(),
        drivers: ["container", "image", "network"]
            .map(|driver| DriverFacts { driver: driver.into(), ready: true, engine: None, accel: None, message: None })
            .into(),
    };
    let node = LocalLink(Arc::clone(&world.control)).register(facts, Arc::new(Echo)).await.unwrap().node;
    let image = Image {
        metadata: metadata("busybox"),
        spec: ImageSpec { source: "test".into() },
        status: ImageStatus {
            facts: ImageFacts {
                digest: Digest::from_sha256([7; 32]),
                kind: InstanceKind::Container,
                arch: Arch::host(),
                size: yun_types::Bytes::mib(1),
                min_disk: yun_types::Bytes::mib(1),
                config: None,
                boot: None,
                description: None,
            },
            verified: None,
        },
    };
    let rev = world.control.images.table.create(&["default", "busybox"], &ImageRow(image)).await.unwrap();
    world.control.images.cache.wait_for(rev).await.unwrap();
    let spec = serde_json::from_value(json!({"kind": "container", "image": "busybox"})).unwrap();
    let status = InstanceStatus {
        state: InstanceState::Running,
        node: Some(node),
        node_name: Some(name("one")),
        ..InstanceStatus::default()
    };
    let row = InstanceRow(Instance { metadata: metadata("web"), spec, status });
    let rev = world.control.instances.table.create(&["default", "web"], &row).await.unwrap();
    world.control.instances.cache.wait_for(rev).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_travels_both_ways_and_ends_with_the_exit() {
    let world = world().await;
    let request =
        world.admin().instance_exec().instance(name("web")).command(r#"["cat","-"]"#).env(r#"["A=1"]"#).send().await;
    let (mut session, carry) = yun_api::frames::connect(socket(request.unwrap().into_inner()).await);
    let carrying = tokio::spawn(carry);
    session.input.send(Input::Stdin("hello".into())).await.unwrap();
    session.input.send(Input::StdinClosed).await.unwrap();
    let mut seen = Vec::new();
    while let Some(output) = tokio::time::timeout(Duration::from_secs(20), session.output.recv()).await.unwrap() {
        seen.push(output);
    }
    let exit = Exit { code: 3, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH };
    assert_eq!(
        seen,
        [Output::Stderr(r#"["cat", "-"] ["A=1"]"#.into()), Output::Stdout("HELLO".into()), Output::Exit(exit)]
    );
    carrying.await.unwrap();

    let refused = world.admin().instance_exec().instance(name("web")).command("cat").send().await.unwrap().into_inner();
    let (mut session, carry) = yun_api::frames::connect(socket(refused).await);
    tokio::spawn(carry);
    let frame = tokio::time::timeout(Duration::from_secs(20), session.output.recv()).await.unwrap().unwrap();
    assert!(matches!(&frame, Output::Error(text) if text.contains("command is no JSON list")), "{frame:?}");
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_as_lines_and_break_visibly() {
    let world = world().await;
    let log = async |query: &str| {
        let response =
            world.http(&world.admin).get(world.url(&format!("/v1/instances/web/logs?{query}"))).send().await?;
        response.error_for_status()?.text().await
    };
    let texts = |body: &str| -> Vec<String> {
        body.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(texts(&log("").await.unwrap()), ["first", "last"]);
    assert_eq!(texts(&log("tail=1").await.unwrap()), ["last"]);
    assert!(log("tail=2").await.is_err(), "a log that was cut off must not look whole");
    let missing = world.http(&world.admin).get(world.url("/v1/instances/wbe/logs")).send().await.unwrap();
    assert!(refusal(missing).await.2.contains("did you mean web?"));
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_bytes_both_ways_and_closes_by_halves() {
    let world = world().await;
    let upgraded = world.admin().instance_dial().instance(name("web")).port(80).send().await.unwrap().into_inner();
    let (mut to_server, mut from_server) = socket(upgraded).await.split();
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let chunks: Vec<Bytes> = sent.chunks(50_000).map(Bytes::copy_from_slice).collect();
    let sending = tokio::spawn(async move {
        for chunk in chunks {
            to_server.send(Message::Binary(chunk)).await.unwrap();
        }
        to_server.send(Message::Binary(Bytes::new())).await.unwrap();
        to_server
    });
    let mut heard = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(20), from_server.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => heard.extend_from_slice(&bytes),
            Some(Ok(Message::Close(_))) | None => break,
            other => panic!("{other:?}"),
        }
    }
    let _open_until_here = sending.await.unwrap();
    assert!(heard.ends_with(b"bye") && heard[..heard.len() - 3] == sent[..], "{} bytes of {}", heard.len(), sent.len());

    let refused = world.admin().instance_dial().instance(name("web")).port(81).send().await.unwrap().into_inner();
    let mut socket = socket(refused).await;
    let why = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
    assert!(matches!(&why, Some(Ok(Message::Text(text))) if text.as_str() == "nothing listens on port 81"), "{why:?}");
    let close = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = close else { panic!("{close:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4409, "nothing listens on port 81"));
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_sessions_do_not_hold_up_the_end() {
    let world = world().await;
    let upgraded =
        world.admin().instance_exec().instance(name("web")).command(r#"["cat"]"#).send().await.unwrap().into_inner();
    let mut open = socket(upgraded).await;
    let first = tokio::time::timeout(Duration::from_secs(20), open.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(Message::Binary(_)))), "{first:?}");
    tokio::time::timeout(Duration::from_secs(4), world.running.shutdown()).await.expect("nothing has to be cut off");
    let end = async { while let Some(Ok(_)) = open.next().await {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the client learns of the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_creates_one_instance_across_retries_and_restarts() {
    let world = world().await;
    let create = async |world: &World, body: &Value| {
        let request =
            world.http(&world.admin).post(world.url("/v1/instances")).header("idempotency-key", "once").json(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap())
    };
    let body = json!({"name": "db", "spec": {"image": "busybox", "size": "memory:64M,disk:64M"}});
    let ((status, one), (_, two)) = tokio::join!(create(&world, &body), create(&world, &body));
    assert_eq!(status, 202, "{one}");
    assert_eq!(one["metadata"]["id"], two["metadata"]["id"]);
    let world = world.restart().await;
    let (status, three) = create(&world, &body).await;
    assert_eq!((status, &three["metadata"]["id"]), (202, &one["metadata"]["id"]));
    let other = json!({"name": "db2", "spec": {"image": "busybox"}});
    assert_eq!(create(&world, &other).await.1["error_code"], "IdempotencyKeyReused");
    assert_eq!(world.control.operations.cache.len(), 1);
    world.running.shutdown().await;
}
