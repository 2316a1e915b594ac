//! Ends the kernel's memory of connections of an instance that has gone.
//!
//! Without this, a client that keeps sending datagrams to a published port would be led to the old address for as long as it sends, even
//! if the port belongs to another instance by now, or the address does. TCP notices by itself.
//!
//! The message format is that of `linux/netfilter/nfnetlink_conntrack.h`. Kernels before 6.8 refuse to delete by one address; there, such
//! connections end after two minutes of silence.

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{io, net::Ipv4Addr};

/// Connections that the instance began have its address as the source of their first direction, those to it as that of the second.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const FILTER: u16 = 25;
/// Both directions have the source's flag as the first.
const SOURCE: u32 = 1;
/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`.
const DELETE: u16 = (1 << 8) | 2;
const REQUEST_AND_ACKNOWLEDGE: u16 = 0x1 | 0x4;

/// Forgets every connection from and to an address. An old kernel that cannot is no failure.
pub(super) fn forget(address: Ipv4Addr) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    for direction in [ORIGINAL, REPLY] {
        socket.send(&message(address, direction), 0)?;
        let answer = socket.recv_from_full()?.0;
        // The answer is an error message: its number follows the header of 16 bytes, and 0 means that it was done.
        let code = answer.get(16..20).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        match -code {
            0 | libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
    Ok(())
}

fn message(address: Ipv4Addr, direction: u16) -> Vec<u8> {
    // CTA_IP_V4_SRC in CTA_TUPLE_IP in the tuple of the direction.
    let source = attribute(1, &address.octets());
    let tuple = nested(direction, &nested(1, &source));
    let filter = nested(FILTER, &attribute(direction, &SOURCE.to_ne_bytes()));
    let mut body = vec![u8::try_from(libc::AF_INET).unwrap_or_default(), 0, 0, 0];
    body.extend(tuple);
    body.extend(filter);
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let header =
        [length.to_ne_bytes().as_slice(), &DELETE.to_ne_bytes(), &REQUEST_AND_ACKNOWLEDGE.to_ne_bytes(), &[0; 8]]
            .concat();
    [header, body].concat()
}

fn nested(kind: u16, inside: &[u8]) -> Vec<u8> {
    attribute(kind | 0x8000, inside)
}

/// Every attribute here has a length that needs no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_whose_connections_and_never_all() {
        let message = message(Ipv4Addr::new(10, 77, 3, 5), REPLY);
        assert_eq!(message.len(), 16 + 4 + 16 + 12);
        assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len());
        assert!(message.windows(4).any(|w| w == [10, 77, 3, 5]));
        assert!(message.windows(2).any(|w| w == (FILTER | 0x8000).to_ne_bytes()));
    }
}
