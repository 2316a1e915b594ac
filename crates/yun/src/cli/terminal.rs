//! The person's terminal: raw mode that is always taken back, its size, and the session between it and an instance.

use anyhow::Result;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{IsTerminal, Write};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
};
use yun_engine::session::{Input, Output, Session, WindowSize};
use yun_types::Exit;

/// Raw mode for as long as this lives.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Every key goes to the instance, from now on. Does nothing where standard input is no terminal.
    pub(crate) fn enter() -> Self {
        let before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// The terminal's size; that of a classic one where there is none.
pub(crate) fn size() -> WindowSize {
    termios::tcgetwinsize(std::io::stdout()).or_else(|_| termios::tcgetwinsize(std::io::stdin())).map_or(
        WindowSize { columns: 80, rows: 24 },
        |s| WindowSize { columns: s.ws_col.max(1), rows: s.ws_row.max(1) },
    )
}

/// How a session treats this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Standard input is passed on.
    pub(crate) input: bool,
    /// The keys go there unchanged, and so does the size of the window.
    pub(crate) terminal: bool,
    /// The keys that leave.
    pub(crate) leave: Option<Keys>,
    /// Ctrl-C goes there as a signal.
    pub(crate) signals: bool,
}

/// Two keys, one after the other, by which a person leaves what goes on without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// `Ctrl-a q`: consoles.
    Console,
    /// `Ctrl-p Ctrl-q`: what somebody is attached to.
    Attached,
}

impl Keys {
    const fn first(self) -> u8 {
        match self {
            Self::Console => 1,
            Self::Attached => 16,
        }
    }

    const fn second(self) -> [u8; 2] {
        match self {
            Self::Console => *b"qQ",
            Self::Attached => [17, 17],
        }
    }
}

/// Carries a session until it ends. `None` if the person left.
pub(crate) async fn carry(session: Session, manner: Manner) -> Result<Option<Exit>> {
    let Session { input, mut output } = session;
    let _raw = (manner.terminal && std::io::stdin().is_terminal()).then(Raw::enter);
    let resizes = manner.terminal.then(|| tokio::spawn(send_resizes(input.clone())));
    let keys = async {
        if !manner.input {
            return std::future::pending().await;
        }
        let left = send_keys(&input, manner.leave).await;
        if !left {
            // The end of our input is not the end of the session.
            std::future::pending::<()>().await;
        }
    };
    let signals = async {
        while manner.signals && tokio::signal::ctrl_c().await.is_ok() {
            // Whoever does not listen to the first one may still be left by the next.
            if input.try_send(Input::Signal(2)).is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let show = async {
        while let Some(frame) = output.recv().await {
            match frame {
                Output::Stdout(bytes) => write(&mut std::io::stdout(), &bytes)?,
                Output::Stderr(bytes) => write(&mut std::io::stderr(), &bytes)?,
                Output::Exit(exit) => return Ok(Some(exit)),
                Output::Error(text) => anyhow::bail!(text),
            }
        }
        anyhow::bail!("the session ended without saying how: the server or the instance went away")
    };
    let result = tokio::select! { shown = show => shown, () = keys => Ok(None), () = signals => Ok(None) };
    if let Some(task) = resizes {
        task.abort();
    }
    result
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}

async fn send_resizes(input: tokio::sync::mpsc::Sender<Input>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() && input.send(Input::Resize(size())).await.is_ok() {}
}

/// Sends what is typed; true if the person asked to leave.
async fn send_keys(input: &tokio::sync::mpsc::Sender<Input>, leave: Option<Keys>) -> bool {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 8192];
    let mut keys = leave.map(Leaving::new);
    loop {
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            let _ = input.send(Input::StdinClosed).await;
            return false;
        }
        let (typed, leave) = match &mut keys {
            Some(keys) => keys.filter(&buffer[..read]),
            None => (buffer[..read].to_vec(), false),
        };
        if !typed.is_empty() && input.send(Input::Stdin(typed.into())).await.is_err() {
            return false;
        }
        if leave {
            return true;
        }
    }
}

/// Watches for the keys that leave; the first one twice sends it once.
#[derive(Debug)]
struct Leaving {
    keys: Keys,
    armed: bool,
}

impl Leaving {
    fn new(keys: Keys) -> Self {
        Self { keys, armed: false }
    }

    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        let (first, second) = (self.keys.first(), self.keys.second());
        for &key in typed {
            match (std::mem::take(&mut self.armed), key) {
                (true, key) if second.contains(&key) => return (passed, true),
                (true, key) if key == first => passed.push(first),
                (true, other) => passed.extend([first, other]),
                (false, key) if key == first => self.armed = true,
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_leave_and_everything_else_passes() {
        let mut keys = Leaving::new(Keys::Attached);
        assert_eq!(keys.filter(&[1, b'q', 16, 16, 16]), (vec![1, b'q', 16], false));
        assert_eq!(keys.filter(&[17, b'x']), (vec![], true));
        let mut keys = Leaving::new(Keys::Console);
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[1]), (vec![], false));
        assert_eq!(keys.filter(b"x"), (vec![1, b'x'], false));
        assert_eq!(keys.filter(&[1, 1, b'q']), (vec![1, b'q'], false));
        assert_eq!(keys.filter(&[b'y', 1, b'q', b'z']), (vec![b'y'], true));
    }
}
