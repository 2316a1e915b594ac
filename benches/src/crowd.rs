//! Many containers: a hundred at once, what each costs, five hundred of them beside five VMs, and commands in them.

use crate::{
    cloud::{Cloud, checked},
    container::{Bare, create},
    idle::resident,
    measure::{Measure, Must, cpu_seconds, percentile},
};
use anyhow::{Context as _, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::time::{Duration, Instant};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use yun_api::frames;
use yun_engine::session::Output;
use yun_types::Name;

const AT_ONCE: usize = 100;
const MANY: usize = 500;
const VMS: usize = 5;
const EXECS: usize = 50;
const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);

/// Measures crowds.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let cloud = Cloud::start(async |root| {
        // Room and addresses for all of them on a small machine.
        let directory = root.join("etc/yun");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("yun.toml"), "[node]\ncpu_overcommit = 100\n[network]\nprefix = 22\n")?;
        Ok(())
    })
    .await?;
    cloud.yun(&["image", "build", "busybox", "box"])?;
    let bare = Bare::prepare(cloud.root())?;
    let mut measures = Vec::new();
    // Caches of both sides.
    launch(&cloud, "warm", 8).await?;
    measures.push(exec(&cloud, "warm0", &bare).await?);
    remove(&cloud, "warm", 8).await?;

    let begun = Instant::now();
    launch(&cloud, "c", AT_ONCE).await?;
    let ours = begun.elapsed().as_secs_f64();
    let alone = bare.crowd(AT_ONCE)?;
    measures.push(
        Measure::new("containers: 100 launched at once, all running", ours, "s").must(Must::AtMost(1.2)).against(
            "100 crun create and start at once, no network",
            alone,
            None,
        ),
    );
    let begun = Instant::now();
    remove(&cloud, "c", AT_ONCE).await?;
    measures.push(Measure::new("containers: 100 removed at once", begun.elapsed().as_secs_f64(), "s"));
    measures.extend(many(&cloud).await?);
    Ok(measures)
}

async fn launch(cloud: &Cloud, stem: &str, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(async |n| {
            let body = create(&format!("{stem}{n}"))?;
            let operation = cloud.client.instance_create().body(body).send().await?.into_inner();
            cloud.ended(operation).await.map(drop)
        })
        .buffer_unordered(count)
        .try_collect()
        .await
}

async fn remove(cloud: &Cloud, stem: &str, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(async |n| {
            let name: Name = format!("{stem}{n}").parse()?;
            let operation = cloud.client.instance_delete().instance(name).send().await?.into_inner();
            cloud.ended(operation).await.map(drop)
        })
        .buffer_unordered(count)
        .try_collect()
        .await
}

/// A command in a container, from the request to its exit.
async fn exec(cloud: &Cloud, name: &str, bare: &Bare) -> Result<Measure> {
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    let id = bare.begin("exec")?;
    for round in 0..=EXECS {
        let begun = Instant::now();
        let request = cloud.client.instance_exec().instance(name.parse::<Name>()?).command(r#"["true"]"#);
        let socket = WebSocketStream::from_raw_socket(request.send().await?.into_inner(), Role::Client, None).await;
        let (mut session, carrier) = frames::connect(socket);
        let carried = tokio::spawn(carrier);
        while let Some(output) = session.output.recv().await {
            if let Output::Exit(exit) = output {
                anyhow::ensure!(exit.success(), "true failed in {name}");
            }
        }
        let took = begun.elapsed();
        carried.abort();
        let begun = Instant::now();
        bare.exec(&id)?;
        if round > 0 {
            ours.push(took);
            alone.push(begun.elapsed());
        }
    }
    bare.end(&id)?;
    Ok(Measure::new("container: exec, API request to exit, p50", percentile(&mut ours, 50), "ms")
        .must(Must::AtMost(15.0))
        .against("crun exec", percentile(&mut alone, 50), None))
}

/// Five hundred containers and five VMs at rest.
async fn many(cloud: &Cloud) -> Result<Vec<Measure>> {
    let before = available()?;
    // In waves, as people come.
    for wave in 0..MANY / AT_ONCE {
        launch(cloud, &format!("w{wave}x"), AT_ONCE).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let after = available()?;
    let vms = match cloud.yun(&["image", "build", "small-vm", "small"]) {
        Ok(_) => VMS,
        Err(error) => {
            eprintln!("bench: without VMs: {error:#}");
            0
        }
    };
    for number in 0..vms {
        cloud.yun(&[
            "launch",
            "small",
            &format!("vm{number}"),
            "--size",
            "cpu:1,memory:256M,disk:1G",
            "--wait",
            "300",
        ])?;
    }
    tokio::time::sleep(SETTLE).await;
    let pid = cloud.pid()?;
    let (used, begun) = (cpu_seconds(pid)?, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let share = (cpu_seconds(pid)? - used) / begun.elapsed().as_secs_f64() * 100.0;
    let mut lists = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let page = cloud.client.instance_list().limit(500).send().await?.into_inner();
        lists.push(begun.elapsed());
        anyhow::ensure!(page.items.len() == MANY.min(500), "only {} instances are listed", page.items.len());
    }
    let begun = Instant::now();
    cloud.yun(&["ls"])?;
    let command = begun.elapsed().as_secs_f64() * 1000.0;
    let text = String::from_utf8(cloud.yun(&["ls", "-o", "json"])?.stdout)?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let running = all.iter().filter(|one| one["status"]["state"] == "running").count();
    anyhow::ensure!(running == MANY + vms, "only {running} of {} run", MANY + vms);
    let shims = shims()?;
    let each = format!("{MANY} containers and {vms} VMs");
    Ok(vec![
        Measure::new("container: the host's memory for a running one, all told", (before - after) / MANY as f64, "MB"),
        Measure::new("container: memory of what stays beside it (private, p50)", shims, "MB").must(Must::AtMost(1.0)),
        Measure::new(format!("{each}: the server's memory"), resident(pid)?, "MB").must(Must::AtMost(150.0)),
        Measure::new(format!("{each}: the server's share of a core, idle"), share, "%").must(Must::AtMost(3.0)),
        Measure::new(format!("{each}: list, p50"), percentile(&mut lists, 50), "ms").must(Must::AtMost(100.0)),
        Measure::new(format!("{each}: yun ls"), command, "ms").must(Must::AtMost(100.0)),
    ])
}

/// Memory that the host could still give, in MB.
fn available() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).and_then(|l| l.split_whitespace().next());
    Ok(kib.context("no MemAvailable")?.parse::<f64>()? / 1024.0)
}

/// The memory that one shim has for itself, in MB: the median.
fn shims() -> Result<f64> {
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&line).contains("/shim-") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(process.path().join("smaps_rollup")) else { continue };
        let part = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        all.push((part("Private_Dirty:") + part("Private_Clean:")) / 1024.0);
    }
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("no shim runs")
}

/// The bare runtime, many times.
impl Bare {
    /// Seconds for so many containers, started side by side and then removed.
    fn crowd(&self, count: usize) -> Result<f64> {
        let script = format!(
            "for i in $(seq {count}); do (crun create $0-$i && crun start $0-$i) >/dev/null 2>&1 </dev/null & done; wait"
        );
        let stem = format!("crowd-{}", std::process::id());
        let begun = Instant::now();
        checked(std::process::Command::new("sh").args(["-c", &script, &stem]).current_dir(self.bundle()))?;
        let took = begun.elapsed().as_secs_f64();
        let script = format!("for i in $(seq {count}); do crun delete -f $0-$i & done; wait");
        checked(std::process::Command::new("sh").args(["-c", &script, &stem]))?;
        Ok(took)
    }
}
