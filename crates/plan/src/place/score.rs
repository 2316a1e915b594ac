//! The score of a node that fits. Integers only, so that every machine comes to the same answer.
//!
//! Each *fit* term says how full the node will be in one dimension, in thousandths. *balance* takes away points from a node whose CPU and
//! memory would be used up unevenly, since what is left of one without the other is of no use to anybody. *spread* keeps the instances of one
//! group apart: each one that a node has already outweighs everything else.

use super::{Ask, NodeView};
use crate::amount::{self, Dimension};
use yun_types::{NodeId, ScoreTerm, ScoredNode, Size};

/// More than all other terms together.
const APART: i64 = 4000;

pub(super) fn score(node: &NodeView, ask: &Ask) -> ScoredNode {
    let after = amount::add(node.reserved, ask.size);
    let held = Size { cpu: after.cpu, memory: after.memory, disk: after.disk };
    let fill = Dimension::ALL.map(|dimension| thousandths(dimension.of(held), dimension.of(node.capacity)));
    let mut terms: Vec<ScoreTerm> = Dimension::ALL
        .iter()
        .zip(fill)
        .map(|(dimension, value)| ScoreTerm { name: format!("{} fit", dimension.name()), value })
        .collect();
    terms.push(ScoreTerm { name: "balance".into(), value: -(fill[0] - fill[1]).abs() / 2 });
    if !ask.kin.is_empty() {
        let kin = ask.kin.get(&node.id).copied().unwrap_or_default();
        terms.push(ScoreTerm { name: "spread".into(), value: -APART * i64::from(kin) });
    }
    ScoredNode { node: node.name.clone(), score: terms.iter().map(|term| term.value).sum(), terms }
}

fn thousandths(part: u64, whole: u64) -> i64 {
    if whole == 0 {
        return 1000;
    }
    i64::try_from(u128::from(part) * 1000 / u128::from(whole)).unwrap_or(i64::MAX).min(1000)
}

/// Decides between equal scores: a fixed order of nodes that has nothing to do with their names or ages, so that no node is always first.
pub(super) fn rank(node: NodeId) -> u64 {
    let bits = node.0.as_u128();
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let (low, high) = (bits as u64, (bits >> 64) as u64);
    crate::mix(low ^ crate::mix(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    #[test]
    fn parts_of_nothing_and_overfull_parts_are_full() {
        assert_eq!([thousandths(0, 0), thousandths(1, 2), thousandths(9, 3), thousandths(0, 7)], [1000, 500, 1000, 0]);
        assert_eq!(thousandths(u64::MAX, u64::MAX), 1000);
    }

    #[test]
    fn ranks_are_fixed_and_spread() {
        let ids: Vec<NodeId> = (0..1000u128).map(|n| NodeId(Uuid::from_u128(n << 64))).collect();
        let ranks: BTreeSet<u64> = ids.iter().map(|id| rank(*id)).collect();
        assert_eq!(ranks.len(), ids.len());
        assert!(!ids.iter().map(|id| rank(*id)).is_sorted(), "age does not decide");
        assert_eq!(rank(ids[7]), rank(ids[7]));
    }
}
