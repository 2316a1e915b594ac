//! The serial console's log: written by QEMU, read here, and kept within bounds by giving its oldest part back to the file system. The
//! rest keeps its place, so neither QEMU nor a reader notices.

use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    unistd::{Whence, lseek},
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;
use yun_engine::session::{LogLine, LogRequest, LogStream};

/// The most that a log takes on disk, between two looks at it.
const MOST: u64 = 8 << 20;
/// What is left of one that took more.
const KEPT: u64 = 4 << 20;
/// The longest line; what is longer comes in pieces.
const LONGEST_LINE: usize = 64 << 10;
/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(100);

/// Brings logs within bounds.
pub(super) fn bound(logs: &[PathBuf]) {
    for log in logs {
        match bound_one(log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %log.display(), %error, "cannot keep a log within bounds");
            }
            _ => {}
        }
    }
}

fn bound_one(path: &Path) -> io::Result<()> {
    let facts = std::fs::metadata(path)?;
    if facts.blocks() * 512 <= MOST {
        return Ok(());
    }
    let file = File::options().write(true).open(path)?;
    // Whole pages: what is left of a page would be read as zeros.
    let end = i64::try_from(facts.len().saturating_sub(KEPT) & !0xfff).map_err(io::Error::other)?;
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(&file, hole, 0, end) {
        // File systems without holes: all of it goes. QEMU appends, so it goes on at the new end.
        Err(Errno::EOPNOTSUPP) => file.set_len(0),
        other => Ok(other?),
    }
}

/// Where the first byte that was kept is.
fn first(file: &File, size: u64) -> u64 {
    match lseek(file, 0, Whence::SeekData) {
        Ok(place) => u64::try_from(place).unwrap_or(0),
        Err(Errno::ENXIO) => size,
        Err(_) => 0,
    }
}

/// Where the last `lines` lines begin.
fn start_of_last(file: &File, first: u64, size: u64, lines: u64) -> io::Result<u64> {
    let mut end = size;
    let mut missing = lines;
    let mut chunk = vec![0; 64 << 10];
    let mut at_end = true;
    while end > first && missing > 0 {
        let start = end.saturating_sub(chunk.len() as u64).max(first);
        let part = &mut chunk[..usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_exact_at(part, start)?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let place = start + index as u64;
            // The newline that ends the last line begins no line.
            if at_end && place + 1 == size {
                continue;
            }
            missing -= 1;
            if missing == 0 {
                return Ok(place + 1);
            }
        }
        at_end = false;
        end = start;
    }
    Ok(if lines == 0 { size } else { first })
}

/// Reads a log into lines.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    place: u64,
    rest: Vec<u8>,
}

impl Reader {
    /// Opens a log where the request begins. `None` if nothing was ever written. Consoles do not say when, so `since` selects nothing.
    pub(super) fn open(path: &Path, request: &LogRequest) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let size = file.metadata()?.len();
        let first = first(&file, size);
        let place = request.tail.map_or(Ok(first), |lines| start_of_last(&file, first, size, lines))?;
        Ok(Some(Self { file, place, rest: Vec::new() }))
    }

    /// The lines that are complete now; empty at the end.
    fn more(&mut self) -> io::Result<Vec<LogLine>> {
        let mut chunk = vec![0; 64 << 10];
        let size = self.file.metadata()?.len();
        if size < self.place {
            self.place = 0;
        }
        let read = self.file.read_at(&mut chunk, self.place)?;
        self.place += read as u64;
        self.rest.extend_from_slice(&chunk[..read]);
        let mut lines = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            lines.push(line_of(&self.rest[start..start + length]));
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() >= LONGEST_LINE {
            lines.push(line_of(&std::mem::take(&mut self.rest)));
        }
        // An unfinished line is no end of file.
        if lines.is_empty() && read > 0 {
            return self.more();
        }
        Ok(lines)
    }

    /// What is left at the end: a prompt, mostly.
    fn last(&mut self) -> Option<LogLine> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| line_of(&rest))
    }

    /// Sends lines until the end; if `follow`, until `runs` turns false. Stops when nobody reads any more.
    pub(super) async fn send_all(
        mut self,
        follow: bool,
        runs: impl Fn() -> bool,
        to: mpsc::Sender<io::Result<LogLine>>,
    ) {
        loop {
            // Asked before reading: what is written before the end is read after the answer.
            let more_may_come = follow && runs();
            match self.more() {
                Ok(lines) if lines.is_empty() && more_may_come => {
                    tokio::select! {
                        () = to.closed() => return,
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
                Ok(lines) if lines.is_empty() => break,
                Ok(lines) => {
                    for line in lines {
                        if to.send(Ok(line)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    // The reader is told once; whether it still listens does not matter.
                    let _ = to.send(Err(error)).await;
                    return;
                }
            }
        }
        if let Some(line) = self.last() {
            let _ = to.send(Ok(line)).await;
        }
    }
}

/// Serial lines end with a carriage return for the terminal's sake.
fn line_of(bytes: &[u8]) -> LogLine {
    let end = bytes.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    LogLine { at: None, stream: LogStream::Console, text: Bytes::copy_from_slice(&bytes[..end]) }
}

/// The last lines of a log, readable on one line of an error: without colours and control characters.
pub(super) fn last_lines(path: &Path, lines: u64) -> String {
    let request = LogRequest { tail: Some(lines), ..LogRequest::default() };
    let Ok(Some(mut reader)) = Reader::open(path, &request) else { return String::new() };
    let mut texts = Vec::new();
    while let Ok(more) = reader.more() {
        if more.is_empty() {
            break;
        }
        texts.extend(more);
    }
    texts.extend(reader.last());
    let plain = texts.iter().map(|line| plain(&String::from_utf8_lossy(&line.text)));
    plain.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A text without terminal control sequences (ECMA-48 CSI) and control characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                // Parameters, then one final character.
                for parameter in chars.by_ref() {
                    if ('\u{40}'..='\u{7e}').contains(&parameter) {
                        break;
                    }
                }
            } else {
                // The other sequences: intermediate characters, then a final one, as in the reset `ESC c`.
                while chars.next_if(|c| ('\u{20}'..='\u{2f}').contains(c)).is_some() {}
                chars.next_if(|c| ('\u{30}'..='\u{7e}').contains(c));
            }
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path, tail: Option<u64>) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, mut receiver) = mpsc::channel::<io::Result<LogLine>>(10);
        let reader = Reader::open(path, &LogRequest { tail, ..LogRequest::default() }).unwrap().unwrap();
        let mut texts: Vec<String> = Vec::new();
        let collect = async {
            while let Some(line) = receiver.recv().await {
                texts.push(String::from_utf8(line.unwrap().text.to_vec()).unwrap());
            }
        };
        runtime.block_on(async { tokio::join!(reader.send_all(false, || false, sender), collect) });
        texts
    }

    #[test]
    fn lines_come_whole_without_carriage_returns_and_the_prompt_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\r\ntwo\r\r\n\r\nlogin: ").unwrap();
        assert_eq!(texts(&path, None), ["one", "two", "", "login: "]);
        assert_eq!(texts(&path, Some(2)), ["", "login: "]);
        assert_eq!(texts(&path, Some(0)), Vec::<String>::new());
        assert_eq!(texts(&path, Some(99)).len(), 4);
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(texts(&path, Some(2)), ["two", "three"]);
        assert!(Reader::open(&dir.path().join("none"), &LogRequest::default()).unwrap().is_none());
    }

    #[test]
    fn tails_are_found_across_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let all: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
        std::fs::write(&path, all.join("\n") + "\n").unwrap();
        assert_eq!(texts(&path, Some(15_000)), all[5_000..]);
        std::fs::write(&path, vec![b'x'; 3 * LONGEST_LINE]).unwrap();
        assert_eq!(texts(&path, None).concat().len(), 3 * LONGEST_LINE);
    }

    #[test]
    fn a_log_that_grew_too_large_gives_its_beginning_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = "x".repeat(99) + "\n";
        let count = usize::try_from(MOST).unwrap() / 100 + 1000;
        std::fs::write(&path, line.repeat(count)).unwrap();
        bound(std::slice::from_ref(&path));
        let facts = std::fs::metadata(&path).unwrap();
        assert!(facts.blocks() * 512 <= KEPT + 8192, "{} blocks", facts.blocks());
        assert_eq!(texts(&path, Some(3)), vec![line.trim(); 3]);
        let left = texts(&path, None).len();
        assert!((40_000..60_000).contains(&left), "{left} lines were left");
        let small = dir.path().join("small");
        std::fs::write(&small, "kept").unwrap();
        bound(&[small.clone(), dir.path().join("none")]);
        assert_eq!(texts(&small, None), ["kept"]);
    }

    #[test]
    fn errors_show_text_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\n\u{1b}[0;31mFAILED\u{1b}[0m to mount\r\n\n\u{7}panic").unwrap();
        assert_eq!(last_lines(&path, 3), "FAILED to mount; panic");
        assert_eq!(last_lines(&dir.path().join("none"), 3), "");
    }

    #[tokio::test]
    async fn a_follower_reads_on_until_the_end() {
        use std::{
            io::Write,
            sync::{
                Arc,
                atomic::{AtomicBool, Ordering},
            },
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = File::create(&path).unwrap();
        let runs = Arc::new(AtomicBool::new(true));
        let reader = Reader::open(&path, &LogRequest { follow: true, ..LogRequest::default() }).unwrap().unwrap();
        let (sender, mut receiver) = mpsc::channel(10);
        let asked = Arc::clone(&runs);
        let task = tokio::spawn(reader.send_all(true, move || asked.load(Ordering::SeqCst), sender));
        for text in ["first", "second"] {
            writeln!(log, "{text}").unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap().text, text);
        }
        write!(log, "bye").unwrap();
        runs.store(false, Ordering::SeqCst);
        assert_eq!(receiver.recv().await.unwrap().unwrap().text, "bye");
        assert!(receiver.recv().await.is_none());
        task.await.unwrap();
    }
}
