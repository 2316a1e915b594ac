//! The evaluation of a parsed question, step by step.

use super::{
    Labels, NAME, QueryError, Series, Source, aggregate, binary, functions, locate,
    source::alternatives,
    windows::{LOOKBACK, over},
};
use crate::Millis;
use promql_parser::parser::{Call, Expr, MatrixSelector, Offset, VectorSelector};
use std::collections::{BTreeMap, HashMap};

/// The most points of one series in an answer, as in Prometheus.
const MOST_POINTS: i64 = 11_000;
/// How many samples a question may read into memory.
const MOST_SAMPLES: usize = 4_000_000;
/// How much work a question may be: samples looked at and values made.
const MOST_WORK: usize = 60_000_000;
/// How deep a question may be nested.
const DEEPEST: usize = 64;
/// The longest question.
const LONGEST: usize = 16 << 10;

/// The times at which a question is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub from: Millis,
    /// The last, at most.
    pub to: Millis,
    /// Between two.
    pub step: Millis,
}

/// What a question is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// One number.
    Scalar(Millis, f64),
    /// One text.
    Text(Millis, String),
    /// One value of each series.
    Vector(Vec<(Labels, Millis, f64)>),
    /// Several values of each series.
    Matrix(Vec<Series>),
}

/// What an expression is at one step.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(f64),
    Text(String),
    Vector(Vec<(Labels, f64)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            Self::Text(_) => "string",
            Self::Vector(_) => "instant vector",
        }
    }

    pub(super) fn vector(self, of: &str) -> Result<Vec<(Labels, f64)>, QueryError> {
        match self {
            Self::Vector(vector) => Ok(vector),
            other => Err(QueryError::bad(format!("expected an instant vector in {of}, got {}", other.kind()))),
        }
    }

    pub(super) fn scalar(self, of: &str) -> Result<f64, QueryError> {
        match self {
            Self::Scalar(number) => Ok(number),
            other => Err(QueryError::bad(format!("expected a scalar in {of}, got {}", other.kind()))),
        }
    }

    pub(super) fn text(self, of: &str) -> Result<String, QueryError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(QueryError::bad(format!("expected a string in {of}, got {}", other.kind()))),
        }
    }
}

/// Parses a question, or says where it is wrong.
pub(super) fn parse(query: &str) -> Result<Expr, QueryError> {
    if query.len() > LONGEST {
        return Err(QueryError::bad(format!("the query has {} bytes: {LONGEST} are the most", query.len())));
    }
    // The parser calls itself for each bracket.
    let mut depth = 0usize;
    for c in query.chars() {
        depth = match c {
            '(' => depth + 1,
            ')' => depth.saturating_sub(1),
            _ => depth,
        };
        if depth > DEEPEST {
            return Err(QueryError::bad(format!("the query is nested deeper than {DEEPEST} brackets")));
        }
    }
    promql_parser::parser::parse(query).map_err(|message| {
        let quoted = message.split(['\'', '"']).nth(1).filter(|word| !word.is_empty());
        let known = quoted.and_then(|word| locate::word(query, word));
        let (place, what) = match known {
            Some(place) => (place, message),
            None => {
                let (place, what) = locate::first_wrong(query);
                let general = message.contains("invalid promql query") || message.is_empty();
                (place, if general { what } else { message })
            }
        };
        QueryError::bad(format!("{place}: parse error: {what}"))
    })
}

/// A duration as PromQL writes it, as in `5m` or `1h30m`.
pub fn duration(text: &str) -> Option<Millis> {
    promql_parser::util::parse_duration(text).ok().map(millis)
}

/// Answers a question for one time.
pub fn instant(source: &dyn Source, query: &str, at: Millis) -> Result<Answer, QueryError> {
    let expr = parse(query)?;
    let span = Span { from: at, to: at, step: 1 };
    if let Expr::MatrixSelector(selector) = &expr {
        let evaluator = Evaluator::load(source, &expr, span)?;
        return Ok(Answer::Matrix(
            evaluator
                .windows(selector, at)?
                .into_iter()
                .map(|(labels, points)| Series { labels: labels.clone(), points: points.to_vec() })
                .collect(),
        ));
    }
    let mut evaluator = Evaluator::load(source, &expr, span)?;
    Ok(match evaluator.eval(&expr, at, 0)? {
        Value::Scalar(number) => Answer::Scalar(at, number),
        Value::Text(text) => Answer::Text(at, text),
        Value::Vector(vector) => Answer::Vector(vector.into_iter().map(|(labels, v)| (labels, at, v)).collect()),
    })
}

/// Answers a question for each step of a span.
pub fn range(source: &dyn Source, query: &str, span: Span) -> Result<Answer, QueryError> {
    if span.step <= 0 {
        return Err(QueryError::bad(
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    if span.to < span.from {
        return Err(QueryError::bad("invalid parameter \"end\": end timestamp must not be before start time"));
    }
    if (span.to - span.from) / span.step > MOST_POINTS {
        return Err(QueryError::bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let expr = parse(query)?;
    if matches!(expr, Expr::MatrixSelector(_) | Expr::StringLiteral(_)) {
        return Err(QueryError::bad(
            "invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ));
    }
    let mut evaluator = Evaluator::load(source, &expr, span)?;
    let mut series: BTreeMap<Labels, Vec<(Millis, f64)>> = BTreeMap::new();
    let mut at = span.from;
    while at <= span.to {
        match evaluator.eval(&expr, at, 0)? {
            Value::Scalar(number) => series.entry(Labels::new()).or_default().push((at, number)),
            Value::Text(_) => return Err(QueryError::bad("a string has no range")),
            Value::Vector(vector) => {
                evaluator.work(vector.len())?;
                for (labels, value) in vector {
                    let points = series.entry(labels).or_default();
                    if points.last().is_some_and(|(last, _)| *last == at) {
                        return Err(QueryError::execution("vector cannot contain metrics with the same labelset"));
                    }
                    points.push((at, value));
                }
            }
        }
        at += span.step;
    }
    Ok(Answer::Matrix(series.into_iter().map(|(labels, points)| Series { labels, points }).collect()))
}

/// A series and its points in a window.
type Window<'s> = (&'s Labels, &'s [(Millis, f64)]);

/// Evaluates one question. All that its selectors need was read before.
pub(super) struct Evaluator {
    loaded: HashMap<*const VectorSelector, Vec<Series>>,
    left: usize,
}

impl Evaluator {
    fn load(source: &dyn Source, expr: &Expr, span: Span) -> Result<Self, QueryError> {
        let mut evaluator = Self { loaded: HashMap::new(), left: MOST_WORK };
        let mut budget = MOST_SAMPLES;
        evaluator.gather(source, expr, span, &mut budget, 0)?;
        Ok(evaluator)
    }

    fn gather(
        &mut self,
        source: &dyn Source,
        expr: &Expr,
        span: Span,
        budget: &mut usize,
        depth: usize,
    ) -> Result<(), QueryError> {
        if depth > 4 * DEEPEST {
            return Err(QueryError::bad("the query is nested too deep"));
        }
        let mut select = |selector: &VectorSelector, back: Millis| {
            if selector.at.is_some() {
                return Err(QueryError::unsupported("the modifier @"));
            }
            let offset = offset(selector);
            let found = source.select(&alternatives(selector), span.from - offset - back, span.to - offset, budget)?;
            self.loaded.insert(std::ptr::from_ref(selector), found);
            Ok(())
        };
        let inside: Vec<&Expr> = match expr {
            Expr::VectorSelector(selector) => return select(selector, LOOKBACK),
            Expr::MatrixSelector(selector) => return select(&selector.vs, millis(selector.range)),
            Expr::Aggregate(e) => e.param.iter().map(|p| &**p).chain([&*e.expr]).collect(),
            Expr::Unary(e) => vec![&e.expr],
            Expr::Binary(e) => vec![&e.lhs, &e.rhs],
            Expr::Paren(e) => vec![&e.expr],
            Expr::Call(e) => e.args.args.iter().map(|arg| &**arg).collect(),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => return Ok(()),
            Expr::Subquery(_) => return Err(QueryError::unsupported("a subquery")),
            Expr::Extension(_) => return Err(QueryError::unsupported("this extension")),
        };
        inside.into_iter().try_for_each(|expr| self.gather(source, expr, span, budget, depth + 1))
    }

    /// Counts work, and ends questions that are too much of it.
    pub(super) fn work(&mut self, amount: usize) -> Result<(), QueryError> {
        self.left = self.left.checked_sub(amount.max(1)).ok_or_else(|| {
            QueryError::execution("the query is too much work: ask for fewer series, a shorter time or a larger step")
        })?;
        Ok(())
    }

    /// The series of a range selector, each with its points in the window that ends at a step.
    fn windows(&self, selector: &MatrixSelector, at: Millis) -> Result<Vec<Window<'_>>, QueryError> {
        let loaded = self.loaded.get(&std::ptr::from_ref(&selector.vs)).map_or(&[][..], Vec::as_slice);
        let at = at - offset(&selector.vs);
        let window = |series: &'_ Series| over(&series.points, at - millis(selector.range), at);
        let windows = loaded.iter().map(|series| (&series.labels, &series.points[window(series)]));
        Ok(windows.filter(|(_, points)| !points.is_empty()).collect())
    }

    /// What an expression is at one step.
    pub(super) fn eval(&mut self, expr: &Expr, at: Millis, depth: usize) -> Result<Value, QueryError> {
        match expr {
            Expr::NumberLiteral(number) => Ok(Value::Scalar(number.val)),
            Expr::StringLiteral(text) => Ok(Value::Text(text.val.clone())),
            Expr::Paren(inner) => self.eval(&inner.expr, at, depth + 1),
            Expr::Unary(inner) => Ok(match self.eval(&inner.expr, at, depth + 1)? {
                Value::Scalar(number) => Value::Scalar(-number),
                other => {
                    let vector = other.vector("a negation")?;
                    Value::Vector(vector.into_iter().map(|(labels, v)| (unnamed(labels), -v)).collect())
                }
            }),
            Expr::VectorSelector(selector) => self.instant_vector(selector, at).map(Value::Vector),
            Expr::Aggregate(aggregation) => {
                let param = aggregation.param.as_ref().map(|p| self.eval(p, at, depth + 1)).transpose()?;
                let vector = self.eval(&aggregation.expr, at, depth + 1)?.vector("an aggregation")?;
                self.work(vector.len())?;
                aggregate::aggregate(aggregation, param, vector).map(Value::Vector)
            }
            Expr::Binary(operation) => {
                let lhs = self.eval(&operation.lhs, at, depth + 1)?;
                let rhs = self.eval(&operation.rhs, at, depth + 1)?;
                if let (Value::Vector(a), Value::Vector(b)) = (&lhs, &rhs) {
                    self.work(a.len() + b.len())?;
                }
                binary::binary(operation, lhs, rhs)
            }
            Expr::Call(call) => self.call(call, at, depth),
            Expr::MatrixSelector(_) => Err(QueryError::bad(
                "a range vector stands where an instant vector is needed: use a function such as rate(…[5m])",
            )),
            Expr::Subquery(_) => Err(QueryError::unsupported("a subquery")),
            Expr::Extension(_) => Err(QueryError::unsupported("this extension")),
        }
    }

    fn instant_vector(&mut self, selector: &VectorSelector, at: Millis) -> Result<Vec<(Labels, f64)>, QueryError> {
        let at = at - offset(selector);
        let loaded = self.loaded.get(&std::ptr::from_ref(selector)).map_or(&[][..], Vec::as_slice);
        let found: Vec<_> = loaded
            .iter()
            .filter_map(|series| Some((series.labels.clone(), super::windows::newest(&series.points, at)?.1)))
            .collect();
        self.work(found.len())?;
        Ok(found)
    }

    fn call(&mut self, call: &Call, at: Millis, depth: usize) -> Result<Value, QueryError> {
        let name = call.func.name;
        let args = &call.args.args;
        let is_range = |arg: &Expr| {
            let mut arg = arg;
            while let Expr::Paren(inner) = arg {
                arg = &inner.expr;
            }
            if let Expr::MatrixSelector(selector) = arg { Some(selector.clone()) } else { None }
        };
        if let Some(place) = args.iter().position(|arg| is_range(arg).is_some()) {
            let mut numbers = Vec::new();
            for (n, arg) in args.iter().enumerate().filter(|(n, _)| *n != place) {
                let _ = n;
                numbers.push(self.eval(arg, at, depth + 1)?.scalar(name)?);
            }
            let mut arg = &*args[place];
            while let Expr::Paren(inner) = arg {
                arg = &inner.expr;
            }
            let Expr::MatrixSelector(selector) = arg else { return Err(QueryError::unsupported(name)) };
            let end = at - offset(&selector.vs);
            let begin = end - millis(selector.range);
            let (mut out, mut looked) = (Vec::new(), 0);
            for (labels, points) in self.windows(selector, at)? {
                looked += points.len();
                if let Some(value) = functions::over_time(name, points, begin, end, &numbers)? {
                    let labels = if name == "last_over_time" { labels.clone() } else { unnamed(labels.clone()) };
                    out.push((labels, value));
                }
            }
            self.work(looked)?;
            if name == "absent_over_time" {
                return Err(QueryError::unsupported("the function absent_over_time"));
            }
            return Ok(Value::Vector(out));
        }
        // `timestamp` of a selector is the time of its sample.
        if let ("timestamp", Some(Expr::VectorSelector(selector))) = (name, args.first().map(|arg| &**arg)) {
            let moved = at - offset(selector);
            let loaded = self.loaded.get(&std::ptr::from_ref(selector)).map_or(&[][..], Vec::as_slice);
            let times = loaded.iter().filter_map(|series| {
                let (time, _) = super::windows::newest(&series.points, moved)?;
                Some((unnamed(series.labels.clone()), functions::seconds(time)))
            });
            return Ok(Value::Vector(times.collect()));
        }
        let mut values = Vec::new();
        for arg in args {
            values.push(self.eval(arg, at, depth + 1)?);
        }
        let size = values.iter().map(|v| if let Value::Vector(v) = v { v.len() } else { 1 }).sum();
        self.work(size)?;
        functions::call(name, args, values, at)
    }
}

/// Without the name of the family: what a function or an operation made is no longer that.
pub(super) fn unnamed(mut labels: Labels) -> Labels {
    labels.remove(NAME);
    labels
}

fn millis(duration: std::time::Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4).min(Millis::MAX / 4)
}

/// How far back a selector looks.
fn offset(selector: &VectorSelector) -> Millis {
    match &selector.offset {
        None => 0,
        Some(Offset::Pos(duration)) => millis(*duration),
        Some(Offset::Neg(duration)) => -millis(*duration),
    }
}
