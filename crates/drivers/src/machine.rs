//! What only VMs can do on a node, beside what every instance can.

use crate::{InstanceHandle, Result};
use async_trait::async_trait;
use std::time::Duration;
use yun_types::Size;

/// Works on machines: guests with a kernel and a memory of their own.
#[async_trait]
pub trait MachineDriver: Send + Sync + 'static {
    /// Writes the memory of one that runs to disk and ends it; its next start goes on where it was. Idempotent: one that was written and
    /// does not run is left as it is. If it cannot be written, the machine goes on.
    async fn hibernate(&self, handle: &InstanceHandle) -> Result<()>;

    /// Gives one that runs another size, as far as it and its guest can take it on without a restart. Idempotent.
    async fn resize(&self, handle: &InstanceHandle, size: Size) -> Result<Resized>;

    /// Moves the guest of one that runs into a fresh machine process on this host, without an end: its connections live on, and what runs
    /// it is as new as what is installed. The returned handle replaces the given one. Cut short, the guest is in one of both, and the next
    /// look at it finishes or undoes the rest; it is never in both.
    async fn renew(&self, handle: &InstanceHandle) -> Result<Renewed>;
}

/// A machine in its fresh process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Replaces the one before.
    pub handle: InstanceHandle,
    /// How long the guest stood still.
    pub downtime: Duration,
}

/// What came of another size for a machine that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resized {
    /// What it has now.
    pub size: Size,
    /// Why that is not all of what was wanted, for people.
    pub why: Option<String>,
}
