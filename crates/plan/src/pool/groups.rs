//! Groups of instances that rules speak of, and how many of their members are in each zone and rack.
//!
//! A group is named by labels, or by a rule: all who want to be apart from somebody are a group too, so that a newcomer keeps away from those
//! who do not want it near them.

use super::{
    Pool,
    attributes::Names,
    request::{Affinity, Domain, Force, Labels, Request},
    row::{Class, Rule, Term},
};

/// What makes an instance a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Membership {
    /// It has these labels.
    Has(Labels),
    /// It must be apart from those who have these labels.
    Avoids(Labels, Domain),
}

impl Membership {
    fn holds(&self, request: &Request) -> bool {
        match self {
            Self::Has(labels) => request.is_one_of(labels),
            Self::Avoids(labels, domain) => request
                .affinity
                .iter()
                .any(|a| a.anti && a.force == Force::Required && a.domain == *domain && a.to == *labels),
        }
    }
}

/// Members of a group by place.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) all: u32,
    pub(super) zones: Vec<u32>,
    pub(super) racks: Vec<u32>,
    /// Nodes are told apart by how many members they hold.
    pub(super) watched: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    pub(super) names: Names<Membership>,
    pub(super) counts: Vec<Counts>,
}

pub(super) fn at(counts: &[u32], domain: u32) -> u32 {
    counts.get(domain as usize).copied().unwrap_or_default()
}

fn add(counts: &mut Vec<u32>, domain: u32, more: bool) {
    let domain = domain as usize;
    if counts.len() <= domain {
        counts.resize(domain + 1, 0);
    }
    counts[domain] = if more { counts[domain] + 1 } else { counts[domain].saturating_sub(1) };
}

impl Pool {
    /// Counts an instance in or out, in its zone and rack.
    pub(super) fn count(&mut self, class: u32, attributes: u32, more: bool) {
        let class = &self.classes[class as usize];
        if class.member_of.is_empty() {
            return;
        }
        let place = &self.attributes.all[attributes as usize];
        for group in &class.member_of {
            let counts = &mut self.groups.counts[*group as usize];
            counts.all = if more { counts.all + 1 } else { counts.all.saturating_sub(1) };
            add(&mut counts.zones, place.zone, more);
            add(&mut counts.racks, place.rack, more);
        }
    }

    /// The number of a group. A new one counts its members.
    fn group(&mut self, membership: &Membership) -> u32 {
        if let Some(known) = self.groups.names.find(membership) {
            return known;
        }
        let group = self.groups.names.intern(membership);
        self.groups.counts.push(Counts::default());
        let mut some = false;
        for class in self.classes.iter_mut().filter(|class| membership.holds(&class.request)) {
            class.member_of.push(group);
            some |= class.live > 0;
        }
        if some {
            for placed in self.placed.iter().filter(|p| p.node != super::NONE) {
                if membership.holds(&self.classes[placed.class as usize].request) {
                    let counts = &mut self.groups.counts[group as usize];
                    let place = &self.attributes.all[self.nodes.at[placed.node as usize].attributes as usize];
                    counts.all += 1;
                    add(&mut counts.zones, place.zone, true);
                    add(&mut counts.racks, place.rack, true);
                }
            }
        }
        group
    }

    /// Tells nodes apart by their members of a group from now on.
    fn watch(&mut self, group: u32) {
        if std::mem::replace(&mut self.groups.counts[group as usize].watched, true) {
            return;
        }
        let members: Vec<bool> = self
            .classes
            .iter_mut()
            .map(|class| {
                let member = class.member_of.contains(&group);
                if member {
                    class.watched.push(group);
                }
                member
            })
            .collect();
        if self.groups.counts[group as usize].all == 0 {
            return;
        }
        for at in 0..self.placed.len() {
            let placed = self.placed[at];
            if placed.node != super::NONE && members[placed.class as usize] {
                let node = placed.node as usize;
                self.nodes.at[node].marks = self.marks.changed(self.nodes.at[node].marks, std::iter::once(group), true);
                self.settle(placed.node);
            }
        }
    }

    /// Compiles a request: finds its groups, and turns its rules into terms.
    pub(super) fn compile(&mut self, request: &Request) -> Class {
        let mut terms = Vec::new();
        for affinity in &request.affinity {
            let group = self.group(&Membership::Has(affinity.to.clone()));
            let rule = match (affinity.force, affinity.anti) {
                (Force::Required, true) => Rule::Apart,
                (Force::Required, false) => Rule::Together { alone: request.is_one_of(&affinity.to) },
                (Force::Preferred(weight), anti) => {
                    Rule::Worth(if anti { -i32::from(weight) } else { i32::from(weight) })
                }
            };
            terms.push(Term { group, domain: affinity.domain, rule });
            if rule == Rule::Apart {
                self.group(&Membership::Avoids(affinity.to.clone(), affinity.domain));
            }
        }
        for spread in &request.spread {
            let group = self.group(&Membership::Has(spread.of.clone()));
            let counts_itself = request.is_one_of(&spread.of);
            let rule = match spread.force {
                Force::Required => Rule::Even { skew: spread.skew.max(1), itself: counts_itself },
                Force::Preferred(weight) => Rule::EvenWorth(i32::from(weight)),
            };
            terms.push(Term { group, domain: spread.domain, rule });
        }
        let all = (0u32..).zip(&self.groups.names.all);
        let member_of: Vec<u32> = all.filter(|(_, m)| m.holds(request)).map(|(group, _)| group).collect();
        terms.extend(self.kept_away_by(request));
        for term in terms.iter().filter(|term| term.domain == Domain::Node) {
            self.watch(term.group);
        }
        let watched = member_of.iter().copied().filter(|group| self.groups.counts[*group as usize].watched).collect();
        Class::new(request.clone(), terms, member_of, watched)
    }

    /// Rules of others that keep this one away from them.
    fn kept_away_by(&self, request: &Request) -> Vec<Term> {
        let says_so_itself = |labels: &Labels, domain: Domain| {
            let same = |a: &Affinity| a.anti && a.force == Force::Required && a.domain == domain && a.to == *labels;
            // Everybody who avoids these labels has them too, or the other rule says less.
            request.affinity.iter().any(same)
                && self
                    .classes
                    .iter()
                    .all(|class| !class.request.affinity.iter().any(same) || class.request.is_one_of(labels))
        };
        (0u32..)
            .zip(&self.groups.names.all)
            .filter_map(|(group, membership)| match membership {
                Membership::Avoids(labels, domain) if request.is_one_of(labels) && !says_so_itself(labels, *domain) => {
                    Some(Term { group, domain: *domain, rule: Rule::Apart })
                }
                _ => None,
            })
            .collect()
    }

    /// A new class may keep older ones away from its members.
    pub(super) fn tell_others(&mut self, number: u32) {
        let avoids = |class: &Class| class.request.affinity.iter().any(|a| a.anti && a.force == Force::Required);
        if !avoids(&self.classes[number as usize]) {
            return;
        }
        for at in 0..self.classes.len() {
            let terms = self.kept_away_by(&self.classes[at].request);
            let new: Vec<Term> = terms.into_iter().filter(|term| !self.classes[at].terms.contains(term)).collect();
            for term in &new {
                if term.domain == Domain::Node {
                    self.watch(term.group);
                }
            }
            if !new.is_empty() {
                self.classes[at].terms.extend(new);
                self.classes[at].sort_terms();
            }
        }
    }
}
