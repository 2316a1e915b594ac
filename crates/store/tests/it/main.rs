//! Tests of the state that need more than one module: the suite on SQLite, crashes, full disks, tables, caches.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod cache;
mod crash;
mod disk_full;
mod files;
mod props;
mod sqlite;
mod table;
