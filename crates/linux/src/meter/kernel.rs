//! What the kernel counts for the whole machine: processors, memory, disks, network cards, pressure.

use super::{cards::Card, group::stalled, process::TICK};
use nix::sys::statvfs::statvfs;
use std::{collections::BTreeMap, fs, io, path::Path};
use yun_types::{Metric, Sample};

/// The counters of all network cards of the host.
#[derive(Debug, Default)]
pub(super) struct Cards(BTreeMap<String, Card>);

impl Cards {
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/net/dev")?))
    }

    pub(super) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, counters) = line.split_once(':')?;
            let fields: Vec<u64> = counters.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
            let [in_bytes, in_packets, _, _, _, _, _, _, out_bytes, out_packets, ..] = fields[..] else { return None };
            Some((name.trim().to_owned(), Card { in_bytes, in_packets, out_bytes, out_packets }))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Those whose names begin with the name of an instance's first card: all of its cards.
    pub(super) fn beginning<'a>(&'a self, first: &'a str) -> impl Iterator<Item = (&'a str, Card)> + 'a {
        let from = self.0.range::<str, _>((std::ops::Bound::Included(first), std::ops::Bound::Unbounded));
        from.take_while(move |(name, _)| name.starts_with(first)).map(|(name, card)| (name.as_str(), *card))
    }

    /// What went through the machine's own cards.
    fn of_node(&self, is_real: impl Fn(&str) -> bool, sample: &mut Sample) {
        let sum: Card = self.0.iter().filter(|(name, _)| is_real(name)).map(|(_, card)| *card).sum();
        sample.set(Metric::NetIn, sum.in_bytes);
        sample.set(Metric::PacketsIn, sum.in_packets);
        sample.set(Metric::NetOut, sum.out_bytes);
        sample.set(Metric::PacketsOut, sum.out_packets);
    }
}

/// What the machine uses. `state` is where yun keeps its data: the disk that counts is the one under it.
pub(super) fn node(state: &Path, cards: &Cards) -> io::Result<Sample> {
    let mut sample = Sample::default();
    sample.set(Metric::Cpu, busy(&fs::read_to_string("/proc/stat")?));
    sample.set(Metric::Memory, memory(&fs::read_to_string("/proc/meminfo")?));
    sample.set(Metric::Processes, processes(&fs::read_to_string("/proc/loadavg")?));
    let vfs = statvfs(state)?;
    let used = vfs.blocks().saturating_sub(vfs.blocks_free());
    sample.set(Metric::DiskUsed, used.saturating_mul(vfs.fragment_size()));
    let is_disk = |name: &str| Path::new("/sys/block").join(name).join("device").exists();
    disks(&fs::read_to_string("/proc/diskstats")?, is_disk, &mut sample);
    // Cards with a device behind them; in a machine that has none of these, what is no bridge, cable or tap.
    let has_device = |name: &str| Path::new("/sys/class/net").join(name).join("device").exists();
    if cards.0.keys().any(|name| has_device(name)) {
        cards.of_node(has_device, &mut sample);
    } else {
        cards.of_node(|name| name.starts_with('e') || name.starts_with("wl"), &mut sample);
    }
    for (file, metric) in [("cpu", Metric::CpuPressure), ("memory", Metric::MemoryPressure), ("io", Metric::IoPressure)]
    {
        let text = fs::read_to_string(Path::new("/proc/pressure").join(file)).ok();
        sample.set(metric, text.and_then(|text| stalled(&text)));
    }
    Ok(sample)
}

/// Microseconds that processors were busy since the boot.
fn busy(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
    let all: u64 = fields.iter().take(8).sum();
    Some((all - fields.get(3)? - fields.get(4)?) * TICK)
}

fn memory(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some(field("MemTotal")?.saturating_sub(field("MemAvailable")?) << 10)
}

/// The second number of `2/345`, the fourth word of `/proc/loadavg`.
fn processes(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// The sums over whole disks (Documentation/admin-guide/iostats.rst); a sector has 512 bytes whatever the disk says.
fn disks(diskstats: &str, is_disk: impl Fn(&str) -> bool, sample: &mut Sample) {
    let (mut reads, mut read, mut writes, mut written) = (0, 0, 0, 0);
    for line in diskstats.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        if words.get(2).is_some_and(|name| is_disk(name)) {
            reads += number(3);
            read += number(5) * 512;
            writes += number(7);
            written += number(9) * 512;
        }
    }
    sample.set(Metric::DiskReads, reads);
    sample.set(Metric::DiskRead, read);
    sample.set(Metric::DiskWrites, writes);
    sample.set(Metric::DiskWritten, written);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   10 1 0 0 0 0 0 0   10 1 0 0 0 0 0 0
  eth0: 5000 50 0 0 0 0 0 0 700 7 0 0 0 0 0 0
";

    #[test]
    fn the_machines_own_cards_are_added_up() {
        let cards = Cards::parse(DEV);
        let mut node = Sample::default();
        cards.of_node(|name| name == "eth0", &mut node);
        assert_eq!((node.get(Metric::NetIn), node.get(Metric::NetOut)), (Some(5000), Some(700)));
    }

    #[test]
    fn whole_disks_are_added_up() {
        let text = "   7  0 loop0 9 9 9 9 9 9 9 9 9 9 9\n 254  0 vda 100 5 2000 7 30 5 400 9 0 1 1\n 254  1 vda1 100 5 2000 7 30 5 400 9 0 1 1\n";
        let mut sample = Sample::default();
        disks(text, |name| name == "vda", &mut sample);
        let want = Sample::default()
            .with(Metric::DiskReads, 100)
            .with(Metric::DiskRead, 2000 * 512)
            .with(Metric::DiskWrites, 30)
            .with(Metric::DiskWritten, 400 * 512);
        assert_eq!(sample, want);
    }

    #[test]
    fn the_machines_own_texts_are_read() {
        assert_eq!(busy("cpu  100 0 50 800 5 0 0 0 0 0\ncpu0 1\n"), Some(150 * TICK));
        assert_eq!(memory("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\n"), Some(40 << 10));
        assert_eq!(processes("0.00 0.01 0.05 2/345 6789"), Some(345));
    }
}
