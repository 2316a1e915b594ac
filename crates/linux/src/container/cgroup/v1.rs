//! Version 1: one hierarchy a controller.

use super::{Cgroup, Layout, Limits, Usage, keyed, kill_each, number, pids_in, remove_groups};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use yun_types::Bytes;

/// A group in the hierarchies of version 1.
#[derive(Debug)]
pub struct V1 {
    cpu: PathBuf,
    cpuacct: PathBuf,
    memory: PathBuf,
    pids: PathBuf,
    freezer: PathBuf,
    blkio: PathBuf,
    all: Vec<PathBuf>,
}

impl V1 {
    /// The group at this path.
    pub fn new(layout: &Layout, path: &str) -> Self {
        let at = |controller: &str| {
            let root =
                layout.v1.get(controller).cloned().unwrap_or_else(|| Path::new("/sys/fs/cgroup").join(controller));
            root.join(path.trim_start_matches('/'))
        };
        Self {
            cpu: at("cpu"),
            cpuacct: at("cpuacct"),
            memory: at("memory"),
            pids: at("pids"),
            freezer: at("freezer"),
            blkio: at("blkio"),
            all: layout.everywhere(path),
        }
    }
}

impl Cgroup for V1 {
    fn exists(&self) -> bool {
        self.all.iter().any(|path| path.exists())
    }

    fn oom_file(&self) -> PathBuf {
        self.memory.join("memory.oom_control")
    }

    fn usage(&self) -> io::Result<Usage> {
        let used = number(&self.memory.join("memory.usage_in_bytes"))?;
        let cache = keyed(&self.memory.join("memory.stat"), "total_inactive_file")?;
        Ok(Usage {
            cpu: Duration::from_nanos(number(&self.cpuacct.join("cpuacct.usage"))?),
            memory: Bytes(used.saturating_sub(cache)),
            pids: number(&self.pids.join("pids.current"))?,
        })
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        fs::write(self.cpu.join("cpu.shares"), limits.cpu_shares().to_string())?;
        fs::write(self.cpu.join("cpu.cfs_quota_us"), limits.cpu_quota().to_string())?;
        fs::write(self.pids.join("pids.max"), limits.pids.to_string())?;
        let bytes = limits.memory.0.to_string();
        // Memory may never be more than memory with swap: which of the two goes first depends on the direction.
        let mut order = [self.memory.join("memory.memsw.limit_in_bytes"), self.memory.join("memory.limit_in_bytes")];
        if number(&order[1])? > limits.memory.0 {
            order.reverse();
        }
        for file in order {
            match fs::write(&file, &bytes) {
                // A kernel without swap accounting.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        let Some((disk, rates)) = limits.io else { return Ok(()) };
        let rates = [
            ("read_bps", rates.read.map(|rate| rate.0)),
            ("write_bps", rates.write.map(|rate| rate.0)),
            ("read_iops", rates.read_iops.map(u64::from)),
            ("write_iops", rates.write_iops.map(u64::from)),
        ];
        // Nothing per second is how the kernel writes that there is no limit.
        rates.into_iter().try_for_each(|(name, rate)| {
            let file = self.blkio.join(format!("blkio.throttle.{name}_device"));
            match fs::write(file, format!("{disk} {}", rate.unwrap_or(0))) {
                // A kernel without it refuses only who asks for it.
                Err(e) if rate.is_none() && e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        // Not every hierarchy need know every process while crun is at work.
        let mut all = Vec::new();
        for path in &self.all {
            all.append(&mut pids_in(path)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn kill(&self) -> io::Result<()> {
        kill_each(&self.processes()?)?;
        // What is frozen dies when it thaws.
        if self.freezer.exists() { self.freeze(false) } else { Ok(()) }
    }

    fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.freezer.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.freezer.join("freezer.state"))?.trim() == "FROZEN")
    }

    fn remove(&self) -> io::Result<()> {
        self.all.iter().try_for_each(|path| remove_groups(path))
    }
}
