//! What a cgroup uses: version 1 has a file in each controller's hierarchy, version 2 has all in one directory. The pressure is counted by
//! version 2 only; where version 1 rules and version 2 is mounted beside it, the pressure is read there.

use super::small::Reader;
use crate::container::cgroup::Layout;
use std::path::Path;
use yun_types::{Metric, Sample};

/// What the group at this path uses; `None` if it is not there.
pub(super) fn sample(layout: &Layout, path: &str, reader: &mut Reader) -> Option<Sample> {
    let mut sample = Sample::default();
    match layout.v2_root() {
        Some(root) if layout.is_v2() => v2(&root.join(path), &mut sample, reader)?,
        root => {
            v1(|controller| layout.v1_root(controller).join(path), &mut sample, reader)?;
            if let Some(root) = root {
                pressure(&root.join(path), &mut sample, reader);
            }
        }
    }
    Some(sample)
}

fn v2(group: &Path, sample: &mut Sample, reader: &mut Reader) -> Option<()> {
    sample.set(Metric::Cpu, reader.keyed(&group.join("cpu.stat"), "usage_usec")?);
    let memory = reader.number(&group.join("memory.current"));
    let cache = reader.keyed(&group.join("memory.stat"), "inactive_file");
    sample.set(Metric::Memory, memory.map(|used| used.saturating_sub(cache.unwrap_or(0))));
    sample.set(Metric::Processes, reader.number(&group.join("pids.current")));
    if let Some(text) = reader.text(&group.join("io.stat")) {
        for (metric, key) in [
            (Metric::DiskRead, "rbytes="),
            (Metric::DiskWritten, "wbytes="),
            (Metric::DiskReads, "rios="),
            (Metric::DiskWrites, "wios="),
        ] {
            let words = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
            sample.set(metric, words.sum::<u64>());
        }
    }
    pressure(group, sample, reader);
    Some(())
}

fn v1(group: impl Fn(&str) -> std::path::PathBuf, sample: &mut Sample, reader: &mut Reader) -> Option<()> {
    // Nanoseconds.
    sample.set(Metric::Cpu, reader.number(&group("cpuacct").join("cpuacct.usage"))? / 1000);
    let memory = group("memory");
    let used = reader.number(&memory.join("memory.usage_in_bytes"));
    let cache = reader.keyed(&memory.join("memory.stat"), "total_inactive_file");
    sample.set(Metric::Memory, used.map(|used| used.saturating_sub(cache.unwrap_or(0))));
    sample.set(Metric::Processes, reader.number(&group("pids").join("pids.current")));
    let blkio = group("blkio");
    for (file, read, write) in [
        ("blkio.throttle.io_service_bytes_recursive", Metric::DiskRead, Metric::DiskWritten),
        ("blkio.throttle.io_serviced_recursive", Metric::DiskReads, Metric::DiskWrites),
    ] {
        if let Some(text) = reader.text(&blkio.join(file)) {
            sample.set(read, operations(text, " Read "));
            sample.set(write, operations(text, " Write "));
        }
    }
    Some(())
}

/// The sum over devices in a file with lines such as `254:0 Read 4096`.
fn operations(text: &str, kind: &str) -> u64 {
    text.lines().filter_map(|line| line.split_once(kind)?.1.trim().parse::<u64>().ok()).sum()
}

fn pressure(group: &Path, sample: &mut Sample, reader: &mut Reader) {
    for (file, metric) in [
        ("cpu.pressure", Metric::CpuPressure),
        ("memory.pressure", Metric::MemoryPressure),
        ("io.pressure", Metric::IoPressure),
    ] {
        sample.set(metric, reader.text(&group.join(file)).and_then(stalled));
    }
}

/// Microseconds in which something waited, from a pressure file (Documentation/accounting/psi.rst).
pub(super) fn stalled(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PRESSURE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 total=99\n";

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn version_2_is_read() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("yun-1/web/memory.current", "10485760\n"),
                ("yun-1/web/memory.stat", "anon 4096\ninactive_anon 7\ninactive_file 1048576\n"),
                ("yun-1/web/cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
                ("yun-1/web/pids.current", "3\n"),
                (
                    "yun-1/web/io.stat",
                    "254:0 rbytes=100 wbytes=20 rios=3 wios=2 dbytes=0 dios=0\n8:0 rbytes=1 wbytes=1 rios=1 wios=1\n",
                ),
                ("yun-1/web/io.pressure", PRESSURE),
            ],
        );
        let mount = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", root.path().display());
        let layout = Layout::parse(&mount);
        let got = sample(&layout, "yun-1/web", &mut Reader::default()).unwrap();
        let want = Sample::default()
            .with(Metric::Cpu, 1_500_000)
            .with(Metric::Memory, 9 << 20)
            .with(Metric::Processes, 3)
            .with(Metric::DiskRead, 101)
            .with(Metric::DiskWritten, 21)
            .with(Metric::DiskReads, 4)
            .with(Metric::DiskWrites, 3)
            .with(Metric::IoPressure, 1234);
        assert_eq!(got, want);
        assert_eq!(sample(&layout, "yun-1/gone", &mut Reader::default()), None);
    }

    #[test]
    fn version_1_is_read_with_the_pressure_of_version_2_beside_it() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("cpuacct/g/cpuacct.usage", "2500000000\n"),
                ("memory/g/memory.usage_in_bytes", "8192\n"),
                ("memory/g/memory.stat", "cache 1\ninactive_file 5\ntotal_inactive_file 4096\n"),
                ("pids/g/pids.current", "2\n"),
                (
                    "blkio/g/blkio.throttle.io_service_bytes_recursive",
                    "254:0 Read 4096\n254:0 Write 10\n254:0 Sync 1\n254:0 Total 4106\nTotal 4106\n",
                ),
                ("blkio/g/blkio.throttle.io_serviced_recursive", "254:0 Read 1\n254:0 Write 2\nTotal 3\n"),
                ("unified/g/cpu.pressure", PRESSURE),
            ],
        );
        let mut mounts = format!("41 31 0:38 / {}/unified rw - cgroup2 cgroup2 rw\n", root.path().display());
        for controller in ["cpuacct", "memory", "pids", "blkio"] {
            mounts += &format!("3 1 0:3 / {}/{controller} rw - cgroup cgroup rw,{controller}\n", root.path().display());
        }
        let got = sample(&Layout::parse(&mounts), "g", &mut Reader::default()).unwrap();
        let want = Sample::default()
            .with(Metric::Cpu, 2_500_000)
            .with(Metric::Memory, 4096)
            .with(Metric::Processes, 2)
            .with(Metric::DiskRead, 4096)
            .with(Metric::DiskWritten, 10)
            .with(Metric::DiskReads, 1)
            .with(Metric::DiskWrites, 2)
            .with(Metric::CpuPressure, 1234);
        assert_eq!(got, want);
    }
}
