//! What can never be placed, however long it waits: rules that contradict each other, and sizes that no node has.

use super::{
    NodeIndex, Pool, RequestId, Vector,
    attributes::AttributeClass,
    request::{Affinity, Force, Request},
};
use std::fmt;

/// Two rules of which no node keeps both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// One of them.
    pub first: String,
    /// The other.
    pub second: String,
}

/// Why a request can never be placed on the nodes that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    /// Two rules exclude each other.
    Conflict(Conflict),
    /// No node keeps this rule.
    NoSuchNode {
        /// The rule.
        rule: String,
    },
    /// No node that the rules allow is large enough.
    TooLarge {
        /// What is asked for.
        asked: Vector,
        /// Names of the dimensions that are too large.
        over: Vec<String>,
        /// The most that would fit on the node that comes closest.
        largest: Vector,
    },
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(Conflict { first, second }) => {
                write!(f, "no node can keep both rules: {first}; and {second}: drop or loosen one of them")
            }
            Self::NoSuchNode { rule } => write!(f, "no node keeps the rule: {rule}; drop it, or add such a node"),
            Self::TooLarge { asked, over, largest } => {
                write!(
                    f,
                    "asks for {asked}, more {} than any node that the rules allow has; the largest that would fit is {largest}",
                    over.join(" and ")
                )
            }
        }
    }
}

/// A rule in words, and whether it allows a class.
type Named<'a> = (String, Box<dyn Fn(&AttributeClass) -> bool + 'a>);

impl Pool {
    /// Why a request can never be placed on the nodes that there are, or `None` if it could be on an empty pool.
    pub fn impossible(&self, request: RequestId) -> Option<Impossible> {
        let request = &self.classes[request.0 as usize].request;
        if let Some(conflict) = contradiction(request) {
            return Some(Impossible::Conflict(conflict));
        }
        let classes: Vec<&AttributeClass> = self.attributes.all.iter().filter(|class| class.nodes > 0).collect();
        let rules = rules(request);
        let allowed: Vec<Vec<bool>> =
            rules.iter().map(|(_, rule)| classes.iter().map(|class| rule(class)).collect()).collect();
        if classes.is_empty() {
            return None;
        }
        if let Some(at) = allowed.iter().position(|by| !by.contains(&true)) {
            return Some(Impossible::NoSuchNode { rule: rules[at].0.clone() });
        }
        let all = |by: &[usize]| {
            (0..classes.len()).filter(|class| by.iter().all(|rule| allowed[*rule][*class])).collect::<Vec<_>>()
        };
        let every: Vec<usize> = (0..rules.len()).collect();
        let left = all(&every);
        if left.is_empty() {
            let pairs = every.iter().flat_map(|a| every.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b);
            let (a, b) = pairs.clone().find(|(a, b)| all(&[*a, *b]).is_empty()).or_else(|| tightest(&every, &all))?;
            return Some(Impossible::Conflict(Conflict { first: rules[a].0.clone(), second: rules[b].0.clone() }));
        }
        self.too_large(request, left.into_iter().map(|class| classes[class].capacity))
    }

    fn too_large(&self, request: &Request, capacities: impl Iterator<Item = Vector>) -> Option<Impossible> {
        let largest = capacities.min_by_key(|capacity| {
            let missing = request.shape.missing_in(capacity);
            let shares = missing
                .0
                .iter()
                .zip(request.shape.0)
                .map(|(m, asked)| i64::from(*m) * 1_000_000 / i64::from(asked.max(1)));
            (shares.max(), missing)
        })?;
        let missing = request.shape.missing_in(&largest);
        (missing != Vector::ZERO).then(|| {
            let over =
                (0..).zip(missing.0).filter(|(_, m)| *m > 0).map(|(d, _)| self.dimension(d).to_owned()).collect();
            Impossible::TooLarge { asked: request.shape, over, largest }
        })
    }

    /// The name of a dimension.
    pub fn dimension(&self, d: usize) -> &str {
        self.dimensions.get(d).map_or("something", String::as_str)
    }

    /// A node's number from its rank order.
    pub(super) fn node_at(order: u64) -> NodeIndex {
        NodeIndex(u32::try_from(order & 0xffff_ffff).unwrap_or(u32::MAX))
    }
}

/// No two rules exclude each other, but all together do: the last that empties the list, and the one before it that leaves least.
fn tightest(every: &[usize], all: &impl Fn(&[usize]) -> Vec<usize>) -> Option<(usize, usize)> {
    let last = (1..=every.len()).find(|n| all(&every[..*n]).is_empty())? - 1;
    let other = (0..last).min_by_key(|rule| all(&[*rule, last]).len())?;
    Some((other, last))
}

fn rules(request: &Request) -> Vec<Named<'_>> {
    let mut rules: Vec<Named<'_>> = Vec::new();
    for want in &request.wants {
        rules.push((want.to_string(), Box::new(|class| want.holds(&class.attributes))));
    }
    rules.push(("taints that are tolerated".into(), Box::new(|class| request.tolerates(&class.attributes))));
    rules
}

/// Rules about others that exclude each other on every pool: together in a domain with those from whom it must be apart in the same or a larger one.
fn contradiction(request: &Request) -> Option<Conflict> {
    let required = |anti| request.affinity.iter().filter(move |a| a.anti == anti && a.force == Force::Required);
    let words = |a: &Affinity| {
        let labels: Vec<String> = a.to.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {} in the same {}", if a.anti { "apart from" } else { "together with" }, labels.join(","), a.domain)
    };
    required(false)
        .flat_map(|with| required(true).map(move |apart| (with, apart)))
        .find(|(with, apart)| {
            apart.domain >= with.domain && apart.to.iter().all(|(key, value)| with.to.get(key) == Some(value))
        })
        .map(|(with, apart)| Conflict { first: words(with), second: words(apart) })
}
