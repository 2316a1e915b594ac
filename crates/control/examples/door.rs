//! Measures the door: how long reads take with many instances known and many clients asking at once. Run with `--release`.

use anyhow::Result;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use yun_control::{
    core::{Control, ControlConfig},
    rows::InstanceRow,
};
use yun_engine::{
    clock::{Clock, SystemClock},
    tasks::Tasks,
};
use yun_store::{Options, SqliteStore, Table, Txn, commit};
use yun_types::{CloudId, Instance};

const KNOWN: usize = 10_000;
const LISTED: usize = 500;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let config = ControlConfig {
        cloud: CloudId(uuid::Uuid::new_v4()),
        directory: directory.path().to_owned(),
        listen: "127.0.0.1:0".parse()?,
        names: Vec::new(),
        network_pool: "10.90.0.0/16".parse()?,
        network_prefix: 24,
    };
    let store = Arc::new(SqliteStore::open(&directory.path().join("state"), Options::default())?);
    let control = Arc::new(Control::open(config, store, Arc::clone(&clock), Tasks::new(clock)).await?);
    let secret = yun_control::first_admin_token(&control).await?.unwrap_or_default();
    let running = yun_control::start(Arc::clone(&control)).await?;
    plant(&control).await?;

    let ca = reqwest::Certificate::from_pem(&std::fs::read(yun_control::tls::authority_path(directory.path()))?)?;
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {secret}").parse()?);
    let http = reqwest::Client::builder().tls_certs_only([ca]).default_headers(headers).build()?;
    let base = format!("https://localhost:{}/v1", running.address.port());
    let (get, list) = ("instances/web-4321?project=default", "instances?project=default&limit=500");
    for (label, clients, requests, pause, path) in [
        ("get, 1 client", 1, 2000, 0, get),
        ("get, 64 clients, 2000/s", 64, 100, 32, get),
        ("get, 64 clients, no pause", 64, 200, 0, get),
        ("list 500, 1 client", 1, 200, 0, list),
        ("list 500, 8 clients, 80/s", 8, 50, 100, list),
        ("ping, 64 clients, no pause", 64, 200, 0, "ping"),
    ] {
        let pause = Duration::from_millis(pause);
        measure(label, &http, &format!("{base}/{path}"), clients, requests, pause).await?;
    }
    running.shutdown().await;
    Ok(())
}

async fn plant(control: &Control) -> Result<()> {
    let text = include_str!("instance.json");
    let numbers: Vec<usize> = (0..KNOWN).collect();
    for chunk in numbers.chunks(50) {
        let mut txn = Txn::new();
        for number in chunk {
            let mut instance: Instance = serde_json::from_str(text)?;
            instance.metadata.name = format!("web-{number}").parse()?;
            instance.metadata.id = uuid::Uuid::new_v4();
            let name = instance.metadata.name.to_string();
            txn = txn.then(Table::<InstanceRow>::op_put(&["default", &name], &InstanceRow(instance))?);
        }
        let out = commit(&*control.store, txn).await?;
        control.instances.cache.wait_for(out.rev).await?;
    }
    println!("{} instances are known, and {LISTED} are listed", control.instances.cache.len());
    Ok(())
}

async fn measure(
    label: &str,
    http: &reqwest::Client,
    url: &str,
    clients: usize,
    requests: usize,
    pause: Duration,
) -> Result<()> {
    let start = Instant::now();
    let tasks = (0..clients).map(|_| {
        let (http, url) = (http.clone(), url.to_owned());
        tokio::spawn(async move {
            let mut spans = Vec::with_capacity(requests);
            for number in 0..requests + 5 {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let start = Instant::now();
                http.get(&url).send().await?.error_for_status()?.bytes().await?;
                // The first ones shake hands.
                if number >= 5 {
                    spans.push(start.elapsed());
                }
            }
            anyhow::Ok(spans)
        })
    });
    let mut spans: Vec<Duration> = Vec::new();
    for task in futures::future::join_all(tasks).await {
        spans.extend(task??);
    }
    spans.sort();
    let at = |percent: usize| spans[(spans.len() * percent / 100).min(spans.len() - 1)];
    let rate = spans.len() as f64 / start.elapsed().as_secs_f64();
    println!("{label:<26} p50 {:>10.2?}  p99 {:>10.2?}  max {:>10.2?}  {rate:>8.0}/s", at(50), at(99), at(100));
    Ok(())
}
