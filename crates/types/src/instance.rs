//! Instances: VMs and containers.
//!
//! ```text
//!              place            agent takes it                        guest answers / process runs
//!  pending ──────────▶ scheduled ─────────▶ preparing ──▶ starting ──────────▶ running ◀──▶ paused
//!     ▲                                                      │                    │
//!     │                                       failed ◀───────┴──────┐     stopping ◀┘ (stop, exit, restart)
//!     └── no room: stays, with the reason       │   restart policy  │         │
//!                                               └──▶ starting …     └──── stopped ──▶ starting (start, restart policy)
//!  any ──▶ deleting ──▶ (gone)       node silent: lost
//!  running ──▶ hibernated (memory on disk, no process) ──▶ starting (start: goes on where it was) or stopped (stop: memory is dropped)
//! ```
//! `migrating` is part of the vocabulary; nothing enters it yet.

use crate::{
    Bytes, Digest, Generation, GroupMember, HealthCheck, HealthStatus, ImageId, Interface, Invalid, IoLimits, Metadata,
    Name, NetworkMembership, NodeId, Origin, PublishedPort, Security, Size, SnapshotName, Stdin, Timestamp,
    VolumeMount,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

/// The two kinds of instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceKind {
    /// A virtual machine with a kernel of its own.
    Vm,
    /// Processes of the host's kernel, set apart by namespaces and cgroups.
    Container,
}

impl fmt::Display for InstanceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vm => "vm",
            Self::Container => "container",
        })
    }
}

/// What the user wants the instance to be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Running (subject to the restart policy once it has ended by itself).
    #[default]
    Running,
    /// Frozen in memory.
    Paused,
    /// Not running; its disk stays.
    Stopped,
    /// Not running; its memory stays too, on disk. VMs only.
    Hibernated,
}

/// What happens when an instance ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RestartPolicy {
    /// It stays ended.
    Never,
    /// Started again after a failure, at most `max` times in a row if given.
    OnFailure {
        /// The most restarts in a row.
        max: Option<u32>,
    },
    /// Started again however it ended, with growing pauses.
    #[default]
    Always,
}

impl FromStr for RestartPolicy {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once(':') {
            None => match text {
                "never" | "no" => return Ok(Self::Never),
                "on-failure" => return Ok(Self::OnFailure { max: None }),
                "always" | "unless-stopped" => return Ok(Self::Always),
                _ => {}
            },
            Some(("on-failure", max)) => {
                if let Ok(max) = max.parse() {
                    return Ok(Self::OnFailure { max: Some(max) });
                }
            }
            Some(_) => {}
        }
        Err(Invalid(format!("restart policy {text:?} is unknown: use never, on-failure, on-failure:5 or always")))
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.pad("never"),
            Self::OnFailure { max: None } => f.pad("on-failure"),
            Self::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
            Self::Always => f.pad("always"),
        }
    }
}

crate::string_serde!(RestartPolicy, "RestartPolicy", "never, on-failure, on-failure:5 or always.");

/// Something that appears in a container's file tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Mount {
    /// A directory or file of the host. Only administrators of the cloud may ask for it.
    Bind {
        /// The path on the host.
        source: String,
        /// The path inside.
        target: String,
        /// Whether writes are refused.
        #[serde(default)]
        read_only: bool,
    },
    /// Memory that goes away with the container.
    Tmpfs {
        /// The path inside.
        target: String,
        /// The most it may hold; half of the memory limit if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Bytes>,
    },
}

impl Mount {
    /// The path inside.
    pub fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// What users write about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// VM or container; the image's kind if absent at creation (the API always answers with it set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<InstanceKind>,
    /// The image's name, or the start of its digest.
    pub image: String,
    /// What it asks of the pool.
    #[serde(default)]
    pub size: Size,
    /// What it should be doing.
    #[serde(default)]
    pub power: Power,
    /// What happens when it ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Raised by one to ask for a restart.
    #[serde(default)]
    pub restart_count: u64,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// The networks it is in; the project's `default` one if absent. The first has its way out and its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkMembership>,
    /// The volumes it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// The node it must run on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Seconds between the polite request to stop and the end; 10 for containers and 60 for VMs if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// The snapshot that it is made from, instead of from the image alone: `INSTANCE/SNAPSHOT`. It goes on with the snapshot's memory if
    /// there is any, with an identity of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<SnapshotName>,
    /// Containers only.
    #[serde(default, skip_serializing_if = "ContainerOptions::is_default")]
    pub container: ContainerOptions,
    /// VMs only.
    #[serde(default, skip_serializing_if = "VmOptions::is_default")]
    pub vm: VmOptions,
}

/// What only containers have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerOptions {
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command (the arguments after the entrypoint).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Added to the image's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `user`, `user:group`, `uid` or `uid:gid`, resolved inside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The signal that asks it to end, as in `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The most processes; 4096 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Gives the main process a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Its standard input; with a terminal, what is typed.
    #[serde(default, skip_serializing_if = "Stdin::is_closed")]
    pub stdin: Stdin,
    /// What appears in its file tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How its health is asked for, if at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Its main process is an init, such as systemd, that runs a whole system inside: it gets directories of its own in memory, its own
    /// control groups, and every capability over what belongs to its user namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// How it is set apart from the host.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// How much it may read from and write to its disk.
    #[serde(default, skip_serializing_if = "IoLimits::is_default")]
    pub io: IoLimits,
}

impl ContainerOptions {
    /// True if nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What only VMs have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmOptions {
    /// Public keys that may log in, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// cloud-init user data, passed on unchanged (`#cloud-config`, a script, or MIME parts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Seconds until a VM whose guest does not answer counts as failed; 300 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_timeout: Option<u32>,
}

impl VmOptions {
    /// True if nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where an instance is in its life. The diagram stands at the top of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Waits for a place; `reason` says for what.
    #[default]
    Pending,
    /// Has a node and an address.
    Scheduled,
    /// The node gathers its disk, its network and its configuration.
    Preparing,
    /// Its processes are coming up.
    Starting,
    /// It runs.
    Running,
    /// Frozen in memory.
    Paused,
    /// Was asked to end.
    Stopping,
    /// Ended; its disk stays.
    Stopped,
    /// Could not start, or ended and may not be restarted; `reason` says why.
    Failed,
    /// Everything it owns is being removed.
    Deleting,
    /// Saved to disk, with its memory.
    Hibernated,
    /// On its way to another node.
    Migrating,
    /// Its node is silent.
    Lost,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Scheduled => "scheduled",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
            Self::Hibernated => "hibernated",
            Self::Migrating => "migrating",
            Self::Lost => "lost",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// The exit code; 128 + signal if a signal ended it, as shells count.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel ended it because it went over its memory limit.
    #[serde(default)]
    pub out_of_memory: bool,
    /// When.
    pub at: Timestamp,
}

impl Exit {
    /// True if it ended as it should.
    pub fn success(&self) -> bool {
        self.code == 0 && !self.out_of_memory
    }
}

/// The image that an instance was made from, fixed at creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePin {
    /// The catalogue entry.
    pub id: ImageId,
    /// Its name at that time.
    pub name: String,
    /// Its content.
    pub digest: Digest,
}

/// What the system observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct InstanceStatus {
    /// The generation of `spec` that this status has caught up with.
    pub observed_generation: Generation,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Why, as one word for programs: `OutOfMemory`, `NoRoom`, `ImageDamaged` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people, with the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node it was placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// That node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Name>,
    /// Its address in its first network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its hardware address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// All of its interfaces, in the order of `spec.networks`. Absent in what was stored before instances had several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The image, fixed at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePin>,
    /// How a VM's instructions run: `kvm`, or `tcg` (emulated, slow).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// When it last began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What it last answered to its health check, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// How often it was restarted by its policy since the last start that a user asked for.
    #[serde(default)]
    pub restarts: u32,
    /// When it will be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_restart: Option<Timestamp>,
    /// The value of `spec.restart_count` that was carried out.
    #[serde(default)]
    pub restart_count: u64,
    /// Where its data come from beside its image.
    #[serde(default, skip_serializing_if = "Origin::is_default")]
    pub origin: Origin,
    /// The count of the last restore that was carried out.
    #[serde(default)]
    pub restores: u64,
    /// Grows with each placement, so that a node can refuse work from the past.
    #[serde(default)]
    pub fence: u64,
    /// The group that it belongs to: what changes the group changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupMember>,
    /// While lost: the state that was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_lost: Option<InstanceState>,
}

/// A VM or a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: InstanceSpec,
    /// Observed.
    #[serde(default)]
    pub status: InstanceStatus,
}
