//! A Debian kernel for direct boot: its image, and the modules that a guest needs, in the order in which they must be loaded.

use super::{
    Builder,
    packages::{Package, debian_arch},
};
use crate::image::codec::Codec;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, Result};

/// An unpacked kernel package.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The file that boots.
    pub(super) image: PathBuf,
    /// `6.1.0-56-cloud-amd64`.
    pub(super) release: String,
    /// The modules by name, with underscores.
    modules: BTreeMap<String, PathBuf>,
    /// What is part of the kernel itself.
    builtin: Vec<String>,
}

/// A module ready to be loaded.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// The package of the kernel that Debian makes for clouds.
pub(super) async fn package(builder: &Builder<'_>) -> Result<String> {
    let arch = debian_arch();
    // There is no cloud flavour of it.
    let meta = if arch == "riscv64" { "linux-image-riscv64".to_owned() } else { format!("linux-image-cloud-{arch}") };
    let named = |depends: &str| {
        depends
            .split([',', '|'])
            .map(|d| d.trim().split(' ').next().unwrap_or_default().to_owned())
            .find(|d| d.starts_with("linux-image-"))
    };
    let depends = builder.packages.field(&meta, "Depends", builder.job).await?;
    depends.as_deref().and_then(named).ok_or_else(|| {
        let message = format!(
            "Debian {} has no kernel package {meta}; run apt-get update, or name another release",
            builder.packages.release
        );
        DriverError::unavailable("PackageNotFound", message)
    })
}

/// Unpacks it.
pub(super) async fn unpack(builder: &Builder<'_>, package: &Package) -> Result<Kernel> {
    builder.job.work.report(Some(30), format!("unpacking the kernel {}", package.version));
    let dir = builder.staging.join("kernel");
    builder.packages.unpack(std::slice::from_ref(package), &dir, builder.job).await?;
    builder.job.blocking(move |_| Kernel::find(&dir)).await
}

impl Kernel {
    fn find(dir: &Path) -> Result<Self> {
        let odd = || {
            DriverError::unavailable(
                "PackageChanged",
                "the kernel package holds no kernel; this release is not known here",
            )
        };
        let boot = fs::read_dir(dir.join("boot")).map_err(|_| odd())?;
        let image = boot
            .flatten()
            .map(|e| e.path())
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinu")));
        let image = image.ok_or_else(odd)?;
        let release =
            image.file_name().and_then(|n| n.to_str()?.split_once('-')).map(|(_, r)| r.to_owned()).ok_or_else(odd)?;
        let places = ["usr/lib/modules", "lib/modules"].map(|p| dir.join(p).join(&release));
        let tree = places.into_iter().find(|p| p.is_dir()).ok_or_else(odd)?;
        let builtin = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
        let mut kernel = Self {
            image,
            release,
            modules: BTreeMap::new(),
            builtin: builtin.lines().map(|l| module_name(Path::new(l))).collect(),
        };
        kernel.walk(&tree.join("kernel")).map_err(|e| DriverError::io("read the kernel's modules", e))?;
        Ok(kernel)
    }

    fn walk(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                self.walk(&path)?;
            } else if path.to_string_lossy().contains(".ko") {
                self.modules.insert(module_name(&path), path);
            }
        }
        Ok(())
    }

    /// The modules with all that they need, each after what it needs. Unknown ones are left out: other kernels have them built in.
    pub(super) fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut modules = Vec::new();
        for name in wanted {
            self.add(name, &mut modules)?;
        }
        Ok(modules)
    }

    fn add(&self, name: &str, modules: &mut Vec<Module>) -> Result<()> {
        if modules.iter().any(|m| m.name == name) || self.builtin.iter().any(|b| b == name) {
            return Ok(());
        }
        let Some(path) = self.modules.get(name) else { return Ok(()) };
        let content = read_module(path).map_err(|e| DriverError::io(format!("read the kernel module {name}"), e))?;
        for needed in depends(&content) {
            self.add(&needed, modules)?;
        }
        modules.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// `virtio-rng.ko.xz` is called `virtio_rng`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// A module without its compression: the small loaders of a guest know none.
fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let stored = fs::read(path)?;
    let mut content = Vec::new();
    Codec::of(&stored).open(&stored[..])?.read_to_end(&mut content)?;
    Ok(content)
}

/// What a module says that it needs, in its section `.modinfo`: `depends=virtio,virtio_ring`.
fn depends(content: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = content.windows(key.len()).position(|w| w == key) else { return vec![] };
    let value = content[at + key.len()..].split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let release = "6.1.0-1-cloud-amd64";
        let tree = dir.path().join("lib/modules").join(release);
        fs::create_dir_all(tree.join("kernel/drivers")).unwrap();
        fs::create_dir_all(dir.path().join("boot")).unwrap();
        fs::write(dir.path().join("boot/vmlinuz-6.1.0-1-cloud-amd64"), "kernel").unwrap();
        fs::write(tree.join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        let module = |name: &str, needs: &str| {
            fs::write(tree.join("kernel/drivers").join(name), format!("\0license=GPL\0depends={needs}\0")).unwrap()
        };
        module("virtio-net.ko", "virtio_ring,failover");
        module("virtio_ring.ko", "virtio");
        module("virtio.ko", "");
        module("failover.ko", "");
        let kernel = Kernel::find(dir.path()).unwrap();
        assert_eq!(kernel.release, release);
        let names: Vec<String> =
            kernel.modules(&["virtio_net", "virtio", "ext4", "unknown"]).unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "failover", "virtio_net"]);
    }
}
