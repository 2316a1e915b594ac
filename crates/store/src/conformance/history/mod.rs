//! Histories: what concurrent clients asked and heard, and a check that one order of revisions explains all of it.
//!
//! Every write returns its revision, so the order need not be searched for: replay the log on a model in revision order, and hold each
//! answer against the model at its revision. Then: the order agrees with real time, watches gave exactly their slice of the log, and a write
//! with an unknown outcome appears once or never. Near-linear in the length of the history.

mod check;
mod load;
mod model;

pub use check::check;
pub use load::{Load, record};
pub use model::Model;

use super::Subject;
use crate::kv::{Batch, KeyRange, Kv, Page};
use crate::rev::Rev;
use crate::txn::{Txn, TxnOut};

/// What one client asked and heard.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it asked, in ticks of a counter that all clients share.
    pub asked: u64,
    /// When it heard the answer.
    pub heard: u64,
    /// What it was.
    pub what: What,
}

/// A question with its answer.
#[derive(Clone, Debug)]
pub enum What {
    /// A transaction that was answered.
    Txn(Txn, TxnOut),
    /// A transaction that may or may not have happened.
    Unknown(Txn),
    /// A list; of the past when the revision is given.
    List(KeyRange, Option<Rev>, Page),
}

/// What one watcher saw up to the end.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its range.
    pub range: KeyRange,
    /// Where it started.
    pub after: Rev,
    /// Its batches with events.
    pub batches: Vec<Batch>,
}

/// All that was seen of a store from one revision to another.
#[derive(Clone, Debug)]
pub struct History {
    /// The state at the start.
    pub start: (Rev, Vec<Kv>),
    /// Every change of every key since the start.
    pub log: Vec<Batch>,
    /// All calls, in any order.
    pub calls: Vec<Call>,
    /// The other watchers.
    pub watched: Vec<Watched>,
}

/// The case of the suite.
pub async fn concurrent_clients_see_one_history(s: Subject) {
    for seed in 0..4 {
        let history = record(&s.store, Load { seed, clients: 8, calls: 60 }).await;
        if let Err(e) = check(&history) {
            panic!("seed {seed}: {e}");
        }
    }
}
