//! A VM's share of the processor, in a cgroup of its own: a weight always, a ceiling where it was given a fraction of a core. Whole cores
//! need no ceiling: the guest has no more virtual processors than that.
//!
//! Works with one hierarchy a controller (cgroups v1) and with the unified one (v2); where neither can be written, VMs run without.

use std::{
    io,
    path::{Path, PathBuf},
};
use yun_types::Cpu;

/// Microseconds over which a ceiling is reckoned.
const PERIOD: u64 = 100_000;

/// Where processor shares are kept on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    V1(PathBuf),
    V2(PathBuf),
}

/// Finds the hierarchy that has the cpu controller, from the lines of `/proc/self/mountinfo`.
fn find(mounts: &str) -> Option<Hierarchy> {
    let parsed = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        Some((kind, before.split(' ').nth(4)?, options))
    });
    let mut unified = None;
    for (kind, point, options) in parsed {
        match kind {
            "cgroup" if options.split(',').any(|o| o == "cpu") => return Some(Hierarchy::V1(point.into())),
            "cgroup2" => unified = Some(Hierarchy::V2(point.into())),
            _ => {}
        }
    }
    unified
}

fn here() -> Option<Hierarchy> {
    find(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Puts a process, and all threads that it has and will have, into the group `parent/name` with this share.
pub(super) fn join(parent: &str, name: &str, cpu: Cpu, pid: i32) -> io::Result<()> {
    here().map_or(Ok(()), |hierarchy| join_in(&hierarchy, parent, name, cpu, pid))
}

fn join_in(hierarchy: &Hierarchy, parent: &str, name: &str, cpu: Cpu, pid: i32) -> io::Result<()> {
    join_as(hierarchy, parent, name, cpu, false, pid)
}

fn join_as(hierarchy: &Hierarchy, parent: &str, name: &str, cpu: Cpu, always: bool, pid: i32) -> io::Result<()> {
    let (root, settings) = match hierarchy {
        Hierarchy::V1(root) => (root, v1_settings(cpu, always).to_vec()),
        Hierarchy::V2(root) => (root, v2_settings(cpu, always).to_vec()),
    };
    let above = root.join(parent);
    let group = above.join(name);
    std::fs::create_dir_all(&group)?;
    if matches!(hierarchy, Hierarchy::V2(_)) {
        // A group has the files of a controller only if those above it hand it down.
        for level in [root, &above] {
            std::fs::write(level.join("cgroup.subtree_control"), "+cpu")?;
        }
    }
    for (file, value) in settings {
        std::fs::write(group.join(file), value)?;
    }
    std::fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Changes the share of a process that has so many processors, and so a ceiling if that is more than its share.
pub(super) fn limit(parent: &str, name: &str, cpu: Cpu, processors: u32, pid: i32) -> io::Result<()> {
    here().map_or(Ok(()), |hierarchy| join_as(&hierarchy, parent, name, cpu, cpu.ceil_cores() < processors, pid))
}

fn ceiling(cpu: Cpu, always: bool) -> Option<u64> {
    (always || !cpu.0.is_multiple_of(1000)).then(|| u64::from(cpu.0) * PERIOD / 1000)
}

/// 1024 shares a core, as the kernel counts by default.
fn v1_settings(cpu: Cpu, always: bool) -> [(&'static str, String); 3] {
    let shares = (u64::from(cpu.0) * 1024 / 1000).clamp(2, 262_144);
    let ceiling = ceiling(cpu, always).map_or("-1".to_owned(), |quota| quota.to_string());
    [("cpu.shares", shares.to_string()), ("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", ceiling)]
}

/// A weight of 100 a core, which is the kernel's default for one group.
fn v2_settings(cpu: Cpu, always: bool) -> [(&'static str, String); 2] {
    let weight = (u64::from(cpu.0) / 10).clamp(1, 10_000);
    let ceiling = ceiling(cpu, always).map_or("max".to_owned(), |quota| quota.to_string());
    [("cpu.weight", weight.to_string()), ("cpu.max", format!("{ceiling} {PERIOD}"))]
}

/// Removes the group. Ok if it is not there; a group whose last process has just died is busy for a moment, so callers may try again.
pub(super) fn leave(parent: &str, name: &str) -> io::Result<()> {
    let Some(Hierarchy::V1(root) | Hierarchy::V2(root)) = here() else { return Ok(()) };
    leave_in(&root, parent, name)
}

fn leave_in(root: &Path, parent: &str, name: &str) -> io::Result<()> {
    match std::fs::remove_dir(root.join(parent).join(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_controller_wins() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let v1 = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let other = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset";
        assert_eq!(find(v2), Some(Hierarchy::V2("/sys/fs/cgroup".into())));
        assert_eq!(find(&format!("{v2}\n{other}\n{v1}")), Some(Hierarchy::V1("/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(find(other), None);
    }

    #[test]
    fn fractions_have_a_ceiling_and_whole_cores_a_weight_only() {
        let root = tempfile::tempdir().unwrap();
        let read = |file: &str| std::fs::read_to_string(root.path().join("yun-1/i").join(file)).unwrap();
        join_in(&Hierarchy::V1(root.path().into()), "yun-1", "i", Cpu(500), 42).unwrap();
        assert_eq!(
            (read("cpu.shares"), read("cpu.cfs_quota_us"), read("cgroup.procs")),
            ("512".into(), "50000".into(), "42".into())
        );
        join_in(&Hierarchy::V1(root.path().into()), "yun-1", "i", Cpu(2000), 42).unwrap();
        assert_eq!((read("cpu.shares"), read("cpu.cfs_quota_us")), ("2048".into(), "-1".into()));
        join_in(&Hierarchy::V2(root.path().into()), "yun-1", "i", Cpu(1500), 42).unwrap();
        assert_eq!((read("cpu.weight"), read("cpu.max")), ("150".into(), "150000 100000".into()));
        join_in(&Hierarchy::V2(root.path().into()), "yun-1", "i", Cpu(1000), 42).unwrap();
        assert_eq!(read("cpu.max"), "max 100000");
        // Fewer than the machine has.
        join_as(&Hierarchy::V1(root.path().into()), "yun-1", "i", Cpu(1000), true, 42).unwrap();
        assert_eq!(read("cpu.cfs_quota_us"), "100000");
        join_as(&Hierarchy::V2(root.path().into()), "yun-1", "i", Cpu(1000), true, 42).unwrap();
        assert_eq!(read("cpu.max"), "100000 100000");
        assert!(leave_in(root.path(), "yun-1", "nobody").is_ok());
    }
}
