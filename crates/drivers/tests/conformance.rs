//! The suite on the fakes, so that what is tested with fakes is true of the real ones as far as the suite reaches.

use async_trait::async_trait;
use bytes::Bytes;
use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;
use yun_drivers::{
    conformance::{self, Harness, Kit, Program},
    fake::{Behaviour, FakeImages, FakeInstances, FakeNetwork, World},
};
use yun_engine::clock::SystemClock;
use yun_types::*;

struct Fake {
    world: World,
    kind: InstanceKind,
    image: Digest,
    next: AtomicU8,
}

impl Fake {
    fn new(kind: InstanceKind) -> Self {
        let world = World::new(Arc::new(SystemClock::default()));
        let image = world.add_image(kind, b"conformance");
        Self { world, kind, image, next: AtomicU8::new(1) }
    }
}

#[async_trait]
impl Harness for Fake {
    fn kind(&self) -> InstanceKind {
        self.kind
    }
    async fn kit(&self) -> Kit {
        let world = &self.world;
        Kit {
            instance: Arc::new(FakeInstances::new(world.clone(), self.kind)),
            image: Arc::new(FakeImages::new(world.clone())),
            network: Arc::new(FakeNetwork::new(world.clone())),
            snapshot: Some(Arc::new(FakeInstances::new(world.clone(), self.kind))),
            meter: Arc::new(world.meter()),
        }
    }
    fn image(&self) -> Digest {
        self.image.clone()
    }
    fn upload(&self) -> Bytes {
        let mut bytes = if self.kind == InstanceKind::Vm { b"QFI\xfb".to_vec() } else { Vec::new() };
        bytes.resize(300 << 10, 7);
        bytes.into()
    }
    fn network(&self) -> DesiredNetwork {
        let spec = NetworkSpec::new("10.9.0.0/16".parse().expect("a range"));
        DesiredNetwork {
            id: NetworkId(Uuid::from_u128(9)),
            project: "default".parse().expect("a name"),
            spec,
            records: Vec::new(),
        }
    }
    fn instance(&self, program: Program) -> DesiredInstance {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let id = InstanceId(Uuid::from_u128(u128::from(number)));
        let exits = if let Program::Exits(code) = program { Some((Duration::from_millis(5), code)) } else { None };
        self.world.behave(
            id,
            Behaviour {
                exits,
                deaf: program == Program::Deaf,
                talks: matches!(program, Program::Talks | Program::Deaf),
                boots_after: None,
            },
        );
        DesiredInstance {
            more_nics: vec![],
            volumes: vec![],
            id,
            name: format!("i{number}").parse().expect("a name"),
            project: "default".parse().expect("a name"),
            kind: self.kind,
            generation: Generation(1),
            fence: 1,
            spec: InstanceSpec {
                networks: vec![],
                volumes: vec![],
                kind: Some(self.kind),
                image: "conformance".into(),
                size: Size::default(),
                power: Power::Running,
                restart: RestartPolicy::Never,
                restart_count: 0,
                publish: Vec::new(),
                node: None,
                stop_timeout: None,
                template: None,
                container: ContainerOptions::default(),
                vm: VmOptions::default(),
            },
            image: ImagePin { id: ImageId(Uuid::from_u128(1)), name: "conformance".into(), digest: self.image.clone() },
            nic: Nic {
                network: NetworkId(Uuid::from_u128(9)),
                address: Ipv4Addr::new(10, 9, 1, number),
                mac: format!("02:00:00:00:00:{number:02x}"),
                publish: Vec::new(),
                index: 0,
                egress: None,
                ingress: None,
            },
            origin: Origin::default(),
            deleting: false,
            restarts: 0,
            restart_count: 0,
            restores: 0,
        }
    }
    async fn leftovers(&self, id: InstanceId) -> Vec<String> {
        self.world.leftovers(id)
    }
    async fn mark(&self, id: InstanceId, word: &str) {
        self.world.write_data(id, word);
    }
    async fn marked(&self, id: InstanceId) -> String {
        self.world.data(id).unwrap_or_default()
    }
    fn drops(&self) -> Vec<usize> {
        (0..6).collect()
    }
}

#[tokio::test]
async fn fake_containers_conform() {
    conformance::run(&Fake::new(InstanceKind::Container)).await;
}

#[tokio::test]
async fn fake_vms_conform() {
    conformance::run(&Fake::new(InstanceKind::Vm)).await;
}

/// A suite that finds nothing proves nothing: each broken host must be caught.
#[tokio::test]
async fn broken_drivers_are_caught() {
    use yun_drivers::{
        ErrorKind,
        fake::{Call, Fault},
    };
    for call in [
        Call::Remove,
        Call::NetworkDetach,
        Call::Wait,
        Call::Pause,
        Call::Logs,
        Call::Exec,
        Call::ImageVerify,
        Call::ImageList,
        Call::SnapshotTake,
        Call::SnapshotRestore,
        Call::SnapshotSeed,
        Call::SnapshotRemove,
        Call::SnapshotList,
    ] {
        let fake = Fake::new(InstanceKind::Container);
        fake.world.inject(call, Fault::fails(ErrorKind::Internal, "Broken"));
        let run = tokio::spawn(async move { conformance::run(&fake).await });
        assert!(run.await.is_err(), "{call:?} is broken and nobody noticed");
    }
}
