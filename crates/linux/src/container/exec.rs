//! Processes that are added to a running container, with or without a terminal.
//!
//! crun joins the namespaces and passes the exit code on; the process inside gets a session of its own. When the person is gone, the process
//! ends, with everything that it started in that session.

use super::{
    driver::Inner,
    files::Files,
    merge,
    oci::{self, ProcessSpec},
    prepare,
    process::Process,
    rights::Rights,
    rootfs::{NotRunnable, Root},
    shim::crun_said,
    terminal::{ConsoleSocket, Terminal},
    users::{self, Identity},
};
use bytes::{Bytes, BytesMut};
use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_engine::session::{ExecRequest, Input, Output, Session, SessionEnd, session};
use yun_types::{Exit, Security};

/// The most that one frame carries.
const FRAME: usize = 32 << 10;
/// The most input that waits for a process that does not read.
const WAITING: usize = 1 << 20;
/// How long output is awaited after the end of the process: what it wrote is in the pipe already, and what it left behind in the
/// background may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs a process inside.
pub(super) async fn exec(inner: &Arc<Inner>, files: &Files, request: ExecRequest) -> Result<Session> {
    let main = inner.main_process(files).await?;
    let group = inner.group(files)?;
    if inner.blocking("look at a container", move || group.is_frozen()).await? {
        let message = format!("container {} is paused: resume it first (yun resume)", files.id);
        return Err(DriverError::new(ErrorKind::Conflict, "Paused", message));
    }
    let (person, end) = session();
    let planned = {
        let (files, request) = (files.clone(), request.clone());
        tokio::task::spawn_blocking(move || Plan::new(&files, main, &request)).await
    };
    let planned = planned
        .map_err(|e| DriverError::new(ErrorKind::Internal, "TaskFailed", format!("cannot plan a process: {e}")))??;
    match planned {
        Ok(plan) => {
            let running = Running::start(inner, files, plan, &request).await?;
            tokio::spawn(running.serve(end));
        }
        Err(refusal) => {
            tokio::spawn(refusal.tell(end));
        }
    }
    Ok(person)
}

/// A process that cannot run, told as a shell would: a sentence on standard error, and 127 or 126.
#[derive(Debug)]
struct Refusal {
    sentence: String,
    code: i32,
}

impl Refusal {
    async fn tell(self, end: SessionEnd) {
        let text = Bytes::from(format!("{}\n", self.sentence));
        // A person who has gone already misses nothing.
        let _ = end.output.send(Output::Stderr(text)).await;
        let _ = end.output.send(Output::Exit(exit(self.code))).await;
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, out_of_memory: false, at: chrono::Utc::now() }
}

/// The files of one added process. They go away with this value.
#[derive(Debug)]
struct Plan {
    base: PathBuf,
}

impl Drop for Plan {
    fn drop(&mut self) {
        for part in ["json", "pid", "log"] {
            // Missing is fine; everything else goes with the run directory.
            let _ = fs::remove_file(self.path(part));
        }
    }
}

impl Plan {
    fn path(&self, part: &str) -> PathBuf {
        self.base.with_extension(part)
    }

    /// Works out what the process is, as the container's own configuration and files have it now.
    fn new(files: &Files, main: Process, request: &ExecRequest) -> Result<std::result::Result<Self, Refusal>> {
        let io = |e: io::Error| DriverError::io(format!("run a process in container {}", files.id), e);
        let Some(program) = request.command.first() else {
            return Err(DriverError::bad_request(
                "NoCommand",
                "no command was given: write one, as in yun exec web -- ls /",
            ));
        };
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(files.crun_state().join("config.json")).map_err(io)?)
                .map_err(|e| DriverError::io("read the configuration of a container", e.into()))?;
        let base = &config["process"];
        let root = Root::open(Path::new(&format!("/proc/{}/root", main.pid))).map_err(io)?;
        let identity = identity(base, &root, request.user.as_deref())?;
        let mut env = BTreeMap::new();
        merge::add_env(&mut env, &strings(&base["env"]));
        if request.user.is_some() {
            env.insert("HOME".to_owned(), identity.home.clone());
        }
        if request.terminal.is_some() {
            env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
        }
        merge::add_env(&mut env, &request.env);
        let workdir = request.workdir.clone().unwrap_or_else(|| base["cwd"].as_str().unwrap_or("/").to_owned());
        if !root.has_directory(Path::new(&workdir)) {
            let message = format!("cannot run a process in container {}: it has no directory {workdir:?}", files.id);
            return Err(DriverError::bad_request("BadWorkdir", message));
        }
        let groups: Vec<u32> = identity.additional.iter().copied().chain([identity.gid]).collect();
        let search = env.get("PATH").map_or(merge::DEFAULT_PATH, String::as_str);
        match root.find(program, search, &workdir, identity.uid, &groups) {
            Ok(_) => {}
            Err(NotRunnable::Missing) => {
                return Ok(Err(Refusal {
                    sentence: format!("{program}: command not found in the container ({search})"),
                    code: 127,
                }));
            }
            Err(NotRunnable::Forbidden(path)) => {
                return Ok(Err(Refusal {
                    sentence: format!("{}: permission denied for user {}", path.display(), identity.uid),
                    code: 126,
                }));
            }
            Err(NotRunnable::Interpreter { script, interpreter }) => {
                let sentence = format!("{}: its interpreter {interpreter} is not in the container", script.display());
                return Ok(Err(Refusal { sentence, code: 127 }));
            }
        }
        let mut process = oci::process(&ProcessSpec {
            arguments: &request.command,
            env: &env,
            workdir: &workdir,
            identity: &identity,
            tty: request.terminal.is_some(),
            security: &Security::default(),
            rights: Rights::ALL,
            open_files: prepare::open_files(),
        });
        like_main(&mut process, base, identity.uid);
        if let Some(size) = request.terminal {
            process["consoleSize"] = serde_json::json!({"height": size.rows, "width": size.columns});
        }
        // Short, because a socket's path is made of it.
        let token = uuid::Uuid::new_v4().simple().to_string();
        let plan = Self { base: files.run.join(format!("x{}", &token[..10])) };
        fs::write(plan.path("json"), process.to_string()).map_err(io)?;
        Ok(Ok(plan))
    }
}

/// A process that is added may do what the main one may, and no more.
fn like_main(process: &mut serde_json::Value, main: &serde_json::Value, uid: u32) {
    process["noNewPrivileges"] = main["noNewPrivileges"].clone();
    let bounding = &main["capabilities"]["bounding"];
    let held = if uid == 0 { bounding.clone() } else { serde_json::json!([]) };
    process["capabilities"]["bounding"] = bounding.clone();
    for set in ["effective", "permitted"] {
        process["capabilities"][set] = held.clone();
    }
}

/// Who a process is that is added: the named user, or the container's own.
pub(super) fn identity(base: &serde_json::Value, root: &Root, wanted: Option<&str>) -> Result<Identity> {
    if let Some(wanted) = wanted {
        return users::resolve(wanted, &root.text("/etc/passwd"), &root.text("/etc/group")).map_err(|e| {
            DriverError::bad_request(
                "UserNotFound",
                format!("cannot run a process: {e}: write a user that it has, or numbers"),
            )
        });
    }
    let number = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let user = &base["user"];
    let additional = user["additionalGids"].as_array().map(|all| all.iter().map(number).collect()).unwrap_or_default();
    Ok(Identity { uid: number(&user["uid"]), gid: number(&user["gid"]), additional, home: String::new() })
}

fn strings(value: &serde_json::Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

type Source = Box<dyn AsyncRead + Send + Unpin>;
/// What the bytes of a source become.
type Frame = fn(Bytes) -> Output;
type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// An added process, its two output pumps and its input.
struct Running {
    inner: Arc<Inner>,
    files: Files,
    plan: Plan,
    child: Child,
    terminal: Option<Terminal>,
    stdin: Option<Sink>,
    outputs: Vec<(Source, Frame)>,
}

impl Running {
    async fn start(inner: &Arc<Inner>, files: &Files, plan: Plan, request: &ExecRequest) -> Result<Self> {
        let io = |e: io::Error| DriverError::io(format!("run a process in container {}", files.id), e);
        let console = request.terminal.map(|_| ConsoleSocket::bind(plan.path("s"))).transpose().map_err(io)?;
        let mut command = Command::new(&inner.options.runtime);
        // A group of its own: an interrupt at the terminal that yun itself was started from is not meant for it.
        command.process_group(0).arg("--root").arg(&files.crun_root);
        command
            .arg("--log")
            .arg(plan.path("log"))
            .args(["--log-format", "json", "exec", "--process"])
            .arg(plan.path("json"));
        command.arg("--pid-file").arg(plan.path("pid")).env_clear().current_dir("/");
        if let Some(console) = &console {
            command
                .arg("--console-socket")
                .arg(console.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.arg(files.id.to_string()).spawn().map_err(io)?;
        let mut running = Self {
            inner: inner.clone(),
            files: files.clone(),
            plan,
            terminal: None,
            stdin: child.stdin.take().map(|pipe| Box::new(pipe) as Box<_>),
            outputs: Vec::new(),
            child,
        };
        if let Some(pipe) = running.child.stdout.take() {
            running.outputs.push((Box::new(pipe), Output::Stdout));
        }
        if let Some(pipe) = running.child.stderr.take() {
            running.outputs.push((Box::new(pipe), Output::Stderr));
        }
        if let Some(console) = console {
            running.open_terminal(&console, request).await?;
        }
        Ok(running)
    }

    async fn open_terminal(&mut self, console: &ConsoleSocket, request: &ExecRequest) -> Result<()> {
        let operation = format!("open a terminal in container {}", self.files.id);
        let io = |e: io::Error| DriverError::io(&operation, e);
        let terminal = tokio::select! {
            terminal = console.receive() => terminal.map_err(io)?,
            () = tokio::time::sleep(self.inner.options.patience) => return Err(io(self.hangs())),
            // It failed before it got that far.
            _ = self.child.wait() => return Err(self.refused()),
        };
        if let Some(size) = request.terminal {
            terminal.resize(size);
        }
        let (from, to) = terminal.split().map_err(io)?;
        self.outputs.push((Box::new(from), Output::Stdout));
        self.stdin = Some(Box::new(to));
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Ends a runtime that does not come to its point.
    fn hangs(&mut self) -> io::Error {
        // A group of its own, that it leads and that nobody has reaped yet.
        if let Some(group) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
        let limit = self.inner.options.patience;
        let text = format!("the runtime hangs, and was ended after {limit:?}; look at the host's load and disk");
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    fn refused(&self) -> DriverError {
        let said = crun_said(&self.plan.path("log"));
        DriverError::new(
            ErrorKind::Internal,
            "ExecFailed",
            format!("cannot run a process in container {}: {said}", self.files.id),
        )
    }

    /// Carries frames until the process ends or the person leaves.
    async fn serve(mut self, mut end: SessionEnd) {
        let ended = CancellationToken::new();
        let mut pumps: Vec<JoinHandle<()>> = Vec::new();
        for (source, frame) in std::mem::take(&mut self.outputs) {
            pumps.push(tokio::spawn(pump(source, frame, end.output.clone(), ended.clone())));
        }
        let status = self.until_end(&mut end).await;
        ended.cancel();
        for pump in pumps {
            // A pump that panicked has nothing more to say.
            let _ = pump.await;
        }
        let last = match status {
            Some(Ok(status)) => {
                let said = crun_said(&self.plan.path("log"));
                match status.code() {
                    // The word of crun itself, which found its container gone for example.
                    Some(code) if code != 0 && !said.is_empty() => Output::Error(said),
                    code => Output::Exit(exit(code.unwrap_or(137))),
                }
            }
            Some(Err(e)) => Output::Error(format!("cannot run the process: {e}")),
            None => Output::Exit(exit(137)),
        };
        let _ = end.output.send(last).await;
    }

    /// Feeds the process until it ends (then its status), or ends it because the person is gone (then nothing).
    async fn until_end(&mut self, end: &mut SessionEnd) -> Option<io::Result<std::process::ExitStatus>> {
        let mut waiting = Waiting::default();
        let mut look = tokio::time::interval(Duration::from_millis(200));
        let mut begins = Box::pin(tokio::time::sleep(self.inner.options.patience));
        let mut began = false;
        loop {
            let full = waiting.bytes >= WAITING;
            tokio::select! {
                status = self.child.wait() => return Some(status),
                () = end.output.closed() => break,
                () = &mut begins, if !began => {
                    began = self.plan.path("pid").exists();
                    if !began {
                        return Some(Err(self.hangs()));
                    }
                }
                // While the process does not read, this is the only sign that the person is gone.
                _ = look.tick(), if full => if end.input.is_closed() { break },
                frame = end.input.recv(), if !full => match frame {
                    None => break,
                    Some(Input::Stdin(bytes)) if self.stdin.is_some() => waiting.push(bytes),
                    Some(Input::Stdin(_)) => {}
                    Some(Input::StdinClosed) => waiting.closed = true,
                    Some(Input::Resize(size)) => if let Some(terminal) = &self.terminal { terminal.resize(size) },
                    Some(Input::Signal(number)) => self.signal(number).await,
                },
                written = write(&mut self.stdin, &waiting), if self.stdin.is_some() && !waiting.queue.is_empty() => match written {
                    Ok(count) => waiting.written(count),
                    // It closed its input: more is of no use to it.
                    Err(_) => { self.stdin = None; waiting = Waiting::default(); }
                },
            }
            if waiting.closed && waiting.queue.is_empty() {
                waiting.closed = false;
                self.close_stdin(&mut waiting);
            }
        }
        self.end().await;
        None
    }

    /// A pipe ends by being closed; a terminal by the character that says so.
    fn close_stdin(&mut self, waiting: &mut Waiting) {
        if self.terminal.is_some() {
            waiting.push(Bytes::from_static(b"\x04"));
        } else {
            self.stdin = None;
        }
    }

    /// The process inside, once crun has told its pid.
    async fn process(&mut self) -> Option<Process> {
        for _ in 0..500 {
            if let Some(pid) = fs::read_to_string(self.plan.path("pid")).ok().and_then(|text| text.trim().parse().ok())
            {
                let group = self.inner.group(&self.files).ok()?;
                return Process::now(pid).filter(|_| group.processes().is_ok_and(|all| all.contains(&pid)));
            }
            if self.child.try_wait().ok()?.is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    async fn signal(&mut self, number: i32) {
        if let Some(process) = self.process().await
            && let Ok(Some(held)) = process.hold()
        {
            // An unknown signal number is the person's own mistake.
            let _ = held.signal(number);
        }
    }

    /// Ends the process and everything in its session, which crun makes for it alone.
    async fn end(&mut self) {
        let process = self.process().await;
        let session = process.and_then(|process| session_of(process.pid));
        let group = self.inner.group(&self.files);
        let kill = move || {
            for pid in group.map(|group| group.processes().unwrap_or_default()).unwrap_or_default() {
                let Some(member) = Process::now(pid) else { continue };
                let belongs = session.is_some() && session_of(pid) == session;
                if (belongs || Some(member) == process)
                    && let Ok(Some(held)) = member.hold()
                {
                    held.signal(nix::libc::SIGKILL)?;
                }
            }
            Ok(())
        };
        if let Err(e) = self.inner.blocking("end an added process", kill).await {
            tracing::warn!(instance = %self.files.id, error = %e, "cannot end a process whose person is gone");
        }
        // crun ends with the process that it waits for; if there never was one, it is ended here.
        if tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// The session of a process, by its leader's pid (field 6 of proc_pid_stat(5)).
fn session_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Input that the process has not read yet.
#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

impl Waiting {
    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    fn written(&mut self, count: usize) {
        self.bytes -= count;
        if let Some(first) = self.queue.front_mut() {
            let _ = first.split_to(count);
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

async fn write(stdin: &mut Option<Sink>, waiting: &Waiting) -> io::Result<usize> {
    match (stdin, waiting.queue.front()) {
        (Some(stdin), Some(bytes)) => stdin.write(bytes).await,
        _ => std::future::pending().await,
    }
}

/// Copies one direction until its end; after the end of the process, until nothing comes any more.
async fn pump(mut source: Source, frame: Frame, to: mpsc::Sender<Output>, ended: CancellationToken) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(FRAME);
        let mut limited = (&mut source).take(FRAME as u64);
        let read = limited.read_buf(&mut buffer);
        let read = async {
            tokio::pin!(read);
            tokio::select! {
                biased;
                read = &mut read => read,
                () = ended.cancelled() => tokio::time::timeout(LAST_WORDS, read).await.unwrap_or(Ok(0)),
            }
        };
        match read.await {
            // A terminal that nobody has open any more answers with an error.
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if to.send(frame(buffer.split().freeze())).await.is_err() {
            return;
        }
    }
}
