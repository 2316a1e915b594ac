//! Images for real: made with the programs that people make them with, imported, damaged, shared, removed, built.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod archives;
mod builds;
mod disks;
mod exports;
mod node;
mod pulls;
mod registry;
mod roots;
mod store;
