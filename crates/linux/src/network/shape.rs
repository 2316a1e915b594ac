//! How fast an interface may be: what an instance receives is queued by a token bucket on its port of the bridge. What it sends is limited
//! by a rule in its network's table ([`super::rules`]), because nothing can be queued on the way in.

use crate::command::Program;
use std::time::Duration;
use yun_drivers::Result;
use yun_types::BitRate;

const TC: Program<'static> = Program { name: "tc", package: "iproute2", limit: Duration::from_secs(10) };

/// How many bytes may come at once: 20 ms worth, and never less than a few large packets.
pub(super) fn burst(rate: BitRate) -> u64 {
    (rate.bits() / 8 / 50).max(64_000)
}

/// Limits what the instance behind a port receives, or lets it receive everything.
pub(super) async fn receive(port: &str, rate: Option<BitRate>) -> Result<()> {
    match rate {
        Some(rate) => {
            let (bits, burst) = (format!("{}bit", rate.bits()), burst(rate).to_string());
            let words =
                ["qdisc", "replace", "dev", port, "root", "tbf", "rate", &bits, "burst", &burst, "latency", "50ms"];
            TC.run(&words, None).await.map(drop)
        }
        None => {
            // Nothing there is as it should be.
            let _ = TC.run(&["qdisc", "del", "dev", port, "root"], None).await;
            Ok(())
        }
    }
}
