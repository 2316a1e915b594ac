//! Cases about networks: the same order twice changes nothing, what is in use stays, and a conflict names its cause.

use super::{Harness, Program, dropped_after, must, refused, soon};
use crate::{Attachment, ErrorKind, NetworkDriver};
use yun_types::{DesiredInstance, DnsRecord, InstanceId, NetworkId};

pub(super) async fn run(harness: &dyn Harness) {
    unknown_things(harness).await;
    ensure_and_remove(harness).await;
    attach_and_detach(harness).await;
    a_port_that_is_taken(harness).await;
    taken_up_by_a_new_process(harness).await;
    calls_dropped_half_way(harness).await;
}

/// An order for an instance; its program never runs here.
fn order(harness: &dyn Harness) -> DesiredInstance {
    harness.instance(Program::Patient)
}

async fn attach(network: &dyn NetworkDriver, order: &DesiredInstance) -> crate::Result<Attachment> {
    network.attach(order.id, order.kind, &order.nic).await
}

async fn unknown_things(harness: &dyn Harness) {
    let network = harness.kit().await.network;
    let (nobody, nowhere) = (order(harness).id, NetworkId(order(harness).id.0));
    must("detach of an unknown instance", network.detach(nobody).await);
    must("remove of an unknown network", network.remove(nowhere).await);
    refused("dial of an unknown instance", network.dial(nobody, 80).await);
    let mut order = order(harness);
    order.nic.network = nowhere;
    refused("attach to an unknown network", attach(&*network, &order).await);
    nothing_left(harness, order.id).await;
}

async fn ensure_and_remove(harness: &dyn Harness) {
    let driver = harness.kit().await.network;
    let mut network = harness.network();
    for _ in 0..2 {
        must("ensure", soon(harness, "ensure", driver.ensure(&network)).await);
    }
    network.records = vec![DnsRecord { name: "conformance.default.yun".into(), address: network.spec.gateway() }];
    must("ensure with a name", driver.ensure(&network).await);
    for _ in 0..2 {
        must("remove", soon(harness, "remove", driver.remove(network.id)).await);
    }
    must("ensure after remove", driver.ensure(&network).await);
    must("remove again", driver.remove(network.id).await);
}

async fn attach_and_detach(harness: &dyn Harness) {
    let driver = harness.kit().await.network;
    let (network, order) = (harness.network(), order(harness));
    must("ensure", driver.ensure(&network).await);
    let attachment = must("attach", soon(harness, "attach", attach(&*driver, &order)).await);
    assert_eq!(
        (attachment.instance, &attachment.nic, attachment.cidr),
        (order.id, &order.nic, network.spec.cidr),
        "attach"
    );
    let again = must("second attach", attach(&*driver, &order).await);
    assert_eq!(again, attachment, "attach: the same order gives the same attachment");

    must("ensure while attached", driver.ensure(&network).await);
    let error = refused("remove of a network in use", driver.remove(network.id).await);
    assert_eq!(error.kind, ErrorKind::Conflict, "remove of a network in use: {error}");

    for _ in 0..2 {
        must("detach", soon(harness, "detach", driver.detach(order.id)).await);
    }
    nothing_left(harness, order.id).await;
    must("attach after detach", attach(&*driver, &order).await);
    must("detach again", driver.detach(order.id).await);
    must("remove", driver.remove(network.id).await);
}

async fn a_port_that_is_taken(harness: &dyn Harness) {
    let driver = harness.kit().await.network;
    let network = harness.network();
    must("ensure", driver.ensure(&network).await);
    let (mut first, mut second) = (order(harness), order(harness));
    let port = free_port();
    for order in [&mut first, &mut second] {
        order.nic.publish = port.parse().into_iter().collect();
        assert_eq!(order.nic.publish.len(), 1, "{port} is a port");
    }
    must("attach with a port", attach(&*driver, &first).await);
    let error = refused("attach with a taken port", attach(&*driver, &second).await);
    assert_eq!((error.kind, error.reason), (ErrorKind::Conflict, "PortTaken"), "{error}");
    must("detach of the refused", driver.detach(second.id).await);
    nothing_left(harness, second.id).await;

    first.nic.publish.clear();
    must("attach without the port", attach(&*driver, &first).await);
    must("attach with the port that is free now", attach(&*driver, &second).await);
    for order in [first, second] {
        must("detach", driver.detach(order.id).await);
    }
    must("remove", driver.remove(network.id).await);
}

/// A port that nobody has now, on the loopback address.
fn free_port() -> String {
    let listener =
        std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|error| panic!("no free port: {error}"));
    let port =
        listener.local_addr().map(|address| address.port()).unwrap_or_else(|error| panic!("no free port: {error}"));
    format!("127.0.0.1:{port}:80")
}

async fn taken_up_by_a_new_process(harness: &dyn Harness) {
    let (network, order) = (harness.network(), order(harness));
    let attachment = {
        let driver = harness.kit().await.network;
        must("ensure", driver.ensure(&network).await);
        must("attach", attach(&*driver, &order).await)
    };
    let driver = harness.kit().await.network;
    must("probe of a new process", driver.probe().await);
    must("ensure by a new process", driver.ensure(&network).await);
    must("recover", soon(harness, "recover", driver.recover(&attachment)).await);
    assert_eq!(must("attach by a new process", attach(&*driver, &order).await), attachment, "recover");
    must("detach by a new process", driver.detach(order.id).await);
    nothing_left(harness, order.id).await;
    must("remove by a new process", driver.remove(network.id).await);
}

async fn calls_dropped_half_way(harness: &dyn Harness) {
    for polls in harness.drops() {
        let driver = harness.kit().await.network;
        let (network, order) = (harness.network(), order(harness));
        drop(dropped_after(polls, driver.ensure(&network)).await);
        must("ensure after a dropped one", driver.ensure(&network).await);
        drop(dropped_after(polls, attach(&*driver, &order)).await);
        must("attach after a dropped one", attach(&*driver, &order).await);
        drop(dropped_after(polls, driver.detach(order.id)).await);
        must("detach after a dropped one", driver.detach(order.id).await);
        nothing_left(harness, order.id).await;
        drop(dropped_after(polls, driver.remove(network.id)).await);
        must("remove after a dropped one", driver.remove(network.id).await);
    }
}

async fn nothing_left(harness: &dyn Harness, id: InstanceId) {
    let left = harness.leftovers(id).await;
    assert!(left.is_empty(), "left of instance {id}: {left:?}");
}
