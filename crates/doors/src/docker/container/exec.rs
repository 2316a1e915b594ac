//! `docker exec`: another process in a container. What was asked for is kept in memory until it has run and been asked about.

use super::{
    super::{
        body::{self, Body, empty, json, ok},
        cloud::Cloud,
        fault::{Answer, Fault},
        names,
        query::Query,
        server::{Ask, Door},
        stream::{End, Ends, hijack, translate},
    },
    find,
    request::or_empty,
    state::Status,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;
use uuid::Uuid;
use yun_engine::session::{Input, WindowSize};
use yun_types::{Instance, NameOrId};

/// How many are remembered.
const KEPT: usize = 1000;
/// The size of a terminal until the client says another.
const WINDOW: WindowSize = WindowSize { columns: 80, rows: 24 };

/// What clients have asked to run.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<BTreeMap<u64, Arc<Exec>>>);

impl Execs {
    fn add(&self, exec: Exec) -> Arc<Exec> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, exec) = (all.last_key_value().map_or(0, |(last, _)| last + 1), Arc::new(exec));
        all.insert(number, Arc::clone(&exec));
        while all.len() > KEPT {
            all.pop_first();
        }
        exec
    }

    fn find(&self, id: &str) -> Answer<Arc<Exec>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.values().rev().find(|exec| exec.id == id).cloned();
        found.ok_or_else(|| Fault::missing(format!("No such exec instance: {id}")))
    }
}

/// One process, before, while and after it runs.
#[derive(Debug)]
struct Exec {
    id: String,
    container: Uuid,
    request: Request,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
enum Progress {
    #[default]
    New,
    Running(mpsc::Sender<Input>),
    Ended(i32),
}

/// What to run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Request {
    #[serde(deserialize_with = "or_empty")]
    attach_stdin: bool,
    #[serde(deserialize_with = "or_empty")]
    attach_stdout: bool,
    #[serde(deserialize_with = "or_empty")]
    attach_stderr: bool,
    #[serde(deserialize_with = "or_empty")]
    tty: bool,
    #[serde(deserialize_with = "or_empty")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    user: String,
    #[serde(deserialize_with = "or_empty")]
    working_dir: String,
    #[serde(deserialize_with = "or_empty")]
    privileged: bool,
    /// Rows, then columns.
    console_size: Option<(u16, u16)>,
}

/// Remembers what to run.
pub(crate) async fn exec_create(mut ask: Ask, text: &str) -> Answer<Response<Body>> {
    let request: Request = body::read(&mut ask.body).await?;
    let container = match super::seen_running(&ask, text) {
        Some(instance) => instance.metadata.id,
        None => {
            let instance = find(&ask, text).await?;
            check_running(&instance, text)?;
            instance.metadata.id
        }
    };
    if request.cmd.is_empty() {
        return Err(Fault::bad("No exec command specified"));
    }
    if request.privileged {
        return Err(Fault::new(StatusCode::FORBIDDEN, "--privileged is refused by yun: leave it out"));
    }
    let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let exec = Exec { id, container, request, progress: Mutex::default() };
    let exec = ask.door.execs.add(exec);
    Ok(json(StatusCode::CREATED, &json!({ "Id": exec.id })))
}

fn check_running(instance: &Instance, text: &str) -> Answer<()> {
    match Status::of(instance) {
        Status::Running => Ok(()),
        Status::Paused => {
            Err(Fault::conflict(format!("Container {text} is paused, unpause the container before exec")))
        }
        _ => Err(Fault::conflict(format!("Container {} is not running", names::id(instance.metadata.id)))),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    #[serde(deserialize_with = "or_empty")]
    detach: bool,
    console_size: Option<(u16, u16)>,
}

/// Runs it, with the connection or without.
pub(crate) async fn exec_start(mut ask: Ask, id: &str) -> Answer<Response<Body>> {
    let start: Start = body::read(&mut ask.body).await?;
    let exec = ask.door.execs.find(id)?;
    let (input, from) = {
        let request = &exec.request;
        let size = start.console_size.or(request.console_size).filter(|size| *size != (0, 0));
        let window = size.map_or(WINDOW, |(rows, columns)| WindowSize { columns, rows });
        open(&ask.cloud, exec.container, request, window, &ask.door).await?
    };
    {
        let mut progress = exec.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*progress, Progress::New) {
            return Err(Fault::conflict(format!("exec {id} has been started already: create another")));
        }
        *progress = Progress::Running(input.clone());
    }
    let tty = exec.request.tty;
    let (to_client, output) = mpsc::channel(32);
    let detached = start.detach;
    if detached || !exec.request.attach_stdin {
        let _ = input.send(Input::StdinClosed).await;
    }
    let running = Arc::clone(&exec);
    let kept = detached.then(|| input.clone());
    ask.door.spawn(async move {
        let end = translate(from, &to_client, tty).await;
        let code = match &end {
            End::Exit(code) => *code,
            End::Broken(why) if why.contains("not found") || why.contains("No such file") => 127,
            End::Broken(_) => 126,
        };
        // Before the connection ends: clients ask for the code as soon as it has.
        *running.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress::Ended(code);
        drop((to_client, kept));
    });
    if detached {
        drop(output);
        return Ok(empty(StatusCode::OK));
    }
    let input = Some(input).filter(|_| exec.request.attach_stdin);
    let Ask { door, request, .. } = ask;
    Ok(hijack(request, Ends { input, output }, tty, |work| door.spawn(work)))
}

/// Opens a session with a new process.
async fn open(
    cloud: &Cloud,
    container: Uuid,
    request: &Request,
    window: WindowSize,
    door: &Arc<Door>,
) -> Answer<(mpsc::Sender<Input>, mpsc::Receiver<yun_engine::session::Output>)> {
    let list = |words: &[String]| serde_json::to_string(words).unwrap_or_default();
    let mut ask = cloud
        .client
        .instance_exec()
        .project(cloud.project.clone())
        .instance(NameOrId::Id(container))
        .command(list(&request.cmd));
    if !request.env.is_empty() {
        ask = ask.env(list(&request.env));
    }
    if !request.user.is_empty() {
        ask = ask.user(request.user.clone());
    }
    if !request.working_dir.is_empty() {
        ask = ask.workdir(request.working_dir.clone());
    }
    if request.tty {
        ask = ask.terminal(format!("{}x{}", window.columns, window.rows));
    }
    let (session, carry) = Cloud::session(ask.send().await).await?;
    door.spawn(async move {
        carry.await;
    });
    Ok((session.input, session.output))
}

/// Says how it is.
pub(crate) async fn exec_inspect(ask: Ask, id: &str) -> Answer<Response<Body>> {
    let exec = ask.door.execs.find(id)?;
    let (running, code) = match &*exec.progress.lock().unwrap_or_else(PoisonError::into_inner) {
        Progress::New => (false, None),
        Progress::Running(_) => (true, None),
        Progress::Ended(code) => (false, Some(*code)),
    };
    let request = &exec.request;
    Ok(ok(&json!({
        "ID": exec.id,
        "Running": running,
        "ExitCode": code,
        "ProcessConfig": {
            "tty": request.tty,
            "entrypoint": request.cmd.first(),
            "arguments": request.cmd.get(1..),
            "privileged": false,
            "user": request.user,
        },
        "OpenStdin": request.attach_stdin,
        "OpenStdout": request.attach_stdout,
        "OpenStderr": request.attach_stderr,
        "CanRemove": !running,
        "ContainerID": names::id(exec.container),
        "DetachKeys": "",
        "Pid": 0,
    })))
}

/// A terminal's size in a query.
pub(super) fn window(query: &Query) -> Answer<WindowSize> {
    let side = |name: &str| {
        let number = query.number(name)?.and_then(|n| u16::try_from(n).ok());
        number
            .ok_or_else(|| Fault::bad(format!("invalid {name}: a terminal has h rows and w columns, as in h=24&w=80")))
    };
    Ok(WindowSize { columns: side("w")?, rows: side("h")? })
}

/// Says that its terminal has another size.
pub(crate) async fn exec_resize(ask: Ask, id: &str) -> Answer<Response<Body>> {
    let exec = ask.door.execs.find(id)?;
    let size = window(&ask.query)?;
    let input = match &*exec.progress.lock().unwrap_or_else(PoisonError::into_inner) {
        Progress::Running(input) => Some(input.clone()),
        _ => None,
    };
    if let Some(input) = input {
        let _ = input.send(Input::Resize(size)).await;
    }
    Ok(empty(StatusCode::OK))
}

/// What a process wrote, and its code.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) end: i32,
}

/// Runs a program in a container to its end.
pub(super) async fn run(ask: &Ask, instance: &Instance, command: &[&str]) -> Answer<Ran> {
    use yun_engine::session::Output;
    check_running(instance, names::of(instance))?;
    let request = Request { cmd: command.iter().map(|word| (*word).to_owned()).collect(), ..Request::default() };
    let (input, mut from) = open(&ask.cloud, instance.metadata.id, &request, WINDOW, &ask.door).await?;
    let _ = input.send(Input::StdinClosed).await;
    let mut ran = Ran::default();
    while let Some(output) = from.recv().await {
        match output {
            Output::Stdout(bytes) => ran.stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => ran.stderr.extend_from_slice(&bytes),
            Output::Exit(exit) => {
                ran.end = exit.code;
                return Ok(ran);
            }
            Output::Error(why) => return Err(Fault::broken(why)),
        }
    }
    Err(Fault::broken(format!("{} ended without an exit code", command.join(" "))))
}

/// Runs a program that must succeed.
pub(super) async fn run_quietly(ask: &Ask, instance: &Instance, command: &[&str]) -> Answer<()> {
    let ran = run(ask, instance, command).await?;
    if ran.end == 0 {
        return Ok(());
    }
    Err(Fault::broken(format!(
        "{} in container {} ended with code {}: {}",
        command.join(" "),
        names::of(instance),
        ran.end,
        String::from_utf8_lossy(&ran.stderr).trim()
    )))
}
