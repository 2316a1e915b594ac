//! `yun pool`: what there is, what is promised and used of it, and who holds how much.

use anyhow::Result;
use yun_types::{Pool, PoolShare, Timestamp};

use super::{
    Code,
    args::Format,
    connect::{Cloud, Explained},
    output::{self, Listed},
};

/// How long a bar is, in characters.
const BAR: usize = 24;

/// Shows the pool.
pub(crate) async fn run(cloud: &Cloud) -> Result<Code> {
    let pool = cloud.client.pool_get().send().await.explained()?;
    match cloud.output {
        Format::Table | Format::Wide => {
            for line in lines(&pool) {
                output::print_line(&line)?;
            }
            output::print_line("")?;
            output::list(&pool.projects, cloud.output, "no projects")?;
        }
        format => output::object(&pool, format, "pool")?,
    }
    Ok(0)
}

fn lines(pool: &Pool) -> Vec<String> {
    let plural = |count: u32, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let mut head = plural(pool.nodes, "node");
    if pool.lost > 0 {
        head += &format!(" ({} lost)", pool.lost);
    }
    head += &format!(", {}", plural(pool.reserved.instances, "instance"));
    if pool.waiting > 0 {
        head += &format!(", {} waiting for room (yun ls shows which, yun explain why)", pool.waiting);
    }
    let of = |name: &str, texts: [String; 3], [reserved, used, capacity]: [u64; 3]| {
        format!(
            "{name:7} {} {:>5} promised  {:>5} used   {} promised, {} used of {}",
            bar(reserved, used, capacity),
            percent(reserved, capacity),
            percent(used, capacity),
            texts[0],
            texts[1],
            texts[2],
        )
    };
    let (reserved, used, capacity) = (pool.reserved, pool.used, pool.capacity);
    vec![
        head,
        of(
            "cpu",
            [reserved.cpu.to_string(), used.cpu.to_string(), capacity.cpu.to_string()],
            [reserved.cpu.0, used.cpu.0, capacity.cpu.0].map(u64::from),
        ),
        of(
            "memory",
            [reserved.memory.human(), used.memory.human(), capacity.memory.human()],
            [reserved.memory.0, used.memory.0, capacity.memory.0],
        ),
        of(
            "disk",
            [reserved.disk.human(), used.disk.human(), capacity.disk.human()],
            [reserved.disk.0, used.disk.0, capacity.disk.0],
        ),
    ]
}

fn percent(part: u64, whole: u64) -> String {
    format!("{} %", u128::from(part) * 100 / u128::from(whole.max(1)))
}

/// What is used (full), promised beyond that (half), and free.
fn bar(reserved: u64, used: u64, capacity: u64) -> String {
    let filled = |part: u64| {
        let width = (u128::from(part) * BAR as u128).div_ceil(u128::from(capacity.max(1)));
        usize::try_from(width).unwrap_or(BAR).min(BAR)
    };
    let (used, reserved) = (filled(used), filled(reserved));
    format!("{}{}{}", "█".repeat(used), "▒".repeat(reserved.saturating_sub(used)), "·".repeat(BAR - used.max(reserved)))
}

impl Listed for PoolShare {
    const COLUMNS: &'static [&'static str] =
        &["PROJECT", "SHARE", "OF", "WEIGHT", "INSTANCES", "WAITING", "CPU", "MEMORY", "DISK"];
    const NARROW: usize = 9;
    fn cells(&self, _: Timestamp) -> Vec<String> {
        vec![
            self.name(),
            format!("{:.1} %", self.share * 100.0),
            if self.share > 0.0 { self.dominant.clone() } else { "-".into() },
            self.weight.to_string(),
            self.reserved.instances.to_string(),
            self.waiting.to_string(),
            self.reserved.cpu.to_string(),
            self.reserved.memory.human(),
            self.reserved.disk.human(),
        ]
    }
    fn name(&self) -> String {
        self.project.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_what_is_used_promised_and_free() {
        assert_eq!(bar(12, 6, 24), format!("{}{}{}", "█".repeat(6), "▒".repeat(6), "·".repeat(12)));
        assert_eq!(bar(0, 24, 24), "█".repeat(24));
        assert_eq!(bar(48, 0, 24), "▒".repeat(24));
        assert_eq!(bar(0, 0, 0), "·".repeat(24));
        assert_eq!(bar(1, 0, 1_000_000).chars().filter(|c| *c == '▒').count(), 1, "a little is not nothing");
        assert_eq!(percent(1, 0), "100 %");
    }
}
