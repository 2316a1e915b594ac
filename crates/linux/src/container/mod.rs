//! Containers: processes of the host's kernel on a file tree of their own, run by crun.
//!
//! [`ContainerDriver`] writes an OCI bundle, mounts the image's layers, and starts a *shim* (see `shim/main.rs`), which runs crun and then
//! stays beside the container. Nothing here is needed for a container to go on: its shim reads its output and writes down its end, and a
//! later driver finds both on disk.
//!
//! Words: an *attempt* is one start of a container, named by a token that every file about it carries; the *durable directory* outlives a
//! reboot of the host, the *run directory* does not.
//!
//! ```text
//! durable: prepared.json  config.json  hosts hostname resolv.conf  upper/ work/  attempt  exit  container.log[.N]
//! run:     rootfs/ (overlay)  lock  in out err (FIFOs)  attach (socket)  pid  running  crun.log
//! ```
//! It never decides whether something should run, and never touches a process that is not proved to be the container's: by pid and start
//! time within one boot, or by its cgroup, whose name holds the ids of the cloud and of the instance.

mod attach;
pub mod cgroup;
mod copy;
mod driver;
mod exec;
mod files;
mod fit;
mod idmap;
mod life;
mod logs;
mod made_up;
mod merge;
mod nest;
mod oci;
mod overlay;
mod prepare;
mod probe;
mod process;
mod rights;
mod rootfs;
mod seccomp;
mod sftp;
mod shim;
mod terminal;
mod users;

pub use driver::{ContainerDriver, ContainerDriverOptions, LogLimits};
