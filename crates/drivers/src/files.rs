//! Files of an instance that runs, by the protocol that `scp` and `sftp` speak.

use crate::{DriverError, InstanceHandle, Result};
use async_trait::async_trait;
use yun_engine::session::Session;

/// Gives access to the files of an instance. Part of [`crate::InstanceDriver`].
#[async_trait]
pub trait FileAccess: Send + Sync + 'static {
    /// A session whose input and output are the packets of SFTP version 3, as if a server of the protocol ran inside as the user; the
    /// instance's own user if none is named. It ends with exit code 0 when its input ends, and at the latest with the instance.
    /// VMs answer `Unavailable`: they have an SSH server of their own.
    async fn sftp(&self, handle: &InstanceHandle, user: Option<String>) -> Result<Session> {
        let _ = user;
        Err(DriverError::unavailable(
            "NoFiles",
            format!("files of instance {} are reached by its own SSH server", handle.id),
        ))
    }
}
