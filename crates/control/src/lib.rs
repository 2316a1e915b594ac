//! The cloud: who may do what, what exists, what should run where, and what came of it.
//!
//! One folder a resource, each with the same files: `mod` (what it is), `ops` (what the API asks), `reconcile` (what keeps it true),
//! `tests`. Decisions are calls into `plan`; what must be done on a node is left to its agent, which is reached only through `api::node`.

pub mod core;
pub mod rows;
