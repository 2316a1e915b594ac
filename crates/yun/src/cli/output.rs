//! Printing: aligned tables for people, JSON and YAML for programs, human units, colour only on a terminal.

use anyhow::Result;
use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color, Table, TableStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use yun_types::{InstanceState, Timestamp};

use super::args::Format;

/// What a noun looks like in a list.
pub(crate) trait Listed: Serialize {
    /// The titles of the columns; those from `WIDE_FROM` on appear only with `-o wide`.
    const COLUMNS: &'static [&'static str];
    /// The number of columns in an ordinary table.
    const NARROW: usize;
    /// The cells.
    fn cells(&self, now: Timestamp) -> Vec<String>;
    /// The name alone.
    fn name(&self) -> String;
    /// The place of the cell that shows a state, for its colour.
    const STATE: Option<usize> = None;
}

/// Prints a list. `empty` is what people read when there is nothing, and what they could do.
pub(crate) fn list<T: Listed>(items: &[T], format: Format, empty: &str) -> Result<()> {
    match format {
        Format::Json => print_line(&serde_json::to_string_pretty(items)?),
        Format::Yaml => print_line(serde_yaml_ng::to_string(items)?.trim_end()),
        Format::Name => items.iter().try_for_each(|item| print_line(&item.name())),
        Format::Table | Format::Wide if items.is_empty() => {
            eprintln!("{empty}");
            Ok(())
        }
        Format::Table | Format::Wide => {
            let width = if format == Format::Wide { T::COLUMNS.len() } else { T::NARROW };
            let mut table = Table::new();
            table.load_style(TableStyle::new()).set_header(&T::COLUMNS[..width]);
            let now = now();
            for item in items {
                let cells = item.cells(now).into_iter().take(width).enumerate();
                table.add_row(
                    cells.map(|(place, text)| if T::STATE == Some(place) { coloured(&text) } else { Cell::new(text) }),
                );
            }
            if !colour() {
                table.force_no_tty();
            }
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
            table.to_string().lines().try_for_each(|line| print_line(line.trim_end()))
        }
    }
}

/// Prints one object in full: YAML for people too, because it is the whole truth in a readable form.
pub(crate) fn object<T: Serialize>(item: &T, format: Format, name: &str) -> Result<()> {
    match format {
        Format::Json => print_line(&serde_json::to_string_pretty(item)?),
        Format::Name => print_line(name),
        Format::Table | Format::Wide | Format::Yaml => print_line(serde_yaml_ng::to_string(item)?.trim_end()),
    }
}

/// A line on standard output. A reader that has left ends the program quietly, as with other tools.
pub(crate) fn print_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Whether colours are welcome.
pub(crate) fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stdout().is_terminal()
}

fn coloured(state: &str) -> Cell {
    let colour = match state.split(' ').next().unwrap_or_default() {
        "running" | "ready" | "succeeded" => Color::Green,
        "failed" | "lost" | "rolled-back" | "degraded" => Color::Red,
        "stopped" | "paused" | "cancelled" => Color::DarkGrey,
        _ => Color::Yellow,
    };
    Cell::new(state).fg(colour)
}

/// The time, for ages in tables.
pub(crate) fn now() -> Timestamp {
    Utc::now()
}

/// How long ago, in two units at most: `1d5h`, `3m`, `12s`.
pub(crate) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m"),
        (0, h, 0) => format!("{h}h"),
        (0, h, m) => format!("{h}h{m}m"),
        (d, 0, _) => format!("{d}d"),
        (d, h, _) => format!("{d}d{h}h"),
    }
}

/// A state with the reason behind it, where there is one.
pub(crate) fn state_and_reason(state: InstanceState, reason: Option<&str>) -> String {
    match reason {
        Some(reason) if !matches!(state, InstanceState::Running) => format!("{state} ({reason})"),
        _ => state.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(100);
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3600, "1h"),
            (3660, "1h1m"),
            (86_400, "1d"),
            (104_400, "1d5h"),
            (-5, "0s"),
        ] {
            assert_eq!(age(now - chrono::Duration::seconds(seconds), now), text);
        }
    }
}
