//! What was measured: kept, thinned out with age, and asked for.
//!
//! A crate of its own because it has no clock, no runtime and no network (each call is told the time, so a test lets a month pass in a
//! second), and because it fences off what nobody else needs: the parser of PromQL and the compression of numbers. It decides nothing about
//! who may see what: the caller says which subjects a question may reach.
//!
//! ```text
//!  add ──▶ head (memory, and a log in the file) ── every 15 min ──▶ fine blocks (a day) ── with age ──▶ coarse blocks (a month) ──▶ gone
//!                             └──────────────── read: range (min, avg, max), PromQL ────────────────┘
//! ```
//! Words: a *subject* is what was measured, an instance or a node; the *head* is what came since blocks were last written; a *block* is a
//! stretch of one subject's samples, a compressed column each metric; *grain* is the time between two points: 5 s fine, 5 min coarse.
//!
//! Everything is in one SQLite file, because it brings what is hard: it is never damaged by a crash, and its pages are used again. A commit
//! does not wait for the disk (`synchronous=NORMAL`): a power cut takes the last seconds, and nothing else. SQLite alone would need a
//! hundred bytes a sample; blocks compressed by `pco` need about one.

mod block;
mod coarse;
mod column;
mod file;
pub mod promql;
mod range;
mod series;
mod store;
mod subject;
mod trail;

pub use range::{Bucket, Line};
pub use series::{Family, exported, families, family};
pub use store::{Footprint, Latest, Limits, Measurements};
pub use subject::{Subject, SubjectKind};

use std::path::PathBuf;

/// Milliseconds since 1970.
pub type Millis = i64;

/// Why measurements cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The file cannot be used.
    #[error("cannot {operation} the measurements in {path}: check that its disk has room and that yun may write there")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The directory cannot be made, or a damaged file cannot be set aside.
    #[error("cannot {operation} {path}")]
    Directory {
        /// What was tried.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
