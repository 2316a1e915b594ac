//! The state as one stream, for a backup. The store closes it with a checksum, so that who reads it knows whether it is whole.

use crate::core::Control;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{io, sync::Arc};
use tokio_util::io::ReaderStream;

/// How much waits for a slow reader.
const AHEAD: usize = 256 << 10;

/// The whole state at one revision. Writers are not stopped meanwhile.
pub(crate) fn snapshot(c: &Arc<Control>) -> BoxStream<'static, io::Result<Bytes>> {
    let (mut to, from) = tokio::io::duplex(AHEAD);
    let store = Arc::clone(&c.store);
    let _runs_until_read = c.tasks.spawn("state/snapshot", move |_| async move {
        if let Err(error) = store.snapshot(&mut to).await {
            tracing::warn!(%error, "a snapshot of the state was not read to its end");
        }
    });
    Box::pin(ReaderStream::with_capacity(from, AHEAD))
}
