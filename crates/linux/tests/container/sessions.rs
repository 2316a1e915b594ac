//! Processes that are added to a container, with and without a terminal.

use crate::world::*;
use bytes::Bytes;
use std::fs;
use tokio::sync::mpsc;
use yun_drivers::{ErrorKind, InstanceDriver};
use yun_engine::session::{ExecRequest, Input, Output, WindowSize};
use yun_types::Exit;

const PATIENT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn output_input_and_exit_codes_are_passed_on() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    let said = listen(&mut world.exec(&handle, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await).await;
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code()), ("out\n", "err\n", 3));

    let mut session = world.exec(&handle, &["wc", "-c"]).await;
    let big = Bytes::from(vec![b'x'; 100_000]);
    for _ in 0..10 {
        session.input.send(Input::Stdin(big.clone())).await.unwrap();
    }
    session.input.send(Input::StdinClosed).await.unwrap();
    let said = listen(&mut session).await;
    assert_eq!((said.out.trim(), said.code()), ("1000000", 0));

    let mut session = world.exec(&handle, &["sh", "-c", "head -c 3000000 /dev/zero; exit 1"]).await;
    let said = listen(&mut session).await;
    assert_eq!((said.out.len(), said.code()), (3_000_000, 1), "nothing of a long output is lost at the end");

    // What goes on in the background must not hold the session.
    let said = listen(&mut world.exec(&handle, &["sh", "-c", "sleep 1000 & echo started"]).await).await;
    assert_eq!((said.out.as_str(), said.code()), ("started\n", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_and_where_can_be_chosen() {
    let Some(world) = World::new() else { return };
    let mut order = world.order(PATIENT);
    order.spec.container.env.insert("KEPT".into(), "yes".into());
    let handle = world.run_order(&order).await;
    let script = "id -u; id -G; pwd; echo $KEPT $MORE $HOME; grep CapEff /proc/self/status";
    let mut request = ExecRequest { command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Default::default() };
    request.user = Some("web".into());
    request.workdir = Some("/srv".into());
    request.env = vec!["MORE=and more".into()];
    let said = listen(&mut world.driver.exec(&handle, request.clone()).await.unwrap()).await;
    assert_eq!(said.out, "33\n34 50\n/srv\nyes and more /srv/data\nCapEff:\t0000000000000000\n", "{said:?}");
    let said = listen(&mut world.exec(&handle, &["id", "-u"]).await).await;
    assert_eq!(said.out, "0\n");

    request.user = Some("nobody-here".into());
    assert_eq!(world.driver.exec(&handle, request.clone()).await.unwrap_err().reason, "UserNotFound");
    request.user = None;
    request.workdir = Some("/no/such".into());
    assert_eq!(world.driver.exec(&handle, request).await.unwrap_err().reason, "BadWorkdir");
    let error = world.driver.exec(&handle, ExecRequest::default()).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::BadRequest, "NoCommand"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_told_as_a_shell_does() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    for (program, code, word) in [
        ("nope", 127, "nope: command not found"),
        ("/etc/passwd", 126, "permission denied"),
        ("orphan", 127, "/usr/bin/perl"),
    ] {
        let said = listen(&mut world.exec(&handle, &[program]).await).await;
        assert!(said.code() == code && said.err.contains(word), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_arrive() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    let mut session = world
        .exec(&handle, &["sh", "-c", "trap 'echo got it; exit 9' USR1; echo up; while :; do sleep 0.05; done"])
        .await;
    assert_eq!(within(session.output.recv()).await, Some(Output::Stdout("up\n".into())));
    session.input.send(Input::Signal(10)).await.unwrap();
    let said = listen(&mut session).await;
    assert_eq!((said.out.as_str(), said.code()), ("got it\n", 9));
    let mut session = world.exec(&handle, &["sh", "-c", "echo up; exec sleep 1000"]).await;
    within(session.output.recv()).await;
    session.input.send(Input::Signal(9)).await.unwrap();
    assert_eq!(listen(&mut session).await.code(), 137);
}

/// How many processes are in the container beside the two of its own script.
async fn strangers(world: &World, id: yun_types::InstanceId) -> usize {
    let group =
        yun_linux::container::cgroup::Layout::detect().unwrap().group(&format!("/{}/{id}", world.host.cgroup()));
    let names = group.processes().unwrap().into_iter().filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    names.filter(|line| String::from_utf8_lossy(line).contains("4242")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_when_its_person_leaves() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    for terminal in [None, Some(WindowSize { columns: 80, rows: 24 })] {
        let command = ["sh", "-c", "trap '' HUP; sleep 4242 & sleep 4242; true"].map(str::to_owned).to_vec();
        let mut session =
            world.driver.exec(&handle, ExecRequest { command, terminal, ..Default::default() }).await.unwrap();
        until("it runs", || strangers_are(&world, handle.id, 3)).await;
        (session.input, _) = mpsc::channel(1);
        until("nothing of it is left", || strangers_are(&world, handle.id, 0)).await;
        let said = listen(&mut session).await;
        assert!(matches!(said.last, Output::Exit(Exit { code: 137, .. })), "{said:?}");
    }
    // Both ends gone at once, and right after the beginning.
    drop(world.exec(&handle, &["sleep", "4242"]).await);
    until("nothing of it is left", || strangers_are(&world, handle.id, 0)).await;
    assert!(world.is_running(&handle).await);
    until("its files are gone", || async {
        !fs::read_dir(world.host.instance_run(handle.id))
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with('x'))
    })
    .await;
}

async fn strangers_are(world: &World, id: yun_types::InstanceId, count: usize) -> bool {
    strangers(world, id).await == count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_process_does_not_hide_that_its_person_left() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    let session = world.exec(&handle, &["sleep", "4242"]).await;
    let feeding = session.input.clone();
    let fed = tokio::time::timeout(std::time::Duration::from_millis(300), async {
        loop {
            feeding.send(Input::Stdin(Bytes::from(vec![0; 64 << 10]))).await.unwrap();
        }
    })
    .await;
    assert!(fed.is_err(), "a process that does not read slows its person down");
    drop((session, feeding));
    until("nothing of it is left", || strangers_are(&world, handle.id, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_have_a_size_and_end_politely() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    let terminal = Some(WindowSize { columns: 132, rows: 43 });
    let command = ["sh", "-c", "tty; while [ -z \"$(stty size)\" ]; do :; done 2>/dev/null; stty size; echo $TERM; read go; stty size; read more; echo end; exit 6"].map(str::to_owned).to_vec();
    let mut session =
        world.driver.exec(&handle, ExecRequest { command, terminal, ..Default::default() }).await.unwrap();
    let mut shown = String::new();
    while !shown.contains("xterm") {
        let Some(Output::Stdout(bytes)) = within(session.output.recv()).await else { panic!("{shown}") };
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(shown.starts_with("/dev/pts/0\r\n43 132\r\n"), "{shown:?}");
    session.input.send(Input::Resize(WindowSize { columns: 90, rows: 20 })).await.unwrap();
    session.input.send(Input::Stdin("\n".into())).await.unwrap();
    session.input.send(Input::StdinClosed).await.unwrap();
    let said = listen(&mut session).await;
    assert!(said.out.contains("20 90") && said.out.ends_with("end\r\n"), "{said:?}");
    assert_eq!(said.code(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_runs_nothing() {
    let Some(world) = World::new() else { return };
    let handle = world.run(PATIENT).await;
    let mut session = world.exec(&handle, &["sh", "-c", "echo up; exec sleep 1000"]).await;
    assert_eq!(within(session.output.recv()).await, Some(Output::Stdout("up\n".into())));
    world.driver.stop(&handle, PATIENCE).await.unwrap();
    let said = listen(&mut session).await;
    assert!(matches!(&said.last, Output::Exit(exit) if exit.code == 137), "the end of the container ends it: {said:?}");
    let error = world
        .driver
        .exec(&handle, ExecRequest { command: vec!["true".into()], ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "NotRunning"));
    let error = world.driver.console(&handle).await.unwrap_err();
    assert!(error.message.contains("yun exec"));
}
