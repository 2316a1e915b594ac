//! What a node must be able to do, as small traits, and nothing about how.
//!
//! * [`InstanceDriver`]: makes VMs or containers real. One implementation a kind. With [`FileAccess`] to what is in them.
//! * [`ImageDriver`]: keeps the contents that instances start from.
//! * [`Meter`]: reads what they use.
//! * [`NetworkDriver`]: connects instances, and keeps strangers apart.
//! * [`VolumeDriver`]: keeps data that outlives instances.
//! * [`SnapshotDriver`]: keeps what instances were at one moment.
//! * [`MachineDriver`]: what only VMs can do.
//!
//! Rules for every implementation, checked by one conformance suite on the real ones and on the fakes:
//! every call is idempotent; every call may be cancelled (dropped) at any point, and the next call finishes or undoes the rest; nothing that
//! runs depends on this process: after a restart, `recover` with the handle from the ledger finds it again; nothing is touched that cannot
//! be proved to be yun's own (its id is in the name, the path or the state directory).

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod files;
mod image;
mod instance;
mod machine;
mod meter;
mod network;
mod snapshot;
mod volume;

pub use error::*;
pub use files::*;
pub use image::*;
pub use instance::*;
pub use machine::*;
pub use meter::*;
pub use network::*;
pub use snapshot::*;
pub use volume::*;
