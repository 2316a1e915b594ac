//! Preemption: who gives way to a request of higher priority.
//!
//! Of all nodes the one is taken whose victims have the lowest highest priority, then are fewest, then cost least, then the smallest rank.
//! On a node all lower ones are taken out in thought, and each gets its place back if the request still fits: the highest priority first.

use super::{NodeIndex, PRIORITIES, Pool, RequestId, Ticket};

/// A node and who must leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// Where the request goes.
    pub node: NodeIndex,
    /// Who leaves, the lowest priority first.
    pub victims: Vec<Ticket>,
}

impl Pool {
    /// Proposes a preemption and changes nothing. `None`: it would not help.
    pub fn preemption(&mut self, request: RequestId) -> Option<Preemption> {
        self.sync(request.0);
        let (shape, priority) = self.shape(request.0);
        // The least that must be touched: first those nodes where the lowest priorities suffice.
        for below in 1..=priority {
            let mut best: Option<((usize, u64, u64), Preemption)> = None;
            for node in 0..super::small(self.nodes.at.len()) {
                let at = node as usize;
                if self.nodes.at[at].cell == super::NOWHERE || !self.may(request.0, self.nodes.at[at].attributes) {
                    continue;
                }
                let held = &self.nodes.held[at][..below];
                let room = held.iter().fold(self.nodes.at[at].room, |room, held| room.plus(held));
                if !shape.fits(&room) {
                    continue;
                }
                let Some(victims) = self.victims(request, NodeIndex(node), below) else { continue };
                let cost = victims.iter().map(|v| u64::from(self.asked(self.class_of(*v)).cost)).sum();
                let key = (victims.len(), cost, self.nodes.at[at].order);
                if best.as_ref().is_none_or(|(least, _)| key < *least) {
                    best = Some((key, Preemption { node: NodeIndex(node), victims }));
                }
            }
            if let Some((_, preemption)) = best {
                return Some(preemption);
            }
        }
        None
    }

    /// The fewest of a node's instances below a priority whose leaving makes room, if the rules allow the request there then.
    fn victims(&mut self, request: RequestId, node: NodeIndex, below: usize) -> Option<Vec<Ticket>> {
        let shape = self.classes[request.0 as usize].request.shape;
        let of = |pool: &Self, ticket: &Ticket| {
            let class = pool.placed[ticket.0 as usize].class;
            let (size, priority) = pool.shape(class);
            (priority, pool.classes[class as usize].request.cost, size)
        };
        let mut lower: Vec<Ticket> =
            self.on(node).into_iter().filter(|ticket| of(self, ticket).0 < below.min(PRIORITIES)).collect();
        // Those that are worth most get their place back first: the highest priority, the dearest, the largest.
        lower.sort_by_key(|ticket| (std::cmp::Reverse(of(self, ticket)), *ticket));
        let mut room =
            lower.iter().fold(self.nodes.at[node.0 as usize].room, |room, ticket| room.plus(&of(self, ticket).2));
        let mut victims = Vec::new();
        for ticket in lower {
            let without = room.minus(&of(self, &ticket).2);
            if shape.fits(&without) {
                room = without;
            } else {
                victims.push(ticket);
            }
        }
        victims.reverse();
        if self.classes[request.0 as usize].terms.is_empty() {
            return Some(victims);
        }
        let overlay = self.overlay();
        victims.iter().for_each(|ticket| self.release(*ticket));
        let allowed = self.may_take(request, node);
        self.drop_overlay(overlay);
        allowed.then_some(victims)
    }

    /// Does what was proposed: the victims' requests come back, to be placed elsewhere or to wait.
    pub fn preempt(&mut self, request: RequestId, preemption: &Preemption) -> (Ticket, Vec<RequestId>) {
        let homeless = preemption.victims.iter().map(|ticket| self.class_of(*ticket)).collect();
        preemption.victims.iter().for_each(|ticket| self.release(*ticket));
        (self.restore(request, preemption.node), homeless)
    }
}
