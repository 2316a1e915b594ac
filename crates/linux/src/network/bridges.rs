//! A network as a whole: its bridge, its gateway address, its rules, its services.

use std::{io, path::Path, sync::Arc};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{DesiredNetwork, NetworkId};

use super::{
    Inner, blocking, lock,
    mac::Mac,
    netlink::{self, Batch},
    rules::{self, MemberRules, NetworkRules},
    services::{Knowledge, Names, Network, Services},
    state::{MemberRecord, NetworkRecord},
};

/// Brings a network to what is wanted, whatever is there.
pub(super) async fn ensure(inner: Arc<Inner>, wanted: DesiredNetwork) -> Result<()> {
    let id = wanted.id;
    let _turn = inner.network_turns.alone(id).await;
    let before = check(&inner, &wanted)?;
    let record = NetworkRecord { boot: inner.boot.clone(), network: wanted.clone() };
    if before.as_ref() != Some(&wanted) {
        inner.book().put_network(record)?;
    }
    if before.as_ref().is_some_and(|b| only_names_differ(b, &wanted)) && tell(&inner, &wanted) {
        return Ok(());
    }
    let stale = before.map(|b| b.spec).filter(|b| b.cidr != wanted.spec.cidr);
    make_bridge(&inner, &wanted, stale).await?;
    let rules = rules_of(&inner, &wanted);
    let (rules, beside) = tokio::join!(
        apply_rules(&inner, id, &rules),
        inner.beside.let_through(&inner.nft, std::slice::from_ref(&rules.bridge))
    );
    rules.and(beside)?;
    serve(&inner, &wanted).await
}

/// Removes a network that nobody uses.
pub(super) async fn remove(inner: Arc<Inner>, id: NetworkId) -> Result<()> {
    let _turn = inner.network_turns.alone(id).await;
    {
        let book = inner.book();
        let members: Vec<String> = book
            .members
            .values()
            .filter(|m| m.attachment.network == id)
            .map(|m| book.name_of(m.attachment.instance))
            .collect();
        if !members.is_empty() {
            let message = format!("cannot remove network {id}: {} is attached; remove it first", members.join(", "));
            return Err(DriverError::new(ErrorKind::Conflict, "NetworkInUse", message));
        }
    }
    let services = lock(&inner.services).remove(&id);
    if let Some(services) = services {
        services.stop().await;
    }
    lock(&inner.applied).remove(&id);
    inner.kin.forget(id);
    let bridge = inner.host.bridge(id);
    inner.nft.apply(rules::delete_tables(&rules::table_name(inner.host.cloud(), id))).await?;
    inner.beside.forget(&inner.nft, &bridge).await?;
    let alias = inner.alias("network", id);
    blocking("remove the bridge", move || {
        let mut batch = Batch::default();
        if netlink::link(&bridge)?.is_some_and(|l| l.alias == Some(alias)) {
            batch.delete_link(&bridge);
        }
        batch.run_here()
    })
    .await?;
    inner.book().drop_network(id)
}

/// Refuses what cannot be; returns what the network was before.
fn check(inner: &Inner, wanted: &DesiredNetwork) -> Result<Option<DesiredNetwork>> {
    let (id, spec) = (wanted.id, &wanted.spec);
    if !(8..=29).contains(&spec.cidr.prefix_len()) {
        let message =
            format!("network {id} has the range {}: use 8 to 29 bits for the network, as in 10.77.3.0/24", spec.cidr);
        return Err(DriverError::bad_request("BadRange", message));
    }
    // The least that IPv4 hosts must take, and what Ethernet on Linux can carry.
    if !(576..=65_521).contains(&spec.mtu) {
        return Err(DriverError::bad_request(
            "BadMtu",
            format!("network {id} has mtu {}: use 576 to 65521, as in 1500", spec.mtu),
        ));
    }
    let book = inner.book();
    if let Some(other) = book.networks.values().find(|n| n.network.id != id && overlap(&n.network, wanted)) {
        let message = format!(
            "cannot make network {id}: its range {} overlaps {} of project {}; choose another range",
            spec.cidr, other.network.spec.cidr, other.network.project
        );
        return Err(DriverError::new(ErrorKind::Conflict, "RangeTaken", message));
    }
    let before = book.networks.get(&id).map(|r| r.network.clone());
    if before.as_ref().is_some_and(|b| b.spec.cidr != spec.cidr) && book.members_of(id).next().is_some() {
        let message = format!(
            "cannot change the range of network {id} to {}: instances are attached; stop them first",
            spec.cidr
        );
        return Err(DriverError::new(ErrorKind::Conflict, "NetworkInUse", message));
    }
    Ok(before)
}

fn overlap(a: &DesiredNetwork, b: &DesiredNetwork) -> bool {
    let (a, b) = (a.spec.cidr, b.spec.cidr);
    a.contains(&b.network()) || b.contains(&a.network())
}

async fn make_bridge(inner: &Inner, wanted: &DesiredNetwork, stale: Option<yun_types::NetworkSpec>) -> Result<()> {
    let (name, alias) = (inner.host.bridge(wanted.id), inner.alias("network", wanted.id));
    let (mac, spec) = (Mac::of_bridge(wanted.id), wanted.spec.clone());
    let taken = blocking(&format!("make the bridge {name}"), move || {
        if netlink::link(&name)?.is_some_and(|l| l.alias.as_ref() != Some(&alias)) {
            return Ok(Some(name));
        }
        let mut batch = Batch::default();
        batch.add_bridge(&name).set_link(&name, |link| link.alias(alias).mtu(spec.mtu.into()).address(mac.0.to_vec()));
        batch.run_here()?;
        let index = netlink::link(&name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.index;
        configure(&name)?;
        let mut batch = Batch::default();
        if let Some(old) = stale {
            batch.delete_address(index, old.gateway(), old.cidr.prefix_len());
        }
        batch.add_address(index, spec.gateway(), spec.cidr.prefix_len()).set_link(&name, |link| link.up());
        batch.run_here()?;
        Ok(None)
    })
    .await?;
    match taken {
        None => Ok(()),
        Some(name) => Err(name_taken(&name)),
    }
}

/// Somebody else has an interface with the name that we would use.
pub(super) fn name_taken(name: &str) -> DriverError {
    let message =
        format!("the interface {name} exists and is not ours; remove it (ip link delete {name}) and try again");
    DriverError::new(ErrorKind::Conflict, "NameTaken", message)
}

fn configure(bridge: &str) -> io::Result<()> {
    let own = |family: &str, name: &str| format!("{family}/conf/{bridge}/{name}");
    let required = [
        ("ipv4/ip_forward".to_owned(), "1"),
        // Connections from the host to 127.0.0.1 may be led to instances; that instances do not use it is a rule of the packet filter.
        (own("ipv4", "route_localnet"), "1"),
        (own("ipv4", "rp_filter"), "1"),
        (own("ipv4", "send_redirects"), "0"),
    ];
    for (name, value) in required {
        set(&name, value)?;
    }
    for name in ["accept_ra", "disable_ipv6"] {
        // A kernel without IPv6 needs no protection from it.
        match set(&own("ipv6", name), if name == "accept_ra" { "0" } else { "1" }) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Writes only what is not so already: writing some of these has effects of its own.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot set {} to {value}: {e}", path.display())))
}

/// The rules of a network without its members.
pub(super) fn rules_of(inner: &Inner, network: &DesiredNetwork) -> NetworkRules {
    NetworkRules {
        table: rules::table_name(inner.host.cloud(), network.id),
        bridge: inner.host.bridge(network.id),
        cidr: network.spec.cidr,
        gateway: network.spec.gateway(),
        isolated: network.spec.isolated,
    }
}

/// What the rules need of a member.
pub(super) fn member_rules(record: &MemberRecord) -> Result<MemberRules> {
    let attachment = &record.attachment;
    Ok(MemberRules {
        port: super::members::interface(attachment).to_owned(),
        mac: attachment.nic.mac.parse()?,
        address: attachment.nic.address,
        publish: attachment.nic.publish.clone(),
        egress: attachment.nic.egress,
    })
}

/// Replaces the tables with everything that the book knows, unless they are in the kernel already.
async fn apply_rules(inner: &Inner, id: NetworkId, rules: &NetworkRules) -> Result<()> {
    if lock(&inner.applied).get(&id) == Some(rules) && tables_exist(inner, &rules.table).await? {
        return Ok(());
    }
    replace_rules(inner, id, rules).await
}

/// Replaces the tables, members and all.
pub(super) async fn replace_rules(inner: &Inner, id: NetworkId, rules: &NetworkRules) -> Result<()> {
    let members: Vec<MemberRules> = inner.book().members_of(id).map(member_rules).collect::<Result<_>>()?;
    inner.nft.apply(rules.replace(&members)).await?;
    lock(&inner.applied).insert(id, rules.clone());
    Ok(())
}

/// False if somebody flushed the packet filter.
async fn tables_exist(inner: &Inner, table: &str) -> Result<bool> {
    let listing = inner.nft.list(&["list", "tables"]).await?.unwrap_or_default();
    Ok(["inet", "bridge"].iter().all(|family| listing.lines().any(|l| l.trim() == format!("table {family} {table}"))))
}

/// Names change with every instance. Such a call looks at nothing else; one that changes nothing is a wish to have everything checked.
fn only_names_differ(before: &DesiredNetwork, wanted: &DesiredNetwork) -> bool {
    before.spec == wanted.spec && before.project == wanted.project && before.records != wanted.records
}

/// Tells the running services the names. False if they do not run, or run for something else.
fn tell(inner: &Inner, wanted: &DesiredNetwork) -> bool {
    let network = Network::of(inner.host.bridge(wanted.id), wanted);
    match lock(&inner.services).get(&wanted.id) {
        Some(s) if s.knowledge.network == network && s.run() => {
            s.knowledge.set_names(Names::new(&wanted.records));
            inner.kin.set_names(wanted.id, Names::new(&wanted.records));
            true
        }
        _ => false,
    }
}

/// Starts the services, or tells the running ones what is new.
async fn serve(inner: &Inner, wanted: &DesiredNetwork) -> Result<()> {
    if tell(inner, wanted) {
        return Ok(());
    }
    let old = lock(&inner.services).remove(&wanted.id);
    if let Some(old) = old {
        old.stop().await;
    }
    let knowledge =
        Arc::new(Knowledge::new(Network::of(inner.host.bridge(wanted.id), wanted)).with_kin(inner.kin.clone()));
    knowledge.set_names(Names::new(&wanted.records));
    inner.kin.set_names(wanted.id, Names::new(&wanted.records));
    for member in inner.book().members_of(wanted.id) {
        let nic = &member.attachment.nic;
        knowledge.set_lease(nic.mac.parse()?, nic.address);
        knowledge.set_member(nic.address, crate::metadata::path(&inner.host, member.attachment.instance));
        if nic.index > 0 {
            knowledge.set_second(nic.mac.parse()?);
        }
        inner.kin.joined(&member.attachment);
    }
    let services = Services::start(knowledge, inner.upstream.clone()).await?;
    lock(&inner.services).insert(wanted.id, services);
    Ok(())
}
