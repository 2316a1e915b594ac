//! What the control plane asks of a node, and what the node answers: the contents of the node protocol.
//!
//! A node gets a full snapshot first and changes after it. Each instance carries a *fence*: a number that only grows for one instance;
//! a node refuses work with a smaller one than it has seen, so that a message from the past cannot start a twin.

use crate::{
    BitRate, Bytes, Exit, Generation, HealthStatus, ImagePin, InstanceId, InstanceKind, InstanceSpec, InstanceState,
    Name, NetworkId, NetworkSpec, Origin, PublishedPort, Timestamp, VolumeId, VolumeKind, VolumeLimits,
    instance_domain,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// An instance as its node should have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredInstance {
    /// Its id.
    pub id: InstanceId,
    /// Its name: the host name inside.
    pub name: Name,
    /// Its owner.
    pub project: Name,
    /// VM or container.
    pub kind: InstanceKind,
    /// The generation of `spec`.
    pub generation: Generation,
    /// Grows with each placement; older work is refused.
    pub fence: u64,
    /// What users wrote.
    pub spec: InstanceSpec,
    /// What it starts from.
    pub image: ImagePin,
    /// Where it is in its first network, which has its way out.
    pub nic: Nic,
    /// Where it is in its other networks.
    #[serde(default)]
    pub more_nics: Vec<Nic>,
    /// The volumes it has, without the anonymous ones.
    #[serde(default)]
    pub volumes: Vec<DesiredMount>,
    /// Where its data come from beside its image.
    #[serde(default)]
    pub origin: Origin,
    /// True if everything it owns should go.
    pub deleting: bool,
    /// The policy's counters so far, so that they outlive the node's ledger.
    #[serde(default)]
    pub restarts: u32,
    /// The value of `spec.restart_count` that was carried out.
    #[serde(default)]
    pub restart_count: u64,
    /// The count of the last restore that was carried out.
    #[serde(default)]
    pub restores: u64,
}

impl DesiredInstance {
    /// Its name in DNS.
    pub fn domain(&self) -> String {
        instance_domain(&self.name, &self.project)
    }

    /// All of its interfaces, the first one first.
    pub fn nics(&self) -> impl Iterator<Item = &Nic> {
        std::iter::once(&self.nic).chain(&self.more_nics)
    }
}

/// A network interface of an instance, with everything that was decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nic {
    /// The network.
    pub network: NetworkId,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Its hardware address, `02:…`.
    pub mac: String,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub publish: Vec<PublishedPort>,
    /// Its number among the instance's interfaces.
    #[serde(default)]
    pub index: u32,
    /// The most that it may send.
    #[serde(default)]
    pub egress: Option<BitRate>,
    /// The most that it may receive.
    #[serde(default)]
    pub ingress: Option<BitRate>,
}

impl Nic {
    /// The first interface of an instance, without ports and limits.
    pub fn new(network: NetworkId, address: Ipv4Addr, mac: impl Into<String>) -> Self {
        Self { network, address, mac: mac.into(), publish: Vec::new(), index: 0, egress: None, ingress: None }
    }
}

/// A volume as its node should have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredVolume {
    /// Its id.
    pub id: VolumeId,
    /// Its name.
    pub name: Name,
    /// Its owner.
    pub project: Name,
    /// The generation of its spec.
    pub generation: Generation,
    /// Directory or block.
    pub kind: VolumeKind,
    /// How much it may hold.
    pub size: Bytes,
    /// How fast it may be.
    #[serde(default)]
    pub limits: VolumeLimits,
    /// True if its data should go.
    #[serde(default)]
    pub deleting: bool,
}

/// A volume that an instance has, with everything that was decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredMount {
    /// The volume.
    pub volume: DesiredVolume,
    /// Containers: the path inside.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Whether an empty volume stays empty.
    #[serde(default)]
    pub no_copy: bool,
}

/// A network as a node should have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredNetwork {
    /// Its id.
    pub id: NetworkId,
    /// Its owner.
    pub project: Name,
    /// What users wrote, or the control plane chose.
    pub spec: NetworkSpec,
    /// Every name that its DNS answers, on whatever node the instance is.
    pub records: Vec<DnsRecord>,
}

/// A name and its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct DnsRecord {
    /// Without a trailing dot: `web.default.yun`.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum NodeOrder {
    /// Everything there is for this node: what is not in it should not be there.
    Snapshot {
        /// Its instances.
        instances: Vec<DesiredInstance>,
        /// The networks that they need.
        networks: Vec<DesiredNetwork>,
        /// The contents that instances or catalogue entries need; others may be removed.
        images: Vec<crate::Digest>,
        /// Its volumes. What is not in here is left alone: data is removed only when that is said of it by name.
        #[serde(default)]
        volumes: Vec<DesiredVolume>,
    },
    /// An instance is new or changed.
    Instance(Box<DesiredInstance>),
    /// A network is new or changed.
    Network(DesiredNetwork),
    /// A volume is new or changed, or should go.
    Volume(DesiredVolume),
    /// Nothing needs this network here any more.
    NetworkGone {
        /// Its id.
        id: NetworkId,
    },
    /// No catalogue entry names this content any more.
    ImageGone {
        /// The content.
        digest: crate::Digest,
    },
}

/// What a node observed of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeReport {
    /// Which.
    pub id: VolumeId,
    /// The generation that this is about.
    pub generation: Generation,
    /// What was seen.
    pub observed: ObservedVolume,
}

/// What was seen of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObservedVolume {
    /// It is there, as large as it should be.
    Ready {
        /// How much of the host's disk it takes.
        used: Bytes,
        /// Whether the host keeps it to its size.
        enforced: bool,
        /// What should be known of it, for people.
        message: Option<String>,
    },
    /// It could not be made or changed.
    Failed {
        /// One word for programs.
        reason: String,
        /// For people, with the way out.
        message: String,
    },
    /// Nothing of it is left on the node.
    Gone,
}

/// What a node observed of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceReport {
    /// Which.
    pub id: InstanceId,
    /// The fence under which it runs: a report with an old one is dropped.
    pub fence: u64,
    /// The generation that it has caught up with.
    pub generation: Generation,
    /// What was seen.
    pub observed: ObservedInstance,
}

/// What was seen of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObservedInstance {
    /// It is in this state.
    State(ObservedState),
    /// Nothing of it is left on the node.
    Gone,
}

/// The part of an instance's status that its node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ObservedState {
    /// Where it is in its life.
    pub state: InstanceState,
    /// Why, as one word for programs.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why, for people, with the way out.
    #[serde(default)]
    pub message: Option<String>,
    /// How a VM runs.
    #[serde(default)]
    pub accel: Option<String>,
    /// When it last began to run.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// How it last ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// What it last answered to its health check.
    #[serde(default)]
    pub health: Option<HealthStatus>,
    /// Restarts by policy since the last start that a user asked for.
    #[serde(default)]
    pub restarts: u32,
    /// When it will be tried again.
    #[serde(default)]
    pub next_restart: Option<Timestamp>,
    /// The value of `spec.restart_count` that was carried out.
    #[serde(default)]
    pub restart_count: u64,
    /// The count of the last restore that was carried out.
    #[serde(default)]
    pub restores: u64,
}
