//! Fair shares: whose turn it is, over projects and groups with weights, under hard quotas.
//!
//! Dominant resource fairness (Ghodsi et al., NSDI 2011): of everything that somebody holds, the largest part of a capacity is their *dominant
//! share*; the next turn is theirs whose dominant share, divided by their weight, is smallest. In a tree the turn goes down from the root, and at
//! each step the share of a branch is what its leaves hold together. Equal shares are decided by the number, so that the answer never depends on
//! chance. Shares are compared exactly, as fractions.
//!
//! Never admits anything itself: the caller asks whose turn it is, places, and tells what was taken.

#[cfg(test)]
mod tests;

use crate::pool::DIMENSIONS;
use std::cmp::Ordering;

/// Amounts in each dimension of the pool.
pub type Amounts = [u64; DIMENSIONS];

/// A project or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(u32);

#[derive(Debug, Clone)]
struct Entry {
    parent: Option<Holder>,
    children: Vec<Holder>,
    weight: u32,
    held: Amounts,
    objects: u64,
    quota: Limits,
}

/// The most that may be held; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// By dimension.
    pub amounts: [Option<u64>; DIMENSIONS],
    /// How many objects.
    pub objects: Option<u64>,
}

/// Why somebody may not take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// An amount.
    #[error("dimension {dimension}: {held} of at most {limit} is held, and {asked} more is asked for")]
    Amount {
        /// Whose quota it is: their own, or that of a branch above.
        of: Holder,
        /// The dimension.
        dimension: usize,
        /// What is held.
        held: u64,
        /// What is asked for.
        asked: u64,
        /// The most.
        limit: u64,
    },
    /// The number of objects.
    #[error("{held} of at most {limit} objects are held")]
    Objects {
        /// Whose quota it is.
        of: Holder,
        /// What is held.
        held: u64,
        /// The most.
        limit: u64,
    },
}

/// A part of a whole, compared exactly.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    part: u128,
    whole: u128,
}

impl Share {
    /// In millionths, rounded down.
    pub fn millionths(self) -> u64 {
        u64::try_from(self.part.saturating_mul(1_000_000) / self.whole.max(1)).unwrap_or(u64::MAX)
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.part.saturating_mul(other.whole)).cmp(&(other.part.saturating_mul(self.whole)))
    }
}

/// Who holds what of a pool.
#[derive(Debug, Clone)]
pub struct Fair {
    capacity: Amounts,
    all: Vec<Entry>,
    roots: Vec<Holder>,
}

impl Fair {
    /// Nobody yet.
    pub fn new(capacity: Amounts) -> Self {
        Self { capacity, all: Vec::new(), roots: Vec::new() }
    }

    /// The pool has grown or shrunk.
    pub fn set_capacity(&mut self, capacity: Amounts) {
        self.capacity = capacity;
    }

    /// Adds a project, or a group below one. A weight of zero counts as one.
    pub fn add(&mut self, parent: Option<Holder>, weight: u32) -> Holder {
        let holder = Holder(crate::pool::small(self.all.len()));
        let entry = Entry {
            parent,
            children: Vec::new(),
            weight: weight.max(1),
            held: [0; DIMENSIONS],
            objects: 0,
            quota: Limits::default(),
        };
        self.all.push(entry);
        match parent {
            Some(parent) => self.all[parent.0 as usize].children.push(holder),
            None => self.roots.push(holder),
        }
        holder
    }

    /// Sets a quota. One that is below what is held takes nothing away: it only keeps more from being taken.
    pub fn set_quota(&mut self, holder: Holder, quota: Limits) {
        self.all[holder.0 as usize].quota = quota;
    }

    /// Sets a weight.
    pub fn set_weight(&mut self, holder: Holder, weight: u32) {
        self.all[holder.0 as usize].weight = weight.max(1);
    }

    /// What somebody holds.
    pub fn held(&self, holder: Holder) -> Amounts {
        self.all[holder.0 as usize].held
    }

    fn line(&self, holder: Holder) -> impl Iterator<Item = Holder> + '_ {
        std::iter::successors(Some(holder), |at| self.all[at.0 as usize].parent)
    }

    /// Whether the quotas of somebody and of all above them allow one more object of this size.
    pub fn allows(&self, holder: Holder, asked: &Amounts) -> Result<(), OverLimit> {
        for of in self.line(holder) {
            let entry = &self.all[of.0 as usize];
            for (dimension, asked) in asked.iter().copied().enumerate().filter(|(_, asked)| *asked > 0) {
                let held = entry.held[dimension];
                if let Some(limit) = entry.quota.amounts[dimension].filter(|limit| held.saturating_add(asked) > *limit)
                {
                    return Err(OverLimit::Amount { of, dimension, held, asked, limit });
                }
            }
            if let Some(limit) = entry.quota.objects.filter(|limit| entry.objects >= *limit) {
                return Err(OverLimit::Objects { of, held: entry.objects, limit });
            }
        }
        Ok(())
    }

    /// Somebody has taken this.
    pub fn take(&mut self, holder: Holder, amounts: &Amounts) {
        self.change(holder, |entry| {
            entry.held.iter_mut().zip(amounts).for_each(|(held, more)| *held = held.saturating_add(*more));
            entry.objects += 1;
        });
    }

    /// Somebody has given this back.
    pub fn give_back(&mut self, holder: Holder, amounts: &Amounts) {
        self.change(holder, |entry| {
            entry.held.iter_mut().zip(amounts).for_each(|(held, less)| *held = held.saturating_sub(*less));
            entry.objects = entry.objects.saturating_sub(1);
        });
    }

    fn change(&mut self, holder: Holder, change: impl Fn(&mut Entry)) {
        let line: Vec<Holder> = self.line(holder).collect();
        line.into_iter().for_each(|of| change(&mut self.all[of.0 as usize]));
    }

    /// The largest part of a capacity that somebody holds.
    pub fn dominant(&self, holder: Holder) -> Share {
        self.weighted(holder, 1)
    }

    fn weighted(&self, holder: Holder, weight: u32) -> Share {
        let held = self.all[holder.0 as usize].held;
        let shares = held.iter().zip(self.capacity).filter(|(_, whole)| *whole > 0);
        let shares = shares
            .map(|(part, whole)| Share { part: u128::from(*part), whole: u128::from(whole) * u128::from(weight) });
        shares.max().unwrap_or(Share { part: 0, whole: 1 })
    }

    /// Whose turn it is among leaves for which `wants` is true: who waits, and may take more.
    pub fn next(&self, wants: impl Fn(Holder) -> bool) -> Option<Holder> {
        self.turn(&self.roots, &wants)
    }

    fn turn(&self, of: &[Holder], wants: &impl Fn(Holder) -> bool) -> Option<Holder> {
        let mut order: Vec<Holder> = of.to_vec();
        order.sort_by_key(|holder| (self.weighted(*holder, self.all[holder.0 as usize].weight), *holder));
        order.into_iter().find_map(|holder| {
            let children = &self.all[holder.0 as usize].children;
            if children.is_empty() { wants(holder).then_some(holder) } else { self.turn(children, wants) }
        })
    }

    /// Gives turns until nobody can take more: each leaf wants equal pieces without end. Answers how many pieces each has got.
    pub fn fill(&mut self, wants: &[(Holder, Amounts)]) -> Vec<u64> {
        let mut got = vec![0; wants.len()];
        let mut done = vec![false; wants.len()];
        let mut free = self.capacity;
        for root in &self.roots {
            let held = self.held(*root);
            free.iter_mut().zip(held).for_each(|(free, held)| *free = free.saturating_sub(held));
        }
        let at = |holder: Holder| wants.iter().position(|(who, _)| *who == holder);
        while let Some(place) = self.next(|holder| at(holder).is_some_and(|at| !done[at])).and_then(at) {
            let (holder, piece) = &wants[place];
            let fits = piece.iter().zip(free).all(|(piece, free)| *piece <= free);
            if !fits || piece.iter().all(|part| *part == 0) || self.allows(*holder, piece).is_err() {
                done[place] = true;
                continue;
            }
            self.take(*holder, piece);
            free.iter_mut().zip(piece).for_each(|(free, piece)| *free -= piece);
            got[place] += 1;
        }
        got
    }
}
