//! The choice of an address range for a new network.
//!
//! Pure: what is taken and where to begin are arguments. Networks are spread over the pool by a seed, so that two clouds on one LAN rarely
//! choose the same range.

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use yun_types::Invalid;

/// Why no range could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoNetwork {
    /// The prefix does not cut the pool into networks.
    #[error("cannot cut networks of /{prefix} from {pool}: choose a prefix from /{} to /{SMALLEST}", pool.prefix_len())]
    BadPrefix {
        /// The pool.
        pool: Ipv4Net,
        /// The prefix that was asked for.
        prefix: u8,
    },
    /// Every range of the pool is taken.
    #[error(
        "no range of /{prefix} is free in {pool}: all {ranges} are taken; delete a project that is not needed, or give the cloud a larger network pool"
    )]
    Full {
        /// The pool.
        pool: Ipv4Net,
        /// The prefix that was asked for.
        prefix: u8,
        /// How many ranges the pool has.
        ranges: u64,
    },
}

/// The smallest network: a gateway and five instances.
pub const SMALLEST: u8 = 29;

/// Reads a range that somebody wrote.
pub fn parse_range(text: &str) -> Result<Ipv4Net, Invalid> {
    let bad = |why: String| Err(Invalid(format!("subnet {text:?} {why}: write it as in 10.77.3.0/24")));
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return match text.parse::<Ipv4Addr>() {
            Ok(_) => bad("has no length".into()),
            Err(_) => bad("is not a range of IPv4 addresses".into()),
        };
    };
    if net.addr() != net.network() {
        return bad(format!("begins inside a range (the range is {})", net.trunc()));
    }
    if !(8..=SMALLEST).contains(&net.prefix_len()) {
        return bad(format!("has {} bits for the network, and 8 to {SMALLEST} are usable", net.prefix_len()));
    }
    let first = net.network();
    let strange = first.is_loopback()
        || first.is_multicast()
        || first.is_link_local()
        || first.octets()[0] == 0
        || first.octets()[0] >= 240;
    if strange {
        return bad(
            "is reserved for other things (use a private range, below 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)"
                .into(),
        );
    }
    Ok(net)
}

/// Checks the largest packet of a network.
pub fn check_mtu(mtu: u16) -> Result<(), Invalid> {
    match mtu {
        // The least that IPv4 hosts must take, and what bridges can carry.
        576..=65_521 => Ok(()),
        _ => Err(Invalid(format!("mtu {mtu} is not usable: use 576 to 65521, as in 1500"))),
    }
}

/// A range of `prefix` bits in `pool` that overlaps none of `taken`. The search begins at a place that `seed` names and goes round.
pub fn choose(pool: Ipv4Net, prefix: u8, taken: &[Ipv4Net], seed: u64) -> Result<Ipv4Net, NoNetwork> {
    if prefix < pool.prefix_len() || prefix > SMALLEST {
        return Err(NoNetwork::BadPrefix { pool, prefix });
    }
    let ranges = 1u64 << (prefix - pool.prefix_len());
    let size = 1u64 << (32 - prefix);
    let mut at = seed % ranges;
    let mut seen = 0;
    while seen < ranges {
        let base = u64::from(u32::from(pool.network())) + at * size;
        let candidate = Ipv4Addr::from(u32::try_from(base).unwrap_or(u32::MAX));
        let Ok(candidate) = Ipv4Net::new(candidate, prefix) else { return Err(NoNetwork::BadPrefix { pool, prefix }) };
        let Some(blocker) = taken.iter().filter(|t| overlap(t, &candidate)).max_by_key(|t| u32::from(t.broadcast()))
        else {
            return Ok(candidate);
        };
        // All ranges up to the blocker's end are blocked too: skip them, so that a taken /8 costs one step.
        let end = u64::from(u32::from(blocker.broadcast()).min(u32::from(pool.broadcast())));
        let next = (end - u64::from(u32::from(pool.network()))) / size + 1;
        seen += next - at;
        at = next % ranges;
    }
    Err(NoNetwork::Full { pool, prefix, ranges })
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_search_begins_at_the_seed_and_goes_round() {
        let pool = net("10.77.0.0/16");
        assert_eq!(choose(pool, 24, &[], 5), Ok(net("10.77.5.0/24")));
        assert_eq!(choose(pool, 24, &[net("10.77.5.0/24"), net("10.77.6.128/25")], 5), Ok(net("10.77.7.0/24")));
        assert_eq!(choose(pool, 24, &[net("10.77.255.0/24")], 255), Ok(net("10.77.0.0/24")));
        assert_eq!(choose(pool, 24, &[net("10.77.128.0/17")], 200), Ok(net("10.77.0.0/24")));
    }

    #[test]
    fn ranges_are_read_with_care() {
        assert_eq!(parse_range("10.9.0.0/24").unwrap(), net("10.9.0.0/24"));
        for (text, why) in [
            ("10.9.0.1/24", "the range is 10.9.0.0/24"),
            ("10.9.0.0", "has no length"),
            ("10.9.0.0/30", "8 to 29"),
            ("10.0.0.0/7", "8 to 29"),
            ("0.0.0.0/0", "8 to 29"),
            ("127.0.0.0/8", "reserved"),
            ("224.0.0.0/8", "reserved"),
            ("169.254.0.0/16", "reserved"),
            ("fd00::/64", "not a range of IPv4"),
            ("net", "not a range of IPv4"),
        ] {
            let error = parse_range(text).unwrap_err().0;
            assert!(error.contains(why) && error.contains("10.77.3.0/24"), "{text}: {error}");
        }
        assert!(check_mtu(1500).is_ok() && check_mtu(500).is_err() && check_mtu(65_535).is_err());
    }

    #[test]
    fn a_full_pool_and_a_wrong_prefix_say_what_to_do() {
        let full = choose(net("10.77.0.0/22"), 24, &[net("10.0.0.0/8")], 1).unwrap_err().to_string();
        assert_eq!(
            full,
            "no range of /24 is free in 10.77.0.0/22: all 4 are taken; delete a project that is not needed, or give the cloud a larger network pool"
        );
        for prefix in [8, 15, 30, 32] {
            assert!(
                choose(net("10.77.0.0/16"), prefix, &[], 0)
                    .unwrap_err()
                    .to_string()
                    .contains("choose a prefix from /16 to /29"),
                "{prefix}"
            );
        }
        assert_eq!(choose(net("10.77.0.0/24"), 24, &[], 9), Ok(net("10.77.0.0/24")));
    }

    proptest! {
        #[test]
        fn a_range_is_in_the_pool_and_free_or_there_is_none(seed: u64, prefix in 20u8..=29, taken in proptest::collection::vec((any::<u16>(), 12u8..=30), 0..30)) {
            let pool = net("10.77.0.0/16");
            let taken: Vec<Ipv4Net> = taken
                .into_iter()
                .map(|(low, prefix)| Ipv4Net::new(Ipv4Addr::from(u32::from(pool.network()) + u32::from(low)), prefix).unwrap().trunc())
                .collect();
            match choose(pool, prefix, &taken, seed) {
                Ok(range) => {
                    prop_assert!(pool.contains(&range) && range.prefix_len() == prefix && range.trunc() == range);
                    prop_assert!(!taken.iter().any(|t| overlap(t, &range)));
                }
                Err(NoNetwork::Full { .. }) => {
                    prop_assert!(pool.subnets(prefix).unwrap().all(|r| taken.iter().any(|t| overlap(t, &r))));
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn networks_chosen_one_after_another_never_overlap(seeds in proptest::collection::vec(any::<u64>(), 1..20)) {
            let mut taken = Vec::new();
            for seed in seeds {
                if let Ok(range) = choose(net("10.77.0.0/20"), 24, &taken, seed) {
                    prop_assert!(!taken.iter().any(|t| overlap(t, &range)));
                    taken.push(range);
                }
            }
            prop_assert!(taken.len() <= 16);
        }
    }
}
