//! Makes the kernel notice now that a cable is plugged in.
//!
//! A link that comes up drops what it should send until the kernel has noticed, and the kernel notices in the background, which under load
//! takes long enough to lose a container's first packet, and with it a second until that is sent again. To ask for the state of a
//! link makes the kernel look at once.

#![allow(unsafe_code, reason = "netlink has no question that makes the kernel look")]

use nix::libc;
use std::{io, os::fd::AsRawFd};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const ETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GLINK` of `linux/ethtool.h`.
const GET_LINK: u32 = 0x0a;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct Value {
    command: u32,
    answer: u32,
}

nix::ioctl_readwrite_bad!(
    /// Asks a driver.
    ask,
    ETHTOOL,
    libc::ifreq
);

/// Looks at a link of the namespace to which the socket belongs. True if it is plugged in.
pub(super) fn settle(socket: &impl AsRawFd, name: &str) -> io::Result<bool> {
    // SAFETY: `ifreq` is plain old memory for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is too long for an interface")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut value = Value { command: GET_LINK, answer: 0 };
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the descriptor is open; the kernel reads and writes one `ifreq` and the `Value` that it points to, and both outlive the call.
    unsafe { ask(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.answer != 0)
}
