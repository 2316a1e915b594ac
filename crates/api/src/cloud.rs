//! The cloud API: what users and their programs call.
//!
//! Conventions: `https`, JSON, names or UUIDs in paths, `?project=` (or `default`), `limit`/`page_token` for lists, `Idempotency-Key` on
//! everything that creates, `ETag` and `If-Match` on what can be changed, NDJSON for streams, 202 and an operation for long work, and errors
//! `{error_code, message, request_id}` whose message names the object, the reason and the way out.

use dropshot::UntypedBody;
use dropshot::{
    FreeformBody, Header, HttpError, HttpResponseAccepted, HttpResponseCreated, HttpResponseDeleted,
    HttpResponseHeaders, HttpResponseOk, HttpResponseUpdatedNoContent, Path, Query, RequestContext, StreamingBody,
    WebsocketChannelResult, WebsocketConnection,
};
use yun_types::{
    AuditRecord, Explanation, Group, GroupExplanation, Image, Instance, Network, Node, NodeSpec, Operation, Pool,
    Project, ProjectSpec, Snapshot, SshKey, Token, Volume,
};

mod json;
mod params;
mod snapshot;
mod streams;
mod usage;

pub use json::Json;
pub use params::*;
pub use snapshot::*;
pub use streams::*;
pub use usage::*;

/// The cloud API.
#[dropshot::api_description { tag_config = {
    allow_other_tags = false,
    policy = dropshot::EndpointTagPolicy::ExactlyOne,
    tags = {
        "cloud" = { description = "The installation itself: versions, identity, streams, audit." },
        "projects" = { description = "Tenants." },
        "ssh-keys" = { description = "Who may enter a project's instances through the SSH gateway." },
        "tokens" = { description = "API tokens and roles." },
        "groups" = { description = "Like instances that are kept alive and changed a few at a time." },
        "instances" = { description = "VMs and containers." },
        "snapshots" = { description = "Instances as they were at one moment." },
        "images" = { description = "What instances start from." },
        "networks" = { description = "Networks of projects." },
        "nodes" = { description = "Machines of the pool." },
        "prometheus" = { description = "The same, for the programs of Prometheus." },
        "usage" = { description = "What is used, now and over time." },
        "operations" = { description = "Long work." },
        "volumes" = { description = "Space for data." },
    },
}}]
pub trait CloudApi {
    /// What each handler works with.
    type Context;

    /// Say that the server is there, and which it is. Needs no token.
    #[endpoint { method = GET, path = "/v1/ping", tags = ["cloud"] }]
    async fn ping(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<Ping>, HttpError>;

    /// Say who the caller is, and what the caller may do.
    #[endpoint { method = GET, path = "/v1/whoami", tags = ["cloud"] }]
    async fn whoami(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<Whoami>, HttpError>;

    /// Stream changes of objects from a revision on, as NDJSON lines of `WatchEvent`. A 410 asks the caller to list again.
    #[endpoint { method = GET, path = "/v1/watch", tags = ["cloud"] }]
    async fn watch(
        rqctx: RequestContext<Self::Context>,
        query: Query<WatchQuery>,
    ) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// Stream what happened, as NDJSON lines of `Event`: the last `tail` first, then, with `follow`, what comes.
    #[endpoint { method = GET, path = "/v1/events", tags = ["cloud"] }]
    async fn event_stream(
        rqctx: RequestContext<Self::Context>,
        query: Query<EventQuery>,
    ) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// List who changed what, newest first.
    #[endpoint { method = GET, path = "/v1/audit", tags = ["cloud"] }]
    async fn audit_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<AuditQuery>,
    ) -> Result<HttpResponseOk<Page<AuditRecord>>, HttpError>;

    /// Stream the whole state of the cloud at one revision, for a backup: it ends with a checksum.
    #[endpoint { method = GET, path = "/v1/state", tags = ["cloud"] }]
    async fn state_snapshot(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// List the server's background work: what runs, when it last ran and why, when it will run again.
    #[endpoint { method = GET, path = "/v1/tasks", tags = ["cloud"] }]
    async fn task_list(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<Vec<BackgroundTask>>, HttpError>;

    /// List projects that the caller may see.
    #[endpoint { method = GET, path = "/v1/projects", tags = ["projects"] }]
    async fn project_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Project>>, HttpError>;

    /// Create a project with its network.
    #[endpoint { method = POST, path = "/v1/projects", tags = ["projects"] }]
    async fn project_create(
        rqctx: RequestContext<Self::Context>,
        headers: Header<CreateHeaders>,
        body: Json<ProjectCreate>,
    ) -> Result<HttpResponseCreated<Project>, HttpError>;

    /// Show a project.
    #[endpoint { method = GET, path = "/v1/projects/{project}", tags = ["projects"] }]
    async fn project_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<ProjectPath>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Project>, EtagHeader>, HttpError>;

    /// Change a project.
    #[endpoint { method = PUT, path = "/v1/projects/{project}", tags = ["projects"] }]
    async fn project_update(
        rqctx: RequestContext<Self::Context>,
        path: Path<ProjectPath>,
        headers: Header<UpdateHeaders>,
        body: Json<ProjectSpec>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Project>, EtagHeader>, HttpError>;

    /// Delete a project that owns no instance.
    #[endpoint { method = DELETE, path = "/v1/projects/{project}", tags = ["projects"] }]
    async fn project_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<ProjectPath>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// List SSH keys.
    #[endpoint { method = GET, path = "/v1/ssh-keys", tags = ["ssh-keys"] }]
    async fn ssh_key_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<SshKey>>, HttpError>;

    /// Let the holder of a key enter the project's instances through the SSH gateway.
    #[endpoint { method = POST, path = "/v1/ssh-keys", tags = ["ssh-keys"] }]
    async fn ssh_key_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<SshKeyCreate>,
    ) -> Result<HttpResponseCreated<SshKey>, HttpError>;

    /// Show an SSH key.
    #[endpoint { method = GET, path = "/v1/ssh-keys/{ssh_key}", tags = ["ssh-keys"] }]
    async fn ssh_key_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<SshKeyPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseOk<SshKey>, HttpError>;

    /// Remove an SSH key: it is refused at once, and who is logged in with it is logged out.
    #[endpoint { method = DELETE, path = "/v1/ssh-keys/{ssh_key}", tags = ["ssh-keys"] }]
    async fn ssh_key_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<SshKeyPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// List tokens, without their secrets.
    #[endpoint { method = GET, path = "/v1/tokens", tags = ["tokens"] }]
    async fn token_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Token>>, HttpError>;

    /// Create a token. Its secret is in the answer, and nowhere else.
    #[endpoint { method = POST, path = "/v1/tokens", tags = ["tokens"] }]
    async fn token_create(
        rqctx: RequestContext<Self::Context>,
        body: Json<TokenCreate>,
    ) -> Result<HttpResponseCreated<TokenCreated>, HttpError>;

    /// Revoke a token: it stops working at once.
    #[endpoint { method = DELETE, path = "/v1/tokens/{token}", tags = ["tokens"] }]
    async fn token_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<TokenPath>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// List instances.
    #[endpoint { method = GET, path = "/v1/instances", tags = ["instances"] }]
    async fn instance_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Instance>>, HttpError>;

    /// Create an instance, place it and start it.
    #[endpoint { method = POST, path = "/v1/instances", tags = ["instances"], request_body_max_bytes = 1048576 }]
    async fn instance_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<InstanceCreate>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Show an instance.
    #[endpoint { method = GET, path = "/v1/instances/{instance}", tags = ["instances"] }]
    async fn instance_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Instance>, EtagHeader>, HttpError>;

    /// Change an instance: the whole spec and the labels as they should be.
    #[endpoint { method = PUT, path = "/v1/instances/{instance}", tags = ["instances"], request_body_max_bytes = 1048576 }]
    async fn instance_update(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<InstanceUpdate>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Make another instance of an instance's disk as it is now, with an identity of its own.
    #[endpoint { method = POST, path = "/v1/instances/{instance}/clone", tags = ["instances"] }]
    async fn instance_clone(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<InstanceClone>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Stop an instance if it runs, and remove everything it owns.
    #[endpoint { method = DELETE, path = "/v1/instances/{instance}", tags = ["instances"] }]
    async fn instance_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Start, stop, restart, pause, resume or hibernate an instance.
    #[endpoint { method = POST, path = "/v1/instances/{instance}/actions/{action}", tags = ["instances"] }]
    async fn instance_action(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstanceActionPath>,
        query: Query<ActionQuery>,
        headers: Header<CreateHeaders>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Say why an instance is where it is, or why it waits.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/explain", tags = ["instances"] }]
    async fn instance_explain(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseOk<Explanation>, HttpError>;

    /// Say how an instance used its resources over a span of time.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/usage", tags = ["usage"] }]
    async fn instance_usage(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<HistoryQuery>,
    ) -> Result<HttpResponseOk<UsageHistory>, HttpError>;

    /// Stream what an instance wrote, as NDJSON lines of `LogRecord`.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/logs", tags = ["instances"] }]
    async fn instance_logs(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<LogQuery>,
    ) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// Read a file or a directory of an instance, as a tar stream whose entries begin with the last part of the path.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/files", tags = ["instances"] }]
    async fn instance_files_read(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<FilesQuery>,
    ) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// Unpack a tar stream into a directory of an instance that is there, or under a new name in one that is there.
    #[endpoint { method = PUT, path = "/v1/instances/{instance}/files", tags = ["instances"], request_body_max_bytes = 1099511627776 }]
    async fn instance_files_write(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<FilesQuery>,
        body: StreamingBody,
    ) -> Result<HttpResponseUpdatedNoContent, HttpError>;

    /// Run a process in an instance; in a VM by its guest agent, without a terminal. The WebSocket carries the frames of `yun_api::frames`.
    #[channel { protocol = WEBSOCKETS, path = "/v1/instances/{instance}/exec", tags = ["instances"] }]
    async fn instance_exec(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ExecQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult;

    /// Open a session of SFTP version 3 with a container: its packets are standard input and output in the frames of `yun_api::frames`.
    #[channel { protocol = WEBSOCKETS, path = "/v1/instances/{instance}/sftp", tags = ["instances"] }]
    async fn instance_sftp(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<SftpQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult;

    /// Connect to the streams of a container's main process. The WebSocket carries the frames of `yun_api::frames`.
    #[channel { protocol = WEBSOCKETS, path = "/v1/instances/{instance}/attach", tags = ["instances"] }]
    async fn instance_attach(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<AttachQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult;

    /// Open the serial console of a VM. The WebSocket carries the frames of `yun_api::frames`.
    #[channel { protocol = WEBSOCKETS, path = "/v1/instances/{instance}/console", tags = ["instances"] }]
    async fn instance_console(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult;

    /// Connect to a TCP port of an instance. The WebSocket carries plain binary messages.
    #[channel { protocol = WEBSOCKETS, path = "/v1/instances/{instance}/ports/{port}", tags = ["instances"] }]
    async fn instance_dial(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePortPath>,
        query: Query<ScopeQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult;

    /// List groups.
    #[endpoint { method = GET, path = "/v1/groups", tags = ["groups"] }]
    async fn group_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Group>>, HttpError>;

    /// Create a group. Its instances follow: watch it, or show it, to see how far they are.
    #[endpoint { method = POST, path = "/v1/groups", tags = ["groups"], request_body_max_bytes = 1048576 }]
    async fn group_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<GroupCreate>,
    ) -> Result<HttpResponseCreated<Group>, HttpError>;

    /// Show a group.
    #[endpoint { method = GET, path = "/v1/groups/{group}", tags = ["groups"] }]
    async fn group_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Group>, EtagHeader>, HttpError>;

    /// Change a group: the whole spec and the labels as they should be. A changed template is rolled out a few instances at a time.
    #[endpoint { method = PUT, path = "/v1/groups/{group}", tags = ["groups"], request_body_max_bytes = 1048576 }]
    async fn group_update(
        rqctx: RequestContext<Self::Context>,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<GroupUpdate>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Group>, EtagHeader>, HttpError>;

    /// Delete a group with its instances.
    #[endpoint { method = DELETE, path = "/v1/groups/{group}", tags = ["groups"] }]
    async fn group_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
    ) -> Result<HttpResponseAccepted<Group>, HttpError>;

    /// Go back to an earlier revision.
    #[endpoint { method = POST, path = "/v1/groups/{group}/undo", tags = ["groups"] }]
    async fn group_undo(
        rqctx: RequestContext<Self::Context>,
        path: Path<GroupPath>,
        query: Query<UndoQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Group>, EtagHeader>, HttpError>;

    /// Say why a group is as it is, and what comes next.
    #[endpoint { method = GET, path = "/v1/groups/{group}/explain", tags = ["groups"] }]
    async fn group_explain(
        rqctx: RequestContext<Self::Context>,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseOk<GroupExplanation>, HttpError>;

    /// List the snapshots of all instances of a project.
    #[endpoint { method = GET, path = "/v1/snapshots", tags = ["snapshots"] }]
    async fn snapshot_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Snapshot>>, HttpError>;

    /// List the snapshots of an instance.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/snapshots", tags = ["snapshots"] }]
    async fn instance_snapshot_list(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Snapshot>>, HttpError>;

    /// Take a snapshot of an instance.
    #[endpoint { method = POST, path = "/v1/instances/{instance}/snapshots", tags = ["snapshots"] }]
    async fn snapshot_create(
        rqctx: RequestContext<Self::Context>,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<SnapshotCreate>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Show a snapshot.
    #[endpoint { method = GET, path = "/v1/instances/{instance}/snapshots/{snapshot}", tags = ["snapshots"] }]
    async fn snapshot_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<SnapshotPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Snapshot>, EtagHeader>, HttpError>;

    /// Bring an instance back to a snapshot: what was written since is lost. An instance that runs is ended for it, and runs again.
    #[endpoint { method = POST, path = "/v1/instances/{instance}/snapshots/{snapshot}/restore", tags = ["snapshots"] }]
    async fn snapshot_restore(
        rqctx: RequestContext<Self::Context>,
        path: Path<SnapshotPath>,
        query: Query<RestoreQuery>,
        headers: Header<CreateHeaders>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Remove a snapshot.
    #[endpoint { method = DELETE, path = "/v1/instances/{instance}/snapshots/{snapshot}", tags = ["snapshots"] }]
    async fn snapshot_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<SnapshotPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// List images.
    #[endpoint { method = GET, path = "/v1/images", tags = ["images"] }]
    async fn image_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Image>>, HttpError>;

    /// Make an image: from packages, or from a URL.
    #[endpoint { method = POST, path = "/v1/images", tags = ["images"] }]
    async fn image_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<ImageCreate>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Take an image in from the request's body. Answers when it is done.
    #[endpoint { method = POST, path = "/v1/image-uploads", tags = ["images"], request_body_max_bytes = 1099511627776 }]
    async fn image_upload(
        rqctx: RequestContext<Self::Context>,
        query: Query<UploadQuery>,
        body: StreamingBody,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Show an image.
    #[endpoint { method = GET, path = "/v1/images/{image}", tags = ["images"] }]
    async fn image_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<ImagePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Image>, EtagHeader>, HttpError>;

    /// Give an image out: containers as an archive for OCI tools and Docker, VMs as a disk.
    #[endpoint { method = GET, path = "/v1/images/{image}/export", tags = ["images"] }]
    async fn image_export(
        rqctx: RequestContext<Self::Context>,
        path: Path<ImagePath>,
        query: Query<ExportQuery>,
    ) -> Result<HttpResponseOk<FreeformBody>, HttpError>;

    /// Read an image's content again and compare it with its digest.
    #[endpoint { method = POST, path = "/v1/images/{image}/verify", tags = ["images"] }]
    async fn image_verify(
        rqctx: RequestContext<Self::Context>,
        path: Path<ImagePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseOk<Image>, HttpError>;

    /// Remove an image that no instance uses.
    #[endpoint { method = DELETE, path = "/v1/images/{image}", tags = ["images"] }]
    async fn image_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<ImagePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// List networks.
    #[endpoint { method = GET, path = "/v1/networks", tags = ["networks"] }]
    async fn network_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Network>>, HttpError>;

    /// Create a network in a project.
    #[endpoint { method = POST, path = "/v1/networks", tags = ["networks"] }]
    async fn network_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<NetworkCreate>,
    ) -> Result<HttpResponseCreated<Network>, HttpError>;

    /// Show a network.
    #[endpoint { method = GET, path = "/v1/networks/{network}", tags = ["networks"] }]
    async fn network_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Network>, EtagHeader>, HttpError>;

    /// Delete a network that no instance is in.
    #[endpoint { method = DELETE, path = "/v1/networks/{network}", tags = ["networks"] }]
    async fn network_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// Let an instance join a network, also while it runs.
    #[endpoint { method = POST, path = "/v1/networks/{network}/attach", tags = ["networks"] }]
    async fn network_attach(
        rqctx: RequestContext<Self::Context>,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
        body: Json<NetworkAttach>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Let an instance leave a network, also while it runs.
    #[endpoint { method = POST, path = "/v1/networks/{network}/detach", tags = ["networks"] }]
    async fn network_detach(
        rqctx: RequestContext<Self::Context>,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
        body: Json<Detach>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// List volumes.
    #[endpoint { method = GET, path = "/v1/volumes", tags = ["volumes"] }]
    async fn volume_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Volume>>, HttpError>;

    /// Create a volume.
    #[endpoint { method = POST, path = "/v1/volumes", tags = ["volumes"] }]
    async fn volume_create(
        rqctx: RequestContext<Self::Context>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<VolumeCreate>,
    ) -> Result<HttpResponseCreated<Volume>, HttpError>;

    /// Show a volume, and who has it.
    #[endpoint { method = GET, path = "/v1/volumes/{volume}", tags = ["volumes"] }]
    async fn volume_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Volume>, EtagHeader>, HttpError>;

    /// Change a volume: make it larger, faster or slower, or label it. Instances that run with it notice at once.
    #[endpoint { method = PUT, path = "/v1/volumes/{volume}", tags = ["volumes"] }]
    async fn volume_update(
        rqctx: RequestContext<Self::Context>,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<VolumeUpdate>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Volume>, EtagHeader>, HttpError>;

    /// Delete a volume that no instance has, with its data.
    #[endpoint { method = DELETE, path = "/v1/volumes/{volume}", tags = ["volumes"] }]
    async fn volume_delete(
        rqctx: RequestContext<Self::Context>,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError>;

    /// Give a volume to an instance, also while it runs.
    #[endpoint { method = POST, path = "/v1/volumes/{volume}/attach", tags = ["volumes"] }]
    async fn volume_attach(
        rqctx: RequestContext<Self::Context>,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        body: Json<VolumeAttach>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Take a volume away from an instance, also while it runs.
    #[endpoint { method = POST, path = "/v1/volumes/{volume}/detach", tags = ["volumes"] }]
    async fn volume_detach(
        rqctx: RequestContext<Self::Context>,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        body: Json<Detach>,
    ) -> Result<HttpResponseAccepted<Operation>, HttpError>;

    /// Show the pool: what there is, what is promised and used of it, and the share of each project.
    #[endpoint { method = GET, path = "/v1/pool", tags = ["nodes"] }]
    async fn pool_get(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<Pool>, HttpError>;

    /// List nodes.
    #[endpoint { method = GET, path = "/v1/nodes", tags = ["nodes"] }]
    async fn node_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Node>>, HttpError>;

    /// Show a node.
    #[endpoint { method = GET, path = "/v1/nodes/{node}", tags = ["nodes"] }]
    async fn node_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<NodePath>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Node>, EtagHeader>, HttpError>;

    /// Change a node, for example to cordon it.
    #[endpoint { method = PUT, path = "/v1/nodes/{node}", tags = ["nodes"] }]
    async fn node_update(
        rqctx: RequestContext<Self::Context>,
        path: Path<NodePath>,
        headers: Header<UpdateHeaders>,
        body: Json<NodeSpec>,
    ) -> Result<HttpResponseHeaders<HttpResponseOk<Node>, EtagHeader>, HttpError>;

    /// Say how a node was used over a span of time.
    #[endpoint { method = GET, path = "/v1/nodes/{node}/usage", tags = ["usage"] }]
    async fn node_usage(
        rqctx: RequestContext<Self::Context>,
        path: Path<NodePath>,
        query: Query<HistoryQuery>,
    ) -> Result<HttpResponseOk<UsageHistory>, HttpError>;

    /// Say what instances use now.
    #[endpoint { method = GET, path = "/v1/usage/instances", tags = ["usage"] }]
    async fn usage_instances(
        rqctx: RequestContext<Self::Context>,
        query: Query<UsageQuery>,
    ) -> Result<HttpResponseOk<Vec<InstanceUsage>>, HttpError>;

    /// Say what nodes use now.
    #[endpoint { method = GET, path = "/v1/usage/nodes", tags = ["usage"] }]
    async fn usage_nodes(rqctx: RequestContext<Self::Context>) -> Result<HttpResponseOk<Vec<NodeUsageNow>>, HttpError>;

    /// List operations, newest first.
    #[endpoint { method = GET, path = "/v1/operations", tags = ["operations"] }]
    async fn operation_list(
        rqctx: RequestContext<Self::Context>,
        query: Query<ListQuery>,
    ) -> Result<HttpResponseOk<Page<Operation>>, HttpError>;

    /// Show an operation; with `wait`, answer when it has changed after `seen`, when it has ended, or after so many seconds.
    #[endpoint { method = GET, path = "/v1/operations/{operation}", tags = ["operations"] }]
    async fn operation_get(
        rqctx: RequestContext<Self::Context>,
        path: Path<OperationPath>,
        query: Query<OperationQuery>,
    ) -> Result<HttpResponseOk<Operation>, HttpError>;

    /// Take an operation back, if it still can be.
    #[endpoint { method = POST, path = "/v1/operations/{operation}/cancel", tags = ["operations"] }]
    async fn operation_cancel(
        rqctx: RequestContext<Self::Context>,
        path: Path<OperationPath>,
    ) -> Result<HttpResponseOk<Operation>, HttpError>;

    /// Give everything that is counted, for Prometheus to scrape: in the OpenMetrics form if `Accept` names it, else in the older text form.
    #[endpoint { method = GET, path = "/metrics", tags = ["prometheus"] }]
    async fn metrics(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// Answer a question in PromQL for one time (`query`, `time`), as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/query", tags = ["prometheus"] }]
    async fn prom_query(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// The same with the parameters in a form.
    #[endpoint { method = POST, path = "/api/v1/query", tags = ["prometheus"] }]
    async fn prom_query_post(
        rqctx: RequestContext<Self::Context>,
        body: UntypedBody,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// Answer a question in PromQL for a span of time (`query`, `start`, `end`, `step`), as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/query_range", tags = ["prometheus"] }]
    async fn prom_query_range(
        rqctx: RequestContext<Self::Context>,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// The same with the parameters in a form.
    #[endpoint { method = POST, path = "/api/v1/query_range", tags = ["prometheus"] }]
    async fn prom_query_range_post(
        rqctx: RequestContext<Self::Context>,
        body: UntypedBody,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// List series (`match[]`), as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/series", tags = ["prometheus"] }]
    async fn prom_series(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// The same with the parameters in a form.
    #[endpoint { method = POST, path = "/api/v1/series", tags = ["prometheus"] }]
    async fn prom_series_post(
        rqctx: RequestContext<Self::Context>,
        body: UntypedBody,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// List the names of labels, as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/labels", tags = ["prometheus"] }]
    async fn prom_labels(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// The same with the parameters in a form.
    #[endpoint { method = POST, path = "/api/v1/labels", tags = ["prometheus"] }]
    async fn prom_labels_post(
        rqctx: RequestContext<Self::Context>,
        body: UntypedBody,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// List the values of a label, as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/label/{label}/values", tags = ["prometheus"] }]
    async fn prom_label_values(
        rqctx: RequestContext<Self::Context>,
        path: Path<LabelPath>,
    ) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// Say what the families of series are, as Prometheus does.
    #[endpoint { method = GET, path = "/api/v1/metadata", tags = ["prometheus"] }]
    async fn prom_metadata(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;

    /// Say which Prometheus API this is.
    #[endpoint { method = GET, path = "/api/v1/status/buildinfo", tags = ["prometheus"] }]
    async fn prom_buildinfo(rqctx: RequestContext<Self::Context>) -> Result<http::Response<dropshot::Body>, HttpError>;
}

/// The OpenAPI document of the cloud API, as it is kept in `openapi/yun.json`.
pub fn openapi() -> String {
    let description = cloud_api_mod::stub_api_description().expect("the trait's paths do not collide");
    let document =
        description.openapi("yun", semver::Version::new(1, 0, 0)).json().expect("the document is plain JSON");
    let mut text = serde_json::to_string_pretty(&document).expect("plain JSON");
    text.push('\n');
    text
}
