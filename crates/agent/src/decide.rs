//! The state machine of one instance, as a pure function: what is remembered, what is seen and what time it is give the *one* next step.
//!
//! It never acts and never waits. It is asked again after each step and after each thing that happens, so that any state that a crash can
//! leave behind is just one more state to go on from. The phases and their diagram are in [`crate::ledger`].
//!
//! Words: *live* means that a process is there, frozen or not; to *settle* is to write down what an end means; to *gather* is to open the
//! image and to connect the network, which a preparation needs.

use crate::ledger::{Ending, Entry, Phase, Then};
use std::time::Duration;
use yun_drivers::ErrorKind;
use yun_engine::{backoff::Backoff, clock::after};
use yun_types::{Exit, HealthState, InstanceKind, InstanceSpec, Power, RestartPolicy, Timestamp, WhenUnhealthy};

/// The pauses before restarts by policy. Without jitter: people count along, and starts are throttled by the node anyway.
pub(crate) const RESTARTS: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60), jitter: 0 };

/// Who ran this long is well: the next pause is the first one again.
pub(crate) const WELL_AFTER: Duration = Duration::from_secs(60);

/// What the driver says of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nobody has looked since the agent's start or since something went wrong.
    Unknown,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process ended; how, if anybody knows.
    Ended(Option<Exit>),
    /// It has no process and never had one.
    Absent,
}

impl Seen {
    /// True if a process is there.
    pub(crate) fn live(&self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Why a start begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody wants it: the counters begin anew.
    User,
    /// The restart policy.
    Policy,
    /// The host came up again: not the instance's fault, so nothing is counted.
    Reboot,
}

/// Where an end leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It should not run.
    Stopped,
    /// It stays ended.
    Finished,
    /// It is tried again then.
    Waiting(Timestamp),
}

/// What an end means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) to: Rest,
    /// Absent if it ended because it should.
    pub(crate) ending: Option<Ending>,
    /// How it ended, if it was seen now.
    pub(crate) exit: Option<Exit>,
    /// The restarts in a row that count from here on.
    pub(crate) streak: u32,
}

/// The one next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the driver what is true, and take the attachment up again.
    Look,
    /// Write down that a start begins.
    Begin(Cause),
    /// Open the image and connect the network.
    Gather,
    /// Prepare.
    Prepare,
    /// Start, or confirm that it runs and get its newest handle.
    Start,
    /// Connect again: its ports, its networks or its volumes changed while it runs.
    Reattach,
    /// Change the limits of what runs.
    Adjust,
    /// Freeze.
    Pause,
    /// Let it go on.
    Resume,
    /// Save it to disk with its memory, and end it.
    Hibernate,
    /// Bring its data back to a snapshot.
    Restore,
    /// End it.
    Stop {
        /// What comes then.
        then: Then,
        /// How long it may take its time.
        grace: Duration,
    },
    /// Write down what an end means.
    Settle(Settled),
    /// Disconnect what does not run.
    Release,
    /// End and remove all of it.
    Remove,
    /// Remove the entry and say that it is gone.
    Forget,
    /// Nothing, until something happens or until then.
    Rest {
        /// When to ask again at the latest.
        until: Option<Timestamp>,
    },
}

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// What is remembered, with the newest order.
    pub(crate) entry: &'a Entry,
    /// What the driver said last.
    pub(crate) seen: &'a Seen,
    /// The image is open in this process.
    pub(crate) gathered: bool,
    /// The guest did not answer in time.
    pub(crate) boot_failure: Option<&'a Ending>,
    /// This boot of the host.
    pub(crate) boot_id: &'a str,
    /// The time.
    pub(crate) now: Timestamp,
}

/// The next step.
pub(crate) fn decide(view: View<'_>) -> Step {
    let entry = view.entry;
    if entry.phase == Phase::Removed {
        return Step::Forget;
    }
    if entry.phase == Phase::Removing || entry.desired.deleting {
        return Step::Remove;
    }
    match view.seen {
        // Nothing starts before its handle is in the ledger: without one there is nothing to look for.
        Seen::Unknown if entry.handle.is_some() => Step::Look,
        Seen::Running | Seen::Paused => live(view),
        Seen::Unknown | Seen::Absent => down(view, None),
        Seen::Ended(exit) => down(view, *exit),
    }
}

/// The next step of an instance whose process is there.
fn live(view: View<'_>) -> Step {
    let entry = view.entry;
    let spec = &entry.desired.spec;
    if spec.power == Power::Stopped {
        return Step::Stop { then: Then::Rest, grace: grace(entry) };
    }
    if let Phase::Stopping(then) = entry.phase {
        // The agent went away while it waited. What comes then may have changed: a stop that was taken back becomes a restart.
        let then = if then == Then::Rest { Then::Again } else { then };
        return Step::Stop { then, grace: grace(entry) };
    }
    if restores(entry) {
        // What it would still write is thrown away anyway.
        return Step::Stop { then: Then::Again, grace: Duration::ZERO };
    }
    if spec.restart_count > entry.restart_count {
        return Step::Stop { then: Then::Again, grace: grace(entry) };
    }
    if entry.phase != Phase::Running {
        return Step::Start;
    }
    if view.boot_failure.is_some() {
        return Step::Stop { then: Then::Fail, grace: Duration::ZERO };
    }
    if unattached(view) {
        return Step::Reattach;
    }
    if unhealthy(entry).is_some() && *view.seen == Seen::Running {
        return Step::Stop { then: Then::Policy, grace: grace(entry) };
    }
    if entry.runs_with.as_ref().is_some_and(|with| limits_changed(entry, with)) && *view.seen == Seen::Running {
        return Step::Adjust;
    }
    match (spec.power, view.seen) {
        (Power::Paused, Seen::Running) => Step::Pause,
        (Power::Running, Seen::Paused) => Step::Resume,
        (Power::Hibernated, _) => Step::Hibernate,
        _ => Step::Rest { until: None },
    }
}

/// The next step of an instance without a process. `exit` is how its last one ended.
fn down(view: View<'_>, exit: Option<Exit>) -> Step {
    let entry = view.entry;
    let power = entry.desired.spec.power;
    let wanted = !matches!(power, Power::Stopped | Power::Hibernated);
    let asked = entry.desired.spec.restart_count > entry.restart_count;
    if restores(entry) {
        return Step::Restore;
    }
    match entry.phase {
        Phase::Stopping(Then::Fail) => {
            Step::Settle(Settled { to: Rest::Finished, ending: entry.ending.clone(), exit, streak: 0 })
        }
        // It may have been saved just before the agent went away: the driver knows.
        Phase::Running if power == Power::Hibernated => Step::Hibernate,
        Phase::Stopping(_) | Phase::Running if !wanted => stopped(exit),
        Phase::Stopping(Then::Policy) if !asked => {
            let ending = entry.ending.clone().unwrap_or_else(|| ill(""));
            Step::Settle(settle(entry, ending, exit, streak(entry, exit, view.now), view.now))
        }
        Phase::Stopping(_) => Step::Begin(Cause::User),
        Phase::Running if asked => Step::Begin(Cause::User),
        Phase::Running if entry.boot_id != view.boot_id => rebooted(entry, exit),
        Phase::Running => Step::Settle(ended(entry, exit, view.now)),
        Phase::Starting if !wanted => stopped(exit),
        // It ran and ended before the agent, which went away in between, could see it run.
        Phase::Starting if exit.is_some() && exit != entry.exit => Step::Settle(ended(entry, exit, view.now)),
        Phase::Starting => towards_start(view),
        Phase::New | Phase::Waiting | Phase::Finished if !wanted => stopped(exit),
        Phase::New => Step::Begin(Cause::User),
        Phase::Stopped if wanted => Step::Begin(Cause::User),
        // Who stops it wants no memory of it.
        Phase::Stopped if entry.hibernated && power == Power::Stopped => {
            Step::Stop { then: Then::Rest, grace: Duration::ZERO }
        }
        Phase::Stopped if entry.attachment.is_some() || !entry.more_attachments.is_empty() => Step::Release,
        Phase::Stopped => Step::Rest { until: None },
        Phase::Waiting | Phase::Finished if asked || retry_for_change(entry) => Step::Begin(Cause::User),
        Phase::Waiting => match entry.next_restart.filter(|moment| *moment > view.now) {
            None => Step::Begin(Cause::Policy),
            until => Step::Rest { until },
        },
        Phase::Finished => Step::Rest { until: None },
        Phase::Removing => Step::Remove,
        Phase::Removed => Step::Forget,
    }
}

/// True if it should be brought back to a snapshot.
fn restores(entry: &Entry) -> bool {
    entry.desired.origin.restores() > entry.restores
}

fn towards_start(view: View<'_>) -> Step {
    let entry = view.entry;
    let stale = entry.handle.is_none() || entry.prepared != Some(entry.desired.generation);
    match (unattached(view), stale, view.gathered) {
        (false, false, _) => Step::Start,
        (false, true, true) => Step::Prepare,
        _ => Step::Gather,
    }
}

/// True if what is plugged into it is not what is wanted, or was plugged in before the host's last boot.
fn unattached(view: View<'_>) -> bool {
    let (entry, desired) = (view.entry, &view.entry.desired);
    entry.boot_id != view.boot_id
        || entry.attachment.as_ref().is_none_or(|attachment| attachment.nic != desired.nic)
        || !entry.more_attachments.iter().map(|attachment| &attachment.nic).eq(&desired.more_nics)
        || entry.fitted != desired.volumes
}

/// What could not be started is tried again as soon as its user changes it. What ran and ended is not: a changed label starts nothing.
fn retry_for_change(entry: &Entry) -> bool {
    let could_not_start = entry.ending.as_ref().is_some_and(|ending| !ending.ran);
    could_not_start && entry.desired.generation > entry.caught_up
}

fn stopped(exit: Option<Exit>) -> Step {
    Step::Settle(Settled { to: Rest::Stopped, ending: None, exit, streak: 0 })
}

fn rebooted(entry: &Entry, exit: Option<Exit>) -> Step {
    if entry.desired.spec.restart != RestartPolicy::Never {
        return Step::Begin(Cause::Reboot);
    }
    let message = "the node was restarted, and the restart policy is never; start it with yun start".to_owned();
    let ending = Ending { failed: false, ran: true, reason: "HostRebooted".into(), message };
    Step::Settle(Settled { to: Rest::Finished, ending: Some(ending), exit, streak: 0 })
}

/// What it means that an instance ended by itself.
fn ended(entry: &Entry, exit: Option<Exit>, now: Timestamp) -> Settled {
    let failed = exit.is_none_or(|exit| !exit.success());
    let (reason, what) = match exit {
        None => ("Lost", "its process is gone, and nobody saw how it ended".to_owned()),
        Some(exit) if exit.out_of_memory => {
            let limit = entry.desired.spec.size.memory.human();
            ("OutOfMemory", format!("it used more memory than its {limit} and was ended; give it more with yun set"))
        }
        Some(Exit { signal: Some(signal), .. }) => ("Killed", format!("it was ended by signal {signal}")),
        Some(Exit { code: 0, .. }) => ("Completed", "it ended by itself, with success".to_owned()),
        Some(Exit { code, .. }) => ("Exited", format!("it ended by itself with code {code}; see yun logs")),
    };
    let streak = streak(entry, exit, now);
    settle(entry, Ending { failed, ran: true, reason: reason.into(), message: what }, exit, streak, now)
}

/// The restarts in a row that count when it ends.
fn streak(entry: &Entry, exit: Option<Exit>, now: Timestamp) -> u32 {
    let end = exit.map_or(now, |exit| exit.at);
    let well = entry.started.is_some_and(|started| end >= after(started, WELL_AFTER));
    if well { 0 } else { entry.streak }
}

/// Why it should be ended, if its health says so and its user wants that.
pub(crate) fn unhealthy(entry: &Entry) -> Option<Ending> {
    let check = entry.desired.spec.container.health.as_ref()?;
    let health = entry.health.as_ref()?;
    let ends = check.when_unhealthy == WhenUnhealthy::Restart && health.state == HealthState::Unhealthy;
    ends.then(|| ill(health.output.as_deref().unwrap_or_default()))
}

/// True if what a running instance may use is not what is wanted, and that was not tried yet. A container's disk is not among that: nothing
/// holds it to its size.
fn limits_changed(entry: &Entry, with: &InstanceSpec) -> bool {
    let wanted = &entry.desired.spec;
    match entry.desired.kind {
        InstanceKind::Container => with_limits(with.clone(), wanted) != *with,
        InstanceKind::Vm => with.size != wanted.size && entry.adjusted != Some(entry.desired.generation),
    }
}

/// A spec with the limits of another one.
pub(crate) fn with_limits(mut spec: InstanceSpec, of: &InstanceSpec) -> InstanceSpec {
    (spec.size.cpu, spec.size.memory) = (of.size.cpu, of.size.memory);
    (spec.container.pids, spec.container.io) = (of.container.pids, of.container.io);
    spec
}

fn ill(output: &str) -> Ending {
    let first = output.lines().last().unwrap_or_default();
    let message = format!("its health check failed too often in a row: {first}");
    Ending { failed: true, ran: true, reason: "Unhealthy".into(), message }
}

/// What it means that an instance could not be started.
pub(crate) fn could_not_start(
    entry: &Entry,
    kind: ErrorKind,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Settled {
    let ending = Ending { failed: true, ran: false, reason: reason.to_owned(), message };
    let hopeless = matches!(kind, ErrorKind::BadRequest | ErrorKind::Damaged | ErrorKind::NotFound);
    if hopeless {
        return Settled { to: Rest::Finished, ending: Some(ending), exit: None, streak: entry.streak };
    }
    settle(entry, ending, None, entry.streak, now)
}

/// Applies the restart policy.
fn settle(entry: &Entry, mut ending: Ending, exit: Option<Exit>, streak: u32, now: Timestamp) -> Settled {
    let policy = entry.desired.spec.restart;
    let again = match policy {
        RestartPolicy::Never => false,
        RestartPolicy::OnFailure { max } => ending.failed && max.is_none_or(|max| streak < max),
        RestartPolicy::Always => true,
    };
    if !again {
        if ending.failed && streak > 0 {
            ending.message = format!("{}; the restart policy {policy} gave up after {streak} tries", ending.message);
        }
        return Settled { to: Rest::Finished, ending: Some(ending), exit, streak };
    }
    let pause = RESTARTS.steady(streak.saturating_add(1));
    ending.message = format!("{}; starts again in {} s", ending.message, pause.as_secs());
    Settled { to: Rest::Waiting(after(now, pause)), ending: Some(ending), exit, streak }
}

/// How long it may take to end.
pub(crate) fn grace(entry: &Entry) -> Duration {
    let usual = match entry.desired.kind {
        InstanceKind::Container => 10,
        InstanceKind::Vm => 60,
    };
    Duration::from_secs(u64::from(entry.desired.spec.stop_timeout.unwrap_or(usual)))
}

#[cfg(test)]
pub(crate) mod tests;
