//! What went through the network cards of an instance: the sum over all of them. Cards come and go while an instance runs, and what went through
//! one that is gone stays counted, so that the sum only grows.

use super::kernel::Cards;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    iter::Sum,
    ops::Add,
};
use yun_types::{InstanceId, InstanceKind, Metric, Sample};

/// Counters of one network card, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Card {
    pub(super) in_bytes: u64,
    pub(super) in_packets: u64,
    pub(super) out_bytes: u64,
    pub(super) out_packets: u64,
}

impl Add for Card {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            in_bytes: self.in_bytes + other.in_bytes,
            in_packets: self.in_packets + other.in_packets,
            out_bytes: self.out_bytes + other.out_bytes,
            out_packets: self.out_packets + other.out_packets,
        }
    }
}

impl Sum for Card {
    fn sum<I: Iterator<Item = Self>>(cards: I) -> Self {
        cards.fold(Self::default(), Self::add)
    }
}

impl Card {
    /// True if a card of this name was made anew since.
    fn began_again(self, before: Self) -> bool {
        self.in_bytes < before.in_bytes || self.out_bytes < before.out_bytes
    }
}

/// What was counted of the cards of all instances.
#[derive(Debug, Default)]
pub(super) struct Traffic(HashMap<InstanceId, Counted>);

#[derive(Debug, Default)]
struct Counted {
    now: BTreeMap<String, Card>,
    /// The sum of those that are gone.
    gone: Card,
}

impl Traffic {
    /// Forgets what is not measured any more.
    pub(super) fn keep_only(&mut self, instances: &[(InstanceId, InstanceKind)]) {
        if self.0.len() > instances.len() {
            let named: HashSet<_> = instances.iter().map(|(id, _)| *id).collect();
            self.0.retain(|id, _| named.contains(id));
        }
    }

    /// Notes what an instance sent and received: what the host receives, the instance has sent. `first` is the name of its first card.
    pub(super) fn note(&mut self, id: InstanceId, first: &str, cards: &Cards, sample: &mut Sample) {
        let counted = self.0.entry(id).or_default();
        let now: BTreeMap<String, Card> = cards.beginning(first).map(|(name, card)| (name.to_owned(), card)).collect();
        for (name, before) in &counted.now {
            if now.get(name).is_none_or(|card| card.began_again(*before)) {
                counted.gone = counted.gone + *before;
            }
        }
        counted.now = now;
        if counted.now.is_empty() && counted.gone == Card::default() {
            return;
        }
        let sum = counted.gone + counted.now.values().copied().sum();
        sample.set(Metric::NetIn, sum.out_bytes);
        sample.set(Metric::PacketsIn, sum.out_packets);
        sample.set(Metric::NetOut, sum.in_bytes);
        sample.set(Metric::PacketsOut, sum.in_packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(lines: &[(&str, u64, u64)]) -> Cards {
        let line = |(name, host_in, host_out): &(&str, u64, u64)| {
            format!("{name}: {host_in} 1 0 0 0 0 0 0 {host_out} 2 0 0 0 0 0 0\n")
        };
        Cards::parse(&lines.iter().map(line).collect::<String>())
    }

    fn noted(traffic: &mut Traffic, lines: &[(&str, u64, u64)]) -> (Option<u64>, Option<u64>) {
        let mut sample = Sample::default();
        traffic.note(InstanceId(uuid::Uuid::from_u128(1)), "yv0a1b2c3d", &cards(lines), &mut sample);
        (sample.get(Metric::NetIn), sample.get(Metric::NetOut))
    }

    #[test]
    fn what_the_host_sends_an_instance_receives() {
        let mut traffic = Traffic::default();
        let (id, mut sample) = (InstanceId(uuid::Uuid::from_u128(1)), Sample::default());
        traffic.note(id, "yv0a1b2c3d", &cards(&[("yv0a1b2c3d", 300, 4_000_000_000_000)]), &mut sample);
        let want = Sample::default()
            .with(Metric::NetIn, 4_000_000_000_000)
            .with(Metric::PacketsIn, 2)
            .with(Metric::NetOut, 300)
            .with(Metric::PacketsOut, 1);
        assert_eq!(sample, want);
        traffic.keep_only(&[]);
        assert!(traffic.0.is_empty());
    }

    #[test]
    fn all_cards_are_added_up_and_none_is_forgotten_when_it_goes() {
        let mut traffic = Traffic::default();
        assert_eq!(noted(&mut traffic, &[("yv0a1b2c3e", 1, 1), ("eth0", 1, 1)]), (None, None), "others have cards");
        let both = [("yv0a1b2c3d", 10, 100), ("yv0a1b2c3d-1", 5, 50), ("yv0a1b2c3e", 1, 1)];
        assert_eq!(noted(&mut traffic, &both), (Some(150), Some(15)));
        assert_eq!(noted(&mut traffic, &both[..1]), (Some(150), Some(15)), "one was pulled out");
        assert_eq!(noted(&mut traffic, &[("yv0a1b2c3d", 10, 100), ("yv0a1b2c3d-1", 1, 1)]), (Some(151), Some(16)));
        assert_eq!(noted(&mut traffic, &[("yv0a1b2c3d", 2, 3)]), (Some(154), Some(18)), "the first was made anew");
    }
}
