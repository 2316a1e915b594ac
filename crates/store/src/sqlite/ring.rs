//! The last revisions in memory, bounded in number and bytes, for watchers that keep up.

use crate::kv::Event;
use std::collections::VecDeque;
use std::sync::Arc;

/// What memory an event needs beside its key and value, roughly.
const EVENT_BYTES: usize = 160;

/// All events of one revision.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) n: u64,
    pub(super) events: Vec<Event>,
}

impl Revision {
    fn bytes(&self) -> usize {
        let content = |event: &Event| match event {
            Event::Put(kv) => kv.key.len() + kv.value.len(),
            Event::Delete(key) => key.len(),
        };
        self.events.iter().map(|event| EVENT_BYTES + content(event)).sum()
    }
}

/// The ring itself: revisions without gaps, from `first` up to the head.
#[derive(Debug)]
pub(super) struct Ring {
    revisions: VecDeque<Arc<Revision>>,
    /// Number of the first kept revision; of the next one when none is kept.
    first: u64,
    bytes: usize,
    max_revisions: usize,
    max_bytes: usize,
}

/// What the ring says to a watcher.
#[derive(Debug)]
pub(super) enum Slice {
    /// What it needs is not kept any more: read the log table.
    Behind,
    /// The revisions behind its cursor; empty when there is nothing new.
    Next(Vec<Arc<Revision>>),
}

impl Ring {
    /// An empty ring of a state at revision `head`.
    pub(super) fn new(head: u64, max_revisions: usize, max_bytes: usize) -> Self {
        Ring { revisions: VecDeque::new(), first: head + 1, bytes: 0, max_revisions, max_bytes }
    }

    /// The newest revision that was ever pushed.
    pub(super) fn head(&self) -> u64 {
        self.first + self.revisions.len() as u64 - 1
    }

    /// Appends the next revision.
    pub(super) fn push(&mut self, revision: Revision) {
        debug_assert_eq!(revision.n, self.head() + 1, "revisions come without gaps");
        self.bytes += revision.bytes();
        self.revisions.push_back(Arc::new(revision));
        while self.revisions.len() > self.max_revisions || self.bytes > self.max_bytes {
            let Some(gone) = self.revisions.pop_front() else { break };
            self.bytes -= gone.bytes();
            self.first += 1;
        }
    }

    /// Forgets all and goes on behind `head`: watchers read what they miss from the log table.
    pub(super) fn skip_to(&mut self, head: u64) {
        self.revisions.clear();
        self.bytes = 0;
        self.first = head + 1;
    }

    /// At most `limit` revisions behind `cursor`.
    pub(super) fn after(&self, cursor: u64, limit: usize) -> Slice {
        if cursor + 1 < self.first {
            return Slice::Behind;
        }
        let skip = usize::try_from(cursor + 1 - self.first).unwrap_or(usize::MAX);
        Slice::Next(self.revisions.iter().skip(skip).take(limit).cloned().collect())
    }
}
