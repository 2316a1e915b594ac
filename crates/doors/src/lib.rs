//! Doors: protocols that others made, mapped onto the cloud's API, so that programs that exist already work with yun unchanged.
//!
//! A door reads a foreign request, asks the cloud's API through the generated client like any other caller, and writes the answer in the
//! foreign form. It owns no state that must last: what a foreign protocol knows and the cloud does not is kept in labels of the cloud's own
//! objects. It never touches the state, the drivers or the machine, and it decides nothing about who may do what: its token does.

// Docker's objects are large JSON literals.
#![recursion_limit = "256"]

pub mod docker;
pub mod ssh;
