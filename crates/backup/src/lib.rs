//! Backups: a repository of chunks in a directory or an S3 bucket. Owns the form on the disk, what is kept, and what is proved of it. Knows
//! nothing of instances or of the state: it stores streams of bytes and gives them back.
//!
//! ```text
//! config             what the repository is, and its keys, locked by a password if there is one
//! chunks/ab/abcd…    pieces of streams: cut by content, compressed, sealed; named by a keyed hash of what is in them
//! backups/ID         what a backup consists of; written last, so a backup is whole or not there
//! lock               who writes now
//! ```
//!
//! Words: a *target* is where a repository lies; a *chunk* is kept once, however many backups name it; *orphaned* chunks are named by none
//! (a backup that was cut off), serve the next one, and go with `prune`; *sealed* means encrypted and authenticated. A process that is killed
//! at any point leaves a valid repository.

mod error;
mod keep;
mod lock;
mod repository;
mod seal;
mod target;
mod verify;

pub use error::{BackupError, Result};
pub use keep::{Dated, Keep, Verdict, decide};
pub use lock::Lock;
pub use repository::{Added, Backup, Chunk, Progress, Pruned, Repository, Stream};
pub use target::Target;
pub use verify::{Damage, Verified};
