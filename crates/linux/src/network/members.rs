//! An instance in a network: attached, taken up again, detached.
//!
//! Attaching touches three things at the same time: links (and for containers a namespace), the packet filter, and ports of the host. A
//! record is written before and after. An instance that is attached twice is brought to what the last call wants; what is right is
//! left alone, so that running connections do not notice.

use std::{io, sync::Arc};
use yun_drivers::{Attachment, DriverError, ErrorKind, Port, Result};
use yun_types::{InstanceId, InstanceKind, NetworkId, Nic};

use super::{
    Inner, blocking, bridges, conntrack, lock,
    mac::Mac,
    namespace::{self, Cable},
    netlink::{self, Batch},
    ports,
    rules::NetworkRules,
    shape,
    state::{Member, MemberRecord, Phase},
    tap,
};

/// What to do if somebody has a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Attach nothing.
    Refuse,
    /// Lead the packets to the instance all the same: they were led there before.
    Warn,
}

/// The host's end of an attachment.
pub(super) fn interface(attachment: &Attachment) -> &str {
    match &attachment.port {
        Port::Tap { interface } | Port::Namespace { interface, .. } => interface,
    }
}

/// Connects an instance.
pub(super) async fn attach(
    inner: Arc<Inner>,
    instance: InstanceId,
    kind: InstanceKind,
    nic: Nic,
    taken: Taken,
) -> Result<Attachment> {
    let _turn = inner.instance_turns.alone(instance).await;
    let member = (instance, nic.network);
    leave_number(&inner, &nic, instance).await?;
    let mut network_turn = inner.network_turns.shared(nic.network).await;
    let (mut attachment, mut rules) = decide(&inner, instance, kind, nic.clone())?;
    let mut before = inner.book().members.get(&member).cloned();
    if before.as_ref().is_some_and(|b| moved(&b.attachment, &attachment)) {
        drop(network_turn);
        detach_alone(&inner, member).await?;
        before = None;
        network_turn = inner.network_turns.shared(nic.network).await;
        (attachment, rules) = decide(&inner, instance, kind, nic)?;
    }
    let mac: Mac = attachment.nic.mac.parse()?;
    hold_ports(&inner, &attachment, taken)?;
    let record =
        MemberRecord { boot: inner.boot.clone(), phase: Phase::Attaching, kind, attachment: attachment.clone() };
    if before.as_ref().is_none_or(|b| b.phase != Phase::Attached || b.attachment != attachment) {
        inner.book().put_member(record.clone())?;
    }
    if let Err(e) = connect(&inner, &record, before.as_ref(), &rules, mac).await {
        if before.is_none() {
            undo(&inner, member).await;
        }
        return Err(e);
    }
    let done = MemberRecord { phase: Phase::Attached, ..record };
    if before.as_ref() != Some(&done) {
        inner.book().put_member(done)?;
    }
    drop(network_turn);
    Ok(attachment)
}

/// Takes an attachment up again. Its ports are led to it whoever claims them now.
pub(super) async fn recover(inner: Arc<Inner>, attachment: Attachment) -> Result<()> {
    let kind = match attachment.port {
        Port::Tap { .. } => InstanceKind::Vm,
        Port::Namespace { .. } => InstanceKind::Container,
    };
    attach(inner, attachment.instance, kind, attachment.nic, Taken::Warn).await.map(drop)
}

/// Disconnects an instance from every network.
pub(super) async fn detach(inner: Arc<Inner>, instance: InstanceId) -> Result<()> {
    let _turn = inner.instance_turns.alone(instance).await;
    let members = members_of(&inner, instance);
    for member in members {
        detach_alone(&inner, member).await?;
    }
    // Whatever nobody wrote down.
    unwire(&inner, instance, None).await?;
    inner.ports.release(instance);
    Ok(())
}

/// Disconnects an instance from one network.
pub(super) async fn detach_from(inner: Arc<Inner>, member: Member) -> Result<()> {
    let _turn = inner.instance_turns.alone(member.0).await;
    let known = inner.book().members.contains_key(&member);
    if known { detach_alone(&inner, member).await } else { Ok(()) }
}

/// Disconnects an instance that is not attached as it should be, and no other.
pub(super) async fn detach_incomplete(inner: &Inner, member: Member) -> Result<()> {
    let _turn = inner.instance_turns.alone(member.0).await;
    let complete = inner.book().members.get(&member).is_some_and(|m| m.phase == Phase::Attached);
    if complete { Ok(()) } else { detach_alone(inner, member).await }
}

fn members_of(inner: &Inner, instance: InstanceId) -> Vec<Member> {
    inner.book().of(instance).into_iter().map(|m| (instance, m.attachment.network)).collect()
}

/// Lets an instance leave a network in which it has the interface that is wanted for another.
async fn leave_number(inner: &Inner, nic: &Nic, instance: InstanceId) -> Result<()> {
    let same: Vec<Member> = {
        let book = inner.book();
        let of = book.of(instance).into_iter().map(|m| &m.attachment);
        of.filter(|a| a.nic.index == nic.index && a.network != nic.network).map(|a| (instance, a.network)).collect()
    };
    for member in same {
        detach_alone(inner, member).await?;
    }
    Ok(())
}

/// The attachment as it will be, from what the network is.
fn decide(inner: &Inner, instance: InstanceId, kind: InstanceKind, nic: Nic) -> Result<(Attachment, NetworkRules)> {
    let book = inner.book();
    let network = book.networks.get(&nic.network).map(|r| &r.network).ok_or_else(|| {
        let message = format!(
            "cannot attach instance {instance}: network {} is not on this node; it must be ensured first",
            nic.network
        );
        DriverError::new(ErrorKind::NotFound, "NetworkMissing", message)
    })?;
    let (cidr, gateway, mtu) = (network.spec.cidr, network.spec.gateway(), network.spec.mtu);
    if nic.address == cidr.network()
        || !cidr.contains(&nic.address)
        || nic.address == cidr.broadcast()
        || nic.address == gateway
    {
        let message =
            format!("cannot attach instance {instance}: {} is no address for an instance of {cidr}", nic.address);
        return Err(DriverError::bad_request("BadAddress", message));
    }
    let same = |m: &&MemberRecord| m.attachment.nic.address == nic.address || m.attachment.nic.mac == nic.mac;
    if let Some(other) = book.members_of(nic.network).filter(|m| m.attachment.instance != instance).find(same) {
        let name = book.name_of(other.attachment.instance);
        let message = format!(
            "cannot attach instance {instance}: instance {name} has its address {} or {}",
            nic.address, nic.mac
        );
        return Err(DriverError::new(ErrorKind::Conflict, "AddressTaken", message));
    }
    let host = &inner.host;
    let port = match kind {
        InstanceKind::Vm => Port::Tap { interface: host.tap(instance, nic.index) },
        InstanceKind::Container => {
            Port::Namespace { path: namespace_path(inner, instance), interface: host.veth(instance, nic.index) }
        }
    };
    let rules = bridges::rules_of(inner, network);
    Ok((Attachment { instance, network: nic.network, nic, cidr, gateway, mtu, port }, rules))
}

fn namespace_path(inner: &Inner, instance: InstanceId) -> std::path::PathBuf {
    super::Namespace::file(&inner.host, instance)
}

/// True if the cable itself has to be another one.
fn moved(before: &Attachment, now: &Attachment) -> bool {
    before.network != now.network
        || before.nic.address != now.nic.address
        || before.nic.mac != now.nic.mac
        || before.port != now.port
        || before.cidr != now.cidr
        || before.mtu != now.mtu
}

fn hold_ports(inner: &Inner, attachment: &Attachment, taken: Taken) -> Result<()> {
    let (instance, wanted) = (attachment.instance, &attachment.nic.publish);
    if attachment.nic.index > 0 {
        // Ports lead into the first interface.
        return Ok(());
    }
    if taken == Taken::Refuse {
        // The book knows also those that were attached by an earlier process and not taken up again yet.
        let book = inner.book();
        for port in wanted {
            let others = book.members.values().filter(|m| m.attachment.instance != instance);
            if let Some(other) = others.into_iter().find(|m| m.attachment.nic.publish.iter().any(|o| o.conflicts(port)))
            {
                return Err(ports::taken(
                    *port,
                    &format!("instance {} has it", book.name_of(other.attachment.instance)),
                ));
            }
        }
        drop(book);
        return inner.ports.hold(instance, wanted, |other| inner.book().name_of(other));
    }
    for trouble in inner.ports.adopt(instance, wanted) {
        tracing::warn!(%instance, "{trouble}; its packets still go to the instance");
    }
    Ok(())
}

/// Makes links and rules what they should be, side by side.
async fn connect(
    inner: &Inner,
    record: &MemberRecord,
    before: Option<&MemberRecord>,
    rules: &NetworkRules,
    mac: Mac,
) -> Result<()> {
    let attachment = &record.attachment;
    let mut text = String::new();
    if let Some(before) = before {
        let mut gone = bridges::member_rules(before)?;
        gone.publish.retain(|p| !attachment.nic.publish.contains(p));
        text.push_str(&rules.unpublish(&gone));
    }
    text.push_str(&rules.add(&bridges::member_rules(record)?));
    let (limited, was) = (attachment.nic.egress, before.and_then(|before| before.attachment.nic.egress));
    let filter = async {
        if limited.is_some() || was.is_some() {
            return bridges::replace_rules(inner, attachment.network, rules).await;
        }
        match inner.nft.apply(text).await {
            // Somebody flushed the tables, or a crash left others: the book knows better.
            Err(e) if e.reason == "ProgramFailed" => bridges::replace_rules(inner, attachment.network, rules).await,
            other => other,
        }
    };
    let bridges = std::slice::from_ref(&rules.bridge);
    let (wired, filtered, beside) =
        tokio::join!(wire(inner, attachment, mac), filter, inner.beside.look_again(&inner.nft, bridges));
    wired.and(filtered).and(beside)?;
    let receives = attachment.nic.ingress;
    if receives.is_some() || before.is_some_and(|before| before.attachment.nic.ingress.is_some()) {
        shape::receive(interface(attachment), receives).await?;
    }
    if let Some(services) = lock(&inner.services).get(&attachment.network) {
        services.knowledge.set_lease(mac, attachment.nic.address);
        if attachment.nic.index > 0 {
            services.knowledge.set_second(mac);
        }
        let metadata = crate::metadata::path(&inner.host, attachment.instance);
        services.knowledge.set_member(attachment.nic.address, metadata);
    }
    inner.kin.joined(attachment);
    Ok(())
}

/// What of the links is there already.
enum Wired {
    Right,
    Missing { bridge: u32 },
    NotOurs,
    NoBridge,
}

async fn wire(inner: &Inner, attachment: &Attachment, mac: Mac) -> Result<()> {
    let operation = format!("connect instance {} to its bridge", attachment.instance);
    let failed = |e| DriverError::io(&operation, e);
    let alias = inner.member_alias(attachment.instance, attachment.nic.index);
    let bridge_name = inner.host.bridge(attachment.network);
    // Three questions of some microseconds each: not worth another thread.
    let bridge = match look(&bridge_name, attachment, &alias).map_err(failed)? {
        Wired::Right => return Ok(()),
        Wired::NotOurs => return Err(bridges::name_taken(interface(attachment))),
        Wired::NoBridge => {
            let message = format!("cannot {operation}: {bridge_name} is gone; the network must be ensured again");
            return Err(DriverError::new(ErrorKind::NotFound, "NetworkMissing", message));
        }
        Wired::Missing { bridge } => bridge,
    };
    let Attachment { mtu, gateway, .. } = *attachment;
    let address = attachment.nic.address;
    match &attachment.port {
        Port::Namespace { path, interface } => {
            let (path, interface, prefix) = (path.clone(), interface.clone(), attachment.cidr.prefix_len());
            let index = attachment.nic.index;
            namespace::connect(Cable {
                path,
                interface,
                name: format!("eth{index}"),
                way_out: index == 0,
                alias,
                bridge,
                bridge_name,
                mac,
                address,
                prefix,
                gateway,
                mtu,
            })
            .await
            .map_err(failed)
        }
        Port::Tap { interface } => {
            let name = interface.clone();
            blocking(&operation, move || {
                if netlink::link(&name)?.is_none() {
                    tap::create(&name)?;
                }
                let mut batch = Batch::default();
                batch
                    .set_link(&name, |link| link.alias(alias).mtu(mtu.into()).controller(bridge).up())
                    .reflect(&name)
                    .add_neighbour(bridge, address, mac);
                batch.run_here()
            })
            .await
        }
    }
}

fn look(bridge: &str, attachment: &Attachment, alias: &str) -> io::Result<Wired> {
    let Some(bridge) = netlink::link(bridge)? else { return Ok(Wired::NoBridge) };
    let link = netlink::link(interface(attachment))?;
    if let Some(link) = &link
        && link.alias.as_deref() != Some(alias)
        // A tap that a killed process made and had no time to mark; no other kind of link can be half made.
        && !(link.alias.is_none() && matches!(attachment.port, Port::Tap { .. }))
    {
        return Ok(Wired::NotOurs);
    }
    let port = link.is_some_and(|l| l.bridge == Some(bridge.index) && l.up && l.alias.is_some());
    let inside = match &attachment.port {
        Port::Tap { .. } => true,
        Port::Namespace { path, .. } => namespace::is_kept(path),
    };
    Ok(if port && inside { Wired::Right } else { Wired::Missing { bridge: bridge.index } })
}

/// After a failure that is already known to the caller.
async fn undo(inner: &Inner, member: Member) {
    if let Err(e) = remove_traces(inner, member).await {
        tracing::warn!(instance = %member.0, "cannot clean up after a failed attach, the next start will: {e}");
    }
}

async fn detach_alone(inner: &Inner, member: Member) -> Result<()> {
    let _turn = inner.network_turns.shared(member.1).await;
    remove_traces(inner, member).await
}

/// Removes whatever there is of it.
async fn remove_traces(inner: &Inner, member: Member) -> Result<()> {
    let Some(record) = inner.book().members.get(&member).cloned() else { return Ok(()) };
    inner.book().put_member(MemberRecord { phase: Phase::Detaching, ..record.clone() })?;
    if let Some(services) = lock(&inner.services).get(&member.1) {
        services.knowledge.drop_lease(record.attachment.nic.mac.parse()?);
        services.knowledge.drop_member(record.attachment.nic.address);
    }
    inner.kin.left(member.0, member.1);
    let (filtered, unwired) = tokio::join!(unfilter(inner, &record), unwire(inner, member.0, Some(&record)));
    filtered.and(unwired)?;
    if record.attachment.nic.index == 0 {
        inner.ports.release(member.0);
    }
    inner.book().drop_member(member)
}

async fn unfilter(inner: &Inner, record: &MemberRecord) -> Result<()> {
    let network: NetworkId = record.attachment.network;
    let Some(rules) = inner.book().networks.get(&network).map(|n| bridges::rules_of(inner, &n.network)) else {
        return Ok(());
    };
    if record.attachment.nic.egress.is_some() {
        return bridges::replace_rules(inner, network, &rules).await;
    }
    match inner.nft.apply(rules.delete(&bridges::member_rules(record)?)).await {
        Err(e) if e.reason == "ProgramFailed" => bridges::replace_rules(inner, network, &rules).await,
        other => other,
    }
}

/// The most interfaces that an instance may have.
const MOST: u32 = 16;

/// Removes the links of one attachment, or of all that nobody wrote down; the namespace goes with the last one.
async fn unwire(inner: &Inner, instance: InstanceId, record: Option<&MemberRecord>) -> Result<()> {
    let numbers = record.map_or(0..MOST, |r| r.attachment.nic.index..r.attachment.nic.index + 1);
    let links: Vec<(String, String)> = numbers
        .flat_map(|index| {
            let alias = inner.member_alias(instance, index);
            [inner.host.tap(instance, index), inner.host.veth(instance, index)].map(|name| (name, alias.clone()))
        })
        .collect();
    let neighbour = record.map(|r| (inner.host.bridge(r.attachment.network), r.attachment.nic.address));
    let (path, known) = (namespace_path(inner, instance), record.is_some());
    let network = record.map(|r| r.attachment.network);
    let last = inner.book().of(instance).iter().all(|other| Some(other.attachment.network) == network);
    blocking(&format!("disconnect instance {instance}"), move || {
        let mut batch = Batch::default();
        for (name, alias) in &links {
            let ours = |l: netlink::Link| l.alias.as_ref() == Some(alias) || (known && l.alias.is_none());
            if netlink::link(name)?.is_some_and(ours) {
                batch.delete_link(name);
            }
        }
        let address = neighbour.as_ref().map(|(_, address)| *address);
        if let Some((bridge, address)) = neighbour
            && let Some(bridge) = netlink::link(&bridge)?
        {
            batch.delete_neighbour(bridge.index, address);
        }
        batch.run_here()?;
        address.map_or(Ok(()), conntrack::forget)?;
        if last { namespace::release(&path) } else { Ok(()) }
    })
    .await
}
