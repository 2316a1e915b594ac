//! What each operation of the API needs: one table, and nothing else decides.
//!
//! The default is no: an operation that is not in the table is refused. `tests/authorization.rs` calls every operation of the OpenAPI
//! document as every kind of caller and compares with this table.

use yun_types::Role;

/// What the caller must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing, not even a token.
    Nothing,
    /// Any token; what is answered is cut down to what its holder may see.
    AnyToken,
    /// This role in the project that the request names.
    Project(Role),
    /// This role in the project of the object that the request names by its id.
    Owner(Role),
    /// The role of an admin, in the cloud or in some project; the operation looks closer.
    AdminSomewhere,
    /// This role in the whole cloud.
    Cloud(Role),
}

/// What the policy says of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name: `instance_create`.
    pub operation: &'static str,
    /// What the caller must have.
    pub need: Need,
    /// Whether each request leaves a record in the audit journal.
    pub audited: bool,
}

const fn read(operation: &'static str, need: Need) -> Rule {
    Rule { operation, need, audited: false }
}

const fn change(operation: &'static str, need: Need) -> Rule {
    Rule { operation, need, audited: true }
}

use Need::{AdminSomewhere, AnyToken, Cloud, Nothing, Owner, Project};
use Role::{Admin, Editor, Viewer};

/// Every operation of the API.
pub const RULES: &[Rule] = &[
    read("ping", Nothing),
    read("whoami", AnyToken),
    read("watch", AnyToken),
    read("event_stream", AnyToken),
    read("audit_list", Cloud(Admin)),
    // Everything that the cloud knows, of every project: who reads it leaves a trace.
    change("state_snapshot", Cloud(Admin)),
    read("task_list", Cloud(Viewer)),
    read("project_list", AnyToken),
    change("project_create", Cloud(Admin)),
    read("project_get", Project(Viewer)),
    change("project_update", Project(Admin)),
    change("project_delete", Cloud(Admin)),
    read("ssh_key_list", Project(Viewer)),
    // A key enters instances, as an editor does.
    change("ssh_key_create", Project(Editor)),
    read("ssh_key_get", Project(Viewer)),
    change("ssh_key_delete", Project(Editor)),
    read("token_list", AnyToken),
    change("token_create", AdminSomewhere),
    change("token_delete", AdminSomewhere),
    read("instance_list", Project(Viewer)),
    change("instance_create", Project(Editor)),
    read("instance_get", Project(Viewer)),
    change("instance_update", Project(Editor)),
    change("instance_delete", Project(Editor)),
    change("instance_action", Project(Editor)),
    read("instance_explain", Project(Viewer)),
    read("instance_logs", Project(Viewer)),
    read("instance_usage", Project(Viewer)),
    // Who enters an instance can change anything in it.
    change("instance_exec", Project(Editor)),
    change("instance_sftp", Project(Editor)),
    change("instance_attach", Project(Editor)),
    change("instance_files_read", Project(Editor)),
    change("instance_files_write", Project(Editor)),
    change("instance_console", Project(Editor)),
    change("instance_dial", Project(Editor)),
    read("group_list", Project(Viewer)),
    change("group_create", Project(Editor)),
    read("group_get", Project(Viewer)),
    change("group_update", Project(Editor)),
    change("group_delete", Project(Editor)),
    change("group_undo", Project(Editor)),
    read("group_explain", Project(Viewer)),
    change("instance_clone", Project(Editor)),
    read("snapshot_list", Project(Viewer)),
    read("instance_snapshot_list", Project(Viewer)),
    change("snapshot_create", Project(Editor)),
    read("snapshot_get", Project(Viewer)),
    change("snapshot_restore", Project(Editor)),
    change("snapshot_delete", Project(Editor)),
    read("image_list", Project(Viewer)),
    change("image_create", Project(Editor)),
    change("image_upload", Project(Editor)),
    read("image_get", Project(Viewer)),
    read("image_export", Project(Viewer)),
    change("image_verify", Project(Editor)),
    change("image_delete", Project(Editor)),
    read("network_list", Project(Viewer)),
    change("network_create", Project(Editor)),
    read("network_get", Project(Viewer)),
    change("network_delete", Project(Editor)),
    change("network_attach", Project(Editor)),
    change("network_detach", Project(Editor)),
    read("volume_list", Project(Viewer)),
    change("volume_create", Project(Editor)),
    read("volume_get", Project(Viewer)),
    change("volume_update", Project(Editor)),
    change("volume_delete", Project(Editor)),
    change("volume_attach", Project(Editor)),
    change("volume_detach", Project(Editor)),
    read("pool_get", Cloud(Viewer)),
    read("node_list", Cloud(Viewer)),
    read("node_get", Cloud(Viewer)),
    read("node_usage", Cloud(Viewer)),
    read("usage_instances", Project(Viewer)),
    read("usage_nodes", Cloud(Viewer)),
    change("node_update", Cloud(Admin)),
    // What is found is cut down to what the caller sees.
    read("metrics", AnyToken),
    read("prom_query", AnyToken),
    read("prom_query_post", AnyToken),
    read("prom_query_range", AnyToken),
    read("prom_query_range_post", AnyToken),
    read("prom_series", AnyToken),
    read("prom_series_post", AnyToken),
    read("prom_labels", AnyToken),
    read("prom_labels_post", AnyToken),
    read("prom_label_values", AnyToken),
    read("prom_metadata", AnyToken),
    read("prom_buildinfo", AnyToken),
    read("operation_list", Project(Viewer)),
    read("operation_get", Owner(Viewer)),
    change("operation_cancel", Owner(Editor)),
];

/// What an operation needs; `None` if the policy does not know it: refuse.
pub fn required(operation: &str) -> Option<Rule> {
    RULES.iter().find(|rule| rule.operation == operation).copied()
}
