//! Debian systems by mmdebstrap: the container as a tar, the VM as a disk with a kernel for direct boot.

use super::{Builder, busybox, cpio::Cpio, kernel, packages::Packages};
use crate::image::{
    archive::{Ready, ready},
    disk,
    job::{Job, Meter},
    layer::{Claim, Layers},
    manifest::Manifest,
    store::Draft,
    tool::Tool,
};
use std::{
    fs::{self, File},
    io::{self, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};
use yun_drivers::{DriverError, Result};
use yun_types::{ContainerConfig, VmBoot};

const LIMIT: Duration = Duration::from_secs(3600);
/// No file is newer than this, so that the same packages make the same tar: the first second of 2025.
const EPOCH: &str = "1735689600";
/// What people read, and containers do not have.
const LEFT_OUT: [&str; 4] = ["/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*"];
const KEPT: [&str; 1] = ["/usr/share/doc/*/copyright"];

/// What a VM has beside Debian's essential packages.
const VM_PACKAGES: [&str; 12] = [
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "login",
    "openssh-server",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd-sysv",
    "udev",
];

const VM_CMDLINE: &str = "console=ttyS0 quiet mitigations=off nokaslr cryptomgr.notests audit=0 net.ifnames=0 root=LABEL=yun-root rw panic=10";
const ROOT_LABEL: &str = "yun-root";

/// The modules with which a kernel finds the disk.
const DISK_MODULES: [&str; 6] = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "sd_mod", "ext4"];

/// Files of the VM: their names, texts and modes.
const VM_FILES: [(&str, &str, u32); 8] = [
    ("etc/fstab", "LABEL=yun-root / ext4 noatime,x-systemd.growfs 0 1\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
    ("etc/machine-id", "", 0o644),
    (
        "etc/ssh/sshd_config.d/yun.conf",
        "HostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
        0o644,
    ),
    ("etc/sudoers.d/yun", "yun ALL=(ALL) NOPASSWD: ALL\n", 0o440),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/yun.conf",
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n",
        0o644,
    ),
    ("etc/systemd/network/90-yun.network", "[Match]\nName=eth* en*\n[Network]\nDHCP=yes\n", 0o644),
    ("etc/systemd/system/ssh.service.d/yun.conf", "[Unit]\nAfter=yun-settings.service\n", 0o644),
];

/// Files of the VM that do what cloud-init would, in a tenth of the time.
const SETTINGS_FILES: [(&str, &str, u32); 5] = [
    ("usr/lib/yun/settings", include_str!("guest/debian-settings"), 0o755),
    ("usr/lib/yun/network.awk", include_str!("guest/network.awk"), 0o644),
    ("usr/lib/yun/user-data.awk", include_str!("guest/user-data.awk"), 0o644),
    ("etc/systemd/system/yun-settings.service", include_str!("guest/yun-settings.service"), 0o644),
    ("etc/systemd/system/yun-user-data.service", include_str!("guest/yun-user-data.service"), 0o644),
];

/// The container.
pub(super) async fn container(builder: &Builder<'_>) -> Result<Ready> {
    let tar = builder.staging.join("rootfs.tar");
    let mut options: Vec<String> = LEFT_OUT.iter().map(|p| format!("--dpkgopt=path-exclude={p}")).collect();
    options.extend(KEPT.iter().map(|p| format!("--dpkgopt=path-include={p}")));
    debootstrap(builder, &builder.recipe.packages, &options, &tar, (5, 70)).await?;
    let recipe = builder.recipe;
    let config = ContainerConfig {
        entrypoint: recipe.entrypoint.clone(),
        command: if recipe.command.is_empty() && recipe.entrypoint.is_empty() {
            vec!["bash".into()]
        } else {
            recipe.command.clone()
        },
        env: vec![busybox::PATH.into()],
        ..ContainerConfig::default()
    };
    let (store, staging) = (builder.store.clone(), builder.staging.clone());
    builder
        .job
        .blocking(move |job| {
            let failed = |e| DriverError::io("read the new system", e);
            let file = File::open(&tar).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            let mut meter = Meter::new(job, "unpacking", (70, 95), Some(size * 2));
            let mut layers = Layers::new(&store, &staging, job);
            layers.add(
                BufReader::new(file),
                &Claim { what: "the new system".into(), ..Claim::default() },
                &mut meter,
            )?;
            Ok(ready(layers, config))
        })
        .await
}

/// The VM.
pub(super) async fn vm(builder: &Builder<'_>) -> Result<Ready> {
    let job = builder.job;
    let found = builder.packages.fetch(&[kernel::package(builder).await?, "busybox-static".to_owned()], job).await?;
    let kernel = kernel::unpack(builder, &found[0]).await?;
    let busybox_root = builder.staging.join("busybox");
    builder.packages.unpack(&found[1..], &busybox_root, job).await?;
    let root = builder.staging.join("rootfs");
    let wanted: Vec<String> =
        VM_PACKAGES.iter().map(|p| (*p).to_owned()).chain(builder.recipe.packages.iter().cloned()).collect();
    debootstrap(builder, &wanted, &[], &root, (10, 70)).await?;
    let cloud_init = wanted.iter().any(|p| p == "cloud-init");
    let (modules_from, into) = (builder.staging.join("kernel"), root.clone());
    let used = job
        .blocking(move |_| {
            furnish(&into, &modules_from, cloud_init).map_err(|e| DriverError::io("furnish the new system", e))
        })
        .await?;
    Tool::new("chroot", "coreutils", LIMIT).arg(&root).args(["depmod", "-a"]).arg(&kernel.release).run(job).await?;

    job.work.report(Some(75), "making the disk");
    let raw = builder.staging.join("disk.raw");
    make_file_system(&root, &raw, used, job).await?;
    let staged = disk::to_qcow2(&raw, &builder.staging, job, (80, 90)).await?;
    let initrd = builder.staging.join("initrd");
    fs::write(&initrd, initial_file_system(&kernel, &busybox::program_in(&busybox_root)?)?)
        .map_err(|e| DriverError::io("write the initial file system", e))?;
    let description = fs::read_to_string(root.join("usr/lib/os-release")).ok();
    let description = description
        .and_then(|t| t.lines().find_map(|l| Some(l.strip_prefix("PRETTY_NAME=")?.trim_matches('"').to_owned())));
    let mut manifest = Manifest::vm(VmBoot::Kernel { cmdline: VM_CMDLINE.into() }, staged.virtual_size, description);
    let mut blobs = Vec::new();
    let parts = [
        (&mut manifest.disk, staged.path, (90, 95)),
        (&mut manifest.kernel, kernel.image, (95, 96)),
        (&mut manifest.initrd, initrd, (96, 97)),
    ];
    for (slot, path, span) in parts {
        let (blob, path) = disk::keep(path, job, builder.staging.clone(), span).await?;
        blobs.push((path, blob.digest.clone()));
        *slot = Some(blob);
    }
    Ok(Ready { draft: Draft { manifest, blobs, layers: vec![] }, _pins: vec![] })
}

/// What mmdebstrap says at the beginning of each step, how much is done then in percent, and how it is told to people.
const STEPS: [(&str, u16, &str); 7] = [
    ("running apt-get update", 2, "fetching the package lists"),
    ("downloading packages", 10, "fetching the packages"),
    ("extracting archives", 25, "unpacking the essential packages"),
    ("installing essential", 40, "installing the essential packages"),
    ("installing remaining", 60, "installing the other packages"),
    ("cleaning", 90, "cleaning up"),
    ("creating tarball", 93, "packing the new system"),
];

/// Runs mmdebstrap into a tar or a directory.
async fn debootstrap(
    builder: &Builder<'_>,
    packages: &[String],
    options: &[String],
    target: &Path,
    span: (u8, u8),
) -> Result<()> {
    let Builder { staging, job, packages: source, .. } = builder;
    let temporary = staging.join("tmp");
    let fetched = staging.join("debs");
    for dir in [&temporary, &fetched] {
        fs::create_dir_all(dir).map_err(|e| DriverError::io(format!("make the directory {}", dir.display()), e))?;
    }
    // The system is unpacked by a user of its own in some modes: it must be able to pass.
    fs::set_permissions(staging.path(), PermissionsExt::from_mode(0o711))
        .map_err(|e| DriverError::io("open the staging directory", e))?;
    let kept = source.systems_cache().map_err(|e| DriverError::io("make the package cache", e))?;
    let mut tool = Tool::new("mmdebstrap", "mmdebstrap", LIMIT).arg("--variant=minbase").args(options);
    if !packages.is_empty() {
        tool = tool.arg(format!("--include={}", packages.join(",")));
    }
    // Packages that an earlier build fetched are handed in, and what this one fetched is handed out.
    let tool = tool
        .args(["--skip=download/empty", "--skip=essential/unlink"])
        .arg("--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives/")
        .arg(format!("--setup-hook=sync-in {} /var/cache/apt/archives/", quoted(&kept)))
        .arg(format!("--customize-hook=sync-out /var/cache/apt/archives {}", quoted(&fetched)))
        .arg(&source.release)
        .arg(target)
        .env("TMPDIR", &temporary)
        .env("SOURCE_DATE_EPOCH", EPOCH);
    let work = job.work.clone();
    tool.follow(job, move |line| {
        let step = STEPS.iter().find(|(said, ..)| line.strip_prefix("I: ").is_some_and(|l| l.starts_with(said)));
        if let Some((_, done, shown)) = step {
            let whole = u16::from(span.0) + u16::from(span.1 - span.0) * done / 100;
            work.report(u8::try_from(whole).ok(), *shown);
        }
    })
    .await?;
    source.keep_systems(&fetched).map_err(|e| DriverError::io("keep the packages", e))
}

/// A path in a hook, which a shell reads.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Puts our files and the kernel's modules into the new system. Returns the bytes that it takes.
fn furnish(root: &Path, kernel: &Path, cloud_init: bool) -> io::Result<u64> {
    let write = |(name, text, mode): (&str, &str, u32)| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(mode))
    };
    VM_FILES.into_iter().try_for_each(write)?;
    let enable = |unit: &str, target: &str, place: &str| {
        let wants = root.join(format!("etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&wants)?;
        match symlink(format!("{place}/{unit}"), wants.join(unit)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    };
    enable("systemd-networkd.service", "multi-user.target", "/usr/lib/systemd/system")?;
    if cloud_init {
        // Its locale needs a package that the image does not have.
        write(("etc/cloud/cloud.cfg.d/99_yun.cfg", "datasource_list: [NoCloud, None]\nlocale: false\n", 0o644))?;
    } else {
        SETTINGS_FILES.into_iter().try_for_each(write)?;
        enable("yun-settings.service", "multi-user.target", "/etc/systemd/system")?;
        enable("yun-user-data.service", "multi-user.target", "/etc/systemd/system")?;
        add_user(root)?;
    }
    // Each VM makes its own.
    for entry in fs::read_dir(root.join("etc/ssh"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    // Nothing should download, or look for what cannot be there, in the first minutes of a VM.
    for unit in ["apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service"] {
        let masked = root.join("etc/systemd/system").join(unit);
        let _ = fs::remove_file(&masked);
        symlink("/dev/null", masked)?;
    }
    let _ = fs::remove_file(root.join("etc/hostname"));
    let modules = ["usr/lib/modules", "lib/modules"].map(|p| kernel.join(p)).into_iter().find(|p| p.is_dir());
    if let Some(modules) = modules {
        copy_tree(&modules, &root.join("usr/lib/modules"))?;
    }
    tree_size(root)
}

/// The user that people log in as if they do not like to be root.
fn add_user(root: &Path) -> io::Result<()> {
    for (file, line) in [
        ("etc/passwd", "yun:x:1000:1000:yun:/home/yun:/bin/bash\n"),
        ("etc/group", "yun:x:1000:\n"),
        ("etc/shadow", "yun:*:20000:0:99999:7:::\n"),
        ("etc/gshadow", "yun:!::\n"),
    ] {
        let text = fs::read_to_string(root.join(file))?;
        if !text.lines().any(|l| l.starts_with("yun:")) {
            fs::write(root.join(file), text + line)?;
        }
    }
    let home = root.join("home/yun");
    fs::create_dir_all(&home)?;
    std::os::unix::fs::chown(&home, Some(1000), Some(1000))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|e| e.file_type().map(|k| (e, k)))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The bytes of a tree's files, each rounded up to the blocks that it takes.
fn tree_size(dir: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        size += if meta.is_dir() { 4096 + tree_size(&entry.path())? } else { meta.len().next_multiple_of(4096) };
    }
    Ok(size)
}

/// A disk with nothing but the file system, filled while it is made: no mount, no loop device.
async fn make_file_system(root: &Path, raw: &Path, used: u64, job: &Job) -> Result<()> {
    // Room for the file system's own tables and for a first start; the guest grows it to the size of its disk.
    let size = (used + used / 4 + (256 << 20)).next_multiple_of(256 << 20).max(1 << 30);
    job.room(root, used * 2, "make the disk")?;
    File::create(raw).and_then(|f| f.set_len(size)).map_err(|e| DriverError::io("make the disk", e))?;
    Tool::new("mkfs.ext4", "e2fsprogs", LIMIT)
        .args(["-q", "-F", "-L", ROOT_LABEL, "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
        .arg(root)
        .arg(raw)
        .run(job)
        .await
        .map(drop)
}

/// Finds the disk and goes on from there.
fn initial_file_system(kernel: &kernel::Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for name in ["bin", "dev", "proc", "sys", "root", "lib"] {
        cpio.directory(name, 0o755);
    }
    cpio.device("dev/console", 0o600, (5, 1));
    cpio.file("bin/busybox", 0o755, &fs::read(busybox).map_err(|e| DriverError::io("read busybox", e))?);
    for applet in ["sh", "mount", "insmod", "findfs", "switch_root", "usleep", "cat"] {
        cpio.link(&format!("bin/{applet}"), "busybox");
    }
    cpio.file("init", 0o755, include_str!("guest/debian-init").as_bytes());
    let modules = kernel.modules(&DISK_MODULES)?;
    let names: Vec<&str> = modules.iter().map(|m| &*m.name).collect();
    cpio.file("lib/order", 0o644, format!("{}\n", names.join(" ")).as_bytes());
    for module in &modules {
        cpio.file(&format!("lib/{}.ko", module.name), 0o644, &module.content);
    }
    Ok(cpio.finish())
}

impl Packages {
    /// The packages that systems of this release were made from.
    fn systems_cache(&self) -> io::Result<PathBuf> {
        let dir = self.systems();
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Keeps the packages that a system was made from.
    fn keep_systems(&self, fetched: &Path) -> io::Result<()> {
        let dir = self.systems_cache()?;
        for entry in fs::read_dir(fetched)?.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().ends_with(".deb") {
                fs::rename(entry.path(), dir.join(name))?;
            }
        }
        Ok(())
    }
}
