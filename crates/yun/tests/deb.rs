//! The Debian package, installed into a clean Debian: it starts a cloud there, and goes without leaving anything but data.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "makes a Debian and works in it")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A Debian in a directory, removed when it is dropped.
struct Debian {
    directory: tempfile::TempDir,
}

impl Debian {
    fn make() -> Self {
        let directory = tempfile::Builder::new().prefix("yd").tempdir_in("/var/tmp").unwrap();
        let made = Command::new("mmdebstrap")
            .args(["--variant=minbase", "--quiet", "bookworm"])
            .arg(directory.path().join("root"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let debian = Self { directory };
        // Its way to the archive is ours.
        let settings = std::fs::read_dir("/etc/apt/apt.conf.d").into_iter().flatten().flatten().map(|e| e.path());
        for file in settings.chain([PathBuf::from("/etc/resolv.conf")]) {
            if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("Acquire") || text.contains("nameserver"))
            {
                std::fs::copy(&file, debian.at(&file.to_string_lossy())).unwrap();
            }
        }
        debian
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path.trim_start_matches('/'))
    }

    /// Runs a script inside, with processes and mounts of its own, all of which end with it; also with a network of its own, cut off from all.
    fn run(&self, script: &str, network: &[&str]) -> Output {
        let inside = format!(
            "R={}; mount --bind $R $R; mount --rbind /sys $R/sys; mount --rbind /dev $R/dev; mount -t proc proc $R/proc; \
             mount -t tmpfs tmpfs $R/run; ip link set lo up; exec chroot $R sh -ec '{script}'",
            self.directory.path().join("root").display()
        );
        Command::new("unshare")
            .args(network)
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-ec", &inside])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn ok(&self, script: &str, network: &[&str]) -> String {
        let output = self.run(script, network);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}: {} {out}\n{err}", output.status);
        out.into_owned()
    }
}

fn newest_package() -> Option<PathBuf> {
    let profile = Path::new(env!("CARGO_BIN_EXE_yun")).parent()?;
    let entries = std::fs::read_dir(profile.parent()?.join("debian")).ok()?;
    let packages = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "deb"));
    packages.max_by_key(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok())
}

#[test]
fn the_package_starts_a_cloud_in_a_clean_debian_and_goes_again() {
    let tools = ["/opt/yun-tests/cargo/bin/cargo-deb", "/usr/bin/mmdebstrap", "/usr/bin/unshare"];
    if !nix::unistd::geteuid().is_root() || tools.iter().any(|t| !Path::new(t).exists()) {
        eprintln!(
            "SKIPPED the Debian package: it needs root, cargo-deb and mmdebstrap (cargo xtask setup installs them)"
        );
        return;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().parent().unwrap();
    // The program of these tests, as it is.
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "-q", "-p", "xtask", "--", "deb", "--dev", "--no-build"])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = newest_package().expect("cargo-deb leaves a package");
    let debian = Debian::make();
    std::fs::copy(&package, debian.at("/yun.deb")).unwrap();
    let said = debian.ok(
        "apt-get update -qq; apt-get install -y -qq --no-install-recommends ./yun.deb >/dev/null 2>&1; yun --version; \
         test -f /lib/systemd/system/yun.service; test -f /etc/yun/yun.toml; test -s /usr/share/bash-completion/completions/yun",
        &[],
    );
    assert!(said.starts_with("yun 0."), "{said}");
    // A container of nothing but busybox.
    let root = debian.directory.path().join("box");
    common::busybox_root(&root);
    std::fs::copy(common::tarred(&root), debian.at("/box.tar")).unwrap();
    // One sandbox: what `up` starts ends with it, also if something goes wrong.
    let said = debian.ok(
        "yun doctor || true; yun up --no-systemd --listen 127.0.0.1:0; yun status; yun image import box /box.tar -- sleep 1000; \
         yun launch box web --size cpu:0.1,memory:64M,disk:50M; yun exec web -- sh -c \"echo inside\"; \
         yun backup create --to /backup; yun backup verify --restore --to /backup; yun down; yun status || true",
        &["--net"],
    );
    for piece in [
        "the cloud is up",
        "container web running",
        "inside\n",
        "its files are whole",
        "1 instances have stopped",
        "the cloud is down",
    ] {
        assert!(said.contains(piece), "{piece:?} is not in: {said}");
    }
    let typo = "sed -i \"s/#accel = .*/accel = \\\"kvn\\\"/\" /etc/yun/yun.toml; yun up --no-systemd";
    let refused = debian.run(typo, &["--net"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("did you mean `kvm`?"), "{why}");
    debian.ok("sed -i s/^accel.*// /etc/yun/yun.toml; apt-get purge -y -qq yun >/dev/null 2>&1; ! test -e /usr/bin/yun; ! test -e /etc/yun; test -d /var/lib/yun", &[]);
}
