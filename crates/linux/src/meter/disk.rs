//! How much disk an instance's files take. Walking through a large tree costs time, so it is done rarely, and the rarer the longer it takes.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use yun_types::{InstanceId, InstanceKind};

/// The shortest time between two counts.
const PAUSE: Duration = Duration::from_secs(60);
/// A count may take this part of the time until the next one.
const PART: u32 = 100;
/// How many trees are counted in one round, so that one round does not take long.
const IN_A_ROUND: usize = 40;
/// Trees with more files than this are not counted.
const MOST_FILES: usize = 500_000;

/// The sizes that were counted last.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    known: HashMap<InstanceId, Known>,
    round: Option<(Instant, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: Option<u64>,
    next: Instant,
}

impl Sizes {
    /// Forgets what is not measured any more.
    pub(super) fn keep_only(&mut self, instances: &[(InstanceId, InstanceKind)]) {
        if self.known.len() > instances.len() {
            let named: std::collections::HashSet<_> = instances.iter().map(|(id, _)| *id).collect();
            self.known.retain(|id, _| named.contains(id));
        }
    }

    /// The bytes below an instance's directory, as they were when they were last counted.
    pub(super) fn of(&mut self, id: InstanceId, directory: &Path, round: Instant) -> Option<u64> {
        if let Some(known) = self.known.get(&id)
            && known.next > round
        {
            return known.bytes;
        }
        let counted = match self.round {
            Some((at, counted)) if at == round => counted,
            _ => 0,
        };
        if counted >= IN_A_ROUND {
            return self.known.get(&id).and_then(|known| known.bytes);
        }
        self.round = Some((round, counted + 1));
        let begun = Instant::now();
        let bytes = below(directory);
        let next = round + PAUSE.max(begun.elapsed() * PART);
        self.known.insert(id, Known { bytes, next });
        bytes
    }
}

/// Disk blocks of everything below a directory on its own file system; files with several names count each time. `None` if there are too
/// many files to count.
fn below(root: &Path) -> Option<u64> {
    let device = fs::symlink_metadata(root).ok()?.dev();
    let (mut sum, mut files) = (0u64, 0usize);
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            files += 1;
            sum = sum.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
        if files > MOST_FILES {
            return None;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_counted_again_after_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let (mut sizes, id, begun) = (Sizes::default(), InstanceId(uuid::Uuid::new_v4()), Instant::now());
        let first = sizes.of(id, folder.path(), begun).unwrap();
        fs::write(folder.path().join("file"), vec![1; 100_000]).unwrap();
        assert_eq!(sizes.of(id, folder.path(), begun + Duration::from_secs(5)), Some(first));
        let later = sizes.of(id, folder.path(), begun + PAUSE * 2).unwrap();
        assert!((100_000..200_000).contains(&(later - first)), "{first} {later}");
        sizes.keep_only(&[]);
        assert!(sizes.known.is_empty());
    }

    #[test]
    fn one_round_counts_a_few_only() {
        let folder = tempfile::tempdir().unwrap();
        let (mut sizes, round) = (Sizes::default(), Instant::now());
        let mut counted = |round| {
            let ids = (0..2 * IN_A_ROUND as u128).map(|n| InstanceId(uuid::Uuid::from_u128(n)));
            ids.filter(|id| sizes.of(*id, folder.path(), round).is_some()).count()
        };
        assert_eq!(counted(round), IN_A_ROUND);
        assert_eq!(counted(round + Duration::from_secs(5)), 2 * IN_A_ROUND);
    }
}
