//! Operations between two sides: arithmetic, comparison, sets, with one-to-one and many-to-one matching.

use super::{
    Labels, QueryError,
    aggregate::signature,
    eval::{Value, unnamed},
};
use promql_parser::parser::{BinModifier, BinaryExpr, LabelModifier, VectorMatchCardinality, token};
use std::collections::{HashMap, HashSet};

fn is_comparison(op: token::TokenId) -> bool {
    matches!(op, token::T_EQLC | token::T_NEQ | token::T_GTR | token::T_LSS | token::T_GTE | token::T_LTE)
}

/// Arithmetic gives its result; a comparison gives whether it holds, as 1 or 0.
fn apply(op: token::TokenId, a: f64, b: f64) -> Option<f64> {
    let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
    Some(match op {
        token::T_ADD => a + b,
        token::T_SUB => a - b,
        token::T_MUL => a * b,
        token::T_DIV => a / b,
        token::T_MOD => a % b,
        token::T_POW => a.powf(b),
        token::T_ATAN2 => a.atan2(b),
        token::T_EQLC => truth(a == b),
        token::T_NEQ => truth(a != b),
        token::T_GTR => truth(a > b),
        token::T_LSS => truth(a < b),
        token::T_GTE => truth(a >= b),
        token::T_LTE => truth(a <= b),
        _ => return None,
    })
}

pub(super) fn binary(operation: &BinaryExpr, lhs: Value, rhs: Value) -> Result<Value, QueryError> {
    let op = operation.op.id();
    let as_bool = operation.modifier.as_ref().is_some_and(|m| m.return_bool);
    let calculate = |a: f64, b: f64| {
        apply(op, a, b).ok_or_else(|| QueryError::unsupported(&format!("the operator {}", operation.op)))
    };
    // A comparison without `bool` keeps what it holds for, as it was.
    let keep = |labels: Labels, value: f64, a: f64, b: f64| -> Result<Option<(Labels, f64)>, QueryError> {
        let result = calculate(a, b)?;
        Ok(match (is_comparison(op), as_bool) {
            (true, false) => (result == 1.0).then_some((labels, value)),
            _ => Some((unnamed(labels), result)),
        })
    };
    match (lhs, rhs) {
        (Value::Scalar(a), Value::Scalar(b)) => calculate(a, b).map(Value::Scalar),
        (Value::Vector(vector), Value::Scalar(b)) => {
            let all = vector.into_iter().map(|(labels, a)| keep(labels, a, a, b));
            Ok(Value::Vector(all.filter_map(Result::transpose).collect::<Result<_, _>>()?))
        }
        (Value::Scalar(a), Value::Vector(vector)) => {
            let all = vector.into_iter().map(|(labels, b)| keep(labels, b, a, b));
            Ok(Value::Vector(all.filter_map(Result::transpose).collect::<Result<_, _>>()?))
        }
        (Value::Vector(a), Value::Vector(b)) => {
            let default = BinModifier::default();
            let modifier = operation.modifier.as_ref().unwrap_or(&default);
            if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
                return Err(QueryError::unsupported("the modifier fill"));
            }
            match op {
                token::T_LAND | token::T_LOR | token::T_LUNLESS => Ok(Value::Vector(sets(op, modifier, a, b))),
                _ => matched(op, modifier, a, b, &calculate).map(Value::Vector),
            }
        }
        _ => Err(QueryError::bad("a string cannot be calculated with")),
    }
}

fn sets(
    op: token::TokenId,
    modifier: &BinModifier,
    a: Vec<(Labels, f64)>,
    b: Vec<(Labels, f64)>,
) -> Vec<(Labels, f64)> {
    let by = modifier.matching.as_ref();
    let of = |side: &[(Labels, f64)]| -> HashSet<Labels> { side.iter().map(|(l, _)| signature(by, l)).collect() };
    match op {
        token::T_LAND => {
            let there = of(&b);
            a.into_iter().filter(|(labels, _)| there.contains(&signature(by, labels))).collect()
        }
        token::T_LUNLESS => {
            let there = of(&b);
            a.into_iter().filter(|(labels, _)| !there.contains(&signature(by, labels))).collect()
        }
        _ => {
            let here = of(&a);
            let more = b.into_iter().filter(|(labels, _)| !here.contains(&signature(by, labels)));
            a.into_iter().chain(more).collect()
        }
    }
}

fn matched(
    op: token::TokenId,
    modifier: &BinModifier,
    a: Vec<(Labels, f64)>,
    b: Vec<(Labels, f64)>,
    calculate: &dyn Fn(f64, f64) -> Result<f64, QueryError>,
) -> Result<Vec<(Labels, f64)>, QueryError> {
    let by = modifier.matching.as_ref();
    // The side of which each series may be met more than once is `many`.
    let (many, one, swapped, taken) = match &modifier.card {
        VectorMatchCardinality::OneToOne => (a, b, false, None),
        VectorMatchCardinality::ManyToOne(taken) => (a, b, false, Some(taken)),
        VectorMatchCardinality::OneToMany(taken) => (b, a, true, Some(taken)),
        VectorMatchCardinality::ManyToMany => return Err(QueryError::unsupported("many-to-many matching")),
    };
    let side = |many: bool| if many == swapped { "right" } else { "left" };
    let mut partners: HashMap<Labels, (Labels, f64)> = HashMap::new();
    for (labels, value) in one {
        let signature = signature(by, &labels);
        if let Some((other, _)) = partners.insert(signature.clone(), (labels.clone(), value)) {
            return Err(QueryError::execution(format!(
                "found duplicate series for the match group {} on the {} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                shown(&signature),
                side(false),
                shown(&labels),
                shown(&other)
            )));
        }
    }
    let mut met: HashSet<Labels> = HashSet::new();
    let mut out = Vec::new();
    for (labels, value) in many {
        let signature = signature(by, &labels);
        let Some((partner, other)) = partners.get(&signature) else { continue };
        let (x, y) = if swapped { (*other, value) } else { (value, *other) };
        let result = calculate(x, y)?;
        let filters = is_comparison(op) && !modifier.return_bool;
        if filters && result != 1.0 {
            continue;
        }
        let result = if filters { x } else { result };
        let mut kept = if filters { labels.clone() } else { unnamed(labels.clone()) };
        match taken {
            Some(taken) => {
                for name in &taken.labels {
                    match partner.get(name) {
                        Some(value) => kept.insert(name.clone(), value.clone()),
                        None => kept.remove(name),
                    };
                }
            }
            None => {
                if !met.insert(signature.clone()) {
                    return Err(QueryError::execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                match by {
                    Some(LabelModifier::Include(on)) => kept.retain(|name, _| on.labels.contains(name)),
                    Some(LabelModifier::Exclude(ignoring)) => kept.retain(|name, _| !ignoring.labels.contains(name)),
                    None => {}
                }
            }
        }
        out.push((kept, result));
    }
    if taken.is_some() {
        let mut seen = HashSet::new();
        if let Some((labels, _)) = out.iter().find(|(labels, _)| !seen.insert(labels.clone())) {
            return Err(QueryError::execution(format!(
                "multiple matches for labels: grouping labels must ensure unique matches ({})",
                shown(labels)
            )));
        }
    }
    Ok(out)
}

fn shown(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}
