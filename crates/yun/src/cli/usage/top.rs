//! `yun top`: what instances and nodes use now, once or live.

use anyhow::Result;
use comfy_table::{Table, TableStyle};
use crossterm::{
    cursor, execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{self, ClearType},
};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};
use tokio::io::AsyncReadExt;
use yun_api::cloud::{InstanceUsage, NodeUsageNow};
use yun_types::Metric;

use super::{
    super::{
        Code,
        args::Format,
        connect::{Cloud, Explained},
        output, terminal as person,
    },
    args::{Sort, TopArgs},
    human,
};

/// Shows what is used, until the person leaves.
pub(crate) async fn top(cloud: &Cloud, mut args: TopArgs) -> Result<Code> {
    let live = !args.once && matches!(cloud.output, Format::Table | Format::Wide) && std::io::stdout().is_terminal();
    if !live {
        return once(cloud, &args).await;
    }
    // What is refused is said on the person's own screen.
    let mut shown = look(cloud, &args).await?;
    let _screen = Screen::enter()?;
    let mut keys = tokio::io::stdin();
    let mut key = [0u8; 16];
    let mut trouble = None;
    loop {
        draw(cloud, &args, &shown, trouble.as_deref())?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.interval)) => {}
            read = keys.read(&mut key) => match (read?, key[0]) {
                // Ctrl-C, Ctrl-D and Escape come as bytes in raw mode.
                (0, _) | (_, b'q' | 3 | 4) | (1, 27) => return Ok(0),
                (_, b'c') => args.sort = Sort::Cpu,
                (_, b'm') => args.sort = Sort::Memory,
                (_, b'd') => args.sort = Sort::Disk,
                (_, b'n') => args.sort = Sort::Net,
                (_, b'a') => args.sort = Sort::Name,
                (_, b'p') => args.all_projects = !args.all_projects,
                (_, b'o') => args.nodes = !args.nodes,
                _ => {}
            },
        }
        // A server that is started anew is waited for; meanwhile the last table stays.
        match look(cloud, &args).await {
            Ok(seen) => (shown, trouble) = (seen, None),
            Err(error) => trouble = Some(format!("{error:#}")),
        }
    }
}

/// What there is to show.
enum Shown {
    Instances(Vec<InstanceUsage>),
    Nodes(Vec<NodeUsageNow>),
}

async fn look(cloud: &Cloud, args: &TopArgs) -> Result<Shown> {
    if args.nodes {
        return Ok(Shown::Nodes(cloud.client.usage_nodes().send().await.explained()?));
    }
    let request = cloud.client.usage_instances().project(cloud.project.clone()).all_projects(args.all_projects);
    let mut all = request.send().await.explained()?;
    sort(&mut all, args.sort);
    Ok(Shown::Instances(all))
}

fn sort(all: &mut [InstanceUsage], by: Sort) {
    let sum = |usage: &InstanceUsage, metrics: &[Metric]| -> f64 {
        metrics.iter().filter_map(|metric| usage.used.get(metric.word())).sum()
    };
    let weight = |usage: &InstanceUsage| match by {
        Sort::Cpu => sum(usage, &[Metric::Cpu]),
        Sort::Memory => sum(usage, &[Metric::Memory]),
        Sort::Disk => sum(usage, &[Metric::DiskRead, Metric::DiskWritten]),
        Sort::Net => sum(usage, &[Metric::NetIn, Metric::NetOut]),
        Sort::Name => 0.0,
    };
    all.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then_with(|| (&a.project, &a.name).cmp(&(&b.project, &b.name))));
}

async fn once(cloud: &Cloud, args: &TopArgs) -> Result<Code> {
    let shown = look(cloud, args).await?;
    match (&shown, cloud.output) {
        (Shown::Instances(all), Format::Name) => all.iter().try_for_each(|u| output::print_line(u.name.as_str()))?,
        (Shown::Nodes(all), Format::Name) => all.iter().try_for_each(|u| output::print_line(u.name.as_str()))?,
        (Shown::Instances(all), Format::Json) => output::print_line(&serde_json::to_string_pretty(all)?)?,
        (Shown::Nodes(all), Format::Json) => output::print_line(&serde_json::to_string_pretty(all)?)?,
        (Shown::Instances(all), Format::Yaml) => output::print_line(serde_yaml_ng::to_string(all)?.trim_end())?,
        (Shown::Nodes(all), Format::Yaml) => output::print_line(serde_yaml_ng::to_string(all)?.trim_end())?,
        (Shown::Instances(all), _) if all.is_empty() => eprintln!("no instances: start one with yun launch IMAGE NAME"),
        (Shown::Nodes(all), _) if all.is_empty() => eprintln!("no nodes yet: the first joins within seconds of yun up"),
        _ => table(args, &shown).iter().try_for_each(|line| output::print_line(line))?,
    }
    Ok(0)
}

/// The lines of the table, the titles first.
fn table(args: &TopArgs, shown: &Shown) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let cell = |used: &BTreeMap<String, f64>, metric: Metric| {
        used.get(metric.word()).map_or_else(|| "-".to_owned(), |value| human(metric, *value))
    };
    let last =
        [Metric::DiskRead, Metric::DiskWritten, Metric::NetIn, Metric::NetOut, Metric::CpuPressure, Metric::IoPressure];
    let titles = ["READ", "WRITE", "NET IN", "NET OUT", "CPU WAIT", "IO WAIT"];
    match shown {
        Shown::Instances(all) => {
            let first: &[&str] = if args.all_projects { &["PROJECT", "NAME"] } else { &["NAME"] };
            let middle = ["KIND", "STATE", "CPU", "OF", "MEMORY", "OF", "PIDS"];
            table.set_header(first.iter().chain(&middle).chain(&titles));
            for usage in all {
                let mut cells = if args.all_projects { vec![usage.project.to_string()] } else { Vec::new() };
                cells.extend([
                    usage.name.to_string(),
                    usage.kind.map_or_else(|| "-".into(), |kind| kind.to_string()),
                    usage.state.to_string(),
                    cell(&usage.used, Metric::Cpu),
                    usage.size.cpu.to_string(),
                    cell(&usage.used, Metric::Memory),
                    usage.size.memory.human(),
                    cell(&usage.used, Metric::Processes),
                ]);
                cells.extend(last.map(|metric| cell(&usage.used, metric)));
                table.add_row(cells);
            }
        }
        Shown::Nodes(all) => {
            table.set_header(["NODE", "STATE", "CPU", "OF", "MEMORY", "OF", "DISK", "OF"].iter().chain(&titles));
            for usage in all {
                let mut cells = vec![
                    usage.name.to_string(),
                    usage.state.to_string(),
                    cell(&usage.used, Metric::Cpu),
                    usage.total.cpu.to_string(),
                    cell(&usage.used, Metric::Memory),
                    usage.total.memory.human(),
                    cell(&usage.used, Metric::DiskUsed),
                    usage.total.disk.human(),
                ];
                cells.extend(last.map(|metric| cell(&usage.used, metric)));
                table.add_row(cells);
            }
        }
    }
    table.force_no_tty();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
}

fn draw(cloud: &Cloud, args: &TopArgs, shown: &Shown, trouble: Option<&str>) -> Result<()> {
    let size = person::size();
    let (columns, rows) = (usize::from(size.columns), usize::from(size.rows));
    let (count, cpu, memory) = match shown {
        Shown::Instances(all) => {
            let sum = |metric: Metric| all.iter().filter_map(|usage| usage.used.get(metric.word())).sum::<f64>();
            (format!("{} instances", all.len()), sum(Metric::Cpu), sum(Metric::Memory))
        }
        Shown::Nodes(all) => {
            let sum = |metric: Metric| all.iter().filter_map(|usage| usage.used.get(metric.word())).sum::<f64>();
            (format!("{} nodes", all.len()), sum(Metric::Cpu), sum(Metric::Memory))
        }
    };
    let of =
        if args.all_projects || args.nodes { "all projects".to_owned() } else { format!("project {}", cloud.project) };
    let head = format!(
        "yun top  {of}: {count}, {} cores, {}   [c]pu [m]emory [d]isk [n]et n[a]me  [p]rojects n[o]des  [q]uit",
        human(Metric::Cpu, cpu),
        human(Metric::Memory, memory)
    );
    let head = trouble.map_or(head, |trouble| format!("[q]uit  not of now: {trouble}"));
    let fit = |line: &str| line.chars().take(columns).collect::<String>();
    let mut out = std::io::stdout().lock();
    queue!(out, cursor::MoveTo(0, 0), terminal::Clear(ClearType::CurrentLine), Print(fit(&head)))?;
    for (row, line) in table(args, shown).iter().take(rows.saturating_sub(2)).enumerate() {
        let row = u16::try_from(row + 1).unwrap_or(u16::MAX);
        queue!(out, cursor::MoveTo(0, row), terminal::Clear(ClearType::CurrentLine))?;
        if row == 1 && output::colour() {
            queue!(out, SetAttribute(Attribute::Reverse), Print(fit(line)), SetAttribute(Attribute::Reset))?;
        } else {
            queue!(out, Print(fit(line)))?;
        }
    }
    queue!(out, terminal::Clear(ClearType::FromCursorDown))?;
    Ok(out.flush()?)
}

/// The terminal's second screen, and keys that come at once. Both are taken back when this is dropped.
struct Screen {
    _raw: person::Raw,
}

impl Screen {
    fn enter() -> Result<Self> {
        let raw = person::Raw::enter();
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide, terminal::Clear(ClearType::All))?;
        Ok(Self { _raw: raw })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::{InstanceState, Size};

    fn usage(name: &str, cpu: f64, memory: f64) -> InstanceUsage {
        InstanceUsage {
            name: name.parse().unwrap(),
            project: "default".parse().unwrap(),
            id: uuid::Uuid::nil(),
            kind: None,
            state: InstanceState::Running,
            node: None,
            size: Size::default(),
            at: None,
            used: BTreeMap::from([("cpu".to_owned(), cpu), ("memory".to_owned(), memory)]),
        }
    }

    #[test]
    fn the_first_are_those_who_use_most() {
        let mut all = [usage("a", 0.1, 9e6), usage("b", 1.5, 1e6), usage("c", 0.1, 5e6)];
        let names = |all: &[InstanceUsage]| all.iter().map(|u| u.name.to_string()).collect::<String>();
        sort(&mut all, Sort::Cpu);
        assert_eq!(names(&all), "bac");
        sort(&mut all, Sort::Memory);
        assert_eq!(names(&all), "acb");
        sort(&mut all, Sort::Name);
        assert_eq!(names(&all), "abc");
    }
}
