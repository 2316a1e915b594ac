//! The conformance suite on the SQLite engine, with defaults and with everything small so that all slow paths run.

use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use yun_store::conformance::Subject;
use yun_store::{ManualClock, Options, SqliteStore, Store};

pub(crate) fn subject(options: Options) -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(SqliteStore::open(dir.path(), Options { clock: Arc::clone(&clock) as _, ..options }).unwrap());
    let moved = Arc::clone(&store);
    let pass = move |by: Duration| {
        let (clock, store) = (Arc::clone(&clock), Arc::clone(&moved));
        async move {
            clock.advance(by);
            store.expire_leases().await.unwrap();
        }
        .boxed()
    };
    Subject { store: store as Arc<dyn Store>, pass: Box::new(pass), keep: Box::new(dir) }
}

mod default {
    use super::*;

    async fn open() -> Subject {
        subject(Options::default())
    }

    yun_store::conformance_tests!(open);
}

/// Watchers hardly ever find what they need in memory.
mod tiny_ring {
    use super::*;

    async fn open() -> Subject {
        subject(Options { ring_revisions: 2, ring_bytes: 500, ..Options::default() })
    }

    yun_store::conformance_tests!(open);
}
