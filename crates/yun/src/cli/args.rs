//! The command line: every command, flag and example. It parses and does nothing else.

use clap::{Args, Parser, Subcommand, ValueEnum, builder::styling};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;
use yun_types::{Name, PublishedPort, RestartPolicy, Role, Size, SnapshotName};

use super::{
    complete,
    container::args::{CommitArgs, CopyArgs, HealthArgs, IsolationArgs},
    network::NetworkCommand,
    snapshot::SnapshotCommand,
    ssh_key::SshKeyCommand,
    usage::args::{StatsArgs, TopArgs},
    volume::{PlugArgs, VolumeCommand},
};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default());

/// yun turns Linux machines into a cloud: VMs and containers from one pool, under one API.
#[derive(Debug, Parser)]
#[command(name = "yun", version, styles = STYLES, propagate_version = true, arg_required_else_help = true, max_term_width = 110,
    after_help = "Start here:\n  yun up                              start the cloud on this machine\n  yun image build small-vm small      make a VM image from Debian packages\n  yun launch small vm1                launch a VM from it\n  yun ssh vm1                         log in\n\nyun COMMAND --help shows examples for each command.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The server, as in https://127.0.0.1:7443
    #[arg(long, global = true, env = "YUN_HOST", help_heading = "Connection")]
    pub(crate) host: Option<String>,
    /// The token to show it (better in the environment or a context than on the command line)
    #[arg(long, global = true, env = "YUN_TOKEN", hide_env_values = true, help_heading = "Connection")]
    pub(crate) token: Option<String>,
    /// The context to use instead of the current one
    #[arg(long, global = true, env = "YUN_CONTEXT", help_heading = "Connection")]
    pub(crate) context: Option<String>,
    /// The file that contexts are kept in [default: ~/.config/yun/config.toml]
    #[arg(long, global = true, env = "YUN_CONFIG", help_heading = "Connection")]
    pub(crate) config: Option<PathBuf>,
    /// The project [default: that of the context, else "default"]
    #[arg(long, short = 'p', global = true, env = "YUN_PROJECT", help_heading = "Connection")]
    pub(crate) project: Option<Name>,
    /// How to print
    #[arg(long, short = 'o', global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// Print less
    #[arg(long, short = 'q', global = true)]
    pub(crate) quiet: bool,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// JSON, as the API has it
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one for each run of the program")]
pub(crate) enum Command {
    /// Start the cloud on this machine, or find it running
    #[command(after_help = "Examples:\n  yun up\n  yun up --root /srv/cloud2 --listen 127.0.0.1:0")]
    Up(UpArgs),
    /// Stop the cloud on this machine and everything that it runs; nothing is left behind but its data
    Down(RootArgs),
    /// Tell whether the cloud on this machine runs, and what is in it
    Status(RootArgs),
    /// Run the server in the foreground (what `up` starts)
    #[command(hide = true)]
    Server(UpArgs),
    /// Create and start an instance
    #[command(
        after_help = "Examples:\n  yun launch small vm1 --size cpu:1,memory:512M,disk:2G\n  yun launch busybox web --publish 8080:80 -- httpd -f -p 80 -h /www\n  yun launch web app --volume data:/var/lib/data --network default --network back\n  yun launch debian-vm box --user-data cloud.yaml --detach\n  yun launch -it busybox shell -- sh\n  yun launch --template vm1/warm vm2         a machine that is up at once"
    )]
    Launch(Box<LaunchArgs>),
    /// List instances
    Ls(LsArgs),
    /// Show an instance in full
    Show(OneInstance),
    /// Start instances
    Start(ManyInstances),
    /// Stop instances; their disks stay
    Stop(StopArgs),
    /// Stop and start instances
    Restart(StopArgs),
    /// Freeze instances in memory
    Pause(ManyInstances),
    /// Let frozen instances go on
    Resume(ManyInstances),
    /// Save running VMs to disk with their memory, and end them; yun start lets them go on where they were
    Hibernate(ManyInstances),
    /// Make another VM of a VM's disk as it is now, with an identity of its own
    #[command(after_help = "Examples:\n  yun clone vm1 vm2\n  yun clone vm1 vm2 --size memory:2G --publish 2222:22")]
    Clone(super::clone::CloneArgs),
    /// Remove instances and their disks
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  yun rm web\n  yun rm -f web vm1      also when they run"
    )]
    Rm(RmArgs),
    /// Change an instance
    #[command(
        after_help = "Examples:\n  yun set web --size cpu:2,memory:1G,disk:2G\n  yun set web --publish 8081:80 --restart never"
    )]
    Set(SetArgs),
    /// Run a command in an instance; in a VM its guest agent does, without a terminal (yun ssh has one)
    #[command(
        after_help = "Examples:\n  yun exec web -- ls -l /\n  yun exec -it web -- sh\n  yun exec vm1 -- uname -a"
    )]
    Exec(ExecArgs),
    /// Connect this terminal to the main process of a container (leave with Ctrl-p Ctrl-q)
    #[command(
        after_help = "Examples:\n  yun launch -it box shell -- sh\n  yun attach shell\n  yun launch -i box count -- wc -l < file"
    )]
    Attach(super::attach::AttachArgs),
    /// Make an image of what the files of a container are now
    #[command(after_help = "Examples:\n  yun commit web web-2\n  yun launch web-2 copy")]
    Commit(CommitArgs),
    /// Copy files into an instance or out of it
    #[command(
        after_help = "Examples:\n  yun cp site web:/srv\n  yun cp web:/etc/hosts hosts.web\n  yun cp web:/var/log - | tar -tv"
    )]
    Cp(CopyArgs),
    /// Log in to an instance by SSH; what follows `--` goes to ssh or is run there
    #[command(after_help = "Examples:\n  yun ssh vm1\n  yun ssh vm1 -- uname -a\n  yun ssh --user debian box")]
    Ssh(SshArgs),
    /// Open the serial console of a VM (leave with Ctrl-a q)
    Console(OneInstance),
    /// Print what an instance wrote
    #[command(after_help = "Examples:\n  yun logs web --tail 20\n  yun logs -f web --since 10m")]
    Logs(LogsArgs),
    /// Show what instances and nodes use now
    #[command(
        after_help = "Examples:\n  yun top\n  yun top -A --sort memory\n  yun top --once -o json\n  yun top --nodes"
    )]
    Top(TopArgs),
    /// Show how an instance or a node was used over time
    #[command(
        after_help = "Examples:\n  yun stats web\n  yun stats web --since 1d -m cpu,memory\n  yun stats --node alpha --since 7d\n  yun stats web --since 1h -o json"
    )]
    Stats(StatsArgs),
    /// Print what happened
    #[command(
        after_help = "Examples:\n  yun events -f\n  yun events --object web --tail 50\n  yun events --warnings --since 1d --kind instance"
    )]
    Events(EventsArgs),
    /// Say why something is as it is
    #[command(after_help = "Examples:\n  yun explain instance web\n  yun explain group web")]
    Explain(ExplainArgs),
    /// Make it so: create and change what files say
    #[command(
        after_help = "Examples:\n  yun apply -f web.yaml\n  yun apply -f cloud/ --set shop --prune\n  yun show web -o yaml | yun apply -f - --dry-run"
    )]
    Apply(super::apply::args::ApplyArgs),
    /// Compose files: their services as instances and groups
    #[command(
        after_help = "Examples:\n  yun compose up -d\n  yun compose logs -f\n  yun compose -f shop/compose.yaml ps\n  yun compose down"
    )]
    Compose(super::compose::args::ComposeArgs),
    /// Show what `apply` would change; ends with 1 if there is something
    #[command(after_help = "Examples:\n  yun diff -f web.yaml")]
    Diff(super::apply::args::FileArgs),
    /// Print the JSON schema of the files for `apply`, for editors
    #[command(
        after_help = "Examples:\n  yun schema > yun.schema.json      then, as the first line of a file:\n  # yaml-language-server: $schema=yun.schema.json"
    )]
    Schema,
    /// Groups: like instances that are kept alive and changed a few at a time
    #[command(subcommand)]
    Group(super::group::args::GroupCommand),
    /// Backups of this machine: the state and the instances
    #[command(subcommand)]
    Backup(Box<crate::backup::args::BackupCommand>),
    /// Replay traces of real clusters against the scheduler; needs no server
    #[command(
        subcommand,
        after_help = "Examples:\n  yun simulate openb --nodes nodes.csv --tasks tasks.csv --seeds 42-51 -o json"
    )]
    Simulate(super::simulate::args::SimulateCommand),
    /// Images: what instances start from
    #[command(subcommand)]
    Image(super::image::args::ImageCommand),
    /// Show the pool: what there is, what is promised and used of it, and the share of each project
    #[command(
        after_help = "Examples:\n  yun pool\n  yun pool -o json\n  yun project weight lab 3   (waiting instances of lab get three turns for one)"
    )]
    Pool,
    /// Snapshots: instances as they were at one moment
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(SnapshotCommand),
    /// Nodes: the machines of the pool
    #[command(subcommand)]
    Node(NodeCommand),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Volumes: data that outlives instances
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Projects: the tenants
    #[command(subcommand)]
    Project(ProjectCommand),
    /// SSH keys: who may enter a project's instances with ssh, scp and sftp
    #[command(subcommand)]
    SshKey(SshKeyCommand),
    /// Tokens: who may do what
    #[command(subcommand)]
    Token(TokenCommand),
    /// Operations: long work
    #[command(subcommand, visible_alias = "op")]
    Operation(OperationCommand),
    /// Contexts: which cloud this command line talks to
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print who changed what
    #[command(
        after_help = "Examples:\n  yun audit\n  yun audit --refused --since 1d\n  yun audit --by ci --object web"
    )]
    Audit(AuditArgs),
    /// Print the server's background work
    Tasks,
    /// Print a script that completes commands and live names
    #[command(
        after_help = "Examples:\n  source <(yun completion bash)\n  yun completion zsh > ~/.zfunc/_yun\n  yun completion fish > ~/.config/fish/completions/yun.fish"
    )]
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Check this machine, and say how to mend what is wrong
    Doctor(RootArgs),
    /// Connect standard input and output to a port of an instance (for ssh's ProxyCommand)
    Dial {
        /// The instance
        #[arg(add = ArgValueCompleter::new(complete::instances))]
        instance: String,
        /// The TCP port inside
        port: u16,
    },
}

/// Shells that completion knows.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RootArgs {
    /// Keep everything under this directory instead of / (several clouds on one machine)
    #[arg(long, default_value = "/", env = "YUN_ROOT")]
    pub(crate) root: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) root: RootArgs,
    /// Listen here instead of where the configuration says; port 0 takes a free one
    #[arg(long)]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Start a daemon even where systemd runs
    #[arg(long)]
    pub(crate) no_systemd: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// The image (yun image ls), or a reference such as docker.io/library/nginx, which is pulled if it is not here; with --template, the
    /// instance's name
    #[arg(add = ArgValueCompleter::new(complete::images), required_unless_present = "template")]
    pub(crate) image: Option<String>,
    /// The instance's name [default: the image's name and a number]
    pub(crate) name: Option<Name>,
    /// Make it from a snapshot, INSTANCE/SNAPSHOT; with its memory, it goes on from there at once, as a machine of its own
    #[arg(long, value_name = "SNAPSHOT", add = ArgValueCompleter::new(complete::snapshots))]
    pub(crate) template: Option<SnapshotName>,
    /// What it gets
    #[arg(long, short = 's')]
    pub(crate) size: Option<Size>,
    /// Lead a port of the host to it: HOST:GUEST, also ADDRESS:HOST:GUEST and /udp
    #[arg(long, value_name = "PORT")]
    pub(crate) publish: Vec<PublishedPort>,
    /// What happens when it ends by itself: never, on-failure, on-failure:N, always
    #[arg(long)]
    pub(crate) restart: Option<RestartPolicy>,
    /// Free words, as in tier=web
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// The node to run on
    #[arg(long, add = ArgValueCompleter::new(complete::nodes))]
    pub(crate) node: Option<Name>,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// Seconds to wait at most
    #[arg(long, default_value = "300", value_name = "SECONDS")]
    pub(crate) wait: u64,
    #[command(flatten)]
    pub(crate) plug: PlugArgs,
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "VMs")]
pub(crate) struct VmArgs {
    /// A public key that may log in (a file, or the key itself) [default: your own in ~/.ssh, and that of yun ssh]
    #[arg(long, value_name = "FILE|KEY")]
    pub(crate) ssh_key: Vec<String>,
    /// cloud-init user data
    #[arg(long, value_name = "FILE")]
    pub(crate) user_data: Option<PathBuf>,
    /// Seconds until a guest that does not answer counts as failed
    #[arg(long, value_name = "SECONDS")]
    pub(crate) boot_timeout: Option<u32>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Containers")]
pub(crate) struct ContainerArgs {
    /// An environment variable; the value of yours if only the name is given
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Environment variables from a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Replaces the image's entrypoint
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// user, user:group, uid or uid:gid
    #[arg(long, short = 'u')]
    pub(crate) user: Option<String>,
    /// The working directory
    #[arg(long, short = 'w')]
    pub(crate) workdir: Option<String>,
    /// The signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// The most processes
    #[arg(long)]
    pub(crate) pids: Option<u32>,
    /// Give it a standard input, and attach to it unless with --detach
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// A directory of the host: SOURCE:TARGET[:ro] (administrators only)
    #[arg(long, short = 'v', value_name = "MOUNT")]
    pub(crate) mount: Vec<String>,
    /// Memory that goes away with it: TARGET[:SIZE]
    #[arg(long, value_name = "TARGET")]
    pub(crate) tmpfs: Vec<String>,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) isolation: IsolationArgs,
    /// What to run instead of the image's command
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LsArgs {
    /// Those of all projects
    #[arg(long, short = 'A')]
    pub(crate) all_projects: bool,
    /// Only with these labels
    #[arg(long, short = 'l')]
    pub(crate) label: Option<String>,
    /// Go on with changes
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OneInstance {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ManyInstances {
    /// Names or ids
    #[arg(required = true, add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instances: Vec<String>,
    /// Return at once with the operations' ids
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) many: ManyInstances,
    /// Seconds between the polite request and the end
    #[arg(long, short = 't')]
    pub(crate) timeout: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    pub(crate) many: ManyInstances,
    /// Also when they run
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SetArgs {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// What it gets; parts that are left out stay as they are
    #[arg(long, short = 's', value_parser = parse_change)]
    pub(crate) size: Option<String>,
    /// Its published ports, all of them ("none" for none)
    #[arg(long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// What happens when it ends by itself
    #[arg(long)]
    pub(crate) restart: Option<RestartPolicy>,
    /// Adds or replaces labels (KEY- removes one)
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Adds or replaces environment variables (NAME- removes one)
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) isolation: IsolationArgs,
    /// Return at once with the operation's id
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// An environment variable
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Instead of the container's user
    #[arg(long, short = 'u')]
    pub(crate) user: Option<String>,
    /// Instead of the container's working directory
    #[arg(long, short = 'w')]
    pub(crate) workdir: Option<String>,
    /// What to run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SshArgs {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// The user to log in as
    #[arg(long, short = 'l', default_value = "root")]
    pub(crate) user: String,
    /// The port of its SSH server
    #[arg(long, default_value = "22")]
    pub(crate) port: u16,
    /// Try for so many seconds, while it boots
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    pub(crate) wait: u64,
    /// For ssh: its own flags, then what to run
    #[arg(last = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) instance: String,
    /// Go on with new lines
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only the last so many lines
    #[arg(long, short = 'n')]
    pub(crate) tail: Option<u64>,
    /// Only lines since then: 10m, 2h, 1d, or a time as in 2026-01-31T12:00:00Z
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Print the time of each line
    #[arg(long, short = 't')]
    pub(crate) timestamps: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// Go on with new events
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only of this object
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// Only of objects of this kind
    #[arg(long, value_parser = ["cloud", "group", "image", "instance", "network", "node", "operation", "project", "token", "volume"])]
    pub(crate) kind: Option<String>,
    /// Only those that ask for attention
    #[arg(long, short = 'W')]
    pub(crate) warnings: bool,
    /// Only with this reason, as in OutOfMemory
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only since then: 10m, 2h, 1d, or a time as in 2026-01-31T12:00:00Z
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// The last so many
    #[arg(long, short = 'n', default_value = "50")]
    pub(crate) tail: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditArgs {
    /// Only what the holder of this token did
    #[arg(long)]
    pub(crate) by: Option<String>,
    /// Only this operation of the API, as in instance_create
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only what was asked of this object
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// Only what was refused
    #[arg(long)]
    pub(crate) refused: bool,
    /// Only since then: 10m, 2h, 1d, or a time as in 2026-01-31T12:00:00Z
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// The last so many
    #[arg(long, short = 'n', default_value = "50")]
    pub(crate) tail: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainArgs {
    /// What kind of thing
    #[arg(value_enum)]
    pub(crate) kind: Explainable,
    /// Its name or id
    #[arg(add = ArgValueCompleter::new(complete::instances))]
    pub(crate) name: String,
}

/// What `explain` knows.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Explainable {
    /// Why an instance is where it is, or waits
    Instance,
    /// Why a group is as it is, and what comes next
    Group,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List nodes
    Ls,
    /// Show a node in full
    Show {
        /// Its name or id [default: the only one]
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        node: Option<String>,
    },
    /// Place nothing new on a node
    Cordon {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        node: String,
    },
    /// Place on a node again
    Uncordon {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// List projects
    Ls,
    /// Show a project in full
    Show {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::projects))]
        name: Name,
    },
    /// Create a project
    #[command(after_help = "Examples:\n  yun project create lab --quota cpu=8,memory=16G,instances=20")]
    Create {
        /// Its name
        name: Name,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// The most it may hold, as in cpu=8,memory=16G,disk=100G,instances=20
        #[arg(long)]
        quota: Option<String>,
        /// Its part of the pool against other projects that wait for room, 1 to 10000 [default: 1]
        #[arg(long)]
        weight: Option<u32>,
    },
    /// Change a project's part of the pool against other projects that wait for room
    Weight {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::projects))]
        name: Name,
        /// 1 to 10000; 1 is an ordinary project's
        weight: u32,
    },
    /// Show or change a project's quota
    Quota {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::projects))]
        name: Name,
        /// The most it may hold, as in cpu=8,memory=16G; "none" for no limit; shown if left out
        quota: Option<String>,
    },
    /// Remove projects that own nothing
    Rm {
        /// Names
        #[arg(required = true, add = ArgValueCompleter::new(complete::projects))]
        names: Vec<Name>,
    },
    /// Make a project the context's own
    Use {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::projects))]
        name: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List tokens, without their secrets
    Ls,
    /// Create a token and print its secret, once
    #[command(
        after_help = "Examples:\n  yun token create ci --role editor --in lab --expires 30d\n  yun token create ops --cloud-role viewer"
    )]
    Create {
        /// Its name
        name: Name,
        /// The role in the projects that --in names, or in the context's
        #[arg(long)]
        role: Option<Role>,
        /// A project that the role is for
        #[arg(long = "in", value_name = "PROJECT")]
        projects: Vec<Name>,
        /// The role in the whole cloud
        #[arg(long)]
        cloud_role: Option<Role>,
        /// When it stops being valid: 12h, 30d, or a time
        #[arg(long)]
        expires: Option<String>,
    },
    /// Revoke tokens: they stop working at once
    Rm {
        /// Names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Say who this command line is to the server
    Whoami,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations, newest first
    Ls,
    /// Show an operation in full
    Show {
        /// Its id
        id: uuid::Uuid,
    },
    /// Follow an operation to its end
    Wait {
        /// Its id
        id: uuid::Uuid,
        /// Seconds to wait at most
        #[arg(long, default_value = "300")]
        timeout: u64,
    },
    /// Take an operation back
    Cancel {
        /// Its id
        id: uuid::Uuid,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List contexts
    Ls,
    /// Print the current context, without its token
    Show,
    /// Add or change a context
    #[command(
        after_help = "Examples:\n  yun config set lab --host https://lab:7443 --ca lab-ca.pem --token-file token.txt"
    )]
    Set {
        /// Its name
        name: String,
        /// The file with the server's certificate authority
        #[arg(long)]
        ca: Option<PathBuf>,
        /// A file with the token (- for standard input)
        #[arg(long)]
        token_file: Option<PathBuf>,
    },
    /// Make a context the current one
    Use {
        /// Its name
        name: String,
    },
    /// Forget a context
    Rm {
        /// Its name
        name: String,
    },
}

/// Checks a change of a size, before anybody knows the size that it changes.
pub(crate) fn parse_change(text: &str) -> Result<String, yun_types::Invalid> {
    text.parse::<Size>().map(|_| text.to_owned())
}
