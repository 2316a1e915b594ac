//! The sockets on which this process listens, reached from outside of the code that owns them.
//!
//! A server that keeps its listener to itself cannot be asked to send small answers at once. Connections inherit that from their listener,
//! so it is enough to find the listener among the open files of this process.

#![allow(unsafe_code, reason = "a descriptor is known by its number only")]

use nix::{
    libc,
    sys::socket::{SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt},
};
use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd},
};

/// Makes connections that come in at this address send what is written to them at once, however little it is. Without it the end of an
/// answer can wait 40 ms for the client's acknowledgement. False if nothing of this process listens there.
pub fn answer_at_once(address: SocketAddr) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(file) = duplicate(number) else { continue };
        let listens = getsockopt(&file, sockopt::AcceptConn).unwrap_or(false);
        if listens && address_of(&file) == Some(address) {
            setsockopt(&file, sockopt::TcpNoDelay, &true)?;
            found = true;
        }
    }
    Ok(found)
}

/// The same open file under a number of its own; `None` if it was closed in the meantime.
fn duplicate(number: i32) -> Option<OwnedFd> {
    // SAFETY: this fcntl(2) takes numbers only, and answers with an error if the first is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    // SAFETY: the kernel has just given this descriptor to us alone.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

fn address_of(file: &OwnedFd) -> Option<SocketAddr> {
    use std::os::fd::AsRawFd;
    let address: SockaddrStorage = getsockname(file.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_inherit_it_from_the_listener_that_was_found() {
        let (listener, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").ok());
        let address = listener.local_addr().unwrap();
        assert!(answer_at_once(address).unwrap());
        let _client = TcpStream::connect(address).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
        if let Some(other) = other {
            let address = other.local_addr().unwrap();
            let _client = TcpStream::connect(address).unwrap();
            assert!(!other.accept().unwrap().0.nodelay().unwrap(), "nobody asked for it");
            assert!(answer_at_once(address).unwrap());
        }
        assert!(!answer_at_once("192.0.2.1:1".parse().unwrap()).unwrap());
    }
}
