//! The request that makes a container, as clients send it. Only what the cloud can do is read; `host_config` refuses the rest.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What containers are made of.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Request {
    #[serde(deserialize_with = "or_empty")]
    pub(super) image: String,
    #[serde(deserialize_with = "words")]
    pub(super) entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub(super) cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) user: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) working_dir: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) hostname: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) domainname: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) mac_address: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) tty: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) open_stdin: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) stdin_once: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) stop_signal: String,
    pub(super) stop_timeout: Option<i64>,
    pub(super) healthcheck: Option<Health>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) exposed_ports: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) volumes: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) host_config: Host,
    #[serde(deserialize_with = "or_empty")]
    pub(super) networking_config: Networking,
}

/// How a container's health is checked. Spans are nanoseconds; zero stands for the image's word, or the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    #[serde(deserialize_with = "or_empty")]
    pub(super) test: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) interval: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) timeout: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) start_period: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) retries: i64,
}

/// Where and how it runs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Host {
    #[serde(deserialize_with = "or_empty")]
    pub(super) binds: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) mounts: Vec<MountRequest>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) tmpfs: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) port_bindings: BTreeMap<String, Option<Vec<Binding>>>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) publish_all_ports: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) network_mode: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) restart_policy: Restart,
    #[serde(deserialize_with = "or_empty")]
    pub(super) auto_remove: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) memory: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) nano_cpus: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) cpu_quota: i64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) cpu_period: i64,
    pub(super) pids_limit: Option<i64>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) privileged: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) readonly_rootfs: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) cap_add: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) cap_drop: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) security_opt: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) storage_opt: BTreeMap<String, String>,
    /// Everything else, for what is refused unless it is empty.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// `--restart`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Restart {
    #[serde(deserialize_with = "or_empty")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) maximum_retry_count: u32,
}

/// A port of the host.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Binding {
    #[serde(deserialize_with = "or_empty")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) host_port: String,
}

/// `--mount`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct MountRequest {
    #[serde(rename = "Type", deserialize_with = "or_empty")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) source: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) target: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) read_only: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) tmpfs_options: TmpfsOptions,
    #[serde(deserialize_with = "or_empty")]
    pub(super) volume_options: VolumeOptions,
    #[serde(deserialize_with = "or_empty")]
    pub(super) bind_options: BindOptions,
}

/// `volume-nocopy` and `volume-driver`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct VolumeOptions {
    #[serde(deserialize_with = "or_empty")]
    pub(super) no_copy: bool,
    #[serde(deserialize_with = "or_empty")]
    pub(super) subpath: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) driver_config: DriverConfig,
}

/// Who keeps a volume.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DriverConfig {
    #[serde(deserialize_with = "or_empty")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) options: BTreeMap<String, String>,
}

/// `bind-propagation`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct BindOptions {
    #[serde(deserialize_with = "or_empty")]
    pub(super) propagation: String,
}

/// `tmpfs-size`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TmpfsOptions {
    #[serde(deserialize_with = "or_empty")]
    pub(super) size_bytes: u64,
}

/// Which networks it is on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Networking {
    #[serde(deserialize_with = "or_empty")]
    pub(super) endpoints_config: BTreeMap<String, Option<Endpoint>>,
}

/// How it is on one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "or_empty")]
    pub(super) aliases: Vec<String>,
    #[serde(rename = "IPAMConfig", deserialize_with = "or_empty")]
    pub(super) ipam: Ipam,
    /// Everything else, for what is refused unless it is empty.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// `--ip`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Ipam {
    #[serde(rename = "IPv4Address", deserialize_with = "or_empty")]
    pub(super) address: String,
    #[serde(rename = "IPv6Address", deserialize_with = "or_empty")]
    pub(super) address6: String,
}

/// Clients write `null` for what they have nothing to say about.
pub(super) fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A command: a list of words, or one.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Form>::deserialize(from)?.map(|form| match form {
        Form::One(word) => vec![word],
        Form::Many(words) => words,
    }))
}

/// The request without what is empty: what is kept of it for `inspect`.
pub(super) fn slim(value: Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::Number(n) if n.as_i64() == Some(0) || n.as_i64() == Some(-1) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) => {
            let list: Vec<Value> = list.into_iter().map(|v| slim(v.clone()).unwrap_or(v)).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
        Value::Object(map) => {
            let map: Map<_, _> = map.into_iter().filter_map(|(k, v)| Some((k, slim(v)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_and_both_forms_of_commands_are_read() {
        let read = |value: Value| serde_json::from_value::<Request>(value).unwrap();
        let request = read(json!({ "Image": "box", "Cmd": "sh", "Entrypoint": null, "Env": null, "HostConfig": null }));
        assert_eq!((request.cmd.unwrap(), request.entrypoint), (vec!["sh".to_owned()], None));
        let request = read(
            json!({ "HostConfig": { "Binds": null, "Memory": 1, "ShmSize": 5, "PortBindings": { "80/tcp": null } } }),
        );
        assert_eq!((request.host_config.memory, &request.host_config.rest["ShmSize"]), (1, &json!(5)));
    }

    #[test]
    fn what_is_empty_is_not_kept() {
        let kept = slim(json!({ "A": null, "B": [], "C": { "D": "" }, "E": 0, "F": ["x", ""], "G": true })).unwrap();
        assert_eq!(kept, json!({ "F": ["x", ""], "G": true }));
    }
}
