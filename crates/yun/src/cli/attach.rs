//! `yun attach`, and launches whose main process is attached to from its first byte on.

use anyhow::{Result, bail};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::{io::IsTerminal, time::Duration};
use yun_api::{cloud::InstanceAction, frames};
use yun_engine::session::{Output, Session};
use yun_types::{Instance, InstanceKind, Name, NameOrId};

use super::{
    Code, complete,
    connect::{Cloud, Explained, websocket},
    follow::follow,
    instance::get,
    session,
    terminal::{self, Keys, Manner},
};

/// What is attached to.
#[derive(Debug, Clone, Args)]
pub(crate) struct AttachArgs {
    /// The container
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// Only listen
    #[arg(long)]
    pub(crate) no_stdin: bool,
}

/// Connects this terminal to the main process of a container.
pub(crate) async fn attach(cloud: &Cloud, args: AttachArgs) -> Result<Code> {
    let instance = get(cloud, &args.instance).await?;
    let name = &instance.metadata.name;
    if instance.spec.kind == Some(InstanceKind::Vm) {
        bail!("instance {name} is a VM and has no main process: use yun console {name} or yun ssh {name}");
    }
    let options = &instance.spec.container;
    if options.stdin.is_closed() && !args.no_stdin {
        eprintln!(
            "{name} has no standard input (yun launch -i gives one): this only listens; yun exec -it {name} -- sh works inside"
        );
    }
    let input = !args.no_stdin && !options.stdin.is_closed();
    let open = open(cloud, name, input, options.tty, false).await?;
    let code = open.carry(input, options.tty).await?;
    Ok(code.unwrap_or_else(|| {
        eprintln!("\nleft {name}, which goes on; yun attach {name} comes back");
        0
    }))
}

/// A session that misses nothing any more.
struct Open {
    session: Session,
    carrier: tokio::task::JoinHandle<Option<u16>>,
}

async fn open(cloud: &Cloud, name: &Name, stdin: bool, tty: bool, wait: bool) -> Result<Open> {
    let name = NameOrId::Name(name.clone());
    let mut request =
        cloud.client.instance_attach().project(cloud.project.clone()).instance(name).stdin(stdin).wait(wait);
    if tty {
        let size = terminal::size();
        request = request.terminal(format!("{}x{}", size.columns, size.rows));
    }
    let (mut session, carrier) = frames::connect(websocket(request.send().await).await?);
    let carrier = tokio::spawn(carrier);
    match session.output.recv().await {
        Some(Output::Error(why)) => match tokio::time::timeout(Duration::from_secs(1), carrier).await {
            Ok(Ok(Some(status))) => Err(super::connect::refused(status, why, None)),
            _ => bail!(why),
        },
        Some(_) => Ok(Open { session, carrier }),
        None => bail!("the session ended before it began: the server went away"),
    }
}

impl Open {
    /// Carries it to its end; the exit code of the process, or `None` if the person left.
    async fn carry(self, input: bool, tty: bool) -> Result<Option<Code>> {
        let leave = tty.then_some(Keys::Attached);
        let manner = Manner { input, terminal: tty && std::io::stdin().is_terminal(), leave, signals: !tty };
        let exit = session::carried(self.session, self.carrier, manner).await?;
        Ok(exit.map(|exit| u8::try_from(exit.code).unwrap_or(255)))
    }
}

/// Starts a container that was made and does not run, attached to it from its first byte on; its exit code becomes ours.
pub(crate) async fn first(cloud: &Cloud, instance: &Instance, limit: Duration) -> Result<Code> {
    let (name, tty) = (&instance.metadata.name, instance.spec.container.tty);
    let open = open(cloud, name, true, tty, true).await?;
    let request = cloud.client.instance_action().project(cloud.project.clone()).instance(name.clone());
    let operation = request.action(InstanceAction::Start).send().await.explained()?;
    let carried = open.carry(true, tty);
    tokio::pin!(carried);
    let code = tokio::select! {
        // Some end before their start is told.
        code = &mut carried => code?,
        started = follow(cloud, operation, limit) => {
            started?;
            carried.await?
        }
    };
    Ok(code.unwrap_or_else(|| {
        eprintln!("\nleft {name}, which goes on; yun attach {name} comes back");
        0
    }))
}
