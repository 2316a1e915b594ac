//! Cases about instances: the whole life, the life of a process that outlives its drivers, and lives that are cut short.

use super::{Harness, Kit, Program, dropped_after, must, refused, soon, until};
use crate::{Attachment, ErrorKind, InstanceHandle, Observed};
use futures::{StreamExt, TryStreamExt};
use std::time::{Duration, Instant};
use yun_engine::session::{AttachRequest, ExecRequest, Input, LogRequest, Output, Session};
use yun_types::{DesiredInstance, Exit, Generation, InstanceKind, Metric, Timestamp};

const GRACE: Duration = Duration::from_secs(1);

pub(super) async fn run(harness: &dyn Harness) {
    let network = harness.network();
    must("ensure", harness.kit().await.network.ensure(&network).await);
    a_whole_life(harness).await;
    a_life_across_processes(harness).await;
    a_newer_generation(harness).await;
    a_polite_and_a_deaf_one(harness).await;
    what_was_removed_is_nothing(harness).await;
    logs(harness).await;
    what_runs_is_measured(harness).await;
    calls_dropped_half_way(harness).await;
    match harness.kind() {
        InstanceKind::Container => {
            ends_by_itself(harness).await;
            sessions(harness).await;
            files(harness).await;
        }
        InstanceKind::Vm => consoles(harness).await,
    }
    must("remove of the network", harness.kit().await.network.remove(network.id).await);
}

/// One instance of a case.
pub(super) struct Subject<'a> {
    harness: &'a dyn Harness,
    pub(super) kit: Kit,
    pub(super) order: DesiredInstance,
    attachment: Attachment,
    handle: InstanceHandle,
}

impl<'a> Subject<'a> {
    pub(super) async fn prepared(harness: &'a dyn Harness, program: Program) -> Self {
        Self::prepared_as(harness, harness.instance(program)).await
    }

    pub(super) async fn prepared_as(harness: &'a dyn Harness, order: DesiredInstance) -> Self {
        let kit = harness.kit().await;
        let attachment = must("attach", kit.network.attach(order.id, order.kind, &order.nic).await);
        let handle = prepare(&kit, &order, &attachment).await;
        Self { harness, kit, order, attachment, handle }
    }

    async fn running(harness: &'a dyn Harness, program: Program) -> Self {
        let mut subject = Self::prepared(harness, program).await;
        subject.start().await;
        subject
    }

    pub(super) async fn start(&mut self) {
        self.handle = must("start", soon(self.harness, "start", self.kit.instance.start(&self.handle)).await);
    }

    pub(super) async fn seen(&self) -> Observed {
        must("recover", soon(self.harness, "recover", self.kit.instance.recover(&self.handle)).await)
    }

    async fn since(&self) -> Timestamp {
        match self.seen().await {
            Observed::Running { since } => since,
            other => panic!("it should run, and is {other:?}"),
        }
    }

    pub(super) async fn stop(&self) -> Option<Exit> {
        must("stop", soon(self.harness, "stop", self.kit.instance.stop(&self.handle, GRACE)).await)
    }

    /// A new process takes over.
    pub(super) async fn hand_over(&mut self) {
        self.kit = self.harness.kit().await;
        must("ensure by a new process", self.kit.network.ensure(&self.harness.network()).await);
        must("recover of the attachment", self.kit.network.recover(&self.attachment).await);
    }

    /// Ends the case: nothing may be left.
    pub(super) async fn remove(self) {
        let id = self.order.id;
        must("remove", soon(self.harness, "remove", self.kit.instance.remove(id)).await);
        must("detach", self.kit.network.detach(id).await);
        let left = self.harness.leftovers(id).await;
        assert!(left.is_empty(), "left of instance {id}: {left:?}");
    }
}

async fn prepare(kit: &Kit, order: &DesiredInstance, attachment: &Attachment) -> InstanceHandle {
    let image = must("open", kit.image.open(&order.image.digest).await);
    let handle = must("prepare", kit.instance.prepare(order, &image, Some(attachment)).await);
    assert_eq!((handle.id, handle.kind), (order.id, order.kind), "prepare: the handle names the instance");
    handle
}

async fn a_whole_life(harness: &dyn Harness) {
    let mut subject = Subject::prepared(harness, Program::Patient).await;
    assert_eq!(subject.seen().await, Observed::Absent, "a prepared instance has no process");
    let again = prepare(&subject.kit, &subject.order, &subject.attachment).await;
    assert_eq!(again.generation, subject.handle.generation, "prepare twice");
    assert_eq!(subject.stop().await, None, "a stop before the first start");

    subject.start().await;
    let since = subject.since().await;
    subject.start().await;
    assert_eq!(subject.since().await, since, "start: who runs is not started again");

    let instance = subject.kit.instance.clone();
    for _ in 0..2 {
        must("pause", soon(harness, "pause", instance.pause(&subject.handle)).await);
        assert!(matches!(subject.seen().await, Observed::Paused { .. }), "pause");
    }
    for _ in 0..2 {
        must("resume", soon(harness, "resume", instance.resume(&subject.handle)).await);
        assert!(matches!(subject.seen().await, Observed::Running { .. }), "resume");
    }

    assert!(subject.stop().await.is_some(), "stop says how it ended");
    assert!(matches!(subject.seen().await, Observed::Ended { exit: Some(_) }), "stop");
    subject.stop().await;

    subject.start().await;
    assert!(matches!(subject.seen().await, Observed::Running { .. }), "start after stop");
    must("pause", instance.pause(&subject.handle).await);
    subject.stop().await;
    assert!(matches!(subject.seen().await, Observed::Ended { .. }), "a frozen instance can be stopped");
    subject.remove().await;
}

async fn what_runs_is_measured(harness: &dyn Harness) {
    let mut subject = Subject::running(harness, Program::Patient).await;
    let stranger = harness.instance(Program::Patient);
    let asked = [&subject.order, &stranger].map(|order| (order.id, order.kind));
    let measured = must("measure", soon(harness, "measure", subject.kit.meter.measure(&asked)).await);
    assert!(measured.node.get(Metric::Memory).is_some_and(|used| used > 0), "measure: the node uses memory");
    let [(id, first)] = measured.instances[..] else { panic!("measure: one of the two runs, not {measured:?}") };
    assert_eq!(id, subject.order.id, "measure: whose it is");
    for metric in [Metric::Cpu, Metric::Memory, Metric::Processes] {
        assert!(first.get(metric).is_some(), "measure: {metric} of a running instance");
    }
    // Counters go on in the next process, and of one that is frozen.
    subject.hand_over().await;
    must("pause", subject.kit.instance.pause(&subject.handle).await);
    let later = must("measure by a new process", subject.kit.meter.measure(&asked[..1]).await);
    let [(_, later)] = later.instances[..] else { panic!("measure: a frozen instance is measured, not {later:?}") };
    assert!(later.get(Metric::Cpu) >= first.get(Metric::Cpu), "measure: processor time only grows");
    must("resume", subject.kit.instance.resume(&subject.handle).await);
    let meter = subject.kit.meter.clone();
    subject.remove().await;
    let gone = must("measure of what is gone", meter.measure(&asked).await);
    assert!(gone.instances.is_empty(), "measure: what is gone is left out, not {gone:?}");
}

async fn a_life_across_processes(harness: &dyn Harness) {
    let mut subject = Subject::prepared(harness, Program::Patient).await;
    let first = subject.handle.clone();
    subject.start().await;
    let since = subject.since().await;
    subject.hand_over().await;
    assert_eq!(subject.since().await, since, "a new process finds it as it was");
    // A crash right after the start: the ledger still has the handle of the preparation.
    let found = must("recover by the first handle", subject.kit.instance.recover(&first).await);
    assert!(matches!(found, Observed::Running { .. }), "by the handle of its preparation: {found:?}");
    let confirmed = must("start by the first handle", subject.kit.instance.start(&first).await);
    subject.handle = confirmed;
    assert_eq!(subject.since().await, since, "a confirmed start starts nothing");

    let wait = {
        let (instance, handle) = (subject.kit.instance.clone(), subject.handle.clone());
        async move { instance.wait(&handle).await }
    };
    let stop = async {
        drop(dropped_after(3, subject.kit.instance.wait(&subject.handle)).await);
        subject.stop().await
    };
    let (waited, stopped) = soon(harness, "wait", async { tokio::join!(wait, stop) }).await;
    assert_eq!(must("wait", waited), stopped, "wait and stop tell the same end");
    let at_once = must(
        "wait after the end",
        soon(harness, "wait after the end", subject.kit.instance.wait(&subject.handle)).await,
    );
    assert_eq!(at_once, stopped, "wait after the end");
    subject.hand_over().await;
    assert_eq!(subject.seen().await, Observed::Ended { exit: stopped }, "the end is known to a new process");
    subject.remove().await;
}

async fn a_newer_generation(harness: &dyn Harness) {
    let mut subject = Subject::running(harness, Program::Patient).await;
    subject.stop().await;
    subject.order.generation = Generation(subject.order.generation.0 + 1);
    subject.handle = prepare(&subject.kit, &subject.order, &subject.attachment).await;
    assert_eq!(subject.handle.generation, subject.order.generation, "prepare of a newer generation");
    subject.start().await;
    subject.since().await;
    subject.remove().await;
}

async fn a_polite_and_a_deaf_one(harness: &dyn Harness) {
    let subject = Subject::running(harness, Program::Deaf).await;
    let deaf_by_now = || async { lines(&subject, LogRequest::default()).await.iter().any(|line| line == "two") };
    until(harness, "the deaf one stops listening", deaf_by_now).await;
    let begin = Instant::now();
    let exit = subject.stop().await;
    assert!(begin.elapsed() >= GRACE, "stop: the deaf one had its time, {:?}", begin.elapsed());
    if harness.kind() == InstanceKind::Container {
        assert_eq!(exit.map(|exit| (exit.code, exit.signal)), Some((137, Some(9))), "stop: the deaf one was killed");
    }
    subject.remove().await;

    if harness.kind() == InstanceKind::Container {
        let subject = Subject::running(harness, Program::Patient).await;
        let begin = Instant::now();
        let hour = Duration::from_secs(3600);
        let exit =
            must("polite stop", soon(harness, "polite stop", subject.kit.instance.stop(&subject.handle, hour)).await);
        assert!(exit.is_some() && begin.elapsed() < harness.patience(), "stop: the polite one ends when asked");
        subject.remove().await;
    }

    let subject = Subject::running(harness, Program::Deaf).await;
    let begin = Instant::now();
    must(
        "stop at once",
        soon(harness, "stop at once", subject.kit.instance.stop(&subject.handle, Duration::ZERO)).await,
    );
    assert!(begin.elapsed() < harness.patience(), "stop without grace");
    subject.remove().await;
}

async fn what_was_removed_is_nothing(harness: &dyn Harness) {
    let never = harness.instance(Program::Patient).id;
    let kit = harness.kit().await;
    must("remove of an unknown instance", kit.instance.remove(never).await);
    match kit.instance.logs(never, LogRequest::default()).await {
        Ok(lines) => assert_eq!(lines.count().await, 0, "logs of an unknown instance"),
        Err(error) => assert_eq!(error.kind, ErrorKind::NotFound, "logs of an unknown instance: {error}"),
    }
    let subject = Subject::prepared(harness, Program::Patient).await;
    assert_eq!(lines(&subject, LogRequest::default()).await, [""; 0], "logs before the first start");
    subject.remove().await;

    let subject = Subject::running(harness, Program::Patient).await;
    let (kit, handle) = (subject.kit.clone(), subject.handle.clone());
    subject.remove().await;
    assert_eq!(
        must("recover after remove", kit.instance.recover(&handle).await),
        Observed::Absent,
        "recover after remove"
    );
    assert_eq!(
        must("wait after remove", soon(harness, "wait after remove", kit.instance.wait(&handle)).await),
        None,
        "wait after remove"
    );
    must("stop after remove", kit.instance.stop(&handle, GRACE).await);
    must("second remove", kit.instance.remove(handle.id).await);
    refused("start after remove", kit.instance.start(&handle).await);
    let left = harness.leftovers(handle.id).await;
    assert!(left.is_empty(), "left after calls on a removed instance: {left:?}");
}

async fn lines(subject: &Subject<'_>, request: LogRequest) -> Vec<String> {
    let logs = must("logs", subject.kit.instance.logs(subject.order.id, request).await);
    let lines: Vec<_> =
        soon(subject.harness, "logs", logs.try_collect()).await.unwrap_or_else(|error| panic!("logs: {error}"));
    lines.iter().map(|line| String::from_utf8_lossy(&line.text).trim_end().to_owned()).collect()
}

async fn logs(harness: &dyn Harness) {
    let mut subject = Subject::running(harness, Program::Talks).await;
    let written = || async { lines(&subject, LogRequest::default()).await.iter().any(|line| line == "two") };
    until(harness, "what the program writes is in the log", written).await;
    let all = lines(&subject, LogRequest::default()).await;
    let (one, two) = (all.iter().position(|line| line == "one"), all.iter().position(|line| line == "two"));
    assert!(one.is_some() && one < two, "logs are in order: {all:?}");
    assert_eq!(
        lines(&subject, LogRequest { tail: Some(1), ..LogRequest::default() }).await.len(),
        1,
        "the last line only"
    );

    subject.hand_over().await;
    let follow = LogRequest { follow: true, ..LogRequest::default() };
    let (followed, _) = tokio::join!(lines(&subject, follow), subject.stop());
    assert!(
        followed.iter().any(|line| line == "two"),
        "a followed log begins at its beginning and ends with the instance: {followed:?}"
    );
    let left = lines(&subject, LogRequest::default()).await;
    assert!(left.iter().any(|line| line == "one"), "the log stays after the end: {left:?}");
    subject.remove().await;
}

/// Each call is dropped after a number of polls and made again: the second one must finish what the first one began.
async fn calls_dropped_half_way(harness: &dyn Harness) {
    for polls in harness.drops() {
        let (kit, order) = (harness.kit().await, harness.instance(Program::Patient));
        let attachment = must("attach", kit.network.attach(order.id, order.kind, &order.nic).await);
        let image = must("open", kit.image.open(&order.image.digest).await);
        drop(dropped_after(polls, kit.instance.prepare(&order, &image, Some(&attachment))).await);
        let handle = prepare(&kit, &order, &attachment).await;

        drop(dropped_after(polls, kit.instance.start(&handle)).await);
        must("recover after a dropped start", kit.instance.recover(&handle).await);
        let handle = must(
            "start after a dropped one",
            soon(harness, "start after a dropped one", kit.instance.start(&handle)).await,
        );
        let subject = Subject { harness, kit, order, attachment, handle };
        subject.since().await;

        drop(dropped_after(polls, subject.kit.instance.pause(&subject.handle)).await);
        drop(dropped_after(polls, subject.kit.instance.resume(&subject.handle)).await);
        must("resume after a dropped one", subject.kit.instance.resume(&subject.handle).await);
        subject.since().await;

        drop(dropped_after(polls, subject.kit.instance.stop(&subject.handle, GRACE)).await);
        subject.stop().await;
        assert!(matches!(subject.seen().await, Observed::Ended { .. }), "stop after a dropped one, {polls} polls");

        drop(dropped_after(polls, subject.kit.instance.remove(subject.order.id)).await);
        subject.remove().await;

        // A start that was dropped, and then a removal by a new process, which has seen nothing of it.
        let subject = Subject::prepared(harness, Program::Patient).await;
        drop(dropped_after(polls, subject.kit.instance.start(&subject.handle)).await);
        let mut subject = subject;
        subject.hand_over().await;
        subject.remove().await;
    }
}

async fn ends_by_itself(harness: &dyn Harness) {
    let mut subject = Subject::running(harness, Program::Exits(7)).await;
    let exit = must("wait", soon(harness, "wait", subject.kit.instance.wait(&subject.handle)).await);
    assert_eq!(exit.map(|exit| (exit.code, exit.signal)), Some((7, None)), "how it ended");
    subject.hand_over().await;
    assert_eq!(subject.seen().await, Observed::Ended { exit }, "the end outlives the process that saw it");
    subject.start().await;
    let again = must("wait", soon(harness, "wait", subject.kit.instance.wait(&subject.handle)).await);
    assert_eq!(again.map(|exit| exit.code), Some(7), "it can be started again without a stop");

    // It ends while no driver is there at all.
    subject.start().await;
    subject.kit = harness.kit().await;
    let ended = || async { matches!(subject.seen().await, Observed::Ended { exit: Some(exit) } if exit.code == 7) };
    until(harness, "an end that nobody saw is known", ended).await;
    subject.remove().await;
}

/// Everything a session says until its last frame.
async fn finish(harness: &dyn Harness, mut session: Session) -> (Vec<u8>, Vec<u8>, Exit) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let reading = async {
        while let Some(frame) = session.output.recv().await {
            match frame {
                Output::Stdout(bytes) => out.extend_from_slice(&bytes),
                Output::Stderr(bytes) => err.extend_from_slice(&bytes),
                Output::Exit(exit) => return exit,
                Output::Error(error) => panic!("exec: {error}"),
            }
        }
        panic!("exec: the session ended without a last frame");
    };
    let exit = soon(harness, "exec", reading).await;
    (out, err, exit)
}

async fn sessions(harness: &dyn Harness) {
    let mut subject = Subject::running(harness, Program::Patient).await;
    let exec = |words: &[&str]| {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        let (instance, handle) = (subject.kit.instance.clone(), subject.handle.clone());
        async move { must("exec", instance.exec(&handle, ExecRequest { command, ..ExecRequest::default() }).await) }
    };
    let (out, err, exit) = finish(harness, exec(&["echo", "hello"]).await).await;
    assert_eq!((&out[..], &err[..], exit.code), (&b"hello\n"[..], &b""[..], 0), "exec echo");
    let (_, _, exit) = finish(harness, exec(&["sh", "-c", "exit 3"]).await).await;
    assert_eq!(exit.code, 3, "exec exit");

    let session = exec(&["cat"]).await;
    for input in [Input::Stdin("over ".into()), Input::Stdin("and out".into()), Input::StdinClosed] {
        assert!(session.input.send(input).await.is_ok(), "exec cat listens");
    }
    let (out, _, exit) = finish(harness, session).await;
    assert_eq!((&out[..], exit.code), (&b"over and out"[..], 0), "exec cat");

    let mut session = exec(&["sleep", "3600"]).await;
    let (gone, _) = tokio::sync::mpsc::channel(1);
    session.input = gone;
    soon(harness, "exec: the process ends when its person leaves", async {
        while session.output.recv().await.is_some() {}
    })
    .await;

    let (instance, id) = (subject.kit.instance.clone(), subject.order.id);
    let attach = |request| instance.attach(id, request);
    let heard = must("attach", attach(AttachRequest::default()).await);
    drop(must("attach a second time", attach(AttachRequest::default()).await));
    assert!(heard.input.send(Input::StdinClosed).await.is_ok(), "an attached session listens");
    subject.since().await;

    let refusal = refused("console of a container", subject.kit.instance.console(&subject.handle).await);
    assert!(refusal.kind == ErrorKind::Unavailable && refusal.message.contains("yun exec"), "{refusal}");
    subject.stop().await;
    finish(harness, heard).await;
    let refusal = refused("attach to what does not run", attach(AttachRequest::default()).await);
    assert!(refusal.kind == ErrorKind::Conflict && refusal.reason == "NotRunning", "{refusal}");
    let waits = must("wait for a start", attach(AttachRequest { wait: true, ..AttachRequest::default() }).await);
    subject.start().await;
    subject.stop().await;
    finish(harness, waits).await;
    refused("exec in what does not run", subject.kit.instance.exec(&subject.handle, ExecRequest::default()).await);
    subject.remove().await;
}

/// The packets of SFTP: a greeting, a path that is there, a file that is not, and an end.
async fn files(harness: &dyn Harness) {
    let subject = Subject::running(harness, Program::Patient).await;
    let instance = &subject.kit.instance;
    let session = must("sftp", instance.sftp(&subject.handle, Some("0".to_owned())).await);
    let hello = [0, 0, 0, 5, 1, 0, 0, 0, 3];
    let root = [0, 0, 0, 10, 16, 0, 0, 0, 7, 0, 0, 0, 1, b'/'];
    let none = [&[0, 0, 0, 14, 17, 0, 0, 0, 8, 0, 0, 0, 5][..], b"/none"].concat();
    // In pieces that have nothing to do with the packets.
    let asked = [&hello[..], &root, &none].concat();
    for piece in asked.chunks(11) {
        assert!(session.input.send(Input::Stdin(piece.to_vec().into())).await.is_ok(), "sftp listens");
    }
    assert!(session.input.send(Input::StdinClosed).await.is_ok(), "sftp listens");
    let (out, _, exit) = finish(harness, session).await;
    assert_eq!(exit.code, 0, "sftp ends with its input");
    let mut packets = Vec::new();
    let mut rest = &out[..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (packet, after) = after.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX));
        packets.push(packet);
        rest = after;
    }
    assert_eq!(packets.len(), 3, "each request of sftp is answered once");
    assert_eq!(packets[0][..5], [2, 0, 0, 0, 3], "sftp speaks version 3");
    assert_eq!(packets[1][..14], [104, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, b'/'], "sftp knows the root");
    assert_eq!(packets[2][..9], [101, 0, 0, 0, 8, 0, 0, 0, 2], "sftp knows what is not there");
    let user = refused("sftp as nobody knows whom", instance.sftp(&subject.handle, Some("no-such".to_owned())).await);
    assert_eq!(user.reason, "UserNotFound", "{user}");
    subject.stop().await;
    refused("sftp with what does not run", instance.sftp(&subject.handle, None).await);
    subject.remove().await;
}

async fn consoles(harness: &dyn Harness) {
    let subject = Subject::running(harness, Program::Talks).await;
    let refusal = refused("sftp with a VM", subject.kit.instance.sftp(&subject.handle, None).await);
    assert!(refusal.kind == ErrorKind::Unavailable && refusal.message.contains("SSH server"), "{refusal}");
    let refusal =
        refused("attach to a VM", subject.kit.instance.attach(subject.order.id, AttachRequest::default()).await);
    assert!(refusal.kind == ErrorKind::Unavailable && refusal.message.contains("yun console"), "{refusal}");
    let mut first = must("console", subject.kit.instance.console(&subject.handle).await);
    let mut second = must("second console", subject.kit.instance.console(&subject.handle).await);
    assert!(first.input.send(Input::Stdin("\n".into())).await.is_ok(), "the console listens");
    for (name, console) in [("first", &mut first), ("second", &mut second)] {
        let said = soon(harness, format!("the {name} console says something"), console.output.recv()).await;
        assert!(matches!(said, Some(Output::Stdout(_))), "{name} console: {said:?}");
    }
    drop((first, second));
    // Nobody inside listens: it takes a moment until that is clear.
    let request = ExecRequest { command: vec!["true".into()], ..ExecRequest::default() };
    let refusal = refused("exec in a VM without an agent", subject.kit.instance.exec(&subject.handle, request).await);
    assert!(refusal.kind == ErrorKind::Unavailable && refusal.message.contains("yun ssh"), "{refusal}");
    subject.since().await;
    subject.remove().await;
}
