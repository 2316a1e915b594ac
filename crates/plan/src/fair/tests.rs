//! The example of the paper, and its properties up to one piece.

use super::*;
use proptest::prelude::*;

fn amounts(parts: &[u64]) -> Amounts {
    let mut all = [0; DIMENSIONS];
    all[..parts.len()].copy_from_slice(parts);
    all
}

/// Section 4.1 of the paper: 9 CPU and 18 GB; A wants <1, 4>, B wants <3, 1>.
#[test]
fn the_papers_example_is_three_and_two() {
    let mut fair = Fair::new(amounts(&[9, 18]));
    let (a, b) = (fair.add(None, 1), fair.add(None, 1));
    assert_eq!(fair.fill(&[(a, amounts(&[1, 4])), (b, amounts(&[3, 1]))]), [3, 2]);
    assert_eq!([fair.dominant(a).millionths(), fair.dominant(b).millionths()], [666_666, 666_666]);
    assert_eq!(fair.dominant(a), fair.dominant(b));
}

#[test]
fn weights_count_at_each_level() {
    let mut fair = Fair::new(amounts(&[120]));
    let (heavy, light) = (fair.add(None, 2), fair.add(None, 1));
    let groups = [fair.add(Some(heavy), 1), fair.add(Some(heavy), 3)];
    let one = amounts(&[1]);
    assert_eq!(fair.fill(&[(groups[0], one), (groups[1], one), (light, one)]), [20, 60, 40]);
    assert_eq!(fair.held(heavy), amounts(&[80]));
}

#[test]
fn what_a_branch_does_not_want_goes_to_the_others() {
    let mut fair = Fair::new(amounts(&[100]));
    let (idle, busy) = (fair.add(None, 9), fair.add(None, 1));
    let _ = idle;
    assert_eq!(fair.fill(&[(busy, amounts(&[1]))]), [100]);
}

#[test]
fn quotas_bind_at_each_level_and_below_use_take_nothing_away() {
    let mut fair = Fair::new(amounts(&[100, 100]));
    let project = fair.add(None, 1);
    let group = fair.add(Some(project), 1);
    fair.set_quota(project, Limits { amounts: [Some(10), None, None, None, None, None, None, None], objects: Some(4) });
    assert_eq!(fair.fill(&[(group, amounts(&[3, 1]))]), [3]);
    let refused = fair.allows(group, &amounts(&[3, 1])).unwrap_err();
    assert_eq!(refused, OverLimit::Amount { of: project, dimension: 0, held: 9, asked: 3, limit: 10 });
    assert_eq!(fair.allows(group, &amounts(&[1, 1])), Ok(()));
    fair.take(group, &amounts(&[1, 1]));
    assert!(matches!(fair.allows(group, &amounts(&[0, 1])), Err(OverLimit::Objects { held: 4, limit: 4, .. })));
    fair.set_quota(project, Limits { amounts: [Some(2), None, None, None, None, None, None, None], objects: None });
    assert_eq!(fair.held(project), amounts(&[10, 4]), "a lower quota ends nothing");
    assert_eq!(fair.allows(group, &amounts(&[0, 50])), Ok(()), "what does not grow may be over it");
    fair.give_back(group, &amounts(&[1, 1]));
    assert_eq!(fair.held(group), amounts(&[9, 3]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Pieces are small against the pool, so that the properties of the paper hold up to a piece.
    #[test]
    fn nobody_is_worse_off_nobody_envies_nothing_is_left(
        pieces in proptest::collection::vec((1u64..40, 1u64..40, 0u64..40), 2..6),
        capacity in (2000u64..5000, 2000u64..5000, 2000u64..5000),
    ) {
        let whole = amounts(&[capacity.0, capacity.1, capacity.2]);
        let mut fair = Fair::new(whole);
        let wants: Vec<(Holder, Amounts)> = pieces.iter().map(|p| (fair.add(None, 1), amounts(&[p.0, p.1, p.2]))).collect();
        let got = fair.fill(&wants);
        let n = wants.len() as f64;
        let share = |piece: &Amounts| piece.iter().zip(whole).filter(|(_, w)| *w > 0).map(|(p, w)| *p as f64 / w as f64).fold(0.0, f64::max);
        let one_piece_of_each: f64 = wants.iter().map(|(_, piece)| share(piece)).sum();
        let free: Vec<u64> = (0..3).map(|d| whole[d] - wants.iter().map(|(h, _)| fair.held(*h)[d]).sum::<u64>()).collect();
        for ((holder, piece), count) in wants.iter().zip(&got) {
            // Sharing incentive: at least an nth of the pool, less what the last pieces of all are worth.
            let dominant = fair.dominant(*holder).millionths() as f64 / 1e6;
            prop_assert!(dominant >= (1.0 - 2.0 * one_piece_of_each) / n - 1e-6, "{dominant} of 1/{n}");
            // Pareto efficiency: not one more piece fits.
            prop_assert!((0..3).any(|d| piece[d] > free[d]));
            // Envy-freeness: with what another holds one could not do more, but for the other's last piece.
            for (other, others_piece) in &wants {
                let bundle = fair.held(*other);
                let with_it = (0..3).filter(|d| piece[*d] > 0).map(|d| bundle[d] / piece[d]).min().unwrap_or(0);
                #[expect(clippy::cast_precision_loss, reason = "a handful of pieces")]
                let more = with_it as f64 - *count as f64;
                prop_assert!(more <= (share(others_piece) / share(piece)).ceil() + 1.0, "{with_it} with the other's, {count} with their own");
            }
        }
    }

    /// Telling the truth pays: asking for more than one needs of one thing never brings more whole pieces.
    #[test]
    fn a_lie_brings_nothing(truth in (1u64..20, 1u64..20), lie in (0u64..20, 0u64..20), other in (1u64..20, 1u64..20)) {
        let pieces = |mine: (u64, u64)| {
            let mut fair = Fair::new(amounts(&[3000, 3000]));
            let (me, you) = (fair.add(None, 1), fair.add(None, 1));
            let got = fair.fill(&[(me, amounts(&[mine.0, mine.1])), (you, amounts(&[other.0, other.1]))]);
            (got[0], fair.held(me))
        };
        let (honest, _) = pieces(truth);
        let (_, held) = pieces((truth.0 + lie.0, truth.1 + lie.1));
        let useful = (held[0] / truth.0).min(held[1] / truth.1);
        // Up to a piece of each, since pieces are whole.
        let slack = 2 + 20 / truth.0.min(truth.1) + (truth.0 + lie.0).max(truth.1 + lie.1) / truth.0.min(truth.1);
        prop_assert!(useful <= honest + slack, "{useful} instead of {honest}");
    }
}
