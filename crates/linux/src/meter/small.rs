//! Small files in which the kernel counts. They are read thousands of times a minute, so each costs an `open` and a `read`, and nobody asks for
//! their size, which they do not know.

use std::{fs::File, io::Read, path::Path};

/// More than the longest of these files has.
const MOST: usize = 16 << 10;

/// Reads one file after the other into the same place.
#[derive(Debug)]
pub(super) struct Reader(Vec<u8>);

impl Default for Reader {
    fn default() -> Self {
        Self(vec![0; MOST])
    }
}

impl Reader {
    /// What is in a file; `None` if it cannot be read. The kernel writes such a file anew for the first `read`, which gets all of it.
    pub(super) fn text(&mut self, path: &Path) -> Option<&str> {
        let length = File::open(path).ok()?.read(&mut self.0).ok()?;
        std::str::from_utf8(self.0.get(..length)?).ok()
    }

    /// The number that is all there is in a file.
    pub(super) fn number(&mut self, path: &Path) -> Option<u64> {
        self.text(path)?.trim_ascii_end().parse().ok()
    }

    /// The number behind a key at the beginning of a line.
    pub(super) fn keyed(&mut self, path: &Path, key: &str) -> Option<u64> {
        keyed(self.text(path)?, key)
    }
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim_ascii_end().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_leaves_nothing_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut reader = Reader::default();
        assert_eq!(reader.number(&write("long", "1234567\n")), Some(1_234_567));
        assert_eq!(reader.number(&write("short", "8\n")), Some(8));
        assert_eq!(reader.keyed(&write("keys", "cache 1\ninactive_file 5\n"), "inactive_file"), Some(5));
        assert_eq!(reader.keyed(&folder.path().join("keys"), "inactive"), None);
        assert_eq!(reader.number(&folder.path().join("none")), None);
    }
}
