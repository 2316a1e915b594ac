//! Reasons in exact numbers of nodes, counted by cells: never by a loop over nodes.

use super::{
    NodeIndex, Pool, RequestId, Vector,
    decide::Domains,
    request::{Domain, Policy},
    row::{FLOOR, FULL, NO, Rule, Term, WEIGHT, fill},
};
use std::collections::BTreeMap;

/// Why nodes cannot take a request. In the order in which they are asked: later ones are nearer to fitting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// They are silent.
    Lost,
    /// They take no new instances.
    Cordoned,
    /// They are not what is wanted: the requirement.
    Want(String),
    /// They keep it out: the taint.
    Tainted(String),
    /// A rule about others: the rule.
    Others(String),
    /// They lack room in this dimension.
    Short(usize),
}

/// A node that could take it, with the terms of its score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node with the smallest rank of those that are alike.
    pub node: NodeIndex,
    /// How many nodes are alike.
    pub alike: u32,
    /// The sum of the terms.
    pub score: i32,
    /// What was scored.
    pub terms: Vec<(&'static str, i32)>,
}

/// All reasons for an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Why {
    /// How many nodes there are.
    pub nodes: u32,
    /// How many could take it.
    pub fit: u32,
    /// How many could not, by the first reason; with the least that is missing, where room is.
    pub refused: BTreeMap<Reason, (u32, i32)>,
    /// The winner and two runners-up.
    pub candidates: Vec<Candidate>,
    /// Of the nodes that lack only room the one that lacks least, and what it lacks.
    pub nearest: Option<(NodeIndex, Vector)>,
}

impl Pool {
    /// Why a request is placed where it would be placed now, or waits.
    pub fn why(&mut self, request: RequestId) -> Why {
        self.sync(request.0);
        let domains = self.domains(request.0);
        let single: Vec<(Term, Domains)> = self.classes[request.0 as usize]
            .of_domains
            .clone()
            .into_iter()
            .map(|term| {
                let mut alone = Domains::default();
                self.add_term(request.0, &term, &mut alone);
                (term, alone)
            })
            .collect();
        let mut why = Why::default();
        let mut fit: Vec<(i32, u32)> = Vec::new();
        let mut nearest: Option<(i64, u32)> = None;
        let cells: Vec<u32> = self.cells.iter().collect();
        for cell in cells {
            let members = self.cells.at[cell as usize].members;
            why.nodes += members;
            match self.first_reason(request.0, cell as usize, &single) {
                None => {
                    why.fit += members;
                    let score = self.classes[request.0 as usize].score[cell as usize];
                    fit.push((self.adjusted(score, cell as usize, &domains), cell));
                }
                Some(reason) => {
                    let missing = self.missing(request.0, cell as usize);
                    let least = if let Reason::Short(d) = reason { missing.0[d] } else { 0 };
                    if let Reason::Short(_) = reason {
                        let share = self.share(request.0, &missing);
                        nearest = nearest.into_iter().chain([(share, cell)]).min_by_key(|(share, _)| *share);
                    }
                    let entry = why.refused.entry(reason).or_insert((0, least));
                    *entry = (entry.0 + members, entry.1.min(least));
                }
            }
        }
        fit.sort_by_key(|(score, cell)| (std::cmp::Reverse(*score), self.cells.peek(*cell, &self.nodes.at)));
        why.candidates = fit
            .into_iter()
            .take(3)
            .filter_map(|(score, cell)| self.candidate(request.0, score, cell, &domains))
            .collect();
        why.nearest = nearest.and_then(|(_, cell)| {
            let order = self.cells.first(cell, &self.nodes.at)?;
            Some((Self::node_at(order), self.missing(request.0, cell as usize)))
        });
        why
    }

    fn missing(&self, number: u32, cell: usize) -> Vector {
        self.classes[number as usize].request.shape.missing_in(&self.cells.at[cell].key.room)
    }

    fn share(&self, number: u32, missing: &Vector) -> i64 {
        let asked = self.classes[number as usize].request.shape.0;
        missing
            .0
            .iter()
            .zip(asked)
            .map(|(m, asked)| i64::from(*m) * 1_000_000 / i64::from(asked.max(1)))
            .max()
            .unwrap_or_default()
    }

    fn first_reason(&self, number: u32, cell: usize, single: &[(Term, Domains)]) -> Option<Reason> {
        let class = &self.classes[number as usize];
        let key = &self.cells.at[cell].key;
        let attributes = &self.attributes.all[key.attributes as usize].attributes;
        if attributes.lost {
            return Some(Reason::Lost);
        }
        if attributes.cordoned {
            return Some(Reason::Cordoned);
        }
        if let Some(want) = class.request.wants.iter().find(|want| !want.holds(attributes)) {
            return Some(Reason::Want(want.to_string()));
        }
        if !class.request.tolerates(attributes) {
            let taints: Vec<&str> = attributes.taints.iter().map(|taint| taint.key.as_str()).collect();
            return Some(Reason::Tainted(taints.join(",")));
        }
        for term in &class.of_cells {
            let count = self.marks.count(key.marks, term.group);
            if matches!(term.rule, Rule::Apart) && count > 0 || matches!(term.rule, Rule::Together { .. }) && count == 0
            {
                return Some(Reason::Others(self.words(term)));
            }
        }
        if let Some((term, _)) = single.iter().find(|(_, alone)| self.adjusted(0, cell, alone) <= FLOOR) {
            return Some(Reason::Others(self.words(term)));
        }
        let missing = self.missing(number, cell);
        missing.0.iter().position(|part| *part > 0).map(Reason::Short)
    }

    fn words(&self, term: &Term) -> String {
        let (super::groups::Membership::Has(labels) | super::groups::Membership::Avoids(labels, _)) =
            &self.groups.names.all[term.group as usize];
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (labels, domain) = (labels.join(","), term.domain);
        match term.rule {
            Rule::Apart => format!("apart from {labels} in the same {domain}"),
            Rule::Together { .. } => format!("together with {labels} in the same {domain}"),
            Rule::Even { skew, .. } => {
                format!("{labels} even over each {domain}, at most {skew} more than in the emptiest")
            }
            Rule::Worth(_) => format!("rather with {labels} in the same {domain}"),
            Rule::EvenWorth(_) => format!("rather even over each {domain}"),
        }
    }

    fn candidate(&mut self, number: u32, score: i32, cell: u32, domains: &Domains) -> Option<Candidate> {
        let node = Self::node_at(self.cells.first(cell, &self.nodes.at)?);
        let class = &self.classes[number as usize];
        let key = &self.cells.at[cell as usize].key;
        let attributes = &self.attributes.all[key.attributes as usize];
        let fill = i32::try_from(fill(
            self.cells.at[cell as usize].base + attributes.weigh(&class.request.shape),
            attributes.wide,
        ))
        .unwrap_or(NO);
        let full = i32::try_from(FULL).unwrap_or(NO);
        let mut terms = match class.request.policy {
            Policy::Pack => vec![("fit", fill)],
            Policy::Spread => vec![("room", full - fill)],
            Policy::Performance => {
                vec![("measured speed", i32::from(attributes.attributes.performance) * 100_000), ("room", full - fill)]
            }
            Policy::Latency => {
                let near = class.request.near.as_ref().map_or(0, |near| self.distance(near, attributes));
                vec![("round trip", -near * 4096), ("fit", fill)]
            }
        };
        let own = class.score.get(cell as usize).copied().unwrap_or(NO);
        let others: i32 = class
            .of_cells
            .iter()
            .map(|term| match (term.rule, self.marks.count(key.marks, term.group)) {
                (Rule::Worth(weight), count) if count > 0 => weight * WEIGHT,
                (Rule::EvenWorth(weight), count) => -weight * WEIGHT * i32::try_from(count.min(10_000)).unwrap_or(0),
                _ => 0,
            })
            .sum();
        if others != 0 {
            terms.push(("preferred neighbours", others));
        }
        let placed = self.adjusted(own, cell as usize, domains).saturating_sub(own);
        if placed != 0 {
            terms.push((
                if class.of_domains.iter().any(|t| t.domain == Domain::Zone) { "zones" } else { "racks" },
                placed,
            ));
        }
        Some(Candidate { node, alike: self.cells.at[cell as usize].members, score, terms })
    }
}
