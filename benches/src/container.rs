//! From the API request to a running container, network included, against the bare runtime and against podman and docker where they work.

use crate::{
    cloud::{Cloud, checked},
    measure::{Measure, Must, percentile},
};
use anyhow::{Context as _, Result};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use yun_api::cloud::InstanceCreate;
use yun_types::{ContainerOptions, InstanceSpec, Size};

const ROUNDS: usize = 25;

/// Measures launch and removal, one at a time.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let cloud = Cloud::start(async |_| Ok(())).await?;
    cloud.yun(&["image", "build", "busybox", "box"])?;
    let (mut launches, mut removals) = (Vec::new(), Vec::new());
    let bare = Bare::prepare(cloud.root())?;
    let mut bares = Vec::new();
    for round in 0..=ROUNDS {
        let name = format!("c{round}");
        let begun = Instant::now();
        let operation = cloud.client.instance_create().body(create(&name)?).send().await?.into_inner();
        cloud.ended(operation).await?;
        let launched = begun.elapsed();
        let begun = Instant::now();
        let operation =
            cloud.client.instance_delete().instance(name.parse::<yun_types::Name>()?).send().await?.into_inner();
        cloud.ended(operation).await?;
        let removed = begun.elapsed();
        let alone = bare.round(&name)?;
        // The first round warms caches on both sides.
        if round > 0 {
            launches.push(launched);
            removals.push(removed);
            bares.push(alone);
        }
    }
    let crun = percentile(&mut bares, 50);
    let mut launch =
        Measure::new("container: API request to running, with network, p50", percentile(&mut launches, 50), "ms")
            .against("crun create and start, no network", crun, Some(Must::AtMost(2.0)));
    for engine in ["podman", "docker"] {
        match peer(engine, cloud.root()) {
            Ok(value) => {
                launch = launch.against(format!("{engine} run -d, with network"), value, Some(Must::AtMost(0.2)))
            }
            Err(error) => eprintln!("bench: no comparison with {engine}: {error:#}"),
        }
    }
    let p99 = Measure::new("container: API request to running, with network, p99", percentile(&mut launches, 99), "ms");
    let removal = Measure::new("container: API request to removed, p50", percentile(&mut removals, 50), "ms")
        .must(Must::AtMost(30.0));
    Ok(vec![launch, p99, removal])
}

/// A small container that sleeps.
pub(crate) fn create(name: &str) -> Result<InstanceCreate> {
    let size: Size = "cpu:0.1,memory:32M,disk:10M".parse()?;
    Ok(InstanceCreate {
        name: name.parse()?,
        labels: Default::default(),
        spec: InstanceSpec {
            networks: vec![],
            volumes: vec![],
            kind: None,
            image: "box".into(),
            size,
            power: Default::default(),
            restart: Default::default(),
            restart_count: 0,
            publish: vec![],
            node: None,
            stop_timeout: Some(0),
            template: None,
            container: ContainerOptions { command: Some(vec!["sleep".into(), "1000".into()]), ..Default::default() },
            vm: Default::default(),
        },
    })
}

/// The runtime without anything around it, on the same root file system.
pub(crate) struct Bare {
    bundle: std::path::PathBuf,
}

impl Bare {
    pub(crate) fn prepare(root: &Path) -> Result<Self> {
        let bundle = root.join("bare");
        let bin = bundle.join("rootfs/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy("/bin/busybox", bin.join("busybox"))?;
        std::os::unix::fs::symlink("busybox", bin.join("sleep"))?;
        checked(Command::new("crun").arg("spec").current_dir(&bundle))?;
        let path = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["sleep", "1000"]);
        // The default asks for limits that a host without CAP_SYS_RESOURCE cannot give.
        spec["process"].as_object_mut().context("crun writes a strange spec")?.remove("rlimits");
        std::fs::write(&path, serde_json::to_vec(&spec)?)?;
        Ok(Self { bundle })
    }

    /// Where its bundle is.
    pub(crate) fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// A container that runs until [`Self::end`].
    pub(crate) fn begin(&self, name: &str) -> Result<String> {
        let id = format!("bare-{}-{name}", std::process::id());
        self.quiet(&["create", &id])?;
        self.quiet(&["start", &id])?;
        Ok(id)
    }

    /// A command in it.
    pub(crate) fn exec(&self, id: &str) -> Result<()> {
        self.quiet(&["exec", id, "/bin/busybox", "true"])
    }

    /// Removes it.
    pub(crate) fn end(&self, id: &str) -> Result<()> {
        self.quiet(&["delete", "-f", id])
    }

    fn quiet(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("crun");
        command.args(words).current_dir(&self.bundle).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        anyhow::ensure!(command.status()?.success(), "crun {} failed", words.join(" "));
        Ok(())
    }

    fn round(&self, name: &str) -> Result<Duration> {
        let id = format!("bare-{}-{name}", std::process::id());
        let crun = |words: &[&str]| {
            let mut command = Command::new("crun");
            command
                .args(words)
                .current_dir(&self.bundle)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            command.status().context("cannot start crun")
        };
        let begun = Instant::now();
        let created = crun(&["create", &id])?;
        let started = crun(&["start", &id])?;
        let took = begun.elapsed();
        crun(&["delete", "-f", &id])?;
        anyhow::ensure!(created.success() && started.success(), "the bare crun container did not start");
        Ok(took)
    }
}

/// The median of `ENGINE run -d` on its usual network, in milliseconds.
fn peer(engine: &str, root: &Path) -> Result<f64> {
    checked(Command::new(engine).arg("info")).with_context(|| format!("{engine} does not work here"))?;
    let image = "yun-bench-busybox";
    let import = format!("tar -C {} -c . | {engine} import - {image}", root.join("bare/rootfs").display());
    checked(Command::new("sh").args(["-c", &import]))?;
    let mut samples = Vec::new();
    for round in 0..=10 {
        let name = format!("yun-bench-{}-{round}", std::process::id());
        let begun = Instant::now();
        let result = checked(Command::new(engine).args(["run", "-d", "--name", &name, image, "/bin/sleep", "1000"]));
        let took = begun.elapsed();
        let _ = Command::new(engine).args(["rm", "-f", &name]).output();
        result?;
        if round > 0 {
            samples.push(took);
        }
    }
    Ok(percentile(&mut samples, 50))
}
