//! Commands on networks.

use anyhow::Result;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use yun_api::cloud::{Detach, NetworkAttach, NetworkCreate};
use yun_types::{BitRate, Invalid, Name, NameOrId, NetworkMembership};

use super::{
    Code, complete,
    connect::{Cloud, Explained},
    follow::follow,
    output,
    volume::{PATIENCE, told},
    words,
};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks
    Ls,
    /// Show a network in full, with who is in it
    Show {
        /// Its name or id
        #[arg(default_value = "default", add = ArgValueCompleter::new(complete::networks))]
        network: String,
    },
    /// Create a network
    #[command(
        after_help = "Examples:\n  yun network create back\n  yun network create db --subnet 10.99.0.0/24 --isolated\n  yun launch web app --network default --network back,alias=app"
    )]
    Create(CreateArgs),
    /// Let an instance join a network, also while it runs
    #[command(after_help = "Examples:\n  yun network attach back web --alias api --egress 10M")]
    Attach(AttachArgs),
    /// Let an instance leave a network, also while it runs
    Detach {
        /// The network
        #[arg(add = ArgValueCompleter::new(complete::networks))]
        network: String,
        /// The instance
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: String,
    },
    /// Remove networks that nobody is in
    #[command(visible_alias = "delete")]
    Rm {
        /// Names or ids
        #[arg(required = true, add = ArgValueCompleter::new(complete::networks))]
        networks: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    pub(crate) name: Name,
    /// The addresses it owns, as in 10.99.0.0/24 [default: a free range]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<String>,
    /// The largest packet
    #[arg(long)]
    pub(crate) mtu: Option<u16>,
    /// No way out of it, and none in
    #[arg(long)]
    pub(crate) isolated: bool,
    /// Free words, as in tier=db
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AttachArgs {
    /// The network
    #[arg(add = ArgValueCompleter::new(complete::networks))]
    pub(crate) network: String,
    /// The instance
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// The address to have there [default: the lowest free one]
    #[arg(long)]
    pub(crate) ip: Option<std::net::Ipv4Addr>,
    /// Another name by which others in this network find it
    #[arg(long)]
    pub(crate) alias: Vec<Name>,
    /// The most that it may send, in bits a second, as in 10M
    #[arg(long, value_name = "RATE")]
    pub(crate) egress: Option<BitRate>,
    /// The most that it may receive
    #[arg(long, value_name = "RATE")]
    pub(crate) ingress: Option<BitRate>,
}

/// Reads `NAME[,ip=ADDRESS][,alias=NAME][,egress=RATE][,ingress=RATE]`.
pub(crate) fn membership(text: &str) -> Result<NetworkMembership, Invalid> {
    let bad = |why: String| {
        Invalid(format!("network {text:?} {why}: write NAME, or NAME,ip=10.99.0.5,alias=db,egress=10M,ingress=10M"))
    };
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let mut membership =
        NetworkMembership::of(name.parse().map_err(|e: Invalid| bad(format!("has a bad name ({e})")))?);
    for part in parts {
        match part.split_once('=') {
            Some(("ip", value)) => {
                membership.address = Some(value.parse().map_err(|_| bad(format!("has the bad address {value:?}")))?);
            }
            Some(("alias", value)) => membership.aliases.push(value.parse().map_err(|e: Invalid| bad(e.0))?),
            Some(("egress", value)) => membership.egress = Some(value.parse().map_err(|e: Invalid| bad(e.0))?),
            Some(("ingress", value)) => membership.ingress = Some(value.parse().map_err(|e: Invalid| bad(e.0))?),
            _ => return Err(bad(format!("has the unknown part {part:?}"))),
        }
    }
    Ok(membership)
}

/// Carries out a command on networks.
pub(crate) async fn run(cloud: &Cloud, command: NetworkCommand) -> Result<Code> {
    let named = |word: &str| word.parse::<NameOrId>();
    let project = || cloud.project.clone();
    match command {
        NetworkCommand::Ls => {
            let page = cloud.client.network_list().project(project()).limit(1000).send().await.explained()?;
            output::list(&page.items, cloud.output, "no networks")?;
        }
        NetworkCommand::Show { network } => {
            let request = cloud.client.network_get().project(project()).network(named(&network)?);
            let network = request.send().await.explained()?;
            output::object(&network, cloud.output, network.metadata.name.as_str())?;
        }
        NetworkCommand::Create(args) => {
            let CreateArgs { name, subnet, mtu, isolated, label } = args;
            let body = NetworkCreate { name, labels: words::labels(&label)?, cidr: subnet, mtu, isolated };
            let key = format!("network-{}", uuid::Uuid::new_v4());
            let request = cloud.client.network_create().project(project()).idempotency_key(key).body(body);
            let network = request.send().await.explained()?;
            output::print_line(network.metadata.name.as_str())?;
        }
        NetworkCommand::Attach(args) => {
            let AttachArgs { network, instance, ip, alias, egress, ingress } = args;
            let body = NetworkAttach { instance: named(&instance)?, address: ip, aliases: alias, egress, ingress };
            let request = cloud.client.network_attach().project(project()).network(named(&network)?);
            let operation = request.body(body).send().await.explained()?;
            told(cloud, follow(cloud, operation, PATIENCE).await?.status.progress.message)?;
        }
        NetworkCommand::Detach { network, instance } => {
            let body = Detach { instance: named(&instance)? };
            let request = cloud.client.network_detach().project(project()).network(named(&network)?);
            let operation = request.body(body).send().await.explained()?;
            told(cloud, follow(cloud, operation, PATIENCE).await?.status.progress.message)?;
        }
        NetworkCommand::Rm { networks } => {
            for network in networks {
                cloud.client.network_delete().project(project()).network(named(&network)?).send().await.explained()?;
                output::print_line(&network)?;
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::membership;

    #[test]
    fn memberships_are_read_with_care() {
        let full = membership("back,ip=10.9.0.5,alias=db,alias=sql,egress=10M").unwrap();
        assert_eq!((full.network.as_str(), full.aliases.len(), full.ingress), ("back", 2, None));
        assert_eq!(full.address.unwrap().to_string(), "10.9.0.5");
        for (text, why) in [
            ("Back", "use lower case"),
            ("back,ip=x", "bad address"),
            ("back,speed=1", "unknown part"),
            ("back,egress=1", "8K is the least"),
        ] {
            assert!(membership(text).unwrap_err().0.contains(why), "{text}");
        }
    }
}
