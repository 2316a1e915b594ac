//! How fast the API answers when ten thousand instances are known.

use crate::{
    cloud::Cloud,
    measure::{Measure, Must, cpu_seconds, percentile},
    wire::{Server, load},
};
use anyhow::{Context as _, Result};
use std::{path::Path, sync::Arc, time::Duration};
use yun_control::rows::InstanceRow;
use yun_store::{Options, SqliteStore, Store, Table, Txn};
use yun_types::{Generation, Instance, InstanceState, InstanceStatus, Metadata, Name, Power};

const KNOWN: usize = 10_000;
const CLIENTS: usize = 64;
/// The pause of clients that ask 25 times a second.
const PAUSE: Duration = Duration::from_millis(40);
const TIME: Duration = Duration::from_secs(6);

/// Measures reads of one object and of a page of 500.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let cloud = Cloud::start(fill).await?;
    let known = cloud
        .client
        .instance_get()
        .instance(name(KNOWN - 1))
        .send()
        .await
        .context("the instances are not known")?
        .into_inner();
    anyhow::ensure!(known.status.state == InstanceState::Stopped, "the instances have changed");
    let context = std::fs::read_to_string(cloud.root().join("config.toml"))?;
    let context: toml::Value = toml::from_str(&context)?;
    let context = context["contexts"].as_table().and_then(|t| t.values().next()).context("no context")?;
    let word = |key: &str| context[key].as_str().unwrap_or_default();
    let server = Server::new(word("host"), word("ca"), word("token"))?;
    let one = |turn: usize| format!("/v1/instances/{}", name(turn * 7919 % KNOWN));
    let before = cpu_seconds(cloud.pid()?)?;
    let mut gets = load(&server, CLIENTS, Duration::ZERO, TIME, one).await?;
    let cpu = cpu_seconds(cloud.pid()?)? - before;
    let mut paced = load(&server, CLIENTS, PAUSE, TIME, one).await?;
    let mut lists = load(&server, 1, Duration::ZERO, TIME, |_| "/v1/instances?limit=500".to_owned()).await?;
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let (rate, each) = (gets.len() as f64 / TIME.as_secs_f64(), cpu * 1e6 / gets.len() as f64);
    Ok(vec![
        Measure::new("api: get, processor time of the server for each request", each, "us"),
        Measure::new("api: get, 10,000 instances known, 64 clients without pause, rate", rate, "req/s"),
        Measure::new(
            "api: get, 10,000 instances known, 64 clients without pause, p50",
            percentile(&mut gets, 50),
            "ms",
        ),
        Measure::new(
            "api: get, 10,000 instances known, 64 clients without pause, p99",
            percentile(&mut gets, 99),
            "ms",
        )
        .must(Must::AtMost(5.0)),
        Measure::new(
            "api: get, 10,000 instances known, 64 clients, 25 a second each, p50",
            percentile(&mut paced, 50),
            "ms",
        ),
        Measure::new(
            "api: get, 10,000 instances known, 64 clients, 25 a second each, p99",
            percentile(&mut paced, 99),
            "ms",
        )
        .must(Must::AtMost(5.0)),
        Measure::new("api: list page of 500, p50", percentile(&mut lists, 50), "ms"),
        Measure::new("api: list page of 500, p99", percentile(&mut lists, 99), "ms").must(Must::AtMost(20.0)),
    ])
}

fn name(number: usize) -> Name {
    format!("i{number:05}").parse().expect("a letter and digits")
}

/// Writes the instances into the state of a cloud that has not started yet.
async fn fill(root: &Path) -> Result<()> {
    let directory = root.join("var/lib/yun/state");
    std::fs::create_dir_all(&directory)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&directory, Options::default())?);
    let numbers: Vec<usize> = (0..KNOWN).collect();
    for some in numbers.chunks(100) {
        let mut txn = Txn::new();
        for number in some {
            let row = InstanceRow(instance(*number)?);
            txn = txn.then(Table::<InstanceRow>::op_put(&["default", name(*number).as_str()], &row)?);
        }
        store.txn(txn).await?;
    }
    Ok(())
}

fn instance(number: usize) -> Result<Instance> {
    let mut spec: yun_types::InstanceSpec =
        serde_json::from_value(serde_json::json!({ "image": "box", "kind": "container" }))?;
    spec.power = Power::Stopped;
    Ok(Instance {
        metadata: Metadata {
            id: uuid::Uuid::new_v4(),
            name: name(number),
            project: Some(Name::default_project()),
            labels: Default::default(),
            created: chrono::Utc::now(),
            generation: Generation(1),
            revision: String::new(),
            deleting: None,
        },
        spec,
        status: InstanceStatus {
            observed_generation: Generation(1),
            state: InstanceState::Stopped,
            ..Default::default()
        },
    })
}
