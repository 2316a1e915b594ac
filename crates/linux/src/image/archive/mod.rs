//! Tar archives: which of the three kinds one is (a root file system, an OCI layout, what `docker save` writes), and its files by name.

pub(super) mod oci;

use super::{
    codec::{BombGuard, Codec, Hashing},
    fault,
    job::{Job, Meter},
    layer::{Claim, Layers},
    manifest::Manifest,
    names::EntryName,
    spool::{SPOOLED, Spooled},
    staging::Staging,
    store::{Draft, Pin, Store},
    tarball::Tarball,
};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use tar::EntryType;
use yun_drivers::{DriverError, ImportOptions, Result};
use yun_types::{ContainerConfig, ImageFormat};

/// An image archive has few files near its root; a root file system has many, or none of these names.
const MOST_FILES: usize = 20_000;
/// The most that a JSON file of an image may take.
const LONGEST_JSON: u64 = 8 << 20;

/// A tar on disk whose files can be read in any order.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    /// Where each file is; links have the target's place.
    files: HashMap<PathBuf, (u64, u64)>,
}

impl Archive {
    /// Lists the files of a tar.
    fn index(path: &Path, job: &Job) -> Result<Self> {
        let file = File::open(path).map_err(|e| DriverError::io("read the archive", e))?;
        let mut tarball = Tarball::seekable(BufReader::with_capacity(1 << 16, file), "the archive");
        let mut files = HashMap::new();
        let mut links = Vec::new();
        while let Some(entry) = tarball.next(job)? {
            // Names that lead out are refused when they are unpacked; here they are just not found.
            let Ok(name) = EntryName::parse(&entry.name) else { continue };
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    files.insert(name.path().to_owned(), (entry.offset, entry.size));
                }
                // Old versions of docker save store a layer that occurs twice as a link.
                EntryType::Symlink => links
                    .push((name.path().to_owned(), name.parent().join(String::from_utf8_lossy(&entry.link).as_ref()))),
                EntryType::Link => {
                    links.push((name.path().to_owned(), PathBuf::from(String::from_utf8_lossy(&entry.link).as_ref())))
                }
                _ => {}
            }
            if files.len() + links.len() > MOST_FILES {
                files.clear();
                links.clear();
                break;
            }
        }
        for (link, target) in links {
            if let Some(place) = files.get(&normal(&target)).copied() {
                files.insert(link, place);
            }
        }
        Ok(Self { path: path.to_owned(), files })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }

    /// The bytes of a file of the archive.
    fn open(&self, name: &str) -> Result<(std::io::Take<File>, u64)> {
        let missing = || {
            fault::damaged(format!("the archive is incomplete: it names {name} but does not hold it; save it again"))
        };
        let (offset, size) = self.files.get(&normal(Path::new(name))).copied().ok_or_else(missing)?;
        let opened = File::open(&self.path).and_then(|mut f| f.seek(SeekFrom::Start(offset)).map(|_| f));
        Ok((opened.map_err(|e| DriverError::io("read the archive", e))?.take(size), size))
    }

    /// A JSON file of the archive.
    fn json(&self, name: &str) -> Result<Vec<u8>> {
        let (mut file, size) = self.open(name)?;
        if size > LONGEST_JSON {
            return Err(fault::damaged(format!("the archive's {name} is too long to be what it should be")));
        }
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).map_err(|e| fault::reading("the archive", e))?;
        if bytes.len() as u64 != size {
            return Err(fault::damaged("the archive is truncated; fetch it again"));
        }
        Ok(bytes)
    }

    fn format(&self) -> ImageFormat {
        if self.has("oci-layout") && self.has("index.json") {
            ImageFormat::OciLayout
        } else if self.has("manifest.json") {
            ImageFormat::DockerArchive
        } else {
            ImageFormat::Rootfs
        }
    }
}

/// A path without `.` and `..`, for names inside an archive only.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => plain.push(part),
            std::path::Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}

/// An image ready to appear, and what must stay until it has.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) draft: Draft,
    pub(super) _pins: Vec<Pin>,
}

/// Takes an archive in, whatever its kind.
pub(super) fn take_in(
    spooled: &Spooled,
    options: &ImportOptions,
    store: &Store,
    staging: &Staging,
    job: &Job,
) -> Result<Ready> {
    let path = decompress(spooled, staging, job)?;
    let archive = Archive::index(&path, job)?;
    let format = archive.format();
    if let Some(said) = options.format.filter(|said| *said != format) {
        return Err(fault::unknown_format(format!(
            "the archive is of format {format}, not {said} as was said; leave the format out, or correct it"
        )));
    }
    let mut layers = Layers::new(store, staging, job);
    let config = match format {
        ImageFormat::OciLayout => oci::layout(&archive, &mut layers, job)?,
        ImageFormat::DockerArchive => oci::docker(&archive, &mut layers, job)?,
        _ => {
            rootfs(&path, &mut layers, job)?;
            options.config.clone().unwrap_or_else(shell)
        }
    };
    Ok(ready(layers, config))
}

/// A draft of what was taken in.
pub(super) fn ready(layers: Layers<'_>, config: ContainerConfig) -> Ready {
    let description = layers.description();
    let manifest = Manifest::container(layers.layers, config, description);
    Ready { draft: Draft { manifest, blobs: vec![], layers: layers.staged }, _pins: layers.pins }
}

/// What a root file system runs when nobody says.
fn shell() -> ContainerConfig {
    ContainerConfig {
        command: vec!["/bin/sh".into()],
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
        ..ContainerConfig::default()
    }
}

fn rootfs(path: &Path, layers: &mut Layers<'_>, job: &Job) -> Result<()> {
    let file = File::open(path).map_err(|e| DriverError::io("read the archive", e))?;
    let size = file.metadata().map_err(|e| DriverError::io("read the archive", e))?.len();
    // Each byte is written once and read once more for the file list.
    let mut meter = Meter::new(job, "unpacking", (SPOOLED, 95), Some(size * 2));
    layers.add(
        BufReader::with_capacity(1 << 17, file),
        &Claim { what: "the archive".into(), ..Claim::default() },
        &mut meter,
    )?;
    if layers.layers.iter().all(|l| l.size == 0) {
        return Err(fault::unknown_format(
            "the archive holds no files; import a tar of a root file system, as tar -C DIR -c . makes it",
        ));
    }
    Ok(())
}

/// The archive without its compression, so that its files can be found by their place.
fn decompress(spooled: &Spooled, staging: &Staging, job: &Job) -> Result<PathBuf> {
    let codec = Codec::of(&spooled.head);
    if codec == Codec::Plain {
        return Ok(spooled.path.clone());
    }
    let failed = |e| DriverError::io("read the archive", e);
    let path = staging.join("plain");
    let reader = Hashing::new(BufReader::with_capacity(1 << 17, File::open(&spooled.path).map_err(failed)?));
    let count = reader.count();
    let plain = codec.open(reader).map_err(|e| fault::reading("the archive", e))?;
    let mut guard = BombGuard::new(plain, count.clone());
    let mut out = File::create(&path).map_err(|e| DriverError::io("write the archive to staging", e))?;
    let mut meter = Meter::new(job, "decompressing", (SPOOLED, SPOOLED + 10), Some(spooled.size));
    let (mut chunk, mut before, mut written) = (vec![0; 1 << 17], 0, 0u64);
    loop {
        let read = guard.read(&mut chunk).map_err(|e| fault::reading("the archive", e))?;
        if read == 0 {
            // The compressed bytes are of no more use, and take room.
            std::fs::remove_file(&spooled.path).map_err(failed)?;
            return Ok(path);
        }
        let step = written >> 26;
        written += read as u64;
        if written >> 26 != step {
            job.room(staging.path(), 0, "decompress the archive")?;
        }
        if written > job.limits.max_unpacked.0.saturating_mul(2) {
            return Err(fault::too_large(format!(
                "the archive decompresses to more than twice {}; this node takes no larger ones",
                job.limits.max_unpacked.human()
            )));
        }
        out.write_all(&chunk[..read]).map_err(|e| DriverError::io("write the archive to staging", e))?;
        meter.add(usize::try_from(count.get() - before).unwrap_or(0))?;
        before = count.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_an_archive_are_made_plain() {
        assert_eq!(normal(Path::new("./a/../b/layer.tar")), Path::new("b/layer.tar"));
        assert_eq!(normal(Path::new("../../x")), Path::new("x"));
    }
}
