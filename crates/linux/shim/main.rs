//! The shim: one small process beside each container, so that the container needs nothing else of yun to be alive.
//!
//! It owns four things for a container's whole life: reading what the container writes (into rotated log files), its standard input and
//! whoever is attached to both, reaping its main process, and writing down how that ended. It decides nothing; it ends right after the container.
//!
//! Standard input is the *lock*: a file with an open-file-description lock on it that the driver took; it is held exactly as long as a shim
//! lives. Standard output is the *report*: one line, `started` or `failed MESSAGE`, then end of file. Both pipes of the container are FIFOs
//! that the container holds open for reading as well, so that the death of the shim blocks a writer at worst, and never ends it. The FIFO of
//! its standard input, if it has one, is held open by a *keeper* as well, so that the death of the shim is no end of input.
//!
//! ```text
//! shim run   ATTEMPT RUN DURABLE OOM-FILE LOG-BYTES LOG-FILES tty|pipes closed|open|once CRUN CRUN-ROOT ID expected|-
//! shim adopt ATTEMPT RUN DURABLE OOM-FILE LOG-BYTES LOG-FILES tty|pipes closed|open|once PID START-TIME SINCE KEEPER|0
//! shim trial
//! shim nest
//! ```
//! `adopt` takes over a running container whose shim was killed. `trial` only ends with a code that nothing else ends with: inside a container
//! it shows that containers work. `nest` goes into a user namespace and a network namespace of its own, says so, and waits until its standard
//! input ends: whoever started it takes the namespaces meanwhile.

mod attach;
mod kernel;
mod lines;
mod logfile;

use attach::{Attach, Input, Mode};
use kernel::Poll;
use logfile::LogFile;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

const NONBLOCK: i32 = 0o4000;

/// How a trial ends.
const TRIAL: u8 = 42;

/// How long an unfinished line waits for its end, in milliseconds.
const PATIENCE: i32 = 100;

/// The container whose process this is.
struct Container {
    attempt: String,
    run: PathBuf,
    durable: PathBuf,
    oom: PathBuf,
    log: LogFile,
    terminal: bool,
    stdin: Mode,
    rest: Vec<String>,
}

/// Its main process.
struct Main {
    pid: i32,
    started: String,
    since: String,
    held: OwnedFd,
    /// Whose child it is, which decides how its exit status can be read.
    parent: Parent,
    /// The process that keeps the terminal or the standard input open if this one is killed, or 0.
    keeper: i32,
}

/// The parent of a container's main process.
enum Parent {
    /// This process.
    Us,
    /// Another one. `shown`: whether the kernel shows us the status of its dead in `/proc`.
    Stranger { shown: bool },
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if arguments == ["trial"] {
        return ExitCode::from(TRIAL);
    }
    if arguments == ["nest"] {
        return nest();
    }
    kernel::detach();
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return ExitCode::FAILURE };
    let (Ok(lock), Ok(report)) = (kernel::take(0, &null), kernel::take(1, &null)) else { return ExitCode::FAILURE };
    drop(null);
    let mut report = File::from(report);
    let answer = live(&arguments, &mut report);
    // Before the disk has it: nobody has to wait for that, and whoever removes everything now may.
    drop(lock);
    match answer {
        Ok((written, mut attach)) => {
            attach.close();
            // If the disk fails, a power cut right now loses how the container ended, and nothing else.
            let _ = written.iter().try_for_each(File::sync_all);
            attach.finish();
            ExitCode::SUCCESS
        }
        Err(message) => {
            // Nobody may listen any more; then nobody needs to know.
            let _ = writeln!(report, "failed {message}");
            ExitCode::FAILURE
        }
    }
}

/// Holds new namespaces for somebody who takes them.
fn nest() -> ExitCode {
    if let Err(e) = kernel::unshare_user_and_network() {
        println!("{e}");
        return ExitCode::FAILURE;
    }
    println!("ready");
    let _ = io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

/// The whole life of the shim. Returns what should be forced to disk, and who has not heard everything yet.
fn live(arguments: &[String], report: &mut File) -> Result<(Vec<File>, Attach), String> {
    let [mode, attempt, run, durable, oom, bytes, files, streams, stdin, rest @ ..] = arguments else {
        return Err("usage: see the source".into());
    };
    let durable = PathBuf::from(durable);
    let mut container = Container {
        attempt: attempt.clone(),
        run: run.into(),
        log: LogFile::open(durable.join("container.log"), number(bytes)?, number(files)?),
        durable,
        oom: oom.into(),
        terminal: streams == "tty",
        stdin: Mode::read(stdin),
        rest: rest.to_vec(),
    };
    let expected = mode == "run" && container.rest.get(3).is_some_and(|word| word == "expected");
    let mut attach = Attach::listen(&container.run, expected);
    let (mut main, streams, input) = if mode == "adopt" { container.adopt()? } else { container.start()? };
    attach.input = input;
    container.write_running(&main).map_err(|e| format!("cannot write down that the container runs: {e}"))?;
    let _ = writeln!(report, "started");
    close(report);
    kernel::new_session();
    container.follow(&mut main, streams, &mut attach);
    let status = match main.parent {
        Parent::Us => child(&main),
        Parent::Stranger { shown } => stranger(&main, shown),
    };
    let written = container.write_exit(status).map_err(|e| e.to_string())?;
    Ok((written, attach))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Lets the reader of the report see its end while this program goes on.
fn close(report: &mut File) {
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        *report = null;
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    lines::stamp(since.as_secs(), since.subsec_nanos())
}

/// A stream and where it comes from.
struct Source {
    file: File,
    tag: u8,
    stream: lines::Stream,
}

impl Source {
    fn new(file: File, tag: u8) -> Self {
        Self { file, tag, stream: lines::Stream::new(tag) }
    }
}

impl Container {
    /// Both FIFOs. Open for writing as well: a FIFO with a writer never reports its end, which would keep a poll from sleeping.
    fn pipes(&self) -> io::Result<Vec<Source>> {
        let open = |name| OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(self.run.join(name));
        Ok(vec![Source::new(open("out")?, b'o'), Source::new(open("err")?, b'e')])
    }

    /// The way into the container's FIFO, and who holds it open beside this process.
    fn way_in(&self, held: &OwnedFd) -> io::Result<(Input, i32)> {
        let file = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(self.run.join("in"))?;
        let keeper = keep(&OwnedFd::from(file.try_clone()?), held)?;
        Ok((Input::pipe(self.stdin, file, kernel::pidfd(keeper).ok()), keeper))
    }

    /// Runs crun, and takes hold of what it made.
    fn start(&mut self) -> Result<(Main, Vec<Source>, Input), String> {
        let [crun, root, id, _] = &self.rest[..] else { return Err("four arguments are missing".into()) };
        let terminal = self.terminal;
        let piped = !terminal && self.stdin != Mode::Closed;
        let console = self.run.join("console");
        let _ = fs::remove_file(&console);
        let listener = terminal
            .then(|| UnixListener::bind(&console))
            .transpose()
            .map_err(|e| format!("cannot listen for the terminal: {e}"))?;
        let mut command = Command::new(crun);
        command
            .arg("--root")
            .arg(root)
            .arg("--log")
            .arg(self.run.join("crun.log"))
            .args(["--log-format", "json", "run", "--detach", "--bundle"])
            .arg(&self.durable);
        command.arg("--pid-file").arg(self.run.join("pid")).env_clear().stdin(Stdio::null());
        if terminal {
            command.arg("--console-socket").arg(&console);
        }
        // Blocking ends of their own: whether a descriptor blocks belongs to the opening, not to the FIFO.
        let writer = |name| OpenOptions::new().read(true).write(true).open(self.run.join(name)).map(Stdio::from);
        let (out, err) = (writer("out").map_err(|e| e.to_string())?, writer("err").map_err(|e| e.to_string())?);
        let mut sources = self.pipes().map_err(|e| format!("cannot open the pipes: {e}"))?;
        // Both ends at first, so that neither waits for the other.
        let way = |write| OpenOptions::new().read(true).write(write).open(self.run.join("in"));
        let both = piped.then(|| way(true)).transpose().map_err(|e| format!("cannot open the standard input: {e}"))?;
        if piped {
            command.stdin(way(false).map_err(|e| format!("cannot open the standard input: {e}"))?);
        }
        let status =
            command.arg(id).stdout(out).stderr(err).status().map_err(|e| format!("cannot start {crun}: {e}"))?;
        drop(command);
        if !status.success() {
            return Err(format!("crun ended with {status}"));
        }
        let pid = fs::read_to_string(self.run.join("pid")).map_err(|e| format!("cannot read the pid: {e}"))?;
        let pid: i32 = number(pid.trim())?;
        let held = kernel::pidfd(pid).map_err(|e| format!("cannot hold process {pid}: {e}"))?;
        let (mut keeper, mut input) = (0, Input::none());
        if piped {
            (input, keeper) = self.way_in(&held).map_err(|e| format!("cannot open the standard input: {e}"))?;
        }
        drop(both);
        if let Some(listener) = listener {
            let terminal = listener
                .accept()
                .and_then(|(stream, _)| kernel::receive_fd(&stream))
                .map_err(|e| format!("no terminal came: {e}"))?;
            let _ = fs::remove_file(&console);
            keeper = keep(&terminal, &held).unwrap_or(0);
            let terminal = nonblocking(terminal);
            input = terminal.try_clone().map_or_else(|_| Input::none(), |file| Input::terminal(self.stdin, file));
            sources.push(Source::new(terminal, b'o'));
        }
        // It cannot be reaped by anybody else, so its start time is there even if it has ended already.
        Ok((
            Main {
                pid,
                started: field(pid, START_TIME).unwrap_or_default(),
                since: now(),
                held,
                parent: Parent::Us,
                keeper,
            },
            sources,
            input,
        ))
    }

    /// Takes hold of a running container whose shim was killed.
    fn adopt(&mut self) -> Result<(Main, Vec<Source>, Input), String> {
        let [pid, started, since, keeper] = &self.rest[..] else { return Err("four arguments are missing".into()) };
        let (pid, keeper): (i32, i32) = (number(pid)?, number(keeper)?);
        let held = kernel::pidfd(pid).map_err(|e| format!("cannot hold process {pid}: {e}"))?;
        if field(pid, START_TIME).as_ref() != Some(started) {
            return Err(format!("process {pid} is another one now"));
        }
        // A living process has a stack; the kernel shows 0 to those whom it would not show an exit status either.
        let shown = field(pid, STACK).is_some_and(|stack| stack != "0");
        let mut sources = self.pipes().map_err(|e| format!("cannot open the pipes: {e}"))?;
        let mut input = Input::none();
        if keeper != 0
            && let Ok(process) = kernel::pidfd(keeper)
            && let Ok(kept) = kernel::copy_fd(&process, 0)
        {
            let kept = nonblocking(kept);
            if self.terminal {
                input = kept.try_clone().map_or_else(|_| Input::none(), |file| Input::terminal(self.stdin, file));
                sources.push(Source::new(kept, b'o'));
            } else {
                input = Input::pipe(self.stdin, kept, Some(process));
            }
        }
        Ok((
            Main {
                pid,
                started: started.clone(),
                since: since.clone(),
                held,
                parent: Parent::Stranger { shown },
                keeper,
            },
            sources,
            input,
        ))
    }

    /// Copies what the container writes into its log and to whoever is attached, until its main process ends and nothing is left.
    fn follow(&mut self, main: &mut Main, mut sources: Vec<Source>, attach: &mut Attach) {
        loop {
            // crun leaves processes to whoever is there.
            kernel::bury_others(main.pid);
            let stalls = attach.stalls();
            let of = |source: &Source| if stalls { Poll::none() } else { Poll::read(&source.file) };
            let mut polls: Vec<Poll> = sources.iter().map(of).collect();
            polls.push(Poll::read(&main.held));
            attach.poll(&mut polls);
            let waits = sources.iter().any(|source| source.stream.holds());
            let limits = [attach.timeout(), if waits { PATIENCE } else { -1 }];
            kernel::wait_for(&mut polls, limits.into_iter().filter(|limit| *limit >= 0).min().unwrap_or(-1));
            let quiet = !polls.iter().any(Poll::ready);
            let (streams, rest) = polls.split_at(sources.len());
            let ended = rest[0].ready();
            let mut closed = None;
            for (index, source) in sources.iter_mut().enumerate() {
                if streams[index].ready() {
                    match pump(source, &mut self.log, attach) {
                        Pumped::Some => {}
                        // A terminal says so when nobody inside has it open any more.
                        Pumped::Nothing if streams[index].readable() => {}
                        Pumped::Nothing | Pumped::End => closed = Some(index),
                    }
                }
            }
            if ended {
                break;
            }
            let terminal = sources.last().filter(|_| self.terminal).map(|source| &source.file);
            attach.happened(&rest[1..], terminal);
            if main.keeper != 0 && attach.input.ended() {
                // Whoever adopts the container should not look for it.
                main.keeper = 0;
                let _ = self.write_running(main);
            }
            if let Some(index) = closed {
                finish(&mut sources.swap_remove(index), &mut self.log);
            }
            if quiet {
                let stamp = now();
                for source in &mut sources {
                    self.log.record(|out| source.stream.flush(b'P', &stamp, out));
                }
            }
        }
        for mut source in sources {
            while matches!(pump(&mut source, &mut self.log, attach), Pumped::Some) {}
            finish(&mut source, &mut self.log);
        }
    }

    /// Says for later readers which process it is.
    fn write_running(&self, main: &Main) -> io::Result<()> {
        let shim = i32::try_from(std::process::id()).unwrap_or_default();
        let began = field(shim, START_TIME).unwrap_or_default();
        let Main { pid, started, since, keeper, .. } = main;
        let line = format!("{} {pid} {started} {shim} {began} {since} {keeper}\n", self.attempt);
        replace(&self.run, "running", line.as_bytes()).map(drop)
    }

    /// Writes down how it ended.
    fn write_exit(&self, status: Option<i32>) -> io::Result<Vec<File>> {
        let end = match status {
            None => "? 0".to_owned(),
            Some(status) if status & 0x7f == 0 => format!("{} 0", status >> 8 & 0xff),
            Some(status) => format!("{} {}", 128 + (status & 0x7f), status & 0x7f),
        };
        let line = format!("{} {end} {} {}\n", self.attempt, oom_kills(&self.oom), now());
        // A full disk should cost the durability of the exit, not the exit.
        match replace(&self.durable, "exit", line.as_bytes()) {
            Ok(file) => Ok(File::open(&self.durable).map(|directory| vec![file, directory]).unwrap_or_default()),
            Err(_) => replace(&self.run, "exit", line.as_bytes()).map(|_| Vec::new()),
        }
    }
}

/// What one read brought.
enum Pumped {
    Some,
    Nothing,
    End,
}

/// Reads once, logs it, and tells it to whoever is attached.
fn pump(source: &mut Source, log: &mut LogFile, attach: &mut Attach) -> Pumped {
    let mut buffer = [0; lines::LONGEST];
    match source.file.read(&mut buffer) {
        Ok(0) => Pumped::End,
        Ok(count) => {
            let stamp = now();
            log.record(|out| source.stream.push(&buffer[..count], &stamp, out));
            attach.tell(source.tag, &buffer[..count]);
            Pumped::Some
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Pumped::Nothing,
        Err(_) => Pumped::End,
    }
}

/// Logs what a stream still holds.
fn finish(source: &mut Source, log: &mut LogFile) {
    let stamp = now();
    log.record(|out| source.stream.flush(b'F', &stamp, out));
}

/// A second process that holds the terminal and does nothing, until the container ends. A terminal without any holder hangs up, which ends
/// the container: so the death of either of the two must leave the other one.
fn keep(terminal: &OwnedFd, container: &OwnedFd) -> io::Result<i32> {
    kernel::split(|| {
        let (Ok(held), Ok(_)) = (kernel::take(2, container), kernel::take(0, terminal)) else { return };
        drop(held);
        kernel::new_session();
        kernel::close_from(3);
        // Descriptor 2 is the container's process by now.
        kernel::wait_for(&mut [Poll::read(&2)], -1);
    })
}

/// The same terminal, not waiting when there is nothing to read.
fn nonblocking(terminal: OwnedFd) -> File {
    kernel::set_nonblocking(&terminal);
    File::from(terminal)
}

/// How our own child ended. It becomes ours only when the last process of crun is gone, which may be a little later than its own end.
fn child(main: &Main) -> Option<i32> {
    for _ in 0..1000 {
        if let Ok(status) = kernel::reap(main.pid) {
            return Some(status);
        }
        kernel::wait_for(&mut [], 5);
    }
    None
}

/// How a process ended that is not our child. Between its death and its burial by its parent `/proc` shows it; after the burial only the
/// hold on it does, since Linux 6.15.
fn stranger(main: &Main, shown: bool) -> Option<i32> {
    if shown
        && field(main.pid, START_TIME).as_ref() == Some(&main.started)
        && field(main.pid, STATE).as_deref() == Some("Z")
    {
        let status = field(main.pid, STATUS).and_then(|text| text.parse().ok());
        // Buried meanwhile, the number could be that of another process.
        if status.is_some() && field(main.pid, START_TIME).as_ref() == Some(&main.started) {
            return status;
        }
    }
    for _ in 0..1000 {
        if let Some(status) = kernel::status_of_stranger(&main.held) {
            return Some(status);
        }
        kernel::wait_for(&mut [], 5);
    }
    None
}

/// Numbers of fields in proc_pid_stat(5).
const STATE: usize = 3;
const START_TIME: usize = 22;
const STACK: usize = 28;
const STATUS: usize = 52;

/// A field of `/proc/PID/stat` behind the name, which may contain anything.
fn field(pid: i32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - STATE).map(str::to_owned)
}

/// How often the kernel ended something in the cgroup for its memory.
fn oom_kills(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Writes a file so that readers see all of it or nothing.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<File> {
    let draft = directory.join(format!(".{name}"));
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    fs::rename(&draft, directory.join(name))?;
    Ok(file)
}
