//! Reasons in data: what was taken out by which rule, the winner and the runners-up, the nearest miss, and what would help.

use super::{
    Ask, NodeView, Rule,
    rules::{Broken, driver},
    score,
};
use crate::amount::{self, Dimension};
use std::collections::BTreeMap;
use yun_types::{Explanation, FilteredNodes, InstanceState, ScoredNode, Size};

type Out<'a> = [(&'a NodeView, Broken)];

/// How many nodes an explanation of a placed instance shows: the winner and two runners-up.
const SHOWN: usize = 3;

pub(super) fn placed(nodes: usize, out: &Out<'_>, fit: &[(&NodeView, ScoredNode)]) -> Explanation {
    let winner = fit.first().map_or("", |(node, _)| node.name.as_str());
    let summary = match fit.len() {
        1 if nodes == 1 => format!("on node {winner}, the only node"),
        1 => format!("on node {winner}, the only one of {nodes} nodes that could take it"),
        fit => format!("on node {winner}, the best fit of {fit} nodes that could take it"),
    };
    Explanation {
        state: InstanceState::Scheduled,
        summary,
        nodes: count(nodes),
        filtered: filtered(out, None),
        candidates: fit.iter().take(SHOWN).map(|(_, scored)| scored.clone()).collect(),
        nearest: None,
        unblock: Vec::new(),
    }
}

pub(super) fn waiting(ask: &Ask, out: &Out<'_>) -> Explanation {
    let filtered = filtered(out, Some(ask));
    let nearest = nearest(out, ask);
    Explanation {
        state: InstanceState::Pending,
        summary: summary(&filtered),
        nodes: count(out.len()),
        filtered,
        candidates: Vec::new(),
        nearest: nearest.map(|(node, broken)| format!("node {}: {}", node.name, one(node, *broken, ask))),
        unblock: unblock(out, ask, nearest),
    }
}

/// One word for programs.
pub(super) fn reason(out: &Out<'_>) -> &'static str {
    match out.iter().map(|(_, broken)| broken.rule).max() {
        None => "NoNode",
        Some(Rule::Room(_)) => "NoRoom",
        Some(Rule::Arch) => "WrongArch",
        Some(Rule::NoDriver) => "NoDriver",
        Some(Rule::Cordoned) => "Cordoned",
        Some(Rule::Lost) => "NodeLost",
        Some(Rule::NotAskedFor) => "NoSuchNode",
    }
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}

fn filtered(out: &Out<'_>, ask: Option<&Ask>) -> Vec<FilteredNodes> {
    let mut by_rule: BTreeMap<Rule, Vec<&(&NodeView, Broken)>> = BTreeMap::new();
    for entry in out {
        by_rule.entry(entry.1.rule).or_default().push(entry);
    }
    by_rule
        .into_iter()
        .map(|(rule, nodes)| FilteredNodes {
            rule: rule.name().into(),
            nodes: count(nodes.len()),
            detail: detail(rule, &nodes, ask),
        })
        .collect()
}

fn detail(rule: Rule, nodes: &[&(&NodeView, Broken)], ask: Option<&Ask>) -> String {
    match rule {
        Rule::NotAskedFor => "another node is asked for by name".into(),
        Rule::Lost => "silent for more than 10 s".into(),
        Rule::Cordoned => "takes no new instances".into(),
        Rule::NoDriver => match (nodes.first(), ask) {
            (Some((node, _)), Some(ask)) => driver_text(node, ask),
            _ => "the driver for this kind of instance does not work".into(),
        },
        Rule::Arch => "has another processor than the image is for".into(),
        Rule::Room(dimension) => {
            let least = nodes
                .iter()
                .map(|(_, broken)| broken.missing)
                .min_by_key(|missing| dimension.of(*missing))
                .unwrap_or(amount::NOTHING);
            let at_least = if nodes.len() > 1 { "at least " } else { "" };
            format!("short of {at_least}{}", dimension.text(least))
        }
    }
}

fn driver_text(node: &NodeView, ask: &Ask) -> String {
    let why = driver(node, ask.kind).and_then(|driver| driver.message.clone());
    let why = why.unwrap_or_else(|| format!("has no driver for instances of kind {}", ask.kind));
    format!("node {} runs no {}: {why}", node.name, ask.kind)
}

/// What one node lacks, for people.
fn one(node: &NodeView, broken: Broken, ask: &Ask) -> String {
    match broken.rule {
        Rule::NotAskedFor => format!("the instance asks for node {}", ask.node.as_ref().map_or("", |n| n.as_str())),
        Rule::Lost => "it is silent".into(),
        Rule::Cordoned => "it is cordoned".into(),
        Rule::NoDriver => {
            driver(node, ask.kind).and_then(|d| d.message.clone()).unwrap_or_else(|| format!("it runs no {}", ask.kind))
        }
        Rule::Arch => format!("its processor is {}, and the image is for {}", node.arch, ask.arch),
        Rule::Room(_) => format!("short of {}", amount::text(broken.missing)),
    }
}

fn summary(filtered: &[FilteredNodes]) -> String {
    if filtered.is_empty() {
        return "waits: the cloud has no node yet".into();
    }
    let parts: Vec<String> = filtered
        .iter()
        .map(|f| {
            let nodes = if f.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", f.nodes) };
            match f.rule.as_str() {
                "cpu" | "memory" | "disk" => format!(
                    "{nodes} {}",
                    f.detail.replacen("short of", if f.nodes == 1 { "is short of" } else { "are short of" }, 1)
                ),
                rule => format!("{nodes} {rule}"),
            }
        })
        .collect();
    format!("waits: {}", parts.join(", "))
}

/// The node that passes most rules, and of those the one that lacks least of what it was asked for.
fn nearest<'a>(out: &'a Out<'a>, ask: &Ask) -> Option<&'a (&'a NodeView, Broken)> {
    let stage = |rule: Rule| if let Rule::Room(_) = rule { Rule::Room(Dimension::Cpu) } else { rule };
    out.iter().min_by_key(|(node, broken)| {
        (std::cmp::Reverse(stage(broken.rule)), share(broken.missing, ask.size), score::rank(node.id))
    })
}

/// The largest part of what is asked for that is missing, in millionths.
fn share(missing: Size, asked: Size) -> u128 {
    Dimension::ALL
        .into_iter()
        .map(|dimension| u128::from(dimension.of(missing)) * 1_000_000 / u128::from(dimension.of(asked).max(1)))
        .max()
        .unwrap_or_default()
}

fn unblock(out: &Out<'_>, ask: &Ask, nearest: Option<&(&NodeView, Broken)>) -> Vec<String> {
    let Some((node, broken)) = nearest else {
        return vec!["start an agent: the cloud has no node yet".into()];
    };
    let mut help = Vec::new();
    match broken.rule {
        Rule::Room(_) => {
            help.push(format!(
                "free {} on node {}: delete instances there, or give them a smaller size",
                amount::text(broken.missing),
                node.name
            ));
            let size = amount::rounded_down(node.free());
            if Size::new(size.cpu, size.memory, size.disk).is_ok() {
                help.push(format!("ask for at most {size}, which is free on node {}", node.name));
            }
        }
        Rule::NoDriver => help.push(driver_text(node, ask)),
        Rule::Arch => {
            help.push(format!("use an image for {}, or add a node with an {} processor", node.arch, ask.arch))
        }
        Rule::NotAskedFor => help.push(format!(
            "bring node {} into the cloud, or create the instance without naming a node",
            ask.node.as_ref().map_or("", |n| n.as_str())
        )),
        Rule::Lost | Rule::Cordoned => {}
    }
    for (node, broken) in out {
        match broken.rule {
            Rule::Cordoned => {
                help.push(format!("let node {} take instances again: yun node uncordon {}", node.name, node.name))
            }
            Rule::Lost => help.push(format!("bring node {} back: it is silent", node.name)),
            _ => {}
        }
    }
    help.truncate(5);
    help
}
