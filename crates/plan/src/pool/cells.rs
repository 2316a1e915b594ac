//! Cells: all nodes of one attribute class with the same marks and the same room left. What is decided for one is decided for all.
//!
//! A cell's content never changes while it lives: a node that gains or loses room moves to another cell. So a score that was computed for a
//! cell stays right, and only cells that appeared or went since are looked at again: they are in the *log*.
//!
//! Members are kept in a heap by rank from which those that left are taken out when they come to the top.

use super::{hash::Map, small, vector::Vector};
use std::{cmp::Reverse, collections::BinaryHeap};

/// What makes nodes equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) attributes: u32,
    pub(super) marks: u32,
    pub(super) room: Vector,
}

/// No cell.
pub(super) const NOWHERE: u32 = u32::MAX;

/// One cell: a line of the processor's cache, since a decision looks at many of them, each once.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Cell {
    pub(super) key: Key,
    /// How full its nodes are: the sum over dimensions of what is used, times the reciprocal of the capacity.
    pub(super) base: u64,
    pub(super) members: u32,
    pub(super) zone: u32,
    pub(super) rack: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    index: Map<Key, u32>,
    pub(super) at: Vec<Cell>,
    heap: Vec<BinaryHeap<Reverse<u64>>>,
    free: Vec<u32>,
    /// Cells that appeared or went, in order; the first is number `base`.
    pub(super) log: Vec<u32>,
    pub(super) base: u64,
}

impl Cells {
    /// How many ids have been given out, those that are free among them.
    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// How many have members.
    pub(super) fn live(&self) -> usize {
        self.index.len()
    }

    /// Ids of those that have members.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.at).filter(|(_, cell)| cell.members > 0).map(|(number, _)| number)
    }

    /// The end of the log.
    pub(super) fn now(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// Puts a node into the cell with this key. Says where it is, and whether the cell is new.
    #[inline]
    pub(super) fn enter(&mut self, key: Key, order: u64, new: impl FnOnce() -> Cell) -> (u32, bool) {
        if let Some(cell) = self.index.get(&key).copied() {
            self.at[cell as usize].members += 1;
            self.heap[cell as usize].push(Reverse(order));
            return (cell, false);
        }
        let cell = match self.free.pop() {
            Some(cell) => {
                self.at[cell as usize] = new();
                cell
            }
            None => {
                self.at.push(new());
                self.heap.push(BinaryHeap::new());
                small(self.at.len() - 1)
            }
        };
        self.heap[cell as usize].push(Reverse(order));
        self.index.insert(key, cell);
        self.note(cell);
        (cell, true)
    }

    /// Takes a node out. The caller has already written down where it is now. Says whether the cell is gone.
    pub(super) fn leave(&mut self, cell: u32, nodes: &[super::Node]) -> bool {
        let at = cell as usize;
        self.at[at].members -= 1;
        if self.at[at].members == 0 {
            self.index.remove(&self.at[at].key);
            self.heap[at].clear();
            self.free.push(cell);
            self.note(cell);
            return true;
        }
        if self.heap[at].len() > 2 * self.at[at].members as usize + 32 {
            let mut kept: Vec<Reverse<u64>> = std::mem::take(&mut self.heap[at]).into_vec();
            kept.retain(|order| nodes[node(*order)].cell == cell);
            kept.sort_unstable();
            kept.dedup();
            self.heap[at] = kept.into();
        }
        false
    }

    /// The member with the smallest rank, as its order.
    pub(super) fn first(&mut self, cell: u32, nodes: &[super::Node]) -> Option<u64> {
        let heap = &mut self.heap[cell as usize];
        while let Some(top) = heap.peek() {
            if nodes[node(*top)].cell == cell {
                return Some(top.0);
            }
            heap.pop();
        }
        None
    }

    /// Like `first`, but leaves the heap alone.
    pub(super) fn peek(&self, cell: u32, nodes: &[super::Node]) -> Option<u64> {
        let heap = &self.heap[cell as usize];
        heap.iter().filter(|order| nodes[node(**order)].cell == cell).map(|order| order.0).min()
    }

    fn note(&mut self, cell: u32) {
        if self.log.len() > 8 * self.at.len() + 4096 {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.base += half as u64;
        }
        self.log.push(cell);
    }
}

#[inline]
fn node(order: Reverse<u64>) -> usize {
    (order.0 & 0xffff_ffff) as usize
}
