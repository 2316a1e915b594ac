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
    /// `Ctrl-a q` leaves (consoles: nothing else ends them).
    pub(crate) leave: bool,
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
    let result = tokio::select! { shown = show => shown, () = keys => Ok(None) };
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
async fn send_keys(input: &tokio::sync::mpsc::Sender<Input>, can_leave: bool) -> bool {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 8192];
    let mut keys = Leaving::default();
    loop {
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            let _ = input.send(Input::StdinClosed).await;
            return false;
        }
        let (typed, leave) = if can_leave { keys.filter(&buffer[..read]) } else { (buffer[..read].to_vec(), false) };
        if !typed.is_empty() && input.send(Input::Stdin(typed.into())).await.is_err() {
            return false;
        }
        if leave {
            return true;
        }
    }
}

/// Watches for `Ctrl-a q`; `Ctrl-a Ctrl-a` sends one `Ctrl-a`.
#[derive(Debug, Default)]
struct Leaving {
    armed: bool,
}

impl Leaving {
    const PREFIX: u8 = 1;

    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &key in typed {
            match (std::mem::take(&mut self.armed), key) {
                (true, b'q' | b'Q') => return (passed, true),
                (true, Self::PREFIX) => passed.push(Self::PREFIX),
                (true, other) => passed.extend([Self::PREFIX, other]),
                (false, Self::PREFIX) => self.armed = true,
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
    fn ctrl_a_q_leaves_and_everything_else_passes() {
        let mut keys = Leaving::default();
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[1]), (vec![], false));
        assert_eq!(keys.filter(b"x"), (vec![1, b'x'], false));
        assert_eq!(keys.filter(&[1, 1, b'q']), (vec![1, b'q'], false));
        assert_eq!(keys.filter(&[b'y', 1, b'q', b'z']), (vec![b'y'], true));
    }
}
