//! Version 2: one hierarchy for all controllers.

use super::{Cgroup, Limits, Usage, keyed, kill_each, number, pids_in, remove_groups};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use yun_types::Bytes;

/// A group in the hierarchy of version 2.
#[derive(Debug)]
pub struct V2 {
    path: PathBuf,
}

impl V2 {
    /// The group at this path under the mount point.
    pub fn new(root: &Path, path: &str) -> Self {
        Self { path: root.join(path.trim_start_matches('/')) }
    }

    /// The weight that corresponds to version 1's shares (2 to 262144 become 1 to 10000), as crun converts them.
    fn weight(shares: u64) -> u64 {
        1 + shares.saturating_sub(2) * 9999 / 262_142
    }
}

impl Cgroup for V2 {
    fn exists(&self) -> bool {
        self.path.exists()
    }

    fn oom_file(&self) -> PathBuf {
        self.path.join("memory.events")
    }

    fn usage(&self) -> io::Result<Usage> {
        let used = number(&self.path.join("memory.current"))?;
        let cache = keyed(&self.path.join("memory.stat"), "inactive_file")?;
        Ok(Usage {
            cpu: Duration::from_micros(keyed(&self.path.join("cpu.stat"), "usage_usec")?),
            memory: Bytes(used.saturating_sub(cache)),
            pids: number(&self.path.join("pids.current"))?,
        })
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        fs::write(self.path.join("cpu.weight"), Self::weight(limits.cpu_shares()).to_string())?;
        fs::write(self.path.join("cpu.max"), format!("{} {}", limits.cpu_quota(), Limits::CPU_PERIOD))?;
        fs::write(self.path.join("memory.max"), limits.memory.0.to_string())?;
        fs::write(self.path.join("pids.max"), limits.pids.to_string())?;
        let Some((disk, rates)) = limits.io else { return Ok(()) };
        let shown = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
        let (read, write) = (shown(rates.read.map(|rate| rate.0)), shown(rates.write.map(|rate| rate.0)));
        let (reads, writes) = (shown(rates.read_iops.map(u64::from)), shown(rates.write_iops.map(u64::from)));
        let line = format!("{disk} rbps={read} wbps={write} riops={reads} wiops={writes}");
        match fs::write(self.path.join("io.max"), line) {
            // A host that does not delegate the controller refuses only who asks for it.
            Err(e) if rates.is_default() && e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        pids_in(&self.path)
    }

    fn kill(&self) -> io::Result<()> {
        // Since Linux 5.14, for the whole subtree, and nothing that forks escapes.
        let file = self.path.join("cgroup.kill");
        if file.exists() {
            return fs::write(file, "1");
        }
        kill_each(&self.processes()?)
    }

    fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.path.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Ok(keyed(&self.path.join("cgroup.events"), "frozen")? == 1)
    }

    fn remove(&self) -> io::Result<()> {
        remove_groups(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Cpu;

    /// A directory with the files that the kernel would show.
    fn tree() -> (tempfile::TempDir, V2) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("yun-1/web");
        fs::create_dir_all(path.join("below")).unwrap();
        for (name, text) in [
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"),
            ("memory.current", "10485760\n"),
            ("memory.stat", "anon 4096\nfile 8\ninactive_anon 1\nactive_file 2\ninactive_file 1048576\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("pids.current", "3\n"),
            ("cgroup.procs", "11\n0\n12\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("below/cgroup.procs", "13\n"),
        ] {
            fs::write(path.join(name), text).unwrap();
        }
        let group = V2::new(root.path(), "/yun-1/web");
        (root, group)
    }

    #[test]
    fn reads_what_the_kernel_shows() {
        let (_root, group) = tree();
        let group: &dyn Cgroup = &group;
        assert!(group.exists());
        assert_eq!(group.oom_kills().unwrap(), 1, "not the count of oom, which also grows when nothing was killed");
        assert_eq!(group.usage().unwrap(), Usage { cpu: Duration::from_millis(1500), memory: Bytes(9 << 20), pids: 3 });
        let mut pids = group.processes().unwrap();
        pids.sort_unstable();
        assert_eq!(pids, [11, 12, 13]);
        assert!(!group.is_frozen().unwrap());
        fs::write(group.oom_file().with_file_name("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert!(group.is_frozen().unwrap());
    }

    #[test]
    fn writes_what_the_kernel_reads() {
        let (_root, group) = tree();
        let io = "read=1Mi,write-iops=7".parse().unwrap();
        let disk = super::super::Disk { major: 8, minor: 0 };
        group.limit(&Limits { cpu: Cpu(1500), memory: Bytes::mib(64), pids: 99, io: Some((disk, io)) }).unwrap();
        let written = fs::read_to_string(group.path.join("io.max")).unwrap();
        assert_eq!(written, "8:0 rbps=1048576 wbps=max riops=max wiops=7");
        let text = |name: &str| fs::read_to_string(group.path.join(name)).unwrap();
        assert_eq!(
            (text("cpu.max"), text("memory.max"), text("pids.max")),
            ("150000 100000".into(), "67108864".into(), "99".into())
        );
        assert_eq!(text("cpu.weight"), "59");
        group.freeze(true).unwrap();
        assert_eq!(text("cgroup.freeze"), "1");
        fs::write(group.path.join("cgroup.kill"), "").unwrap();
        group.kill().unwrap();
        assert_eq!(text("cgroup.kill"), "1");
    }

    #[test]
    fn weights_keep_the_ends_of_the_range() {
        assert_eq!((V2::weight(2), V2::weight(262_144)), (1, 10_000));
    }

    #[test]
    fn a_group_that_is_not_there_is_removed_already() {
        let root = tempfile::tempdir().unwrap();
        let group = V2::new(root.path(), "/yun-1/gone");
        group.remove().unwrap();
        assert_eq!(group.processes().unwrap(), Vec::<i32>::new());
        fs::create_dir_all(root.path().join("yun-1/gone/a/b")).unwrap();
        group.remove().unwrap();
        assert!(!group.exists());
    }
}
