//! Brings the control plane up and down.
//!
//! Up: what must exist (the project `default`), what keeps things true (reconcilers), then the door (the server). Down, in reverse: streams
//! and sessions end, the door closes, and the tasks stop. Instances notice nothing of either.

use crate::{
    core::Control,
    error::Refusal,
    group,
    http::{self, Server},
    image, instance,
    journal::OpenJournal,
    node, operation, project, snapshot,
    tls::Certificates,
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use yun_engine::clock::within;
use yun_store::StoreError;

/// How long requests that are under way get at the end.
const REQUESTS: Duration = Duration::from_secs(5);
/// How long tasks get at the end.
const TASKS: Duration = Duration::from_secs(10);

/// Why the control plane does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state cannot be read or written.
    #[error("cannot start the control plane: the state cannot be used")]
    State(#[from] StoreError),
    /// The measurements cannot be kept.
    #[error(transparent)]
    Measurements(#[from] yun_measure::MeasureError),
    /// A journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenJournal),
    /// What must exist from the first start on could not be made.
    #[error("cannot set up the cloud")]
    Setup(#[source] Refusal),
    /// A file of the certificates cannot be read or written.
    #[error("cannot {operation} {path}: check that yun may do so, and restore the file from a backup if it is gone")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made or read.
    #[error(
        "cannot use the certificates in {directory}: {cause}; move the directory away to have new ones made (clients must then trust the new ca.pem)"
    )]
    Certificates {
        /// Where they are kept.
        directory: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; stop the program that has the port, or choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        cause: String,
    },
}

/// A control plane that answers requests.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    control: Arc<Control>,
    server: Server,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Starts reconcilers and the server. Stop it with [`Running::shutdown`].
pub async fn start(control: Arc<Control>) -> Result<Running, StartError> {
    project::ops::ensure_default(&control).await.map_err(StartError::Setup)?;
    let certificates = Certificates::open(&control)?;
    operation::start(&control);
    node::start(&control);
    image::start(&control);
    instance::start(&control);
    group::start(&control);
    snapshot::start(&control);
    http::idempotency::start(&control);
    certificates.start(&control);
    let server = http::start(&control, &certificates)?;
    let address = server.local_addr();
    tracing::info!(%address, cloud = %control.config.cloud, "the control plane answers requests");
    Ok(Running { address, control, server })
}

impl Running {
    /// Ends streams and sessions, lets requests finish, and stops the tasks. Instances go on.
    pub async fn shutdown(self) {
        let Self { control, server, .. } = self;
        control.closing.cancel();
        let clock = Arc::clone(&control.clock);
        match within(&*clock, REQUESTS, server.close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(error, "the server did not end well"),
            None => tracing::warn!("some requests did not end in time and were cut off"),
        }
        control.tasks.shutdown(TASKS).await;
        control.live.hang_up();
        control.usage.close().await;
        for kept in [control.audit.kept().await, control.events.kept().await] {
            if let Err(error) = kept {
                tracing::error!(%error, "the last entries of a journal are lost");
            }
        }
    }
}
