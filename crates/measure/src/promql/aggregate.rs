//! Aggregations: many series become one for each group, or the greatest and least of each group stay.

use super::{
    Labels, NAME, QueryError,
    eval::{Value, unnamed},
};
use promql_parser::parser::{AggregateExpr, LabelModifier, token};
use std::collections::BTreeMap;

/// The labels by which a series is grouped.
fn group(modifier: Option<&LabelModifier>, labels: &Labels) -> Labels {
    match modifier {
        None => Labels::new(),
        Some(LabelModifier::Include(by)) => {
            by.labels.iter().filter_map(|name| Some((name.clone(), labels.get(name)?.clone()))).collect()
        }
        Some(LabelModifier::Exclude(without)) => labels
            .iter()
            .filter(|(name, _)| *name != NAME && !without.labels.contains(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

/// The `q`-quantile of values, interpolated as Prometheus does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places in a list in memory")]
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(f64::total_cmp);
    let rank = q * (values.len() - 1) as f64;
    let (low, high) = (rank.floor() as usize, (rank.floor() as usize + 1).min(values.len() - 1));
    let weight = rank - rank.floor();
    values[low] * (1.0 - weight) + values[high] * weight
}

pub(super) fn aggregate(
    aggregation: &AggregateExpr,
    param: Option<Value>,
    vector: Vec<(Labels, f64)>,
) -> Result<Vec<(Labels, f64)>, QueryError> {
    let mut groups: BTreeMap<Labels, Vec<(Labels, f64)>> = BTreeMap::new();
    for (labels, value) in vector {
        groups.entry(group(aggregation.modifier.as_ref(), &labels)).or_default().push((labels, value));
    }
    let number = |param: Option<Value>| {
        param.ok_or_else(|| QueryError::bad("this aggregation needs a number"))?.scalar("an aggregation")
    };
    let fold = |of: &dyn Fn(&[f64]) -> f64| {
        let one = |(labels, members): (&Labels, &Vec<(Labels, f64)>)| {
            let values: Vec<f64> = members.iter().map(|(_, value)| *value).collect();
            (labels.clone(), of(&values))
        };
        Ok(groups.iter().map(one).collect())
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| {
        let mean = mean(values);
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
    };
    match aggregation.op.id() {
        token::T_SUM => fold(&|values| values.iter().sum()),
        token::T_AVG => fold(&mean),
        token::T_MIN => fold(&|values| values.iter().copied().fold(f64::NAN, f64::min)),
        token::T_MAX => fold(&|values| values.iter().copied().fold(f64::NAN, f64::max)),
        token::T_COUNT => fold(&|values| values.len() as f64),
        token::T_GROUP => fold(&|_| 1.0),
        token::T_STDVAR => fold(&variance),
        token::T_STDDEV => fold(&|values| variance(values).sqrt()),
        token::T_QUANTILE => {
            let q = number(param)?;
            fold(&|values| quantile(q, values.to_vec()))
        }
        token::T_TOPK | token::T_BOTTOMK => {
            let count = number(param)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float becomes the nearest count, and nothing becomes 0"
            )]
            let count = count as usize;
            let top = aggregation.op.id() == token::T_TOPK;
            let mut best = Vec::new();
            for (_, mut members) in groups {
                // What is not a number is worst.
                members.sort_by(|a, b| {
                    let order = if top { b.1.partial_cmp(&a.1) } else { a.1.partial_cmp(&b.1) };
                    order.unwrap_or_else(|| a.1.is_nan().cmp(&b.1.is_nan()))
                });
                members.truncate(count);
                best.extend(members);
            }
            Ok(best)
        }
        _ => Err(QueryError::unsupported(&format!("the aggregation {}", aggregation.op))),
    }
}

/// Labels that two sides are matched by.
pub(super) fn signature(modifier: Option<&LabelModifier>, labels: &Labels) -> Labels {
    match modifier {
        None => unnamed(labels.clone()),
        some => group(some, labels),
    }
}
