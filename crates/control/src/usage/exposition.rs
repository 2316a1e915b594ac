//! `/metrics`: everything that is counted, for Prometheus to scrape, in the form that it asks for. Instances are those of the projects that the
//! caller sees; nodes and the server itself are for viewers of the cloud.

use super::plain;
use crate::{auth::Caller, core::Control, error::Refusal};
use dropshot::Body;
use http::{Response, header::CONTENT_TYPE};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use std::{fmt, sync::Arc, time::Duration};
use yun_engine::tasks::TaskState;
use yun_measure::{Latest, Subject, SubjectKind, exported, families};
use yun_types::{InstanceState, NodeState, Role};

/// What is told to scrapers that name it; others get the older form.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Pairs = Vec<(String, String)>;

/// What the door counts of itself.
#[derive(Clone)]
pub(crate) struct Counted {
    requests: Family<Pairs, Counter>,
    durations: Family<Pairs, Histogram, fn() -> Histogram>,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

fn histogram() -> Histogram {
    // From half a millisecond to eight seconds.
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.0005, 4.0, 8))
}

impl Default for Counted {
    fn default() -> Self {
        Self { requests: Family::default(), durations: Family::new_with_constructor(histogram) }
    }
}

impl Counted {
    /// Notes one request.
    pub(crate) fn request(&self, operation: &str, status: u16, took: Duration) {
        let operation = ("operation".to_owned(), operation.to_owned());
        self.requests.get_or_create(&vec![operation.clone(), ("code".to_owned(), status.to_string())]).inc();
        self.durations.get_or_create(&vec![operation]).observe(took.as_secs_f64());
    }
}

/// One value of one family.
#[derive(Debug)]
struct Value {
    labels: Pairs,
    value: f64,
}

/// A family with its values.
#[derive(Debug)]
struct Told {
    name: &'static str,
    help: &'static str,
    counter: bool,
    values: Vec<Value>,
}

/// What was true at the moment of the scrape.
#[derive(Debug)]
struct Snapshot(Vec<Told>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for told in self.0.iter().filter(|told| !told.values.is_empty()) {
            // The encoder adds `_total` to counters itself.
            let name = if told.counter { told.name.trim_end_matches("_total") } else { told.name };
            let kind = if told.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, told.help, None, kind)?;
            for value in &told.values {
                let one = family.encode_family(&value.labels)?;
                if told.counter {
                    ConstCounter::new(value.value).encode(one)?;
                } else {
                    ConstGauge::new(value.value).encode(one)?;
                }
            }
        }
        Ok(())
    }
}

fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Pairs {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Everything that the caller may scrape. `accept` is what the request says of forms.
pub(crate) async fn metrics(
    c: &Arc<Control>,
    caller: &Caller,
    accept: Option<&str>,
) -> Result<Response<Body>, Refusal> {
    let cloud = caller.has_cloud(Role::Viewer);
    let mut told = measured(c, caller).await;
    told.push(instances(c, caller));
    let mut registry = Registry::default();
    if cloud {
        told.extend(nodes(c));
        told.extend(tasks(c));
        told.extend(stores(c).await);
        let counted = &c.usage.counted;
        registry.register("yun_api_requests", "Requests that were answered", counted.requests.clone());
        let help = "How long answers took until they began";
        registry.register("yun_api_request_duration_seconds", help, counted.durations.clone());
    }
    registry.register_collector(Box::new(Snapshot(told)));
    let mut body = String::new();
    text::encode(&mut body, &registry).map_err(|e| Refusal::internal("write the metrics", e))?;
    let (form, body) = if plain::wants_open(accept) { (OPEN, body) } else { (plain::FORM, plain::plain(&body)) };
    let response = Response::builder().header(CONTENT_TYPE, form).body(Body::from(body));
    response.map_err(|e| Refusal::internal("write the metrics", e))
}

/// What was measured of instances and nodes.
async fn measured(c: &Arc<Control>, caller: &Caller) -> Vec<Told> {
    let measurements = Arc::clone(&c.usage.measurements);
    let since = c.clock.now().timestamp_millis() - super::ops::NOW;
    let read = move || -> Vec<(Subject, Latest)> {
        let subjects = measurements.subjects(since).into_iter();
        subjects.filter_map(|subject| measurements.newest(subject.id).map(|latest| (subject, latest))).collect()
    };
    let known = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    let sees = |subject: &Subject| match &subject.project {
        Some(project) => caller.sees(project),
        None => caller.has_cloud(Role::Viewer),
    };
    let known: Vec<_> = known
        .into_iter()
        .filter(|(subject, latest)| sees(subject) && latest.at() >= since)
        .map(|(subject, latest)| (subject.kind, exported(&subject).into_iter().collect::<Pairs>(), latest))
        .collect();
    let told = |family: &yun_measure::Family| {
        let of = known.iter().filter(|(kind, ..)| (*kind == SubjectKind::Node) == family.of_nodes);
        let value = |(_, labels, latest): &(SubjectKind, Pairs, Latest)| {
            Some(Value { labels: labels.clone(), value: latest.read(family.metric)? })
        };
        let values = of.filter_map(value).collect();
        Told { name: family.name, help: family.help, counter: family.metric.is_counter(), values }
    };
    families().iter().map(told).collect()
}

fn instances(c: &Control, caller: &Caller) -> Told {
    let rows = c.instances.cache.all(&[]);
    let mut counts: std::collections::BTreeMap<(String, InstanceState, String), f64> = Default::default();
    for row in &rows {
        let instance = &row.value.0;
        let Some(project) = instance.metadata.project.as_ref().filter(|project| caller.sees(project)) else { continue };
        let kind = instance.spec.kind.map(|kind| kind.to_string()).unwrap_or_default();
        *counts.entry((project.to_string(), instance.status.state, kind)).or_default() += 1.0;
    }
    let value = |((project, state, kind), value)| Value {
        labels: pairs([("project", project), ("state", InstanceState::to_string(&state)), ("kind", kind)]),
        value,
    };
    let values = counts.into_iter().map(value).collect();
    Told { name: "yun_instances", help: "Instances by project, state and kind", counter: false, values }
}

fn nodes(c: &Control) -> Vec<Told> {
    let gauge = |name, help| Told { name, help, counter: false, values: Vec::new() };
    let mut all = [
        gauge("yun_node_up", "1 if the node answers"),
        gauge("yun_node_capacity_cpu_cores", "Cores that the node lends"),
        gauge("yun_node_capacity_memory_bytes", "Memory that the node lends"),
        gauge("yun_node_capacity_disk_bytes", "Disk that the node lends"),
        gauge("yun_node_reserved_cpu_cores", "Cores promised to instances"),
        gauge("yun_node_reserved_memory_bytes", "Memory promised to instances"),
        gauge("yun_node_reserved_disk_bytes", "Disk promised to instances"),
    ];
    for row in c.nodes.cache.all(&[]) {
        let node = crate::node::view(c, &row.value);
        let (capacity, reserved) = (node.status.facts.capacity, node.status.reserved);
        let bytes = |bytes: yun_types::Bytes| bytes.0 as f64;
        let cores = |cpu: yun_types::Cpu| f64::from(cpu.0) / 1000.0;
        let values = [
            if node.status.state == NodeState::Ready { 1.0 } else { 0.0 },
            cores(capacity.cpu),
            bytes(capacity.memory),
            bytes(capacity.disk),
            cores(reserved.cpu),
            bytes(reserved.memory),
            bytes(reserved.disk),
        ];
        for (told, value) in all.iter_mut().zip(values) {
            told.values.push(Value { labels: pairs([("node", node.metadata.name.to_string())]), value });
        }
    }
    all.into()
}

/// Background work: reconcilers and keepers. Owners of instances are as many as those, so they are added up.
fn tasks(c: &Control) -> Vec<Told> {
    let counter = |name, help| Told { name, help, counter: true, values: Vec::new() };
    let gauge = |name, help| Told { name, help, counter: false, values: Vec::new() };
    let mut runs = counter("yun_task_runs_total", "How often background work ran");
    let mut failing = gauge("yun_task_failures", "How often in a row it failed");
    let mut panicked = gauge("yun_task_panicked", "1 if it ended by a mistake in the program");
    for task in c.tasks.list() {
        if task.name.matches('/').count() > 1 {
            continue;
        }
        let labels = pairs([("task", task.name.clone())]);
        let count = task.runs as f64;
        runs.values.push(Value { labels: labels.clone(), value: count });
        failing.values.push(Value { labels: labels.clone(), value: f64::from(task.failures) });
        let ended = if task.state == TaskState::Panicked { 1.0 } else { 0.0 };
        panicked.values.push(Value { labels, value: ended });
    }
    vec![runs, failing, panicked]
}

async fn stores(c: &Arc<Control>) -> Vec<Told> {
    let one =
        |name, help, value: f64| Told { name, help, counter: false, values: vec![Value { labels: Vec::new(), value }] };
    let mut told = Vec::new();
    if let Ok(health) = c.store.health().await {
        told.push(one("yun_store_size_bytes", "Bytes of the state", health.size as f64));
        told.push(one("yun_store_limit_bytes", "Bytes from which the state refuses to grow", health.hard as f64));
        told.push(one(
            "yun_store_writable",
            "1 if the state can be written",
            f64::from(u8::from(health.trouble.is_none())),
        ));
    }
    let measurements = Arc::clone(&c.usage.measurements);
    if let Ok(Ok(cost)) = tokio::task::spawn_blocking(move || measurements.footprint()).await {
        told.push(one("yun_measurements_size_bytes", "Bytes of the measurements on disk", cost.disk as f64));
        told.push(one("yun_measurements_head_bytes", "Bytes of the newest measurements in memory", cost.head as f64));
        told.push(one(
            "yun_measurements_subjects",
            "Instances and nodes of which something is known",
            cost.subjects as f64,
        ));
    }
    told
}
