//! One decision: the best cell, and of it the node with the smallest rank.

use super::{
    NodeIndex, Pool, RequestId, Ticket,
    groups::at,
    request::{Domain, Near},
    row::{FLOOR, NO, Rule, Term, WEIGHT},
};

/// What each zone and rack adds to a score; `NO` forbids it.
#[derive(Debug, Clone, Default)]
pub(super) struct Domains {
    zones: Vec<i32>,
    racks: Vec<i32>,
    /// Rules about nodes that need to know all nodes: group, most, itself.
    nodes: Vec<Limit>,
}

/// A node holds at most so many members of a group, or at least so many.
#[derive(Debug, Clone, Copy)]
struct Limit {
    group: u32,
    least: u32,
    most: u32,
}

impl Pool {
    /// Chooses a node and takes the room. `None`: nothing has room; the request waits and is woken by what can help it.
    pub fn place(&mut self, request: RequestId) -> Option<(NodeIndex, Ticket)> {
        let node = self.choose(request)?;
        Some((node, self.restore(request, node)))
    }

    /// Takes the room on this very node, if the rules allow it.
    pub fn place_on(&mut self, request: RequestId, node: NodeIndex) -> Option<Ticket> {
        self.may_take(request, node).then(|| self.restore(request, node))
    }

    /// Places up to `n` equal requests one after the other, and gives each to `placed`. Answers how many have a place.
    pub fn place_many(&mut self, request: RequestId, n: usize, mut placed: impl FnMut(NodeIndex, Ticket)) -> usize {
        for done in 0..n {
            match self.place(request) {
                Some((node, ticket)) => placed(node, ticket),
                None => return done,
            }
        }
        n
    }

    /// Chooses a node and changes nothing but what it remembers of scores.
    pub fn choose(&mut self, request: RequestId) -> Option<NodeIndex> {
        let number = request.0;
        if let Some(Near::Node(node)) = self.classes[number as usize].request.near
            && self.classes[number as usize].request.policy == super::Policy::Latency
            && self.may_take(request, node)
        {
            return Some(node);
        }
        self.sync(number);
        let chosen = if self.classes[number as usize].of_domains.is_empty() {
            self.best_of_row(number)
        } else {
            let domains = self.domains(number);
            self.best_with(number, &domains)
        };
        self.classes[number as usize].waits = chosen.is_none();
        let node = NodeIndex(u32::try_from(chosen? & 0xffff_ffff).unwrap_or(u32::MAX));
        // The row can only be wrong by a fault of ours; then nothing is promised twice all the same.
        let shape = self.classes[number as usize].request.shape;
        let fits = shape.fits(&self.nodes.at[node.0 as usize].room);
        debug_assert!(fits, "a cell was taken that has no room");
        fits.then_some(node)
    }

    fn best_of_row(&mut self, number: u32) -> Option<u64> {
        let class = &self.classes[number as usize];
        let best = class.best();
        if best == NO {
            return None;
        }
        let (cells, nodes) = (&mut self.cells, &self.nodes.at);
        class.with(best).filter_map(|cell| cells.first(super::small(cell), nodes)).min()
    }

    pub(super) fn best_with(&mut self, number: u32, domains: &Domains) -> Option<u64> {
        let class = &self.classes[number as usize];
        let (mut best, mut tied) = (FLOOR, Vec::new());
        for (cell, score) in class.score.iter().enumerate() {
            if *score == NO {
                continue;
            }
            let score = self.adjusted(*score, cell, domains);
            if score > best {
                best = score;
                tied.clear();
            }
            if score == best && best > FLOOR {
                tied.push(super::small(cell));
            }
        }
        let (cells, nodes) = (&mut self.cells, &self.nodes.at);
        tied.into_iter().filter_map(|cell| cells.first(cell, nodes)).min()
    }

    /// A cell's score with what its domains add; below [`FLOOR`] if they forbid it.
    #[inline]
    pub(super) fn adjusted(&self, score: i32, cell: usize, domains: &Domains) -> i32 {
        let of = |all: &[i32], domain: u32| all.get(domain as usize).copied().unwrap_or_default();
        let zone = of(&domains.zones, self.cells.at[cell].zone);
        let rack = of(&domains.racks, self.cells.at[cell].rack);
        if zone == NO || rack == NO {
            return NO;
        }
        for limit in &domains.nodes {
            let count = self.marks.count(self.cells.at[cell].key.marks, limit.group);
            if count > limit.most || count < limit.least {
                return NO;
            }
        }
        score.saturating_add(zone).saturating_add(rack)
    }

    /// What zones, racks and nodes add for a class, as things are now.
    pub(super) fn domains(&self, number: u32) -> Domains {
        let mut domains = Domains::default();
        for term in &self.classes[number as usize].of_domains {
            self.add_term(number, term, &mut domains);
        }
        domains
    }

    pub(super) fn add_term(&self, number: u32, term: &Term, domains: &mut Domains) {
        let counts = &self.groups.counts[term.group as usize];
        match term.domain {
            Domain::Node => self.add_node_term(number, term, counts.all, domains),
            Domain::Zone => {
                let may = self.domains_of(number, |class| class.zone, self.attributes.zones.all.len());
                apply(term.rule, counts.all, &counts.zones, &may, &mut domains.zones);
            }
            Domain::Rack => {
                let may = self.domains_of(number, |class| class.rack, self.attributes.racks.all.len());
                apply(term.rule, counts.all, &counts.racks, &may, &mut domains.racks);
            }
        }
    }

    fn add_node_term(&self, number: u32, term: &Term, all: u32, domains: &mut Domains) {
        let (mut least, mut most) = (0, u32::MAX);
        match term.rule {
            Rule::Apart => most = 0,
            Rule::Together { alone } => least = u32::from(!(alone && all == 0)),
            Rule::Even { skew, itself } => {
                let eligible =
                    self.cells.iter().filter(|cell| self.may(number, self.cells.at[*cell as usize].key.attributes));
                let emptiest =
                    eligible.map(|cell| self.marks.count(self.cells.at[cell as usize].key.marks, term.group)).min();
                most = (emptiest.unwrap_or_default() + skew).saturating_sub(u32::from(itself));
            }
            Rule::Worth(_) | Rule::EvenWorth(_) => return,
        }
        domains.nodes.push(Limit { group: term.group, least, most });
    }

    /// Which zones or racks have a node that the class may take.
    fn domains_of(&self, number: u32, of: impl Fn(&super::attributes::AttributeClass) -> u32, len: usize) -> Vec<bool> {
        let mut may = vec![false; len];
        for (attributes, class) in (0u32..).zip(&self.attributes.all) {
            if class.nodes > 0 && self.may(number, attributes) {
                may[of(class) as usize] = true;
            }
        }
        may
    }

    /// Whether a node may be taken: every rule, asked of this node alone.
    pub fn may_take(&mut self, request: RequestId, node: NodeIndex) -> bool {
        self.sync(request.0);
        let cell = self.nodes.at[node.0 as usize].cell;
        if cell == super::NOWHERE {
            return false;
        }
        let score = self.classes[request.0 as usize].score.get(cell as usize).copied().unwrap_or(NO);
        score != NO && self.adjusted(score, cell as usize, &self.domains(request.0)) > FLOOR
    }

    /// Classes that waited and could be placed now. Only what happened since is looked at.
    pub fn woken(&mut self) -> Vec<RequestId> {
        let waiting: Vec<u32> = (0u32..).zip(&self.classes).filter(|(_, class)| class.waits).map(|(n, _)| n).collect();
        waiting.into_iter().map(RequestId).filter(|request| self.choose(*request).is_some()).collect()
    }

    /// Only these zones or racks: everything else is forbidden.
    pub(super) fn only(&self, domains: &mut Domains, level: Domain, domain: u32) {
        let (all, len) = match level {
            Domain::Zone => (&mut domains.zones, self.attributes.zones.all.len()),
            Domain::Rack => (&mut domains.racks, self.attributes.racks.all.len()),
            Domain::Node => return,
        };
        all.resize(len, 0);
        for (at, value) in (0u32..).zip(all) {
            if at != domain {
                *value = NO;
            }
        }
    }
}

/// Adds a rule to what each domain is worth.
fn apply(rule: Rule, all: u32, counts: &[u32], may: &[bool], worth: &mut Vec<i32>) {
    worth.resize(may.len(), 0);
    let emptiest =
        may.iter().zip(0u32..).filter(|(may, _)| **may).map(|(_, domain)| at(counts, domain)).min().unwrap_or_default();
    for (domain, worth) in (0u32..).zip(worth.iter_mut()) {
        let count = at(counts, domain);
        let forbidden = match rule {
            Rule::Apart => count > 0,
            Rule::Together { alone } => count == 0 && !(alone && all == 0),
            Rule::Even { skew, itself } => count + u32::from(itself) > emptiest + skew,
            Rule::Worth(weight) if count > 0 => {
                *worth = worth.saturating_add(weight * WEIGHT);
                false
            }
            Rule::EvenWorth(weight) => {
                let more = i32::try_from((count - count.min(emptiest)).min(1000)).unwrap_or(i32::MAX);
                *worth = worth.saturating_sub(weight * WEIGHT * more);
                false
            }
            Rule::Worth(_) => false,
        };
        if forbidden || *worth < FLOOR {
            *worth = NO;
        }
    }
}
