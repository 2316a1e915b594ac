//! The real drivers, for Linux: QEMU, crun, bridges and nftables, images on disk, cgroups.
//!
//! The only crate that starts processes and the only home of `unsafe`. It decides nothing about *what* should run: it makes real what it
//! is given, and finds it again after a restart.

pub mod backup;
pub mod command;
pub mod container;
pub mod daemon;
pub mod host;
pub mod image;
mod metadata;
pub mod meter;
pub mod network;
pub mod vm;
pub mod volume;
