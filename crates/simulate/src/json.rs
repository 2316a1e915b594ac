//! A pool and requests of one's own, as JSON: what would be placed, and why the rest waits.

use crate::{Progress, TraceError, table};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};
use yun_plan::pool::{
    Affinity, Attributes, Domain, Force, Gang, Labels, Policy, Pool, Reason, Request, RequestId, Requirement, Spread,
    Taint, Test, Toleration, Vector,
};

/// What is simulated.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    dimensions: Vec<String>,
    nodes: Vec<Nodes>,
    requests: Vec<Asked>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nodes {
    #[serde(default = "one")]
    count: usize,
    capacity: Vec<i64>,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    rack: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    taints: BTreeMap<String, String>,
    #[serde(default)]
    performance: u8,
    #[serde(default)]
    cordoned: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    #[serde(default = "one")]
    count: usize,
    shape: Vec<i64>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    want: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    tolerate: Vec<String>,
    #[serde(default)]
    affinity: Vec<Neighbours>,
    #[serde(default)]
    spread: Vec<Evenly>,
    #[serde(default)]
    policy: Good,
    #[serde(default)]
    priority: u8,
    /// All or none.
    #[serde(default)]
    gang: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Neighbours {
    to: Labels,
    domain: Where,
    #[serde(default)]
    anti: bool,
    prefer: Option<u8>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evenly {
    of: Labels,
    domain: Where,
    #[serde(default = "one_more")]
    skew: u32,
    prefer: Option<u8>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Where {
    Node,
    Rack,
    Zone,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Good {
    #[default]
    Pack,
    Spread,
    Performance,
}

fn one() -> usize {
    1
}

fn one_more() -> u32 {
    1
}

impl From<Where> for Domain {
    fn from(place: Where) -> Self {
        match place {
            Where::Node => Self::Node,
            Where::Rack => Self::Rack,
            Where::Zone => Self::Zone,
        }
    }
}

/// What came of one request.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// How many were asked for.
    pub asked: usize,
    /// How many have a place.
    pub placed: usize,
    /// On how many nodes.
    pub nodes: usize,
    /// Why not more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What came of all.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// By request.
    pub requests: Vec<Answer>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them hold something.
    pub nodes_in_use: usize,
    /// Groups of nodes that were alike at the end.
    pub cells: usize,
    /// Placements a second.
    pub placements_per_second: f64,
}

/// Reads the input. Anything unknown in it is refused with its line and column.
pub fn read(path: &Path) -> Result<Input, TraceError> {
    let text = table::text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        TraceError::broken(
            path,
            e.line() as u64,
            e.column(),
            e.to_string().split(" at line").next().unwrap_or_default(),
        )
    })
}

fn force(prefer: Option<u8>) -> Force {
    prefer.map_or(Force::Required, |weight| Force::Preferred(weight.clamp(1, 100)))
}

impl Asked {
    fn request(&self) -> Result<Request, String> {
        let shape = Vector::asked(&self.shape).map_err(|e| format!("request {}: {e}", self.name))?;
        if self.priority > 7 {
            return Err(format!("request {}: priority {} is above 7, the highest", self.name, self.priority));
        }
        let neighbours = |n: &Neighbours| Affinity {
            to: n.to.clone(),
            domain: n.domain.into(),
            anti: n.anti,
            force: force(n.prefer),
        };
        let evenly =
            |e: &Evenly| Spread { of: e.of.clone(), domain: e.domain.into(), skew: e.skew, force: force(e.prefer) };
        Ok(Request {
            shape,
            labels: self.labels.clone(),
            wants: self
                .want
                .iter()
                .map(|(key, values)| Requirement { key: key.clone(), test: Test::In(values.clone()) })
                .collect(),
            tolerates: self.tolerate.iter().map(|key| Toleration { key: key.clone(), value: None }).collect(),
            affinity: self.affinity.iter().map(neighbours).collect(),
            spread: self.spread.iter().map(evenly).collect(),
            near: None,
            policy: match self.policy {
                Good::Pack => Policy::Pack,
                Good::Spread => Policy::Spread,
                Good::Performance => Policy::Performance,
            },
            priority: self.priority,
            cost: 0,
        })
    }
}

/// Places everything in order.
pub fn play(path: &Path, input: &Input, progress: Progress<'_>) -> Result<Outcome, TraceError> {
    let wrong = |problem: String| TraceError::senseless(path, problem);
    let mut pool = Pool::new(input.dimensions.clone());
    let mut id = 0;
    for nodes in &input.nodes {
        let capacity = Vector::new(&nodes.capacity).map_err(|e| wrong(format!("nodes: {e}")))?;
        if nodes.capacity.len() > input.dimensions.len() {
            return Err(wrong(format!(
                "nodes: the capacity has {} parts, and there are {} dimensions",
                nodes.capacity.len(),
                input.dimensions.len()
            )));
        }
        let attributes = Attributes {
            zone: nodes.zone.clone(),
            rack: nodes.rack.clone(),
            labels: nodes.labels.clone(),
            taints: nodes.taints.iter().map(|(key, value)| Taint { key: key.clone(), value: value.clone() }).collect(),
            performance: nodes.performance.min(7),
            cordoned: nodes.cordoned,
            lost: false,
        };
        for _ in 0..nodes.count {
            pool.add_node(id, capacity, &attributes);
            id += 1;
        }
    }
    let requests: Vec<Request> = input.requests.iter().map(Asked::request).collect::<Result<_, _>>().map_err(wrong)?;
    let all: usize = input.requests.iter().map(|asked| asked.count).sum();
    let (mut done, mut placed_in_all, mut answers, mut seconds) = (0, 0, Vec::new(), 0.0);
    for (asked, request) in input.requests.iter().zip(&requests) {
        let request = pool.request(request);
        let mut nodes = BTreeSet::new();
        let start = Instant::now();
        let placed = if asked.gang {
            match pool.place_gang(request, asked.count) {
                Gang::Placed { members, .. } => {
                    nodes.extend(members.iter().map(|(node, _)| *node));
                    members.len()
                }
                Gang::Waits { .. } => 0,
            }
        } else {
            let mut so_far = 0;
            pool.place_many(request, asked.count, |node, _| {
                nodes.insert(node);
                so_far += 1;
                if so_far % 65_536 == 0 {
                    progress((done + so_far) as u64, all as u64);
                }
            })
        };
        seconds += start.elapsed().as_secs_f64();
        done += asked.count;
        placed_in_all += placed;
        progress(done as u64, all as u64);
        let why = (placed < asked.count).then(|| why(&mut pool, request));
        answers.push(Answer { name: asked.name.clone(), asked: asked.count, placed, nodes: nodes.len(), why });
    }
    Ok(Outcome {
        requests: answers,
        nodes: pool.nodes(),
        nodes_in_use: pool.occupied(),
        cells: pool.cells(),
        placements_per_second: (placed_in_all as f64 / f64::max(seconds, 1e-9)).round(),
    })
}

/// In words why a request does not fit now.
fn why(pool: &mut Pool, request: RequestId) -> String {
    if let Some(impossible) = pool.impossible(request) {
        return impossible.to_string();
    }
    let why = pool.why(request);
    let refused = why.refused.iter().map(|(reason, (nodes, least))| match reason {
        Reason::Lost => format!("{nodes} lost"),
        Reason::Cordoned => format!("{nodes} cordoned"),
        Reason::Want(want) => format!("{nodes} not {want}"),
        Reason::Tainted(taint) => format!("{nodes} tainted {taint}"),
        Reason::Others(rule) => format!("{nodes} kept from it by: {rule}"),
        Reason::Short(d) => format!("{nodes} short of at least {least} {}", pool.dimension(*d)),
    });
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() {
        format!("{} of {} nodes have room for one", why.fit, why.nodes)
    } else {
        format!("of {} nodes {}", why.nodes, refused.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn outcome(text: &str) -> Result<Outcome, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        fs::write(&path, text).unwrap();
        let played = read(&path).and_then(|input| play(&path, &input, &|_, _| ()));
        played.map_err(|e| e.to_string().replace(&folder.path().display().to_string(), ""))
    }

    const NODES: &str = r#""dimensions":["cpu","memory"],"nodes":[{"count":3,"capacity":[8,32],"zone":"a"},{"capacity":[8,32],"zone":"b","cordoned":true}]"#;

    #[test]
    fn what_is_placed_and_why_not_more() {
        let requests = r#"[
            {"name":"web","count":3,"shape":[2,4],"labels":{"app":"web"},"policy":"spread","affinity":[{"to":{"app":"web"},"domain":"node","anti":true}]},
            {"name":"big","count":4,"shape":[6,4]},
            {"name":"huge","shape":[9,4]},
            {"name":"gang","count":9,"shape":[1,1],"gang":true}]"#;
        let o = outcome(&format!("{{{NODES},\"requests\":{requests}}}")).unwrap();
        let placed: Vec<(usize, usize)> = o.requests.iter().map(|a| (a.placed, a.nodes)).collect();
        assert_eq!(placed, [(3, 3), (3, 3), (0, 0), (0, 0)]);
        assert_eq!(o.requests[1].why.as_deref(), Some("of 4 nodes 1 cordoned, 3 short of at least 6 cpu"));
        assert!(o.requests[2].why.as_deref().unwrap().contains("the largest that would fit is <8, 32>"));
        assert_eq!((o.nodes, o.nodes_in_use), (4, 3));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            outcome("{\n  \"dimensions\": [],\n  \"knots\": 1}").unwrap_err(),
            "/in.json:3:9: unknown field `knots`, expected one of `dimensions`, `nodes`, `requests`"
        );
        let bad = |request: &str| outcome(&format!("{{{NODES},\"requests\":[{request}]}}")).unwrap_err();
        assert_eq!(
            bad(r#"{"name":"a","shape":[-1]}"#),
            "/in.json: request a: dimension 0 of an amount is -1: an amount is zero or more"
        );
        assert_eq!(
            bad(r#"{"name":"a","shape":[0]}"#),
            "/in.json: request a: an amount asks for nothing: at least one part must be more than zero"
        );
        assert_eq!(
            bad(r#"{"name":"a","shape":[1],"priority":9}"#),
            "/in.json: request a: priority 9 is above 7, the highest"
        );
    }
}
