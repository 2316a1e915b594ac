//! Tests of what a node is told when something changes.

use super::*;
use crate::samples;
use proptest::prelude::*;
use yun_types::{Generation, NetworkSpec};

fn network_id(n: u8) -> NetworkId {
    NetworkId(samples::id(&format!("net{n}")))
}

fn network(n: u8, records: &[&str]) -> DesiredNetwork {
    let spec = NetworkSpec::new(format!("10.77.{n}.0/24").parse().unwrap());
    let records = records.iter().map(|r| DnsRecord { name: (*r).into(), address: [10, 77, n, 2].into() }).collect();
    DesiredNetwork { id: network_id(n), project: samples::name("default"), spec, records }
}

fn instance(name: &str, net: u8) -> DesiredInstance {
    desired_instance(&samples::instance(name), network_id(net), &|_| None).unwrap()
}

fn changed(instances: &[DesiredInstance], networks: &[DesiredNetwork]) -> Changed {
    Changed {
        instances: instances.iter().map(|i| (i.id, Some(i.clone()))).collect(),
        networks: networks.iter().map(|n| (n.id, Some(n.clone()))).collect(),
        catalogue: None,
        ..Changed::default()
    }
}

/// What a node that obeys has.
#[derive(Debug, Default, PartialEq)]
struct Node {
    instances: BTreeMap<InstanceId, DesiredInstance>,
    networks: BTreeMap<NetworkId, DesiredNetwork>,
    images_gone: BTreeSet<Digest>,
    volumes: BTreeMap<VolumeId, DesiredVolume>,
}

impl Node {
    fn obey(&mut self, orders: Vec<NodeOrder>) {
        for order in orders {
            match order {
                NodeOrder::Snapshot { instances, networks, .. } => {
                    self.instances = instances.into_iter().map(|i| (i.id, i)).collect();
                    self.networks = networks.into_iter().map(|n| (n.id, n)).collect();
                }
                NodeOrder::Instance(i) => {
                    assert!(self.networks.contains_key(&i.nic.network), "its network comes first");
                    self.instances.insert(i.id, *i);
                }
                NodeOrder::Volume(v) => {
                    self.volumes.insert(v.id, v);
                }
                NodeOrder::Network(n) => {
                    self.networks.insert(n.id, n);
                }
                NodeOrder::NetworkGone { id } => {
                    // The node removes a deleting instance before it says that it is gone.
                    self.instances.retain(|_, i| !i.deleting);
                    assert!(self.instances.values().all(|i| i.nic.network != id), "a network goes after its instances");
                    self.networks.remove(&id);
                }
                NodeOrder::ImageGone { digest } => {
                    self.images_gone.insert(digest);
                }
            }
        }
    }
}

#[test]
fn a_new_instance_comes_after_its_network() {
    let mut told = Told::default();
    let orders = diff(&mut told, changed(&[instance("web", 1)], &[network(1, &["web.default.yun"]), network(2, &[])]));
    assert!(
        matches!(&orders[..], [NodeOrder::Network(n), NodeOrder::Instance(i)] if n.id == network_id(1) && i.name.as_str() == "web"),
        "{orders:?}"
    );
    assert_eq!(told.networks_in_use(), [network_id(1)].into());
    assert!(told.instance(instance("web", 1).id).is_some());
}

#[test]
fn nothing_new_is_not_told_again() {
    let mut told = Told::default();
    let all = changed(&[instance("web", 1)], &[network(1, &[])]);
    diff(&mut told, all.clone());
    assert!(diff(&mut told, all).is_empty());
    let mut counted = instance("web", 1);
    (counted.restarts, counted.restart_count) = (7, 1);
    assert!(diff(&mut told, changed(&[counted], &[])).is_empty(), "reports do not come back as orders");
    let mut newer = instance("web", 1);
    newer.generation = Generation(2);
    assert_eq!(diff(&mut told, changed(&[newer], &[])).len(), 1);
}

#[test]
fn a_neighbour_elsewhere_changes_the_names_only() {
    let mut told = Told::default();
    diff(&mut told, changed(&[instance("web", 1)], &[network(1, &[])]));
    let orders = diff(&mut told, changed(&[], &[network(1, &["db.default.yun"])]));
    assert!(matches!(&orders[..], [NodeOrder::Network(n)] if n.records.len() == 1), "{orders:?}");
}

#[test]
fn deletion_takes_two_steps_and_ends_the_network() {
    let mut told = Told::default();
    let web = instance("web", 1);
    diff(&mut told, changed(std::slice::from_ref(&web), &[network(1, &[])]));
    let leaving = DesiredInstance { deleting: true, ..web.clone() };
    assert!(matches!(&diff(&mut told, changed(&[leaving], &[]))[..], [NodeOrder::Instance(i)] if i.deleting));
    let gone = Changed { instances: [(web.id, None)].into(), ..Changed::default() };
    let image_gone = NodeOrder::ImageGone { digest: samples::digest(1) };
    assert_eq!(diff(&mut told, gone), [NodeOrder::NetworkGone { id: network_id(1) }, image_gone]);
}

#[test]
fn what_vanishes_without_notice_takes_a_snapshot() {
    let mut told = Told::default();
    let (web, db) = (instance("web", 1), instance("db", 1));
    diff(&mut told, changed(&[web.clone(), db.clone()], &[network(1, &[])]));
    let orders = diff(&mut told, Changed { instances: [(web.id, None)].into(), ..Changed::default() });
    assert!(
        matches!(&orders[..], [NodeOrder::Snapshot { instances, networks, .. }] if instances.len() == 1 && networks.len() == 1),
        "{orders:?}"
    );
}

#[test]
fn contents_go_when_neither_the_catalogue_nor_an_instance_needs_them() {
    let mut told = Told::default();
    let catalogue = |digests: &[u8]| Changed {
        catalogue: Some(digests.iter().map(|d| samples::digest(*d)).collect()),
        ..Changed::default()
    };
    assert!(diff(&mut told, catalogue(&[1, 2])).is_empty(), "new contents are not told: the node took them in itself");
    diff(&mut told, changed(&[instance("web", 1)], &[network(1, &[])]));
    assert_eq!(
        diff(&mut told, catalogue(&[])),
        [NodeOrder::ImageGone { digest: samples::digest(2) }],
        "web was made from 1"
    );
    let web = DesiredInstance { deleting: true, ..instance("web", 1) };
    diff(&mut told, changed(std::slice::from_ref(&web), &[]));
    let orders = diff(&mut told, Changed { instances: [(web.id, None)].into(), ..Changed::default() });
    assert!(orders.contains(&NodeOrder::ImageGone { digest: samples::digest(1) }), "{orders:?}");
}

#[test]
fn an_instance_without_a_place_is_no_order() {
    let mut waiting = samples::instance("web");
    assert!(desired_instance(&waiting, network_id(1), &|_| None).is_some_and(|d| d.domain() == "web.default.yun"));
    waiting.status.node = None;
    assert!(desired_instance(&waiting, network_id(1), &|_| None).is_none());
}

#[test]
fn names_of_other_projects_and_of_the_leaving_are_not_answered() {
    let network = Network {
        metadata: samples::metadata("default"),
        spec: NetworkSpec::new("10.77.0.0/24".parse().unwrap()),
        status: Default::default(),
    };
    let (web, mut other, mut leaving, mut waiting) = (
        samples::instance("web"),
        samples::instance("other"),
        samples::instance("leaving"),
        samples::instance("waiting"),
    );
    other.metadata.project = Some(samples::name("team-a"));
    leaving.metadata.deleting = Some(samples::at(1));
    waiting.status.address = None;
    let desired = desired_network(&network, [&web, &other, &leaving, &waiting]).unwrap();
    assert_eq!(desired.records.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["web.default.yun"]);
}

#[test]
fn the_name_of_a_group_leads_to_all_of_it_that_is_ready() {
    let network = Network {
        metadata: samples::metadata("default"),
        spec: NetworkSpec::new("10.77.0.0/24".parse().unwrap()),
        status: Default::default(),
    };
    let member = |slot: u8, state| {
        let mut member = samples::instance(&format!("web-{slot}"));
        let (id, name) = (samples::id("web"), samples::name("web"));
        member.status.group = Some(yun_types::GroupMember { id, name, slot: slot.into(), revision: 1 });
        member.status.address = Some([10, 77, 0, slot].into());
        member.status.state = state;
        member
    };
    let alias = |mut instance: Instance| {
        instance.metadata.labels.insert(ALIASES.into(), "www, front,No".into());
        instance
    };
    let (one, two) = (member(1, yun_types::InstanceState::Running), member(2, yun_types::InstanceState::Running));
    let three = member(3, yun_types::InstanceState::Starting);
    let (two, three) = (alias(two), alias(three));
    let desired = desired_network(&network, [&one, &two, &three]).unwrap();
    let of = |name: &str| {
        desired.records.iter().filter(|r| r.name == name).map(|r| r.address.octets()[3]).collect::<Vec<_>>()
    };
    assert_eq!((of("web.default.yun"), of("web-3.default.yun")), (vec![1, 2], vec![3]));
    assert_eq!((of("www.default.yun"), of("front.default.yun")), (vec![2], vec![2]), "a name is no reason to be ready");
}

proptest! {
    /// Whatever happens in whatever portions, a node that obeys has what a snapshot would have given it.
    #[test]
    fn obeying_changes_is_as_good_as_a_snapshot(steps in proptest::collection::vec((0u8..4, 0u8..5, 0u8..3), 1..40)) {
        let mut told = Told::default();
        let mut node = Node::default();
        for (which, what, generation) in steps {
            let net = which % 2 + 1;
            let id = instance(&format!("i{which}"), net).id;
            let now = match what {
                0 => None,
                1 => told.instance(id).map(|before| DesiredInstance { deleting: true, ..before.clone() }),
                _ => Some(DesiredInstance { generation: Generation(u64::from(generation)), ..instance(&format!("i{which}"), net) }),
            };
            let orders = diff(&mut told, Changed {
                instances: [(id, now)].into(),
                networks: [(network_id(net), Some(network(net, &[["a", "b", "c"][usize::from(generation)]])))].into(),
                catalogue: None,
                ..Changed::default()
            });
            node.obey(orders);
        }
        let mut fresh = Node::default();
        fresh.obey(vec![told.snapshot()]);
        node.instances.retain(|_, i| !i.deleting);
        fresh.instances.retain(|_, i| !i.deleting);
        prop_assert_eq!((node.instances, node.networks), (fresh.instances, fresh.networks));
    }
}
