//! The container driver on a real kernel: real crun, real cgroups, real shims.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![allow(unreachable_pub, missing_debug_implementations, reason = "nobody else sees a test")]

mod attached;
mod death;
mod hang;
mod inside;
mod life;
mod sessions;
mod world;
