//! Foreign protocols: each door gets a socket and tokens of its own. A door that cannot open takes nothing else along.

pub(super) mod ssh;

use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};
use yun_api::client::Client;
use yun_control::{core::Control, rows::StoredGateway};
use yun_doors::docker::{DockerConfig, Door, bind};
use yun_engine::{clock::Clock, tasks::Tasks};
use yun_linux::host::Host;
use yun_types::{Role, TokenSpec};

use super::config::Config;
use crate::cli::{self, context::Context};

/// Opens the doors that the configuration asks for. Where the SSH gateway listens, if it does.
pub(super) async fn start(
    config: &Config,
    host: &Host,
    control: &Arc<Control>,
    local: &Context,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
    gateway: Option<StoredGateway>,
) -> Option<SocketAddr> {
    if config.docker.enable
        && let Err(error) = docker(config, host, control, local, clock, tasks)
    {
        tracing::error!(error = format!("{error:#}"), "Docker's clients cannot be answered");
    }
    match ssh::start(config, control, local, clock, tasks, gateway?).await {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "SSH clients cannot be answered");
            None
        }
    }
}

fn docker(
    config: &Config,
    host: &Host,
    control: &Arc<Control>,
    local: &Context,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<()> {
    let project = config.docker.project.clone();
    // Docker's socket is as good as root. Who is not root gets what an editor of the project may do, and sees nodes.
    let admin = TokenSpec { cloud: Some(Role::Admin), ..TokenSpec::default() };
    let member = TokenSpec {
        cloud: Some(Role::Viewer),
        projects: BTreeMap::from([(project.clone(), Role::Editor)]),
        expires: None,
    };
    let path = host.run().join("docker.sock");
    let listener = bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let docker = DockerConfig {
        project,
        size: config.docker.size,
        admin: client(control, local, "docker", admin)?,
        member: client(control, local, "docker-group", member)?,
        clock: Arc::clone(clock),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Door::start(docker, listener, tasks);
    tracing::info!(socket = %path.display(), project = %config.docker.project, "Docker's clients are answered");
    Ok(())
}

/// A client with a token that ends with this process.
fn client(control: &Control, local: &Context, name: &str, spec: TokenSpec) -> Result<Client> {
    let secret = control.doors.admit(name, spec)?;
    cli::client(&Context { token: Some(secret), ..local.clone() })
}
