//! The pool as the scheduler keeps it: a state that grows by each decision, so that a decision never looks at all nodes.
//!
//! Owns what is free on each node, who is where, and the choice of a node with its reasons. Never reads a clock, never draws chance, never
//! acts: the caller writes decisions down, and tells this state what really happened.
//!
//! Words: nodes of one *attribute class* are alike when they are empty. Nodes of one *cell* are alike now: the same class, the same room
//! left, the same *marks* (members of watched groups). Equal requests are one *request class*; it keeps a *row*, its score of each cell. A
//! score stays right as long as its cell lives, so a decision looks only at cells that appeared or went since the last one of its class, takes
//! the best of the row by blocks, and of the best cells the node with the smallest *rank*, which is fixed by the node's id. So a decision
//! depends on the state alone, not on the way that led there: tests compare it with a plain search over all nodes.

mod attributes;
mod cells;
mod conflict;
mod decide;
mod gang;
mod groups;
pub(crate) mod hash;
mod marks;
mod preempt;
mod request;
mod row;
#[cfg(test)]
mod tests;
mod vector;
mod why;

pub use attributes::{Attributes, Taint};
pub use conflict::{Conflict, Impossible};
pub use gang::Gang;
pub use preempt::Preemption;
pub use request::{
    Affinity, Domain, Force, Labels, Near, PRIORITIES, Policy, Request, Requirement, Spread, Test, Toleration,
};
pub use vector::{BadVector, DIMENSIONS, MOST, Vector};
pub use why::{Candidate, Reason, Why};

use attributes::AttributeClasses;
use cells::{Cell, Cells, Key, NOWHERE};
use groups::Groups;
use hash::Map;
use marks::Marks;
use row::Class;

/// A node of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub u32);

/// A class of equal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// An instance that has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u32);

/// A number that fits: a pool has fewer than four thousand million of anything.
pub(crate) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// No instance.
const NONE: u32 = u32::MAX;

/// What is known of a node and changes with each decision: a line of the processor's cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Node {
    room: Vector,
    attributes: u32,
    marks: u32,
    cell: u32,
    /// Its first instance.
    head: u32,
    /// Rank in the upper half, the node in the lower.
    order: u64,
}

/// All nodes.
#[derive(Debug, Clone, Default)]
struct Nodes {
    at: Vec<Node>,
    /// What each priority holds.
    held: Vec<[Vector; PRIORITIES]>,
}

/// An instance on a node, in its node's list.
#[derive(Debug, Clone, Copy)]
struct Placed {
    node: u32,
    class: u32,
    before: u32,
    after: u32,
}

/// What is to be undone.
#[derive(Debug, Clone, Copy)]
enum Undo {
    Placed(u32),
    Released { ticket: u32, node: u32, class: u32 },
}

/// A state of the pool to which it can go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Overlay(usize);

/// The state.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    dimensions: Vec<String>,
    nodes: Nodes,
    attributes: AttributeClasses,
    marks: Marks,
    cells: Cells,
    groups: Groups,
    classes: Vec<Class>,
    index: Map<Request, u32>,
    placed: Vec<Placed>,
    vacant: Vec<u32>,
    live: usize,
    rtt: Map<(u32, u32), u32>,
    undo: Vec<Undo>,
    overlays: usize,
    capacity: [i64; DIMENSIONS],
    reserved: [i64; DIMENSIONS],
    rows: usize,
}

impl Pool {
    /// An empty pool with these dimensions.
    pub fn new<T: Into<String>>(dimensions: impl IntoIterator<Item = T>) -> Self {
        Self { dimensions: dimensions.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds a node. `id` decides its rank: the same node has the same rank in every pool.
    pub fn add_node(&mut self, id: u64, capacity: Vector, attributes: &Attributes) -> NodeIndex {
        let node = small(self.nodes.at.len());
        let class = self.attributes.intern(attributes, capacity);
        let order = crate::mix(id) & 0xffff_ffff_0000_0000 | u64::from(node);
        self.nodes.at.push(Node { room: capacity, attributes: class, marks: 0, cell: NOWHERE, head: NONE, order });
        self.nodes.held.push([Vector::ZERO; PRIORITIES]);
        self.joined(node, class);
        NodeIndex(node)
    }

    fn joined(&mut self, node: u32, class: u32) {
        self.attributes.all[class as usize].nodes += 1;
        let capacity = self.attributes.all[class as usize].capacity;
        total(&mut self.capacity, &capacity, 1);
        self.settle(node);
    }

    /// A node has become another one: larger, cordoned, tainted, silent. What is on it stays, even where it is too much now.
    pub fn change_node(&mut self, node: NodeIndex, capacity: Vector, attributes: &Attributes) {
        let at = node.0 as usize;
        let before = self.nodes.at[at].attributes;
        let class = self.attributes.intern(attributes, capacity);
        if class == before || self.nodes.at[at].cell == NOWHERE {
            return;
        }
        let had = self.attributes.all[before as usize].capacity;
        self.attributes.all[before as usize].nodes -= 1;
        total(&mut self.capacity, &had, -1);
        self.nodes.at[at].room = self.nodes.at[at].room.plus(&capacity).minus(&had);
        self.nodes.at[at].attributes = class;
        for ticket in self.on(node) {
            self.count(self.placed[ticket.0 as usize].class, before, false);
            self.count(self.placed[ticket.0 as usize].class, class, true);
        }
        self.joined(node.0, class);
    }

    /// Takes a node out. Answers with what was on it, which has no place any more.
    pub fn remove_node(&mut self, node: NodeIndex) -> Vec<RequestId> {
        let at = node.0 as usize;
        if self.nodes.at[at].cell == NOWHERE {
            return Vec::new();
        }
        let homeless = self.on(node);
        let requests = homeless.iter().map(|ticket| RequestId(self.placed[ticket.0 as usize].class)).collect();
        homeless.into_iter().for_each(|ticket| self.release(ticket));
        let class = self.nodes.at[at].attributes as usize;
        self.attributes.all[class].nodes -= 1;
        let capacity = self.attributes.all[class].capacity;
        total(&mut self.capacity, &capacity, -1);
        let cell = std::mem::replace(&mut self.nodes.at[at].cell, NOWHERE);
        self.left(cell);
        requests
    }

    /// The measured round trip between two zones, both ways, in microseconds.
    pub fn set_rtt(&mut self, a: &str, b: &str, micros: u32) {
        let (a, b) = (self.attributes.zones.intern(&a.to_owned()), self.attributes.zones.intern(&b.to_owned()));
        self.rtt.insert((a, b), micros);
        self.rtt.insert((b, a), micros);
        self.classes.iter_mut().filter(|class| class.request.near.is_some()).for_each(Class::forget);
    }

    /// The class of equal requests. Asking for an interned one again is a look-up; interning a new one with rules about others counts those
    /// others once.
    pub fn request(&mut self, request: &Request) -> RequestId {
        if let Some(known) = self.index.get(request) {
            return RequestId(*known);
        }
        let class = self.compile(request);
        let number = small(self.classes.len());
        self.classes.push(class);
        self.index.insert(request.clone(), number);
        self.tell_others(number);
        RequestId(number)
    }

    /// The request of a class.
    pub fn asked(&self, request: RequestId) -> &Request {
        &self.classes[request.0 as usize].request
    }

    /// Writes down an instance that is on a node already, whatever the rules say.
    pub fn restore(&mut self, request: RequestId, node: NodeIndex) -> Ticket {
        let ticket = self.vacant.pop().unwrap_or_else(|| {
            self.placed.push(Placed { node: NONE, class: 0, before: NONE, after: NONE });
            small(self.placed.len() - 1)
        });
        self.apply(ticket, request.0, node.0);
        if self.overlays > 0 {
            self.undo.push(Undo::Placed(ticket));
        }
        Ticket(ticket)
    }

    fn apply(&mut self, ticket: u32, class: u32, node: u32) {
        let at = node as usize;
        let (shape, priority) = self.shape(class);
        let after = std::mem::replace(&mut self.nodes.at[at].head, ticket);
        if after != NONE {
            self.placed[after as usize].before = ticket;
        }
        self.placed[ticket as usize] = Placed { node, class, before: NONE, after };
        self.classes[class as usize].live += 1;
        self.live += 1;
        total(&mut self.reserved, &shape, 1);
        self.nodes.at[at].room = self.nodes.at[at].room.minus(&shape);
        let held = &mut self.nodes.held[at][priority];
        *held = held.plus(&shape);
        self.count(class, self.nodes.at[at].attributes, true);
        let watched = self.classes[class as usize].watched.iter().copied();
        self.nodes.at[at].marks = self.marks.changed(self.nodes.at[at].marks, watched, true);
        self.settle(node);
    }

    /// An instance is gone: its room is free again.
    pub fn release(&mut self, ticket: Ticket) {
        let Placed { node, class, .. } = self.placed[ticket.0 as usize];
        if node == NONE {
            return;
        }
        self.unapply(ticket.0);
        if self.overlays > 0 {
            self.undo.push(Undo::Released { ticket: ticket.0, node, class });
        }
    }

    fn unapply(&mut self, ticket: u32) {
        let Placed { node, class, before, after } = self.placed[ticket as usize];
        let at = node as usize;
        let (shape, priority) = self.shape(class);
        match before {
            NONE => self.nodes.at[at].head = after,
            before => self.placed[before as usize].after = after,
        }
        if after != NONE {
            self.placed[after as usize].before = before;
        }
        self.placed[ticket as usize].node = NONE;
        self.vacant.push(ticket);
        self.classes[class as usize].live -= 1;
        self.live -= 1;
        total(&mut self.reserved, &shape, -1);
        self.nodes.at[at].room = self.nodes.at[at].room.plus(&shape);
        let held = &mut self.nodes.held[at][priority];
        *held = held.minus(&shape);
        self.count(class, self.nodes.at[at].attributes, false);
        let watched = self.classes[class as usize].watched.iter().copied();
        self.nodes.at[at].marks = self.marks.changed(self.nodes.at[at].marks, watched, false);
        self.settle(node);
    }

    fn shape(&self, class: u32) -> (Vector, usize) {
        let request = &self.classes[class as usize].request;
        (request.shape, usize::from(request.priority).min(PRIORITIES - 1))
    }

    /// Moves a node to the cell where it belongs.
    fn settle(&mut self, node: u32) {
        let at = node as usize;
        let attributes = self.nodes.at[at].attributes;
        let key = Key { attributes, marks: self.nodes.at[at].marks, room: self.nodes.at[at].room };
        let before = self.nodes.at[at].cell;
        if before != NOWHERE && self.cells.at[before as usize].key == key {
            return;
        }
        let class = &self.attributes.all[attributes as usize];
        let fresh = || Cell { key, base: class.used(&key.room), members: 1, zone: class.zone, rack: class.rack };
        let (cell, new) = self.cells.enter(key, self.nodes.at[at].order, fresh);
        if new {
            self.marks.used(key.marks);
        }
        self.nodes.at[at].cell = cell;
        if before != NOWHERE {
            self.left(before);
        }
    }

    fn left(&mut self, cell: u32) {
        let marks = self.cells.at[cell as usize].key.marks;
        if self.cells.leave(cell, &self.nodes.at) {
            self.marks.unused(marks);
        }
    }

    /// From here on, everything can be undone, until the overlay is kept or dropped. Overlays nest.
    pub fn overlay(&mut self) -> Overlay {
        self.overlays += 1;
        Overlay(self.undo.len())
    }

    /// What happened since stays.
    pub fn keep(&mut self, _: Overlay) {
        self.overlays -= 1;
        if self.overlays == 0 {
            self.undo.clear();
        }
    }

    /// What happened since did not happen. Nodes must not have been changed meanwhile.
    pub fn drop_overlay(&mut self, overlay: Overlay) {
        while self.undo.len() > overlay.0 {
            match self.undo.pop() {
                Some(Undo::Placed(ticket)) => self.unapply(ticket),
                Some(Undo::Released { ticket, node, class }) => {
                    self.vacant.pop();
                    self.apply(ticket, class, node);
                }
                None => {}
            }
        }
        self.overlays -= 1;
    }

    /// Who is on a node, the newest first.
    pub fn on(&self, node: NodeIndex) -> Vec<Ticket> {
        let mut all = Vec::new();
        let mut at = self.nodes.at[node.0 as usize].head;
        while at != NONE {
            all.push(Ticket(at));
            at = self.placed[at as usize].after;
        }
        all
    }

    /// Where an instance is.
    pub fn node_of(&self, ticket: Ticket) -> Option<NodeIndex> {
        let placed = self.placed.get(ticket.0 as usize)?;
        (placed.node != NONE).then_some(NodeIndex(placed.node))
    }

    /// The class of an instance that has a place.
    pub fn class_of(&self, ticket: Ticket) -> RequestId {
        RequestId(self.placed[ticket.0 as usize].class)
    }

    /// What is left on a node. A part is negative where more is promised than there is.
    pub fn room(&self, node: NodeIndex) -> [i32; DIMENSIONS] {
        self.nodes.at[node.0 as usize].room.0
    }

    /// What a node is.
    pub fn node(&self, node: NodeIndex) -> (&Attributes, Vector) {
        let class = &self.attributes.all[self.nodes.at[node.0 as usize].attributes as usize];
        (&class.attributes, class.capacity)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.attributes.all.iter().map(|class| class.nodes as usize).sum()
    }

    /// How many instances have a place.
    pub const fn instances(&self) -> usize {
        self.live
    }

    /// How many cells there are: what a decision costs.
    pub fn cells(&self) -> usize {
        self.cells.live()
    }

    /// The sum over nodes, and what is promised of it.
    pub const fn totals(&self) -> ([i64; DIMENSIONS], [i64; DIMENSIONS]) {
        (self.capacity, self.reserved)
    }

    /// How many nodes hold at least one instance.
    pub fn occupied(&self) -> usize {
        self.nodes.at.iter().filter(|node| node.head != NONE).count()
    }
}

fn total(sum: &mut [i64; DIMENSIONS], part: &Vector, times: i64) {
    for (sum, part) in sum.iter_mut().zip(part.0) {
        *sum += i64::from(part) * times;
    }
}
