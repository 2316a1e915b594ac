//! The door of the control plane, from outside: TLS, tokens, roles, pages, tags, keys, streams and the audit journal.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod authorization;
mod requests;
mod sessions;
mod streams;
mod world;
