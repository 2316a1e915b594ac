//! What yun needs from Debian, and installing it: says what, asks nothing, does nothing when all is there.

use crate::run::{as_root, output, run};
use anyhow::{Context as _, Result, bail};
use std::{fs, path::PathBuf, process::Command};

/// For whom packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A cloud that runs.
    Cloud,
    /// A cloud, and the programs that tests use beside it.
    Tests,
}

/// Engines and tools that the cloud uses, with the file that shows that each is there.
const CLOUD: &[(&str, &str)] = &[
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("qemu-utils", "/usr/bin/qemu-img"),
    ("crun", "/usr/bin/crun"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/bin/ss"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("busybox-static", "/bin/busybox"),
    ("cpio", "/usr/bin/cpio"),
    ("lz4", "/usr/bin/lz4"),
    ("zstd", "/usr/bin/zstd"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    ("openssh-client", "/usr/bin/ssh"),
    ("ca-certificates", "/usr/sbin/update-ca-certificates"),
];

/// What tests and benchmarks use beside it. Where a package has another name in an older Debian, that stands behind a bar.
const TESTS: &[(&str, &str)] = &[
    ("skopeo", "/usr/bin/skopeo"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("apache2-utils", "/usr/bin/htpasswd"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
    ("dnsutils", "/usr/bin/dig"),
    ("iputils-ping", "/usr/bin/ping"),
    ("curl", "/usr/bin/curl"),
    ("mtools", "/usr/bin/mcopy"),
    ("docker-cli|docker.io", "/usr/bin/docker"),
    ("docker-compose", "/usr/bin/docker-compose"),
    ("prometheus", "/usr/bin/promtool"),
];

/// The S3 server that tests of backups talk to: from PyPI, in a place of its own.
const MOTO: (&str, &str) = ("/opt/yun-tests/moto", "moto[server]==5.2.5");

/// Installs what is missing.
pub(crate) fn setup(wanted: Wanted) -> Result<()> {
    debian(wanted)?;
    if wanted == Wanted::Tests {
        python(MOTO)?;
        crate::deb::install()?;
    }
    Ok(())
}

/// A Python program in an environment of its own.
fn python((place, package): (&str, &str)) -> Result<()> {
    if PathBuf::from(place).join("bin/moto_server").exists() {
        return Ok(());
    }
    println!("setup: installing {package} into {place}");
    run(as_root("python3").args(["-m", "venv", place]))?;
    run(as_root(format!("{place}/bin/pip")).args(["install", "--quiet", package]))
}

fn debian(wanted: Wanted) -> Result<()> {
    let all = CLOUD.iter().chain(TESTS.iter().filter(|_| wanted == Wanted::Tests));
    let missing: Vec<&str> =
        all.filter(|(_, file)| !PathBuf::from(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        println!("setup: everything is installed");
        return Ok(());
    }
    if !PathBuf::from("/usr/bin/apt-get").exists() {
        bail!("these are missing, and this is not Debian: {}", missing.join(" "));
    }
    println!("setup: installing {}", missing.join(" "));
    let (qemu, others): (Vec<&str>, Vec<&str>) = missing.into_iter().partition(|p| p.starts_with("qemu"));
    apt(&["update", "-qq"], None)?;
    if !others.is_empty() {
        let _quiet = Quiet::begin();
        let known = others.into_iter().map(known).collect::<Result<Vec<&str>>>()?;
        install(&known, &[], None)?;
    }
    if !qemu.is_empty() {
        install_qemu()?;
    }
    Ok(())
}

/// The first of the names that this Debian knows.
fn known(names: &str) -> Result<&str> {
    let here =
        |name: &&str| Command::new("apt-cache").args(["show", "-q=2", name]).output().is_ok_and(|o| o.status.success());
    names.split('|').find(here).with_context(|| format!("this Debian has no package {names}"))
}

/// While it lives, no package starts its daemon: tests use Docker's command line, and nobody asked for its server.
struct Quiet(Option<PathBuf>);

impl Quiet {
    fn begin() -> Self {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        let ours = !policy.exists() && fs::write(&policy, "#!/bin/sh\nexit 101\n").is_ok();
        if ours {
            let _ = Command::new("chmod").arg("755").arg(&policy).status();
        }
        Self(ours.then_some(policy))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(policy) = &self.0 {
            let _ = fs::remove_file(policy);
        }
    }
}

/// QEMU's parts must be of one version: where one part already came from backports, the others have to come from there too.
fn install_qemu() -> Result<()> {
    let packages = ["qemu-system-x86", "qemu-utils"];
    let installed = Command::new("dpkg-query")
        .args(["-W", "-f=${Version}", "qemu-utils"])
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    if !installed.unwrap_or_default().contains("~bpo") {
        return install(&packages, &[], None);
    }
    let codename = codename()?;
    let suite = format!("{codename}-backports");
    let policy = output(Command::new("apt-cache").arg("policy"))?;
    if policy.contains(&format!("{suite}/")) {
        return install(&packages, &["-t", &suite], None);
    }
    // The part came from backports, but backports is not among the sources now: name it for this one call, from the mirror in use.
    let mirror = policy
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1).filter(|_| line.contains(&format!(" {codename}/main "))))
        .next()
        .context("apt names no mirror for this release: check /etc/apt/sources.list.d")?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let signed = if PathBuf::from(keyring).exists() { format!("[signed-by={keyring}] ") } else { String::new() };
    let sources = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let list = std::env::temp_dir().join(format!("yun-apt-{}.list", std::process::id()));
    fs::write(&list, format!("{sources}\ndeb {signed}{mirror} {suite} main\n"))?;
    let result = apt(&["update", "-qq"], Some(&list)).and_then(|()| install(&packages, &["-t", &suite], Some(&list)));
    let _ = fs::remove_file(&list);
    result
}

fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no release")?;
    Ok(name.trim_matches('"').to_owned())
}

fn install(packages: &[&str], flags: &[&str], list: Option<&PathBuf>) -> Result<()> {
    let arguments = [&["install", "-y", "-qq", "--no-install-recommends"], flags, packages].concat();
    apt(&arguments, list)
}

fn apt(arguments: &[&str], list: Option<&PathBuf>) -> Result<()> {
    let mut command = as_root("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"]);
    if let Some(list) = list {
        command.arg("-o").arg(format!("Dir::Etc::SourceList={}", list.display()));
    }
    run(command.args(arguments))
}
