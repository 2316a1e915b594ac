//! The busybox container: one static program, a link for each of its applets, and the few files that programs expect. The tar is the same
//! for the same package, so a rebuild gives the same image.

use super::Builder;
use crate::image::{
    archive::{Ready, ready},
    job::{Job, Meter},
    layer::{Claim, Layers},
    tool::Tool,
};
use std::{path::Path, time::Duration};
use tar::{EntryType, Header};
use yun_drivers::{DriverError, Result};
use yun_types::ContainerConfig;

/// Search path of the images that we build.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const DIRECTORIES: [(&str, u32); 22] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("opt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("www", 0o755),
];

const FILES: [(&str, &str); 5] = [
    ("etc/group", "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nwww-data:x:33:33:www-data:/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/profile", "export PS1='\\h:\\w\\$ '\n"),
    ("etc/shells", "/bin/sh\n"),
    ("www/index.html", "<!doctype html>\n<title>yun</title>\n<p>It runs.\n"),
];

pub(super) async fn build(builder: &Builder<'_>) -> Result<Ready> {
    let job = builder.job;
    let package = builder.packages.fetch(&["busybox-static".into()], job).await?.remove(0);
    job.work.report(Some(40), format!("unpacking busybox {}", package.version));
    let dir = builder.staging.join("busybox");
    builder.packages.unpack(std::slice::from_ref(&package), &dir, job).await?;
    let program = program_in(&dir)?;
    let applets = applets(&program, job).await?;
    let version = package.version.split_once(':').map_or(&*package.version, |(_, v)| v).to_owned();
    let os_release = format!("ID=busybox\nNAME=BusyBox\nPRETTY_NAME=\"BusyBox {version}\"\n");
    let recipe = builder.recipe;
    let config = ContainerConfig {
        entrypoint: recipe.entrypoint.clone(),
        command: if recipe.command.is_empty() && recipe.entrypoint.is_empty() {
            vec!["sh".into()]
        } else {
            recipe.command.clone()
        },
        env: vec![PATH.into()],
        ..ContainerConfig::default()
    };
    let (store, staging) = (builder.store.clone(), builder.staging.clone());
    job.blocking(move |job| {
        let failed = |e| DriverError::io("put the busybox image together", e);
        let bytes = std::fs::read(&program).map_err(failed)?;
        let tar = archive(&bytes, &applets, &os_release).map_err(failed)?;
        let mut meter = Meter::new(job, "unpacking", (50, 95), Some(tar.len() as u64 * 2));
        let mut layers = Layers::new(&store, &staging, job);
        layers.add(&tar[..], &Claim { what: "the busybox image".into(), ..Claim::default() }, &mut meter)?;
        Ok(ready(layers, config))
    })
    .await
}

/// The program's place in its package: `/bin`, or `/usr/bin` from Debian 13 on.
pub(super) fn program_in(dir: &Path) -> Result<std::path::PathBuf> {
    let places = ["usr/bin/busybox", "bin/busybox"].map(|p| dir.join(p));
    let found = places.into_iter().find(|p| p.is_file());
    found.ok_or_else(|| {
        DriverError::unavailable(
            "PackageChanged",
            "the package busybox-static holds no busybox program; this release is not known here",
        )
    })
}

/// Where each applet belongs, as busybox itself says: `usr/bin/env`, `sbin/ip`. The list names busybox, too, which is no link to itself.
pub(super) async fn applets(program: &Path, job: &Job) -> Result<Vec<String>> {
    let own = program.to_owned();
    // The dynamic loader is not needed and `PATH` not searched: it is the static program just unpacked.
    let printed = Tool::new("env", "coreutils", Duration::from_secs(20)).arg(own).arg("--list-full").run(job).await?;
    let mut applets: Vec<String> = printed.lines().map(str::trim).filter(|l| is_applet(l)).map(str::to_owned).collect();
    applets.sort();
    applets.dedup();
    if applets.len() < 50 {
        return Err(DriverError::unavailable(
            "PackageChanged",
            "busybox does not say which applets it has; this release is not known here",
        ));
    }
    Ok(applets)
}

fn is_applet(line: &str) -> bool {
    let dir = line.rsplit_once('/').map_or("", |(dir, _)| dir);
    matches!(dir, "bin" | "sbin" | "usr/bin" | "usr/sbin") && !line.ends_with("/busybox")
}

/// The image's tar, with fixed times and order.
fn archive(program: &[u8], applets: &[String], os_release: &str) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::with_capacity(program.len() + (1 << 20)));
    let header = |kind, mode, size| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    for (name, mode) in DIRECTORIES {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), name, &[][..])?;
    }
    tar.append_data(&mut header(EntryType::Regular, 0o755, program.len() as u64), "bin/busybox", program)?;
    for applet in applets {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), applet, "/bin/busybox")?;
    }
    for (name, text) in FILES.into_iter().chain([("etc/os-release", os_release)]) {
        tar.append_data(&mut header(EntryType::Regular, 0o644, text.len() as u64), name, text.as_bytes())?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_is_no_link_to_itself_and_the_tar_is_always_the_same() {
        assert!(
            is_applet("usr/bin/env") && !is_applet("bin/busybox") && !is_applet("linuxrc") && !is_applet("../x/ls")
        );
        let make = || archive(b"program", &["bin/ls".into(), "usr/bin/[[".into()], "ID=busybox\n").unwrap();
        assert_eq!(make(), make());
    }
}
