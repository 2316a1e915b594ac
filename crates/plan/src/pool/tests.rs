//! The pool against a plain search over all nodes: whatever happened before, both come to the same decision and to the same counts.

mod examples;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What is there, without any cleverness.
#[derive(Debug, Default)]
struct Plain {
    nodes: Vec<Option<(Attributes, Vector, u64)>>,
    instances: BTreeMap<Ticket, (Request, usize)>,
}

impl Plain {
    fn room(&self, node: usize) -> Vector {
        let (_, capacity, _) = self.nodes[node].as_ref().unwrap();
        self.instances
            .values()
            .filter(|(_, at)| *at == node)
            .fold(*capacity, |room, (request, _)| room.minus(&request.shape))
    }

    fn domain(&self, node: usize, domain: Domain) -> String {
        let (attributes, ..) = self.nodes[node].as_ref().unwrap();
        match domain {
            Domain::Node => node.to_string(),
            Domain::Rack => format!("{}/{}", attributes.zone, attributes.rack),
            Domain::Zone => attributes.zone.clone(),
        }
    }

    fn count(&self, node: usize, domain: Domain, is: impl Fn(&Request) -> bool) -> u32 {
        let here = self.domain(node, domain);
        let there = self.instances.values().filter(|(request, at)| self.domain(*at, domain) == here && is(request));
        u32::try_from(there.count()).unwrap()
    }

    fn allowed(&self, request: &Request, node: usize) -> bool {
        self.nodes[node].as_ref().is_some_and(|(attributes, ..)| {
            !attributes.cordoned
                && !attributes.lost
                && request.wants.iter().all(|w| w.holds(attributes))
                && request.tolerates(attributes)
        })
    }

    fn emptiest(&self, request: &Request, spread: &Spread) -> u32 {
        let eligible = (0..self.nodes.len()).filter(|node| self.allowed(request, *node));
        eligible.map(|node| self.count(node, spread.domain, |r| r.is_one_of(&spread.of))).min().unwrap_or_default()
    }

    fn score(&self, request: &Request, node: usize) -> Option<i64> {
        if !self.allowed(request, node) || !request.shape.fits(&self.room(node)) {
            return None;
        }
        let (attributes, capacity, _) = self.nodes[node].as_ref().unwrap();
        let mut score = 0i64;
        for rule in &request.affinity {
            let there = self.count(node, rule.domain, |r| r.is_one_of(&rule.to)) > 0;
            let anywhere = self.instances.values().any(|(r, _)| r.is_one_of(&rule.to));
            match (rule.force, rule.anti) {
                (Force::Required, true) if there => return None,
                (Force::Required, false) if !there && (anywhere || !request.is_one_of(&rule.to)) => return None,
                (Force::Preferred(weight), anti) if there => score += i64::from(weight) * if anti { -40 } else { 40 },
                _ => {}
            }
        }
        for (other, at) in self.instances.values() {
            let keeps_away = other.affinity.iter().any(|rule| {
                rule.anti
                    && rule.force == Force::Required
                    && request.is_one_of(&rule.to)
                    && self.domain(*at, rule.domain) == self.domain(node, rule.domain)
            });
            if keeps_away {
                return None;
            }
        }
        for rule in &request.spread {
            let count = self.count(node, rule.domain, |r| r.is_one_of(&rule.of));
            match rule.force {
                Force::Required => {
                    let itself = u32::from(request.is_one_of(&rule.of));
                    if count + itself > self.emptiest(request, rule) + rule.skew.max(1) {
                        return None;
                    }
                }
                Force::Preferred(weight) if rule.domain == Domain::Node => {
                    score -= i64::from(weight) * 40 * i64::from(count)
                }
                Force::Preferred(weight) => {
                    let over = count.saturating_sub(self.emptiest(request, rule));
                    score -= i64::from(weight) * 40 * i64::from(over);
                }
            }
        }
        let fill = plain_fill(&request.shape, capacity, &self.room(node));
        score += match request.policy {
            Policy::Pack | Policy::Latency => fill,
            Policy::Spread => 4000 - fill,
            Policy::Performance => 4000 - fill + i64::from(attributes.performance) * 100_000,
        };
        Some(score)
    }

    fn choose(&self, request: &Request) -> Option<usize> {
        let fit = (0..self.nodes.len()).filter_map(|node| Some((self.score(request, node)?, node)));
        let rank = |node: usize| {
            let id = self.nodes[node].as_ref().map_or(0, |n| n.2);
            (crate::mix(id) >> 32, node)
        };
        fit.max_by_key(|(score, node)| (*score, std::cmp::Reverse(rank(*node)))).map(|(_, node)| node)
    }
}

/// The mean fill in four-thousandths, by division.
fn plain_fill(shape: &Vector, capacity: &Vector, room: &Vector) -> i64 {
    let parts = (0..DIMENSIONS).filter(|d| capacity.0[*d] > 0);
    let (mut sum, mut wide) = (0, 0);
    for d in parts {
        let used = i64::from((capacity.0[d] - room.0[d] + shape.0[d]).max(0));
        sum += i128::from(used) * i128::from((1000i64 << 32) / i64::from(capacity.0[d]));
        wide += 1;
    }
    i64::try_from(sum >> 30).unwrap() / wide.max(1)
}

fn labels(app: u8) -> Labels {
    [("app".to_owned(), app.to_string())].into_iter().collect()
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (0..3u8, 0..2u8, any::<bool>(), 0..3u8, proptest::bool::weighted(0.1)).prop_map(
        |(zone, rack, ssd, performance, cordoned)| Attributes {
            zone: format!("z{zone}"),
            rack: format!("r{rack}"),
            labels: if ssd { [("disk".to_owned(), "ssd".to_owned())].into_iter().collect() } else { BTreeMap::new() },
            taints: if performance == 2 {
                [Taint { key: "fast".into(), value: String::new() }].into_iter().collect()
            } else {
                Default::default()
            },
            performance,
            cordoned,
            lost: false,
        },
    )
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![Just(Domain::Node), Just(Domain::Rack), Just(Domain::Zone)]
}

fn force() -> impl Strategy<Value = Force> {
    prop_oneof![Just(Force::Required), (1..=100u8).prop_map(Force::Preferred)]
}

fn affinity() -> impl Strategy<Value = Affinity> {
    (0..3u8, domain(), any::<bool>(), force()).prop_map(|(app, domain, anti, force)| Affinity {
        to: labels(app),
        domain,
        anti,
        force,
    })
}

fn spread() -> impl Strategy<Value = Spread> {
    (0..3u8, domain(), 1..3u32, force()).prop_map(|(app, domain, skew, force)| Spread {
        of: labels(app),
        domain,
        skew,
        force,
    })
}

fn a_request() -> impl Strategy<Value = Request> {
    let plain = (1..5i64, 0..5i64, 0..3u8, any::<bool>(), any::<bool>());
    let policy = prop_oneof![Just(Policy::Pack), Just(Policy::Spread), Just(Policy::Performance)];
    let rules = (proptest::collection::vec(affinity(), 0..3), proptest::collection::vec(spread(), 0..2));
    (plain, policy, rules, 0..4u8).prop_map(|((cpu, memory, app, ssd, fast), policy, (affinity, spread), priority)| {
        Request {
            shape: Vector::asked(&[cpu, memory]).unwrap(),
            labels: labels(app),
            wants: if ssd {
                vec![Requirement { key: "disk".into(), test: Test::In(vec!["ssd".into()]) }]
            } else {
                Vec::new()
            },
            tolerates: if fast { vec![Toleration { key: "fast".into(), value: None }] } else { Vec::new() },
            affinity,
            spread,
            near: None,
            policy,
            priority,
            cost: u32::from(app),
        }
    })
}

#[derive(Debug, Clone)]
enum Happening {
    Join(Attributes, i64, i64),
    Place(usize),
    Release(usize),
    Becomes(usize, Attributes),
    Leaves(usize),
    Dream(Vec<usize>),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (attributes(), 4..12i64, 4..12i64).prop_map(|(a, cpu, memory)| Happening::Join(a, cpu, memory)),
        12 => (0..6usize).prop_map(Happening::Place),
        3 => (0..64usize).prop_map(Happening::Release),
        1 => (0..8usize, attributes()).prop_map(|(n, a)| Happening::Becomes(n, a)),
        1 => (0..8usize).prop_map(Happening::Leaves),
        1 => proptest::collection::vec(0..6usize, 1..5).prop_map(Happening::Dream),
    ]
}

struct Both {
    pool: Pool,
    plain: Plain,
}

impl Both {
    fn happens(&mut self, what: Happening, requests: &[Request]) -> Result<(), TestCaseError> {
        match what {
            Happening::Join(attributes, cpu, memory) => {
                let capacity = Vector::new(&[cpu, memory]).unwrap();
                let id = self.plain.nodes.len() as u64 * 7;
                self.pool.add_node(id, capacity, &attributes);
                self.plain.nodes.push(Some((attributes, capacity, id)));
            }
            Happening::Place(at) => {
                let request = &requests[at % requests.len()];
                let id = self.pool.request(request);
                let expected = self.plain.choose(request);
                let why = self.pool.why(id);
                let refused: u32 = why.refused.values().map(|(nodes, _)| nodes).sum();
                prop_assert_eq!(why.fit + refused, why.nodes, "each node is counted once");
                let fit = (0..self.plain.nodes.len()).filter(|node| self.plain.score(request, *node).is_some()).count();
                prop_assert_eq!(why.fit as usize, fit);
                prop_assert_eq!(why.candidates.first().map(|c| c.node.0 as usize), expected);
                for candidate in &why.candidates {
                    prop_assert_eq!(candidate.score, candidate.terms.iter().map(|(_, value)| value).sum::<i32>());
                }
                let got = self.pool.place(id);
                prop_assert_eq!(got.map(|(node, _)| node.0 as usize), expected, "{:?} of {:?}", request, self.plain);
                if let Some((node, ticket)) = got {
                    self.plain.instances.insert(ticket, (request.clone(), node.0 as usize));
                }
            }
            Happening::Release(n) => {
                if let Some(ticket) = self.plain.instances.keys().nth(n % self.plain.instances.len().max(1)).copied() {
                    self.pool.release(ticket);
                    self.plain.instances.remove(&ticket);
                }
            }
            Happening::Becomes(node, attributes) => {
                if let Some(Some(known)) = self.plain.nodes.get_mut(node) {
                    known.0 = attributes.clone();
                    self.pool.change_node(NodeIndex(u32::try_from(node).unwrap()), known.1, &attributes);
                }
            }
            Happening::Leaves(node) => {
                if let Some(known) = self.plain.nodes.get_mut(node) {
                    *known = None;
                    self.plain.instances.retain(|_, (_, at)| *at != node);
                    self.pool.remove_node(NodeIndex(u32::try_from(node).unwrap()));
                }
            }
            Happening::Dream(places) => {
                // Requests are interned before, since that outlives the dream.
                let ids: Vec<RequestId> =
                    places.iter().map(|at| self.pool.request(&requests[at % requests.len()])).collect();
                let all = |pool: &Pool| pool.groups.counts.iter().map(|c| c.all).collect::<Vec<_>>();
                let state = |pool: &Pool| {
                    format!(
                        "{:?} {:?} {:?}",
                        pool.nodes.at.iter().map(|n| n.room).collect::<Vec<_>>(),
                        all(pool),
                        pool.totals()
                    )
                };
                let before = state(&self.pool);
                let on = |pool: &Pool| (0..pool.nodes.at.len()).map(|n| pool.nodes.held[n]).collect::<Vec<_>>();
                let held = on(&self.pool);
                let overlay = self.pool.overlay();
                for id in ids {
                    if let Some((node, _)) = self.pool.place(id)
                        && let Some(first) = self.pool.on(node).last().copied()
                    {
                        self.pool.release(first);
                    }
                }
                self.pool.drop_overlay(overlay);
                prop_assert_eq!(before, state(&self.pool));
                prop_assert_eq!(held, on(&self.pool));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_plain_search_decides_the_same(
        requests in proptest::collection::vec(a_request(), 1..6),
        happenings in proptest::collection::vec(happening(), 1..60),
    ) {
        let mut both = Both { pool: Pool::new(["cpu", "memory"]), plain: Plain::default() };
        for what in happenings {
            both.happens(what, &requests)?;
        }
        for (at, node) in both.plain.nodes.iter().enumerate() {
            if node.is_some() {
                prop_assert_eq!(both.pool.nodes.at[at].room, both.plain.room(at));
            }
        }
        prop_assert_eq!(both.pool.instances(), both.plain.instances.len());
    }

    #[test]
    fn preemption_takes_only_lower_ones_and_makes_room(
        requests in proptest::collection::vec(a_request(), 2..6),
        places in proptest::collection::vec(0..6usize, 5..60),
    ) {
        let mut pool = Pool::new(["cpu", "memory"]);
        for id in 0..4 {
            pool.add_node(id, Vector::new(&[8, 8]).unwrap(), &Attributes::default());
        }
        for at in places {
            let request = &requests[at % requests.len()];
            let id = pool.request(request);
            if pool.place(id).is_some() {
                continue;
            }
            let Some(proposal) = pool.preemption(id) else { continue };
            for victim in &proposal.victims {
                prop_assert!(pool.asked(pool.class_of(*victim)).priority < request.priority);
                // Each is needed: with its place back, the request would not fit.
                let size = pool.asked(pool.class_of(*victim)).shape;
                let room = proposal.victims.iter().fold(pool.nodes.at[proposal.node.0 as usize].room, |room, v| room.plus(&pool.asked(pool.class_of(*v)).shape));
                prop_assert!(request.shape.fits(&room));
                prop_assert!(!request.shape.fits(&room.minus(&size)));
            }
            pool.preempt(id, &proposal);
            prop_assert!(pool.nodes.at.iter().all(|node| node.room.0.iter().all(|part| *part >= 0)));
        }
    }

    #[test]
    fn a_gang_is_placed_whole_or_not_at_all(n in 1..40usize, racks in 1..4u8, one in a_request()) {
        let mut pool = Pool::new(["cpu", "memory"]);
        for id in 0..12u8 {
            let place = Attributes { zone: format!("z{}", id % 2), rack: format!("r{}", id % racks), ..Attributes::default() };
            pool.add_node(u64::from(id), Vector::new(&[8, 8]).unwrap(), &place);
        }
        let id = pool.request(&one);
        let rooms = |pool: &Pool| pool.nodes.at.iter().map(|n| n.room).collect::<Vec<_>>();
        let before = rooms(&pool);
        match pool.place_gang(id, n) {
            Gang::Placed { members, within } => {
                prop_assert_eq!(members.len(), n);
                prop_assert_eq!(pool.instances(), n);
                if let Some((Domain::Rack, rack)) = within {
                    prop_assert!(members.iter().all(|(node, _)| pool.node(*node).0.rack == rack));
                }
            }
            Gang::Waits { placeable, .. } => {
                prop_assert!(placeable < n);
                prop_assert_eq!(rooms(&pool), before);
                prop_assert_eq!(pool.instances(), 0);
            }
        }
    }
}
