//! Every operation of the OpenAPI document, called by every kind of caller. What is expected stands here, apart from the policy's own table.

use crate::world::{World, name, refusal, socket};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_tungstenite::tungstenite::Message;
use yun_api::cloud::TokenCreate;
use yun_control::rows::OperationRow;
use yun_types::{
    Generation, Metadata, ObjectKind, ObjectRef, Operation, OperationKind, OperationSpec, OperationStatus, Role,
    TokenSpec,
};

const OPERATION: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0001;

/// Its private half is nowhere.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAswVXqfxOkOM1h9osfsETZbgKXK7xQ5XoOozfIXPGGG";

/// Who asks: a name, and how far their roles reach.
const CALLERS: [&str; 9] =
    ["nobody", "stranger", "viewer", "editor", "beta-admin", "cloud-viewer", "cloud-editor", "admin", "cloud-admin"];

/// Who is let in.
fn allowed(operation: &str) -> Option<&'static [&'static str]> {
    const VIEWERS: &[&str] = &["viewer", "editor", "cloud-viewer", "cloud-editor", "admin", "cloud-admin"];
    const EDITORS: &[&str] = &["editor", "cloud-editor", "admin", "cloud-admin"];
    const ADMINS: &[&str] = &["admin", "cloud-admin"];
    const CLOUD_VIEWERS: &[&str] = &["cloud-viewer", "cloud-editor", "cloud-admin"];
    const CLOUD_ADMINS: &[&str] = &["cloud-admin"];
    const TOKENS: &[&str] = &["viewer", "editor", "beta-admin", "cloud-viewer", "cloud-editor", "admin", "cloud-admin"];
    Some(match operation {
        "ping" => &CALLERS,
        prometheus if prometheus.starts_with("prom_") || prometheus == "metrics" => TOKENS,
        "whoami" | "watch" | "event_stream" | "project_list" | "token_list" => TOKENS,
        "audit_list" | "state_snapshot" | "project_create" | "project_delete" | "node_update" => CLOUD_ADMINS,
        "task_list" | "pool_get" | "node_list" | "node_get" => CLOUD_VIEWERS,
        "group_list" | "group_get" | "group_explain" => VIEWERS,
        "group_create" | "group_update" | "group_delete" | "group_undo" => EDITORS,
        "snapshot_list" | "instance_snapshot_list" | "snapshot_get" => VIEWERS,
        "project_get" | "instance_list" | "instance_get" | "instance_explain" | "instance_logs" | "image_list"
        | "image_get" | "image_export" | "network_list" | "network_get" | "ssh_key_list" | "ssh_key_get"
        | "volume_list" | "volume_get" | "operation_list" | "operation_get" => VIEWERS,
        "instance_create"
        | "instance_clone"
        | "instance_update"
        | "instance_delete"
        | "instance_action"
        | "instance_attach"
        | "instance_exec"
        | "instance_sftp"
        | "instance_files_read"
        | "instance_files_write"
        | "instance_console"
        | "instance_dial"
        | "image_create"
        | "image_upload"
        | "image_verify"
        | "image_delete"
        | "network_create"
        | "network_delete"
        | "network_attach"
        | "network_detach"
        | "ssh_key_create"
        | "ssh_key_delete"
        | "volume_create"
        | "volume_update"
        | "volume_delete"
        | "volume_attach"
        | "volume_detach"
        | "snapshot_create"
        | "snapshot_restore"
        | "snapshot_delete"
        | "operation_cancel" => EDITORS,
        "instance_usage" | "usage_instances" => VIEWERS,
        "node_usage" | "usage_nodes" => CLOUD_VIEWERS,
        "project_update" | "token_create" | "token_delete" => ADMINS,
        _ => return None,
    })
}

/// An endpoint, as the document has it.
struct Endpoint {
    operation: String,
    method: reqwest::Method,
    path: String,
    query: Vec<String>,
    websocket: bool,
}

fn endpoints() -> Vec<Endpoint> {
    let document: Value = serde_json::from_str(&yun_api::cloud::openapi()).unwrap();
    let mut endpoints = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, endpoint) in methods.as_object().unwrap() {
            let parameters = endpoint["parameters"].as_array().cloned().unwrap_or_default();
            let query = parameters
                .iter()
                .filter(|p| p["in"] == "query")
                .map(|p| p["name"].as_str().unwrap().to_owned())
                .collect();
            endpoints.push(Endpoint {
                operation: endpoint["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                query,
                websocket: endpoint.get("x-dropshot-websocket").is_some(),
            });
        }
    }
    // What deletes the project that all others are about comes last.
    endpoints.sort_by_key(|endpoint| endpoint.operation == "project_delete");
    endpoints
}

fn body(operation: &str) -> Option<Value> {
    Some(match operation {
        "project_create" => json!({"name": "gamma"}),
        "project_update" => json!({"description": "more"}),
        "token_create" => json!({"name": "another", "spec": {"projects": {"alpha": "viewer"}}}),
        "instance_create" => json!({"name": "web", "spec": {"kind": "container", "image": "none"}}),
        "instance_update" => json!({"spec": {"kind": "container", "image": "none"}}),
        "group_create" => json!({"name": "many", "spec": {"template": {"spec": {"image": "none"}}}}),
        "group_update" => json!({"spec": {"template": {"spec": {"image": "none"}}}}),
        "instance_clone" => json!({"name": "twin"}),
        "snapshot_create" => json!({"name": "before"}),
        "image_create" => json!({"name": "base", "source": {"type": "url", "url": "http://127.0.0.1:9/none"}}),
        "node_update" => json!({"cordoned": true}),
        "network_create" => json!({"name": "back"}),
        "network_attach" | "network_detach" | "volume_attach" | "volume_detach" => json!({"instance": "web"}),
        "ssh_key_create" => json!({"name": "laptop", "spec": {"public_key": KEY}}),
        "volume_create" => json!({"name": "data"}),
        "volume_update" => json!({"spec": {}}),
        _ => return None,
    })
}

async fn call(world: &World, endpoint: &Endpoint, secret: &str) -> (u16, String) {
    let id = uuid::Uuid::from_u128(OPERATION).to_string();
    let values = [
        ("project", "alpha"),
        ("instance", "web"),
        ("group", "many"),
        ("image", "base"),
        ("network", "default"),
        ("volume", "data"),
        ("ssh_key", "laptop"),
        ("node", "one"),
        ("operation", &id),
        ("action", "start"),
        ("port", "80"),
        ("snapshot", "before"),
        ("label", "project"),
        ("token", "victim"),
        ("name", "up"),
        ("command", "[\"true\"]"),
        ("path", "/etc/hosts"),
    ];
    let values = BTreeMap::from(values);
    let mut path = endpoint.path.clone();
    for (key, value) in &values {
        path = path.replace(&format!("{{{key}}}"), value);
    }
    // Audit and streams without an end are asked for no more than they hold now.
    let asked = endpoint.query.iter().filter(|key| matches!(key.as_str(), "project" | "name" | "command" | "path"));
    let query: Vec<(&str, &str)> = asked
        .filter(|_| endpoint.operation != "watch" && endpoint.operation != "event_stream")
        .map(|key| (key.as_str(), values[key.as_str()]))
        .collect();
    let mut request = world.http(secret).request(endpoint.method.clone(), world.url(&path)).query(&query);
    if endpoint.websocket {
        let headers = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ];
        for (key, value) in headers {
            request = request.header(key, value);
        }
        let upgraded = request.send().await.unwrap().upgrade().await.unwrap();
        return closed(upgraded).await;
    }
    request = match body(&endpoint.operation) {
        Some(body) => request.json(&body),
        None => request.body(""),
    };
    let response = request.send().await.unwrap();
    if response.status().is_success() {
        return (response.status().as_u16(), String::new());
    }
    let (status, _, message) = refusal(response).await;
    (status, message)
}

/// How the server closed a WebSocket.
async fn closed(upgraded: reqwest::Upgraded) -> (u16, String) {
    let mut socket = socket(upgraded).await;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            return (u16::from(frame.code) - 4000, frame.reason.to_string());
        }
    }
    panic!("the server closed a WebSocket without a reason");
}

async fn prepare(world: &World) -> BTreeMap<&'static str, String> {
    world.project("alpha").await;
    world.project("beta").await;
    let id = uuid::Uuid::from_u128(OPERATION);
    let metadata = Metadata {
        id,
        name: name("operation"),
        project: Some(name("alpha")),
        labels: BTreeMap::new(),
        created: chrono::DateTime::UNIX_EPOCH,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let target = ObjectRef { kind: ObjectKind::Instance, name: "web".into(), id, project: Some(name("alpha")) };
    let spec = OperationSpec { kind: OperationKind::InstanceStart, target, by: "test".into(), cancel: false };
    let row = OperationRow(Operation { metadata, spec, status: OperationStatus::default() });
    let rev = world.control.operations.table.create(&[&id.to_string()], &row).await.unwrap();
    world.control.operations.cache.wait_for(rev).await.unwrap();
    BTreeMap::from([
        ("nobody", String::new()),
        ("stranger", "yun_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned()),
        ("viewer", world.token("viewer", None, &[("alpha", Role::Viewer)]).await),
        ("editor", world.token("editor", None, &[("alpha", Role::Editor)]).await),
        ("admin", world.token("alpha-admin", None, &[("alpha", Role::Admin)]).await),
        ("beta-admin", world.token("beta-admin", None, &[("beta", Role::Admin)]).await),
        ("cloud-viewer", world.token("cloud-viewer", Some(Role::Viewer), &[]).await),
        ("cloud-editor", world.token("cloud-editor", Some(Role::Editor), &[]).await),
        ("cloud-admin", world.admin.clone()),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_lets_in_whom_it_should_and_nobody_else() {
    let world = World::new().await;
    let secrets = prepare(&world).await;
    let mut wrong = Vec::new();
    for endpoint in endpoints() {
        let Some(allowed) = allowed(&endpoint.operation) else { continue };
        for caller in CALLERS {
            if endpoint.operation == "token_delete" {
                // Whoever may revoke it finds it.
                let spec = TokenSpec { projects: [(name("alpha"), Role::Viewer)].into(), ..TokenSpec::default() };
                let _ = yun_control::token::ops::create(
                    &world.control,
                    &world.root(),
                    TokenCreate { name: name("victim"), spec },
                )
                .await;
            }
            let (status, message) = call(&world, &endpoint, &secrets[caller]).await;
            let hidden = status == 404
                && (message.contains("project alpha")
                    || message.contains("token victim")
                    || message.starts_with("operation "));
            let refused = matches!(status, 401 | 403) || hidden;
            let anonymous = matches!(caller, "nobody" | "stranger");
            let right = if allowed.contains(&caller) { !refused } else { refused && (status == 401) == anonymous };
            if !right {
                wrong.push(format!("{} as {caller}: {status} {message}", endpoint.operation));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.running.shutdown().await;
}

/// The golden list of operations without an expectation here. It may only shrink; it is empty.
#[test]
fn no_operation_is_without_an_authorization_test() {
    let uncovered: Vec<String> = endpoints()
        .into_iter()
        .map(|endpoint| endpoint.operation)
        .filter(|operation| allowed(operation).is_none())
        .collect();
    let uncovered = uncovered.iter().map(|operation| format!("{operation}\n")).collect::<String>();
    expect_test::expect_file!["../uncovered-authz-endpoints.txt"].assert_eq(&uncovered);
}

#[test]
fn the_policy_has_one_rule_for_each_operation_and_no_other() {
    let mut documented: Vec<String> = endpoints().into_iter().map(|endpoint| endpoint.operation).collect();
    let mut ruled: Vec<String> =
        yun_control::auth::policy::RULES.iter().map(|rule| rule.operation.to_owned()).collect();
    documented.sort();
    ruled.sort();
    assert_eq!(documented, ruled);
}

#[test]
fn everything_that_changes_is_audited() {
    for endpoint in endpoints() {
        let rule = yun_control::auth::policy::required(&endpoint.operation).unwrap();
        // Questions of Prometheus may be long, so they come as forms; they change nothing.
        let question = endpoint.operation.starts_with("prom_");
        if !question && endpoint.method != reqwest::Method::GET || endpoint.websocket {
            assert!(rule.audited, "{} leaves no record", endpoint.operation);
        }
    }
}
