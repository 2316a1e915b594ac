//! The text of a network's nftables rules. Pure: what is given decides every byte.
//!
//! Each network has one table of the family `inet` and one of the family `bridge`, both under the same name. They are replaced as a whole, in one
//! transaction, when the network changes; instances come and go as elements of named sets and maps, so the chains never change for them.
//! Connections that run are kept by the kernel's connection tracking, which no replacement touches.
//!
//! What holds after these rules:
//! * an instance reaches its own network, the world outside, and on its gateway: DHCP, DNS, metadata and ping; nothing else of the host, and no link-local
//!   address of the world outside: the metadata there is the host's own;
//! * nobody opens a connection to an instance from outside its network, except through a published port;
//! * no packet is forwarded between two networks, not even of two clouds on one host (bridges of all clouds are named `yb*`), again except
//!   through published ports, where the source address becomes that of the gateway;
//! * an instance sends only with its own hardware and IPv4 address, answers ARP only for them, and is neither router nor DHCP server.
//!
//! Where more will go: security groups are a jump in `forward` after `established` (and in `guest` for traffic inside one network);
//! balancers are maps beside `published_any` and `published_at`; overlays add their uplink to the ports that `guest` does not check.
//! The family `bridge` cannot track connections on every kernel, so its rules look at single packets only.

use ipnet::Ipv4Net;
use std::{fmt::Write as _, net::Ipv4Addr};
use yun_types::{BitRate, CloudId, NetworkId, PublishedPort};

use super::{mac::Mac, shape};

/// A network as its rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkRules {
    pub(super) table: String,
    pub(super) bridge: String,
    pub(super) cidr: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    /// Nothing leaves it, and nothing comes in.
    pub(super) isolated: bool,
}

/// An instance as the rules of its network see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberRules {
    /// The port of the bridge.
    pub(super) port: String,
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
    pub(super) publish: Vec<PublishedPort>,
    /// The most that it may send.
    pub(super) egress: Option<BitRate>,
}

/// What the names of this cloud's tables begin with.
pub(super) fn table_prefix(cloud: CloudId) -> String {
    format!("yun_{}_", cloud.short())
}

/// The name of a network's two tables.
pub(super) fn table_name(cloud: CloudId, network: NetworkId) -> String {
    format!("{}{}", table_prefix(cloud), network.short())
}

/// Removes both tables, whether they exist or not.
pub(super) fn delete_tables(table: &str) -> String {
    // To add a table that exists changes nothing, and to delete one that does not exist fails: so first the one, then the other.
    ["inet", "bridge"].iter().fold(String::new(), |mut text, family| {
        let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
        text
    })
}

impl NetworkRules {
    /// Both tables as they should be, in place of whatever is there.
    pub(super) fn replace(&self, members: &[MemberRules]) -> String {
        let mut text = delete_tables(&self.table);
        text.push_str(&self.tables());
        text.push_str(&self.limits(members));
        for member in members {
            text.push_str(&self.add(member));
        }
        text
    }

    fn tables(&self) -> String {
        let Self { table, bridge, cidr, gateway, isolated } = self;
        let metadata = super::services::metadata::PORT;
        let (out, walls) = if *isolated {
            (String::new(), "    drop\n".to_owned())
        } else {
            (
                format!("    ip saddr {cidr} ip daddr != {cidr} oifname != \"{bridge}\" masquerade\n"),
                format!(
                    "    iifname \"{bridge}\" ip daddr 169.254.0.0/16 drop\n    ct state invalid drop\n    ct state established,related accept\n    ct status dnat accept\n    oifname \"{bridge}\" drop\n    oifname \"yb*\" drop\n"
                ),
            )
        };
        format!(
            r#"table inet {table} {{
  map published_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    iifname "{bridge}" ip daddr 169.254.169.254 tcp dport 80 dnat ip to {gateway}:{metadata}
    iifname "yb*" fib daddr . iif type local meta l4proto {{ tcp, udp }} th dport {{ 53, 67 }} return
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    fib daddr type local dnat ip to meta l4proto . th dport map @published_any
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    fib daddr type local dnat ip to meta l4proto . th dport map @published_any
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{out}    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
    oifname "{bridge}" ip saddr {cidr} ct status dnat masquerade
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    udp sport 68 udp dport 67 accept
    ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr {gateway} icmp type echo-request accept
    ip daddr {gateway} tcp dport {metadata} ct status dnat accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "{bridge}" oifname != "{bridge}" accept
    iifname "{bridge}" oifname "{bridge}" accept
{walls}  }}
}}
table bridge {table} {{
  set ports {{ type ifname; }}
  set cards {{ type ifname . ether_addr; }}
  set members {{ type ifname . ether_addr . ipv4_addr; }}
  set mirrors {{ type ifname . ifname; }}
  chain ingress {{
    type filter hook prerouting priority -300; policy accept;
    iifname @ports jump guest
  }}
  chain reflected {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @mirrors oifname . ether daddr != @cards drop
  }}
  chain guest {{
    iifname . ether saddr != @cards drop
    ether type arp iifname . arp saddr ether . arp saddr ip @members accept
    ether type arp iifname . arp saddr ether @cards arp saddr ip 0.0.0.0 accept
    ether type ip udp sport 67 drop
    ether type ip iifname . ether saddr . ip saddr @members accept
    ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
    ether type ip6 exthdr frag exists drop
    ether type ip6 icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    ether type ip6 udp sport 547 drop
    ether type ip6 accept
    drop
  }}
}}
"#
        )
    }

    /// Limits what members send; nothing where nobody is limited, so that kernels without such limits need not know them.
    fn limits(&self, members: &[MemberRules]) -> String {
        let table = &self.table;
        let limited: Vec<(&str, BitRate)> =
            members.iter().filter_map(|member| Some((member.port.as_str(), member.egress?))).collect();
        if limited.is_empty() {
            return String::new();
        }
        let mut text = format!("add map bridge {table} egress {{ type ifname : limit; }}\n");
        for (port, rate) in limited {
            let (bytes, burst) = (rate.bits() / 8, shape::burst(rate));
            let _ = writeln!(
                text,
                "add limit bridge {table} l_{port} {{ rate over {bytes} bytes/second burst {burst} bytes; }}"
            );
            let _ = writeln!(text, "add element bridge {table} egress {{ \"{port}\" : \"l_{port}\" }}");
        }
        let _ = writeln!(text, "insert rule bridge {table} ingress limit name iifname map @egress drop");
        text
    }

    /// Lets an instance in. Adding it twice changes nothing.
    pub(super) fn add(&self, member: &MemberRules) -> String {
        self.card(member).into_iter().chain(self.published(member)).fold(String::new(), |mut text, element| {
            let _ = writeln!(text, "add element {element}");
            text
        })
    }

    /// Takes an instance out, whether it is there or not.
    pub(super) fn delete(&self, member: &MemberRules) -> String {
        delete_elements(self.card(member).into_iter().chain(self.published(member)))
    }

    /// Takes only the published ports of an instance away, whether they are there or not.
    pub(super) fn unpublish(&self, member: &MemberRules) -> String {
        delete_elements(self.published(member))
    }

    fn card(&self, member: &MemberRules) -> [String; 4] {
        let (table, MemberRules { port, mac, address, .. }) = (&self.table, member);
        [
            format!("bridge {table} cards {{ \"{port}\" . {mac} }}"),
            format!("bridge {table} members {{ \"{port}\" . {mac} . {address} }}"),
            format!("bridge {table} mirrors {{ \"{port}\" . \"{port}\" }}"),
            format!("bridge {table} ports {{ \"{port}\" }}"),
        ]
    }

    fn published<'a>(&'a self, member: &'a MemberRules) -> impl Iterator<Item = String> + 'a {
        let (table, address) = (&self.table, member.address);
        member.publish.iter().map(move |p| {
            let (protocol, host, guest) = (p.protocol, p.host, p.guest);
            match p.host_address {
                None => format!("inet {table} published_any {{ {protocol} . {host} : {address} . {guest} }}"),
                Some(at) => format!("inet {table} published_at {{ {at} . {protocol} . {host} : {address} . {guest} }}"),
            }
        })
    }
}

/// To delete an element that is not there fails, so each is added first.
fn delete_elements(elements: impl Iterator<Item = String>) -> String {
    elements.fold(String::new(), |mut text, element| {
        let _ = writeln!(text, "add element {element}\ndelete element {element}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;

    fn network() -> NetworkRules {
        let (cloud, network) = (CloudId(uuid::Uuid::from_u128(0xc1)), NetworkId(uuid::Uuid::from_u128(0xa1)));
        NetworkRules {
            table: table_name(cloud, network),
            bridge: "yb000000a1".to_owned(),
            cidr: "10.77.3.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 77, 3, 1),
            isolated: false,
        }
    }

    fn member(publish: &[&str]) -> MemberRules {
        MemberRules {
            port: "yv000000b1".to_owned(),
            mac: "02:00:00:00:00:05".parse().unwrap(),
            address: Ipv4Addr::new(10, 77, 3, 5),
            publish: publish.iter().map(|p| p.parse().unwrap()).collect(),
            egress: None,
        }
    }

    #[test]
    fn a_network_with_one_member() {
        let members = [member(&["8080:80", "127.0.0.1:5353:53/udp"])];
        expect_file!["golden/network.nft"].assert_eq(&network().replace(&members));
    }

    #[test]
    fn an_isolated_network_with_a_limited_member() {
        let network = NetworkRules { isolated: true, ..network() };
        let members = [MemberRules { egress: Some("10M".parse().unwrap()), ..member(&[]) }];
        let text = network.replace(&members);
        assert!(!text.contains("!= \"yb000000a1\" masquerade"), "{text}");
        assert!(text.contains("oifname \"yb000000a1\" accept\n    drop\n  }"), "{text}");
        assert!(text.contains("l_yv000000b1 { rate over 1250000 bytes/second burst 64000 bytes; }"), "{text}");
    }

    #[test]
    fn a_member_that_leaves() {
        expect_file!["golden/leave.nft"].assert_eq(&network().delete(&member(&["8080:80"])));
    }
}
