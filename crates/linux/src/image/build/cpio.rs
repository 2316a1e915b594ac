//! Initial file systems: a cpio in the form that Linux reads ("newc", Documentation/driver-api/early-userspace/buffer-format in its
//! sources), with fixed owners and times, so that the same contents give the same bytes. It is not compressed: an emulated processor would
//! take longer to undo that than QEMU takes to load it.

use std::collections::BTreeSet;

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An initial file system under construction.
#[derive(Debug, Default)]
pub(super) struct Cpio {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Cpio {
    /// A directory, and those above it.
    pub(super) fn directory(&mut self, name: &str, mode: u32) {
        if !self.directories.insert(name.to_owned()) {
            return;
        }
        self.above(name);
        self.entry(name, DIRECTORY | mode, (0, 0), b"");
    }

    /// A file.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.above(name);
        self.entry(name, FILE | mode, (0, 0), content);
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.above(name);
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device.
    pub(super) fn device(&mut self, name: &str, mode: u32, number: (u32, u32)) {
        self.above(name);
        self.entry(name, CHARACTER | mode, number, b"");
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn above(&mut self, name: &str) {
        if let Some((dir, _)) = name.rsplit_once('/') {
            self.directory(dir, 0o755);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let size = u32::try_from(content.len()).expect("a file of an initial file system is far below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are ours and short");
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut cpio = Cpio::default();
        cpio.file("etc/ssl/key", 0o600, b"secret");
        cpio.link("etc/ssl/link", "key");
        cpio.device("dev/console", 0o600, (5, 1));
        let bytes = cpio.finish();
        let text = String::from_utf8_lossy(&bytes);
        let at = |needle: &str| text.find(needle).unwrap();
        assert!(at("etc\0") < at("etc/ssl\0") && at("etc/ssl\0") < at("etc/ssl/key\0"));
        assert_eq!(text.matches("etc/ssl\0").count(), 1);
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.starts_with("07070100000001000041ed"));
    }
}
