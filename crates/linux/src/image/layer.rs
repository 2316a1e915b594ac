//! Taking one layer in: from a tar, compressed or not, to a staged directory with its file list. What the layer claims about itself is checked.

use super::{
    codec::{BombGuard, Codec, Hashing},
    fault,
    job::{Job, Meter},
    manifest::{Layer, digest_of},
    names::EntryName,
    staging::Staging,
    store::{LAYER_ROOT, LAYER_TREE, Pin, StagedLayer, Store, sync_dir, sync_file},
    tarball::Tarball,
    tree::{self, Tree},
    unpack::{Unpacked, Unpacker},
};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{Chain, Cursor, Read},
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Digest;

/// What a layer is said to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    /// How it is called in messages.
    pub(super) what: String,
    /// The hash of its bytes as they come.
    pub(super) blob: Option<Digest>,
    /// The hash of its tar.
    pub(super) diff_id: Option<Digest>,
}

/// The layers of one image, as they are taken in.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    store: &'a Store,
    staging: &'a Staging,
    job: &'a Job,
    so_far: Unpacked,
    pub(super) layers: Vec<Layer>,
    /// What was unpacked; the other layers are in the store already and pinned.
    pub(super) staged: Vec<StagedLayer>,
    pub(super) pins: Vec<Pin>,
    /// What the store has, but not whole.
    damaged: HashSet<Digest>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(store: &'a Store, staging: &'a Staging, job: &'a Job) -> Self {
        Self {
            store,
            staging,
            job,
            so_far: Unpacked::default(),
            layers: vec![],
            staged: vec![],
            pins: vec![],
            damaged: HashSet::new(),
        }
    }

    /// Takes a layer in on top of the others. What is here already, and whole, is not unpacked.
    pub(super) fn add(&mut self, reader: impl Read, claim: &Claim, meter: &mut Meter) -> Result<()> {
        if let Some(diff_id) = &claim.diff_id
            && let Some(layer) = self.here_already(diff_id, meter)?
        {
            self.layers.push(layer);
            return Ok(());
        }
        let dir = self.staging.join(&format!("layer-{}", self.layers.len()));
        let root = dir.join(LAYER_ROOT);
        fs::create_dir_all(&root).map_err(|e| DriverError::io("make the layer's directory", e))?;
        let diff_id = self.unpack(reader, claim, &root, meter)?;
        if claim.diff_id.is_none()
            && let Some(layer) = self.here_already(&diff_id, meter)?
        {
            self.layers.push(layer);
            return Ok(());
        }
        let tree = Tree::read(&root, meter, self.job)?;
        let list = dir.join(LAYER_TREE);
        fs::write(&list, &tree.text).map_err(|e| DriverError::io("write the layer's file list", e))?;
        sync_file(&list)?;
        sync_dir(&dir)?;
        self.layers.push(Layer { diff_id: diff_id.clone(), tree: tree.digest(), size: tree.size });
        let repairs = self.damaged.remove(&diff_id);
        self.staged.push(StagedLayer { dir, diff_id, repairs });
        Ok(())
    }

    /// Unpacks the layer and gives its diff id.
    fn unpack(&mut self, reader: impl Read, claim: &Claim, root: &Path, meter: &mut Meter) -> Result<Digest> {
        let mut blob = Hashing::new(reader);
        let count = blob.count();
        let (codec, peeked) = peek(&mut blob).map_err(|e| fault::reading(&claim.what, e))?;
        let plain = codec.open(peeked).map_err(|e| fault::reading(&claim.what, e))?;
        let mut tar = Hashing::new(BombGuard::new(plain, count));
        let mut tarball = Tarball::stream(&mut tar, &*claim.what);
        self.so_far = Unpacker::new(self.job, root, self.so_far)?.run(&mut tarball, meter)?;
        tarball.drain(self.job)?;
        let diff_id = tar.digest();
        // A decoder may stop at the end of its stream; the blob's hash covers what follows, too.
        Tarball::stream(&mut blob, &*claim.what).drain(self.job)?;
        let blob = blob.digest();
        check(&claim.what, claim.blob.as_ref(), &blob)?;
        check(&format!("the content of {}", claim.what), claim.diff_id.as_ref(), &diff_id)?;
        Ok(diff_id)
    }

    /// The layer as the store has it. One that is damaged there counts as absent, so that an import repairs it.
    fn here_already(&mut self, diff_id: &Digest, meter: &mut Meter) -> Result<Option<Layer>> {
        if let Some(twice) = self.layers.iter().find(|l| l.diff_id == *diff_id) {
            return Ok(Some(twice.clone()));
        }
        if let Some((layer, pin)) = whole_layer(self.store, diff_id, meter, self.job)? {
            self.pins.push(pin);
            return Ok(Some(layer));
        }
        if self.store.layer(diff_id).is_dir() {
            self.damaged.insert(diff_id.clone());
        }
        Ok(None)
    }

    /// Puts a layer on top that was found in the store.
    pub(super) fn count_on(&mut self, layer: Layer, pin: Pin) {
        self.layers.push(layer);
        self.pins.push(pin);
    }

    /// Where the files of each layer are now, lowest first.
    fn roots(&self) -> impl DoubleEndedIterator<Item = PathBuf> + '_ {
        self.layers.iter().map(|layer| {
            let staged = self.staged.iter().find(|s| s.diff_id == layer.diff_id);
            staged.map_or_else(|| self.store.layer(&layer.diff_id), |s| s.dir.clone()).join(LAYER_ROOT)
        })
    }

    /// What the system in the layers calls itself (os-release(5), `PRETTY_NAME`).
    pub(super) fn description(&self) -> Option<String> {
        let texts = self
            .roots()
            .rev()
            .flat_map(|root| ["usr/lib/os-release", "etc/os-release"].map(|name| read_small(&root, name)));
        texts.flatten().find_map(|text| pretty_name(&text))
    }
}

/// A layer that the store has, whole; nothing if it is not there, or damaged.
pub(super) fn whole_layer(
    store: &Store,
    diff_id: &Digest,
    meter: &mut Meter,
    job: &Job,
) -> Result<Option<(Layer, Pin)>> {
    let Some(pin) = store.pin_layer(diff_id) else { return Ok(None) };
    let dir = store.layer(diff_id);
    let list = fs::read_to_string(dir.join(LAYER_TREE)).unwrap_or_default();
    let layer = Layer { diff_id: diff_id.clone(), tree: digest_of(list.as_bytes()), size: listed_size(&list) };
    match tree::verify(&dir, &layer, meter, job) {
        Ok(()) => Ok(Some((layer, pin))),
        Err(e) if e.kind == ErrorKind::Cancelled => Err(e),
        Err(_) => Ok(None),
    }
}

/// The sum of the sizes in a file list: its fourth column.
fn listed_size(list: &str) -> u64 {
    list.lines().filter_map(|line| line.split(' ').nth(3)?.parse::<u64>().ok()).sum()
}

fn check(what: &str, claimed: Option<&Digest>, actual: &Digest) -> Result<()> {
    match claimed {
        Some(claimed) if claimed != actual => Err(fault::checksum(what, claimed, actual)),
        _ => Ok(()),
    }
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Looks at the first bytes and puts them back.
fn peek<R: Read>(mut reader: R) -> std::io::Result<(Codec, Peeked<R>)> {
    let mut head = Vec::with_capacity(8);
    reader.by_ref().take(8).read_to_end(&mut head)?;
    Ok((Codec::of(&head), Cursor::new(head).chain(reader)))
}

/// A small text file of a layer; nothing if it is absent or no plain file. Links are followed inside the layer only.
fn read_small(root: &Path, name: &str) -> Option<String> {
    let root = File::open(root).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: File = openat2(&root, EntryName::parse(name.as_bytes()).ok()?.path(), how).ok()?.into();
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut bytes = vec![];
    file.take(1 << 16).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

fn pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let name: String = value.trim().trim_matches(['"', '\'']).chars().filter(|c| !c.is_control()).take(100).collect();
    Some(name).filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_called_what_it_calls_itself() {
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(pretty_name("ID=debian\n"), None);
        assert_eq!(pretty_name("PRETTY_NAME=\"\"\n"), None);
    }

    #[test]
    fn sizes_are_summed_from_a_list() {
        assert_eq!(listed_size("40755 0 0 0 - /\n100644 0 0 12 aa /a\n100644 0 0 30 bb /b\\x20c\n"), 42);
    }
}
