//! The whole table of states, and long random lives.

use super::*;
use crate::ledger::Entry;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use uuid::Uuid;
use yun_drivers::{Attachment, InstanceHandle, Port};
use yun_types::*;

const BOOT: &str = "boot-1";

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).unwrap()
}

pub(crate) fn desired() -> DesiredInstance {
    DesiredInstance {
        more_nics: vec![],
        volumes: vec![],
        id: InstanceId(Uuid::from_u128(1)),
        name: "web".parse().unwrap(),
        project: "default".parse().unwrap(),
        kind: InstanceKind::Container,
        generation: Generation(1),
        fence: 1,
        spec: InstanceSpec {
            networks: vec![],
            volumes: vec![],
            kind: Some(InstanceKind::Container),
            image: "busybox".into(),
            size: Size::default(),
            power: Power::Running,
            restart: RestartPolicy::Always,
            restart_count: 0,
            publish: Vec::new(),
            node: None,
            stop_timeout: None,
            template: None,
            container: ContainerOptions::default(),
            vm: VmOptions::default(),
        },
        image: ImagePin {
            id: ImageId(Uuid::from_u128(2)),
            name: "busybox".into(),
            digest: Digest::from_sha256([1; 32]),
        },
        nic: Nic {
            network: NetworkId(Uuid::from_u128(3)),
            address: Ipv4Addr::new(10, 77, 0, 2),
            mac: "02:00:00:00:00:02".into(),
            publish: vec![],
            index: 0,
            egress: None,
            ingress: None,
        },
        origin: Default::default(),
        deleting: false,
        restarts: 0,
        restart_count: 0,
        restores: 0,
    }
}

fn attachment(nic: &Nic) -> Attachment {
    Attachment {
        instance: desired().id,
        network: nic.network,
        nic: nic.clone(),
        cidr: "10.77.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 77, 0, 1),
        mtu: 1500,
        port: Port::Tap { interface: "t".into() },
    }
}

/// An entry with everything that a run needs.
fn complete(phase: Phase) -> Entry {
    let desired = desired();
    let handle = InstanceHandle {
        id: desired.id,
        kind: desired.kind,
        generation: desired.generation,
        driver: serde_json::Value::Null,
    };
    Entry {
        phase,
        handle: Some(handle),
        prepared: Some(desired.generation),
        boot_id: BOOT.into(),
        attachment: Some(attachment(&desired.nic)),
        started: Some(now()),
        ..Entry::new(desired)
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, out_of_memory: false, at: now() }
}

fn step(entry: &Entry, seen: &Seen) -> Step {
    decide(View { entry, seen, gathered: false, boot_failure: None, boot_id: BOOT, now: now() })
}

const PHASES: [Phase; 11] = [
    Phase::New,
    Phase::Starting,
    Phase::Running,
    Phase::Stopping(Then::Rest),
    Phase::Stopping(Then::Again),
    Phase::Stopping(Then::Fail),
    Phase::Stopped,
    Phase::Waiting,
    Phase::Finished,
    Phase::Removing,
    Phase::Removed,
];

/// Every combination of what a decision depends on, small enough to try them all.
fn all(mut check: impl FnMut(View<'_>)) {
    let seen = [
        Seen::Unknown,
        Seen::Running,
        Seen::Paused,
        Seen::Ended(None),
        Seen::Ended(Some(exit(0))),
        Seen::Ended(Some(exit(1))),
        Seen::Absent,
    ];
    let failure = Ending { failed: true, ran: true, reason: "BootTimeout".into(), message: "x".into() };
    let policies = ["never", "on-failure", "on-failure:1", "always"];
    for (phase, power, policy, deleting) in
        itertools(&PHASES, &[Power::Running, Power::Paused, Power::Stopped], &policies, &[false, true])
    {
        for bits in 0..256u32 {
            let bit = |n: u32| bits & (1 << n) != 0;
            let mut entry = complete(phase);
            entry.desired.spec.power = power;
            entry.desired.spec.restart = policy.parse().unwrap();
            entry.desired.deleting = deleting;
            entry.desired.spec.restart_count = u64::from(bit(0));
            if bit(1) {
                entry.handle = None;
            }
            if bit(2) {
                entry.attachment = None;
            }
            if bit(3) {
                entry.prepared = None;
            }
            if bit(4) {
                entry.boot_id = "boot-0".into();
            }
            if bit(5) {
                entry.next_restart = Some(after(now(), Duration::from_secs(5)));
            }
            for seen in &seen {
                check(View {
                    entry: &entry,
                    seen,
                    gathered: bit(6),
                    boot_failure: bit(7).then_some(&failure),
                    boot_id: BOOT,
                    now: now(),
                });
            }
        }
    }
}

fn itertools<A: Copy, B: Copy, C: Copy, D: Copy>(a: &[A], b: &[B], c: &[C], d: &[D]) -> Vec<(A, B, C, D)> {
    a.iter()
        .flat_map(|a| b.iter().flat_map(move |b| c.iter().flat_map(move |c| d.iter().map(move |d| (*a, *b, *c, *d)))))
        .collect()
}

#[test]
fn no_state_leads_to_a_forbidden_step() {
    let mut views = 0;
    all(|view| {
        views += 1;
        let (entry, step) = (view.entry, decide(view));
        let live = view.seen.live();
        let starts = matches!(step, Step::Begin(_) | Step::Gather | Step::Prepare | Step::Start);
        let what = || format!("{view:?} -> {step:?}");
        if entry.phase == Phase::Removed {
            assert_eq!(step, Step::Forget, "{}", what());
        } else if entry.desired.deleting || entry.phase == Phase::Removing {
            assert_eq!(step, Step::Remove, "{}", what());
        } else {
            assert!(!matches!(step, Step::Remove | Step::Forget), "only an order removes: {}", what());
        }
        if entry.desired.spec.power == Power::Stopped {
            assert!(!starts, "what should not run is not started: {}", what());
        }
        if live {
            assert!(
                !matches!(step, Step::Begin(_) | Step::Gather | Step::Prepare | Step::Settle(_) | Step::Release),
                "who runs is not prepared: {}",
                what()
            );
        } else {
            assert!(
                !matches!(step, Step::Stop { .. } | Step::Pause | Step::Resume | Step::Reattach),
                "nobody is there: {}",
                what()
            );
        }
        if *view.seen == Seen::Unknown && entry.handle.is_some() {
            assert!(matches!(step, Step::Look | Step::Remove | Step::Forget), "look first: {}", what());
        }
        if matches!(step, Step::Start) && !live {
            assert!(
                entry.handle.is_some() && entry.attachment.is_some() && entry.boot_id == BOOT,
                "everything is there: {}",
                what()
            );
            assert_eq!(entry.prepared, Some(entry.desired.generation), "and of this generation: {}", what());
        }
        if matches!(step, Step::Prepare) {
            assert!(view.gathered && entry.attachment.is_some(), "{}", what());
        }
        if let Step::Rest { until: Some(moment) } = step {
            assert!(moment > view.now, "no busy waiting: {}", what());
        }
        if let Step::Settle(Settled { to: Rest::Waiting(moment), .. }) = step {
            assert!(moment > view.now && entry.desired.spec.restart != RestartPolicy::Never, "{}", what());
        }
    });
    assert!(views > 400_000);
}

#[test]
fn a_launch_goes_step_by_step() {
    let mut entry = Entry::new(desired());
    assert_eq!(step(&entry, &Seen::Unknown), Step::Begin(Cause::User));
    entry.phase = Phase::Starting;
    assert_eq!(step(&entry, &Seen::Unknown), Step::Gather);
    entry.boot_id = BOOT.into();
    entry.attachment = Some(attachment(&entry.desired.nic));
    let view =
        View { entry: &entry, seen: &Seen::Unknown, gathered: true, boot_failure: None, boot_id: BOOT, now: now() };
    assert_eq!(decide(view), Step::Prepare);
    assert_eq!(step(&complete(Phase::Starting), &Seen::Absent), Step::Start);
    assert_eq!(step(&complete(Phase::Running), &Seen::Running), Step::Rest { until: None });
}

#[test]
fn a_crash_in_a_start_is_confirmed_by_a_start() {
    assert_eq!(step(&complete(Phase::Starting), &Seen::Running), Step::Start);
    assert!(matches!(step(&complete(Phase::Starting), &Seen::Ended(Some(exit(1)))), Step::Settle(_)));
    let mut entry = complete(Phase::Starting);
    entry.exit = Some(exit(1));
    assert_eq!(step(&entry, &Seen::Ended(Some(exit(1)))), Step::Start, "that is how the run before ended");
}

#[test]
fn a_stop_that_was_taken_back_becomes_a_restart() {
    let step = step(&complete(Phase::Stopping(Then::Rest)), &Seen::Running);
    assert!(matches!(step, Step::Stop { then: Then::Again, .. }));
}

#[test]
fn the_time_to_end_is_the_users_or_that_of_the_kind() {
    let grace = |change: fn(&mut DesiredInstance)| {
        let mut entry = complete(Phase::Running);
        entry.desired.spec.power = Power::Stopped;
        change(&mut entry.desired);
        let Step::Stop { grace, .. } = step(&entry, &Seen::Running) else { panic!() };
        grace.as_secs()
    };
    assert_eq!(grace(|_| {}), 10);
    assert_eq!(grace(|desired| desired.kind = InstanceKind::Vm), 60);
    assert_eq!(grace(|desired| desired.spec.stop_timeout = Some(3)), 3);
}

#[test]
fn after_a_reboot_the_connection_is_made_again_before_the_start() {
    let mut entry = complete(Phase::Running);
    entry.boot_id = "boot-0".into();
    assert_eq!(step(&entry, &Seen::Ended(None)), Step::Begin(Cause::Reboot));
    entry.phase = Phase::Starting;
    assert_eq!(step(&entry, &Seen::Ended(None)), Step::Gather, "though the ledger has an attachment and a handle");
}

/// A host and an owner that only knows the ledger, to live through random lives in no time.
struct Model {
    entry: Entry,
    seen: Seen,
    gathered: bool,
    now: Timestamp,
    /// What is true.
    process: Option<bool>,
    last_exit: Option<Exit>,
    starts: u32,
    /// Its memory is on disk.
    saved: bool,
}

impl Model {
    fn new() -> Self {
        let entry = Entry::new(desired());
        Self {
            entry,
            seen: Seen::Unknown,
            gathered: false,
            now: now(),
            process: None,
            last_exit: None,
            starts: 0,
            saved: false,
        }
    }

    fn next(&self) -> Step {
        decide(View {
            entry: &self.entry,
            seen: &self.seen,
            gathered: self.gathered,
            boot_failure: None,
            boot_id: BOOT,
            now: self.now,
        })
    }

    fn truth(&self) -> Seen {
        match self.process {
            Some(false) => Seen::Running,
            Some(true) => Seen::Paused,
            None if self.starts > 0 => Seen::Ended(self.last_exit),
            None => Seen::Absent,
        }
    }

    fn end(&mut self, code: i32) {
        if self.process.take().is_some() {
            self.last_exit = Some(Exit { at: self.now, ..exit(code) });
        }
    }

    /// Does a step as the owner does; `dies` after it acted and before it wrote down that it did.
    fn act(&mut self, step: &Step, dies: bool) {
        let before = self.entry.clone();
        match step {
            Step::Look => self.seen = self.truth(),
            Step::Begin(_) => {
                if let Seen::Ended(Some(exit)) = self.seen {
                    self.entry.exit = Some(exit);
                }
                self.entry.phase = Phase::Starting;
                self.entry.restart_count = self.entry.desired.spec.restart_count;
                self.entry.next_restart = None;
                self.gathered = false;
            }
            Step::Gather => {
                self.gathered = true;
                self.entry.boot_id = BOOT.into();
                self.entry.attachment = Some(attachment(&self.entry.desired.nic));
                self.entry.prepared = None;
            }
            Step::Prepare => {
                self.entry.handle = complete(Phase::New).handle;
                self.entry.prepared = Some(self.entry.desired.generation);
                if self.seen == Seen::Unknown {
                    self.seen = Seen::Absent;
                }
            }
            Step::Start => {
                if self.process.is_none() {
                    self.process = Some(false);
                    self.starts += 1;
                    self.seen = Seen::Running;
                    self.saved = false;
                    self.entry.started = Some(self.now);
                }
                self.entry.phase = Phase::Running;
                self.entry.hibernated = false;
            }
            Step::Reattach => self.entry.attachment = Some(attachment(&self.entry.desired.nic)),
            Step::Adjust => self.entry.runs_with = Some(self.entry.desired.spec.clone()),
            Step::Pause | Step::Resume => {
                self.process = self.process.map(|_| *step == Step::Pause);
                self.seen = self.truth();
            }
            Step::Hibernate => {
                if self.process.is_some() {
                    self.end(0);
                    self.saved = true;
                }
                self.entry.hibernated = self.saved;
                self.entry.phase = Phase::Stopped;
                self.entry.caught_up = self.entry.desired.generation;
                self.seen = Seen::Ended(None);
            }
            Step::Restore => {
                self.saved = false;
                self.entry.restores = self.entry.desired.origin.restores();
                self.entry.hibernated = false;
                if !matches!(self.entry.phase, Phase::New | Phase::Starting) {
                    self.entry.phase = Phase::Stopped;
                }
                self.entry.prepared = None;
            }
            Step::Stop { then, .. } => {
                self.saved = false;
                self.entry.hibernated = false;
                self.entry.phase = Phase::Stopping(*then);
                self.end(143);
                if dies {
                    // Written before the act.
                    self.crash();
                    return;
                }
                self.entry.exit = self.last_exit;
                self.seen = Seen::Ended(self.last_exit);
            }
            Step::Settle(settled) => {
                (self.entry.phase, self.entry.next_restart) = match settled.to {
                    Rest::Stopped => (Phase::Stopped, None),
                    Rest::Finished => (Phase::Finished, None),
                    Rest::Waiting(moment) => (Phase::Waiting, Some(moment)),
                };
                self.entry.exit = settled.exit.or(self.entry.exit);
                self.entry.ending = settled.ending.clone();
                self.entry.streak = settled.streak;
                self.entry.caught_up = self.entry.desired.generation;
            }
            Step::Release => self.entry.attachment = None,
            Step::Remove => {
                self.process = None;
                self.entry.phase = Phase::Removed;
            }
            Step::Rest { until } => self.now = until.unwrap_or(self.now),
            Step::Forget => {}
        }
        if dies {
            self.entry = before;
            self.crash();
        }
    }

    fn crash(&mut self) {
        (self.seen, self.gathered) = (Seen::Unknown, false);
    }

    /// Steps until nothing is left to do.
    fn converge(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..60 {
            let step = self.next();
            if matches!(step, Step::Rest { until: None } | Step::Forget) {
                return Ok(());
            }
            self.act(&step, false);
        }
        Err(TestCaseError::fail(format!("does not come to rest: {:?} {:?} {:?}", self.entry, self.seen, self.next())))
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Step { dies: bool },
    Crash,
    Ends(i32),
    Power(Power),
    Restart,
    Restore,
    NewSpec,
    NewPorts,
    Minute,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => any::<bool>().prop_map(|dies| Happening::Step { dies }),
        2 => Just(Happening::Crash),
        1 => (0..2).prop_map(Happening::Ends),
        1 => prop_oneof![Just(Power::Running), Just(Power::Paused), Just(Power::Stopped), Just(Power::Hibernated)].prop_map(Happening::Power),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Restore),
        1 => Just(Happening::NewSpec),
        1 => Just(Happening::NewPorts),
        1 => Just(Happening::Minute),
    ]
}

impl Model {
    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Step { dies } => {
                let step = self.next();
                self.act(&step, *dies);
            }
            Happening::Crash => self.crash(),
            Happening::Ends(code) => {
                self.end(*code);
                if self.seen.live() {
                    self.seen = self.truth();
                }
            }
            Happening::Power(power) => self.entry.desired.spec.power = *power,
            Happening::Restart => self.entry.desired.spec.restart_count += 1,
            Happening::Restore => {
                let count = self.entry.desired.origin.restores() + 1;
                let snapshot = yun_types::SnapshotId(uuid::Uuid::nil());
                let name = "before".parse().unwrap();
                self.entry.desired.origin.restore = Some(yun_types::Restore { count, snapshot, name, memory: false });
            }
            Happening::NewSpec => self.entry.desired.generation = self.entry.desired.generation.next(),
            Happening::NewPorts => self.entry.desired.nic.publish.push("8080:80".parse().unwrap()),
            Happening::Minute => self.now = after(self.now, Duration::from_secs(60)),
        }
    }
}

proptest! {
    #[test]
    fn every_life_comes_to_rest_as_wanted(policy in prop_oneof![Just("never"), Just("on-failure:3"), Just("always")],
                                          life in proptest::collection::vec(happening(), 0..60)) {
        let mut model = Model::new();
        model.entry.desired.spec.restart = policy.parse().unwrap();
        for happening in &life {
            model.happen(happening);
        }
        model.converge()?;
        match model.entry.desired.spec.power {
            Power::Stopped => prop_assert_eq!((model.process, model.entry.phase, model.saved), (None, Phase::Stopped, false)),
            // One that ended before had nothing to keep.
            Power::Hibernated => {
                prop_assert_eq!((model.process, model.entry.phase), (None, Phase::Stopped));
                prop_assert_eq!(model.entry.hibernated, model.saved);
            }
            _ if policy == "always" => {
                prop_assert_eq!(model.process, Some(model.entry.desired.spec.power == Power::Paused));
                prop_assert_eq!(model.entry.attachment.as_ref().map(|attachment| &attachment.nic), Some(&model.entry.desired.nic));
            }
            _ => {
                prop_assert!(model.process.is_some() || model.entry.phase == Phase::Finished);
            }
        }
        prop_assert_eq!(model.entry.restores, model.entry.desired.origin.restores());
        prop_assert_eq!(model.entry.restart_count.max(model.entry.desired.spec.restart_count), model.entry.desired.spec.restart_count);
        model.entry.desired.deleting = true;
        model.converge()?;
        prop_assert_eq!((model.process, model.entry.phase), (None, Phase::Removed));
    }

    #[test]
    fn pauses_only_grow_while_nothing_runs_well(codes in proptest::collection::vec(1..100i32, 1..12)) {
        let mut entry = complete(Phase::Running);
        let mut last = Duration::ZERO;
        for code in codes {
            let settled = ended(&entry, Some(exit(code)), now());
            let Rest::Waiting(moment) = settled.to else { return Err(TestCaseError::fail("always means always")) };
            let pause = (moment - now()).to_std().unwrap();
            prop_assert!(pause >= last && pause <= RESTARTS.most);
            last = pause;
            entry.streak = settled.streak + 1;
        }
    }
}
