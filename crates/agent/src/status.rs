//! What the control plane is told of an instance, as a pure function of what is remembered and seen.

use crate::{
    decide::Seen,
    ledger::{Ending, Entry, Phase},
};
use yun_types::{
    Accel, ContainerOptions, HealthStatus, InstanceKind, InstanceReport, InstanceSpec, InstanceState, ObservedInstance,
    ObservedState,
};

/// What is known beside the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    /// What the driver said last.
    pub(crate) seen: &'a Seen,
    /// What keeps the next step from being done.
    pub(crate) trouble: Option<&'a Ending>,
    /// How VMs run here.
    pub(crate) accel: Option<Accel>,
}

/// The report. `None` while nothing is known that the control plane was not told already: right after a start of the agent.
pub(crate) fn report(entry: &Entry, around: Around<'_>) -> Option<InstanceReport> {
    let observed = match entry.phase {
        Phase::Removed => ObservedInstance::Gone,
        _ => ObservedInstance::State(observed_state(entry, around)?),
    };
    Some(InstanceReport { id: entry.id(), fence: entry.desired.fence, generation: entry.caught_up, observed })
}

/// True for states that the next one will follow at once if all goes well: worth telling only if it does not.
pub(crate) fn passing(report: &InstanceReport) -> bool {
    use InstanceState::{Deleting, Preparing, Starting, Stopping};
    matches!(&report.observed, ObservedInstance::State(state) if matches!(state.state, Preparing | Starting | Stopping | Deleting))
}

fn observed_state(entry: &Entry, around: Around<'_>) -> Option<ObservedState> {
    let state = state(entry, around.seen)?;
    let why = around
        .trouble
        .or(entry.ending.as_ref())
        .map(|ending| (ending.reason.clone(), ending.message.clone()))
        .or_else(|| remark(entry, state));
    let (reason, message) = why.unzip();
    Some(ObservedState {
        state,
        reason,
        message,
        accel: around.accel.filter(|_| entry.desired.kind == InstanceKind::Vm).map(|accel| accel.to_string()),
        started: entry.started,
        exit: entry.exit,
        health: health(entry, state),
        restarts: entry.restarts,
        next_restart: entry.next_restart,
        restart_count: entry.restart_count,
        restores: entry.restores,
    })
}

/// Only what runs is well or ill.
fn health(entry: &Entry, state: InstanceState) -> Option<HealthStatus> {
    entry.desired.spec.container.health.as_ref()?;
    let runs = matches!(state, InstanceState::Running | InstanceState::Paused);
    runs.then(|| entry.health.clone().unwrap_or_default())
}

fn state(entry: &Entry, seen: &Seen) -> Option<InstanceState> {
    let settled = || {
        let failed = entry.ending.as_ref().is_some_and(|ending| ending.failed);
        if failed { InstanceState::Failed } else { InstanceState::Stopped }
    };
    if entry.desired.deleting {
        return Some(InstanceState::Deleting);
    }
    let unknown = *seen == Seen::Unknown;
    Some(match entry.phase {
        Phase::Removing | Phase::Removed => InstanceState::Deleting,
        Phase::New => InstanceState::Preparing,
        // A handle without a look: the agent has just come back.
        Phase::Starting | Phase::Running | Phase::Stopping(_) if unknown && entry.handle.is_some() => return None,
        Phase::Starting if entry.prepared == Some(entry.desired.generation) => InstanceState::Starting,
        Phase::Starting => InstanceState::Preparing,
        Phase::Running if *seen == Seen::Paused => InstanceState::Paused,
        Phase::Running => InstanceState::Running,
        Phase::Stopping(_) => InstanceState::Stopping,
        Phase::Stopped if entry.hibernated => InstanceState::Hibernated,
        Phase::Stopped => InstanceState::Stopped,
        Phase::Waiting | Phase::Finished => settled(),
    })
}

/// What people should know of an instance that runs.
fn remark(entry: &Entry, state: InstanceState) -> Option<(String, String)> {
    if state != InstanceState::Running && state != InstanceState::Paused {
        return None;
    }
    let changed = entry.runs_with.as_ref().map(|with| needs_restart(with, &entry.desired.spec)).unwrap_or_default();
    if !changed.is_empty() {
        let why = entry.adjust_note.as_ref().map_or_else(String::new, |why| format!("; {why}"));
        let message = format!(
            "the new {} will be used after a restart: yun restart {}{why}",
            changed.join(" and "),
            entry.desired.name
        );
        return Some(("RestartNeeded".into(), message));
    }
    (!entry.answered).then(|| ("Booting".into(), "booting: the guest has not answered yet".into()))
}

/// The parts of a spec that a running instance cannot take on.
fn needs_restart(runs_with: &InstanceSpec, wanted: &InstanceSpec) -> Vec<&'static str> {
    let vm = runs_with.vm.ssh_keys != wanted.vm.ssh_keys || runs_with.vm.user_data != wanted.vm.user_data;
    // Health is asked anew at once.
    let container = ContainerOptions { health: wanted.container.health.clone(), ..runs_with.container.clone() };
    let parts = [
        ("size", runs_with.size != wanted.size),
        ("container settings", container != wanted.container),
        ("VM settings", vm),
    ];
    parts.into_iter().filter(|(_, changed)| *changed).map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decide::tests::desired, ledger::Then};
    use yun_drivers::InstanceHandle;
    use yun_types::Generation;

    fn entry(phase: Phase) -> Entry {
        let desired = desired();
        let handle = InstanceHandle {
            id: desired.id,
            kind: desired.kind,
            generation: desired.generation,
            driver: serde_json::Value::Null,
        };
        Entry { phase, handle: Some(handle), answered: true, ..Entry::new(desired) }
    }

    fn state(entry: &Entry, seen: &Seen) -> Option<ObservedState> {
        match report(entry, Around { seen, trouble: None, accel: Some(Accel::Tcg) })?.observed {
            ObservedInstance::State(state) => Some(state),
            ObservedInstance::Gone => None,
        }
    }

    #[test]
    fn phases_show_as_states() {
        let shown = |phase, seen: Seen| state(&entry(phase), &seen).map(|state| state.state);
        assert_eq!(shown(Phase::New, Seen::Absent), Some(InstanceState::Preparing));
        assert_eq!(shown(Phase::Starting, Seen::Absent), Some(InstanceState::Preparing));
        assert_eq!(shown(Phase::Running, Seen::Running), Some(InstanceState::Running));
        assert_eq!(shown(Phase::Running, Seen::Paused), Some(InstanceState::Paused));
        assert_eq!(shown(Phase::Stopping(Then::Rest), Seen::Running), Some(InstanceState::Stopping));
        assert_eq!(shown(Phase::Stopped, Seen::Absent), Some(InstanceState::Stopped));
        assert_eq!(shown(Phase::Removing, Seen::Absent), Some(InstanceState::Deleting));
        let mut prepared = entry(Phase::Starting);
        prepared.prepared = Some(Generation(1));
        assert_eq!(state(&prepared, &Seen::Absent).map(|state| state.state), Some(InstanceState::Starting));
    }

    #[test]
    fn an_agent_that_has_not_looked_yet_says_nothing_of_what_ran() {
        for phase in [Phase::Running, Phase::Starting, Phase::Stopping(Then::Rest)] {
            assert_eq!(state(&entry(phase), &Seen::Unknown), None);
        }
        assert!(state(&entry(Phase::Stopped), &Seen::Unknown).is_some());
    }

    #[test]
    fn failures_and_success_end_differently() {
        for (failed, expected) in [(true, InstanceState::Failed), (false, InstanceState::Stopped)] {
            let ending = Ending { failed, ran: true, reason: "Why".into(), message: "because".into() };
            let state = state(&Entry { ending: Some(ending), ..entry(Phase::Finished) }, &Seen::Absent).unwrap();
            assert_eq!(
                (state.state, state.reason.as_deref(), state.message.as_deref()),
                (expected, Some("Why"), Some("because"))
            );
        }
    }

    #[test]
    fn trouble_comes_before_all_other_remarks() {
        let trouble = Ending { failed: true, ran: true, reason: "Trouble".into(), message: "again soon".into() };
        let entry = Entry { answered: false, ..entry(Phase::Running) };
        assert_eq!(state(&entry, &Seen::Running).unwrap().reason.as_deref(), Some("Booting"));
        let report = report(&entry, Around { seen: &Seen::Running, trouble: Some(&trouble), accel: None }).unwrap();
        let ObservedInstance::State(state) = report.observed else { panic!() };
        assert_eq!(state.reason.as_deref(), Some("Trouble"));
    }

    #[test]
    fn only_vms_say_how_they_run() {
        let mut vm = entry(Phase::Running);
        vm.desired.kind = InstanceKind::Vm;
        assert_eq!(state(&vm, &Seen::Running).unwrap().accel.as_deref(), Some("tcg"));
        assert_eq!(state(&entry(Phase::Running), &Seen::Running).unwrap().accel, None);
    }

    #[test]
    fn what_is_gone_is_gone() {
        let report =
            report(&entry(Phase::Removed), Around { seen: &Seen::Unknown, trouble: None, accel: None }).unwrap();
        assert_eq!(report.observed, ObservedInstance::Gone);
        assert!(!passing(&report));
    }

    #[test]
    fn a_changed_power_needs_no_restart_and_a_changed_size_does() {
        let with = desired().spec;
        let mut wanted = with.clone();
        (wanted.power, wanted.restart_count) = (yun_types::Power::Paused, 7);
        assert_eq!(needs_restart(&with, &wanted), [""; 0]);
        wanted.size = "cpu:3".parse().unwrap();
        wanted.container.tty = true;
        assert_eq!(needs_restart(&with, &wanted), ["size", "container settings"]);
    }
}
