//! How work runs: the clock, owned tasks, backoff, the reconcile loop, and the streams between a person and an instance.
//!
//! This crate owns *when and how often* something runs; it never decides *what* should be done (that is `plan`) and never does it (that is
//! `agent` and `control`).

pub mod backoff;
pub mod clock;
pub mod reconcile;
pub mod session;
pub mod tasks;
pub mod work;
