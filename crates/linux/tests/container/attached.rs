//! Attaching to main processes: every byte both ways, from the first one on, whoever dies meanwhile.

use crate::world::*;
use bytes::Bytes;
use yun_drivers::{ErrorKind, InstanceDriver, InstanceHandle};
use yun_engine::session::{AttachRequest, Input, Output, Session, WindowSize};
use yun_types::{DesiredInstance, Stdin};

const BOTH: AttachRequest = AttachRequest { stdin: true, wait: false, terminal: None };

fn with_stdin(world: &World, script: &str, stdin: Stdin, tty: bool) -> DesiredInstance {
    let mut order = world.order(script);
    (order.spec.container.stdin, order.spec.container.tty) = (stdin, tty);
    order
}

/// Prepared, attached, and then started.
async fn attached(world: &World, order: &DesiredInstance, request: AttachRequest) -> (InstanceHandle, Session) {
    world.driver.enclose(order).await.unwrap();
    let handle = world.driver.prepare(order, &world.image(), None).await.unwrap();
    let mut session = world.driver.attach(order.id, AttachRequest { wait: true, ..request }).await.unwrap();
    // From here on nothing is missed.
    assert_eq!(within(session.output.recv()).await, Some(Output::Stdout(Bytes::new())));
    (world.driver.start(&handle).await.unwrap(), session)
}

async fn hear(session: &mut Session, wanted: &str) {
    let mut heard = String::new();
    while !heard.contains(wanted) {
        match within(session.output.recv()).await {
            Some(Output::Stdout(bytes)) => heard.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} instead of {wanted:?} after {heard:?}"),
        }
    }
}

async fn say(session: &Session, text: impl Into<Bytes>) {
    session.input.send(Input::Stdin(text.into())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_passes_both_ways_from_the_first_on() {
    let Some(world) = World::new() else { return };
    // Bytes that are no text, more of them than any buffer holds, in both directions at once.
    let order = with_stdin(&world, "echo begun >&2; cat; echo done >&2; exit 4", Stdin::Once, false);
    let (_, mut session) = attached(&world, &order, BOTH).await;
    let all: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let (input, sent) = (session.input.clone(), all.clone());
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(50_000) {
            input.send(Input::Stdin(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        input.send(Input::StdinClosed).await.unwrap();
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = loop {
        match within(session.output.recv()).await.unwrap() {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
            last => break last,
        }
    };
    sending.await.unwrap();
    assert!(out == all, "{} bytes came back of {}", out.len(), all.len());
    assert_eq!(String::from_utf8_lossy(&err), "begun\ndone\n");
    assert!(matches!(exit, Output::Exit(exit) if exit.code == 4), "{exit:?}");

    // One that is over before anybody could come.
    let order = with_stdin(&world, "printf over", Stdin::Closed, false);
    let (_, mut session) = attached(&world, &order, AttachRequest::default()).await;
    let said = listen(&mut session).await;
    assert_eq!((said.out.as_str(), said.code()), ("over", 0));
    // More than is kept for somebody who is on the way.
    let order = with_stdin(&world, "head -c 1000000 /dev/zero", Stdin::Closed, false);
    let (_, mut session) = attached(&world, &order, AttachRequest::default()).await;
    assert_eq!(listen(&mut session).await.out.len(), 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_changes_nothing_and_who_comes_later_hears_what_comes() {
    let Some(world) = World::new() else { return };
    let script = "while read line; do [ \"$line\" = end ] && exit 9; echo got $line; done; exit 1";
    let order = with_stdin(&world, script, Stdin::Open, false);
    let handle = world.run_order(&order).await;
    for round in 0..3 {
        let mut session = world.driver.attach(order.id, BOTH).await.unwrap();
        let mut listener = world.driver.attach(order.id, AttachRequest::default()).await.unwrap();
        hear(&mut listener, "").await;
        say(&session, format!("{round}\n")).await;
        hear(&mut session, &format!("got {round}\n")).await;
        hear(&mut listener, &format!("got {round}\n")).await;
        // Said by one who only listens: it goes nowhere.
        say(&listener, "end\n").await;
        session.input.send(Input::StdinClosed).await.unwrap();
    }
    assert!(world.is_running(&handle).await, "an open standard input has no end");
    let mut session = world.driver.attach(order.id, BOTH).await.unwrap();
    say(&session, "end\n").await;
    assert_eq!(listen(&mut session).await.code(), 9);
    let refusal = world.driver.attach(order.id, BOTH).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.reason), (ErrorKind::Conflict, "NotRunning"));
    assert!(world.log(order.id).await.ends_with("got 2\n"), "the log has it all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_shim_is_no_end_of_input() {
    let Some(world) = World::new() else { return };
    let script = "while read line; do echo got $line; done; echo over; exit 6";
    let order = with_stdin(&world, script, Stdin::Once, false);
    let (handle, mut session) = attached(&world, &order, BOTH).await;
    say(&session, "one\n").await;
    hear(&mut session, "got one\n").await;
    let (_, shim) = world.pids(order.id);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    // The session finds the shim that takes over, and so does a new driver.
    until("there is another shim", || async { world.pids(order.id).1 != shim }).await;
    let fresh = world.fresh_driver();
    assert!(matches!(fresh.recover(&handle).await.unwrap(), yun_drivers::Observed::Running { .. }));
    let mut second = fresh.attach(order.id, BOTH).await.unwrap();
    hear(&mut second, "").await;
    say(&second, "two\n").await;
    hear(&mut second, "got two\n").await;
    hear(&mut session, "got two\n").await;
    second.input.send(Input::StdinClosed).await.unwrap();
    hear(&mut second, "over\n").await;
    for session in [&mut session, &mut second] {
        assert!(matches!(listen(session).await.last, Output::Exit(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_carries_keys_sizes_and_signals() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo asked' USR1; stty size; read line; stty size; echo \"<$line>\"; while ! read line; do :; done; exit 3";
    let order = with_stdin(&world, script, Stdin::Open, true);
    let size = WindowSize { columns: 101, rows: 33 };
    let (_, mut session) = attached(&world, &order, AttachRequest { terminal: Some(size), ..BOTH }).await;
    session.input.send(Input::Resize(WindowSize { columns: 90, rows: 20 })).await.unwrap();
    say(&session, "typed\n").await;
    hear(&mut session, "20 90\r\n<typed>\r\n").await;
    session.input.send(Input::Signal(10)).await.unwrap();
    hear(&mut session, "asked\r\n").await;
    say(&session, "\n").await;
    assert_eq!(listen(&mut session).await.code(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_is_let_go_and_the_container_goes_on() {
    let Some(world) = World::new() else { return };
    let order = with_stdin(&world, "head -c 2000000 /dev/zero; echo written >&2; sleep 1000", Stdin::Closed, false);
    let (_, mut session) = attached(&world, &order, AttachRequest::default()).await;
    // Nothing is read here: the channels and the sockets fill, and the container waits, but not for ever.
    world.said(order.id, "written").await;
    let said = loop {
        match within(session.output.recv()).await {
            Some(Output::Error(why)) => break why,
            Some(Output::Stdout(_) | Output::Stderr(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(said.contains("yun logs"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_is_removed_is_told() {
    let Some(world) = World::new() else { return };
    let order = with_stdin(&world, "true", Stdin::Closed, false);
    world.driver.enclose(&order).await.unwrap();
    world.driver.prepare(&order, &world.image(), None).await.unwrap();
    let mut session = world.driver.attach(order.id, AttachRequest { wait: true, ..BOTH }).await.unwrap();
    world.driver.remove(order.id).await.unwrap();
    assert!(matches!(listen(&mut session).await.last, Output::Error(why) if why.contains("was removed")));
}
