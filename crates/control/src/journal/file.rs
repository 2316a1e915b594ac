//! The files of a journal: JSON lines; the newest under its own name, older ones with a number behind it.

use super::Entry;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::mpsc,
};
use tokio::sync::oneshot;

/// From which size on a file is set aside.
const SET_ASIDE: u64 = 32 << 20;
/// How many files are kept beside the newest.
const OLDER: usize = 8;

/// What the writer is asked.
pub(super) enum Command {
    /// Add this line.
    Line(Vec<u8>),
    /// Answer when everything before is on the disk.
    Sync(oneshot::Sender<Result<(), String>>),
}

/// The only writer of a journal's files.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Writer {
    /// Opens the newest file, cuts off a line that was written by half, and gives the last `count` lines.
    pub(super) fn open(path: PathBuf, count: usize) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut file = private().read(true).append(true).create(true).open(&path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < content.len() {
            tracing::warn!(journal = %path.display(), "the last line was written by half, as after a power cut: it is dropped");
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            content.truncate(whole);
        }
        let mut lines = split(&content);
        if lines.len() < count && aside(&path, 1).exists() {
            let mut older = split(&std::fs::read(aside(&path, 1))?);
            older.append(&mut lines);
            lines = older;
        }
        lines.drain(..lines.len().saturating_sub(count));
        Ok((Self { path, file, size: whole as u64 }, lines))
    }

    /// Starts the thread that writes. It ends with the last sender of commands.
    pub(super) fn start(mut self, commands: mpsc::Receiver<Command>) -> io::Result<()> {
        let name = self.path.file_stem().map_or_else(|| "journal".into(), |stem| stem.to_string_lossy().into_owned());
        std::thread::Builder::new().name(format!("journal-{name}")).spawn(move || self.run(&commands))?;
        Ok(())
    }

    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        // What could not be written is told to everybody who waits from then on, until writing works again.
        let mut trouble: Option<String> = None;
        while let Ok(first) = commands.recv() {
            let (mut lines, mut waiting) = (Vec::new(), Vec::new());
            for command in std::iter::once(first).chain(commands.try_iter()) {
                match command {
                    Command::Line(line) => lines.extend_from_slice(&line),
                    Command::Sync(answer) => waiting.push(answer),
                }
            }
            let wrote =
                self.write(&lines).and_then(|()| if waiting.is_empty() { Ok(()) } else { self.file.sync_data() });
            match wrote {
                Ok(()) if !lines.is_empty() => trouble = None,
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(journal = %self.path.display(), %error, "cannot write the journal: entries are lost; check the disk");
                    trouble = Some(error.to_string());
                }
            }
            for answer in waiting {
                // Who asked may have left.
                let _ = answer.send(trouble.clone().map_or(Ok(()), Err));
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + lines.len() as u64 > SET_ASIDE {
            self.set_aside()?;
        }
        if let Err(error) = self.file.write_all(lines) {
            // Without the half of a line, the next one stays readable.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        for number in (1..OLDER).rev() {
            match std::fs::rename(aside(&self.path, number), aside(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, aside(&self.path, 1))?;
        self.file = private().append(true).create_new(true).open(&self.path)?;
        self.size = 0;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// At most `count` entries before `sequence`, newest first.
pub(super) fn read_before<T: Entry>(path: &Path, sequence: u64, count: usize) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for file in std::iter::once(path.to_owned()).chain((1..=OLDER).map(|number| aside(path, number))) {
        let content = match std::fs::read(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let lines = split(&content);
        let entries = lines.iter().rev().filter_map(|line| serde_json::from_slice::<T>(line).ok());
        found.extend(entries.filter(|entry| entry.sequence() < sequence).take(count - found.len()));
        if found.len() >= count {
            break;
        }
    }
    Ok(found)
}

/// Journals tell who did what: they are for the owner of the installation alone.
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn aside(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn split(content: &[u8]) -> Vec<Vec<u8>> {
    content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}
