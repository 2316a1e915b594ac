//! What requests carry and answers hold, beside the nouns of `types`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};
use uuid::Uuid;
use yun_types::{
    BitRate, CloudId, Digest, ExportFormat, GroupSpec, ImageFormat, ImageRecipe, InstanceSpec, Labels, Name, NameOrId,
    ObjectKind, Password, ProjectSpec, RegistryPull, Role, SshKeySpec, Timestamp, Token, TokenSpec, VolumeSpec,
};

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// The objects, in the order of their names (newest first for operations and audit records).
    pub items: Vec<T>,
    /// Give this back as `page_token` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
    /// The revision of this list: `watch` goes on from here.
    #[serde(default)]
    pub revision: String,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListQuery {
    /// The project; `default` if absent. Ignored for what belongs to the cloud.
    pub project: Option<Name>,
    /// Every project that the caller may see.
    #[serde(default)]
    pub all_projects: Option<bool>,
    /// The most objects in one page: 100 if absent, 1000 at most.
    pub limit: Option<u32>,
    /// What the page before said.
    pub page_token: Option<String>,
    /// Only objects with these labels, as in `tier=web,stage`.
    pub label: Option<String>,
}

/// The project of an object.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct ScopeQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
}

/// The project of an object, and how to act on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct ActionQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Stop and restart: seconds between the polite request and the end, instead of the instance's own.
    pub timeout: Option<u32>,
}

/// Where a stream of changes begins, and of what.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct WatchQuery {
    /// The kind of object: one of `group`, `instance`, `image`, `network`, `node`, `operation`, `project`, `snapshot`, `volume`.
    pub kind: Option<ObjectKind>,
    /// The project; all that the caller may see if absent.
    pub project: Option<Name>,
    /// Only changes after this revision; everything there is, and then changes, if absent.
    pub after: Option<String>,
}

/// Which events are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct EventQuery {
    /// The project; all that the caller may see if absent.
    pub project: Option<Name>,
    /// Only events of the object with this name or id.
    pub object: Option<String>,
    /// Only events of objects of this kind.
    pub kind: Option<ObjectKind>,
    /// Only those that ask for attention, with `warning`.
    pub severity: Option<yun_types::Severity>,
    /// Only events with this reason, as in `OutOfMemory`.
    pub reason: Option<String>,
    /// Only events from this moment on.
    pub since: Option<Timestamp>,
    /// The last so many: 100 if absent.
    pub tail: Option<u32>,
    /// Only events after this sequence number.
    pub after: Option<u64>,
    /// Goes on with new events.
    #[serde(default)]
    pub follow: Option<bool>,
}

/// Which audit records are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct AuditQuery {
    /// The most records in one page: 100 if absent, 1000 at most.
    pub limit: Option<u32>,
    /// What the page before said.
    pub page_token: Option<String>,
    /// Only what the holder of this token did.
    pub by: Option<String>,
    /// Only this operation of the API, as in `instance_create`.
    pub action: Option<String>,
    /// Only what was asked for in this project.
    pub project: Option<Name>,
    /// Only what was asked of the object with this name or id.
    pub object: Option<String>,
    /// Only what was refused (status 400 and above).
    #[serde(default)]
    pub refused: Option<bool>,
    /// Only records from this moment on.
    pub since: Option<Timestamp>,
}

/// Which log lines are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<Timestamp>,
    /// Goes on with new lines.
    #[serde(default)]
    pub follow: Option<bool>,
}

/// Which files of an instance.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FilesQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// The path inside, from the root.
    pub path: String,
}

/// What to run in a container. Lists are JSON texts, because a query has no lists.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct ExecQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// The program and its arguments: `["ls","-l"]`.
    pub command: String,
    /// Added to the environment: `["A=1"]`.
    pub env: Option<String>,
    /// Instead of the container's user.
    pub user: Option<String>,
    /// Instead of the container's working directory.
    pub workdir: Option<String>,
    /// Gives it a terminal with this many columns and rows: `80x24`.
    pub terminal: Option<String>,
}

/// Who works on files.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct SftpQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Instead of the container's user.
    pub user: Option<String>,
}

/// How to attach to a container's main process.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct AttachQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// Pass input on, to a container that was made with a standard input.
    #[serde(default)]
    pub stdin: Option<bool>,
    /// If it does not run, wait for its next start, and miss nothing of it.
    #[serde(default)]
    pub wait: Option<bool>,
    /// The size of the terminal, in columns and rows: `80x24`.
    pub terminal: Option<String>,
}

/// How an operation is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct OperationQuery {
    /// Answer after this many seconds at the latest (60 at most); at once if absent.
    pub wait: Option<u32>,
    /// The revision that the caller has seen: answer as soon as there is a newer one. Without it, only the end is waited for.
    pub seen: Option<String>,
}

/// What an upload is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UploadQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// The image's name.
    pub name: Name,
    /// The format; found out from the bytes if absent.
    pub format: Option<ImageFormat>,
    /// What the bytes must hash to.
    pub checksum: Option<Digest>,
    /// Where the bytes come from, for people: a file name.
    pub source: Option<String>,
    /// Root file systems: the entrypoint to record, a JSON list.
    pub entrypoint: Option<String>,
    /// Root file systems: the command to record, a JSON list.
    pub command: Option<String>,
    /// Root file systems: the whole configuration to record, a JSON object with the fields of `ContainerConfig`. Instead of the two before.
    pub config: Option<String>,
}

/// How an image should be given out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ExportQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// The form; that of its kind if absent.
    pub format: Option<ExportFormat>,
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident { $field:ident: $type:ty },)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, JsonSchema)]
        pub struct $name {
            /// Its name or id.
            pub $field: $type,
        }
    )*};
}

paths! {
    /// Names a group.
    GroupPath { group: NameOrId },
    /// Names an image, also by the start of its digest.
    ImagePath { image: String },
    /// Names an instance.
    InstancePath { instance: NameOrId },
    /// Names a label of Prometheus.
    LabelPath { label: String },
    /// Names a network.
    NetworkPath { network: NameOrId },
    /// Names a node.
    NodePath { node: NameOrId },
    /// Names an operation.
    OperationPath { operation: Uuid },
    /// Names a project.
    ProjectPath { project: NameOrId },
    /// Names an SSH key.
    SshKeyPath { ssh_key: NameOrId },
    /// Names a token.
    TokenPath { token: NameOrId },
    /// Names a volume.
    VolumePath { volume: NameOrId },
}

/// Names an instance and what to do to it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct InstanceActionPath {
    /// Its name or id.
    pub instance: NameOrId,
    /// What to do.
    pub action: InstanceAction,
}

/// Names a port of an instance.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct InstancePortPath {
    /// Its name or id.
    pub instance: NameOrId,
    /// The port inside.
    pub port: u16,
}

/// What can be done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceAction {
    /// Run it.
    Start,
    /// End it; its disk stays.
    Stop,
    /// End it and run it again.
    Restart,
    /// Freeze it in memory.
    Pause,
    /// Let it go on.
    Resume,
    /// Save it to disk with its memory, and end it. VMs only.
    Hibernate,
}

impl std::fmt::Display for InstanceAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Hibernate => "hibernate",
        })
    }
}

/// Headers of requests that create.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct CreateHeaders {
    /// A word of the caller's own: the same request with the same word is carried out once, and answered alike for a day.
    #[serde(rename = "idempotency-key")]
    pub idempotency_key: Option<String>,
}

/// Headers of requests that change.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct UpdateHeaders {
    /// The `ETag` that the change was made from: it is refused if the object is newer.
    #[serde(rename = "if-match")]
    pub if_match: Option<String>,
}

/// The revision of the object in the answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EtagHeader {
    /// For `If-Match`.
    pub etag: String,
}

/// Which server this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// The version of yun.
    pub version: String,
    /// The installation.
    pub cloud: CloudId,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whoami {
    /// The token's name.
    pub name: String,
    /// The role in the whole cloud.
    pub cloud: Option<Role>,
    /// The role in single projects.
    pub projects: BTreeMap<Name, Role>,
}

/// A new project.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it.
    #[serde(default)]
    pub spec: ProjectSpec,
}

/// A new token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Its name.
    pub name: Name,
    /// What it allows.
    pub spec: TokenSpec,
}

/// A new token, with its secret.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token.
    pub token: Token,
    /// Shown once: keep it.
    pub secret: String,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret must not reach a log by way of `{:?}`.
        f.debug_struct("TokenCreated").field("token", &self.token).finish_non_exhaustive()
    }
}

/// A new instance.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it.
    pub spec: InstanceSpec,
}

/// A changed instance.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceUpdate {
    /// Free words, all of them.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it, all of it.
    pub spec: InstanceSpec,
}

/// A new group.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it.
    pub spec: GroupSpec,
}

/// A changed group.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupUpdate {
    /// Free words, all of them.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it, all of it.
    pub spec: GroupSpec,
}

/// Where a group goes back to.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct UndoQuery {
    /// The project; `default` if absent.
    pub project: Option<Name>,
    /// The revision; the one before the wanted one if absent.
    pub to: Option<u64>,
}

/// A new network.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// The addresses it owns, as in `10.77.3.0/24`; a free range of the cloud's pool if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The largest packet; 1500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// No way out of it, and none in.
    #[serde(default)]
    pub isolated: bool,
}

/// An instance that joins a network.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkAttach {
    /// Its name or id.
    pub instance: NameOrId,
    /// The address to have there; the lowest free one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// More names by which others in this network find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// The most that it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BitRate>,
    /// The most that it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BitRate>,
}

/// An instance that leaves a network or gives a volume back.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Its name or id.
    pub instance: NameOrId,
}

/// A new SSH key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshKeyCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// The key, and what it opens.
    pub spec: SshKeySpec,
}

/// A new volume.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it.
    #[serde(default)]
    pub spec: VolumeSpec,
}

/// A changed volume.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeUpdate {
    /// Free words, all of them.
    #[serde(default)]
    pub labels: Labels,
    /// What is wanted of it, all of it. The size may grow, and only grow.
    pub spec: VolumeSpec,
}

/// An instance that gets a volume.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeAttach {
    /// Its name or id.
    pub instance: NameOrId,
    /// Containers: the path inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// A new image.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageCreate {
    /// Its name.
    pub name: Name,
    /// Free words.
    #[serde(default)]
    pub labels: Labels,
    /// Where its content comes from.
    pub source: ImageOrigin,
}

/// Where a new image's content comes from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ImageOrigin {
    /// From Debian packages.
    Build {
        /// How.
        recipe: ImageRecipe,
    },
    /// From a web server.
    Url {
        /// `http://` or `https://`.
        url: String,
        /// The format; found out from the bytes if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<ImageFormat>,
        /// What the bytes must hash to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checksum: Option<Digest>,
    },
    /// From an OCI registry. An image of the same name from the same reference is brought up to date.
    Registry {
        /// Which, and as whom.
        pull: RegistryPull,
    },
}

impl ImageCreate {
    /// The same without what nobody should keep, not even as part of a hash.
    pub fn without_secrets(&self) -> Self {
        let mut plain = self.clone();
        if let ImageOrigin::Registry { pull } = &mut plain.source
            && let Some(credentials) = &mut pull.credentials
        {
            credentials.password = Password::new("");
        }
        plain
    }
}

/// A piece of the server's background work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackgroundTask {
    /// Its name.
    pub name: String,
    /// `idle`, `running`, `waiting` or `failed`.
    pub state: String,
    /// How often it ran.
    pub runs: u64,
    /// When it last ran.
    pub last_run: Option<Timestamp>,
    /// What it last said.
    pub last_result: Option<String>,
    /// When it will run again, if it runs by the clock.
    pub next_run: Option<Timestamp>,
}
