//! Which contents may go: those that no catalogue entry names and no instance here was made from.

use crate::node::Node;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use yun_types::Digest;

/// What is known about contents beside what the driver has.
#[derive(Debug, Default)]
pub(crate) struct Images {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Taken in by this process: the catalogue may not name them yet.
    fresh: BTreeSet<Digest>,
    /// Named by nobody, but used by an instance here.
    unwanted: BTreeSet<Digest>,
}

impl Images {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A content was taken in here.
    pub(crate) fn arrived(&self, digest: &Digest) {
        let mut inner = self.lock();
        inner.unwanted.remove(digest);
        inner.fresh.insert(digest.clone());
    }

    /// No catalogue entry names it any more. `true` if it may go now.
    fn unwanted(&self, digest: &Digest, used: bool) -> bool {
        let mut inner = self.lock();
        inner.fresh.remove(digest);
        if used {
            inner.unwanted.insert(digest.clone());
        }
        !used
    }
}

/// No catalogue entry names this content any more.
pub(crate) fn gone(node: &Arc<Node>, digest: Digest) {
    if node.images.unwanted(&digest, node.uses(&digest)) {
        remove(node, digest);
    }
}

/// An instance that was made from it is gone.
pub(crate) fn released(node: &Arc<Node>, digest: &Digest) {
    let goes = node.images.lock().unwanted.contains(digest) && !node.uses(digest);
    if goes {
        node.images.lock().unwanted.remove(digest);
        remove(node, digest.clone());
    }
}

fn remove(node: &Arc<Node>, digest: Digest) {
    let node = node.clone();
    let tasks = node.tasks.clone();
    tasks.spawn(format!("image/remove/{}", digest.short()), move |_| async move {
        // A new instance may have come between.
        if node.uses(&digest) {
            return;
        }
        if let Err(error) = node.drivers.image.remove(&digest).await {
            tracing::warn!(%digest, %error, "cannot remove an image that nobody needs; the next snapshot tries again");
        }
    });
}

/// Removes what is neither in `keep` nor used here, in the background.
pub(crate) fn sweep(node: &Arc<Node>, keep: BTreeSet<Digest>) {
    let node = node.clone();
    let tasks = node.tasks.clone();
    tasks.spawn("image/sweep", move |_| async move {
        let contents = match node.drivers.image.list().await {
            Ok(contents) => contents,
            Err(error) => {
                tracing::warn!(%error, "cannot list the images of this node; the next snapshot tries again");
                return;
            }
        };
        for digest in contents.into_iter().map(|facts| facts.digest) {
            let fresh = node.images.lock().fresh.contains(&digest);
            if !fresh && !keep.contains(&digest) {
                gone(&node, digest);
            } else {
                node.images.lock().unwanted.remove(&digest);
            }
        }
    });
}
