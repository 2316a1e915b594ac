//! For tests: a whole cloud in one process on fake drivers, with a virtual clock, and the runner of scenario files.
//!
//! * [`cloud`]: control plane, agent and fakes, wired as the program wires the real ones.
//! * [`scenario`]: text in, text out: commands and what they should print. The same files run against the fakes and against the real thing.

pub mod cloud;
pub mod scenario;
