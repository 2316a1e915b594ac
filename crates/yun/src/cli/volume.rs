//! Commands on volumes, and the flags by which instances get volumes and networks.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::time::Duration;
use yun_api::cloud::{Detach, VolumeAttach, VolumeCreate, VolumeUpdate};
use yun_types::{
    BitRate, Bytes, Name, NameOrId, NetworkMembership, Volume, VolumeKind, VolumeLimits, VolumeMount, VolumeSpec,
    VolumeState,
};

use super::{
    Code, complete,
    connect::{Cloud, Explained},
    follow::follow,
    network, output, words,
};

/// How long an attachment is followed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes
    Ls,
    /// Show a volume in full, with who has it
    Show {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
    },
    /// Create a volume
    #[command(
        after_help = "Examples:\n  yun volume create data --size 10G                  a directory, for containers\n  yun volume create disk --kind block --size 20G     a disk, for a VM\n  yun launch web app --volume data:/var/lib/data"
    )]
    Create(CreateArgs),
    /// Make a volume larger; instances that run with it notice at once
    #[command(after_help = "Examples:\n  yun volume resize data 20G")]
    Resize {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// The new size
        size: Bytes,
    },
    /// Limit how fast a block volume may be
    #[command(
        after_help = "Examples:\n  yun volume limit disk --iops 500 --bps 20M\n  yun volume limit disk      no limits any more"
    )]
    Limit {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// Reads and writes in a second
        #[arg(long)]
        iops: Option<u32>,
        /// Bytes in a second
        #[arg(long)]
        bps: Option<Bytes>,
    },
    /// Give a volume to an instance, also while it runs
    #[command(
        after_help = "Examples:\n  yun volume attach data web:/var/lib/data\n  yun volume attach disk vm1        found there as /dev/disk/by-id/virtio-disk"
    )]
    Attach {
        /// The volume
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// The instance, and for a container the path inside: INSTANCE[:PATH]
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: String,
        /// Let it only read
        #[arg(long)]
        read_only: bool,
    },
    /// Take a volume away from an instance, also while it runs
    #[command(after_help = "Examples:\n  yun volume detach data web")]
    Detach {
        /// The volume
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// The instance
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: String,
    },
    /// Remove volumes with their data
    #[command(visible_alias = "delete")]
    Rm {
        /// Names or ids
        #[arg(required = true, add = ArgValueCompleter::new(complete::volumes))]
        volumes: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    pub(crate) name: Name,
    /// A directory for containers, or a disk for a VM
    #[arg(long, value_enum, default_value = "directory")]
    pub(crate) kind: Kind,
    /// How much it may hold
    #[arg(long, short = 's', default_value = "1Gi")]
    pub(crate) size: Bytes,
    /// Block volumes: reads and writes in a second
    #[arg(long)]
    pub(crate) iops: Option<u32>,
    /// Block volumes: bytes in a second
    #[arg(long)]
    pub(crate) bps: Option<Bytes>,
    /// The node that keeps it
    #[arg(long, add = ArgValueCompleter::new(complete::nodes))]
    pub(crate) node: Option<Name>,
    /// Free words, as in tier=db
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
}

/// Kinds of volume.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// A directory, for containers
    Directory,
    /// A disk, for a VM
    Block,
}

/// The flags of `launch` for what is plugged into an instance.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Volumes and networks")]
pub(crate) struct PlugArgs {
    /// A volume: NAME:PATH[:ro] for a container, NAME for a VM, PATH for one that goes away with the container
    #[arg(long, value_name = "VOLUME")]
    pub(crate) volume: Vec<VolumeMount>,
    /// A network: NAME[,ip=ADDRESS][,alias=NAME][,egress=RATE][,ingress=RATE]; the first one has the way out and the ports
    #[arg(long, value_name = "NETWORK", value_parser = network::membership, add = ArgValueCompleter::new(complete::networks))]
    pub(crate) network: Vec<NetworkMembership>,
    /// The most that it may send, in bits a second, as in 10M
    #[arg(long, value_name = "RATE")]
    pub(crate) egress: Option<BitRate>,
    /// The most that it may receive
    #[arg(long, value_name = "RATE")]
    pub(crate) ingress: Option<BitRate>,
}

impl PlugArgs {
    /// The networks that were asked for; none at all means the default one.
    pub(crate) fn networks(&self) -> Result<Vec<NetworkMembership>> {
        let mut all = self.network.clone();
        if all.is_empty() && (self.egress.is_some() || self.ingress.is_some()) {
            all.push(NetworkMembership::of("default".parse()?));
        }
        for membership in &mut all {
            membership.egress = membership.egress.or(self.egress);
            membership.ingress = membership.ingress.or(self.ingress);
        }
        Ok(all)
    }
}

/// Carries out a command on volumes.
pub(crate) async fn run(cloud: &Cloud, command: VolumeCommand) -> Result<Code> {
    match command {
        VolumeCommand::Ls => {
            let page =
                cloud.client.volume_list().project(cloud.project.clone()).limit(1000).send().await.explained()?;
            output::list(&page.items, cloud.output, "no volumes: make one with yun volume create data --size 10G")?;
        }
        VolumeCommand::Show { volume } => {
            let volume = get(cloud, &volume).await?;
            output::object(&volume, cloud.output, volume.metadata.name.as_str())?;
        }
        VolumeCommand::Create(args) => return create(cloud, args).await,
        VolumeCommand::Resize { volume, size } => {
            let volume = change(cloud, &volume, |spec| spec.size = size).await?;
            output::print_line(&format!("volume {} has {}", volume.metadata.name, volume.spec.size.human()))?;
        }
        VolumeCommand::Limit { volume, iops, bps } => {
            let volume = change(cloud, &volume, |spec| spec.limits = VolumeLimits { iops, bps }).await?;
            output::print_line(volume.metadata.name.as_str())?;
        }
        VolumeCommand::Attach { volume, instance, read_only } => {
            let (instance, target) = match instance.split_once(':') {
                Some((instance, target)) => (instance.to_owned(), Some(target.to_owned())),
                None => (instance, None),
            };
            let body = VolumeAttach { instance: instance.parse()?, target, read_only };
            let request =
                cloud.client.volume_attach().project(cloud.project.clone()).volume(volume.parse::<NameOrId>()?);
            let operation = request.body(body).send().await.explained()?;
            told(cloud, follow(cloud, operation, PATIENCE).await?.status.progress.message)?;
        }
        VolumeCommand::Detach { volume, instance } => {
            let body = Detach { instance: instance.parse()? };
            let request =
                cloud.client.volume_detach().project(cloud.project.clone()).volume(volume.parse::<NameOrId>()?);
            let operation = request.body(body).send().await.explained()?;
            told(cloud, follow(cloud, operation, PATIENCE).await?.status.progress.message)?;
        }
        VolumeCommand::Rm { volumes } => {
            for volume in volumes {
                let request = cloud.client.volume_delete().project(cloud.project.clone());
                request.volume(volume.parse::<NameOrId>()?).send().await.explained()?;
                output::print_line(&volume)?;
            }
        }
    }
    Ok(0)
}

/// What an operation said at its end.
pub(crate) fn told(cloud: &Cloud, message: String) -> Result<()> {
    if cloud.quiet { Ok(()) } else { output::print_line(&message) }
}

async fn get(cloud: &Cloud, word: &str) -> Result<Volume> {
    let request = cloud.client.volume_get().project(cloud.project.clone()).volume(word.parse::<NameOrId>()?);
    request.send().await.explained()
}

async fn create(cloud: &Cloud, args: CreateArgs) -> Result<Code> {
    let kind = match args.kind {
        Kind::Directory => VolumeKind::Directory,
        Kind::Block => VolumeKind::Block,
    };
    let limits = VolumeLimits { iops: args.iops, bps: args.bps };
    let spec = VolumeSpec { kind, size: args.size, limits, node: args.node };
    let body = VolumeCreate { name: args.name, labels: words::labels(&args.label)?, spec };
    let key = format!("volume-{}", uuid::Uuid::new_v4());
    let request = cloud.client.volume_create().project(cloud.project.clone()).idempotency_key(key).body(body);
    let volume = request.send().await.explained()?;
    if volume.status.state == VolumeState::Failed {
        let why = volume.status.message.clone().unwrap_or_default();
        anyhow::bail!("volume {} could not be made yet: {why}; it is tried again", volume.metadata.name);
    }
    output::print_line(volume.metadata.name.as_str())?;
    Ok(0)
}

async fn change(cloud: &Cloud, word: &str, change: impl FnOnce(&mut VolumeSpec)) -> Result<Volume> {
    let volume = get(cloud, word).await?;
    let mut spec = volume.spec.clone();
    change(&mut spec);
    let body = VolumeUpdate { labels: volume.metadata.labels.clone(), spec };
    let request = cloud.client.volume_update().project(cloud.project.clone()).volume(word.parse::<NameOrId>()?);
    request.if_match(volume.metadata.revision).body(body).send().await.explained()
}
