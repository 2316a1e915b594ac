//! The server: reads its configuration, wires the parts together, and runs until it is asked to stop. Instances go on without it.

pub(crate) mod config;
pub(crate) mod doctor;
mod doors;
pub(crate) mod lifecycle;
mod logging;
mod marker;
mod wiring;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use yun_linux::host::Host;

use crate::cli::args::UpArgs;
use config::Config;
pub(crate) use marker::Marker;

/// Runs the server until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: &UpArgs) -> Result<()> {
    require_root()?;
    let root = &args.root.root;
    let mut config = Config::load(&root.join("etc/yun/yun.toml"))?;
    if let Some(listen) = args.listen {
        config.api.listen = listen;
        // Who asks for any free port wants no fixed one beside it.
        if listen.port() == 0 {
            config.ssh.listen.set_port(0);
        }
    }
    logging::start(&config.log)?;
    let host = Host::open(root).with_context(|| format!("cannot use {} as the root of a cloud", root.display()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let cloud = wiring::start(&config, &host, root).await?;
    let mut marker = Marker::new(cloud.address, cloud.ssh)?;
    marker.write(&host)?;
    tracing::info!(address = %cloud.address, cloud = %host.cloud(), root = %root.display(), "the cloud is up");

    let ended = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    let joining = async {
        cloud.joined().await;
        marker.joined = true;
        if let Err(error) = marker.write(&host) {
            tracing::warn!(%error, "who waits for this machine to join its pool waits in vain");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! { () = ended => {}, () = joining => {} }
    tracing::info!("asked to stop: instances go on without me");
    cloud.stop().await;
    Marker::remove(&host);
    Ok(())
}

/// Only root can make networks, mounts and cgroups.
pub(crate) fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "yun needs root to make networks, VMs and containers: run it with sudo (commands that only talk to a server do not need root)"
        );
    }
    Ok(())
}
