//! What a node is, apart from how much it has left: interned, so that a selector is asked once for each class and never for each node.

use super::{hash::Map, vector::Vector};
use std::collections::{BTreeMap, BTreeSet};

/// A mark on a node that keeps out whoever does not tolerate it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    /// What it says: `gpu-only`.
    pub key: String,
    /// More of it, or empty.
    pub value: String,
}

/// What a node is. Labels are those that selectors may use: one that is different on each node belongs into no pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Attributes {
    /// Where it stands.
    pub zone: String,
    /// Its rack in the zone.
    pub rack: String,
    /// Processor, GPU model, and what people wrote on it.
    pub labels: BTreeMap<String, String>,
    /// Who is kept out.
    pub taints: BTreeSet<Taint>,
    /// Measured speed in eight steps: 0 is the slowest.
    pub performance: u8,
    /// It takes no new instances.
    pub cordoned: bool,
    /// It is silent.
    pub lost: bool,
}

impl Attributes {
    /// The value under a key: `zone` and `rack` are keys like any label.
    pub fn get(&self, key: &str) -> Option<&str> {
        match key {
            "zone" => (!self.zone.is_empty()).then_some(self.zone.as_str()),
            "rack" => (!self.rack.is_empty()).then_some(self.rack.as_str()),
            key => self.labels.get(key).map(String::as_str),
        }
    }
}

/// Nodes that are alike when they are empty.
#[derive(Debug, Clone)]
pub(super) struct AttributeClass {
    pub(super) attributes: Attributes,
    pub(super) capacity: Vector,
    pub(super) zone: u32,
    pub(super) rack: u32,
    /// How many nodes are of it now.
    pub(super) nodes: u32,
    /// 2^32 thousandths divided by the capacity: a division that is done once.
    pub(super) reciprocal: [u64; super::DIMENSIONS],
    /// How many dimensions it has anything of.
    pub(super) wide: i64,
}

impl AttributeClass {
    /// How full a node with this much room is: see [`super::cells::Cell`].
    #[inline]
    pub(super) fn used(&self, room: &Vector) -> u64 {
        self.weigh(&self.capacity.minus(room))
    }

    /// What an amount is of the capacity, each dimension in 2^32 thousandths.
    #[inline]
    pub(super) fn weigh(&self, amount: &Vector) -> u64 {
        let parts = self.reciprocal.iter().zip(amount.0);
        parts.fold(0, |sum: u64, (reciprocal, part)| {
            sum.saturating_add(u64::from(part.max(0).unsigned_abs()).saturating_mul(*reciprocal))
        })
    }
}

/// All classes, and the domains that they name.
#[derive(Debug, Clone, Default)]
pub(super) struct AttributeClasses {
    pub(super) all: Vec<AttributeClass>,
    index: Map<(Attributes, Vector), u32>,
    pub(super) zones: Names<String>,
    pub(super) racks: Names<(String, String)>,
}

impl AttributeClasses {
    pub(super) fn intern(&mut self, attributes: &Attributes, capacity: Vector) -> u32 {
        let key = (attributes.clone(), capacity);
        if let Some(known) = self.index.get(&key) {
            return *known;
        }
        let zone = self.zones.intern(&attributes.zone);
        let rack = self.racks.intern(&(attributes.zone.clone(), attributes.rack.clone()));
        let class = super::small(self.all.len());
        let reciprocal =
            capacity.0.map(|whole| if whole > 0 { (1000 << 32) / u64::from(whole.unsigned_abs()) } else { 0 });
        let wide = reciprocal.iter().map(|part| i64::from(*part > 0)).sum::<i64>().max(1);
        self.all.push(AttributeClass {
            attributes: attributes.clone(),
            capacity,
            zone,
            rack,
            nodes: 0,
            reciprocal,
            wide,
        });
        self.index.insert(key, class);
        class
    }
}

/// Names with small numbers.
#[derive(Debug, Clone)]
pub(super) struct Names<T> {
    pub(super) all: Vec<T>,
    index: BTreeMap<T, u32>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { all: Vec::new(), index: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Names<T> {
    pub(super) fn intern(&mut self, name: &T) -> u32 {
        if let Some(known) = self.index.get(name) {
            return *known;
        }
        let number = super::small(self.all.len());
        self.all.push(name.clone());
        self.index.insert(name.clone(), number);
        number
    }

    pub(super) fn find(&self, name: &T) -> Option<u32> {
        self.index.get(name).copied()
    }
}
