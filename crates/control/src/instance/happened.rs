//! What a change of an instance means to people: its events.

use crate::{core::Control, operation::reference};
use yun_types::{Event, Instance, InstanceState as State, ObjectKind, Severity};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Happened {
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Records what the change from `before` to `after` means. `None` before: it is new; `None` after: it is gone.
pub(crate) fn happened(c: &Control, before: Option<&Instance>, after: Option<&Instance>) {
    let Some(object) = after.or(before).map(|instance| reference(ObjectKind::Instance, &instance.metadata)) else {
        return;
    };
    for Happened { severity, reason, message } in between(before, after) {
        let object = object.clone();
        c.events.record(|sequence, at| Event { sequence, at, object, severity, reason: reason.into(), message });
    }
}

fn between(before: Option<&Instance>, after: Option<&Instance>) -> Vec<Happened> {
    let normal = |reason, message: String| Happened { severity: Severity::Normal, reason, message };
    let Some(now) = after else {
        return before.map(|_| normal("Deleted", "nothing of it is left".into())).into_iter().collect();
    };
    let mut all = Vec::new();
    if before.is_none() {
        all.push(normal(
            "Created",
            format!("{} of {}", now.spec.kind.map_or_else(String::new, |kind| kind.to_string()), now.spec.image),
        ));
    }
    if now.status.node.is_some() && before.is_none_or(|before| before.status.node.is_none()) {
        all.push(normal("Scheduled", format!("on {}", place(now))));
    }
    if now.metadata.deleting.is_some() && before.is_none_or(|before| before.metadata.deleting.is_none()) {
        all.push(normal("Deleting", format!("its node {} removes what it owns", node(now))));
    }
    all.extend(before.and_then(|before| ended(before, now)));
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
    let message = now.status.message.clone()?;
    Some(Happened { severity: Severity::Warning, reason: "Waiting", message })
}

/// An end that asks for attention even if the policy has started it again already.
fn ended(before: &Instance, now: &Instance) -> Option<Happened> {
    let exit = now.status.exit.filter(|exit| before.status.exit != Some(*exit))?;
    if exit.out_of_memory {
        let message = format!(
            "it went over its memory limit of {} and was ended by the kernel; give it more with yun set {} --size memory:…",
            now.spec.size.memory.human(),
            now.metadata.name
        );
        return Some(Happened { severity: Severity::Warning, reason: "OutOfMemory", message });
    }
    let again = now.status.restarts > before.status.restarts || now.status.next_restart.is_some();
    again.then(|| {
        let times = now.status.restarts;
        let message =
            format!("it ended with code {} and is started again by its policy ({times} restarts so far)", exit.code);
        Happened {
            severity: if exit.success() { Severity::Normal } else { Severity::Warning },
            reason: "Restarting",
            message,
        }
    })
}

fn reached(from: State, now: &Instance) -> Option<Happened> {
    let normal = |reason, message: String| Some(Happened { severity: Severity::Normal, reason, message });
    let warning = |reason, message: String| Some(Happened { severity: Severity::Warning, reason, message });
    let status = &now.status;
    match status.state {
        State::Pending => waits(now),
        State::Running if from == State::Paused => normal("Resumed", format!("on {}", place(now))),
        State::Running if from == State::Lost => normal("Returned", format!("node {} answers again", node(now))),
        State::Running => normal("Started", format!("on {}", place(now))),
        State::Paused => normal("Paused", "frozen in memory".into()),
        State::Stopped => normal(
            "Stopped",
            status.exit.map_or_else(|| "as asked".to_owned(), |exit| format!("with code {}", exit.code)),
        ),
        State::Failed => {
            let reason = status.reason.as_deref().unwrap_or("Failed");
            warning(
                "Failed",
                status.message.clone().unwrap_or_else(|| format!("{reason}; see yun logs {}", now.metadata.name)),
            )
        }
        State::Lost => {
            warning("Lost", status.message.clone().unwrap_or_else(|| format!("node {} is silent", node(now))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::tests::sample;
    use yun_types::Exit;

    fn reasons(before: Option<&Instance>, after: Option<&Instance>) -> Vec<&'static str> {
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
        assert_eq!(reasons(Some(&running()), Some(&with(State::Lost))), ["Lost"]);
        assert_eq!(reasons(Some(&with(State::Lost)), Some(&running())), ["Returned"]);
        assert_eq!(reasons(Some(&running()), None), ["Deleted"]);
        assert_eq!(reasons(Some(&running()), Some(&running())), [""; 0]);
    }

    #[test]
    fn an_end_by_the_kernel_is_told_even_when_it_runs_again() {
        let mut after = with(State::Starting);
        after.status.exit =
            Some(Exit { code: 137, signal: Some(9), out_of_memory: true, at: chrono::DateTime::UNIX_EPOCH });
        let told = between(Some(&running()), Some(&after));
        assert_eq!((told[0].reason, told[0].severity), ("OutOfMemory", Severity::Warning));
        assert!(told[0].message.contains("64 MiB"), "{}", told[0].message);
        after.status.exit =
            Some(Exit { code: 1, signal: None, out_of_memory: false, at: chrono::DateTime::UNIX_EPOCH });
        after.status.restarts = 1;
        assert_eq!(reasons(Some(&running()), Some(&after)), ["Restarting"]);
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
