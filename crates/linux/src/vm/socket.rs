//! Connecting to QEMU's sockets. Their queues hold a client or two, and QEMU empties them only when it gets to it: a full queue means
//! "wait", which the kernel says with an error.

use std::{io, path::Path, time::Duration};
use tokio::net::UnixStream;

/// How often a full queue is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Connects; waits as long as the queue is full. Callers set the limit.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(RETRY).await,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // A queue of one.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let mut clients = vec![connect(&path).await.unwrap()];
        let full = UnixStream::connect(&path).await.map(|client| clients.push(client));
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let accept = tokio::task::spawn_blocking(move || (listener.accept(), listener));
        tokio::time::timeout(Duration::from_secs(60), connect(&path)).await.unwrap().unwrap();
        accept.await.unwrap().0.unwrap();
        assert_eq!(connect(&dir.path().join("none")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
