//! The log files of one container: `container.log`, then `container.log.1` and so on, older ones behind.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
};

/// Appends to a log file, and begins a new one when it is full. A disk that refuses loses lines, and never holds up the container.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    limit: u64,
    files: u32,
    out: Vec<u8>,
}

impl LogFile {
    /// Opens the newest file. `limit` bytes a file, `files` files in all.
    pub fn open(path: PathBuf, limit: u64, files: u32) -> Self {
        let mut log = Self { path, file: None, size: 0, limit, files, out: Vec::new() };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().append(true).create(true).open(&self.path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
    }

    /// Writes what `fill` appends to the buffer.
    pub fn record(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.out.clear();
        fill(&mut self.out);
        if self.out.is_empty() {
            return;
        }
        if self.size > 0 && self.size + self.out.len() as u64 > self.limit {
            self.rotate();
        }
        if self.file.is_none() {
            self.reopen();
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.out) {
                Ok(()) => self.size += self.out.len() as u64,
                Err(_) => self.file = None,
            }
        }
        // Lines of one byte fill a buffer of 16 KiB with records forty times as long: that memory is not worth keeping.
        self.out.shrink_to(64 << 10);
    }

    fn rotate(&mut self) {
        let name = |index: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{index}"));
            PathBuf::from(path)
        };
        // A failed step leaves a gap or a file that is longer than it should be; the next rotation goes on from there.
        for index in (1..self.files.saturating_sub(1)).rev() {
            let _ = fs::rename(name(index), name(index + 1));
        }
        let _ = if self.files > 1 { fs::rename(&self.path, name(1)) } else { fs::remove_file(&self.path) };
        self.reopen();
    }
}
