//! Ending everything on a node while no agent runs: what `yun down` does after the server has stopped.
//!
//! To the next agent it looks like a host that went down and came up again: data is there, processes and connections are not, and what
//! should run is started again. Nothing is removed that would be missed.

use crate::{
    agent::StartError,
    config::{AgentConfig, Drivers},
    decide::grace,
    ledger::{Entry, Ledger},
};
use futures::{StreamExt, stream};
use yun_drivers::{NetworkDriver, Observed, Result};

/// How many instances are ended side by side.
const TOGETHER: usize = 32;

/// Ends every instance in the ledger, disconnects it, and removes the networks. Answers how many ran. One that cannot be ended is told in
/// the log, and the rest goes on; calling it again tries again.
pub async fn halt(config: &AgentConfig, drivers: &Drivers) -> Result<usize, StartError> {
    let failed = |source| StartError { path: config.state.clone(), source };
    let ledger = Ledger::open(&config.state).map_err(failed)?;
    let remembered = ledger.load().map_err(failed)?;
    let ended: Vec<bool> = stream::iter(remembered.instances)
        .map(async |entry| {
            let name = entry.desired.name.clone();
            halt_one(&ledger, drivers, entry).await.unwrap_or_else(|error| {
                tracing::error!(instance = %name, %error, "could not be ended");
                false
            })
        })
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    for network in remembered.networks {
        if let Err(error) = drivers.network.remove(network.id).await {
            tracing::error!(network = %network.id, %error, "could not be removed");
        }
    }
    Ok(ended.into_iter().filter(|ran| *ran).count())
}

async fn halt_one(ledger: &Ledger, drivers: &Drivers, mut entry: Entry) -> Result<bool> {
    let ran = match &entry.handle {
        Some(handle) => {
            let driver = drivers.of(entry.desired.kind);
            let ran = matches!(driver.recover(handle).await?, Observed::Running { .. } | Observed::Paused { .. });
            // A stop drops the memory of one that was saved.
            if ran || !entry.hibernated {
                driver.stop(handle, grace(&entry)).await?;
            }
            ran
        }
        None => false,
    };
    disconnect(drivers.network.as_ref(), &entry).await?;
    // The mark of another boot: what is named here is gone, and was not ended by anybody's wish.
    entry.boot_id = String::new();
    entry.attachment = None;
    ledger.write(&entry).map_err(|e| yun_drivers::DriverError::io("write the ledger", e))?;
    Ok(ran)
}

async fn disconnect(network: &dyn NetworkDriver, entry: &Entry) -> Result<()> {
    network.detach(entry.id()).await
}
