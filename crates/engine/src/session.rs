//! Interactive sessions: the frames that travel between a person's terminal and a process in an instance.
//!
//! A [`Session`] is what a driver gives out and what the API carries; neither side knows what is behind it. Dropping `input` means that the
//! person is gone: the driver ends the process (exec) or lets go of the console. `output` ends after one [`Output::Exit`] or [`Output::Error`].

use bytes::Bytes;
use tokio::sync::mpsc;
use yun_types::Exit;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// From the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for the process's standard input.
    Stdin(Bytes),
    /// Standard input has ended.
    StdinClosed,
    /// The terminal's size has changed.
    Resize(WindowSize),
    /// A signal for the process.
    Signal(i32),
}

/// To the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes from standard output (and all bytes, with a terminal).
    Stdout(Bytes),
    /// Bytes from standard error.
    Stderr(Bytes),
    /// The process ended. Last frame.
    Exit(Exit),
    /// The session broke; the text says why. Last frame.
    Error(String),
}

/// Both directions of one session. Channels are small: a slow reader slows the writer down instead of filling memory.
#[derive(Debug)]
pub struct Session {
    /// Towards the process.
    pub input: mpsc::Sender<Input>,
    /// From the process.
    pub output: mpsc::Receiver<Output>,
}

/// The driver's end of a [`Session`].
#[derive(Debug)]
pub struct SessionEnd {
    /// From the person.
    pub input: mpsc::Receiver<Input>,
    /// To the person.
    pub output: mpsc::Sender<Output>,
}

/// How many frames a session holds in each direction.
const DEPTH: usize = 32;

/// Makes the two ends of a session.
pub fn session() -> (Session, SessionEnd) {
    let (input, from_person) = mpsc::channel(DEPTH);
    let (output, to_person) = mpsc::channel(DEPTH);
    (Session { input, output: to_person }, SessionEnd { input: from_person, output })
}

/// A process to run inside an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to the instance's environment, `NAME=value`.
    pub env: Vec<String>,
    /// Instead of the instance's user.
    pub user: Option<String>,
    /// Instead of the instance's working directory.
    pub workdir: Option<String>,
    /// Gives it a terminal of this size.
    pub terminal: Option<WindowSize>,
}

/// How somebody attaches to an instance's main process. The session's first frame is an empty [`Output::Stdout`]: from then on nothing is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachRequest {
    /// Passes input on; otherwise there is only something to hear.
    pub stdin: bool,
    /// If it does not run, waits for its next start, and misses nothing of it.
    pub wait: bool,
    /// The size of the person's terminal.
    pub terminal: Option<WindowSize>,
}

/// Which log lines are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<yun_types::Timestamp>,
    /// Goes on with new lines until the instance ends or the reader leaves.
    pub follow: bool,
}

/// Where a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A VM's serial console.
    Console,
}

/// One line of an instance's log, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written; consoles do not say.
    pub at: Option<yun_types::Timestamp>,
    /// Where it came from.
    pub stream: LogStream,
    /// The bytes, as the process wrote them.
    pub text: Bytes,
}
