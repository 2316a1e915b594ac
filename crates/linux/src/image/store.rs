//! The store: where the contents of images lie, and the only code that makes them appear or disappear.
//!
//! `blobs/sha256/HEX` files, `layers/HEX/{root,tree}` unpacked layers, `manifests/HEX.json` one a image, `staging/` work under way, `cache/`
//! downloads. A part appears by a rename after its bytes are on the disk, and its manifest last, so an image is whole or absent whatever
//! happens. Removing goes the other way round. Words: a part is *shared* if more than one manifest names it, *orphaned* if none does (a crash
//! between the two renames), *pinned* while an import counts on it.

use super::{
    fault,
    manifest::{Manifest, digest_of},
    staging::{self, Staging},
};
use fail::fail_point;
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{Digest, ImageFacts};

/// The name of a layer's files inside its directory.
pub(super) const LAYER_ROOT: &str = "root";
/// The name of a layer's file list inside its directory.
pub(super) const LAYER_TREE: &str = "tree";

/// Contents on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: Arc<PathBuf>,
    /// Appearing and disappearing are one at a time; the map counts the pins of each part.
    pins: Arc<Mutex<HashMap<Digest, usize>>>,
}

/// Keeps a part from being removed while an import counts on it.
#[derive(Debug)]
pub(super) struct Pin {
    store: Store,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.store.lock();
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// An image whose parts are ready in staging.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) manifest: Manifest,
    /// Staged files, by their digest.
    pub(super) blobs: Vec<(PathBuf, Digest)>,
    pub(super) layers: Vec<StagedLayer>,
}

/// A layer's directory in staging.
#[derive(Debug)]
pub(super) struct StagedLayer {
    pub(super) dir: PathBuf,
    pub(super) diff_id: Digest,
    /// The store has this layer, damaged: this one takes its place.
    pub(super) repairs: bool,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root: Arc::new(root), pins: Arc::default() }
    }

    /// Makes the directories.
    pub(super) fn prepare(&self) -> Result<()> {
        for name in ["blobs/sha256", "layers", "manifests", "staging", "cache"] {
            let path = self.root.join(name);
            fs::create_dir_all(&path)
                .map_err(|e| DriverError::io(format!("make the directory {}", path.display()), e))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // A panic while holding it leaves the map as it was: each change is one statement.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn staging(&self) -> Result<Staging> {
        self.prepare()?;
        Staging::create(&self.root.join("staging"))
    }
    pub(super) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }
    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }
    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{}.json", digest.hex()))
    }

    /// Counts on a layer if it is here: until the pin is dropped, it stays.
    pub(super) fn pin_layer(&self, diff_id: &Digest) -> Option<Pin> {
        let mut pins = self.lock();
        self.layer(diff_id).is_dir().then(|| {
            *pins.entry(diff_id.clone()).or_default() += 1;
            Pin { store: self.clone(), digest: diff_id.clone() }
        })
    }

    pub(super) fn read(&self, digest: &Digest) -> Result<Manifest> {
        let path = self.manifest_path(digest);
        match fs::read(&path) {
            Ok(bytes) => Manifest::parse(&bytes, digest),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let message = format!(
                    "image {} is not on this node; import or build it first (yun image import, yun image build)",
                    digest.short()
                );
                Err(DriverError::new(ErrorKind::NotFound, "ImageNotFound", message))
            }
            Err(e) => Err(DriverError::io(format!("read the manifest {}", path.display()), e)),
        }
    }

    /// The digests of all images, and whether a manifest could not be told apart from rubbish.
    fn digests(&self) -> Result<Vec<Digest>> {
        let path = self.root.join("manifests");
        let listed = match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            listed => listed.map_err(|e| DriverError::io(format!("list {}", path.display()), e))?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|n| n.strip_suffix(".json")?.parse().ok());
        let mut digests: Vec<Digest> = listed.flatten().filter_map(name).collect();
        digests.sort();
        Ok(digests)
    }

    /// Every image whose manifest is whole.
    pub(super) fn list(&self) -> Result<Vec<ImageFacts>> {
        let read = |digest: Digest| match self.read(&digest) {
            Ok(manifest) => Some(manifest.facts(digest)),
            Err(e) => {
                tracing::warn!(image = %digest, error = %e, "leaving out an image");
                None
            }
        };
        Ok(self.digests()?.into_iter().filter_map(read).collect())
    }

    /// Makes an image appear: its parts first, its manifest last. A part that is here already is dropped in favour of that one.
    pub(super) fn publish(&self, draft: &Draft, staging: &Staging) -> Result<ImageFacts> {
        let _one_at_a_time = self.lock();
        for (staged, digest) in &draft.blobs {
            sync_file(staged)?;
            appear(staged, &self.blob(digest))?;
        }
        for staged in &draft.layers {
            let target = self.layer(&staged.diff_id);
            if staged.repairs {
                tracing::warn!(layer = %target.display(), "replacing a damaged layer");
                self.discard(&staged.diff_id, staging)?;
            }
            appear(&staged.dir, &target)?;
        }
        fail_point!("image::parts_published");
        self.parts_are_here(&draft.manifest)?;
        sync_dir(&self.root.join("blobs/sha256"))?;
        sync_dir(&self.root.join("layers"))?;
        let bytes = draft.manifest.canonical();
        let digest = digest_of(&bytes);
        let staged = staging.join("manifest.json");
        fs::write(&staged, &bytes).map_err(|e| DriverError::io("write the image's manifest", e))?;
        sync_file(&staged)?;
        appear(&staged, &self.manifest_path(&digest))?;
        sync_dir(&self.root.join("manifests"))?;
        fail_point!("image::published");
        Ok(draft.manifest.facts(digest))
    }

    /// Fails unless every part that a manifest names is here and of the right size.
    pub(super) fn parts_are_here(&self, manifest: &Manifest) -> Result<()> {
        for layer in &manifest.layers {
            let path = self.layer(&layer.diff_id);
            if !path.join(LAYER_ROOT).is_dir() || !path.join(LAYER_TREE).is_file() {
                return Err(fault::damaged(format!(
                    "the layer {} is missing; remove the image and import it again",
                    path.display()
                )));
            }
        }
        for blob in manifest.blobs() {
            let path = self.blob(&blob.digest);
            match fs::metadata(&path) {
                Ok(meta) if meta.is_file() && meta.len() == blob.size => {}
                Ok(_) => {
                    return Err(fault::damaged(format!(
                        "the file {} has the wrong size; remove the image and import it again",
                        path.display()
                    )));
                }
                Err(_) => {
                    return Err(fault::damaged(format!(
                        "the file {} is missing; remove the image and import it again",
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Removes an image and the parts that no other image shares. Ok when it is not here.
    pub(super) fn remove(&self, digest: &Digest) -> Result<()> {
        if !self.manifest_path(digest).exists() {
            return Ok(());
        }
        let trash = self.staging()?;
        let pins = self.lock();
        let manifest = self.read(digest);
        let path = self.manifest_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(DriverError::io(format!("remove {}", path.display()), e));
            }
            _ => sync_dir(&self.root.join("manifests"))?,
        }
        fail_point!("image::half_removed");
        // The parts of a damaged manifest are unknown: if nobody else names them, the next start finds them orphaned.
        let Ok(manifest) = manifest else { return Ok(()) };
        let Some(named) = self.named()? else { return Ok(()) };
        let parts = manifest.layers.iter().map(|l| &l.diff_id).chain(manifest.blobs().map(|b| &b.digest));
        for part in parts.filter(|p| !named.contains(*p) && !pins.contains_key(*p)) {
            self.discard(part, &trash)?;
        }
        Ok(())
    }

    /// Moves a part out of sight; it is deleted with the trash, after the lock is gone.
    fn discard(&self, part: &Digest, trash: &Staging) -> Result<()> {
        for (kind, path) in [("layer", self.layer(part)), ("blob", self.blob(part))] {
            match fs::rename(&path, trash.join(&format!("{kind}-{}", part.hex()))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(DriverError::io(format!("remove {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every part that a manifest names; nothing if a manifest cannot be read, because then nobody knows.
    fn named(&self) -> Result<Option<HashSet<Digest>>> {
        let mut named = HashSet::new();
        for digest in self.digests()? {
            let Ok(manifest) = self.read(&digest) else { return Ok(None) };
            named.extend(manifest.layers.iter().map(|l| l.diff_id.clone()));
            named.extend(manifest.blobs().map(|b| b.digest.clone()));
        }
        Ok(Some(named))
    }

    /// Removes what crashes left: staging of dead processes and orphaned parts.
    pub(super) fn sweep(&self) -> Result<()> {
        self.prepare()?;
        staging::sweep(&self.root.join("staging"))?;
        let trash = self.staging()?;
        let pins = self.lock();
        let Some(named) = self.named()? else { return Ok(()) };
        for name in ["blobs/sha256", "layers"] {
            let path = self.root.join(name);
            let listed = fs::read_dir(&path).map_err(|e| DriverError::io(format!("list {}", path.display()), e))?;
            let parts = listed.flatten().filter_map(|e| e.file_name().to_str()?.parse::<Digest>().ok());
            for part in parts.filter(|p| !named.contains(p) && !pins.contains_key(p)) {
                tracing::info!(part = %part, "removing an orphaned part of an image");
                self.discard(&part, &trash)?;
            }
        }
        Ok(())
    }
}

/// Moves a staged part to its final name, unless the same content is there already.
fn appear(staged: &Path, target: &Path) -> Result<()> {
    match fs::rename(staged, target) {
        Ok(()) => Ok(()),
        // A directory does not replace a full one: the other import of the same content was first.
        Err(_) if target.exists() => Ok(()),
        Err(e) => Err(DriverError::io(format!("move {} into place", target.display()), e)),
    }
}

/// Waits until a file's bytes are on the disk.
pub(super) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|e| DriverError::io(format!("write {} to the disk", path.display()), e))
}

/// Waits until a directory's names are on the disk.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    sync_file(path)
}
