//! Taking away what one cloud has on a host at run time, when nothing of it runs any more: mounts, cgroups, the run directory.
//!
//! Everything is found by the cloud's own names (its directories, its cgroup), so nothing of anybody else is touched. A cgroup that still
//! holds a process stays, and is named.

use super::Host;
use nix::mount::{MntFlags, umount2};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Removes what is left. Answers what could not be removed, in words.
pub fn sweep(host: &Host) -> Vec<String> {
    let mut left = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in mounts_below(&mounts, &[host.run(), &host.state().join("instances")]) {
        if let Err(error) = umount2(&path, MntFlags::MNT_DETACH) {
            left.push(format!("the mount {}: {error}", path.display()));
        }
    }
    for directory in cgroup_directories(Path::new(CGROUPS), &host.cgroup()) {
        if let Err(error) = remove_tree(&directory) {
            left.push(format!("the cgroup {}: {error}", directory.display()));
        }
    }
    if left.is_empty()
        && let Err(error) = empty(host.run())
    {
        left.push(format!("the directory {}: {error}", host.run().display()));
    }
    left
}

/// Mount points below these directories, the deepest first.
fn mounts_below(mounts: &str, directories: &[&Path]) -> Vec<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(unescaped);
    let mut ours: Vec<PathBuf> =
        points.filter(|point| directories.iter().any(|d| point.starts_with(d) && point != d)).collect();
    ours.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    ours
}

/// Paths in `/proc/mounts` write spaces, tabs, newlines and backslashes as octal numbers (proc(5)).
fn unescaped(text: &str) -> PathBuf {
    let replaced = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(replaced)
}

/// The cloud's directory in each hierarchy: one a controller in version 1, the only one in version 2.
fn cgroup_directories(base: &Path, name: &str) -> Vec<PathBuf> {
    let below = fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path());
    below.filter(|p| !p.is_symlink()).map(|p| p.join(name)).chain([base.join(name)]).filter(|p| p.is_dir()).collect()
}

/// Removes a cgroup and those below it: the kernel's files in them go with them.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mounts_are_found_and_the_deepest_comes_first() {
        let mounts = "proc /proc proc rw 0 0\novl /srv/a\\040b/run/yun/i/1 overlay rw 0 0\nx /srv/a\\040b/run/yun/i/1/proc proc rw 0 0\ny /srv/a\\040b/run/yunder z rw 0 0\n";
        let found = mounts_below(mounts, &[Path::new("/srv/a b/run/yun")]);
        assert_eq!(found, ["/srv/a b/run/yun/i/1/proc", "/srv/a b/run/yun/i/1"].map(PathBuf::from));
    }

    #[test]
    fn the_cloud_s_directories_are_found_in_both_versions() {
        let base = tempfile::tempdir().unwrap();
        for directory in ["cpu/yun-1/x", "memory/yun-1", "memory/yun-2", "yun-1"] {
            fs::create_dir_all(base.path().join(directory)).unwrap();
        }
        let mut found = cgroup_directories(base.path(), "yun-1");
        found.sort();
        assert_eq!(found, ["cpu/yun-1", "memory/yun-1", "yun-1"].map(|d| base.path().join(d)));
        found.iter().for_each(|d| remove_tree(d).unwrap());
        assert!(base.path().join("memory/yun-2").exists() && !base.path().join("cpu/yun-1").exists());
    }
}
