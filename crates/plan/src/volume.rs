//! What can be said about the volumes that an instance asks for, and about volumes that change.
//!
//! Never looks anything up: the volumes and their users are arguments.

use crate::Refused;
use std::collections::BTreeSet;
use yun_types::{
    Bytes, DesiredMount, DesiredVolume, Instance, InstanceKind, InstanceSpec, Name, Volume, VolumeId, VolumeKind,
    VolumeMount, VolumeSpec, VolumeUser,
};

/// The most disks of one VM beside its own: as many as it has sockets for.
pub const MOST_DISKS: usize = 8;
/// The most volumes of one container.
pub const MOST_MOUNTS: usize = 64;
/// The least that a volume may be.
pub const LEAST: Bytes = Bytes::mib(1);

fn bad<T>(message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::new("Invalid", message))
}

/// Checks a list of mounts by itself, for an instance of this kind.
pub fn check(mounts: &[VolumeMount], kind: InstanceKind) -> Result<(), Refused> {
    match kind {
        InstanceKind::Vm => check_disks(mounts),
        InstanceKind::Container => {
            if mounts.len() > MOST_MOUNTS {
                return bad(format!(
                    "{} volumes are too many for one container: use at most {MOST_MOUNTS}",
                    mounts.len()
                ));
            }
            match mounts.iter().find(|mount| mount.target.is_none()) {
                Some(mount) => {
                    let name = mount.volume.as_ref().map_or("", |name| name.as_str());
                    bad(format!(
                        "volume {name} needs a path in the container: write it as {name}:/path, as in data:/var/lib/data"
                    ))
                }
                None => Ok(()),
            }
        }
    }
}

fn check_disks(mounts: &[VolumeMount]) -> Result<(), Refused> {
    if mounts.len() > MOST_DISKS {
        return bad(format!("{} volumes are too many for one VM: use at most {MOST_DISKS}", mounts.len()));
    }
    let mut seen = BTreeSet::new();
    for mount in mounts {
        let Some(name) = &mount.volume else {
            return bad(
                "anonymous volumes are for containers: name a block volume (yun volume create data --kind block)",
            );
        };
        if let Some(target) = &mount.target {
            return bad(format!(
                "volume {name} cannot be mounted at {target}: this is a VM, which finds it as the disk /dev/disk/by-id/virtio-{name}; leave the path out"
            ));
        }
        if !seen.insert(name) {
            return bad(format!("volume {name} is named twice: a VM has each disk once"));
        }
    }
    Ok(())
}

/// Checks a volume's spec by itself.
pub fn check_spec(name: &Name, spec: &VolumeSpec) -> Result<(), Refused> {
    if spec.size < LEAST {
        return bad(format!("volume {name} of {} is too small: use {LEAST} or more, as in 10G", spec.size.human()));
    }
    if spec.limits.iops == Some(0) || spec.limits.bps.is_some_and(|bps| bps.0 < 4096) {
        return bad(format!(
            "the limits of volume {name} would let nothing through: use iops of 1 and bps of 4Ki or more, or leave them out"
        ));
    }
    if spec.kind == VolumeKind::Directory && !spec.limits.is_none() {
        return bad(format!(
            "volume {name} is a directory, and limits on reading and writing are for block volumes: leave iops and bps out, or use --kind block"
        ));
    }
    Ok(())
}

/// Checks a change of a volume.
pub fn check_change(volume: &Volume, after: &VolumeSpec) -> Result<(), Refused> {
    let (name, before) = (&volume.metadata.name, &volume.spec);
    let fixed = |field: &str, have: String| {
        Err(Refused::new(
            "Fixed",
            format!(
                "cannot change the {field} of volume {name} from {have}: it is fixed at creation; create another volume and copy the data"
            ),
        ))
    };
    if after.kind != before.kind {
        return fixed("kind", before.kind.to_string());
    }
    if after.node != before.node {
        return fixed("node", before.node.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string));
    }
    if after.size < before.size {
        return Err(Refused::new(
            "VolumeShrink",
            format!(
                "cannot make volume {name} smaller ({} to {}): data could be cut off; create another volume and copy the data",
                before.size, after.size
            ),
        ));
    }
    check_spec(name, after)
}

/// Checks that an instance may have this volume. `users` are all other instances that have it.
pub fn check_use(instance: &Name, kind: InstanceKind, volume: &Volume, users: &[VolumeUser]) -> Result<(), Refused> {
    let name = &volume.metadata.name;
    if volume.metadata.deleting.is_some() {
        return Err(Refused::new(
            "Deleting",
            format!("cannot give volume {name} to instance {instance}: it is being deleted"),
        ));
    }
    match (kind, volume.spec.kind) {
        (InstanceKind::Vm, VolumeKind::Directory) => Err(Refused::new(
            "WrongVolumeKind",
            format!(
                "cannot give volume {name} to instance {instance}: a VM needs a block volume, and {name} is a directory; create one with yun volume create NAME --kind block"
            ),
        )),
        (InstanceKind::Container, VolumeKind::Block) => Err(Refused::new(
            "WrongVolumeKind",
            format!(
                "cannot give volume {name} to instance {instance}: a container needs a directory volume, and {name} is a block volume; create one with yun volume create NAME"
            ),
        )),
        (InstanceKind::Vm, VolumeKind::Block) => match users.first() {
            Some(user) => Err(Refused::new(
                "VolumeInUse",
                format!(
                    "cannot give volume {name} to instance {instance}: it is attached to instance {}; detach it first (yun volume detach {name} {})",
                    user.instance, user.instance
                ),
            )),
            None => Ok(()),
        },
        (InstanceKind::Container, VolumeKind::Directory) => Ok(()),
    }
}

/// Refuses to delete a volume that somebody has.
pub fn check_delete(name: &Name, users: &[VolumeUser]) -> Result<(), Refused> {
    if users.is_empty() {
        return Ok(());
    }
    let who: Vec<&str> = users.iter().take(10).map(|user| user.instance.as_str()).collect();
    Err(Refused::new(
        "VolumeInUse",
        format!(
            "volume {name} cannot be deleted: it is attached to {}{}; detach it first (yun volume detach {name} {})",
            who.join(", "),
            if users.len() > who.len() { " and more" } else { "" },
            who[0]
        ),
    ))
}

/// Who of these instances has the volume. An instance that was told to go has it until it is gone.
pub fn users<'a>(project: &Name, volume: &Name, instances: impl IntoIterator<Item = &'a Instance>) -> Vec<VolumeUser> {
    let mut users: Vec<VolumeUser> = instances
        .into_iter()
        .filter(|instance| instance.metadata.project.as_ref() == Some(project))
        .filter_map(|instance| {
            let mount = instance.spec.volumes.iter().find(|mount| mount.volume.as_ref() == Some(volume))?;
            Some(VolumeUser {
                instance: instance.metadata.name.clone(),
                id: instance.metadata.id,
                target: mount.target.clone(),
                read_only: mount.read_only,
            })
        })
        .collect();
    users.sort_by(|a, b| a.instance.cmp(&b.instance));
    users
}

/// A volume as its node should have it. `None` as long as it has no node.
pub fn desired(volume: &Volume) -> Option<DesiredVolume> {
    volume.status.node?;
    Some(DesiredVolume {
        id: VolumeId(volume.metadata.id),
        name: volume.metadata.name.clone(),
        project: volume.metadata.project.clone()?,
        generation: volume.metadata.generation,
        kind: volume.spec.kind,
        size: volume.spec.size,
        limits: volume.spec.limits,
        deleting: volume.metadata.deleting.is_some(),
    })
}

/// The named volumes of an instance as its node should have them.
pub fn mounts(spec: &InstanceSpec, volume: &dyn Fn(&Name) -> Option<DesiredVolume>) -> Vec<DesiredMount> {
    let mount = |mount: &VolumeMount| {
        Some(DesiredMount {
            volume: volume(mount.volume.as_ref()?)?,
            target: mount.target.clone(),
            read_only: mount.read_only,
            no_copy: mount.no_copy,
        })
    };
    spec.volumes.iter().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn volume(kind: VolumeKind) -> Volume {
        let spec = VolumeSpec { kind, ..VolumeSpec::default() };
        Volume { metadata: samples::metadata("data"), spec, status: Default::default() }
    }

    fn mounts(texts: &[&str]) -> Vec<VolumeMount> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_kind_of_instance_has_its_own_form() {
        let refusal = |texts: &[&str], kind| check(&mounts(texts), kind).unwrap_err().message;
        assert!(check(&mounts(&["data:/d", "/cache"]), InstanceKind::Container).is_ok());
        assert!(check(&mounts(&["data", "log:ro"]), InstanceKind::Vm).is_ok());
        assert!(refusal(&["data"], InstanceKind::Container).contains("write it as data:/path"));
        assert!(refusal(&["data:/d"], InstanceKind::Vm).contains("/dev/disk/by-id/virtio-data"));
        assert!(refusal(&["/d"], InstanceKind::Vm).contains("name a block volume"));
        assert!(refusal(&["data", "data"], InstanceKind::Vm).contains("named twice"));
        let many: Vec<VolumeMount> = (0..9).map(|n| format!("v{n}").parse().unwrap()).collect();
        assert!(check(&many, InstanceKind::Vm).unwrap_err().message.contains("at most 8"));
    }

    #[test]
    fn volumes_only_grow() {
        let data = volume(VolumeKind::Block);
        let refusal = |change: &dyn Fn(&mut VolumeSpec)| {
            let mut after = data.spec.clone();
            change(&mut after);
            check_change(&data, &after).unwrap_err()
        };
        let shrunk = refusal(&|s| s.size = Bytes::mib(512));
        assert!(shrunk.code == "VolumeShrink" && shrunk.message.contains("1Gi to 512Mi"), "{shrunk}");
        assert!(refusal(&|s| s.kind = VolumeKind::Directory).message.contains("kind of volume data from block"));
        assert!(refusal(&|s| s.node = Some(samples::name("b"))).message.contains("from any"));
        assert!(refusal(&|s| s.limits.iops = Some(0)).message.contains("let nothing through"));
        assert!(check_change(&data, &VolumeSpec { size: Bytes::gib(2), ..data.spec.clone() }).is_ok());
    }

    #[test]
    fn limits_are_for_block_volumes_and_sizes_have_a_least() {
        let mut spec = VolumeSpec::default();
        spec.limits.iops = Some(100);
        assert!(check_spec(&samples::name("d"), &spec).unwrap_err().message.contains("--kind block"));
        let tiny = VolumeSpec { size: Bytes(5), ..VolumeSpec::default() };
        assert!(check_spec(&samples::name("d"), &tiny).unwrap_err().message.contains("1Mi or more"));
    }

    #[test]
    fn a_block_volume_has_one_user_and_a_directory_many() {
        let mut web = samples::instance("web");
        web.spec.volumes = mounts(&["data:/d:ro"]);
        let project = samples::name("default");
        let held = users(&project, &samples::name("data"), [&web]);
        assert_eq!((held.len(), held[0].read_only, held[0].target.as_deref()), (1, true, Some("/d")));
        assert!(users(&samples::name("other"), &samples::name("data"), [&web]).is_empty());
        let db = samples::name("db");
        let try_it = |kind, of| check_use(&db, kind, &volume(of), &held);
        assert!(try_it(InstanceKind::Container, VolumeKind::Directory).is_ok());
        let taken = try_it(InstanceKind::Vm, VolumeKind::Block).unwrap_err();
        assert!(
            taken.message.contains("attached to instance web") && taken.message.contains("yun volume detach data web"),
            "{taken}"
        );
        assert!(try_it(InstanceKind::Vm, VolumeKind::Directory).unwrap_err().message.contains("--kind block"));
        assert!(try_it(InstanceKind::Container, VolumeKind::Block).unwrap_err().message.contains("directory volume"));
        let mut leaving = volume(VolumeKind::Block);
        leaving.metadata.deleting = Some(samples::at(1));
        assert_eq!(check_use(&db, InstanceKind::Vm, &leaving, &[]).unwrap_err().code, "Deleting");
        assert!(check_delete(&samples::name("data"), &held).unwrap_err().message.contains("attached to web"));
    }
}
