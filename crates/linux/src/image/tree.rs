//! The file list of a layer: one line an entry, sorted, with everything that a container sees of it but its times. Its hash stands in the
//! manifest, so a layer can be checked without its tar, and a damaged file can be named.

use super::{
    fault,
    job::{Job, Meter},
    manifest::{Layer, digest_of},
    store::{LAYER_ROOT, LAYER_TREE},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, Result};
use yun_types::Digest;

/// The list of a layer's entries and the sum of its files' sizes.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) text: String,
    pub(super) size: u64,
}

impl Tree {
    /// Reads everything under `root`, which nobody else may be changing.
    pub(super) fn read(root: &Path, meter: &mut Meter, job: &Job) -> Result<Self> {
        let mut tree = Self { text: String::new(), size: 0 };
        let mut open = vec![PathBuf::new()];
        while let Some(path) = open.pop() {
            job.check()?;
            let full = root.join(&path);
            let failed = |e| DriverError::io(format!("read {}", full.display()), e);
            let meta = fs::symlink_metadata(&full).map_err(failed)?;
            let line = Self::line(&full, &path, &meta, meter)?;
            tree.text.push_str(&line);
            if meta.is_dir() {
                let names = fs::read_dir(&full)
                    .and_then(|d| d.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<OsString>>>());
                let mut names = names.map_err(failed)?;
                // The stack gives the last one first.
                names.sort_unstable_by(|a, b| b.cmp(a));
                open.extend(names.iter().map(|n| path.join(n)));
            } else if meta.is_file() {
                tree.size += meta.len();
            }
        }
        Ok(tree)
    }

    fn line(full: &Path, path: &Path, meta: &Metadata, meter: &mut Meter) -> Result<String> {
        let failed = |e| DriverError::io(format!("read {}", full.display()), e);
        let content = if meta.is_file() {
            hash_file(full, meter)?.hex().to_owned()
        } else if meta.is_symlink() {
            fs::read_link(full).map_err(failed)?.as_os_str().as_bytes().escape_ascii().to_string().replace(' ', "\\x20")
        } else if meta.is_dir() {
            "-".to_owned()
        } else {
            format!("{:x}", meta.rdev())
        };
        let size = if meta.is_file() { meta.len() } else { 0 };
        let mut line = format!("{:o} {} {} {size} {content}", meta.mode(), meta.uid(), meta.gid());
        if !meta.is_symlink() {
            for (name, value) in attributes(full).map_err(failed)? {
                let _ = write!(line, " {}={}", name.as_bytes().escape_ascii(), hex::encode(value));
            }
        }
        let _ = writeln!(line, " /{}", path.as_os_str().as_bytes().escape_ascii().to_string().replace(' ', "\\x20"));
        Ok(line)
    }

    pub(super) fn digest(&self) -> Digest {
        digest_of(self.text.as_bytes())
    }
}

/// The extended attributes that belong to the content; the host's own labels do not.
pub(super) fn attributes(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let names = match xattr::list(path) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        names => names?,
    };
    let ours = |name: &OsString| {
        let name = name.as_bytes();
        name.starts_with(b"user.") || name == b"security.capability" || name == b"trusted.overlay.opaque"
    };
    let mut attributes = BTreeMap::new();
    for name in names.filter(ours) {
        if let Some(value) = xattr::get(path, &name)? {
            attributes.insert(name, value);
        }
    }
    Ok(attributes)
}

/// The SHA-256 of a file.
pub(super) fn hash_file(path: &Path, meter: &mut Meter) -> Result<Digest> {
    let failed = |e| DriverError::io(format!("read {}", path.display()), e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 17];
    loop {
        let read = file.read(&mut chunk).map_err(failed)?;
        if read == 0 {
            return Ok(Digest::from_sha256(hasher.finalize().into()));
        }
        meter.add(read)?;
        hasher.update(&chunk[..read]);
    }
}

/// Compares a layer's files with its list, and names the first one that differs.
pub(super) fn verify(dir: &Path, layer: &Layer, meter: &mut Meter, job: &Job) -> Result<()> {
    let root = dir.join(LAYER_ROOT);
    let actual = Tree::read(&root, meter, job)?;
    if actual.digest() == layer.tree {
        return Ok(());
    }
    let kept = fs::read_to_string(dir.join(LAYER_TREE)).unwrap_or_default();
    let way_out = "remove the image and import it again";
    if digest_of(kept.as_bytes()) != layer.tree {
        return Err(fault::damaged(format!(
            "the layer {} is damaged, and its file list with it; {way_out}",
            dir.display()
        )));
    }
    let name = first_difference(&kept, &actual.text);
    Err(fault::damaged(format!(
        "the file {}{name} is damaged: it is not what the image says; {way_out}",
        root.display()
    )))
}

/// The name of the first entry that is not the same in two lists.
fn first_difference(kept: &str, actual: &str) -> String {
    let name = |line: &str| line.rsplit_once(' ').map_or(String::new(), |(_, name)| name.to_owned());
    let by_name = |text: &str| text.lines().map(|line| (name(line), line.to_owned())).collect::<BTreeMap<_, _>>();
    let (kept, actual) = (by_name(kept), by_name(actual));
    let differs = kept.iter().find(|(name, line)| actual.get(*name) != Some(*line));
    differs
        .map(|(name, _)| name)
        .or_else(|| actual.keys().find(|n| !kept.contains_key(*n)))
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let kept = "100644 0 0 1 aa /a\n100644 0 0 1 bb /b\n";
        assert_eq!(first_difference(kept, "100644 0 0 1 aa /a\n100644 0 0 1 cc /b\n"), "/b");
        assert_eq!(first_difference(kept, "100644 0 0 1 aa /a\n"), "/b");
        assert_eq!(first_difference(kept, &format!("{kept}100644 0 0 1 dd /extra\n")), "/extra");
    }
}
