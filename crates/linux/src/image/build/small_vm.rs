//! The small VM: busybox, dropbear and a kernel, the whole system in the initial file system. It boots in seconds even when emulated, keeps
//! what is written on the instance's disk (an overlay over the initial file system), and takes its name, keys, addresses and script from the
//! instance's NoCloud volume. Its scripts are under `guest/`.

use super::{Builder, busybox, cpio::Cpio, kernel, programs::Programs};
use crate::image::{archive::Ready, disk, manifest::Manifest, store::Draft};
use std::path::{Path, PathBuf};
use yun_drivers::{DriverError, Result};
use yun_types::{Bytes, VmBoot};

/// What a guest without udev must load by itself before anything else …
const MODULES: [&str; 9] =
    ["virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "overlay", "vfat", "nls_ascii", "nls_cp437", "virtio_net"];

/// … and when it is up.
const LATER: [&str; 11] = [
    "button",
    "evdev",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "virtio_mem",
    "isofs",
    "nls_iso8859_1",
    "nls_utf8",
    "virtio_scsi",
    "sd_mod",
];

/// Programs beside busybox: their places in the packages and in the guest.
const PROGRAMS: [(&str, &str); 7] = [
    ("sbin/dropbear", "usr/sbin/dropbear"),
    ("bin/dropbearkey", "usr/bin/dropbearkey"),
    ("bin/dbclient", "usr/bin/dbclient"),
    ("sbin/mke2fs", "usr/lib/yun/mke2fs"),
    ("sbin/resize2fs", "usr/lib/yun/resize2fs"),
    ("lib/openssh/sftp-server", "usr/lib/sftp-server"),
    ("sbin/qemu-ga", "usr/sbin/qemu-ga"),
];

const PACKAGES: [&str; 4] = ["dropbear-bin", "e2fsprogs", "openssh-sftp-server", "qemu-guest-agent"];

/// The scripts of the guest: their text, their names in it, and their modes.
const SCRIPTS: [(&str, &str, u32); 15] = [
    ("init", include_str!("guest/init"), 0o755),
    ("etc/rc", include_str!("guest/rc"), 0o755),
    ("etc/inittab", include_str!("guest/inittab"), 0o644),
    ("etc/network.awk", include_str!("guest/network.awk"), 0o644),
    ("etc/user-data.awk", include_str!("guest/user-data.awk"), 0o644),
    ("etc/udhcpc/default.script", include_str!("guest/dhcp"), 0o755),
    ("etc/acpi/PWRF/00000080", include_str!("guest/powerdown"), 0o755),
    ("etc/yun/agent", include_str!("guest/agent"), 0o755),
    ("etc/yun/identity", include_str!("guest/identity"), 0o755),
    ("etc/profile", include_str!("guest/profile"), 0o644),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:74:74:sshd:/run:/bin/false\nyun:x:1000:1000:yun:/home/yun:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    ),
    ("etc/shadow", "root:*:1::::::\nsshd:*:1::::::\nyun:*:1::::::\nnobody:*:1::::::\n", 0o600),
    ("etc/group", "root:x:0:\ntty:x:5:\nsshd:x:74:\nwww-data:x:33:\nyun:x:1000:\nnogroup:x:65534:\n", 0o644),
    ("etc/shells", "/bin/sh\n", 0o644),
    ("www/index.html", "<!doctype html>\n<title>yun</title>\n<p>It runs.\n", 0o644),
];

/// `quiet` and `mitigations=off` cut the boot by a tenth where the processor is emulated; the guest runs what its owner brings, and the host
/// keeps its own mitigations. `panic=1` makes a broken boot an end instead of a hang.
const CMDLINE: &str = "console=ttyS0 quiet mitigations=off nokaslr cryptomgr.notests audit=0 rcupdate.rcu_expedited=1 8250.nr_uarts=1 i8042.noaux panic=1";

pub(super) async fn build(builder: &Builder<'_>) -> Result<Ready> {
    let (packages, job) = (&builder.packages, builder.job);
    job.work.report(Some(5), "finding the packages");
    let kernel_name = kernel::package(builder).await?;
    let wanted: Vec<String> = PACKAGES.iter().map(|p| (*p).to_owned()).collect();
    let names = [vec![kernel_name, "busybox-static".to_owned()], with_libraries(builder, &wanted).await?].concat();
    let found = packages.fetch(&names, job).await?;
    let [kernel_package, busybox_package, others @ ..] = &found[..] else {
        return Err(DriverError::unavailable(
            "PackagesOutOfDate",
            "apt does not offer what the guest needs; run apt-get update",
        ));
    };
    let kernel = kernel::unpack(builder, kernel_package).await?;
    job.work.report(Some(50), "unpacking the packages");
    let root = builder.staging.join("packages");
    packages.unpack(others, &root, job).await?;
    let busybox_root = builder.staging.join("busybox");
    packages.unpack(std::slice::from_ref(busybox_package), &busybox_root, job).await?;
    let busybox = busybox::program_in(&busybox_root)?;
    let applets = busybox::applets(&busybox, job).await?;
    let mut programs = Programs::default();
    for (place, name) in PROGRAMS {
        programs.add(&root, place, name, job).await?;
    }
    let extra = extra_root(builder).await?;
    job.work.report(Some(70), "putting the guest together");
    let image = kernel.image.clone();
    let description = format!(
        "small VM: BusyBox {}, Linux {}",
        busybox_package.version.split_once(':').map_or("", |(_, v)| v),
        kernel.release
    );
    let staged = builder.staging.join("initrd");
    let (staging, target) = (builder.staging.clone(), staged.clone());
    job.blocking(move |_| {
        let _staging = staging;
        let initrd = initial_file_system(&kernel, &busybox, &applets, &programs, extra.as_deref())?;
        std::fs::write(&target, initrd).map_err(|e| DriverError::io("write the guest's initial file system", e))
    })
    .await?;
    finish(builder, image, staged, description).await
}

/// Hashes the parts and describes the image.
async fn finish(builder: &Builder<'_>, kernel: PathBuf, initrd: PathBuf, description: String) -> Result<Ready> {
    let mut manifest = Manifest::vm(VmBoot::Kernel { cmdline: CMDLINE.into() }, Bytes(0), Some(description));
    let (kernel, kernel_path) = disk::keep(kernel, builder.job, builder.staging.clone(), (80, 90)).await?;
    let (initrd, initrd_path) = disk::keep(initrd, builder.job, builder.staging.clone(), (90, 97)).await?;
    let blobs = vec![(kernel_path, kernel.digest.clone()), (initrd_path, initrd.digest.clone())];
    manifest.kernel = Some(kernel);
    manifest.initrd = Some(initrd);
    Ok(Ready { draft: Draft { manifest, blobs, layers: vec![] }, _pins: vec![] })
}

/// The packages and the libraries that they need, but not what those packages would need to be installed.
async fn with_libraries(builder: &Builder<'_>, wanted: &[String]) -> Result<Vec<String>> {
    let all = builder.packages.closure(wanted, builder.job).await?;
    let library = |name: &String| name.starts_with("lib") || name.starts_with("zlib");
    let mut names: Vec<String> = wanted.to_vec();
    names.extend(all.into_iter().filter(|n| library(n) && !wanted.contains(n)));
    Ok(names)
}

/// The packages that the recipe adds, unpacked as they are, with their libraries.
async fn extra_root(builder: &Builder<'_>) -> Result<Option<PathBuf>> {
    if builder.recipe.packages.is_empty() {
        return Ok(None);
    }
    let names = with_libraries(builder, &builder.recipe.packages).await?;
    let found = builder.packages.fetch(&names, builder.job).await?;
    let root = builder.staging.join("extra");
    builder.packages.unpack(&found, &root, builder.job).await?;
    Ok(Some(root))
}

fn initial_file_system(
    kernel: &kernel::Kernel,
    busybox: &Path,
    applets: &[String],
    programs: &Programs,
    extra: Option<&Path>,
) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for name in [
        "dev",
        "etc",
        "home/yun",
        "lib",
        "mnt",
        "proc",
        "run",
        "srv",
        "sys",
        "usr/local/bin",
        "var/log",
        "var/lib",
        "opt",
    ] {
        cpio.directory(name, 0o755);
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        cpio.directory(name, mode);
    }
    // The kernel opens it for the first process, before anything can make it.
    cpio.device("dev/console", 0o600, (5, 1));
    let program = std::fs::read(busybox).map_err(|e| DriverError::io("read busybox", e))?;
    cpio.file("bin/busybox", 0o755, &program);
    for applet in applets {
        cpio.link(applet, "/bin/busybox");
    }
    programs.write(&mut cpio)?;
    if let Some(extra) = extra {
        add_tree(&mut cpio, extra, "").map_err(|e| DriverError::io("add the packages to the guest", e))?;
    }
    for (name, text, mode) in SCRIPTS {
        cpio.file(name, mode, text.as_bytes());
    }
    let os_release =
        format!("ID=yun-small\nNAME=\"yun small VM\"\nPRETTY_NAME=\"yun small VM (Linux {})\"\n", kernel.release);
    cpio.file("etc/os-release", 0o644, os_release.as_bytes());
    let first = kernel.modules(&MODULES)?;
    let later = kernel.modules(&[&MODULES[..], &LATER[..]].concat())?.split_off(first.len());
    for (list, modules) in [("order", first), ("later", later)] {
        let names: Vec<&str> = modules.iter().map(|m| &*m.name).collect();
        cpio.file(&format!("lib/modules/{list}"), 0o644, format!("{}\n", names.join(" ")).as_bytes());
        for module in &modules {
            cpio.file(&format!("lib/modules/{}.ko", module.name), 0o644, &module.content);
        }
    }
    Ok(cpio.finish())
}

/// Adds unpacked packages, without what only people read.
fn add_tree(cpio: &mut Cpio, root: &Path, below: &str) -> std::io::Result<()> {
    let mut names: Vec<_> =
        std::fs::read_dir(root.join(below))?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let name = name.to_string_lossy();
        let path = if below.is_empty() { name.into_owned() } else { format!("{below}/{name}") };
        let meta = std::fs::symlink_metadata(root.join(&path))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
        if ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale"].contains(&path.as_str()) {
            continue;
        }
        if meta.is_dir() {
            add_tree(cpio, root, &path)?;
        } else if meta.is_symlink() {
            cpio.link(&path, &std::fs::read_link(root.join(&path))?.to_string_lossy());
        } else if meta.is_file() {
            cpio.file(&path, mode, &std::fs::read(root.join(&path))?);
        }
    }
    Ok(())
}
