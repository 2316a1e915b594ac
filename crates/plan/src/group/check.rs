//! What can be said about a group's spec without looking at anything else.

use crate::{Refused, spec};
use yun_types::{GroupSpec, InstanceKind, Name, Power};

/// The most instances of one group.
pub(super) const MOST: u32 = 1000;
/// The longest name: `-1999` must fit behind it.
const LONGEST: usize = Name::MAX - 5;
/// The longest times, in seconds.
const DAY: u32 = 86_400;

/// The name of the instance in a slot.
pub fn slot_name(group: &Name, slot: u32) -> Name {
    format!("{group}-{slot}").parse().unwrap_or_else(|_| group.clone())
}

fn bad<T>(message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::new("Invalid", message))
}

/// Checks a spec for a group of this name whose image makes instances of this kind.
pub fn check(name: &Name, group: &GroupSpec, kind: InstanceKind, trust: spec::Trust) -> Result<(), Refused> {
    if name.as_str().len() > LONGEST {
        return bad(format!(
            "the name of group {name} is too long: {LONGEST} characters are the most, so that {name}-1 is a name too"
        ));
    }
    if group.replicas > MOST {
        return bad(format!(
            "replicas {} are too many: {MOST} are the most in one group; make several",
            group.replicas
        ));
    }
    let update = &group.update;
    if update.max_surge == 0 && update.max_unavailable == 0 {
        return bad(
            "max_surge and max_unavailable are both 0, so that nothing could ever be replaced: give one of them 1 or more",
        );
    }
    if update.max_surge > MOST {
        return bad(format!("max_surge {} is too much: {MOST} is the most", update.max_surge));
    }
    for (field, value) in
        [("min_ready_seconds", update.min_ready_seconds), ("deadline_seconds", update.deadline_seconds)]
    {
        if value > DAY {
            return bad(format!("{field} {value} is too long: {DAY} (a day) is the most"));
        }
    }
    if update.deadline_seconds <= update.min_ready_seconds {
        return bad(format!(
            "deadline_seconds {} is not more than min_ready_seconds {}, so that every rollout would fail: make it longer",
            update.deadline_seconds, update.min_ready_seconds
        ));
    }
    check_template(group, kind, trust)
}

fn check_template(group: &GroupSpec, kind: InstanceKind, trust: spec::Trust) -> Result<(), Refused> {
    let template = &group.template.spec;
    if template.power != Power::Running {
        return bad("the instances of a group run: leave power out, or scale the group to 0");
    }
    if template.restart_count != 0 {
        return bad("restart_count is for single instances: restart a group by raising round (yun group restart)");
    }
    if !template.publish.is_empty() && (group.replicas > 1 || group.update.max_surge > 0) {
        let ports: Vec<String> = template.publish.iter().map(ToString::to_string).collect();
        return bad(format!(
            "several instances cannot publish {} on one host: use replicas 1 with max_surge 0 and max_unavailable 1, or publish nothing and reach the group by its name",
            ports.join(", ")
        ));
    }
    spec::check(template, kind, trust)
}
