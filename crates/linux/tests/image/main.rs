//! Images for real: made with the programs that people make them with, imported, damaged, shared, removed, built.

mod archives;
mod builds;
mod disks;
mod node;
mod roots;
mod store;
