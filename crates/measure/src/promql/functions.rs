//! The functions of PromQL: <https://prometheus.io/docs/prometheus/latest/querying/functions/>.

use super::{
    Labels, QueryError,
    aggregate::quantile,
    eval::{Value, unnamed},
};
use crate::Millis;
use promql_parser::parser::Expr;
use std::collections::BTreeMap;

pub(super) fn seconds(at: Millis) -> f64 {
    at as f64 / 1000.0
}

type Points<'p> = &'p [(Millis, f64)];

/// A function of the points of one series in the window from `begin` to `end`.
pub(super) fn over_time(
    name: &str,
    points: Points<'_>,
    begin: Millis,
    end: Millis,
    numbers: &[f64],
) -> Result<Option<f64>, QueryError> {
    let values = || points.iter().map(|(_, value)| *value);
    let count = points.len() as f64;
    let mean = || values().sum::<f64>() / count;
    let variance = || {
        let mean = mean();
        values().map(|v| (v - mean).powi(2)).sum::<f64>() / count
    };
    let steps = |counts: &dyn Fn(f64, f64) -> bool| {
        points.windows(2).filter(|pair| counts(pair[0].1, pair[1].1)).count() as f64
    };
    Ok(match name {
        "rate" => extrapolated(points, begin, end, true, true),
        "increase" => extrapolated(points, begin, end, true, false),
        "delta" => extrapolated(points, begin, end, false, false),
        "irate" => last_two(points, true),
        "idelta" => last_two(points, false),
        "deriv" => slope(points, points.first().map_or(0, |p| p.0)).map(|(slope, _)| slope),
        "predict_linear" => {
            let ahead = numbers.first().copied().unwrap_or(0.0);
            slope(points, end).map(|(slope, at_end)| slope.mul_add(ahead, at_end))
        }
        "avg_over_time" => Some(mean()),
        "sum_over_time" => Some(values().sum()),
        "min_over_time" => Some(values().fold(f64::NAN, f64::min)),
        "max_over_time" => Some(values().fold(f64::NAN, f64::max)),
        "count_over_time" => Some(count),
        "last_over_time" => points.last().map(|(_, value)| *value),
        "present_over_time" => Some(1.0),
        "stdvar_over_time" => Some(variance()),
        "stddev_over_time" => Some(variance().sqrt()),
        "quantile_over_time" => Some(quantile(numbers.first().copied().unwrap_or(f64::NAN), values().collect())),
        "changes" => Some(steps(&|a, b| a != b && !(a.is_nan() && b.is_nan()))),
        "resets" => Some(steps(&|a, b| b < a)),
        other => return Err(QueryError::unsupported(&format!("the function {other}"))),
    })
}

/// `extrapolatedRate` of Prometheus: what was seen between the first and the last point, stretched to the ends of the window as far as the
/// usual distance of points allows, and never below a counter's zero.
fn extrapolated(points: Points<'_>, begin: Millis, end: Millis, counter: bool, per_second: bool) -> Option<f64> {
    let [first, .., last] = points else { return None };
    let mut result = last.1 - first.1;
    if counter {
        result += points.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum::<f64>();
    }
    let (mut to_start, to_end) = (seconds(first.0 - begin), seconds(end - last.0));
    let sampled = seconds(last.0 - first.0);
    let between = sampled / (points.len() - 1) as f64;
    if counter && result > 0.0 && first.1 >= 0.0 {
        to_start = to_start.min(sampled * (first.1 / result));
    }
    let threshold = between * 1.1;
    let reach = |gap: f64| if gap < threshold { gap } else { between / 2.0 };
    let extrapolated = sampled + reach(to_start) + reach(to_end);
    let mut factor = extrapolated / sampled;
    if per_second {
        factor /= seconds(end - begin);
    }
    Some(result * factor)
}

fn last_two(points: Points<'_>, rate: bool) -> Option<f64> {
    let [.., before, last] = points else { return None };
    if !rate {
        return Some(last.1 - before.1);
    }
    let grown = if last.1 < before.1 { last.1 } else { last.1 - before.1 };
    (last.0 > before.0).then(|| grown / seconds(last.0 - before.0))
}

/// The line of least squares through the points: its slope a second, and its value at `origin`.
fn slope(points: Points<'_>, origin: Millis) -> Option<(f64, f64)> {
    if points.len() < 2 {
        return None;
    }
    let n = points.len() as f64;
    let x = |at: Millis| seconds(at - origin);
    let (sx, sy) = points.iter().fold((0.0, 0.0), |(sx, sy), (at, v)| (sx + x(*at), sy + v));
    let covariance = points.iter().map(|(at, v)| x(*at) * v).sum::<f64>() - sx * sy / n;
    let variance = points.iter().map(|(at, _)| x(*at).powi(2)).sum::<f64>() - sx * sx / n;
    let slope = covariance / variance;
    Some((slope, sy / n - slope * sx / n))
}

/// A function of values at one step.
pub(super) fn call(name: &str, args: &[Box<Expr>], values: Vec<Value>, at: Millis) -> Result<Value, QueryError> {
    let mut values = values.into_iter();
    let mut next = || values.next();
    let missing = || QueryError::bad(format!("{name} has too few arguments"));
    let mut each = |of: &dyn Fn(f64) -> f64| {
        let vector = next().ok_or_else(missing)?.vector(name)?;
        Ok(Value::Vector(vector.into_iter().map(|(labels, v)| (unnamed(labels), of(v))).collect()))
    };
    match name {
        "abs" => each(&f64::abs),
        "ceil" => each(&f64::ceil),
        "floor" => each(&f64::floor),
        "sqrt" => each(&f64::sqrt),
        "exp" => each(&f64::exp),
        "ln" => each(&f64::ln),
        "log2" => each(&f64::log2),
        "log10" => each(&f64::log10),
        "sgn" => each(&|v| if v == 0.0 || v.is_nan() { v } else { v.signum() }),
        "time" => Ok(Value::Scalar(seconds(at))),
        "vector" => Ok(Value::Vector(vec![(Labels::new(), next().ok_or_else(missing)?.scalar(name)?)])),
        "scalar" => {
            let vector = next().ok_or_else(missing)?.vector(name)?;
            Ok(Value::Scalar(if let [(_, value)] = vector[..] { value } else { f64::NAN }))
        }
        "round" | "clamp" | "clamp_min" | "clamp_max" => {
            let vector = next().ok_or_else(missing)?.vector(name)?;
            let a = next().map(|v| v.scalar(name)).transpose()?;
            let b = next().map(|v| v.scalar(name)).transpose()?;
            let of = |v: f64| match (name, a, b) {
                ("round", to, _) => {
                    let inverse = 1.0 / to.unwrap_or(1.0);
                    (v * inverse + 0.5).floor() / inverse
                }
                ("clamp_min", Some(least), _) => v.max(least),
                ("clamp_max", Some(most), _) => v.min(most),
                (_, Some(least), Some(most)) => v.min(most).max(least),
                _ => v,
            };
            Ok(Value::Vector(vector.into_iter().map(|(labels, v)| (unnamed(labels), of(v))).collect()))
        }
        "timestamp" => each(&|_| seconds(at)),
        "sort" | "sort_desc" => {
            let mut vector = next().ok_or_else(missing)?.vector(name)?;
            vector.sort_by(|a, b| a.1.total_cmp(&b.1));
            if name == "sort_desc" {
                vector.reverse();
            }
            Ok(Value::Vector(vector))
        }
        "absent" => {
            let vector = next().ok_or_else(missing)?.vector(name)?;
            let labels = match args.first().map(|arg| &**arg) {
                Some(Expr::VectorSelector(selector)) => selector
                    .matchers
                    .matchers
                    .iter()
                    .filter(|m| matches!(m.op, promql_parser::label::MatchOp::Equal))
                    .map(|m| (m.name.clone(), m.value.clone()))
                    .collect(),
                _ => Labels::new(),
            };
            Ok(Value::Vector(if vector.is_empty() { vec![(unnamed(labels), 1.0)] } else { Vec::new() }))
        }
        "label_replace" => {
            let vector = next().ok_or_else(missing)?.vector(name)?;
            let mut text = || next().ok_or_else(missing)?.text(name);
            let (to, replacement, from, pattern) = (text()?, text()?, text()?, text()?);
            label_replace(vector, &to, &replacement, &from, &pattern).map(Value::Vector)
        }
        "label_join" => {
            let vector = next().ok_or_else(missing)?.vector(name)?;
            let to = next().ok_or_else(missing)?.text(name)?;
            let between = next().ok_or_else(missing)?.text(name)?;
            let from = values.map(|v| v.text(name)).collect::<Result<Vec<_>, _>>()?;
            let joined = |mut labels: Labels| {
                let parts: Vec<&str> = from.iter().map(|n| labels.get(n).map_or("", String::as_str)).collect();
                let value = parts.join(&between);
                set(&mut labels, &to, value);
                labels
            };
            Ok(Value::Vector(vector.into_iter().map(|(labels, v)| (joined(labels), v)).collect()))
        }
        "histogram_quantile" => {
            let at = next().ok_or_else(missing)?.scalar(name)?;
            let vector = next().ok_or_else(missing)?.vector(name)?;
            Ok(Value::Vector(histogram_quantile(at, vector)))
        }
        other => Err(QueryError::unsupported(&format!("the function {other}"))),
    }
}

/// A label that becomes empty is gone.
fn set(labels: &mut Labels, name: &str, value: String) {
    if value.is_empty() {
        labels.remove(name);
    } else {
        labels.insert(name.to_owned(), value);
    }
}

fn label_replace(
    vector: Vec<(Labels, f64)>,
    to: &str,
    replacement: &str,
    from: &str,
    pattern: &str,
) -> Result<Vec<(Labels, f64)>, QueryError> {
    let wrong = |_| QueryError::bad(format!("invalid regular expression in label_replace(): {pattern}"));
    let regex = regex::Regex::new(&format!("^(?s:{pattern})$")).map_err(wrong)?;
    let valid =
        to.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !to.starts_with(|c: char| c.is_ascii_digit());
    if to.is_empty() || !valid {
        return Err(QueryError::bad(format!("invalid destination label name in label_replace(): {to}")));
    }
    let replaced = |mut labels: Labels| {
        let value = labels.get(from).cloned().unwrap_or_default();
        if let Some(found) = regex.captures(&value) {
            let mut text = String::new();
            found.expand(replacement, &mut text);
            set(&mut labels, to, text);
        }
        labels
    };
    Ok(vector.into_iter().map(|(labels, value)| (replaced(labels), value)).collect())
}

/// Interpolates within the buckets of a classic histogram.
fn histogram_quantile(q: f64, vector: Vec<(Labels, f64)>) -> Vec<(Labels, f64)> {
    let mut histograms: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (labels, count) in vector {
        let mut labels = unnamed(labels);
        let Some(bound) = labels.remove("le").and_then(|le| le.parse::<f64>().ok()) else { continue };
        histograms.entry(labels).or_default().push((bound, count));
    }
    let of = |(labels, mut buckets): (Labels, Vec<(f64, f64)>)| {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        (labels, bucket_quantile(q, &buckets))
    };
    histograms.into_iter().map(of).collect()
}

fn bucket_quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
    match q {
        q if q.is_nan() => return f64::NAN,
        q if q < 0.0 => return f64::NEG_INFINITY,
        q if q > 1.0 => return f64::INFINITY,
        _ => {}
    }
    let Some((last, total)) = buckets.last().copied() else { return f64::NAN };
    if last != f64::INFINITY || buckets.len() < 2 || total == 0.0 || total.is_nan() {
        return f64::NAN;
    }
    let rank = q * total;
    let place = buckets[..buckets.len() - 1].iter().position(|(_, count)| *count >= rank).unwrap_or(buckets.len() - 1);
    if place == buckets.len() - 1 {
        return buckets[buckets.len() - 2].0;
    }
    let (end, count) = buckets[place];
    if place == 0 && end <= 0.0 {
        return end;
    }
    let (begin, before) = if place == 0 { (0.0, 0.0) } else { buckets[place - 1] };
    begin + (end - begin) * ((rank - before) / (count - before))
}
