//! Other software of the host that shares the kernel's network with yun.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};
use yun_types::Protocol;

use super::Finding;
use crate::network::who_serves;

/// An address that no host has (RFC 5737), so that only what listens on all addresses is found.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);

pub(super) fn check() -> Vec<Finding> {
    vec![
        forwarding(),
        firewalls(),
        port("port 53", 53, &[Protocol::Udp, Protocol::Tcp]),
        port("port 67", 67, &[Protocol::Udp]),
    ]
}

fn forwarding() -> Finding {
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward").as_deref().map(str::trim) {
        Ok("1") => Finding::ok("forwarding", "on"),
        Ok(_) => Finding::ok("forwarding", "off; it is switched on with the first network"),
        Err(e) => Finding::problem("forwarding", format!("cannot be read: {e}"), "mount -t proc proc /proc"),
    }
}

fn firewalls() -> Finding {
    // The old interface is separate from nf_tables: what it drops stays dropped, and its tables cannot be changed by nft.
    let legacy = fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|t| t.lines().any(|l| l == "filter"));
    if legacy {
        let found = "an old iptables (legacy) filter table is loaded; if its FORWARD chain drops, instances cannot reach the world";
        return Finding::warning(
            "firewalls",
            found,
            "iptables-legacy -I FORWARD -i yb+ -j ACCEPT && iptables-legacy -I FORWARD -o yb+ -j ACCEPT",
        );
    }
    let names: Vec<&str> = [
        ("docker0", "Docker"),
        ("cni-podman0", "Podman"),
        ("virbr0", "libvirt"),
        ("lxdbr0", "LXD"),
        ("incusbr0", "Incus"),
    ]
    .into_iter()
    .filter_map(|(link, name)| Path::new("/proc/sys/net/ipv4/conf").join(link).exists().then_some(name))
    .collect();
    if names.is_empty() {
        return Finding::ok("firewalls", "nobody else shares the network");
    }
    Finding::ok(
        "firewalls",
        format!("{} shares the network; its chains are told to let yun's bridges through", names.join(", ")),
    )
}

fn port(check: &'static str, number: u16, protocols: &[Protocol]) -> Finding {
    let taken = protocols.iter().find_map(|p| Some((*p, who_serves(*p, SocketAddrV4::new(NOBODY, number))?)));
    match taken {
        None => Finding::ok(check, "nobody listens on all addresses"),
        // Bound to its own bridges, as ours are.
        Some((_, who)) if who.starts_with("yun ") => Finding::ok(check, format!("only {who}")),
        Some((protocol, who)) => {
            let what = if number == 53 { "DNS" } else { "DHCP" };
            let found = format!("{who} has {protocol} port {number} on all addresses; networks cannot serve {what}");
            let mend = if who.starts_with("dnsmasq") {
                "echo bind-interfaces > /etc/dnsmasq.d/yun.conf && systemctl restart dnsmasq".to_owned()
            } else {
                format!("make {who} listen on its own address or interface only")
            };
            // A DHCP server that shares its port, as dnsmasq does, is no trouble: ours is bound to its bridge.
            if number == 53 { Finding::problem(check, found, mend) } else { Finding::warning(check, found, mend) }
        }
    }
}
