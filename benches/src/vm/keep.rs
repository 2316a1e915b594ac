//! Machines made from a booted snapshot against a cold boot, and how long a guest stands still while it moves into a fresh QEMU.

use super::greeting;
use crate::{
    cloud::Cloud,
    measure::{Measure, Must, percentile},
};
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};
use yun_api::cloud::{InstanceCreate, SnapshotCreate};
use yun_drivers::{InstanceHandle, MachineDriver};
use yun_linux::{
    host::Host,
    vm::{VmDriver, VmDriverOptions},
};
use yun_types::{Generation, Instance, InstanceId, InstanceKind, InstanceSpec, Name};

const ROUNDS: usize = 5;
/// The machine that the others are made from.
const SOURCE: &str = "template";

/// Measures both; `cold` is what a launch of the same guest to SSH took in the same run, in milliseconds.
pub(super) async fn run(cloud: &Cloud, cold: f64) -> Result<Vec<Measure>> {
    let begun = Instant::now();
    let source = launch(cloud, super::create(SOURCE)?).await?;
    let address = source.status.address.context("the VM has no address")?;
    greeting((address, 22).into(), begun)?;
    // Its agent comes up beside SSH, and whoever goes on with the memory needs it.
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = cloud.yun(&["exec", SOURCE, "--", "true"]) {
        anyhow::ensure!(Instant::now() < until, "the agent of {SOURCE} does not come up: {error:#}");
    }
    let body = SnapshotCreate { name: "warm".parse()?, labels: Default::default(), memory: true };
    let asked = cloud.client.snapshot_create().instance(SOURCE.parse::<Name>()?).body(body).send().await?;
    cloud.ended(asked.into_inner()).await?;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let begun = Instant::now();
        let made = launch(cloud, from_template(&name)?).await?;
        greeting((made.status.address.context("the VM has no address")?, 22).into(), begun)?;
        took.push(begun.elapsed());
        remove(cloud, &name).await?;
    }
    let resumed = Measure::new("vm: launch from a template to SSH, small guest, p50", percentile(&mut took, 50), "ms");
    let resumed = resumed.against("cold launch of the same guest", cold, Some(Must::AtMost(0.3)));
    let moved = moves(cloud, &source).await?;
    remove(cloud, SOURCE).await?;
    Ok(vec![resumed, moved])
}

async fn launch(cloud: &Cloud, body: InstanceCreate) -> Result<Instance> {
    let name = body.name.clone();
    let operation = cloud.client.instance_create().body(body).send().await?.into_inner();
    cloud.ended(operation).await?;
    Ok(cloud.client.instance_get().instance(name).send().await?.into_inner())
}

async fn remove(cloud: &Cloud, name: &str) -> Result<()> {
    let operation = cloud.client.instance_delete().instance(name.parse::<Name>()?).send().await?.into_inner();
    cloud.ended(operation).await.map(drop)
}

fn from_template(name: &str) -> Result<InstanceCreate> {
    let mut body = super::create(name)?;
    let plain: InstanceSpec = serde_json::from_value(serde_json::json!({"image": body.spec.image}))?;
    // The size is the snapshot's.
    (body.spec.size, body.spec.template) = (plain.size, Some(format!("{SOURCE}/warm").parse()?));
    Ok(body)
}

/// Moves the guest a few times with a driver of our own, as a server that was started anew would.
async fn moves(cloud: &Cloud, source: &Instance) -> Result<Measure> {
    let driver = VmDriver::new(Host::open(cloud.root())?, VmDriverOptions::default());
    let mut handle = InstanceHandle {
        id: InstanceId(source.metadata.id),
        kind: InstanceKind::Vm,
        generation: Generation(1),
        driver: serde_json::Value::Null,
    };
    let mut stood: Vec<Duration> = Vec::new();
    for _ in 0..ROUNDS {
        let renewed = driver.renew(&handle).await?;
        stood.push(renewed.downtime);
        handle = renewed.handle;
    }
    let name = "vm: guest of 256 MB stands still in a live migration on one host, p50";
    Ok(Measure::new(name, percentile(&mut stood, 50), "ms").must(Must::AtMost(100.0)))
}
