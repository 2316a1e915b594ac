//! Work that somebody follows: progress reports and cancellation.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use yun_types::Progress;

/// Given to long work: it reports here how far it is, and asks here whether it is still wanted.
#[derive(Debug, Clone)]
pub struct Followed {
    progress: watch::Sender<Progress>,
    cancelled: CancellationToken,
}

impl Default for Followed {
    fn default() -> Self {
        Self { progress: watch::channel(Progress::default()).0, cancelled: CancellationToken::new() }
    }
}

impl Followed {
    /// Says how far the work is. Cheap: only the latest report is kept.
    pub fn report(&self, percent: Option<u8>, message: impl Into<String>) {
        self.progress.send_replace(Progress { percent, message: message.into() });
    }
    /// The reports, latest first.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
    /// Says that the work is no longer wanted.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }
    /// True once it is no longer wanted. Loops ask this between steps.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
    /// Resolves once it is no longer wanted.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}
