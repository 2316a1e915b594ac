//! What the API asks of measurements.

use crate::{auth::Caller, core::Control, error::Refusal, instance, node};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;
use yun_api::cloud::{HistoryQuery, InstanceUsage, NodeUsageNow, UsageHistory, UsageLine, UsagePoint};
use yun_measure::{Line, Millis};
use yun_types::{InstanceState, Metric, Name, NameOrId, Timestamp};

/// What is older than this says nothing about now.
pub(super) const NOW: Millis = 30_000;
/// The span that is answered if the request names no beginning.
const SPAN: Millis = 3_600_000;
/// The most points of one line.
const MOST_POINTS: Millis = 11_000;
/// Points of a line if the request names no step.
const POINTS: Millis = 100;
/// The least time between two points: that of measurements.
const LEAST_STEP: Millis = 5_000;
/// The longest span: more is not kept.
const LONGEST: Millis = 32 * 24 * 3_600_000;

/// What instances use now: those of one project, or of all that the caller sees.
pub async fn instances(c: &Arc<Control>, caller: &Caller, project: Option<&Name>) -> Vec<InstanceUsage> {
    let segments: Vec<&str> = project.iter().map(|project| project.as_str()).collect();
    let rows = c.instances.cache.all(&segments);
    let sees = |project: Option<&Name>| project.is_some_and(|project| caller.sees(project));
    let shown: Vec<_> = rows.into_iter().filter(|row| sees(row.value.0.metadata.project.as_ref())).collect();
    let ids = shown.iter().map(|row| row.value.0.metadata.id).collect();
    let mut now = newest(c, ids).await;
    let usage = |row: &Arc<yun_store::Row<crate::rows::InstanceRow>>| {
        let instance = &row.value.0;
        let runs =
            matches!(instance.status.state, InstanceState::Running | InstanceState::Paused | InstanceState::Stopping);
        let (at, used) = now.remove(&instance.metadata.id).filter(|_| runs).unzip();
        InstanceUsage {
            name: instance.metadata.name.clone(),
            project: instance.metadata.project.clone().unwrap_or_else(Name::default_project),
            id: instance.metadata.id,
            kind: instance.spec.kind,
            state: instance.status.state,
            node: instance.status.node_name.clone(),
            size: instance.spec.size,
            at,
            used: used.unwrap_or_default(),
        }
    };
    shown.iter().map(usage).collect()
}

/// What nodes use now.
pub async fn nodes(c: &Arc<Control>) -> Vec<NodeUsageNow> {
    let rows = c.nodes.cache.all(&[]);
    let mut now = newest(c, rows.iter().map(|row| row.value.0.metadata.id).collect()).await;
    let usage = |row: &Arc<yun_store::Row<crate::rows::NodeRow>>| {
        let node = &row.value.0;
        let (at, used) = now.remove(&node.metadata.id).unzip();
        NodeUsageNow {
            name: node.metadata.name.clone(),
            id: node.metadata.id,
            state: node.status.state,
            total: node.status.facts.total,
            at,
            used: used.unwrap_or_default(),
        }
    };
    rows.iter().map(usage).collect()
}

async fn newest(c: &Arc<Control>, ids: Vec<Uuid>) -> BTreeMap<Uuid, (Timestamp, BTreeMap<String, f64>)> {
    let measurements = Arc::clone(&c.usage.measurements);
    let now = c.clock.now().timestamp_millis();
    let read = move || {
        let newest = |id: Uuid| {
            let latest = measurements.newest(id).filter(|latest| now - latest.at() <= NOW)?;
            let at = chrono::DateTime::from_timestamp_millis(latest.at())?;
            let values = latest.values().into_iter().map(|(metric, value)| (metric.to_string(), value));
            Some((id, (at, values.collect())))
        };
        ids.into_iter().filter_map(newest).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// How an instance was used.
pub async fn of_instance(
    c: &Arc<Control>,
    project: &Name,
    target: &NameOrId,
    query: &HistoryQuery,
) -> Result<UsageHistory, Refusal> {
    let row = instance::ops::find(c, project, target).await?;
    history(c, &row.value.0.metadata, query).await
}

/// How a node was used.
pub async fn of_node(c: &Arc<Control>, target: &NameOrId, query: &HistoryQuery) -> Result<UsageHistory, Refusal> {
    let row = node::ops::find(c, target).await?;
    history(c, &row.value.0.metadata, query).await
}

/// What a query asks for, checked.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    from: Millis,
    to: Millis,
    step: Millis,
    metrics: Vec<Metric>,
}

fn asked(query: &HistoryQuery, now: Timestamp) -> Result<Asked, Refusal> {
    let bad = |message: String| Refusal::bad_request("BadRange", message);
    let to = query.until.unwrap_or(now).timestamp_millis();
    let from = query.since.map_or(to - SPAN, |since| since.timestamp_millis());
    if from >= to {
        let text = |at: Millis| chrono::DateTime::from_timestamp_millis(at).unwrap_or_default().to_rfc3339();
        return Err(bad(format!(
            "the span from {} to {} is empty: since must be before until (now if absent)",
            text(from),
            text(to)
        )));
    }
    if to - from > LONGEST {
        return Err(bad(format!(
            "the span has {} days: a month of measurements is kept, so ask for 32 days at most",
            (to - from) / 86_400_000
        )));
    }
    let step = match query.step {
        Some(0) => return Err(bad("step 0 makes no points: give seconds, as in step=60, or leave it out".into())),
        Some(seconds) => i64::from(seconds) * 1000,
        // Whole seconds.
        None => ((to - from) / POINTS).max(LEAST_STEP) / 1000 * 1000,
    };
    if (to - from) / step > MOST_POINTS {
        let least = ((to - from) / MOST_POINTS).div_euclid(1000) + 1;
        return Err(Refusal::bad_request(
            "TooManyPoints",
            format!(
                "a step of {} s over this span makes more than {MOST_POINTS} points: use step={least} or more, or a shorter span",
                step / 1000
            ),
        ));
    }
    let metrics = match &query.metrics {
        None => Metric::ALL.to_vec(),
        Some(words) => words
            .split(',')
            .map(|word| word.trim().parse::<Metric>().map_err(|e| Refusal::bad_request("UnknownMetric", e.0)))
            .collect::<Result<_, _>>()?,
    };
    Ok(Asked { from, to, step, metrics })
}

async fn history(c: &Arc<Control>, of: &yun_types::Metadata, query: &HistoryQuery) -> Result<UsageHistory, Refusal> {
    let Asked { from, to, step, metrics } = asked(query, c.clock.now())?;
    let (measurements, id) = (Arc::clone(&c.usage.measurements), of.id);
    let read = tokio::task::spawn_blocking(move || measurements.range(id, &metrics, from, to, step)).await;
    let lines = match read {
        Ok(Ok(lines)) => lines,
        Ok(Err(e)) => return Err(Refusal::internal("read measurements", crate::error::chain(&e))),
        Err(e) => return Err(Refusal::internal("read measurements", e)),
    };
    let time = |at: Millis| chrono::DateTime::from_timestamp_millis(at).unwrap_or_default();
    let line = |line: Line| UsageLine {
        metric: line.metric,
        unit: line.metric.unit().to_owned(),
        points: line
            .buckets
            .into_iter()
            .map(|bucket| UsagePoint { at: time(bucket.at), avg: bucket.avg, min: bucket.min, max: bucket.max })
            .collect(),
    };
    Ok(UsageHistory {
        name: of.name.clone(),
        since: time(from),
        until: time(to),
        step: u32::try_from(step / 1000).unwrap_or(u32::MAX),
        lines: lines.into_iter().map(line).collect(),
    })
}

#[cfg(test)]
mod unit {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        chrono::DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn an_hour_in_a_hundred_points_if_nothing_is_said() {
        let asked = asked(&HistoryQuery::default(), at(10_000)).unwrap();
        assert_eq!((asked.from, asked.to, asked.step), (6_400_000, 10_000_000, 36_000));
        assert_eq!(asked.metrics.len(), Metric::COUNT);
        let short = HistoryQuery { since: Some(at(9_990)), ..HistoryQuery::default() };
        assert_eq!(super::asked(&short, at(10_000)).unwrap().step, LEAST_STEP);
    }

    #[test]
    fn bad_spans_are_refused_with_the_way_out() {
        let refused = |query: HistoryQuery| {
            let refusal = asked(&query, at(10_000_000)).unwrap_err();
            (refusal.code.to_string(), refusal.message)
        };
        let (code, message) = refused(HistoryQuery { since: Some(at(10_000_001)), ..HistoryQuery::default() });
        assert!(code == "BadRange" && message.contains("since must be before until"), "{message}");
        let (_, message) = refused(HistoryQuery { since: Some(at(0)), ..HistoryQuery::default() });
        assert!(message.contains("115 days") && message.contains("32 days"), "{message}");
        let (_, message) = refused(HistoryQuery { step: Some(0), ..HistoryQuery::default() });
        assert!(message.contains("step=60"), "{message}");
        let query = HistoryQuery { since: Some(at(9_000_000)), step: Some(1), ..HistoryQuery::default() };
        let (code, message) = refused(query);
        assert!(code == "TooManyPoints" && message.contains("step=91"), "{message}");
        let (code, message) = refused(HistoryQuery { metrics: Some("cpu,cups".into()), ..HistoryQuery::default() });
        assert!(code == "UnknownMetric" && message.contains("\"cups\"") && message.contains("memory"), "{message}");
    }
}
