//! PromQL over measurements: the questions that Grafana, promtool and people ask. Parsing is `promql-parser`'s; evaluation is here, by the
//! rules of <https://prometheus.io/docs/prometheus/latest/querying/basics/>. What is not supported is refused by name, never answered wrong.
//!
//! Two things differ from Prometheus, because we know how often is measured: a series ends a minute after its last fine sample (five minutes
//! there), and what is older than a day has a point each five minutes, so that rates there need `[15m]` or more.
//!
//! Words: a *source* gives series to selectors; a *step* is one time at which a question is evaluated.

mod aggregate;
mod binary;
mod error;
mod eval;
mod functions;
mod locate;
mod source;
mod windows;

pub use error::{Class, QueryError};
pub use eval::{Answer, Span, duration, instant, range};
pub use source::{OverMeasurements, Source, selector};

use crate::Millis;
use std::collections::BTreeMap;

/// Labels, with the name of the family as `__name__`.
pub type Labels = BTreeMap<String, String>;

/// The label that holds the family's name.
pub(crate) const NAME: &str = "__name__";

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Which.
    pub labels: Labels,
    /// Its points, the oldest first.
    pub points: Vec<(Millis, f64)>,
}

#[cfg(test)]
mod tests;
