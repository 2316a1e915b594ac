//! Programs in a fake instance: just enough of `echo`, `cat`, `exit`, `env`, `sleep` and `sh -c` to follow a session from end to end.

use super::World;
use bytes::Bytes;
use std::time::Duration;
use yun_engine::session::{AttachRequest, ExecRequest, Input, Output, Session, SessionEnd, session};
use yun_types::{Exit, InstanceId};

/// Runs a program; it ends when its person leaves.
pub(super) fn run(world: &World, request: ExecRequest) -> Session {
    let (mine, theirs) = session();
    let process = Process { world: world.clone(), end: theirs, request };
    world.inner.tasks.spawn("exec", |_| process.run());
    mine
}

/// A console that greets and echoes.
pub(super) fn console(world: &World) -> Session {
    let (mine, mut theirs) = session();
    world.inner.tasks.spawn("console", |_| async move {
        let _ = theirs.output.send(Output::Stdout(Bytes::from_static(b"login: "))).await;
        while let Some(input) = theirs.input.recv().await {
            if let Input::Stdin(bytes) = input
                && theirs.output.send(Output::Stdout(bytes)).await.is_err()
            {
                return;
            }
        }
    });
    mine
}

/// The main process of an instance: it echoes, and ends when the instance does.
pub(super) fn attach(world: &World, id: InstanceId, request: AttachRequest) -> Session {
    let (mine, mut theirs) = session();
    let inner = world.clone();
    world.inner.tasks.spawn("attach", move |_| async move {
        let _ = theirs.output.send(Output::Stdout(Bytes::new())).await;
        if request.wait {
            inner.until(|state| state.bodies.get(&id).is_none_or(|body| body.run.is_some())).await;
        }
        let echo = async {
            while let Some(input) = theirs.input.recv().await {
                if let Input::Stdin(bytes) = input
                    && request.stdin
                    && theirs.output.send(Output::Stdout(bytes)).await.is_err()
                {
                    return;
                }
            }
        };
        let ended = inner.until(|state| state.bodies.get(&id).is_none_or(|body| body.run.is_none()));
        tokio::select! { () = echo => return, _ = ended => {} }
        let exit = inner.lock().bodies.get(&id).and_then(|body| body.ended).flatten();
        let unknown = Exit { code: 255, signal: None, out_of_memory: false, at: inner.inner.clock.now() };
        let _ = theirs.output.send(Output::Exit(exit.unwrap_or(unknown))).await;
    });
    mine
}

struct Process {
    world: World,
    end: SessionEnd,
    request: ExecRequest,
}

impl Process {
    async fn run(mut self) {
        let mut words = self.request.command.clone();
        if let [shell, flag, script] = &words[..]
            && shell == "sh"
            && flag == "-c"
        {
            words = script.split_whitespace().map(str::to_owned).collect();
        }
        let code = self.program(&words).await;
        let signal = (code > 128).then(|| code - 128);
        let exit = Exit { code, signal, out_of_memory: false, at: self.world.inner.clock.now() };
        // The person may have left: nobody wants the exit then.
        let _ = self.end.output.send(Output::Exit(exit)).await;
    }

    async fn program(&mut self, words: &[String]) -> i32 {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["echo", ref rest @ ..] => self.print(format!("{}\n", rest.join(" "))).await,
            ["env"] => self.print(self.request.env.iter().map(|line| format!("{line}\n")).collect()).await,
            ["exit", code] => code.parse().unwrap_or(2),
            ["true"] => 0,
            ["false"] => 1,
            ["cat"] => self.cat().await,
            ["sleep", seconds] => self.sleep(seconds.parse().unwrap_or(0)).await,
            [] => 0,
            [name, ..] => {
                let text = Bytes::from(format!("{name}: not found\n"));
                let _ = self.end.output.send(Output::Stderr(text)).await;
                127
            }
        }
    }

    async fn print(&mut self, text: String) -> i32 {
        let _ = self.end.output.send(Output::Stdout(Bytes::from(text))).await;
        0
    }

    async fn cat(&mut self) -> i32 {
        loop {
            match self.end.input.recv().await {
                Some(Input::Stdin(bytes)) => {
                    if self.end.output.send(Output::Stdout(bytes)).await.is_err() {
                        return 141;
                    }
                }
                Some(Input::StdinClosed) => return 0,
                Some(Input::Signal(signal)) => return 128 + signal,
                Some(Input::Resize(_)) => {}
                None => return 129,
            }
        }
    }

    async fn sleep(&mut self, seconds: u64) -> i32 {
        let mut sleep = self.world.inner.clock.sleep(Duration::from_secs(seconds));
        loop {
            tokio::select! {
                () = &mut sleep => return 0,
                input = self.end.input.recv() => match input {
                    Some(Input::Signal(signal)) => return 128 + signal,
                    Some(_) => {}
                    None => return 129,
                },
            }
        }
    }
}
