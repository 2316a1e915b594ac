//! Living beside other firewalls: Docker, ufw and their like set the policy of `ip filter` to drop, and then nothing of ours gets
//! through, because a packet must please every table. Here our bridges are let through *theirs*; our own tables still decide.
//!
//! The rules are inserted in the form that `iptables -i yb… -j ACCEPT` has, so that `iptables` can still list and save its table. Each
//! network has its own, so that clouds on one host do not remove each other's.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use yun_drivers::Result;

use super::nft::Nft;

/// How long a look at the neighbours' tables is good for.
const FRESH: Duration = Duration::from_secs(10);

/// Remembers when the neighbours' tables were last looked at.
#[derive(Debug, Default)]
pub(super) struct Beside {
    looked: std::sync::Mutex<Option<Instant>>,
}

impl Beside {
    /// Lets these bridges through, if the last look was a while ago.
    pub(super) async fn look_again(&self, nft: &Nft, bridges: &[String]) -> Result<()> {
        let fresh = self
            .looked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .is_some_and(|at| at.elapsed() < FRESH);
        if fresh { Ok(()) } else { self.let_through(nft, bridges).await }
    }

    /// Lets these bridges through.
    pub(super) async fn let_through(&self, nft: &Nft, bridges: &[String]) -> Result<()> {
        *self.looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
        for chain in strict_chains(nft).await? {
            let Some(listing) = nft.list(&["-a", "list", "chain", "ip", "filter", chain.name]).await? else { continue };
            let text = missing(&chain, &listing, bridges);
            if !text.is_empty() {
                nft.apply(text).await?;
            }
        }
        Ok(())
    }

    /// Removes what was inserted for a bridge.
    pub(super) async fn forget(&self, nft: &Nft, bridge: &str) -> Result<()> {
        for chain in ["DOCKER-USER", "FORWARD", "INPUT"] {
            let Some(listing) = nft.list(&["-a", "list", "chain", "ip", "filter", chain]).await? else { continue };
            let text = ours(&listing, bridge).fold(String::new(), |mut text, handle| {
                let _ = writeln!(text, "delete rule ip filter {chain} handle {handle}");
                text
            });
            if !text.is_empty() {
                nft.apply(text).await?;
            }
        }
        Ok(())
    }
}

/// A chain that would stop our packets, and the directions in which they pass it.
#[derive(Debug, PartialEq, Eq)]
struct Strict {
    name: &'static str,
    directions: &'static [&'static str],
}

async fn strict_chains(nft: &Nft) -> Result<Vec<Strict>> {
    let Some(listing) = nft.list(&["list", "chains", "ip"]).await? else { return Ok(Vec::new()) };
    Ok(find_strict(&listing))
}

fn find_strict(listing: &str) -> Vec<Strict> {
    let (mut in_filter, mut current) = (false, "");
    let (mut docker, mut forward, mut input) = (false, false, false);
    for line in listing.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix("table ip ") {
            in_filter = table.trim_end_matches([' ', '{']) == "filter";
        } else if let Some(chain) = line.strip_prefix("chain ") {
            current = chain.trim_end_matches([' ', '{']);
            docker |= in_filter && current == "DOCKER-USER";
        } else if in_filter && line.contains("policy drop") {
            forward |= current == "FORWARD";
            input |= current == "INPUT";
        }
    }
    let mut chains = Vec::new();
    if docker || forward {
        let name = if docker { "DOCKER-USER" } else { "FORWARD" };
        chains.push(Strict { name, directions: &["iifname", "oifname"] });
    }
    if input {
        chains.push(Strict { name: "INPUT", directions: &["iifname"] });
    }
    chains
}

fn missing(chain: &Strict, listing: &str, bridges: &[String]) -> String {
    let mut text = String::new();
    for bridge in bridges {
        for direction in chain.directions {
            let there =
                listing.lines().any(|l| l.contains(&format!("{direction} \"{bridge}\"")) && l.contains("accept"));
            if !there {
                let _ = writeln!(text, "insert rule ip filter {} {direction} \"{bridge}\" counter accept", chain.name);
            }
        }
    }
    text
}

fn ours<'a>(listing: &'a str, bridge: &str) -> impl Iterator<Item = &'a str> {
    let quoted = format!("ifname \"{bridge}\"");
    listing
        .lines()
        .filter(move |l| l.contains(&quoted) && l.contains("accept"))
        .filter_map(|l| Some(l.rsplit_once("# handle ")?.1.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "table ip nat {\n\tchain DOCKER {\n\t}\n}\ntable ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n\tchain DOCKER-USER {\n\t}\n}\n";
    const UFW: &str = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n";
    const OPEN: &str =
        "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";

    #[test]
    fn strict_neighbours_are_recognised() {
        let names = |text| find_strict(text).into_iter().map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(names(DOCKER), ["DOCKER-USER"]);
        assert_eq!(names(UFW), ["FORWARD", "INPUT"]);
        assert!(names(OPEN).is_empty());
        assert!(names("").is_empty());
    }

    #[test]
    fn only_what_is_missing_is_inserted_and_only_ours_is_removed() {
        let chain = &find_strict(DOCKER)[0];
        let listing = "chain DOCKER-USER {\n\t\tiifname \"yb1\" counter packets 0 bytes 0 accept # handle 7\n\t\tiifname \"eth0\" drop # handle 3\n";
        let text = missing(chain, listing, &["yb1".to_owned()]);
        assert_eq!(text, "insert rule ip filter DOCKER-USER oifname \"yb1\" counter accept\n");
        assert_eq!(ours(listing, "yb1").collect::<Vec<_>>(), ["7"]);
        assert_eq!(ours(listing, "yb2").count(), 0);
    }
}
