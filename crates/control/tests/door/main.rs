//! The door of the control plane, from outside: TLS, tokens, roles, pages, tags, keys, streams and the audit journal.

mod authorization;
mod requests;
mod streams;
mod world;
