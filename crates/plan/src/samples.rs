//! Objects for tests.

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;
use yun_types::{
    Digest, Generation, ImageId, ImagePin, Instance, InstanceKind, InstanceSpec, InstanceState, InstanceStatus, Labels,
    Metadata, Name, NodeId, ObjectKind, ObjectRef, Operation, OperationKind, OperationSpec, OperationStatus, Timestamp,
};

pub(crate) fn at(seconds: i64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn id(text: &str) -> Uuid {
    Uuid::from_u128(text.bytes().fold(1, |id, byte| id * 257 + u128::from(byte)))
}

pub(crate) fn metadata(text: &str) -> Metadata {
    Metadata {
        id: id(text),
        name: name(text),
        project: Some(Name::default_project()),
        labels: Labels::new(),
        created: at(0),
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    }
}

pub(crate) fn digest(byte: u8) -> Digest {
    Digest::from_sha256([byte; 32])
}

/// A container that runs on node `a`.
pub(crate) fn instance(text: &str) -> Instance {
    let spec: InstanceSpec = InstanceSpec {
        kind: Some(InstanceKind::Container),
        image: "busybox".into(),
        size: "cpu:100m,memory:64Mi,disk:100Mi".parse().unwrap(),
        power: Default::default(),
        restart: Default::default(),
        restart_count: 0,
        publish: vec![],
        networks: vec![],
        volumes: vec![],
        node: None,
        stop_timeout: None,
        template: None,
        container: Default::default(),
        vm: Default::default(),
    };
    let status = InstanceStatus {
        observed_generation: Generation(1),
        state: InstanceState::Running,
        node: Some(NodeId(id("a"))),
        node_name: Some(name("a")),
        address: Some([10, 77, 0, 2].into()),
        mac: Some("02:00:00:00:00:01".into()),
        image: Some(ImagePin { id: ImageId(id("busybox")), name: "busybox".into(), digest: digest(1) }),
        started: Some(at(1)),
        fence: 1,
        ..InstanceStatus::default()
    };
    Instance { metadata: metadata(text), spec, status }
}

/// A running operation on an instance.
pub(crate) fn operation(kind: OperationKind, target: &Instance) -> Operation {
    let target = ObjectRef {
        kind: ObjectKind::Instance,
        name: target.metadata.name.to_string(),
        id: target.metadata.id,
        project: target.metadata.project.clone(),
    };
    Operation {
        metadata: metadata("op-1"),
        spec: OperationSpec { kind, target, by: "test".into(), cancel: false },
        status: OperationStatus::default(),
    }
}
