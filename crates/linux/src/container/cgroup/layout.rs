//! Which cgroup hierarchies this host has mounted, and where.

use super::{Cgroup, V1, V2};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The cgroup hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Version 1: the mount point of each controller. `name=systemd` is one without a controller.
    pub v1: BTreeMap<String, PathBuf>,
    /// Version 2, if it is mounted.
    pub v2: Option<PathBuf>,
}

impl Layout {
    /// Reads this host's mounts.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// Reads `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
    pub fn parse(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(point) = before.split(' ').nth(4).map(|text| PathBuf::from(text.replace("\\040", " "))) else {
                continue;
            };
            let mut after = after.split(' ');
            match (after.next(), after.nth(1)) {
                (Some("cgroup2"), _) if layout.v2.is_none() => layout.v2 = Some(point),
                (Some("cgroup"), Some(options)) => {
                    for controller in options
                        .split(',')
                        .filter(|word| !matches!(*word, "rw" | "ro" | "noprefix" | "clone_children" | "xattr"))
                    {
                        if !controller.starts_with("release_agent=") {
                            layout.v1.entry(controller.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// Where version 2 is mounted, if it is.
    pub fn v2_root(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// Where a controller of version 1 is mounted, or would be.
    pub fn v1_root(&self, controller: &str) -> PathBuf {
        self.v1.get(controller).cloned().unwrap_or_else(|| Path::new("/sys/fs/cgroup").join(controller))
    }

    /// True if the limits of containers are those of version 2.
    pub fn is_v2(&self) -> bool {
        !self.v1.contains_key("memory") && self.v2.is_some()
    }

    /// True if a group's swap can be limited: version 1 can be built or booted without it.
    pub fn counts_swap(&self) -> bool {
        self.is_v2() || self.v1.get("memory").is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists())
    }

    /// The group at this path, in the version that this host uses.
    pub fn group(&self, path: &str) -> Box<dyn Cgroup> {
        match &self.v2 {
            Some(root) if self.is_v2() => Box::new(V2::new(root, path)),
            _ => Box::new(V1::new(self, path)),
        }
    }

    /// Controllers that version 2 still holds although version 1 is in use: the mix that crun refuses.
    pub fn mixed(&self) -> io::Result<Vec<String>> {
        match &self.v2 {
            Some(root) if !self.is_v2() => {
                let held = fs::read_to_string(root.join("cgroup.controllers"))?;
                Ok(held.split_ascii_whitespace().map(str::to_owned).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A group path in every mounted hierarchy, each once.
    pub fn everywhere(&self, path: &str) -> Vec<PathBuf> {
        let mut roots: Vec<&Path> = self.v1.values().chain(&self.v2).map(PathBuf::as_path).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into_iter().map(|root| root.join(path.trim_start_matches('/'))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn joined_and_named_hierarchies_are_found_once_each() {
        let layout = Layout::parse(MIXED);
        assert!(!layout.is_v2());
        assert_eq!(
            layout.v1.keys().map(String::as_str).collect::<Vec<_>>(),
            ["cpu", "cpuacct", "memory", "name=systemd"]
        );
        let paths = layout.everywhere("/yun-1/x");
        assert_eq!(paths.len(), 4, "{paths:?}");
        assert!(paths.contains(&PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/yun-1/x")));
    }

    #[test]
    fn a_host_with_version_2_alone_uses_it() {
        let layout = Layout::parse("41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(layout.is_v2() && layout.v1.is_empty());
        assert_eq!(layout.everywhere("/a"), [PathBuf::from("/sys/fs/cgroup/a")]);
        assert_eq!(layout.mixed().unwrap(), Vec::<String>::new());
    }
}
