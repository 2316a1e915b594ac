//! Who of those that wait gets a place first, when they belong to several projects.
//!
//! Within a project it is first come, first served. Between projects the turn goes to whose dominant share of the pool, divided by their weight,
//! is smallest ([`crate::fair`]), so that one project's long queue never stands before another's first instance. A turn that finds no room is
//! spent on that instance alone: the next in its project may be smaller.

use super::{Ask, Decision, NodeView, Placement, place_one};
use crate::{
    amount::{self, Dimension},
    fair::{Amounts, Fair, Holder},
    pool::DIMENSIONS,
};
use std::collections::VecDeque;
use yun_types::{Reserved, Size};

/// A project, as far as turns are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its part against others.
    pub weight: u32,
    /// What it holds already.
    pub held: Reserved,
    /// What it waits for, first come first.
    pub asks: Vec<Ask>,
}

fn amounts(size: Size) -> Amounts {
    let mut amounts = [0; DIMENSIONS];
    for (amount, dimension) in amounts.iter_mut().zip(Dimension::ALL) {
        *amount = dimension.of(size);
    }
    amounts
}

fn whole(reserved: Reserved) -> Size {
    Size { cpu: reserved.cpu, memory: reserved.memory, disk: reserved.disk }
}

/// The projects as holders of the pool, in their order.
fn fair<'c>(capacity: Size, claims: impl IntoIterator<Item = (u32, &'c Reserved)>) -> (Fair, Vec<Holder>) {
    let mut fair = Fair::new(amounts(capacity));
    let holders = claims
        .into_iter()
        .map(|(weight, held)| {
            let holder = fair.add(None, weight);
            fair.take(holder, &amounts(whole(*held)));
            holder
        })
        .collect();
    (fair, holders)
}

/// What all nodes that answer lend together.
pub fn capacity(nodes: &[NodeView]) -> Size {
    nodes.iter().filter(|node| node.state == yun_types::NodeState::Ready).fold(amount::NOTHING, |sum, node| Size {
        cpu: sum.cpu + node.capacity.cpu,
        memory: sum.memory + node.capacity.memory,
        disk: sum.disk + node.capacity.disk,
    })
}

/// The largest part that somebody holds of a capacity, in millionths, and of what it is.
pub fn dominant(capacity: Size, held: Reserved) -> (u64, Dimension) {
    let part = |dimension: Dimension| match dimension.of(capacity) {
        0 => 0,
        whole_of_it => u128::from(dimension.of(whole(held))) * 1_000_000 / u128::from(whole_of_it),
    };
    // The first of equals: `max_by_key` would take the last.
    let largest = Dimension::ALL.into_iter().rev().max_by_key(|dimension| part(*dimension)).unwrap_or(Dimension::Cpu);
    (u64::try_from(part(largest)).unwrap_or(u64::MAX), largest)
}

/// Decides for all that wait, in turn. Those that get a place reserve their room for those after them.
pub fn in_turn(nodes: &[NodeView], claims: Vec<Claim>) -> Vec<Decision> {
    let mut nodes = nodes.to_vec();
    let (mut fair, holders) = fair(capacity(&nodes), claims.iter().map(|claim| (claim.weight, &claim.held)));
    let mut queues: Vec<VecDeque<Ask>> = claims.into_iter().map(|claim| claim.asks.into()).collect();
    let mut decisions = Vec::new();
    let place_of = |holder: Holder| holders.iter().position(|known| *known == holder);
    while let Some(at) =
        fair.next(|holder| place_of(holder).is_some_and(|at| !queues[at].is_empty())).and_then(place_of)
    {
        let Some(ask) = queues[at].pop_front() else { break };
        let decision = place_one(&nodes, &ask);
        if let Placement::On { node, .. } = &decision.placement
            && let Some(taken) = nodes.iter_mut().find(|n| n.id == *node)
        {
            taken.reserved = amount::add(taken.reserved, ask.size);
            fair.take(holders[at], &amounts(ask.size));
        }
        decisions.push(decision);
    }
    decisions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{place::tests, samples};
    use proptest::prelude::*;
    use yun_types::{Bytes, InstanceId};

    fn node(capacity: &str) -> NodeView {
        tests::node("a", capacity, "")
    }

    fn ask(name: &str, size: &str) -> Ask {
        Ask { instance: InstanceId(samples::id(name)), name: samples::name(name), ..tests::ask(size) }
    }

    fn claim(weight: u32, asks: Vec<Ask>) -> Claim {
        Claim { weight, held: Reserved::default(), asks }
    }

    fn many(stem: &str, count: usize, size: &str) -> Vec<Ask> {
        (0..count).map(|n| ask(&format!("{stem}{n}"), size)).collect()
    }

    fn placed(decisions: &[Decision], asks: &[Ask]) -> usize {
        let on = |decision: &&Decision| matches!(decision.placement, Placement::On { .. });
        let ours = |decision: &&Decision| asks.iter().any(|ask| ask.instance == decision.instance);
        decisions.iter().filter(on).filter(ours).count()
    }

    #[test]
    fn a_long_queue_does_not_stand_before_anothers_first() {
        let nodes = [node("cpu:4,memory:8Gi,disk:100Gi")];
        let (long, short) =
            (many("long", 50, "cpu:1,memory:1Gi,disk:1Gi"), many("short", 2, "cpu:1,memory:1Gi,disk:1Gi"));
        let decisions = in_turn(&nodes, vec![claim(1, long.clone()), claim(1, short.clone())]);
        assert_eq!(decisions.len(), 52);
        assert_eq!((placed(&decisions, &long), placed(&decisions, &short)), (2, 2));
    }

    #[test]
    fn weights_and_what_is_held_already_count() {
        let nodes = [node("cpu:9,memory:90Gi,disk:100Gi")];
        let (a, b) = (many("a", 20, "cpu:1,memory:1Gi,disk:1Gi"), many("b", 20, "cpu:1,memory:1Gi,disk:1Gi"));
        let decisions = in_turn(&nodes, vec![claim(2, a.clone()), claim(1, b.clone())]);
        assert_eq!((placed(&decisions, &a), placed(&decisions, &b)), (6, 3));
        let mut holds = claim(1, a.clone());
        holds.held = amount::add(Reserved::default(), "cpu:5,memory:1Gi,disk:1Gi".parse().unwrap());
        let decisions = in_turn(&nodes, vec![holds, claim(1, b.clone())]);
        assert_eq!((placed(&decisions, &a), placed(&decisions, &b)), (2, 7));
    }

    #[test]
    fn one_that_is_too_large_does_not_hold_up_its_project() {
        let nodes = [node("cpu:2,memory:8Gi,disk:100Gi")];
        let asks = vec![ask("large", "cpu:3,memory:1Gi,disk:1Gi"), ask("small", "cpu:1,memory:1Gi,disk:1Gi")];
        assert_eq!(placed(&in_turn(&nodes, vec![claim(1, asks.clone())]), &asks), 1);
    }

    #[test]
    fn the_dominant_part_is_named() {
        let capacity = Size { cpu: yun_types::Cpu::cores(4), memory: Bytes::gib(8), disk: Bytes(0) };
        let held = amount::add(Reserved::default(), "cpu:1,memory:4Gi,disk:1Gi".parse().unwrap());
        assert_eq!(dominant(capacity, held), (500_000, Dimension::Memory));
        assert_eq!(dominant(amount::NOTHING, held), (0, Dimension::Cpu));
    }

    proptest! {
        #[test]
        fn everybody_is_answered_once_and_equals_differ_by_one_piece(cores in 1u32..40, a in 0usize..30, b in 0usize..30) {
            let nodes = [node(&format!("cpu:{cores},memory:64Gi,disk:100Gi"))];
            let (first, second) = (many("a", a, "cpu:1,memory:1Gi,disk:1Gi"), many("b", b, "cpu:1,memory:1Gi,disk:1Gi"));
            let decisions = in_turn(&nodes, vec![claim(1, first.clone()), claim(1, second.clone())]);
            prop_assert_eq!(decisions.len(), a + b);
            let (got_a, got_b) = (placed(&decisions, &first), placed(&decisions, &second));
            prop_assert_eq!(got_a + got_b, (a + b).min(cores as usize));
            // Who got less wanted no more, or is one piece behind at most.
            prop_assert!(got_a == a || got_b == b || got_a.abs_diff(got_b) <= 1);
            prop_assert!(got_a >= got_b || got_a == a || got_b - got_a <= 1);
        }
    }
}
