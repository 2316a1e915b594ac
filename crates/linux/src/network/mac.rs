//! Hardware addresses: read from what the control plane chose, and made for bridges.

use std::{fmt, str::FromStr};
use yun_drivers::DriverError;
use yun_types::NetworkId;

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl Mac {
    /// The address of a network's bridge. It follows from the network, so that a bridge that is made again is the same router to its
    /// instances; its first byte is none that instances get.
    pub(super) fn of_bridge(network: NetworkId) -> Self {
        let id = network.0.as_bytes();
        Self([0x0a, id[11], id[12], id[13], id[14], id[15]])
    }
}

impl FromStr for Mac {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, DriverError> {
        let bad = || {
            DriverError::bad_request(
                "BadMac",
                format!("{text:?} is not the hardware address of one card: write six bytes, as in 02:00:00:12:34:56"),
            )
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        // A set lowest bit means a group of cards; all zeros means none.
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let mac: Mac = "02:ab:00:12:34:56".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:00:12:34:56");
        for bad in [
            "",
            "02:ab",
            "02:ab:00:12:34:56:78",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "02:ab:00:12:34:zz",
            "2:a:0:1:3:5",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bridges_never_have_an_address_of_an_instance() {
        assert_ne!(Mac::of_bridge(NetworkId(uuid::Uuid::from_u128(7))).0[0], 2);
    }
}
