//! What instances and the node use: one trait that reads, and never changes anything.

use crate::Result;
use async_trait::async_trait;
use yun_types::{InstanceId, InstanceKind, Measured};

/// Reads what is used.
#[async_trait]
pub trait Meter: Send + Sync + 'static {
    /// One round: the node, and of these instances all that run. One that ends meanwhile is left out; what the kernel does not tell is
    /// absent in its sample. Calls come one after the other, every few seconds; dropping one is always safe.
    async fn measure(&self, instances: &[(InstanceId, InstanceKind)]) -> Result<Measured>;
}
