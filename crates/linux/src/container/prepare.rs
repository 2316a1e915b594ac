//! Making everything that a start needs, and finding out before a start what would make it fail.

use super::{
    cgroup::{Disk, Limits},
    files::{Files, Prepared, make_private, replace},
    fit,
    merge::{self, Wanted},
    nest::{self, Nest},
    oci::{self, Bundle, ProcessSpec},
    overlay,
    process::signal_number,
    rights::Rights,
    rootfs::{NotRunnable, Root},
    users,
};
use nix::sys::resource::{Resource, getrlimit};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use yun_drivers::{Attachment, DriverError, ErrorKind, LocalImage, Port, Result};
use yun_types::{Capability, DesiredInstance, Mount};

/// Everything that preparing depends on.
pub(super) struct Request<'a> {
    pub(super) files: &'a Files,
    pub(super) instance: &'a DesiredInstance,
    pub(super) image: &'a LocalImage,
    pub(super) network: Option<&'a Attachment>,
    /// Whether it runs now: then its file tree stays as it is.
    pub(super) runs: bool,
    /// Whether the host can keep containers from swapping.
    pub(super) counts_swap: bool,
}

impl Request<'_> {
    /// Writes the bundle. Blocks for a few milliseconds.
    pub(super) fn carry_out(&self) -> Result<Prepared> {
        let Self { files, instance, image, .. } = self;
        let io = |what: &str| {
            let operation = format!("{what} of instance {}", instance.name);
            move |e: io::Error| DriverError::io(operation, e)
        };
        let mut wanted = merge::merge(&image.config, &instance.spec.container);
        if instance.spec.container.system && wanted.stop_signal == merge::STOP_SIGNAL {
            // What asks systemd to shut down (systemd(1)); others take it as well as any other.
            wanted.stop_signal = "SIGRTMIN+3".to_owned();
        }
        let stop_signal = self.stop_signal(&wanted)?;
        self.check_mounts()?;
        for directory in [&files.durable, &files.run] {
            make_private(directory).map_err(io("make the directories"))?;
        }
        let nest = Nest::of(files).filter(|_| nest::wanted(&instance.spec.container.security));
        if !self.runs {
            self.mount_tree(nest.as_ref())?;
        }
        let root = Root::open(&files.rootfs()).map_err(io("open the file tree"))?;
        let volumes =
            fit::mounts(files, &instance.spec.volumes, &root, nest.as_ref()).map_err(io("make the volumes"))?;
        let config = self.config(wanted, &root, nest.as_ref(), &volumes)?;
        let uid = config["process"]["user"]["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok()).unwrap_or_default();
        let owner = nest.as_ref().map_or(uid, |nest| nest.base.saturating_add(uid.min(nest::SIZE - 1)));
        replace(&files.config(), &serde_json::to_vec(&config).map_err(|e| io("write the configuration")(e.into()))?)
            .map_err(io("write the configuration"))?;
        crate::metadata::write(&files.durable, instance)?;
        let prepared = Prepared {
            generation: instance.generation,
            layers: image.layers.clone(),
            stop_signal,
            tty: instance.spec.container.tty,
            stdin: instance.spec.container.stdin,
            base: nest.as_ref().map(|nest| nest.base),
            owner,
        };
        files.write_prepared(&prepared).map_err(io("write down the preparation"))?;
        Ok(prepared)
    }

    fn bad(&self, reason: &'static str, what: impl std::fmt::Display) -> DriverError {
        DriverError::bad_request(reason, format!("cannot start instance {}: {what}", self.instance.name))
    }

    /// The image's name, for people.
    fn image_name(&self) -> &str {
        &self.instance.image.name
    }

    fn mount_tree(&self, nest: Option<&Nest>) -> Result<()> {
        let Self { files, image, .. } = self;
        if image.layers.is_empty() {
            return Err(DriverError::new(
                ErrorKind::Damaged,
                "ImageDamaged",
                format!(
                    "image {} has no layers: import it again (yun image rm, then yun image import)",
                    self.image_name()
                ),
            ));
        }
        let mount = || {
            let base = nest.map(|nest| nest.base);
            if files.prepared().is_some_and(|before| before.layers != image.layers || before.base != base) {
                overlay::unmount(files)?;
            }
            overlay::ensure_mounted(files, &image.layers, nest)
        };
        mount().map_err(|e| {
            DriverError::io(
                format!("mount the layers of image {} for instance {}", self.image_name(), self.instance.name),
                e,
            )
        })
    }

    fn stop_signal(&self, wanted: &Wanted) -> Result<i32> {
        signal_number(&wanted.stop_signal).ok_or_else(|| {
            self.bad(
                "BadStopSignal",
                format_args!("stop signal {:?} is unknown: write a name such as SIGTERM or SIGINT", wanted.stop_signal),
            )
        })
    }

    fn check_mounts(&self) -> Result<()> {
        for mount in &self.instance.spec.container.mounts {
            let fault = oci::mount_fault(mount).or_else(|| match mount {
                Mount::Bind { source, .. } if !Path::new(source).exists() => Some(format!(
                    "its source {source} is not on this node: make it first, or choose a node that has it"
                )),
                _ => None,
            });
            if let Some(fault) = fault {
                return Err(
                    self.bad("BadMount", format_args!("the mount on {:?} cannot be made: {fault}", mount.target()))
                );
            }
        }
        Ok(())
    }

    fn config(
        &self,
        mut wanted: Wanted,
        root: &Root,
        nest: Option<&Nest>,
        volumes: &[Mount],
    ) -> Result<serde_json::Value> {
        let Self { files, instance, network, .. } = self;
        let options = &instance.spec.container;
        let identity =
            users::resolve(&wanted.user, &root.text("/etc/passwd"), &root.text("/etc/group")).map_err(|e| {
                self.bad(
                    "UserNotFound",
                    format_args!(
                        "{e} ({}): write a user that the image has, or numbers as in 1000:1000",
                        self.image_name()
                    ),
                )
            })?;
        if !Path::new(&wanted.workdir).is_absolute() {
            return Err(
                self.bad("BadWorkdir", format_args!("working directory {:?} is not an absolute path", wanted.workdir))
            );
        }
        let mut defaults = vec![("HOME", identity.home.clone()), ("HOSTNAME", instance.name.to_string())];
        if options.tty {
            defaults.push(("TERM", "xterm".to_owned()));
        }
        for (name, value) in defaults {
            wanted.env.entry(name.to_owned()).or_insert(value);
        }
        self.check_program(&wanted, root, &identity)?;
        let names = self
            .write_names(nest)
            .map_err(|e| DriverError::io(format!("write the name files of instance {}", instance.name), e))?;
        if options.system && nest.is_none() {
            return Err(self.bad(
                "NoUserNamespaces",
                "this node gives containers no user namespaces of their own (yun node show says why), and a system inside needs one; make it privileged instead",
            ));
        }
        let mut security = options.security.clone();
        if options.system {
            // They count for what belongs to its own namespaces alone.
            security.cap_add.insert(Capability::ALL);
            security.no_new_privileges = false;
            wanted.env.entry("container".to_owned()).or_insert_with(|| "yun".to_owned());
        }
        let process = ProcessSpec {
            arguments: &wanted.arguments,
            env: &wanted.env,
            workdir: &wanted.workdir,
            identity: &identity,
            tty: options.tty,
            security: &security,
            rights: if nest.is_some() { Rights::ALL } else { Rights::own() },
            open_files: open_files(),
        };
        Ok(oci::config(&Bundle {
            process,
            rootfs: &files.rootfs(),
            hostname: instance.name.as_str(),
            cgroup: &files.cgroup,
            limits: limits(instance, files)?,
            counts_swap: self.counts_swap,
            network: network.and_then(|attachment| match &attachment.port {
                Port::Namespace { path, .. } => Some(path.as_path()),
                Port::Tap { .. } => None,
            }),
            files: &names,
            mounts: &[&options.mounts[..], volumes].concat(),
            system: options.system,
            nest,
        }))
    }

    /// A program may also come by a mount, where only a start can tell.
    fn check_program(&self, wanted: &Wanted, root: &Root, identity: &users::Identity) -> Result<()> {
        let image = self.image_name();
        let Some(program) = wanted.arguments.first() else {
            return Err(self.bad(
                "EntrypointNotFound",
                format_args!("image {image} names no program to run: give one, as in yun run {image} -- /bin/sh, or set container.command"),
            ));
        };
        let groups: Vec<u32> = identity.additional.iter().copied().chain([identity.gid]).collect();
        let search = wanted.env.get("PATH").map_or(merge::DEFAULT_PATH, String::as_str);
        let way_out = "set container.entrypoint or container.command to a program that the image has";
        match root.find(program, search, &wanted.workdir, identity.uid, &groups) {
            Ok(_) => Ok(()),
            Err(_) if !self.instance.spec.container.mounts.is_empty() || !self.instance.spec.volumes.is_empty() => {
                Ok(())
            }
            Err(NotRunnable::Missing) if program.contains('/') => {
                Err(self.bad("EntrypointNotFound", format_args!("image {image} has no program {program:?}: {way_out}")))
            }
            Err(NotRunnable::Missing) => Err(self.bad(
                "EntrypointNotFound",
                format_args!("image {image} has no program {program:?} in {search}: {way_out}"),
            )),
            Err(NotRunnable::Forbidden(path)) => Err(self.bad(
                "PermissionDenied",
                format_args!(
                    "user {} may not execute {} of image {image}: {way_out}, or another user",
                    identity.uid,
                    path.display()
                ),
            )),
            Err(NotRunnable::Interpreter { script, interpreter }) => Err(self.bad(
                "EntrypointNotFound",
                format_args!(
                    "{} of image {image} is a script for {interpreter}, which the image does not have: {way_out}",
                    script.display()
                ),
            )),
        }
    }

    /// The files by which programs inside know names. Written in place, so that a running container sees them change.
    fn write_names(&self, nest: Option<&Nest>) -> io::Result<Vec<(&'static str, PathBuf)>> {
        let Self { files, instance, network, .. } = self;
        let (name, domain) = (&instance.name, instance.domain());
        let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        let mut resolv = String::new();
        match network {
            Some(attachment) => {
                hosts.push_str(&format!("{}\t{domain} {name}\n", attachment.nic.address));
                resolv.push_str(&format!("nameserver {}\nsearch {}.yun\n", attachment.gateway, instance.project));
            }
            None => hosts.push_str(&format!("127.0.1.1\t{domain} {name}\n")),
        }
        let write = |(target, file, text): (&'static str, &str, String)| {
            let path = files.durable.join(file);
            fs::write(&path, text)?;
            // Its own root may change them, as in any container.
            let owner = nest.map_or(0, |nest| nest.base);
            std::os::unix::fs::chown(&path, Some(owner), Some(owner))?;
            Ok((target, path))
        };
        [
            ("/etc/hosts", "hosts", hosts),
            ("/etc/hostname", "hostname", format!("{name}\n")),
            ("/etc/resolv.conf", "resolv.conf", resolv),
        ]
        .into_iter()
        .map(write)
        .collect()
    }
}

/// The most processes, where nobody says otherwise: stops a fork bomb before it fills the host's table.
const PIDS: u32 = 4096;

/// What an instance may use.
pub(super) fn limits(instance: &DesiredInstance, files: &Files) -> Result<Limits> {
    let (size, options) = (instance.spec.size, &instance.spec.container);
    let disk = Disk::of(&files.durable);
    if disk.is_none() && !options.io.is_default() {
        let message = format!(
            "cannot limit the reading and writing of instance {}: what {} lies on is no single disk; leave io out",
            instance.name,
            files.durable.display()
        );
        return Err(DriverError::bad_request("NoDiskLimits", message));
    }
    let io = disk.map(|disk| (disk, options.io));
    Ok(Limits { cpu: size.cpu, memory: size.memory, pids: options.pids.unwrap_or(PIDS), io })
}

/// Without CAP_SYS_RESOURCE nobody below this process can have more open files than it has.
pub(super) fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}
