//! Tap devices: the host's end of a VM's network card. They are made here and stay until they are removed; QEMU opens them by name.

#![allow(unsafe_code, reason = "taps are made by ioctl; netlink does not make them")]

use nix::libc;
use std::{fs::OpenOptions, io, os::fd::AsRawFd};

nix::ioctl_readwrite_bad!(
    /// `TUNSETIFF` of `linux/if_tun.h`.
    tun_set_interface,
    0x4004_54ca,
    libc::ifreq
);
nix::ioctl_write_int_bad!(
    /// `TUNSETPERSIST` of `linux/if_tun.h`.
    tun_set_persist,
    0x4004_54cb
);

/// Makes a tap that outlives this process. The name must be free.
pub(super) fn create(name: &str) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain old memory for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || !name.is_ascii() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is too long for an interface")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // VNET_HDR lets guests hand over large packets; whoever opens the device may choose again.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which outlives the call.
    unsafe { tun_set_interface(device.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe { tun_set_persist(device.as_raw_fd(), 1) }?;
    Ok(())
}
