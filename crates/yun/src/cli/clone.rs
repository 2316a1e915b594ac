//! `yun clone`: another instance of an instance's disk as it is now.

use anyhow::Result;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::time::{Duration, Instant};
use yun_api::cloud::InstanceClone;
use yun_types::{Name, NameOrId, NetworkMembership, PublishedPort, Size};

use super::{
    Code,
    args::parse_change,
    complete,
    connect::{Cloud, Explained},
    follow::follow,
    instance, launch, network, output, words,
};

#[derive(Debug, Clone, Args)]
pub(crate) struct CloneArgs {
    /// The instance, which may run
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    source: String,
    /// The new one's name
    name: Name,
    /// What it gets, as in memory:2G; the rest is as the other one has it
    #[arg(long, short = 's', value_parser = parse_change)]
    size: Option<String>,
    /// A network that it joins, instead of those of the other one
    #[arg(long, value_name = "NETWORK", value_parser = network::membership, add = ArgValueCompleter::new(complete::networks))]
    network: Vec<NetworkMembership>,
    /// Ports of the host that lead to it, as in 8080:80
    #[arg(long, value_name = "PORT")]
    publish: Vec<PublishedPort>,
    /// Free words, as in tier=web
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    detach: bool,
    /// How many seconds to wait until it runs
    #[arg(long, default_value = "300", value_name = "SECONDS")]
    wait: u64,
}

/// Makes another instance.
pub(crate) async fn clone(cloud: &Cloud, args: CloneArgs) -> Result<Code> {
    let begun = Instant::now();
    let size = match &args.size {
        Some(change) => Some(instance::get(cloud, &args.source).await?.spec.size.with(change)?),
        None => None::<Size>,
    };
    let body = InstanceClone {
        name: args.name.clone(),
        labels: words::labels(&args.label)?,
        size,
        networks: args.network,
        publish: args.publish,
    };
    let source: NameOrId = args.source.parse()?;
    let key = format!("clone-{}", uuid::Uuid::new_v4());
    let request = cloud.client.instance_clone().project(cloud.project.clone()).instance(source).idempotency_key(key);
    let operation = request.body(body).send().await.explained()?;
    if args.detach {
        output::print_line(&operation.metadata.id.to_string())?;
        return Ok(0);
    }
    follow(cloud, operation, Duration::from_secs(args.wait)).await?;
    let made =
        cloud.client.instance_get().project(cloud.project.clone()).instance(args.name).send().await.explained()?;
    launch::report(cloud, &made, begun.elapsed())?;
    Ok(0)
}
