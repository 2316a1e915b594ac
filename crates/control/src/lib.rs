//! The cloud: who may do what, what exists, what should run where, and what came of it.
//!
//! One folder a resource, each with the same files: `mod` (what it is), `ops` (what the API asks), `reconcile` (what keeps it true),
//! `tests`. Decisions are calls into `plan`; what must be done on a node is left to its agent, which is reached only through `api::node`.
//! Requests come in through `http`, after `auth` has said who may; `start` brings all of it up.

pub mod auth;
pub(crate) mod backup;
pub mod core;
pub mod error;
pub mod events;
#[cfg(test)]
pub(crate) mod fixture;
pub mod group;
pub mod http;
pub mod image;
pub mod instance;
pub mod journal;
pub mod network;
pub mod node;
pub mod operation;
pub mod project;
pub mod rows;
pub mod snapshot;
pub mod ssh_key;
mod start;
pub mod tls;
pub mod token;
pub mod usage;
pub mod view;
pub mod volume;
pub mod watch;

pub use start::{Running, StartError, start};
pub use token::ops::{first_admin_token, reissue_admin_token};
