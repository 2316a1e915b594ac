//! Commands about what is used: `top` now, `stats` over time.

pub(crate) mod args;
mod stats;
mod top;

pub(crate) use stats::stats;
pub(crate) use top::top;

use yun_types::Metric;

/// A value of a metric in human units.
fn human(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Cpu => format!("{value:.2}"),
        Metric::Memory | Metric::DiskUsed => bytes(value),
        Metric::DiskRead | Metric::DiskWritten | Metric::NetIn | Metric::NetOut => format!("{}/s", bytes(value)),
        Metric::CpuPressure | Metric::MemoryPressure | Metric::IoPressure => format!("{:.1}%", value * 100.0),
        Metric::Processes => format!("{value:.0}"),
        Metric::DiskReads | Metric::DiskWrites | Metric::PacketsIn | Metric::PacketsOut => format!("{value:.1}/s"),
    }
}

/// Bytes with three digits at most.
fn bytes(value: f64) -> String {
    let (mut value, mut unit) = (value.max(0.0), 0);
    while value >= 999.5 && unit < 5 {
        value /= 1024.0;
        unit += 1;
    }
    let name = ["B", "K", "M", "G", "T", "P"][unit];
    if unit > 0 && value < 9.95 { format!("{value:.1}{name}") } else { format!("{value:.0}{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short() {
        assert_eq!(bytes(0.0), "0B");
        assert_eq!(bytes(1023.0), "1.0K");
        assert_eq!(bytes(64.0 * 1024.0 * 1024.0), "64M");
        assert_eq!(bytes(1536.0 * 1024.0 * 1024.0), "1.5G");
        assert_eq!(human(Metric::Cpu, 0.5), "0.50");
        assert_eq!(human(Metric::IoPressure, 0.123), "12.3%");
        assert_eq!(human(Metric::NetIn, 2048.0), "2.0K/s");
    }
}
