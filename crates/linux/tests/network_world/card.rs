//! A guest's network card, without a guest: whole Ethernet frames in and out of a tap, as QEMU would move them.

use super::{Ipv4Addr, address};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

pub(crate) const EVERYBODY: [u8; 6] = [0xff; 6];

pub(crate) struct Card {
    tap: File,
}

impl Card {
    /// Opens a tap that exists.
    pub(crate) fn open(name: &str) -> Self {
        let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: `ifreq` is plain old memory for which all zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
        assert_eq!(unsafe { libc::ioctl(tap.as_raw_fd(), 0x4004_54ca, &raw mut request) }, 0, "{name}");
        Self { tap }
    }

    /// Sends until something with these bytes comes back, as guests do: until the kernel has noticed a new card, it drops frames.
    pub(crate) fn asks(&self, question: &[u8], wanted: &[u8]) -> Vec<u8> {
        let answer = (0..20).find_map(|_| {
            self.send(question);
            self.hears(wanted, Duration::from_millis(500))
        });
        answer.unwrap()
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        (&self.tap).write_all(frame).unwrap();
    }

    /// The first frame that contains these bytes, within a moment.
    pub(crate) fn hears(&self, wanted: &[u8], moment: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + moment;
        let mut frame = vec![0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
                return None;
            }
            let length = (&self.tap).read(&mut frame).unwrap();
            if wanted.is_empty() || frame[..length].windows(wanted.len()).any(|w| w == wanted) {
                return Some(frame[..length].to_vec());
            }
        }
    }
}

/// The card of `10.200.N.LAST`.
pub(crate) fn mac(n: u8, last: u8) -> [u8; 6] {
    [2, 0, 0, 0, n, last]
}

pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [to.as_slice(), &from, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a datagram; the checksum of the datagram is left out, as IPv4 allows.
pub(crate) fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let udp = [from.1.to_be_bytes(), to.1.to_be_bytes(), length(8 + payload.len()), [0, 0]].concat();
    let mut ip = [
        &[0x45, 0],
        length(20 + udp.len() + payload.len()).as_slice(),
        &[0, 0, 0, 0, 64, 17, 0, 0],
        &from.0.octets(),
        &to.0.octets(),
    ]
    .concat();
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [ip, udp, payload.to_vec()].concat()
}

/// A broadcast from `10.200.N.LAST` to its network.
pub(crate) fn shout(n: u8, last: u8, port: u16, text: &[u8]) -> Vec<u8> {
    let packet = datagram((address(n, last), port), (address(n, 255), 9), text);
    ethernet(EVERYBODY, mac(n, last), 0x0800, &packet)
}
