//! Marks: how many members of each watched group a node holds. A group is watched as soon as a request has a rule about it for nodes.

use super::{hash::Map, small};

/// Sorted by group; no count is zero.
pub(super) type Set = Vec<(u32, u32)>;

/// Interned sets, counted by the cells that use them. Number 0 is the empty set.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    all: Vec<Set>,
    used: Vec<u32>,
    free: Vec<u32>,
    index: Map<Set, u32>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { all: vec![Set::new()], used: vec![1], free: Vec::new(), index: [(Set::new(), 0)].into_iter().collect() }
    }
}

impl Marks {
    pub(super) fn get(&self, set: u32) -> &Set {
        &self.all[set as usize]
    }

    pub(super) fn count(&self, set: u32, group: u32) -> u32 {
        let set = self.get(set);
        set.binary_search_by_key(&group, |(group, _)| *group).map_or(0, |at| set[at].1)
    }

    /// The set with some more (or fewer) of these groups.
    pub(super) fn changed(&mut self, set: u32, groups: impl Iterator<Item = u32>, more: bool) -> u32 {
        let mut groups = groups.peekable();
        if groups.peek().is_none() {
            return set;
        }
        let mut marks = self.all[set as usize].clone();
        for group in groups {
            match marks.binary_search_by_key(&group, |(group, _)| *group) {
                Ok(at) if more => marks[at].1 += 1,
                Ok(at) if marks[at].1 > 1 => marks[at].1 -= 1,
                Ok(at) => {
                    marks.remove(at);
                }
                Err(at) if more => marks.insert(at, (group, 1)),
                Err(_) => {}
            }
        }
        self.intern(marks)
    }

    /// The number of a set. It may be given to another one as soon as no cell uses it.
    pub(super) fn intern(&mut self, set: Set) -> u32 {
        if let Some(known) = self.index.get(&set) {
            return *known;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(Set::new());
            self.used.push(0);
            small(self.all.len() - 1)
        });
        self.all[number as usize].clone_from(&set);
        self.index.insert(set, number);
        number
    }

    pub(super) fn used(&mut self, set: u32) {
        self.used[set as usize] += 1;
    }

    pub(super) fn unused(&mut self, set: u32) {
        let at = set as usize;
        self.used[at] -= 1;
        if self.used[at] == 0 {
            self.index.remove(&self.all[at]);
            self.free.push(set);
        }
    }
}
