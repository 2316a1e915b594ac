//! `yun stats`: how something was used, as lines that people can look at.

use anyhow::Result;
use comfy_table::{Table, TableStyle};
use yun_api::cloud::{UsageHistory, UsageLine};
use yun_types::NameOrId;

use super::{
    super::{
        Code,
        args::Format,
        connect::{Cloud, Explained},
        output, words,
    },
    args::StatsArgs,
    human,
};

/// How wide a line is drawn.
const WIDTH: usize = 40;

/// Shows how an instance or a node was used.
pub(crate) async fn stats(cloud: &Cloud, args: StatsArgs) -> Result<Code> {
    let now = output::now();
    let since = words::since(&args.since, now)?;
    let until = args.until.as_deref().map(|word| words::since(word, now)).transpose()?;
    let history: UsageHistory = if let Some(node) = &args.node {
        let mut request = cloud.client.node_usage().node(node.parse::<NameOrId>()?).since(since);
        if let Some(until) = until {
            request = request.until(until);
        }
        if let Some(step) = args.step {
            request = request.step(step);
        }
        if let Some(metrics) = args.metrics {
            request = request.metrics(metrics);
        }
        request.send().await.explained()?
    } else {
        let name: NameOrId = args.instance.unwrap_or_default().parse()?;
        let mut request = cloud.client.instance_usage().project(cloud.project.clone()).instance(name).since(since);
        if let Some(until) = until {
            request = request.until(until);
        }
        if let Some(step) = args.step {
            request = request.step(step);
        }
        if let Some(metrics) = args.metrics {
            request = request.metrics(metrics);
        }
        request.send().await.explained()?
    };
    if matches!(cloud.output, Format::Json | Format::Yaml | Format::Name) {
        output::object(&history, cloud.output, history.name.as_str())?;
        return Ok(0);
    }
    if history.lines.is_empty() {
        eprintln!("{} was not measured between {} and {}", history.name, history.since, history.until);
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(["METRIC", "NOW", "AVG", "MIN", "MAX", "OVER TIME"]);
    for line in &history.lines {
        table.add_row(row(&history, line));
    }
    table.force_no_tty();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let format = "%Y-%m-%d %H:%M:%S";
    output::print_line(&format!(
        "{} from {} to {} UTC",
        history.name,
        history.since.format(format),
        history.until.format(format)
    ))?;
    table.to_string().lines().try_for_each(|line| output::print_line(line.trim_end()))?;
    Ok(0)
}

fn row(history: &UsageHistory, line: &UsageLine) -> Vec<String> {
    let points = &line.points;
    let last = points.last().map_or(0.0, |point| point.avg);
    let avg = points.iter().map(|point| point.avg).sum::<f64>() / points.len().max(1) as f64;
    let min = points.iter().map(|point| point.min).fold(f64::INFINITY, f64::min);
    let max = points.iter().map(|point| point.max).fold(0.0, f64::max);
    let mut cells = vec![line.metric.to_string()];
    cells.extend([last, avg, min, max].map(|value| human(line.metric, value)));
    cells.push(spark(history, line));
    cells
}

/// A line of blocks. Where nothing was measured it is blank.
fn spark(history: &UsageHistory, line: &UsageLine) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let span = (history.until - history.since).num_milliseconds().max(1);
    let mut columns: Vec<Option<f64>> = vec![None; WIDTH];
    for point in &line.points {
        let place = (point.at - history.since).num_milliseconds().max(0);
        let place = usize::try_from(place * 40 / span).unwrap_or(0).min(WIDTH - 1);
        columns[place] = Some(columns[place].unwrap_or(0.0).max(point.max));
    }
    let most = columns.iter().flatten().copied().fold(0.0, f64::max);
    let block = |value: Option<f64>| {
        let Some(value) = value else { return ' ' };
        let share = if most > 0.0 { value / most } else { 0.0 };
        // The lowest of eight blocks for nothing, the highest for the most, and else the nearest.
        BLOCKS[(0..7).filter(|step| share > f64::from(2 * step + 1) / 14.0).count()]
    };
    columns.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_api::cloud::UsagePoint;
    use yun_types::Metric;

    #[test]
    fn a_spark_has_gaps_and_peaks() {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap();
        let point = |seconds, value| UsagePoint { at: at(seconds), avg: value, min: value, max: value };
        let line = UsageLine {
            metric: Metric::Cpu,
            unit: "cores".into(),
            points: vec![point(0, 0.0), point(10, 0.5), point(20, 1.0)],
        };
        let history =
            UsageHistory { name: "web".parse().unwrap(), since: at(0), until: at(400), step: 10, lines: Vec::new() };
        assert_eq!(spark(&history, &line), format!("▁▄█{}", " ".repeat(37)));
    }
}
