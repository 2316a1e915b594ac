//! Groups played by example and at random: a world that obeys, crashes, and loses nodes, while people scale, change, pause and go back.

use super::*;
use crate::samples;
use proptest::prelude::*;
use std::collections::BTreeSet;
use yun_types::{Generation, GroupSpec, GroupState, InstanceTemplate, UpdatePolicy};

fn group(replicas: u32, max_unavailable: u32, max_surge: u32) -> Group {
    let spec = GroupSpec {
        replicas,
        template: template(1),
        update: UpdatePolicy { max_unavailable, max_surge, min_ready_seconds: 0, ..UpdatePolicy::default() },
        paused: false,
        round: 0,
    };
    Group { metadata: samples::metadata("web"), spec, status: GroupStatus::default() }
}

fn template(version: u64) -> InstanceTemplate {
    let mut spec = samples::instance("web").spec;
    spec.container.env.insert("VERSION".into(), version.to_string());
    InstanceTemplate { labels: Default::default(), spec }
}

/// A world of instances that do what they are told, unless their revision's template is broken.
struct World {
    group: Group,
    members: Vec<Member>,
    seconds: i64,
    next: u128,
    broken: BTreeSet<u64>,
}

impl World {
    fn new(group: Group) -> Self {
        Self { group, members: Vec::new(), seconds: 0, next: 1, broken: BTreeSet::new() }
    }

    fn now(&self) -> Timestamp {
        samples::at(self.seconds)
    }

    fn change(&mut self, change: impl FnOnce(&mut GroupSpec)) {
        change(&mut self.group.spec);
        self.group.metadata.generation = Generation(self.group.metadata.generation.0 + 1);
    }

    fn available(&self) -> u32 {
        count(self.members.iter().filter(|m| matches!(m.standing, Standing::Ready { .. })))
    }

    /// One decision, carried out. Checks what must hold at every step.
    fn step(&mut self) -> Decision {
        let decision = decide(&self.group, &self.members, &BTreeMap::new(), self.now());
        self.group.status = decision.status.clone();
        let spec = &self.group.spec;
        let before = self.available();
        for step in &decision.steps {
            match step {
                Step::Create { slot, revision } => {
                    let most = (spec.replicas + spec.update.max_surge) as usize + self.blocked();
                    assert!(self.members.len() < most, "one too many: {:?}", self.members);
                    assert!(self.members.iter().all(|m| m.slot != *slot), "slot {slot} is taken");
                    self.next += 1;
                    self.members.push(Member {
                        id: Uuid::from_u128(self.next),
                        name: slot_name(&self.group.metadata.name, *slot),
                        slot: *slot,
                        revision: *revision,
                        standing: Standing::Coming("is starting".into()),
                        restarts: 0,
                    });
                }
                Step::Remove { id, .. } => {
                    let member = self.members.iter_mut().find(|m| m.id == *id).unwrap();
                    assert!(!member.leaves(), "it leaves already");
                    let lost = member.standing == Standing::Lost;
                    member.standing = if lost { Standing::Stuck } else { Standing::Leaving };
                }
            }
        }
        if self.group.metadata.deleting.is_none() {
            let least = spec.replicas.saturating_sub(spec.update.max_unavailable);
            assert!(self.available() >= before.min(least), "too few are left: {} of {least}", self.available());
        }
        decision
    }

    fn blocked(&self) -> usize {
        self.members.iter().filter(|m| m.standing == Standing::Stuck).count()
    }

    fn version(&self, revision: u64) -> u64 {
        let found = self.group.status.revisions.iter().find(|r| r.number == revision).unwrap();
        found.template.spec.container.env["VERSION"].parse().unwrap()
    }

    /// The node gets on with one of its instances.
    fn work(&mut self, at: usize) {
        if self.members.is_empty() {
            return;
        }
        let (at, now) = (at % self.members.len(), self.now());
        let broken = self.broken.contains(&self.version(self.members[at].revision));
        let member = &mut self.members[at];
        match &member.standing {
            Standing::Leaving => drop(self.members.remove(at)),
            Standing::Coming(_) | Standing::Restarting(_) if broken => {
                member.restarts += 1;
                member.standing = Standing::Restarting("has ended".into());
            }
            Standing::Coming(_) | Standing::Restarting(_) | Standing::Unwell(_) => {
                member.standing = Standing::Ready { since: Some(now) };
            }
            _ => {}
        }
    }

    fn quiet(&mut self) -> Decision {
        for _ in 0..500 {
            self.seconds += 11;
            let decision = self.step();
            // Every node answers again.
            self.members.retain(|member| member.standing != Standing::Stuck);
            (0..self.members.len()).rev().for_each(|at| self.work(at));
            let state = decision.status.state;
            let rests = matches!(state, GroupState::Ready | GroupState::RolledBack | GroupState::Paused);
            if rests && decision.steps.is_empty() && self.members.iter().all(|m| !m.leaves()) {
                return decision;
            }
        }
        panic!("it does not come to rest: {:#?} {:#?}", self.group.status, self.members);
    }

    fn slots(&self) -> Vec<(u32, u64)> {
        let mut slots: Vec<_> = self.members.iter().map(|m| (m.slot, m.revision)).collect();
        slots.sort_unstable();
        slots
    }
}

#[test]
fn a_new_group_comes_at_once_and_proves_its_first_revision() {
    let mut world = World::new(group(3, 0, 1));
    let first = world.step();
    assert_eq!(first.steps.len(), 3);
    assert_eq!((first.status.state, first.status.revision), (GroupState::Updating, 1));
    let rest = world.quiet();
    assert_eq!((rest.status.state, rest.status.stable, rest.status.available), (GroupState::Ready, 1, 3));
    assert_eq!(world.slots(), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn the_newest_slots_go_first_and_the_names_stay() {
    let mut world = World::new(group(5, 0, 1));
    world.quiet();
    world.change(|spec| spec.replicas = 2);
    let step = world.step();
    let gone: Vec<String> = step.steps.iter().map(|s| format!("{s:?}")).collect();
    assert!(gone[0].contains("web-5") && gone[1].contains("web-4") && gone[2].contains("web-3"), "{gone:?}");
    world.quiet();
    assert_eq!(world.slots(), [(1, 1), (2, 1)]);
    world.change(|spec| spec.replicas = 0);
    world.quiet();
    assert_eq!(world.slots(), []);
}

#[test]
fn a_change_replaces_one_at_a_time_and_ends_in_the_same_slots() {
    let mut world = World::new(group(3, 0, 1));
    world.quiet();
    world.change(|spec| spec.template = template(2));
    let first = world.step();
    assert_eq!(first.steps, [Step::Create { slot: 4, revision: 2 }], "{:?}", first.why);
    assert!(first.why.iter().any(|why| why.contains("3 must stay available, and 3 are")), "{:?}", first.why);
    let rest = world.quiet();
    assert_eq!((rest.status.state, rest.status.stable), (GroupState::Ready, 2));
    assert_eq!(world.slots(), [(1, 2), (2, 2), (3, 2)]);
}

#[test]
fn without_room_for_more_one_goes_before_its_successor_comes() {
    let mut world = World::new(group(3, 1, 0));
    world.quiet();
    world.change(|spec| spec.template = template(2));
    let first = world.step();
    assert!(matches!(&first.steps[..], [Step::Remove { name, .. }] if name.as_str() == "web-1"), "{:?}", first.steps);
    assert_eq!(world.quiet().status.stable, 2);
}

#[test]
fn a_revision_that_crashes_is_taken_back_by_itself() {
    let mut world = World::new(group(3, 0, 1));
    world.quiet();
    world.broken.insert(2);
    world.change(|spec| spec.template = template(2));
    let rest = world.quiet();
    assert_eq!((rest.status.state, rest.status.revision, rest.status.stable), (GroupState::RolledBack, 2, 1));
    assert!(rest.status.message.unwrap().contains("yun group restart web"));
    assert_eq!(world.slots(), [(1, 1), (2, 1), (3, 1)]);
    // Asked again, it tries again; mended, it succeeds.
    world.broken.clear();
    world.change(|spec| spec.round += 1);
    let rest = world.quiet();
    assert_eq!((rest.status.state, rest.status.revision), (GroupState::Ready, 3));
}

#[test]
fn a_rollout_that_does_not_get_on_is_taken_back_at_its_deadline() {
    let mut world = World::new(group(2, 0, 1));
    world.quiet();
    world.change(|spec| spec.template = template(2));
    let begun = world.step();
    let deadline = begun.again.unwrap();
    assert_eq!(deadline, world.now() + TimeDelta::seconds(600));
    world.seconds += 599;
    assert_eq!(world.step().status.state, GroupState::Updating);
    world.seconds += 1;
    let failed = world.step();
    assert_eq!(failed.status.state, GroupState::RollingBack);
    assert!(failed.status.message.unwrap().contains("did not get on for 600 seconds: instance web-3 is starting"));
}

#[test]
fn without_rollback_it_stops_where_it_is_and_says_the_way_out() {
    let mut world = World::new(group(2, 0, 1));
    world.quiet();
    world.broken.insert(2);
    world.change(|spec| {
        spec.template = template(2);
        spec.update.rollback = false;
    });
    for _ in 0..50 {
        world.seconds += 11;
        world.step();
        (0..world.members.len()).rev().for_each(|at| world.work(at));
    }
    let status = &world.group.status;
    assert_eq!((status.state, status.available), (GroupState::Failed, 2));
    assert!(status.message.as_ref().unwrap().contains("yun group rollout undo web --to 1"));
    // Back by hand.
    world.change(|spec| spec.template = template(1));
    assert_eq!(world.quiet().status.state, GroupState::Ready);
    assert_eq!(world.slots(), [(1, 1), (2, 1)]);
}

#[test]
fn a_pause_holds_a_rollout_and_keeps_the_group_alive() {
    let mut world = World::new(group(3, 0, 1));
    world.quiet();
    world.change(|spec| spec.template = template(2));
    world.step();
    world.change(|spec| spec.paused = true);
    (0..4).for_each(|at| world.work(at));
    assert!(world.step().steps.is_empty());
    assert_eq!(world.group.status.state, GroupState::Paused);
    world.members.retain(|member| member.slot != 1);
    assert_eq!(world.step().steps, [Step::Create { slot: 1, revision: 1 }]);
    world.seconds += 10_000;
    assert_ne!(world.step().status.state, GroupState::RolledBack, "a pause is no failure");
    world.change(|spec| spec.paused = false);
    assert_eq!(world.quiet().status.stable, 2);
}

#[test]
fn what_ends_for_good_is_replaced_after_a_pause() {
    let mut world = World::new(group(2, 0, 1));
    world.quiet();
    world.members[0].standing = Standing::Dead { why: "has ended".into(), since: world.now() };
    let soon = world.step();
    assert!(soon.steps.is_empty() && soon.status.state == GroupState::Degraded, "{soon:?}");
    assert_eq!(soon.again, Some(world.now() + PAUSE));
    world.seconds += 10;
    assert!(matches!(&world.step().steps[..], [Step::Remove { .. }]));
    assert_eq!(world.quiet().status.state, GroupState::Ready);
}

#[test]
fn a_lost_instance_has_a_stand_in_until_its_node_answers() {
    let mut world = World::new(group(2, 0, 1));
    world.quiet();
    world.members.iter_mut().find(|m| m.slot == 2).unwrap().standing = Standing::Lost;
    let lost = world.step();
    assert!(matches!(&lost.steps[..], [Step::Remove { .. }, ..]), "{:?}", lost.steps);
    world.step();
    assert!(world.slots().contains(&(3, 1)), "{:?}", world.slots());
    (0..3).for_each(|at| world.work(at));
    assert_eq!(world.step().status.available, 2);
    // The node answers, and removes what it had.
    world.members.retain(|m| m.standing != Standing::Stuck);
    world.quiet();
    assert_eq!(world.slots(), [(1, 1), (2, 1)]);
}

#[test]
fn an_instance_counts_when_it_has_run_for_long_enough() {
    let mut world = World::new(group(1, 0, 1));
    world.change(|spec| spec.update.min_ready_seconds = 30);
    world.step();
    world.work(0);
    let early = world.step();
    assert_eq!((early.status.ready, early.status.available), (1, 0));
    assert_eq!(early.again, Some(world.now() + TimeDelta::seconds(30)));
    world.seconds += 30;
    assert_eq!(world.step().status.state, GroupState::Ready);
}

#[test]
fn with_a_health_check_only_the_healthy_are_ready() {
    let mut web = samples::instance("web-1");
    let tie = yun_types::GroupMember { id: samples::id("web"), name: samples::name("web"), slot: 1, revision: 1 };
    web.status.group = Some(tie);
    assert!(ready(&web));
    web.spec.container.health = Some(yun_types::HealthCheck::new(yun_types::HealthProbe::Tcp { port: 80 }));
    let standing = |web: &yun_types::Instance| member(web, false, true).unwrap().standing;
    assert!(!ready(&web) && matches!(standing(&web), Standing::Unwell(why) if why.contains("has not succeeded yet")));
    web.status.health = Some(yun_types::HealthStatus {
        state: yun_types::HealthState::Unhealthy,
        output: Some("refused".into()),
        ..Default::default()
    });
    assert!(matches!(standing(&web), Standing::Unwell(why) if why == "is unhealthy: refused"));
    web.status.health = Some(yun_types::HealthStatus { state: yun_types::HealthState::Healthy, ..Default::default() });
    assert!(ready(&web) && matches!(standing(&web), Standing::Ready { .. }));
}

#[test]
fn a_longer_wait_takes_nothing_away_from_what_works() {
    let mut world = World::new(group(2, 0, 1));
    world.quiet();
    world.change(|spec| {
        spec.update.min_ready_seconds = 600;
        spec.update.deadline_seconds = 700;
        spec.template = template(2);
    });
    assert_eq!(world.step().steps, [Step::Create { slot: 3, revision: 2 }]);
}

#[test]
fn old_revisions_are_forgotten_and_those_in_use_are_not() {
    let mut world = World::new(group(1, 0, 1));
    for version in 1..=15 {
        world.change(|spec| spec.template = template(version));
        world.quiet();
    }
    let kept: Vec<u64> = world.group.status.revisions.iter().map(|r| r.number).collect();
    assert_eq!(kept, (6..=15).collect::<Vec<u64>>());
    // Back to one that is kept: it is the same revision, and not a new one.
    world.change(|spec| spec.template = template(9));
    assert_eq!(world.quiet().status.revision, 9);
}

#[test]
fn deletion_removes_all_at_once() {
    let mut world = World::new(group(3, 0, 1));
    world.quiet();
    world.group.metadata.deleting = Some(world.now());
    let step = world.step();
    assert_eq!((step.steps.len(), step.status.state), (3, GroupState::Deleting));
}

#[derive(Debug, Clone)]
enum Happening {
    Works(usize),
    Dies(usize),
    NodeLost(usize),
    NodeBack,
    Scale(u32),
    Template(u64),
    Pause(bool),
    Again,
    Time(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => (0usize..8).prop_map(Happening::Works),
        1 => (0usize..8).prop_map(Happening::Dies),
        1 => (0usize..8).prop_map(Happening::NodeLost),
        1 => Just(Happening::NodeBack),
        1 => (0u32..7).prop_map(Happening::Scale),
        2 => (1u64..5).prop_map(Happening::Template),
        1 => any::<bool>().prop_map(Happening::Pause),
        1 => Just(Happening::Again),
        3 => (1i64..400).prop_map(Happening::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Never too few, never too many (checked in `World::step`), and at rest as it is wanted.
    #[test]
    fn whatever_happens_it_converges(
        replicas in 0u32..5,
        (unavailable, surge) in prop_oneof![Just((0, 1)), Just((1, 0)), Just((1, 1)), Just((2, 3)), Just((0, 2))],
        broken in prop::collection::btree_set(3u64..5, 0..2),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new(group(replicas, unavailable, surge));
        world.broken = broken;
        for happening in happenings {
            world.step();
            let at = |n: usize| if world.members.is_empty() { None } else { Some(n % world.members.len()) };
            match happening {
                Happening::Works(n) => world.work(n),
                Happening::Dies(n) => if let Some(n) = at(n).filter(|n| !world.members[*n].leaves()) {
                    world.members[n].standing = Standing::Dead { why: "has ended".into(), since: world.now() };
                },
                Happening::NodeLost(n) => if let Some(n) = at(n).filter(|n| !world.members[*n].leaves()) {
                    world.members[n].standing = Standing::Lost;
                },
                Happening::NodeBack => world.members.retain(|m| m.standing != Standing::Stuck),
                Happening::Scale(n) => world.change(|spec| spec.replicas = n),
                Happening::Template(n) => world.change(|spec| spec.template = template(n)),
                Happening::Pause(paused) => world.change(|spec| spec.paused = paused),
                Happening::Again => world.change(|spec| spec.round += 1),
                Happening::Time(seconds) => world.seconds += seconds,
            }
        }
        // All is quiet: what is wanted last works if it is not broken.
        world.change(|spec| spec.paused = false);
        world.members.retain(|m| m.standing != Standing::Stuck);
        let works = !world.broken.contains(&world.group.spec.template.spec.container.env["VERSION"].parse().unwrap());
        if works {
            // Another try, should it have failed by accident before.
            world.change(|spec| spec.round += 1);
        }
        if works || world.group.status.stable != 0 {
            let rest = world.quiet();
            let wanted = if rest.status.state == GroupState::RolledBack { rest.status.stable } else { rest.status.revision };
            let expected: Vec<(u32, u64)> = (1..=world.group.spec.replicas).map(|slot| (slot, wanted)).collect();
            prop_assert_eq!(world.slots(), expected);
            prop_assert!(!works || rest.status.state == GroupState::Ready);
        }
    }
}
