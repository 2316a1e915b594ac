//! `yun up`, `down` and `status`: the server of this machine as a daemon.

use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use yun_linux::{
    daemon::{self, ProcessId},
    host::Host,
};
use yun_types::InstanceState;

use super::{Marker, config::Config, require_root, wiring};
use crate::cli::{
    self,
    args::{Global, RootArgs, UpArgs},
    context::{Context, Contexts, admin_file, file},
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long this machine may take to join its own pool: proving KVM may cost a few seconds on a busy machine.
const JOINING: Duration = Duration::from_secs(20);
/// A log file that is larger is put aside at the next start.
const LARGEST_LOG: u64 = 32 << 20;

/// Starts the server, or finds it running, and makes the local context point to it.
pub(crate) async fn up(global: &Global, args: &UpArgs) -> Result<u8> {
    require_root()?;
    let root = absolute(&args.root.root)?;
    Config::load(&root.join("etc/yun/yun.toml"))?;
    let host = Host::open(&root).with_context(|| format!("cannot use {} as the root of a cloud", root.display()))?;
    let already = Marker::find(&host);
    let begun = Instant::now();
    let marker = match already.clone() {
        Some(marker) => marker,
        None => start(&host, &root, args, global.quiet).await?,
    };
    let bar = cli::line(global.quiet);
    bar.set_message("the server finds out what this machine can do");
    joined(&host, marker.process).await;
    bar.finish_and_clear();
    let context = adopt_context(global, &root)?;
    if !global.quiet {
        let how = if already.is_some() {
            "runs already".to_owned()
        } else {
            format!("is up ({:.1}s)", begun.elapsed().as_secs_f64())
        };
        println!("the cloud {how}: https://{} (context {context})", marker.address);
    }
    Ok(0)
}

/// Waits until this machine lends what it has, so that the next command finds a pool.
async fn joined(host: &Host, process: ProcessId) {
    let until = Instant::now() + JOINING;
    while !Marker::find(host).is_none_or(|marker| marker.joined || marker.process != process) {
        if Instant::now() >= until {
            eprintln!("this machine is still being tried out: nothing can be launched until yun node ls shows it");
            return;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// A connection to the server of this machine, as its administrator.
fn local_client(root: &Path, marker: &Marker) -> Result<yun_api::client::Client> {
    let context = Contexts::load(&admin_file(root))?.contexts.remove("local").unwrap_or_default();
    cli::client(&Context { host: format!("https://{}", marker.address), ..context })
}

async fn start(host: &Host, root: &Path, args: &UpArgs, quiet: bool) -> Result<Marker> {
    let program = std::env::current_exe().context("cannot find the program file of yun")?;
    let mut arguments = vec!["server".to_owned(), "--root".to_owned(), root.display().to_string()];
    if let Some(listen) = args.listen {
        arguments.extend(["--listen".to_owned(), listen.to_string()]);
    }
    let bar = cli::line(quiet);
    bar.set_message("the server is starting");
    let logs = host.state().join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let log = logs.join("server.log");
    if fs::metadata(&log).is_ok_and(|m| m.len() > LARGEST_LOG) {
        let _ = fs::rename(&log, logs.join("server.log.1"));
    }
    if daemon::systemd_runs() && root == Path::new("/") && !args.no_systemd {
        daemon::systemd_start(&program, &arguments.join(" ")).await?;
        let process = None;
        return wait(host, process, "journalctl -u yun", &bar).await;
    }
    let begin = fs::metadata(&log).map_or(0, |m| m.len());
    let process = daemon::spawn(&program, &arguments, &log)?;
    let marker = wait(host, Some(process), &log.display().to_string(), &bar).await;
    marker.map_err(|e| match said_since(&log, begin) {
        Some(said) => e.context(said),
        None => e,
    })
}

async fn wait(host: &Host, process: Option<ProcessId>, log: &str, bar: &indicatif::ProgressBar) -> Result<Marker> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(marker) = Marker::find(host).filter(|m| process.is_none_or(|p| p == m.process)) {
            bar.finish_and_clear();
            return Ok(marker);
        }
        if process.is_some_and(|p| !p.lives()) {
            bar.finish_and_clear();
            bail!("the server did not start (its log: {log})");
        }
        if Instant::now() >= until {
            bar.finish_and_clear();
            bail!("the server did not come up within {} s: {log} says what it waits for", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// The last thing that the server said before it gave up.
fn said_since(log: &Path, begin: u64) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(text.get(usize::try_from(begin).ok()?..)?).into_owned();
    let last = text.lines().rfind(|l| l.starts_with("yun: "))?;
    Some(last.trim_start_matches("yun: ").to_owned())
}

/// Copies the administrator's context into the person's own file, and makes it the current one where none is.
fn adopt_context(global: &Global, root: &Path) -> Result<String> {
    let admin = Contexts::load(&admin_file(root))?;
    let context: &Context = admin.contexts.get("local").context("the server left no context: its log says why")?;
    let path = file(global)?;
    let mut all = Contexts::load(&path)?;
    let name = global.context.clone().unwrap_or_else(|| {
        if root == Path::new("/") { "local".to_owned() } else { format!("local:{}", root.display()) }
    });
    let project = all.contexts.get(&name).and_then(|c| c.project.clone());
    all.contexts.insert(name.clone(), Context { project, ..context.clone() });
    if global.context.is_some() || all.current.is_none() || root == Path::new("/") || all.contexts.len() == 1 {
        all.current = Some(name.clone());
    }
    all.save(&path)?;
    Ok(name)
}

fn absolute(root: &Path) -> Result<std::path::PathBuf> {
    fs::create_dir_all(root)
        .and_then(|()| fs::canonicalize(root))
        .with_context(|| format!("cannot use {} as the root of a cloud", root.display()))
}

/// Stops the server and everything that it runs; leaves nothing but the data.
pub(crate) async fn down(global: &Global, args: &RootArgs) -> Result<u8> {
    require_root()?;
    if !args.root.join("var/lib/yun/cloud-id").exists() {
        bail!("there is no cloud under {}: nothing to stop", args.root.display());
    }
    let root = absolute(&args.root)?;
    let config = Config::load(&root.join("etc/yun/yun.toml"))?;
    let host = Host::open(&root)?;
    let bar = cli::line(global.quiet);
    bar.set_message("the server stops");
    let unit_ran = root == Path::new("/") && daemon::systemd_stop().await?;
    let ran = match Marker::find(&host) {
        Some(marker) => marker.process.end(Duration::from_secs(15)).await?,
        None => false,
    };
    Marker::remove(&host);
    bar.set_message("instances stop");
    let stopped = wiring::halt(&config, &host).await?;
    bar.finish_and_clear();
    if !global.quiet {
        let server = if ran || unit_ran { "the server has stopped" } else { "no server ran" };
        println!("{server}; {stopped} instances have stopped; data stays in {}", host.state().display());
    }
    Ok(0)
}

/// Says whether the server runs, and what is in it. Exit code 6 if it does not.
pub(crate) async fn status(global: &Global, args: &RootArgs) -> Result<u8> {
    let root = &args.root;
    if !root.join("var/lib/yun/cloud-id").exists() {
        println!("no cloud under {}: start one with yun up", root.display());
        return Ok(cli::ExitCode::Unreachable as u8);
    }
    let host = Host::open(root)?;
    let Some(marker) = Marker::find(&host) else {
        println!("the cloud is down: start it with yun up");
        return Ok(cli::ExitCode::Unreachable as u8);
    };
    let client = local_client(root, &marker)?;
    let ping = client.ping().send().await.context("the server does not answer")?.into_inner();
    let nodes =
        client.node_list().limit(1000).send().await.context("the server does not list its nodes")?.into_inner().items;
    let instances = client
        .instance_list()
        .all_projects(true)
        .limit(1000)
        .send()
        .await
        .context("the server does not list its instances")?
        .into_inner()
        .items;
    let running = instances.iter().filter(|i| i.status.state == InstanceState::Running).count();
    if global.output == cli::args::Format::Json {
        let text = serde_json::json!({ "address": marker.address, "ssh": marker.ssh, "pid": marker.process.pid, "version": ping.version, "cloud": ping.cloud, "nodes": nodes.len(), "instances": instances.len(), "running": running });
        println!("{text:#}");
        return Ok(0);
    }
    println!("the cloud is up: https://{} (yun {}, pid {})", marker.address, ping.version, marker.process.pid);
    if let Some(ssh) = marker.ssh {
        println!("ssh: INSTANCE.PROJECT@{} -p {} (keys: yun ssh-key)", ssh.ip(), ssh.port());
    }
    for node in &nodes {
        let (have, promised) = (&node.status.facts.capacity, &node.status.reserved);
        println!(
            "node {} is {}: cpu {}/{}, memory {}/{}, disk {}/{} promised",
            node.metadata.name,
            node.status.state,
            promised.cpu,
            have.cpu,
            promised.memory.human(),
            have.memory.human(),
            promised.disk.human(),
            have.disk.human()
        );
        for driver in node.status.facts.drivers.iter().filter(|d| d.message.is_some()) {
            println!("  {}: {}", driver.driver, driver.message.as_deref().unwrap_or_default());
        }
    }
    println!("{} instances, {running} running", instances.len());
    Ok(0)
}
