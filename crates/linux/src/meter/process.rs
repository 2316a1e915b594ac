//! What one process uses, from `/proc/PID`: that is what a VM uses, because QEMU is one process.

use std::fs;
use yun_types::{Metric, Sample};

/// A tick of `/proc/PID/stat` in microseconds: `USER_HZ` is 100 on every architecture that we run on.
pub(super) const TICK: u64 = 10_000;
/// The size of the pages that `/proc/PID/statm` counts; those of x86 and of ARM as Debian builds it.
const PAGE: u64 = 4096;

/// What a process uses; `None` if it is gone.
pub(super) fn sample(pid: i32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    // Root may read it, and only root; without it the rest is still true.
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let sample = parse(&stat, &statm, &io)?;
    Some(sample.with(Metric::CpuPressure, waited(pid)))
}

/// Microseconds that the thread that waited longest waited for a processor: something of the process waited at least so long.
fn waited(pid: i32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    threads.filter_map(|thread| delay(&fs::read_to_string(thread.path().join("schedstat")).ok()?)).max()
}

/// The second number of `schedstat` is nanoseconds on a run queue (Documentation/scheduler/sched-stats.rst).
fn delay(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|nanoseconds| nanoseconds / 1000)
}

fn parse(stat: &str, statm: &str, io: &str) -> Option<Sample> {
    // The name may hold anything, also parentheses. Behind it: state 3, utime 14, stime 15, num_threads 20 (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let resident: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let of_io = |name: &str| {
        io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse::<u64>().ok())
    };
    Some(
        Sample::default()
            .with(Metric::Cpu, (field(14)? + field(15)?) * TICK)
            .with(Metric::Processes, field(20))
            .with(Metric::Memory, resident * PAGE)
            .with(Metric::DiskRead, of_io("read_bytes"))
            .with(Metric::DiskWritten, of_io("write_bytes")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 99 0 3 0 250 50 0 0 20 0 5 0 4711 1000000 300 1";
        let io = "rchar: 9\nwchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";
        let sample = parse(stat, "900 300 20 1 0 400 0", io).unwrap();
        let want = Sample::default()
            .with(Metric::Cpu, 3_000_000)
            .with(Metric::Processes, 5)
            .with(Metric::Memory, 300 * 4096)
            .with(Metric::DiskRead, 4096)
            .with(Metric::DiskWritten, 8192);
        assert_eq!(sample, want);
        assert_eq!(parse("7 (a", "", ""), None);
        assert_eq!(parse(stat, "900 300", "").unwrap().get(Metric::DiskRead), None);
        assert_eq!((delay("5000000 2948046 17"), delay("")), (Some(2948), None));
    }

    #[test]
    fn this_process_is_measured() {
        let sample = sample(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(sample.get(Metric::Memory).unwrap() > 1 << 20 && sample.get(Metric::Processes).unwrap() >= 1);
        assert_eq!(super::sample(-1), None);
    }
}
