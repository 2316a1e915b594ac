//! Forecasts of simple series, and fair taking back.

use super::*;
use proptest::prelude::*;

fn after(max: u64, samples: impl IntoIterator<Item = u64>) -> Usage {
    let mut usage = Usage::new(max);
    samples.into_iter().for_each(|used| usage.saw(used));
    usage
}

#[test]
fn who_is_not_known_gets_the_maximum() {
    assert_eq!(after(100, [1; 11]).reservation(0), 100);
    assert!(after(100, [1; 12]).reservation(0) < 5);
}

#[test]
fn a_reservation_follows_use_between_minimum_and_maximum() {
    let steady = after(1000, [200; 50]);
    assert!((200..=210).contains(&steady.reservation(0)), "{}", steady.reservation(0));
    assert_eq!(steady.reservation(400), 400);
    let busy = after(1000, (0..50).map(|n| if n % 2 == 0 { 100 } else { 900 }));
    assert_eq!(busy.reservation(0), 1000);
    let mut grown = steady;
    grown.saw(700);
    assert!(grown.reservation(0) >= 700, "a peak counts at once");
}

#[test]
fn overcommit_is_refused_where_the_predicted_p99_passes_the_limit() {
    let some: Vec<Usage> = (0..20).map(|_| after(100, [10; 40])).collect();
    let node = NodeUse::of(&some);
    assert!(node.admits(100, 400).is_ok(), "{}", node.predicted_p99());
    let refused = node.admits(100, 250).unwrap_err();
    assert!(refused > 250);
    assert_eq!(NodeUse::of(&[Usage::new(100), Usage::new(50)]).predicted_p99(), 151);
}

#[test]
fn what_is_short_is_divided_by_weight() {
    assert_eq!(share_out(100, &[(0, 10, 1), (0, 90, 1), (0, 90, 1)]), [10, 45, 45]);
    assert_eq!(share_out(100, &[(0, 90, 1), (0, 90, 3)]), [25, 75]);
    assert_eq!(share_out(100, &[(60, 90, 1), (0, 90, 1)]), [80, 20]);
    assert_eq!(share_out(100, &[(0, 10, 1), (0, 20, 1)]), [10, 20]);
    assert_eq!(share_out(1, &[(0, 1, 1), (0, 1, 1)]), [1, 0]);
}

proptest! {
    #[test]
    fn taking_back_keeps_minima_and_wastes_nothing(
        wants in proptest::collection::vec((0u64..50, 0u64..100, 1u32..5), 1..12),
        spare in 0u64..500,
    ) {
        let least: u64 = wants.iter().map(|(min, want, _)| *min.min(want)).sum();
        let capacity = least + spare;
        let given = share_out(capacity, &wants);
        let wanted: u64 = wants.iter().map(|w| w.1).sum();
        prop_assert_eq!(given.iter().sum::<u64>(), capacity.min(wanted));
        for (given, (min, want, _)) in given.iter().zip(&wants) {
            prop_assert!(given >= min.min(want) && given <= want);
        }
    }

    #[test]
    fn a_reservation_is_never_outside_its_bounds(samples in proptest::collection::vec(0u64..5000, 0..80), min in 0u64..2000, max in 1u64..2000) {
        let reserved = after(max, samples).reservation(min);
        prop_assert!(reserved <= max && reserved >= min.min(max));
    }
}
