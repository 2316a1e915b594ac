//! Attached clients: whoever wants the container's streams as they are connects to the socket `attach` in its run directory.
//!
//! Frames go both ways: a byte for the kind, the length of the rest in two bytes, big endian, and the rest. Towards the container: `a FLAGS`
//! once and first (1: with what was kept since the start; answered by an empty `o`), `i BYTES` for its standard input, `c` for the end of that, `w COLUMNS ROWS` for the
//! size of its terminal, in two bytes each. From the container: `o BYTES` and `e BYTES`. The connection ends with the container.
//!
//! What the container writes waits for clients that read slowly, and for one that is expected when it starts (then it is *kept*), but for
//! neither of them long: a client that takes nothing for a while is let go, and the container goes on. All of it is in the log in any case.
//! The death of a client changes nothing for the container; only the frame `c` ends its standard input.

use crate::kernel::{self, Poll};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

/// How much is kept for a client that is expected.
const KEPT: usize = 64 << 10;
/// How much a client may be behind before the container waits for it.
const BEHIND: usize = 64 << 10;
/// How long the container waits for a client that takes nothing, or does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Says that nothing is missed any more.
const HEARD: &[u8] = b"o\0\0";
/// The longest frame.
const LONGEST: usize = 3 + u16::MAX as usize;
/// Waiting for nothing at all.
const FOREVER: i32 = -1;

/// What becomes of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// There is none.
    Closed,
    /// It stays open, whoever comes and goes.
    Open,
    /// It ends when a client says so.
    Once,
}

impl Mode {
    /// Reads an argument.
    pub fn read(text: &str) -> Self {
        match text {
            "open" => Self::Open,
            "once" => Self::Once,
            _ => Self::Closed,
        }
    }
}

/// The way to the container's standard input.
pub struct Input {
    mode: Mode,
    /// With a terminal: also written to when there is no standard input, for its size.
    terminal: bool,
    file: Option<File>,
    /// Who holds a pipe open if this process is killed.
    keeper: Option<OwnedFd>,
    pending: Vec<u8>,
    ends: bool,
}

impl Input {
    /// None.
    pub fn none() -> Self {
        Self { mode: Mode::Closed, terminal: false, file: None, keeper: None, pending: Vec::new(), ends: false }
    }

    /// A pipe.
    pub fn pipe(mode: Mode, file: File, keeper: Option<OwnedFd>) -> Self {
        Self { mode, file: Some(file), keeper, ..Self::none() }
    }

    /// A terminal.
    pub fn terminal(mode: Mode, file: File) -> Self {
        Self { mode, terminal: true, file: Some(file), ..Self::none() }
    }

    fn give(&mut self, bytes: &[u8]) {
        if self.mode != Mode::Closed && self.file.is_some() && !self.ends {
            self.pending.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Its end. A terminal has none: that is a character which clients send.
    fn end(&mut self) {
        self.ends |= self.mode == Mode::Once && !self.terminal;
        self.flush();
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        while !self.pending.is_empty() {
            match file.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Nobody inside reads any more.
                    self.pending = Vec::new();
                    self.ends |= !self.terminal;
                    break;
                }
            }
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(LONGEST);
        }
        if self.ends && self.pending.is_empty() {
            self.file = None;
            if let Some(keeper) = self.keeper.take() {
                kernel::end(&keeper);
            }
        }
    }

    /// True once it has ended.
    pub fn ended(&self) -> bool {
        self.ends && self.file.is_none()
    }
}

/// Somebody who is connected.
struct Client {
    stream: UnixStream,
    inward: Vec<u8>,
    outward: Vec<u8>,
    /// When it last took something, or had nothing to take.
    moved: Instant,
    /// It has said what it wants.
    begun: bool,
    here: bool,
}

impl Client {
    fn send(&mut self) {
        while !self.outward.is_empty() {
            match self.stream.write(&self.outward) {
                Ok(0) => self.leave(),
                Ok(sent) => {
                    self.outward.drain(..sent);
                    self.moved = Instant::now();
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.leave(),
            }
            return;
        }
    }

    fn leave(&mut self) {
        self.here = false;
        self.outward = Vec::new();
    }

    fn tell(&mut self, frames: &[u8]) {
        if self.outward.is_empty() {
            self.moved = Instant::now();
        }
        self.outward.extend_from_slice(frames);
        self.send();
    }

    fn read(&mut self) {
        let mut buffer = [0; 8 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.leave(),
            Ok(count) => self.inward.extend_from_slice(&buffer[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.leave(),
        }
    }

    /// Takes a whole frame off what was read.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let &[kind, high, low, ..] = &self.inward[..] else { return None };
        let end = 3 + usize::from(u16::from_be_bytes([high, low]));
        let rest = self.inward.get(3..end)?.to_vec();
        self.inward.drain(..end);
        Some((kind, rest))
    }
}

/// Everybody who is connected, and who may still come.
pub struct Attach {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    /// The way in.
    pub input: Input,
    kept: Option<Vec<u8>>,
    since: Instant,
}

impl Attach {
    /// Listens in the run directory. If that cannot be, the container lives without: its log has everything.
    pub fn listen(run: &Path, expected: bool) -> Self {
        let path = run.join("attach");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let kept = expected.then(Vec::new);
        Self { listener: listener.ok(), clients: Vec::new(), input: Input::none(), kept, since: Instant::now() }
    }

    /// True while the container has to wait.
    pub fn stalls(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.len() >= KEPT)
            || self.clients.iter().any(|client| client.outward.len() >= BEHIND)
    }

    /// Gives clients what the container wrote.
    pub fn tell(&mut self, kind: u8, bytes: &[u8]) {
        if self.kept.is_none() && self.clients.is_empty() {
            return;
        }
        let mut frames = Vec::with_capacity(bytes.len() + 3);
        for piece in bytes.chunks(usize::from(u16::MAX)) {
            frames.push(kind);
            frames.extend_from_slice(&u16::try_from(piece.len()).unwrap_or_default().to_be_bytes());
            frames.extend_from_slice(piece);
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&frames);
        }
        let kept = self.kept.is_some();
        // Who has not said a word yet may want what is kept, and this is in it.
        for client in self.clients.iter_mut().filter(|client| client.begun || !kept) {
            client.tell(&frames);
        }
    }

    /// Adds what is waited for.
    pub fn poll(&self, polls: &mut Vec<Poll>) {
        polls.push(self.listener.as_ref().map_or_else(Poll::none, Poll::read));
        polls.push(match &self.input.file {
            Some(file) if !self.input.pending.is_empty() => Poll::write(file),
            _ => Poll::none(),
        });
        for client in &self.clients {
            let reads = self.input.pending.is_empty() && client.inward.len() < LONGEST;
            polls.push(match (reads, !client.outward.is_empty()) {
                (true, true) => Poll::both(&client.stream),
                (true, false) => Poll::read(&client.stream),
                (false, true) => Poll::write(&client.stream),
                (false, false) => Poll::none(),
            });
        }
    }

    /// How many milliseconds may pass until somebody is let go.
    pub fn timeout(&self) -> i32 {
        let behind = self.clients.iter().filter(|client| !client.outward.is_empty()).map(|client| client.moved);
        let first = behind.chain(self.kept.as_ref().map(|_| self.since)).min();
        let Some(first) = first else { return FOREVER };
        let left = PATIENCE.saturating_sub(first.elapsed()).as_millis();
        i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1)
    }

    /// Carries out what happened to those that [`Self::poll`] added.
    pub fn happened(&mut self, polls: &[Poll], terminal: Option<&File>) {
        for (client, poll) in self.clients.iter_mut().zip(polls.get(2..).unwrap_or_default()) {
            if poll.ready() {
                client.send();
                if self.input.pending.is_empty() && client.inward.len() < LONGEST {
                    client.read();
                }
            }
        }
        self.input.flush();
        for client in &mut self.clients {
            while self.input.pending.is_empty()
                && let Some((kind, rest)) = client.frame()
            {
                match (kind, &rest[..]) {
                    (b'a', flags) => {
                        client.begun = true;
                        client.tell(HEARD);
                        if flags.first().is_some_and(|flags| flags & 1 != 0)
                            && let Some(kept) = self.kept.take()
                        {
                            client.tell(&kept);
                        }
                    }
                    (b'i', bytes) => self.input.give(bytes),
                    (b'c', _) => self.input.end(),
                    (b'w', &[c1, c0, r1, r0]) => {
                        if let Some(terminal) = terminal {
                            kernel::resize(terminal, u16::from_be_bytes([c1, c0]), u16::from_be_bytes([r1, r0]));
                        }
                    }
                    _ => {}
                }
            }
            if !client.outward.is_empty() && client.moved.elapsed() >= PATIENCE {
                client.leave();
            }
        }
        // What somebody sent before going away was carried out, or waits for room.
        self.clients.retain(|client| client.here || !client.inward.is_empty() && !self.input.pending.is_empty());
        if self.kept.is_some() && self.since.elapsed() >= PATIENCE {
            self.kept = None;
        }
        if polls.first().is_some_and(Poll::ready) {
            self.accept();
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let (inward, outward) = (Vec::new(), Vec::new());
                self.clients.push(Client { stream, inward, outward, moved: Instant::now(), begun: false, here: true });
            }
        }
    }

    /// The container has ended: who has everything is let go.
    pub fn close(&mut self) {
        self.input = Input::none();
        self.accept();
        self.greet();
        self.let_go();
    }

    /// Waits until the others have everything too, and until the one has come that was expected.
    pub fn finish(mut self) {
        self.since = Instant::now();
        loop {
            self.let_go();
            let awaited = self.kept.as_ref().is_some_and(|kept| !kept.is_empty()) && self.since.elapsed() < PATIENCE;
            if self.clients.is_empty() && !awaited {
                return;
            }
            let mut polls: Vec<Poll> = self
                .clients
                .iter()
                .map(|client| if client.begun { Poll::write(&client.stream) } else { Poll::read(&client.stream) })
                .collect();
            polls.extend(self.listener.as_ref().filter(|_| awaited).map(Poll::read));
            kernel::wait_for(&mut polls, self.timeout());
            self.accept();
            self.greet();
            for client in &mut self.clients {
                client.send();
                client.here &= client.moved.elapsed() < PATIENCE;
            }
        }
    }

    /// Hears those out who have just come.
    fn greet(&mut self) {
        for client in self.clients.iter_mut().filter(|client| !client.begun) {
            client.read();
            if let Some((b'a', flags)) = client.frame() {
                client.begun = true;
                client.tell(HEARD);
                if flags.first().is_some_and(|flags| flags & 1 != 0)
                    && let Some(kept) = self.kept.take()
                {
                    client.tell(&kept);
                }
            }
        }
    }

    fn let_go(&mut self) {
        let kept = self.kept.is_some();
        self.clients.retain(|client| client.here && (!client.outward.is_empty() || !client.begun && kept));
    }
}
