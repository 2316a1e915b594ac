//! Reading what a container wrote, from the files that its shim writes (the format is in `shim/lines.rs`).
//!
//! Words: a *record* is one line of a file; a *line* is what the process wrote up to a newline: one record, or several whose last one ends
//! it. Memory is bounded: a line longer than [`LONGEST_LINE`] is given out in pieces.

use super::{
    driver::Inner,
    files::Files,
    life::{self, Truth},
};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use yun_drivers::{DriverError, Result};
use yun_engine::session::{LogLine, LogRequest, LogStream};
use yun_types::Timestamp;

/// The longest line that is put together from its records.
const LONGEST_LINE: usize = 1 << 20;
/// How much is read in one go.
const BATCH: usize = 256;
/// The pause between two looks at a file that does not grow.
const STEP: Duration = Duration::from_millis(100);
/// The width of a time.
const STAMP: usize = 30;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    stamp: &'a [u8],
    stream: LogStream,
    pub(super) ends_line: bool,
    pub(super) text: &'a [u8],
}

/// Reads a record; `None` for the rest of one that a crash cut short.
pub(super) fn parse_record(line: &[u8]) -> Option<Record<'_>> {
    let (stamp, rest) = line.split_at_checked(STAMP)?;
    let [b' ', stream, b' ', kind, b' ', text @ ..] = rest else { return None };
    let stream = match stream {
        b'o' => LogStream::Stdout,
        b'e' => LogStream::Stderr,
        _ => return None,
    };
    matches!(kind, b'P' | b'F').then_some(Record { stamp, stream, ends_line: *kind == b'F', text })
}

/// Opens a container's log.
pub(super) async fn open(
    inner: Arc<Inner>,
    files: Files,
    request: LogRequest,
) -> Result<BoxStream<'static, io::Result<LogLine>>> {
    let count = inner.options.log.files;
    let path = files.log();
    let opened = inner.blocking("open a container's log", move || {
        Reader::open(path, count, &request).map(|reader| (reader, request.follow))
    });
    let (reader, follow) =
        opened.await.map_err(|e| DriverError { message: format!("{} (container {})", e.message, files.id), ..e })?;
    let state = Following { reader, inner, files, follow, over: false };
    Ok(futures::stream::try_unfold(state, Following::next).map(flatten).flatten().boxed())
}

fn flatten(batch: io::Result<Vec<LogLine>>) -> futures::stream::Iter<std::vec::IntoIter<io::Result<LogLine>>> {
    let lines = match batch {
        Ok(lines) => lines.into_iter().map(Ok).collect(),
        Err(e) => vec![Err(e)],
    };
    futures::stream::iter(lines)
}

/// A reader, and whether more may come.
struct Following {
    reader: Reader,
    inner: Arc<Inner>,
    files: Files,
    follow: bool,
    over: bool,
}

impl Following {
    /// The next lines, once there are some.
    async fn next(mut self) -> io::Result<Option<(Vec<LogLine>, Self)>> {
        loop {
            if self.over {
                return Ok(None);
            }
            // Asked before reading: what was written before its end is then read for sure.
            let ended = !self.follow || self.has_ended().await?;
            let read = tokio::task::spawn_blocking(move || {
                let lines = self.reader.batch();
                (self, lines)
            });
            let (this, lines) = read.await.map_err(io::Error::other)?;
            self = this;
            let mut lines = lines?;
            if lines.is_empty() && ended {
                self.over = true;
                lines = self.reader.unfinished();
            }
            if !lines.is_empty() {
                return Ok(Some((lines, self)));
            }
            if !self.over {
                tokio::time::sleep(STEP).await;
            }
        }
    }

    /// True if nobody will write any more.
    async fn has_ended(&self) -> io::Result<bool> {
        let (inner, files) = (self.inner.clone(), self.files.clone());
        let look = tokio::task::spawn_blocking(move || life::look(&files, &inner));
        Ok(matches!(look.await.map_err(io::Error::other)??, Truth::Absent | Truth::Ended(_)))
    }
}

/// A line that has not ended.
#[derive(Debug, Default)]
struct Part {
    stamp: Option<Timestamp>,
    text: Vec<u8>,
}

/// Reads the files one after the other, and goes on with new ones as the shim begins them.
struct Reader {
    path: PathBuf,
    files: VecDeque<BufReader<File>>,
    current: Option<BufReader<File>>,
    /// The beginning of a record that is still being written.
    record: Vec<u8>,
    parts: [Part; 2],
    skip: u64,
    since: Option<Timestamp>,
}

impl Reader {
    fn open(path: PathBuf, count: u32, request: &LogRequest) -> io::Result<Self> {
        let mut files = VecDeque::new();
        // The newest first: if a rotation happens meanwhile, a file may be opened twice, but none is missed.
        let mut seen = None;
        for index in 0..count.max(1) {
            match File::open(numbered(&path, index)) {
                Ok(file) => {
                    let inode = file.metadata()?.ino();
                    if seen != Some(inode) {
                        files.push_front(file);
                    }
                    seen = Some(inode);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let mut skip = 0;
        if let Some(tail) = request.tail {
            let mut found = 0;
            let mut first = files.len();
            while first > 0 && found < tail {
                first -= 1;
                found += count_lines(&files[first])?;
            }
            files.drain(..first);
            skip = found.saturating_sub(tail);
            if tail == 0 {
                files.clear();
            }
        }
        let mut files: VecDeque<_> = files.into_iter().map(|file| BufReader::with_capacity(64 << 10, file)).collect();
        let mut current = files.pop_front();
        if request.tail == Some(0) {
            current = File::open(&path).ok().map(BufReader::new);
            if let Some(reader) = &mut current {
                io::Seek::seek(reader, io::SeekFrom::End(0))?;
            }
        }
        Ok(Self { path, files, current, record: Vec::new(), parts: Default::default(), skip, since: request.since })
    }

    /// Some lines; none if there are none now.
    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < BATCH && bytes < LONGEST_LINE {
            let Some(current) = &mut self.current else {
                if !self.advance()? {
                    break;
                }
                continue;
            };
            let count = current.read_until(b'\n', &mut self.record)?;
            bytes += count;
            if self.record.last() == Some(&b'\n') {
                self.record.pop();
                let record = std::mem::take(&mut self.record);
                lines.extend(self.take(&record));
                self.record = record;
                self.record.clear();
            } else if !self.advance()? {
                break;
            }
        }
        Ok(lines)
    }

    /// Goes on to the next file, if the current one will not grow any more.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(next) = self.files.pop_front() {
            self.current = Some(next);
            self.record.clear();
            return Ok(true);
        }
        let newest = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let Some(current) = &mut self.current else {
            self.current = Some(BufReader::new(newest));
            return Ok(true);
        };
        let known = current.get_ref().metadata()?.ino();
        if newest.metadata()?.ino() == known {
            return Ok(false);
        }
        // Another file is the newest: whatever was written to this one before that is read first.
        if !current.fill_buf()?.is_empty() {
            return Ok(true);
        }
        // If the writer began several files meanwhile, go on with the one right after this.
        let mut next = newest;
        for index in 1.. {
            match File::open(numbered(&self.path, index)) {
                Ok(file) if file.metadata()?.ino() != known => next = file,
                _ => break,
            }
        }
        self.current = Some(BufReader::new(next));
        self.record.clear();
        Ok(true)
    }

    /// Takes a record in; a line comes out if the record ends one.
    fn take(&mut self, record: &[u8]) -> Option<LogLine> {
        let record = parse_record(record)?;
        let part = &mut self.parts[usize::from(record.stream == LogStream::Stderr)];
        if part.stamp.is_none() {
            part.stamp = std::str::from_utf8(record.stamp).ok().and_then(|text| text.parse().ok());
        }
        part.text.extend_from_slice(record.text);
        if !record.ends_line && part.text.len() < LONGEST_LINE {
            return None;
        }
        if self.skip > 0 {
            self.skip -= u64::from(record.ends_line);
            *part = Part::default();
            return None;
        }
        let (since, part) = (self.since, std::mem::take(part));
        line(record.stream, part, since)
    }

    /// Lines without an end, when nothing more will come.
    fn unfinished(&mut self) -> Vec<LogLine> {
        let since = self.since;
        let parts = std::mem::take(&mut self.parts);
        let streams = [LogStream::Stdout, LogStream::Stderr];
        parts
            .into_iter()
            .zip(streams)
            .filter(|(part, _)| !part.text.is_empty())
            .filter_map(|(part, stream)| line(stream, part, since))
            .collect()
    }
}

fn line(stream: LogStream, part: Part, since: Option<Timestamp>) -> Option<LogLine> {
    let wanted = since.is_none_or(|since| part.stamp.is_none_or(|at| at >= since));
    wanted.then(|| LogLine { at: part.stamp, stream, text: Bytes::from(part.text) })
}

fn numbered(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

/// The lines that end in a file. Leaves its position at the beginning.
fn count_lines(mut file: &File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut record, mut lines) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut record)? > 0 {
        lines += u64::from(record.strip_suffix(b"\n").and_then(parse_record).is_some_and(|record| record.ends_line));
        record.clear();
    }
    io::Seek::rewind(&mut file)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write};

    fn stamp(n: u32) -> String {
        format!("2026-11-21T05:43:{n:02}.000000000Z")
    }

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    /// Lines 0 to 8 in three files, the oldest in `.2`.
    fn three_files() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("container.log");
        for (file, from) in [(2, 0), (1, 3), (0, 6)] {
            let text: String = (from..from + 3).map(|n| format!("{} o F line {n}\n", stamp(n))).collect();
            fs::write(numbered(&path, file), text).unwrap();
        }
        (directory, path)
    }

    fn read(path: &Path, request: &LogRequest) -> Vec<String> {
        let mut reader = Reader::open(path.to_owned(), 3, request).unwrap();
        let mut lines = Vec::new();
        loop {
            let batch = reader.batch().unwrap();
            if batch.is_empty() {
                lines.extend(reader.unfinished());
                return texts(&lines);
            }
            lines.extend(batch);
        }
    }

    #[test]
    fn rotated_files_are_one_log() {
        let (_keep, path) = three_files();
        let all: Vec<String> = (0..9).map(|n| format!("line {n}")).collect();
        assert_eq!(read(&path, &LogRequest::default()), all);
        for tail in [0, 1, 3, 4, 8, 9, 100] {
            let request = LogRequest { tail: Some(tail), ..Default::default() };
            assert_eq!(read(&path, &request), all[9 - usize::try_from(tail).unwrap().min(9)..], "{tail}");
        }
        let since = LogRequest { since: Some(stamp(7).parse().unwrap()), ..Default::default() };
        assert_eq!(read(&path, &since), all[7..]);
    }

    #[test]
    fn parts_of_a_line_are_put_together_for_each_stream() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("container.log");
        let at = stamp(1);
        fs::write(&path, format!("{at} o P a\n{at} e P x\n{at} o P b\n{at} o F c\n{at} e F y\nbroken\n{at} o P end"))
            .unwrap();
        let mut reader = Reader::open(path.clone(), 1, &LogRequest::default()).unwrap();
        let lines = reader.batch().unwrap();
        assert_eq!(texts(&lines), ["abc", "xy"]);
        assert_eq!((lines[0].stream, lines[1].stream), (LogStream::Stdout, LogStream::Stderr));
        // The writer goes on in the middle of a record.
        fs::File::options().append(true).open(&path).unwrap().write_all(b"less\n").unwrap();
        assert_eq!(texts(&reader.batch().unwrap()), Vec::<String>::new());
        assert_eq!(texts(&reader.unfinished()), ["endless"]);
    }

    #[test]
    fn a_reader_follows_over_rotations() {
        let (_keep, path) = three_files();
        let mut reader = Reader::open(path.clone(), 3, &LogRequest { tail: Some(1), ..Default::default() }).unwrap();
        assert_eq!(texts(&reader.batch().unwrap()), ["line 8"]);
        let append = |n: u32| {
            let mut file = fs::File::options().append(true).create(true).open(&path).unwrap();
            writeln!(file, "{} o F line {n}", stamp(n)).unwrap();
        };
        append(9);
        for n in [10, 11] {
            fs::rename(numbered(&path, 1), numbered(&path, 2)).unwrap();
            fs::rename(&path, numbered(&path, 1)).unwrap();
            append(n);
        }
        let mut got = Vec::new();
        while got.len() < 3 {
            let batch = texts(&reader.batch().unwrap());
            assert!(!batch.is_empty(), "{got:?}");
            got.extend(batch);
        }
        assert_eq!(got, ["line 9", "line 10", "line 11"]);
    }

    #[test]
    fn a_log_that_is_not_there_is_empty() {
        assert_eq!(read(Path::new("/does/not/exist"), &LogRequest::default()), Vec::<String>::new());
    }
}
