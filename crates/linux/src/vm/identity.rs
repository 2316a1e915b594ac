//! A guest that goes on with the memory of another one is told who it is: its name, its hardware addresses and its places in the networks,
//! keys of its own, and randomness that no twin shares. Until then its packets carry another one's addresses, which the network drops.

use super::{
    answer,
    files::{Connection, Plan, read_json},
    guest::Agent,
    machine::Machine,
    plug,
};
use crate::host::Host;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use yun_drivers::{DriverError, ErrorKind, Fittings, Result};

/// What is run inside. A guest that can read its settings again by itself does so: `/etc/yun/identity` is in the small VM.
const SCRIPT: &str = include_str!("identity.sh");
/// How long the agent may take to show that it is there.
const MEET: Duration = Duration::from_secs(3);
/// How long the guest may take to become another one.
const CHANGE: Duration = Duration::from_secs(60);
/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// What a guest that goes on has to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Wish {
    /// The hardware addresses that it knows, in the order of its interfaces.
    pub(super) macs: Vec<String>,
    /// Whether it stays the machine that it was: only its places in the networks are others.
    #[serde(default)]
    pub(super) same: bool,
}

/// Resolves when the guest knows who it is, if it has to be told, and answers on its network.
pub(super) async fn then_answer(
    host: &Host,
    machine: &Machine,
    plan: &Plan,
    network: &Connection,
    deadline: Duration,
) -> Result<()> {
    let end = Instant::now() + deadline;
    while machine.files.identity().exists() {
        match tell(machine, plan, network).await {
            Ok(()) => break,
            Err(error) if Instant::now() + AGAIN > end => return Err(error),
            Err(error) => tracing::debug!(vm = %plan.name, %error, "a guest could not be told who it is; trying again"),
        }
        sleep(AGAIN).await;
    }
    answer::wait(host, network).await;
    Ok(())
}

/// Each place in a network in one word: the hardware address that the guest knows, the one it has, address, gateway, MTU. The first of them
/// is the one with the way out.
fn places(first: &Connection, more: &Fittings, before: &[String]) -> Vec<String> {
    let word = |known: &str, mac: &str, address: String, gateway: String, mtu: u16| {
        format!("{},{},{address},{gateway},{mtu}", known.to_ascii_lowercase(), mac.to_ascii_lowercase())
    };
    let mut known = before.iter();
    let mut next = |mac: &str| known.next().map_or_else(|| mac.to_owned(), Clone::clone);
    let gateway = first.gateway.map_or_else(String::new, |gateway| gateway.to_string());
    let address = format!("{}/{}", first.address, first.prefix.unwrap_or(24));
    let mut words = vec![word(&next(&first.mac), &first.mac, address, gateway, first.mtu)];
    for attachment in plug::in_order(more) {
        let (nic, prefix) = (&attachment.nic, attachment.cidr.prefix_len());
        let address = format!("{}/{prefix}", nic.address);
        words.push(word(&next(&nic.mac), &nic.mac, address, String::new(), attachment.mtu));
    }
    words
}

async fn tell(machine: &Machine, plan: &Plan, network: &Connection) -> Result<()> {
    let failed = |why: String| {
        let name = &plan.name;
        let message = format!(
            "VM {name} goes on with the memory of another one and does not know who it is: {why}; its image needs qemu-guest-agent, and a template without memory needs none"
        );
        DriverError::new(ErrorKind::Timeout, "BootTimeout", message)
    };
    let mut agent = Agent::meet(&machine.files.agent(), MEET).await.map_err(|e| failed(e.to_string()))?;
    let seed: String = (0..8).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
    let words = ["/bin/sh", "-s", "--"].map(str::to_owned).into_iter();
    let wish: Wish = read_json(&machine.files.identity()).unwrap_or_default();
    let id = if wish.same { "-".to_owned() } else { plan.id.0.simple().to_string() };
    let facts = [plan.name.to_string(), id, seed];
    let words: Vec<String> = words.chain(facts).chain(places(network, &machine.files.fittings(), &wish.macs)).collect();
    let done = agent.run(&words, SCRIPT.as_bytes(), CHANGE).await.map_err(|e| failed(e.to_string()))?;
    if done.code != Ok(0) {
        return Err(failed(format!("its change failed with {:?}: {}", done.code, String::from_utf8_lossy(&done.err))));
    }
    match std::fs::remove_file(machine.files.identity()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DriverError::io("note that a VM knows who it is", e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::cidata::tests::attachment;
    use yun_types::Nic;

    #[test]
    fn interfaces_are_known_by_what_they_were() {
        let first = Connection {
            network: attachment().network,
            tap: "yt1".into(),
            mac: "02:AA:00:00:00:01".into(),
            address: "10.77.3.5".parse().unwrap(),
            prefix: Some(20),
            gateway: Some("10.77.3.1".parse().unwrap()),
            mtu: 1450,
        };
        let card = |index: u32| {
            let there = attachment();
            let mac = format!("02:aa:00:00:00:0{index}");
            yun_drivers::Attachment { nic: Nic { index, mac, ..there.nic.clone() }, ..there }
        };
        let more = Fittings { volumes: vec![], interfaces: vec![card(3), card(2)] };
        let before = ["02:BB:00:00:00:01".to_owned(), "02:bb:00:00:00:02".to_owned()];
        let words = places(&first, &more, &before);
        assert_eq!(words[0], "02:bb:00:00:00:01,02:aa:00:00:00:01,10.77.3.5/20,10.77.3.1,1450");
        assert_eq!(words[1], "02:bb:00:00:00:02,02:aa:00:00:00:02,10.77.3.5/24,,1450");
        // One that came since has been itself all the time.
        assert!(words[2].starts_with("02:aa:00:00:00:03,02:aa:00:00:00:03,"), "{words:?}");
    }
}
