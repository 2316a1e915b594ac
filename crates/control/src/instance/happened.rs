//! What a change of an instance means to people: its events.
//!
//! They are read off the changes of the state, one after the other, so that they are told once and in the order in which it went. A node tells what it sees too, often in the same words and a moment earlier or later: what was told a moment ago is not told again.

use crate::{core::Control, operation::reference, rows::InstanceRow};
use chrono::TimeDelta;
use std::sync::Arc;
use yun_engine::tasks::Task;
use yun_store::Changes;
use yun_types::{Event, Instance, InstanceState as State, ObjectKind, ObjectRef, Severity};

/// For so long the same word about the same object is the same event.
const MOMENT: TimeDelta = TimeDelta::seconds(5);
/// How far back the last event of an object is looked for.
const LOOK_BACK: usize = 64;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Happened {
    severity: Severity,
    reason: String,
    message: String,
}

impl Happened {
    fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason: reason.into(), message: message.into() }
    }
    fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason: reason.into(), message: message.into() }
    }
}

/// Records an event, unless it was the last one of its object a moment ago.
pub(crate) fn tell(c: &Control, object: ObjectRef, severity: Severity, reason: String, message: String) {
    let recent = c.events.tail(LOOK_BACK);
    let last = recent.iter().rev().find(|event| event.object.id == object.id);
    if last.is_some_and(|last| last.reason == reason && c.clock.now() - last.at < MOMENT) {
        return;
    }
    c.events.record(|sequence, at| Event { sequence, at, object, severity, reason, message });
}

/// Starts what tells of all changes from now on.
pub(super) fn start(c: &Arc<Control>) {
    let changes = c.instances.cache.subscribe();
    let control = Arc::clone(c);
    let _runs_until_shutdown = c.tasks.spawn("instances/events", move |task| follow(control, changes, task));
}

async fn follow(c: Arc<Control>, mut changes: Changes<InstanceRow>, task: Task) {
    let stop = task.stopping().clone();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        match change {
            Some(Ok(change)) => {
                let sides = [&change.old, &change.new].map(|side| side.as_ref().map(|row| &row.value.0));
                happened(&c, sides[0], sides[1]);
            }
            // So far behind that the cache has forgotten the way: what lies between is not told.
            Some(Err(_)) => changes = c.instances.cache.subscribe(),
            None => return,
        }
    }
}

/// Records what the change from `before` to `after` means. `None` before: it is new; `None` after: it is gone.
fn happened(c: &Control, before: Option<&Instance>, after: Option<&Instance>) {
    // A name that was deleted and given again between two looks is another instance.
    if let (Some(old), Some(new)) = (before, after)
        && old.metadata.id != new.metadata.id
    {
        happened(c, before, None);
        return happened(c, None, after);
    }
    let Some(object) = after.or(before).map(|instance| reference(ObjectKind::Instance, &instance.metadata)) else {
        return;
    };
    for Happened { severity, reason, message } in between(before, after) {
        tell(c, object.clone(), severity, reason, message);
    }
}

fn between(before: Option<&Instance>, after: Option<&Instance>) -> Vec<Happened> {
    let Some(now) = after else {
        return before.map(|_| Happened::normal("Deleted", "nothing of it is left")).into_iter().collect();
    };
    let mut all = Vec::new();
    if before.is_none() {
        let kind = now.spec.kind.map_or_else(String::new, |kind| kind.to_string());
        all.push(Happened::normal("Created", format!("{kind} of {}", now.spec.image)));
    }
    if now.status.node.is_some() && before.is_none_or(|before| before.status.node.is_none()) {
        all.push(Happened::normal("Scheduled", format!("on {}", place(now))));
    }
    if now.metadata.deleting.is_some() && before.is_none_or(|before| before.metadata.deleting.is_none()) {
        all.push(Happened::normal("Deleting", format!("its node {} removes what it owns", node(now))));
    }
    all.extend(before.and_then(|before| killed(before, now)));
    let from = before.map_or(State::Pending, |before| before.status.state);
    if from != now.status.state {
        all.extend(reached(from, now));
    } else if now.status.state == State::Pending
        && before.is_none_or(|before| before.status.reason != now.status.reason)
    {
        all.extend(waits(now));
    }
    all
}

fn node(instance: &Instance) -> &str {
    instance.status.node_name.as_ref().map_or("", |node| node.as_str())
}

fn place(instance: &Instance) -> String {
    let address = instance.status.address.map(|address| format!(" at {address}")).unwrap_or_default();
    format!("node {}{address}", node(instance))
}

fn waits(now: &Instance) -> Option<Happened> {
    Some(Happened::warning("Waiting", now.status.message.clone()?))
}

/// An end by the kernel that asks for attention even if the policy has started it again already.
fn killed(before: &Instance, now: &Instance) -> Option<Happened> {
    let exit = now.status.exit.filter(|exit| before.status.exit != Some(*exit))?;
    // An end that is seen is told with the state it led to.
    let seen = matches!(now.status.state, State::Failed | State::Stopped);
    (exit.out_of_memory && !seen).then(|| {
        let (limit, name) = (now.spec.size.memory.human(), &now.metadata.name);
        let message = format!(
            "it went over its memory limit of {limit} and was ended by the kernel; give it more with yun set {name}"
        );
        Happened::warning("OutOfMemory", message)
    })
}

fn reached(from: State, now: &Instance) -> Option<Happened> {
    let status = &now.status;
    // The node's own word, if it has one.
    let said = |word: &str| status.reason.clone().unwrap_or_else(|| word.to_owned());
    let message = |text: String| status.message.clone().unwrap_or(text);
    Some(match status.state {
        State::Pending => return waits(now),
        State::Running if from == State::Paused => Happened::normal("Resumed", format!("on {}", place(now))),
        State::Running if from == State::Lost => {
            Happened::normal("Returned", format!("node {} answers again", node(now)))
        }
        State::Running => Happened::normal("Started", format!("on {}", place(now))),
        State::Paused => Happened::normal("Paused", "frozen in memory"),
        State::Stopped => {
            let how = status.exit.map_or_else(|| "as asked".to_owned(), |exit| format!("with code {}", exit.code));
            Happened::normal(said("Stopped"), message(how))
        }
        State::Failed => Happened::warning(said("Failed"), message(format!("see yun logs {}", now.metadata.name))),
        State::Lost => Happened::warning("Lost", message(format!("node {} is silent", node(now)))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::tests::sample;
    use yun_types::Exit;

    fn reasons(before: Option<&Instance>, after: Option<&Instance>) -> Vec<String> {
        between(before, after).into_iter().map(|h| h.reason).collect()
    }

    fn running() -> Instance {
        sample("web", State::Running)
    }

    fn with(state: State) -> Instance {
        sample("web", state)
    }

    #[test]
    fn a_life_is_told_in_order() {
        let scheduled = with(State::Scheduled);
        assert_eq!(reasons(None, Some(&scheduled)), ["Created", "Scheduled"]);
        assert_eq!(reasons(Some(&scheduled), Some(&with(State::Preparing))), [""; 0]);
        assert_eq!(reasons(Some(&with(State::Starting)), Some(&running())), ["Started"]);
        assert_eq!(reasons(Some(&running()), Some(&with(State::Paused))), ["Paused"]);
        assert_eq!(reasons(Some(&with(State::Paused)), Some(&running())), ["Resumed"]);
        assert_eq!(reasons(Some(&running()), Some(&with(State::Stopped))), ["Stopped"]);
        assert_eq!(reasons(Some(&running()), Some(&with(State::Failed))), ["Failed"]);
        assert_eq!(reasons(Some(&running()), Some(&with(State::Lost))), ["Lost"]);
        assert_eq!(reasons(Some(&with(State::Lost)), Some(&running())), ["Returned"]);
        assert_eq!(reasons(Some(&running()), None), ["Deleted"]);
        assert_eq!(reasons(Some(&running()), Some(&running())), [""; 0]);
    }

    #[test]
    fn an_end_by_the_kernel_is_told_once_even_when_it_runs_again() {
        let mut after = with(State::Starting);
        let at = chrono::DateTime::UNIX_EPOCH;
        after.status.exit = Some(Exit { code: 137, signal: Some(9), out_of_memory: true, at });
        let told = between(Some(&running()), Some(&after));
        assert_eq!((told[0].reason.as_str(), told[0].severity), ("OutOfMemory", Severity::Warning));
        assert!(told[0].message.contains("64 MiB"), "{}", told[0].message);
        after.status.state = State::Failed;
        after.status.reason = Some("OutOfMemory".into());
        assert_eq!(reasons(Some(&running()), Some(&after)), ["OutOfMemory"]);
    }

    #[test]
    fn who_waits_says_why_once() {
        let mut waiting = with(State::Pending);
        waiting.status.node = None;
        waiting.status.reason = Some("NoRoom".into());
        waiting.status.message = Some("waits: no room".into());
        assert_eq!(reasons(None, Some(&waiting)), ["Created", "Waiting"]);
        assert_eq!(reasons(Some(&waiting), Some(&waiting)), [""; 0]);
    }
}
