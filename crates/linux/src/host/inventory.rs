//! What a node has, what it lends, and what is used of it now. Reads `/proc`, `/sys` and the file system; changes nothing.
//!
//! What a node lends (*capacity*) is what it has (*total*) less what the host keeps for itself: 5 % of the memory, at least 256 MiB; 5 % of the disk, at most 10 GiB;
//! no CPU, because the kernel shares that out by itself. Cores may be lent more than once.

use nix::sys::{
    statfs::{CGROUP2_SUPER_MAGIC, statfs},
    statvfs::statvfs,
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use yun_drivers::{DriverError, Result};
use yun_types::{Arch, Bytes, CgroupVersion, Cpu, DriverFacts, NodeFacts, NodeUsage, Size};

use super::Host;

/// The least memory that the host keeps.
const LEAST_RESERVE: Bytes = Bytes::mib(256);
/// The most disk that the host keeps for itself.
const MOST_DISK_RESERVE: Bytes = Bytes::gib(10);
/// How long the disk usage of yun itself may be counted; what is not counted by then is not lent.
const COUNT_LIMIT: Duration = Duration::from_secs(3);

/// Finds out what this node is and has. Takes what only the drivers know: the ranges of addresses in use (from the network driver) and what
/// each can do.
pub async fn inventory(
    host: &Host,
    cpu_overcommit: u32,
    taken_ranges: Vec<ipnet::Ipv4Net>,
    drivers: Vec<DriverFacts>,
) -> Result<NodeFacts> {
    let state = host.state().to_owned();
    let read = move || {
        let mut facts = facts(&state, taken_ranges, drivers)?;
        facts.capacity.cpu = lent_cpu(facts.total.cpu, cpu_overcommit);
        Ok(facts)
    };
    let facts = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    facts.map_err(|e| DriverError::io("find out what this node has", e))
}

fn facts(state: &Path, taken_ranges: Vec<ipnet::Ipv4Net>, drivers: Vec<DriverFacts>) -> io::Result<NodeFacts> {
    let system = nix::sys::utsname::uname()?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(Cpu::MAX_CORES));
    let cpu = Cpu::cores(cores.min(Cpu::MAX_CORES));
    let memory = Memory::read()?.total;
    let disk = Disk::read(state)?;
    // What yun has on the disk already is lent, too.
    let ours = taken_below(state, Instant::now() + COUNT_LIMIT);
    let lent = Size { cpu, memory: lent_memory(memory), disk: lent_disk(disk, ours) };
    Ok(NodeFacts {
        hostname: text(system.nodename()),
        os: os_name(),
        kernel: text(system.release()),
        arch: Arch::host(),
        cpu_model: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        capacity: lent,
        total: Size { cpu, memory, disk: disk.total },
        cgroup: cgroup_version(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        taken_ranges,
        drivers,
    })
}

fn lent_cpu(total: Cpu, overcommit: u32) -> Cpu {
    Cpu(total.0.saturating_mul(overcommit).min(Cpu::cores(Cpu::MAX_CORES).0))
}

fn lent_memory(total: Bytes) -> Bytes {
    whole_mib(total.saturating_sub(LEAST_RESERVE.max(Bytes(total.0 / 20))))
}

fn lent_disk(disk: Disk, ours: Bytes) -> Bytes {
    whole_mib((disk.free + ours).saturating_sub(MOST_DISK_RESERVE.min(Bytes(disk.total.0 / 20))))
}

/// Sizes that people can read.
fn whole_mib(size: Bytes) -> Bytes {
    Bytes(size.0 >> 20 << 20)
}

/// All memory of the host.
pub(crate) fn memory_total() -> io::Result<Bytes> {
    Memory::read().map(|memory| memory.total)
}

/// `/proc/meminfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: Bytes,
    available: Bytes,
}

impl Memory {
    fn read() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal and MemAvailable"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            let kib: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
            Some(Bytes(kib << 10))
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }
}

/// The file system that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: Bytes,
    pub(super) used: Bytes,
    /// What ordinary writers may still take.
    pub(super) free: Bytes,
}

impl Disk {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let vfs = statvfs(path)?;
        let blocks = |n: u64| Bytes(n.saturating_mul(vfs.fragment_size()));
        Ok(Self {
            total: blocks(vfs.blocks()),
            used: blocks(vfs.blocks().saturating_sub(vfs.blocks_free())),
            free: blocks(vfs.blocks_available()),
        })
    }
}

/// Disk blocks of everything below a directory on its own file system, counted until `end`. Files with several names count each time.
fn taken_below(root: &Path, end: Instant) -> Bytes {
    let device = fs::symlink_metadata(root).map(|m| m.dev()).ok();
    let mut sum = 0u64;
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if Some(meta.dev()) != device {
                continue;
            }
            sum = sum.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Bytes(sum)
}

fn os_name() -> String {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let name = text
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map(|v| v.trim().trim_matches(['"', '\'']).to_owned());
    name.filter(|n| !n.is_empty()).unwrap_or_else(|| "Linux".to_owned())
}

/// ARM and RISC-V have other fields than x86, some have none.
fn cpu_model(text: &str) -> String {
    let field = |name: &str| {
        text.lines().find_map(|l| {
            l.split_once(':').filter(|(n, v)| n.trim() == name && !v.trim().is_empty()).map(|(_, v)| v.trim())
        })
    };
    let name = ["model name", "Model", "uarch", "Hardware"].into_iter().find_map(field);
    name.map_or_else(|| format!("unknown {} processor", Arch::host()), str::to_owned)
}

/// Version 2 is what counts only where it has the controllers: beside version 1 it may be mounted empty.
fn cgroup_version() -> CgroupVersion {
    let unified = statfs("/sys/fs/cgroup").is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if unified { CgroupVersion::V2 } else { CgroupVersion::V1 }
}

/// Busy and total time of all processors since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
    cores: u32,
}

impl Ticks {
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<u64> =
            text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
        let all: u64 = fields.iter().take(8).sum();
        let idle = fields.get(3)? + fields.get(4)?;
        let cores = text
            .lines()
            .filter(|l| l.strip_prefix("cpu").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())))
            .count();
        Some(Self { busy: all - idle, all, cores: u32::try_from(cores).ok()? })
    }

    /// Thousandths of a core that were busy since `before`.
    fn since(self, before: Self) -> Cpu {
        let (busy, all) = (self.busy.saturating_sub(before.busy), self.all.saturating_sub(before.all));
        if all == 0 {
            return Cpu(0);
        }
        let milli = u128::from(busy) * u128::from(self.cores) * 1000 / u128::from(all);
        Cpu(u32::try_from(milli).unwrap_or(u32::MAX).min(self.cores.saturating_mul(1000)))
    }
}

/// Measures what is used. CPU is what was busy between two measurements; the first one covers the time since boot.
#[derive(Debug, Default)]
pub struct UsageMeter {
    before: Mutex<Option<Ticks>>,
}

impl UsageMeter {
    /// What is used now. Takes some ten microseconds.
    pub fn measure(&self, host: &Host) -> Result<NodeUsage> {
        self.read(host.state()).map_err(|e| DriverError::io("measure what is used on this node", e))
    }

    fn read(&self, state: &Path) -> io::Result<NodeUsage> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has no line of all processors");
        let now = Ticks::parse(&fs::read_to_string("/proc/stat")?).ok_or_else(bad)?;
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let (memory, disk) = (Memory::read()?, Disk::read(state)?);
        Ok(NodeUsage {
            cpu: now.since(before.unwrap_or(Ticks { busy: 0, all: 0, cores: now.cores })),
            memory: memory.total.saturating_sub(memory.available),
            disk: disk.used,
            disk_free: disk.free,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_a_part_is_kept() {
        let memory =
            Memory::parse("MemTotal:       24615248 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n").unwrap();
        assert_eq!(memory, Memory { total: Bytes(24_615_248 << 10), available: Bytes(20_000_000 << 10) });
        assert_eq!(lent_memory(Bytes::gib(20)), Bytes::gib(19));
        assert_eq!(lent_memory(Bytes::gib(1)), Bytes::mib(768));
        assert_eq!(lent_memory(Bytes::mib(100)), Bytes(0));
        assert_eq!(Memory::parse("MemTotal: x kB\n"), None);
    }

    #[test]
    fn disk_that_yun_has_taken_is_still_lent() {
        let disk = |free| Disk { total: Bytes::gib(100), used: Bytes(0), free: Bytes::gib(free) };
        assert_eq!(lent_disk(disk(60), Bytes(0)), Bytes::gib(55));
        assert_eq!(lent_disk(disk(40), Bytes::gib(20)), Bytes::gib(55));
        assert_eq!(lent_disk(disk(1), Bytes(0)), Bytes(0));
    }

    #[test]
    fn busy_processors_are_counted_between_two_looks() {
        let ticks = |text: &str| Ticks::parse(text).unwrap();
        let a = ticks("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n");
        let b = ticks("cpu  150 0 100 850 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n");
        assert_eq!(a, Ticks { busy: 200, all: 1000, cores: 2 });
        assert_eq!(b.since(a), Cpu::cores(1));
        assert_eq!(a.since(a), Cpu(0));
        assert!(Ticks::parse("nonsense").is_none());
    }

    #[test]
    fn processors_have_a_name_everywhere() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(cpu_model("processor\t: 0\nuarch\t: sifive,u74\n"), "sifive,u74");
        assert!(cpu_model("").contains("processor"));
    }

    #[test]
    fn only_the_own_tree_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), vec![1; 100_000]).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/b"), vec![1; 100_000]).unwrap();
        let far = Instant::now() + Duration::from_secs(60);
        assert!((200_000..1_000_000).contains(&taken_below(folder.path(), far).0));
    }

    #[tokio::test]
    async fn this_machine_is_described() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::open(folder.path()).unwrap();
        let facts = inventory(&host, 3, vec![], vec![]).await.unwrap();
        assert!(facts.capacity.memory < facts.total.memory && facts.capacity.disk < facts.total.disk);
        assert_eq!(facts.capacity.cpu.0, 3 * facts.total.cpu.0);
        assert_eq!(lent_cpu(Cpu::cores(64), 1000), Cpu::cores(Cpu::MAX_CORES));
        assert!(facts.capacity.cpu >= Cpu::cores(1) && !facts.boot_id.is_empty() && !facts.kernel.is_empty());
        let meter = UsageMeter::default();
        let usage = meter.measure(&host).unwrap();
        assert!(usage.memory > Bytes(0) && usage.memory < facts.total.memory);
        assert!(meter.measure(&host).unwrap().cpu <= facts.total.cpu);
    }
}
