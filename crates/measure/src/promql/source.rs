//! Where selectors find their series.

use super::{Labels, NAME, QueryError, Series};
use crate::{
    MeasureError, Measurements, Millis, Subject, block, coarse,
    series::{exported, families},
    trail::{ABSENT, real},
};
use promql_parser::{
    label::Matcher,
    parser::{Expr, VectorSelector},
};
use yun_types::Metric;

/// Gives series to selectors.
pub trait Source {
    /// The series that all matchers of one of the alternatives match, with their points in a span of time. `budget` is how many points may
    /// still be read, and shrinks by those that are.
    fn select(
        &self,
        alternatives: &[Vec<Matcher>],
        from: Millis,
        to: Millis,
        budget: &mut usize,
    ) -> Result<Vec<Series>, QueryError>;
}

/// The alternatives of a selector's matchers: all of one must match.
pub(super) fn alternatives(selector: &VectorSelector) -> Vec<Vec<Matcher>> {
    let mut all = selector.matchers.matchers.clone();
    if let Some(name) = &selector.name {
        all.push(Matcher::new(promql_parser::label::MatchOp::Equal, NAME, name));
    }
    if selector.matchers.or_matchers.is_empty() {
        return vec![all];
    }
    let with_name = |other: &Vec<Matcher>| {
        let mut other = other.clone();
        other.extend(all.iter().cloned());
        other
    };
    selector.matchers.or_matchers.iter().map(with_name).collect()
}

/// The matchers of a bare selector, as `match[]` has it.
pub fn selector(text: &str) -> Result<Vec<Vec<Matcher>>, QueryError> {
    match super::eval::parse(text)? {
        Expr::VectorSelector(selector) if selector.offset.is_none() && selector.at.is_none() => {
            Ok(alternatives(&selector))
        }
        _ => Err(QueryError::bad(format!(
            "{text:?} is no series selector: write it as in yun_instance_cpu_seconds_total{{project=\"default\"}}"
        ))),
    }
}

/// True if all matchers of one of the alternatives match. A label that is not there is empty.
pub(super) fn matches(alternatives: &[Vec<Matcher>], labels: &Labels) -> bool {
    let value = |name: &str| labels.get(name).map_or("", String::as_str);
    alternatives.iter().any(|all| all.iter().all(|matcher| matcher.is_match(value(&matcher.name))))
}

/// The measurements that a caller may see, as a source.
pub struct OverMeasurements<'m, F> {
    /// Where they are kept.
    pub measurements: &'m Measurements,
    /// Whether the caller may see a subject.
    pub sees: F,
}

impl<F> std::fmt::Debug for OverMeasurements<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OverMeasurements")
    }
}

impl<F: Fn(&Subject) -> bool> OverMeasurements<'_, F> {
    /// The labels of all series that match, without their points. `None` matches all.
    pub fn labels(&self, alternatives: Option<&[Vec<Matcher>]>, from: Millis) -> Vec<Labels> {
        let named = self.named(alternatives, from);
        named.into_iter().map(|(_, _, labels)| labels).collect()
    }

    fn named(&self, alternatives: Option<&[Vec<Matcher>]>, from: Millis) -> Vec<(Subject, Metric, Labels)> {
        let mut found = Vec::new();
        for subject in self.measurements.subjects(from).into_iter().filter(|subject| (self.sees)(subject)) {
            let is_node = subject.kind == crate::SubjectKind::Node;
            let mut labels = exported(&subject);
            for family in families().iter().filter(|family| family.of_nodes == is_node) {
                labels.insert(NAME.to_owned(), family.name.to_owned());
                if alternatives.is_none_or(|alternatives| matches(alternatives, &labels)) {
                    found.push((subject.clone(), family.metric, labels.clone()));
                }
            }
        }
        found
    }
}

impl<F: Fn(&Subject) -> bool> Source for OverMeasurements<'_, F> {
    fn select(
        &self,
        alternatives: &[Vec<Matcher>],
        from: Millis,
        to: Millis,
        budget: &mut usize,
    ) -> Result<Vec<Series>, QueryError> {
        let mut found = Vec::new();
        for (subject, metric, labels) in self.named(Some(alternatives), from) {
            let points = points(self.measurements, &subject, metric, from, to)
                .map_err(|e| QueryError { class: super::Class::Internal, message: e.to_string() })?;
            *budget = budget.checked_sub(points.len()).ok_or_else(|| {
                QueryError::execution(
                    "query processing would load too many samples into memory in query execution: ask for a shorter time or for fewer series",
                )
            })?;
            if !points.is_empty() {
                found.push(Series { labels, points });
            }
        }
        Ok(found)
    }
}

fn points(
    measurements: &Measurements,
    subject: &Subject,
    metric: Metric,
    from: Millis,
    to: Millis,
) -> Result<Vec<(Millis, f64)>, MeasureError> {
    let raw = measurements.raw(subject.id, from, to)?;
    let mut points: Vec<(Millis, f64)> = Vec::new();
    for kept in &raw.coarse {
        for (at, point) in coarse::one(&kept.block, metric).unwrap_or_default() {
            let kept = if metric.is_counter() { point.last } else { point.avg };
            if kept != ABSENT {
                points.push((at, real(metric, 1) * kept as f64));
            }
        }
    }
    for kept in &raw.fine {
        let (times, numbers) = block::one(&kept.block, metric).unwrap_or_default();
        points
            .extend(times.into_iter().zip(numbers).filter(|(_, n)| *n != ABSENT).map(|(at, n)| (at, real(metric, n))));
    }
    let head = raw.head.iter().map(|row| (row.at, row.values[metric as usize]));
    points.extend(head.filter(|(_, n)| *n != ABSENT).map(|(at, n)| (at, real(metric, n))));
    points.retain(|(at, _)| *at >= from && *at <= to);
    // A clock that was set back leaves blocks that overlap.
    points.sort_by_key(|(at, _)| *at);
    points.dedup_by_key(|(at, _)| *at);
    Ok(points)
}
