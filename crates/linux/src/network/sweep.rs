//! What earlier processes left behind, and the end of everything.
//!
//! Left behind is: an attachment that was not finished or not removed to its end, and any link, namespace file or table that carries this
//! cloud's mark and that no record names. What is complete stays, because its instance may run.

use futures::{StreamExt as _, stream};
use std::{collections::BTreeSet, sync::Arc};
use yun_drivers::{DriverError, Result};
use yun_types::{CloudId, DriverFacts, NetworkId};

use super::{
    Inner, blocking, bridges, members,
    netlink::{self, Batch},
    nft::Nft,
    rules::{self, NetworkRules},
    state::Phase,
};

/// How many are removed at the same time.
const AT_ONCE: usize = 32;

/// Says what works here, and removes what was left behind.
pub(super) async fn probe(inner: Arc<Inner>) -> Result<DriverFacts> {
    let facts = |engine, message: Option<String>| DriverFacts {
        driver: "network".to_owned(),
        ready: message.is_none(),
        engine,
        accel: None,
        message,
    };
    if !nix::unistd::geteuid().is_root() {
        return Ok(facts(None, Some("networks need root: start yun with sudo".to_owned())));
    }
    let version = match inner.nft.list(&["--version"]).await {
        Ok(text) => text.unwrap_or_default().split_whitespace().take(2).collect::<Vec<_>>().join(" "),
        Err(e) => return Ok(facts(None, Some(e.message))),
    };
    if let Err(e) = can_filter(&inner.nft, inner.host.cloud()).await {
        return Ok(facts(Some(version), Some(e.message)));
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        let message = "VMs cannot be attached: /dev/net/tun is missing; run modprobe tun".to_owned();
        return Ok(facts(Some(version), Some(message)));
    }
    sweep(&inner).await?;
    Ok(facts(Some(version), None))
}

/// Asks the kernel whether it knows everything that our rules say, without changing anything.
pub(super) async fn can_filter(nft: &Nft, cloud: CloudId) -> Result<()> {
    let sample = NetworkRules {
        table: rules::table_name(cloud, NetworkId(uuid::Uuid::nil())),
        bridge: "ybsample".to_owned(),
        cidr: ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(192, 0, 2, 0), 24),
        gateway: std::net::Ipv4Addr::new(192, 0, 2, 1),
        isolated: false,
    };
    nft.check(&sample.replace(&[])).await.map_err(|e| {
        if e.reason == "ProgramMissing" {
            return e;
        }
        let message = format!(
            "the kernel cannot filter packets as networks need it (nf_tables with nat, fib and the bridge family): {e}"
        );
        DriverError::unavailable("NoPacketFilter", message)
    })
}

/// Removes what was left behind.
async fn sweep(inner: &Inner) -> Result<()> {
    let incomplete: Vec<_> = inner
        .book()
        .members
        .values()
        .filter(|m| m.phase != Phase::Attached)
        .map(|m| (m.attachment.instance, m.attachment.network))
        .collect();
    for member in incomplete {
        tracing::info!(instance = %member.0, "removing an attachment that was left half done");
        members::detach_incomplete(inner, member).await?;
    }
    sweep_links(inner).await?;
    sweep_namespaces(inner).await?;
    sweep_tables(inner).await
}

async fn sweep_links(inner: &Inner) -> Result<()> {
    let prefix = inner.alias_prefix();
    let known: BTreeSet<String> = {
        let book = inner.book();
        let networks = book.networks.keys().map(|id| inner.alias("network", id));
        let members = book.members.values().map(|m| inner.member_alias(m.attachment.instance, m.attachment.nic.index));
        networks.chain(members).collect()
    };
    blocking("remove links that were left behind", move || {
        let mut batch = Batch::default();
        for link in netlink::links()? {
            if link.alias.is_some_and(|a| a.starts_with(&prefix) && !known.contains(&a)) {
                tracing::info!(link = link.name, "removing a link that was left behind");
                batch.delete_link(&link.name);
            }
        }
        batch.run_here()
    })
    .await
}

async fn sweep_namespaces(inner: &Inner) -> Result<()> {
    let folder = inner.host.run().join("netns");
    let known: BTreeSet<String> = inner.book().members.keys().map(|(instance, _)| instance.to_string()).collect();
    blocking("remove namespaces that were left behind", move || {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if !known.contains(&*entry.file_name().to_string_lossy()) {
                super::namespace::release(&entry.path())?;
            }
        }
        Ok(())
    })
    .await
}

async fn sweep_tables(inner: &Inner) -> Result<()> {
    let cloud = inner.host.cloud();
    let known: BTreeSet<String> = inner.book().networks.keys().map(|id| rules::table_name(cloud, *id)).collect();
    let listing = inner.nft.list(&["list", "tables"]).await?.unwrap_or_default();
    let tables: BTreeSet<&str> = listing.lines().filter_map(|l| l.split_whitespace().nth(2)).collect();
    for table in tables.into_iter().filter(|t| t.starts_with(&rules::table_prefix(cloud)) && !known.contains(*t)) {
        inner.nft.apply(rules::delete_tables(table)).await?;
    }
    Ok(())
}

/// Removes everything of this cloud.
pub(super) async fn remove_all(inner: Arc<Inner>) -> Result<()> {
    let (instances, networks): (Vec<_>, Vec<_>) = {
        let book = inner.book();
        let instances: BTreeSet<_> = book.members.keys().map(|(instance, _)| *instance).collect();
        (instances.into_iter().collect(), book.networks.keys().copied().collect())
    };
    // As much as possible goes, even if something resists; the first trouble is told.
    // Side by side: the kernel takes its time for each link, but it takes it for many at once.
    let detached = stream::iter(instances)
        .map(|i| members::detach(inner.clone(), i))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let removed = stream::iter(networks)
        .map(|n| bridges::remove(inner.clone(), n))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut trouble = detached.into_iter().chain(removed).fold(Ok(()), Result::and);
    trouble = trouble.and(sweep(&inner).await);
    if trouble.is_ok() {
        let folders = [inner.book().folder().to_owned(), inner.host.run().join("netns")];
        // Folders that never were, or in which somebody put something, stay as they are.
        folders.iter().for_each(|f| drop(std::fs::remove_dir(f)));
    }
    trouble
}
