//! Ports of the host that lead into an instance.

use crate::{Invalid, string_serde};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, num::NonZeroU16, str::FromStr};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A published port, written `8080:80`, `127.0.0.1:8080:80` or `53:53/udp`: the host's side first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishedPort {
    /// The host address to answer on; all of them if absent.
    pub host_address: Option<Ipv4Addr>,
    /// The port on the host.
    pub host: NonZeroU16,
    /// The port inside.
    pub guest: NonZeroU16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl PublishedPort {
    /// True if both cannot be published on one host at the same time.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host == other.host
            && (self.host_address.is_none() || other.host_address.is_none() || self.host_address == other.host_address)
    }
}

impl FromStr for PublishedPort {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| {
            Invalid(format!(
                "port {text:?} {why}: write HOST:GUEST with ports from 1 to 65535, as in 8080:80, 127.0.0.1:8080:80 or 53:53/udp"
            ))
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad("has an unknown protocol")),
        };
        let port =
            |text: &str| text.parse::<NonZeroU16>().map_err(|_| bad(&format!("has {text:?}, which is not a port")));
        let parts: Vec<&str> = ports.split(':').collect();
        let (host_address, host, guest) = match parts[..] {
            [host, guest] => (None, port(host)?, port(guest)?),
            [address, host, guest] => {
                let address: Ipv4Addr =
                    address.parse().map_err(|_| bad(&format!("has {address:?}, which is not an IPv4 address")))?;
                (Some(address).filter(|a| !a.is_unspecified()), port(host)?, port(guest)?)
            }
            _ => return Err(bad("does not name both sides")),
        };
        Ok(Self { host_address, host, guest, protocol })
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_address {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}", self.host, self.guest)?;
        if self.protocol == Protocol::Udp {
            f.write_str("/udp")?;
        }
        Ok(())
    }
}

string_serde!(PublishedPort, "PublishedPort", "HOST:GUEST, as in 8080:80, 127.0.0.1:8080:80 or 53:53/udp.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_each_form() {
        for text in ["8080:80", "127.0.0.1:8080:80", "53:53/udp"] {
            assert_eq!(text.parse::<PublishedPort>().unwrap().to_string(), text);
        }
        for bad in ["80", "0:80", "80:0", "80:65536", "a:b", "1:2:3", "80:80/sctp", "", "::"] {
            assert!(bad.parse::<PublishedPort>().unwrap_err().to_string().contains("as in 8080:80"), "{bad}");
        }
    }

    #[test]
    fn the_same_port_on_two_addresses_is_no_conflict() {
        let port = |t: &str| t.parse::<PublishedPort>().unwrap();
        assert!(port("8080:80").conflicts(&port("127.0.0.1:8080:81")));
        assert!(!port("127.0.0.2:8080:80").conflicts(&port("127.0.0.1:8080:81")));
        assert!(!port("53:53").conflicts(&port("53:53/udp")));
    }
}
