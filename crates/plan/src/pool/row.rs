//! Request classes and their rows: the score of each cell, kept right by the log of cells, with the best of each block of 64.

use super::{
    Pool,
    attributes::AttributeClass,
    request::{Domain, Near, Policy, Request},
};

/// A cell that cannot be taken.
pub(super) const NO: i32 = i32::MIN;
/// Scores lie within ± this; whatever is below has been forbidden by a domain.
pub(super) const FLOOR: i32 = -560_000_000;
const CLAMP: i64 = 500_000_000;
/// What a full node is worth to `pack`.
pub(super) const FULL: i64 = 4000;
/// What a preference of weight 1 is worth: 100 of them outweigh a full node a hundred times.
pub(super) const WEIGHT: i32 = 40;
const BLOCK: usize = 64;

/// A rule about members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// None may be there.
    Apart,
    /// One must be there; `alone`: unless there is none anywhere, and the newcomer is one itself.
    Together { alone: bool },
    /// It is worth this if one is there.
    Worth(i32),
    /// At most this many more than in the emptiest domain.
    Even { skew: u32, itself: bool },
    /// Each that is there costs this.
    EvenWorth(i32),
}

/// A rule with its group and its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) group: u32,
    pub(super) domain: Domain,
    pub(super) rule: Rule,
}

/// A class of equal requests.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) request: Request,
    pub(super) terms: Vec<Term>,
    /// Terms that a cell answers alone.
    pub(super) of_cells: Vec<Term>,
    /// Terms that need counts of zones, racks, or of all nodes.
    pub(super) of_domains: Vec<Term>,
    pub(super) member_of: Vec<u32>,
    pub(super) watched: Vec<u32>,
    /// Instances of it.
    pub(super) live: u32,
    /// It waits for room.
    pub(super) waits: bool,
    /// By attribute class: what it is worth, and what part of it is asked for, if it may be taken.
    allowed: Vec<Option<(i32, u64)>>,
    pub(super) score: Vec<i32>,
    block: Vec<i32>,
    /// How much of the log is in the row.
    seen: Option<u64>,
}

impl Class {
    pub(super) fn new(request: Request, terms: Vec<Term>, member_of: Vec<u32>, watched: Vec<u32>) -> Self {
        let mut class = Self {
            request,
            terms,
            of_cells: Vec::new(),
            of_domains: Vec::new(),
            member_of,
            watched,
            live: 0,
            waits: false,
            allowed: Vec::new(),
            score: Vec::new(),
            block: Vec::new(),
            seen: None,
        };
        class.sort_terms();
        class
    }

    /// After its terms have changed.
    pub(super) fn sort_terms(&mut self) {
        let of_cells = |term: &&Term| match term.rule {
            Rule::Even { .. } => false,
            Rule::Together { alone } => term.domain == Domain::Node && !alone,
            _ => term.domain == Domain::Node,
        };
        self.of_cells = self.terms.iter().filter(of_cells).copied().collect();
        self.of_domains = self.terms.iter().filter(|term| !of_cells(term)).copied().collect();
        self.forget();
    }

    /// The row is wrong: something that never changes has changed.
    pub(super) fn forget(&mut self) {
        self.allowed.clear();
        self.drop_row();
    }

    pub(super) fn drop_row(&mut self) {
        self.score = Vec::new();
        self.block = Vec::new();
        self.seen = None;
    }

    fn set(&mut self, cell: usize, score: i32) {
        if self.score.len() <= cell {
            self.score.resize(cell + 1, NO);
            self.block.resize(self.score.len().div_ceil(BLOCK), NO);
        }
        let before = std::mem::replace(&mut self.score[cell], score);
        let block = cell / BLOCK;
        if score >= self.block[block] {
            self.block[block] = score;
        } else if before == self.block[block] {
            let end = self.score.len().min((block + 1) * BLOCK);
            self.block[block] = self.score[block * BLOCK..end].iter().copied().fold(NO, i32::max);
        }
    }

    /// The best score, or `NO`.
    pub(super) fn best(&self) -> i32 {
        self.block.iter().copied().fold(NO, i32::max)
    }

    /// Cells with this score.
    pub(super) fn with(&self, score: i32) -> impl Iterator<Item = usize> + '_ {
        let blocks = self.block.iter().enumerate().filter(move |(_, best)| **best == score);
        blocks.flat_map(move |(block, _)| {
            let end = self.score.len().min((block + 1) * BLOCK);
            (block * BLOCK..end).filter(move |cell| self.score[*cell] == score)
        })
    }
}

impl Pool {
    /// What an attribute class is worth to a request by itself. `None` if it may not be taken.
    fn worth(&self, request: &Request, class: &AttributeClass) -> Option<i32> {
        let attributes = &class.attributes;
        let may = !attributes.lost
            && !attributes.cordoned
            && request.wants.iter().all(|want| want.holds(attributes))
            && request.tolerates(attributes);
        if !may {
            return None;
        }
        Some(match (request.policy, &request.near) {
            (Policy::Performance, _) => i32::from(attributes.performance) * 100_000,
            (Policy::Latency, Some(near)) => -self.distance(near, class) * 4096,
            _ => 0,
        })
    }

    /// Round trip in microseconds, at most a tenth of a second; unknown is far.
    pub(super) fn distance(&self, near: &Near, class: &AttributeClass) -> i32 {
        const FAR: u32 = 100_000;
        let between = |a: u32, b: u32| self.rtt.get(&(a, b)).copied().unwrap_or(if a == b { 500 } else { FAR });
        let micros = match near {
            Near::Zone(zone) => self.attributes.zones.find(zone).map_or(FAR, |zone| between(zone, class.zone)),
            Near::Node(node) => {
                let there = &self.attributes.all[self.nodes.at[node.0 as usize].attributes as usize];
                if there.rack == class.rack {
                    50.min(between(there.zone, class.zone))
                } else {
                    between(there.zone, class.zone).max(51)
                }
            }
        };
        i32::try_from(micros.min(FAR)).unwrap_or(i32::MAX)
    }

    /// The score of a cell by itself.
    pub(super) fn score_cell(&self, class: &Class, worth: Option<(i32, u64)>, cell: usize) -> i32 {
        let Some((worth, asked)) = worth else { return NO };
        let (cell, request) = (&self.cells.at[cell], &class.request);
        let key = &cell.key;
        if cell.members == 0 || !request.shape.fits(&key.room) {
            return NO;
        }
        let mut score = i64::from(worth);
        for term in &class.of_cells {
            let count = self.marks.count(key.marks, term.group);
            match term.rule {
                Rule::Apart if count > 0 => return NO,
                Rule::Together { .. } if count == 0 => return NO,
                Rule::Worth(weight) if count > 0 => score += i64::from(weight * WEIGHT),
                Rule::EvenWorth(weight) => score -= i64::from(weight * WEIGHT) * i64::from(count.min(10_000)),
                _ => {}
            }
        }
        let fill = fill(cell.base.saturating_add(asked), self.attributes.all[key.attributes as usize].wide);
        score += match request.policy {
            Policy::Pack | Policy::Latency => fill,
            Policy::Spread | Policy::Performance => FULL - fill,
        };
        i32::try_from(score.clamp(-CLAMP, CLAMP)).unwrap_or(NO)
    }

    /// Brings the row of a class up to date.
    pub(super) fn sync(&mut self, number: u32) {
        let mut class = std::mem::take(&mut self.classes[number as usize]);
        for attributes in class.allowed.len()..self.attributes.all.len() {
            let place = &self.attributes.all[attributes];
            class
                .allowed
                .push(self.worth(&class.request, place).map(|worth| (worth, place.weigh(&class.request.shape))));
        }
        let behind = class.seen.filter(|seen| *seen >= self.cells.base).map(|seen| self.cells.now() - seen);
        match behind {
            Some(0) => {}
            Some(behind) if behind < 2 * self.cells.len() as u64 + 16 => {
                let from = self.cells.log.len() - usize::try_from(behind).unwrap_or(0);
                for at in from..self.cells.log.len() {
                    let cell = self.cells.log[at] as usize;
                    self.rescore(&mut class, cell);
                }
            }
            _ => {
                self.rows += self.cells.len().saturating_sub(class.score.len());
                class.score.clear();
                class.block.clear();
                for cell in 0..self.cells.len() {
                    self.rescore(&mut class, cell);
                }
            }
        }
        class.seen = Some(self.cells.now());
        self.classes[number as usize] = class;
        self.trim(number);
    }

    fn rescore(&self, class: &mut Class, cell: usize) {
        let worth = class.allowed.get(self.cells.at[cell].key.attributes as usize).copied().flatten();
        let score = self.score_cell(class, worth, cell);
        class.set(cell, score);
    }

    /// Rows can be computed again: when they have grown too large together, only the one in use is kept.
    fn trim(&mut self, keep: u32) {
        const MOST: usize = 64 << 20;
        if self.rows > MOST {
            for (number, class) in (0u32..).zip(&mut self.classes) {
                if number != keep {
                    class.drop_row();
                }
            }
            self.rows = self.cells.len();
        }
    }

    /// Whether an attribute class may be taken at all, as of the last `sync`.
    pub(super) fn may(&self, number: u32, attributes: u32) -> bool {
        self.classes[number as usize].allowed.get(attributes as usize).is_some_and(Option::is_some)
    }
}

impl Default for Class {
    fn default() -> Self {
        Self::new(Request::default(), Vec::new(), Vec::new(), Vec::new())
    }
}

/// How full a node is: the mean over its dimensions, in [`FULL`]ths.
#[inline]
pub(super) fn fill(used: u64, wide: i64) -> i64 {
    i64::try_from(used >> 30).unwrap_or(i64::MAX) / wide
}
