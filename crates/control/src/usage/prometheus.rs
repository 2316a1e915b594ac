//! The query API of Prometheus, for Grafana, promtool and others that ask in PromQL: reads the request, lets `yun_measure` answer, and
//! writes the answer as <https://prometheus.io/docs/prometheus/latest/querying/api/> says. A caller finds the series of the projects that
//! they see; those of nodes are for viewers of the cloud.

use crate::{auth::Caller, core::Control, error::Refusal};
use dropshot::Body;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};
use yun_measure::{
    Measurements, Millis, Subject, families,
    promql::{self, Answer, Class, Labels, OverMeasurements, QueryError, Series, Span},
};
use yun_types::Role;

/// The most series or values that one list holds.
const MOST_LISTED: usize = 20_000;

/// Which question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One time.
    Query,
    /// A span of time.
    QueryRange,
    /// Which series there are.
    Series,
    /// Which labels there are.
    Labels,
    /// Which values a label has.
    Values(String),
    /// What the families are.
    Metadata,
    /// Which server this is.
    BuildInfo,
}

/// The parameters of a request: those of its address, and those of its body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads both; either may be absent.
    pub(crate) fn new(query: Option<&str>, body: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).chain(form_urlencoded::parse(body));
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn needed(&self, name: &str) -> Result<&str, QueryError> {
        self.one(name).ok_or_else(|| QueryError::bad(format!("invalid parameter {name:?}: it is missing")))
    }

    fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn time(&self, name: &str) -> Result<Option<Millis>, QueryError> {
        self.one(name).map(|text| time(name, text)).transpose()
    }
}

/// Seconds since 1970, or a time of RFC 3339.
fn time(name: &str, text: &str) -> Result<Millis, QueryError> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.abs() < 1e11);
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let millis = seconds.map(|seconds| (seconds * 1000.0).round() as Millis);
    let date = || chrono::DateTime::parse_from_rfc3339(text).ok().map(|date| date.timestamp_millis());
    millis.or_else(date).ok_or_else(|| {
        QueryError::bad(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"))
    })
}

/// Seconds, or a duration as in `5m`.
fn step(text: &str) -> Result<Millis, QueryError> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e9).contains(seconds));
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let millis = seconds.map(|seconds| (seconds * 1000.0).round() as Millis);
    millis.or_else(|| promql::duration(text)).ok_or_else(|| {
        QueryError::bad(format!("invalid parameter \"step\": cannot parse {text:?} to a valid duration"))
    })
}

/// Answers a question.
pub(crate) async fn answer(
    c: &Arc<Control>,
    caller: Caller,
    ask: Ask,
    params: Params,
) -> Result<Response<Body>, Refusal> {
    let now = c.clock.now().timestamp_millis();
    let measurements = Arc::clone(&c.usage.measurements);
    // Two questions at a time: more would only take more memory.
    let turn = c.usage.questions.acquire().await;
    let work = move || {
        let sees = |subject: &Subject| match &subject.project {
            Some(project) => caller.sees(project),
            None => caller.has_cloud(Role::Viewer),
        };
        reply(&measurements, sees, &ask, &params, now)
    };
    let answered = tokio::task::spawn_blocking(work).await;
    drop(turn);
    let answered = answered.map_err(|e| Refusal::internal("answer a query", e))?;
    let (status, text) = match answered {
        Ok(data) => (StatusCode::OK, format!("{{\"status\":\"success\",\"data\":{data}}}")),
        Err(error) => {
            let status = match error.class {
                Class::BadData => StatusCode::BAD_REQUEST,
                Class::Execution => StatusCode::UNPROCESSABLE_ENTITY,
                Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let body = json!({ "status": "error", "errorType": error.class.word(), "error": error.message });
            (status, body.to_string())
        }
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    response.body(Body::from(text)).map_err(|e| Refusal::internal("answer a query", e))
}

fn reply(
    measurements: &Measurements,
    sees: impl Fn(&Subject) -> bool,
    ask: &Ask,
    params: &Params,
    now: Millis,
) -> Result<String, QueryError> {
    let source = OverMeasurements { measurements, sees };
    match ask {
        Ask::Query => {
            let at = params.time("time")?.unwrap_or(now);
            promql::instant(&source, params.needed("query")?, at).map(|answer| written(&answer))
        }
        Ask::QueryRange => {
            let needed = |name| params.needed(name).and_then(|text| time(name, text));
            let span = Span { from: needed("start")?, to: needed("end")?, step: step(params.needed("step")?)? };
            promql::range(&source, params.needed("query")?, span).map(|answer| written(&answer))
        }
        Ask::Series => {
            if params.all("match[]").next().is_none() {
                return Err(QueryError::bad("no match[] parameter provided"));
            }
            let found = matching(&source, params, now)?;
            Ok(json!(found.into_iter().take(MOST_LISTED).collect::<BTreeSet<Labels>>()).to_string())
        }
        Ask::Labels => {
            let found = matching(&source, params, now)?;
            let names: BTreeSet<String> = found.into_iter().flat_map(BTreeMap::into_keys).collect();
            Ok(json!(names).to_string())
        }
        Ask::Values(label) => {
            let valid = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !valid {
                return Err(QueryError::bad(format!("invalid label name: {label:?}")));
            }
            let found = matching(&source, params, now)?;
            let values: BTreeSet<String> = found.into_iter().filter_map(|mut labels| labels.remove(label)).collect();
            Ok(json!(values.into_iter().take(MOST_LISTED).collect::<Vec<_>>()).to_string())
        }
        Ask::Metadata => Ok(metadata(params.one("metric")).to_string()),
        Ask::BuildInfo => Ok(json!({
            // Grafana asks for the version to know what it may ask for: that of the API that we follow.
            "version": "2.42.0", "revision": env!("CARGO_PKG_VERSION"), "branch": "yun", "buildUser": "", "buildDate": "", "goVersion": "",
        })
        .to_string()),
    }
}

/// The series that the request's `match[]` name; all if it has none.
fn matching<F: Fn(&Subject) -> bool>(
    source: &OverMeasurements<'_, F>,
    params: &Params,
    now: Millis,
) -> Result<Vec<Labels>, QueryError> {
    // A day, if the request does not say.
    let from = params.time("start")?.unwrap_or(now - 86_400_000);
    let to = params.time("end")?.unwrap_or(now);
    if to < from {
        return Err(QueryError::bad("invalid parameter \"end\": end timestamp must not be before start time"));
    }
    let mut alternatives = Vec::new();
    for text in params.all("match[]") {
        alternatives.extend(promql::selector(text)?);
    }
    Ok(source.labels((!alternatives.is_empty()).then_some(&alternatives[..]), from))
}

fn metadata(only: Option<&str>) -> Value {
    let shown = families().iter().filter(|family| only.is_none_or(|name| name == family.name));
    let entry = |family: &yun_measure::Family| {
        let kind = if family.metric.is_counter() { "counter" } else { "gauge" };
        (family.name.to_owned(), json!([{ "type": kind, "help": family.help, "unit": "" }]))
    };
    Value::Object(shown.map(entry).collect())
}

/// A number as Prometheus writes it.
fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        v => v.to_string(),
    }
}

fn point(out: &mut String, at: Millis, value: f64) {
    // Writing to a text does not fail.
    let _ = write!(out, "[{}.{:03},\"{}\"]", at.div_euclid(1000), at.rem_euclid(1000), number(value));
}

/// The data of an answer. Written by hand, because a month of many series is long.
fn written(answer: &Answer) -> String {
    let mut out = String::new();
    match answer {
        Answer::Scalar(at, value) => {
            out.push_str("{\"resultType\":\"scalar\",\"result\":");
            point(&mut out, *at, *value);
        }
        Answer::Text(at, text) => {
            let at = format!("{}.{:03}", at.div_euclid(1000), at.rem_euclid(1000));
            let _ = write!(out, "{{\"resultType\":\"string\",\"result\":[{at},{}]", json!(text));
        }
        Answer::Vector(vector) => {
            out.push_str("{\"resultType\":\"vector\",\"result\":[");
            for (n, (labels, at, value)) in vector.iter().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(out, "{comma}{{\"metric\":{},\"value\":", json!(labels));
                point(&mut out, *at, *value);
                out.push('}');
            }
            out.push(']');
        }
        Answer::Matrix(all) => {
            out.push_str("{\"resultType\":\"matrix\",\"result\":[");
            for (n, Series { labels, points }) in all.iter().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(out, "{comma}{{\"metric\":{},\"values\":[", json!(labels));
                for (n, (at, value)) in points.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    point(&mut out, *at, *value);
                }
                out.push_str("]}");
            }
            out.push(']');
        }
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_steps_have_two_forms() {
        assert_eq!(time("time", "1700000000.5").unwrap(), 1_700_000_000_500);
        assert_eq!(time("time", "2023-11-14T22:13:20Z").unwrap(), 1_700_000_000_000);
        assert!(time("start", "yesterday").unwrap_err().message.contains("\"start\""));
        assert!(time("start", "1e300").is_err() && time("start", "NaN").is_err());
        assert_eq!((step("15").unwrap(), step("1m30s").unwrap(), step("0.5").unwrap()), (15_000, 90_000, 500));
        assert!(step("soon").unwrap_err().message.contains("\"step\""));
    }

    #[test]
    fn parameters_come_from_both_places() {
        let params = Params::new(Some("match[]=a&match%5B%5D=b&empty="), b"query=up%7Bx%3D%22y%22%7D");
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((params.one("query"), params.one("empty")), (Some("up{x=\"y\"}"), None));
        assert!(params.needed("step").unwrap_err().message.contains("missing"));
    }

    #[test]
    fn answers_are_what_prometheus_writes() {
        let labels = Labels::from([("i".to_owned(), "a\"b".to_owned())]);
        let vector = Answer::Vector(vec![(labels.clone(), 1_500, f64::INFINITY)]);
        assert_eq!(
            written(&vector),
            r#"{"resultType":"vector","result":[{"metric":{"i":"a\"b"},"value":[1.500,"+Inf"]}]}"#
        );
        let matrix = Answer::Matrix(vec![Series { labels, points: vec![(0, 0.5), (1000, f64::NAN)] }]);
        let text =
            r#"{"resultType":"matrix","result":[{"metric":{"i":"a\"b"},"values":[[0.000,"0.5"],[1.000,"NaN"]]}]}"#;
        assert_eq!(written(&matrix), text);
        assert_eq!(written(&Answer::Scalar(1, 2.0)), r#"{"resultType":"scalar","result":[0.001,"2"]}"#);
        for answer in [Answer::Text(0, "x".into()), vector, matrix] {
            assert!(serde_json::from_str::<Value>(&written(&answer)).is_ok());
        }
    }
}
