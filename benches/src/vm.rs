//! From the launch to an SSH server that answers, against the same guest started by hand with QEMU; and what machines do beside that.

mod keep;

use crate::{
    cloud::Cloud,
    measure::{Measure, Must, percentile},
};
use anyhow::{Context as _, Result, bail};
use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use yun_api::cloud::InstanceCreate;
use yun_types::InstanceSpec;

const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// Measures cold starts, in turn with those by hand.
pub(crate) async fn run() -> Result<Vec<Measure>> {
    let cloud = Cloud::start(async |_| Ok(())).await?;
    cloud.yun(&["image", "build", "small-vm", "small"])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let name = format!("v{round}");
        let begun = Instant::now();
        let operation = cloud.client.instance_create().body(create(&name)?).send().await?.into_inner();
        cloud.ended(operation).await?;
        let instance =
            cloud.client.instance_get().instance(name.parse::<yun_types::Name>()?).send().await?.into_inner();
        let address = instance.status.address.context("the VM has no address")?;
        greeting((address, 22).into(), begun)?;
        let took = begun.elapsed();
        let mac = instance.status.mac.clone().context("the VM has no hardware address")?;
        let by_hand = Hand::of(&instance.metadata.id.to_string(), cloud.root(), address, mac)?;
        let operation =
            cloud.client.instance_delete().instance(name.parse::<yun_types::Name>()?).send().await?.into_inner();
        let hand_took = by_hand.start()?;
        cloud.ended(operation).await?;
        if round > 0 {
            ours.push(took);
            theirs.push(hand_took);
        }
    }
    let (cold, hand) = (percentile(&mut ours, 50), percentile(&mut theirs, 50));
    let bound = 1.05 + 100.0 / hand;
    let launched = Measure::new("vm: launch to SSH, small guest, p50", cold, "ms").against(
        "QEMU by hand, same guest (1.05x + 100 ms)",
        hand,
        Some(Must::AtMost(bound)),
    );
    // What was measured is told, whatever becomes of the rest.
    let kept = keep::run(&cloud, cold).await.unwrap_or_else(|error| {
        eprintln!("bench: templates and moves: {error:#}");
        Vec::new()
    });
    Ok(std::iter::once(launched).chain(kept).collect())
}

fn create(name: &str) -> Result<InstanceCreate> {
    let spec = serde_json::json!({ "image": "small", "size": "cpu:1,memory:256Mi,disk:1Gi" });
    let mut spec: InstanceSpec = serde_json::from_value(spec)?;
    spec.stop_timeout = Some(0);
    Ok(InstanceCreate { name: name.parse()?, labels: Default::default(), spec })
}

/// Waits for the SSH server's first words.
fn greeting(address: SocketAddr, begun: Instant) -> Result<()> {
    loop {
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(250)) {
            // QEMU's own network accepts before the guest does, and such a connection may stay silent for ever.
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            let mut hello = [0; 4];
            if stream.read_exact(&mut hello).is_ok() && &hello == b"SSH-" {
                return Ok(());
            }
        }
        if begun.elapsed() > LIMIT {
            bail!("no SSH server at {address} within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The guest of a running VM, to be started without yun.
struct Hand {
    kernel: PathBuf,
    initrd: PathBuf,
    append: String,
    accel: String,
    seed: tempfile::TempPath,
    address: Ipv4Addr,
    mac: String,
}

impl Hand {
    /// Reads the command line of the VM's QEMU.
    fn of(id: &str, root: &std::path::Path, address: Ipv4Addr, mac: String) -> Result<Self> {
        let words = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
            .map(|bytes| bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect::<Vec<_>>())
            .find(|w| w.first().is_some_and(|p| p.contains("qemu-system")) && w.iter().any(|x| x.contains(id)))
            .context("no QEMU process of the VM")?;
        let after = |flag: &str| {
            words
                .iter()
                .position(|w| w == flag)
                .and_then(|p| words.get(p + 1))
                .with_context(|| format!("QEMU has no {flag}"))
        };
        // The VM's own directory goes away with it: the seed is copied.
        let seed = tempfile::NamedTempFile::new_in(root)?.into_temp_path();
        let original = words
            .iter()
            .flat_map(|w| w.split([',', '=', '"']))
            .find(|p| p.contains(id) && p.contains("cidata"))
            .context("QEMU has no cidata disk")?;
        std::fs::copy(original, &seed)?;
        Ok(Self {
            kernel: after("-kernel")?.into(),
            initrd: after("-initrd")?.into(),
            append: after("-append")?.clone(),
            accel: after("-accel")?.clone(),
            seed,
            address,
            mac,
        })
    }

    /// Starts it with user networking, waits for SSH, ends it.
    fn start(&self) -> Result<Duration> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let [a, b, c, _] = self.address.octets();
        let (network, gateway) = (Ipv4Addr::new(a, b, c, 0), Ipv4Addr::new(a, b, c, 1));
        // The same blank disk as yun gives it: the guest formats it at its first boot.
        let disk = self.seed.with_extension("qcow2");
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("1G").status()?;
        anyhow::ensure!(made.success(), "qemu-img made no disk");
        let begun = Instant::now();
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-accel",
            &self.accel,
            "-m",
            "256",
            "-smp",
            "1",
            "-nodefaults",
            "-display",
            "none",
        ]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd).args(["-append", &self.append]);
        command.args([
            "-netdev",
            // The seed gives the guest a fixed address: the emulated network has to be the one that it expects.
            &format!("user,id=n,net={network}/24,host={gateway},hostfwd=tcp:127.0.0.1:{port}-{}:22", self.address),
            "-device",
            &format!("virtio-net-pci,netdev=n,mac={}", self.mac),
            "-device",
            "virtio-rng-pci",
        ]);
        command.args(["-drive", &format!("file={},if=virtio,format=qcow2", disk.display())]);
        command.args([
            "-drive",
            &format!("file={},if=virtio,format=raw,readonly=on", self.seed.display()),
            "-serial",
            "null",
        ]);
        let guest = Guest(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start QEMU")?);
        greeting((Ipv4Addr::LOCALHOST, port).into(), begun)?;
        let took = begun.elapsed();
        drop(guest);
        Ok(took)
    }
}

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
