//! What only VMs can do on a node, beside what every instance can.

use crate::{InstanceHandle, Result};
use async_trait::async_trait;

/// Works on machines: guests with a kernel and a memory of their own.
#[async_trait]
pub trait MachineDriver: Send + Sync + 'static {
    /// Writes the memory of one that runs to disk and ends it; its next start goes on where it was. Idempotent: one that was written and
    /// does not run is left as it is. If it cannot be written, the machine goes on.
    async fn hibernate(&self, handle: &InstanceHandle) -> Result<()>;
}
