//! What a group does next: a function of what is wanted, what was tried before, what is there, and the time.
//!
//! Words are those of `yun_types::Group`. An *outdated* instance is of another revision than the one that is aimed at; an *extra* one is in a slot
//! beyond `replicas`: it stands in while others are replaced, or it is left over from a larger group. A *dead* instance will not run again by
//! itself. A *stuck* one leaves a node that is silent: its name is taken until the node answers.
//!
//! What holds at every step, whatever happens: an available instance is only removed while more than `replicas - max_unavailable` are
//! available, and none is created while there are `replicas + max_surge` or more. Instances that are not available may go at any time: that
//! takes nothing away.

mod check;
mod member;
mod status;
#[cfg(test)]
mod tests;

pub use check::{check, slot_name};
pub use member::{Member, Standing, member, ready};

use chrono::TimeDelta;
use std::collections::BTreeMap;
use uuid::Uuid;
use yun_types::{Group, GroupRevision, GroupStatus, Name, Rollout, Timestamp};

/// How many revisions are kept.
pub const KEPT: usize = 10;
/// An instance of a new revision that was restarted so often is not waited for.
pub const CRASHES: u32 = 3;
/// A dead instance of the revision that is aimed at is replaced after so long, so that a group that cannot run does not spin.
pub const PAUSE: TimeDelta = TimeDelta::seconds(10);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create the instance of this slot.
    Create {
        /// The slot.
        slot: u32,
        /// The revision to make it from.
        revision: u64,
    },
    /// Remove an instance.
    Remove {
        /// Its id.
        id: Uuid,
        /// Its name.
        name: Name,
    },
}

/// An answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is known of the group now. It is written down before any step is taken.
    pub status: GroupStatus,
    /// What to do now.
    pub steps: Vec<Step>,
    /// Each step with its reason, and what is waited for.
    pub why: Vec<String>,
    /// When to look again, if nothing happens before.
    pub again: Option<Timestamp>,
}

/// Decides. `troubles` says of slots why their instance could not be created a moment ago.
pub fn decide(group: &Group, members: &[Member], troubles: &BTreeMap<u32, String>, now: Timestamp) -> Decision {
    if group.metadata.deleting.is_some() {
        return status::leaving(group, members);
    }
    let mut status = group.status.clone();
    status.observed_generation = group.metadata.generation;
    let wanted = revise(group, &mut status, now);
    let members = &proven(members, &status)[..];
    let mut again = None;
    track(group, &mut status, wanted, members, now, &mut again);
    let aim = Aim::of(group, &status, wanted);
    let mut turn = Turn::new(group, members, aim, now, again);
    turn.remove();
    turn.create();
    let Turn { steps, mut why, again, .. } = turn;
    forget(&mut status, members);
    let trouble = troubles.iter().next();
    let trouble = trouble.map(|(slot, text)| format!("cannot create the instance of slot {slot}: {text}"));
    why.extend(trouble.iter().cloned());
    let said = status::Said { trouble, first: why.first().cloned() };
    status::settle(group, &mut status, members, aim, steps.is_empty(), said, now);
    Decision { status, steps, why, again }
}

/// Instances of a revision that was good once count as soon as they are ready.
fn proven(members: &[Member], status: &GroupStatus) -> Vec<Member> {
    let good = |number| status.revisions.iter().any(|revision| revision.number == number && revision.good);
    let mut members = members.to_vec();
    for member in members.iter_mut().filter(|member| good(member.revision)) {
        if let Standing::Ready { since } = &mut member.standing {
            *since = None;
        }
    }
    members
}

/// Finds the revision that the spec asks for, or adds it.
fn revise(group: &Group, status: &mut GroupStatus, now: Timestamp) -> u64 {
    let spec = &group.spec;
    let newest = status.revisions.last().map_or(0, |newest| newest.number);
    let known_round = status.revisions.iter().map(|revision| revision.round).max();
    let alike: Vec<&GroupRevision> =
        status.revisions.iter().rev().filter(|revision| revision.template == spec.template).collect();
    let again = known_round.is_some_and(|known| spec.round > known);
    let found = alike.iter().find(|revision| revision.failed.is_none()).or_else(|| alike.first());
    let number = match found {
        Some(found) if !again => found.number,
        _ => {
            status.revisions.push(GroupRevision {
                number: newest + 1,
                created: now,
                round: spec.round,
                template: spec.template.clone(),
                good: false,
                failed: None,
            });
            newest + 1
        }
    };
    status.revision = number;
    number
}

/// Follows the rollout: begins it, notes how it gets on, and gives it up when it does not.
fn track(
    group: &Group,
    status: &mut GroupStatus,
    wanted: u64,
    members: &[Member],
    now: Timestamp,
    again: &mut Option<Timestamp>,
) {
    let Some(revision) = status.revisions.iter_mut().find(|revision| revision.number == wanted) else { return };
    if wanted == status.stable || revision.failed.is_some() && status.stable != 0 {
        status.rollout = None;
        return;
    }
    let of_it = || members.iter().filter(|member| member.revision == wanted && !member.leaves());
    let wait = TimeDelta::seconds(i64::from(group.spec.update.min_ready_seconds));
    let available = count(of_it().filter(|member| member.available(wait, now)));
    let begun = Rollout { revision: wanted, started: now, progressed: now, available };
    let rollout = status.rollout.get_or_insert_with(|| begun.clone());
    if rollout.revision != wanted {
        *rollout = begun;
    }
    // A group without slots proves nothing, and is not late with it.
    if group.spec.paused || group.spec.replicas == 0 || available > rollout.available {
        rollout.progressed = now;
    }
    rollout.available = rollout.available.max(available);
    if group.spec.paused || revision.failed.is_some() {
        return;
    }
    let deadline = rollout.progressed + TimeDelta::seconds(i64::from(group.spec.update.deadline_seconds));
    let crashed = of_it().find(|member| member.crashes());
    if let Some(member) = crashed {
        revision.failed = Some(format!("instance {} {}", member.name, member.standing.text()));
    } else if now >= deadline {
        let waits = of_it().find(|member| !member.available(wait, now));
        let what = waits.map_or_else(
            || "its instances did not come".to_owned(),
            |member| format!("instance {} {}", member.name, member.standing.text()),
        );
        revision.failed = Some(format!("it did not get on for {} seconds: {what}", group.spec.update.deadline_seconds));
    } else {
        sooner(again, deadline);
    }
    if revision.failed.is_some() && status.stable != 0 {
        status.rollout = None;
    }
}

/// Where the group is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aim {
    /// The revision that instances should be of.
    revision: u64,
    /// The revision that the spec asks for.
    wanted: u64,
    /// Outdated instances stay as they are.
    frozen: bool,
    /// What missing slots are filled with.
    fill: u64,
}

impl Aim {
    fn of(group: &Group, status: &GroupStatus, wanted: u64) -> Self {
        let failed = status.revisions.iter().any(|revision| revision.number == wanted && revision.failed.is_some());
        let back = failed && status.stable != 0 && status.stable != wanted;
        let rolls_back = back && group.spec.update.rollback;
        let revision = if rolls_back { status.stable } else { wanted };
        // A pause holds back what people began, and never what keeps the group alive.
        let frozen = !rolls_back && (group.spec.paused || back);
        let fill = if frozen && status.stable != 0 { status.stable } else { revision };
        Self { revision, wanted, frozen, fill }
    }
}

/// One decision on its way.
struct Turn<'a> {
    group: &'a Group,
    members: &'a [Member],
    aim: Aim,
    now: Timestamp,
    wait: TimeDelta,
    /// Available instances that stay.
    available: u32,
    removed: Vec<Uuid>,
    steps: Vec<Step>,
    why: Vec<String>,
    again: Option<Timestamp>,
}

impl<'a> Turn<'a> {
    fn new(group: &'a Group, members: &'a [Member], aim: Aim, now: Timestamp, again: Option<Timestamp>) -> Self {
        let wait = TimeDelta::seconds(i64::from(group.spec.update.min_ready_seconds));
        let mut this = Self {
            group,
            members,
            aim,
            now,
            wait,
            available: 0,
            removed: Vec::new(),
            steps: Vec::new(),
            why: Vec::new(),
            again,
        };
        this.available = count(members.iter().filter(|member| member.available(wait, now)));
        for ripe in members.iter().filter_map(|member| member.ripens(wait, now)) {
            sooner(&mut this.again, ripe);
        }
        this
    }

    fn replicas(&self) -> u32 {
        self.group.spec.replicas
    }

    /// So many must stay available.
    fn least(&self) -> u32 {
        self.replicas().saturating_sub(self.group.spec.update.max_unavailable)
    }

    fn outdated(&self, member: &Member) -> bool {
        member.revision != self.aim.revision
    }

    fn stays(&self) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(|member| !member.leaves() && !self.removed.contains(&member.id))
    }

    /// Slots whose name is taken by an instance on a silent node.
    fn blocked(&self) -> u32 {
        count(self.members.iter().filter(|member| member.standing == Standing::Stuck && member.slot <= self.replicas()))
    }

    /// How many extra instances may stand in.
    fn allowed_extras(&self) -> u32 {
        if self.replicas() == 0 {
            return 0;
        }
        let outdated = count(self.stays().filter(|member| self.outdated(member) && member.slot <= self.replicas()));
        self.blocked() + outdated.min(self.group.spec.update.max_surge)
    }

    fn take(&mut self, member: &Member, why: String) {
        if member.available(self.wait, self.now) {
            self.available -= 1;
        }
        self.removed.push(member.id);
        self.why.push(format!("removes {}: {why}", member.name));
        self.steps.push(Step::Remove { id: member.id, name: member.name.clone() });
    }

    /// Whether this one may go without leaving too few.
    fn spare(&self, member: &Member) -> bool {
        !member.available(self.wait, self.now) || self.available > self.least()
    }

    fn remove(&mut self) {
        self.remove_dead();
        self.remove_extras();
        if !self.aim.frozen {
            self.remove_outdated();
        }
    }

    fn remove_dead(&mut self) {
        for member in self.members {
            let due = match &member.standing {
                Standing::Dead { since, .. } => *since + PAUSE,
                Standing::Lost => self.now,
                _ => continue,
            };
            let keeps = !self.outdated(member) && member.slot <= self.replicas();
            if keeps && due > self.now {
                sooner(&mut self.again, due);
                self.why.push(format!("replaces {} soon: it {}", member.name, member.standing.text()));
            } else {
                self.take(member, format!("it {}", member.standing.text()));
            }
        }
    }

    fn remove_extras(&mut self) {
        let mut extras: Vec<&Member> = self.stays().filter(|member| member.slot > self.replicas()).collect();
        // The newest slots go first.
        extras.sort_by_key(|member| std::cmp::Reverse(member.slot));
        for member in extras {
            if count(self.stays().filter(|member| member.slot > self.replicas())) <= self.allowed_extras() {
                return;
            }
            if self.spare(member) {
                self.take(member, format!("slot {} is beyond the {} that are wanted", member.slot, self.replicas()));
            } else {
                self.why.push(format!("{} goes once {} others are available", member.name, self.least()));
            }
        }
    }

    fn remove_outdated(&mut self) {
        let mut outdated: Vec<&Member> = self.stays().filter(|member| self.outdated(member)).collect();
        outdated.sort_by_key(|member| (member.available(self.wait, self.now), member.slot));
        let mut held = 0;
        for member in outdated {
            if self.spare(member) {
                let why = format!("it is of revision {}, and {} is wanted", member.revision, self.aim.revision);
                self.take(member, why);
            } else {
                held += 1;
            }
        }
        if held > 0 {
            self.why.push(format!(
                "{held} of revision {} or older wait to be replaced: {} must stay available, and {} are",
                self.newest_outdated(),
                self.least(),
                self.available
            ));
        }
    }

    fn newest_outdated(&self) -> u64 {
        self.stays().filter(|member| self.outdated(member)).map(|member| member.revision).max().unwrap_or_default()
    }

    fn create(&mut self) {
        let most = self.replicas() + self.group.spec.update.max_surge + self.blocked();
        // What leaves is still there.
        let there = count(self.members.iter().filter(|member| member.standing != Standing::Stuck)) + self.blocked();
        let mut room = most.saturating_sub(there);
        let taken: Vec<u32> = self.members.iter().map(|member| member.slot).collect();
        for slot in (1..=self.replicas()).filter(|slot| !taken.contains(slot)) {
            self.create_one(slot, self.aim.fill, &mut room);
        }
        let mut extras = count(self.stays().filter(|member| member.slot > self.replicas()));
        let allowed = if self.aim.frozen { self.blocked().max(extras) } else { self.allowed_extras() };
        let revision = if self.aim.frozen { self.aim.fill } else { self.aim.revision };
        let mut free = (self.replicas() + 1..).filter(|slot| !taken.contains(slot));
        while extras < allowed && room > 0 {
            let Some(slot) = free.next() else { return };
            self.create_one(slot, revision, &mut room);
            extras += 1;
        }
        let waited: Vec<&Member> = self.stays().filter(|member| !member.available(self.wait, self.now)).collect();
        for member in waited {
            if !matches!(member.standing, Standing::Dead { .. } | Standing::Lost) {
                self.why.push(format!("waits for {}: it {}", member.name, member.standing.text()));
            }
        }
    }

    fn create_one(&mut self, slot: u32, revision: u64, room: &mut u32) {
        let name = slot_name(&self.group.metadata.name, slot);
        if *room == 0 {
            let most = self.replicas() + self.group.spec.update.max_surge;
            self.why.push(format!("creates {name} once another is gone: {most} are the most at a time"));
            return;
        }
        *room -= 1;
        self.why.push(format!("creates {name} of revision {revision}"));
        self.steps.push(Step::Create { slot, revision });
    }
}

/// Forgets the oldest revisions that nothing needs.
fn forget(status: &mut GroupStatus, members: &[Member]) {
    let (wanted, stable) = (status.revision, status.stable);
    let needed = |number: u64| number == wanted || number == stable || members.iter().any(|m| m.revision == number);
    let mut over = status.revisions.len().saturating_sub(KEPT);
    status.revisions.retain(|revision| {
        let goes = over > 0 && !needed(revision.number);
        over -= usize::from(goes);
        !goes
    });
}

fn count<'a>(members: impl Iterator<Item = &'a Member>) -> u32 {
    u32::try_from(members.count()).unwrap_or(u32::MAX)
}

fn sooner(again: &mut Option<Timestamp>, at: Timestamp) {
    *again = Some(again.map_or(at, |before| before.min(at)));
}
