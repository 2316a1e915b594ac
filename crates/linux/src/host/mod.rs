//! The host as yun sees it: its directories, its name among other clouds on the same machine, and what it has to lend.

pub mod doctor;
pub mod inventory;
pub mod listener;
mod paths;
pub mod sweep;

pub use paths::*;
