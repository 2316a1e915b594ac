//! Answers leave at once. Without this the end of each large answer waits for the client to acknowledge what came before, 40 ms on Linux
//! (RFC 896 meets delayed acknowledgements).
//!
//! The HTTP server makes its own listening socket and does not hand it out, so that it is looked for among the process's own descriptors:
//! what it accepts inherits the option.

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{getsockname, sockopt},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use std::net::SocketAddr;

/// Sets `TCP_NODELAY` on the socket that listens on this address. Where the system does not allow it, answers are only slower.
pub(super) fn set(address: SocketAddr) {
    match find(address).and_then(|socket| sockopt::set_tcp_nodelay(&socket, true)) {
        Ok(()) => {}
        Err(error) => {
            tracing::debug!(%error, "large answers may take 40 ms longer: the listening socket cannot be set up")
        }
    }
}

fn find(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::NOENT)?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|text| text.parse().ok()) else { continue };
        // A second descriptor of the same socket. One that was closed meanwhile, or is none, is not ours to find.
        let Ok(socket) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else { continue };
        if sockopt::socket_acceptconn(&socket) == Ok(true) && bound_to(&socket) == Some(address) {
            return Ok(socket);
        }
    }
    Err(Errno::NOENT)
}

fn bound_to(socket: &OwnedFd) -> Option<SocketAddr> {
    getsockname(socket).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listener_accepts_does_not_delay() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = || {
            let _client = std::net::TcpStream::connect(address).unwrap();
            listener.accept().unwrap().0.nodelay().unwrap()
        };
        assert!(!accepted());
        if let Err(error) = find(address) {
            eprintln!("SKIPPED: this system does not allow pidfd_getfd ({error})");
            return;
        }
        set(address);
        assert!(accepted());
    }
}
