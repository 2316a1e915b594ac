//! Docker's own command line on yun against the same on a dockerd of this run: `run -d`, `ps`, `exec`; and the same requests without it,
//! since its own start is a large part of what is measured.
//!
//! The dockerd gets directories of its own and no bridge, so that it changes nothing on the host: its containers have no network, and yun's do.

use crate::{
    cloud::{Cloud, checked},
    measure::{Measure, Must, percentile},
};
use anyhow::{Context as _, Result, bail};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const ROUNDS: usize = 20;
/// The command line that is measured.
const CLIENT: &str = "/usr/bin/docker";
/// How long dockerd may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures both in turn.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    anyhow::ensure!(Path::new(CLIENT).exists(), "{CLIENT} is not installed (cargo xtask setup installs it)");
    let cloud = Cloud::start(async |_| Ok(())).await?;
    cloud.yun(&["image", "build", "busybox", "box"])?;
    let ours = cloud.root().join("run/yun/docker.sock");
    let daemon = Daemon::start(cloud.root());
    if let Err(error) = &daemon {
        eprintln!("bench: no comparison with dockerd: {error:#}");
    }
    let mut us = Samples::default();
    let mut them = Samples::default();
    let mut alone = Vec::new();
    for round in 0..=ROUNDS {
        us.round(&ours, &[], round)?;
        if let Ok(daemon) = &daemon {
            them.round(&daemon.socket, &["--network", "none"], round)?;
        }
        let begun = Instant::now();
        checked(Command::new(CLIENT).arg("--version"))?;
        alone.push(begun.elapsed());
    }
    let mut all = Vec::new();
    for (number, name) in NAMES.iter().enumerate() {
        let mut measure = Measure::new(format!("docker: {name}, p50"), percentile(&mut us.0[number], 50), "ms");
        if daemon.is_ok() {
            measure = measure.against("dockerd", percentile(&mut them.0[number], 50), Some(Must::AtMost(0.5)));
        }
        all.push(measure);
    }
    all.push(Measure::new("docker: the command line alone (--version), p50", percentile(&mut alone, 50), "ms"));
    Ok(all)
}

const NAMES: [&str; 5] = [
    "docker run -d (ours with network)",
    "docker ps",
    "docker exec",
    "list request without the command line",
    "docker rm -f",
];

/// What each round took, by the numbers of [`NAMES`].
#[derive(Default)]
struct Samples([Vec<Duration>; NAMES.len()]);

impl Samples {
    fn round(&mut self, socket: &Path, flags: &[&str], round: usize) -> Result<()> {
        let name = format!("bench-{round}");
        let mut took = Vec::new();
        let mut timed = |work: &dyn Fn() -> Result<()>| -> Result<()> {
            let begun = Instant::now();
            work()?;
            took.push(begun.elapsed());
            Ok(())
        };
        let run = [&["run", "-d", "--name", &name], flags, &["box", "sleep", "1000"]].concat();
        let outcome = timed(&|| docker(socket, &run))
            .and_then(|()| timed(&|| docker(socket, &["ps"])))
            .and_then(|()| timed(&|| docker(socket, &["exec", &name, "true"])))
            .and_then(|()| timed(&|| list(socket)));
        let removed = timed(&|| docker(socket, &["rm", "-f", &name]));
        outcome.and(removed)?;
        // The first round warms caches on both sides.
        if round > 0 {
            self.0.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took));
        }
        Ok(())
    }
}

fn docker(socket: &Path, words: &[&str]) -> Result<()> {
    let mut command = Command::new(CLIENT);
    command.args(words).env("DOCKER_HOST", format!("unix://{}", socket.display())).env_remove("DOCKER_CONTEXT");
    checked(command.stdin(Stdio::null())).map(drop)
}

/// `docker ps` as its request alone.
fn list(socket: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /v1.41/containers/json HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "the list was refused: {answer}");
    Ok(())
}

/// A dockerd that ends when this is dropped.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(root: &Path) -> Result<Self> {
        let home = root.join("dockerd");
        std::fs::create_dir_all(&home)?;
        let at = |name: &str| home.join(name).display().to_string();
        let socket = home.join("d.sock");
        let mut command = Command::new("/usr/sbin/dockerd");
        command
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["-H", &format!("unix://{}", socket.display()), "--bridge=none"])
            .args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(home.join("log"))?)
            .stderr(std::fs::File::create(home.join("log.err"))?);
        let child = command.spawn().context("cannot start dockerd: install docker.io")?;
        let mut daemon = Self { child, socket };
        let until = Instant::now() + PATIENCE;
        while docker(&daemon.socket, &["version"]).is_err() {
            if daemon.child.try_wait()?.is_some() || Instant::now() > until {
                bail!(
                    "dockerd does not come up: {}",
                    std::fs::read_to_string(home.join("log.err")).unwrap_or_default()
                );
            }
        }
        let tree = home.join("tree/bin");
        std::fs::create_dir_all(&tree)?;
        std::fs::copy("/bin/busybox", tree.join("busybox"))?;
        for name in ["sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", tree.join(name))?;
        }
        let import = format!(
            "tar -C {} -c . | {CLIENT} -H unix://{} import - box",
            home.join("tree").display(),
            daemon.socket.display()
        );
        checked(Command::new("sh").args(["-c", &import]))?;
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let clean =
            format!("{CLIENT} -H unix://{0} ps -aq | xargs -r {CLIENT} -H unix://{0} rm -f", self.socket.display());
        let _ = Command::new("sh").args(["-c", &clean]).output();
        // It ends its own containerd when it is asked, and not when it is killed.
        let _ = Command::new("kill").arg(self.child.id().to_string()).output();
        let until = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}
